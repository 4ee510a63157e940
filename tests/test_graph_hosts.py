"""What every recommender on the graph must do, plain and with SGFD, and what each of BM3, LightGCN and BPR-MF does of its own.

GRCN's and MAML's own are in `test_graph_grcn.py` and `test_graph_maml.py`.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional as F

from odmt.config_files import load_config
from odmt.features.extractors import PlainExtractor, RawFeatures, SgfdExtractor
from odmt.features.labels import Labels
from odmt.graph import hosts, pairs
from odmt.graph.adjacency import Adjacency
from odmt.graph.builder import build_model
from odmt.graph.content import ItemContent
from odmt.graph.edges import Edges
from odmt.graph.losses import bpr_loss
from odmt.graph.models.bm3 import BM3, BM3Settings
from odmt.graph.models.bprmf import BPRMF
from odmt.graph.models.grcn import GRCN, GRCNSettings
from odmt.graph.models.host import Host
from odmt.graph.models.lightgcn import LightGCN
from odmt.graph.models.maml import MAML, MAMLSettings
from odmt.graph.sampling import PairBatch, PairSampler

NUM_USERS, NUM_ITEMS, DIM, NUM_LABELS = 12, 15, 8, 3
WIDTHS = {"image": 40, "text": 10}
PAIRS = np.random.default_rng(4).permutation(NUM_USERS * NUM_ITEMS)[:60]
USERS, ITEMS = np.divmod(PAIRS, NUM_ITEMS)


def content_of(*modalities: str, trained: bool = False, dtype=torch.float32) -> ItemContent:
    generator = torch.Generator().manual_seed(3)
    features = {modality: torch.randn(NUM_ITEMS, WIDTHS[modality], generator=generator).to(dtype) for modality in modalities}
    return ItemContent(features, torch.arange(NUM_ITEMS) % NUM_LABELS, trained)


def adjacency() -> Adjacency:
    return Adjacency(torch.from_numpy(USERS), torch.from_numpy(ITEMS), NUM_USERS, NUM_ITEMS)


def bm3_of(content: ItemContent, sgfd: bool, **settings) -> BM3:
    extractor = SgfdExtractor(content.widths, DIM, NUM_LABELS) if sgfd else PlainExtractor(content.widths, DIM, xavier=True)
    settings = BM3Settings(**{"dropout": 0.0, **settings})
    return BM3(adjacency(), content, extractor, NUM_USERS, NUM_ITEMS, DIM, settings)


def grcn_of(content: ItemContent, sgfd: bool, **settings) -> GRCN:
    extractor = SgfdExtractor(content.widths, DIM, NUM_LABELS) if sgfd else PlainExtractor(content.widths, DIM)
    edges = Edges(torch.from_numpy(USERS), torch.from_numpy(ITEMS), NUM_USERS, NUM_ITEMS)
    return GRCN(edges, content, extractor, NUM_USERS, NUM_ITEMS, DIM, GRCNSettings(**settings))


def maml_of(content: ItemContent, sgfd: bool, **settings) -> MAML:
    extractor = SgfdExtractor(content.widths, DIM, NUM_LABELS) if sgfd else RawFeatures(content.widths)
    settings = MAMLSettings(**{"hidden_dim": 12, "dropout": 0.0, "attention_dropout": 0.0, **settings})
    return MAML(content, extractor, NUM_USERS, NUM_ITEMS, DIM, settings, batch_size=60)


HOSTS = {
    "bm3": lambda: bm3_of(content_of("image", "text", trained=True), sgfd=False),
    "bm3_sgfd": lambda: bm3_of(content_of("image", "text"), sgfd=True),
    "bm3_sgfd_text": lambda: bm3_of(content_of("text"), sgfd=True),
    "bm3_image": lambda: bm3_of(content_of("image", trained=True), sgfd=False),
    "bm3_no_content": lambda: bm3_of(content_of(), sgfd=False),
    "grcn": lambda: grcn_of(content_of("image", "text"), sgfd=False),
    "grcn_sgfd": lambda: grcn_of(content_of("image", "text"), sgfd=True),
    "grcn_sgfd_routed": lambda: grcn_of(content_of("image", "text"), sgfd=True, routing=3),
    "grcn_sgfd_text": lambda: grcn_of(content_of("text"), sgfd=True),
    "maml": lambda: maml_of(content_of("text", "image"), sgfd=False),
    "maml_sgfd": lambda: maml_of(content_of("image", "text"), sgfd=True),
    "maml_sgfd_image": lambda: maml_of(content_of("image"), sgfd=True),
    "lightgcn": lambda: LightGCN(adjacency(), NUM_USERS, NUM_ITEMS, DIM, num_layers=2, reg_weight=1e-4),
    "bprmf": lambda: BPRMF(NUM_USERS, NUM_ITEMS, DIM, reg_weight=1e-4),
}


def named(host: str, extractor: str):
    """A host that the configuration can name, as it builds it."""
    overrides = [f"model.extractor={extractor}"] if hosts.HOSTS[host].uses_content else []

    def make() -> Host:
        config = load_config(["family=graph", f"model.host={host}", f"model.dim={DIM}", "train.batch_size=60", *overrides])
        order = np.argsort(USERS, kind="stable")
        none = pairs.ItemLists.of_counts(np.zeros(0), np.zeros(NUM_USERS, np.int64))
        train = pairs.ItemLists.of_counts(ITEMS[order], np.bincount(USERS, minlength=NUM_USERS))
        names = [[f"{kind}{number}" for number in range(count)] for kind, count in (("u", NUM_USERS), ("i", NUM_ITEMS))]
        features = content_of(*config.model.reads)()
        labels = Labels(np.arange(NUM_ITEMS) % NUM_LABELS, ["a", "b", "c"]) if config.model.needs_labels else None
        return build_model(config, pairs.Pairs(*names, names[1], train, none, none), features, labels)

    return make


# Those that no one has thought of above: every name there is goes through what follows.
HOSTS |= {
    f"{name}, {extractor}": named(name, extractor)
    for name, part in hosts.HOSTS.items()
    for extractor in (("sgfd", "plain") if part.uses_content else ("none",))
}


def batch_of(size: int = 60) -> PairBatch:
    return next(PairSampler(USERS, ITEMS, NUM_USERS, NUM_ITEMS, size, num_negatives=2, seed=0).epoch(1))


@pytest.fixture(params=HOSTS)
def make(request):
    torch.manual_seed(0)
    return HOSTS[request.param]


def test_losses_add_up(make):
    losses = make()(batch_of(), epoch=1)
    torch.testing.assert_close(losses["loss"], sum(loss for name, loss in losses.items() if name != "loss"))
    assert losses["loss"].shape == ()


def test_every_parameter_has_a_gradient(make):
    model: Host = make()
    model(batch_of(), epoch=1)["loss"].backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name


def test_training_lowers_the_loss_and_a_copy_of_the_weights_scores_the_same(make, tmp_path):
    model, users = make(), torch.tensor([3, 0, 11])
    first = model.scores(users)
    assert first.shape == (3, NUM_ITEMS)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    losses = []
    for _ in range(20):
        optimizer.zero_grad()
        loss = model(batch_of(), epoch=1)["loss"]
        loss.backward()
        optimizer.step()
        model.after_step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    trained = model.scores(users)
    assert not torch.allclose(first, trained), "scores must follow the weights"
    user_vectors, item_vectors = model.representations()
    if not isinstance(model, MAML):  # whose scores are distances
        torch.testing.assert_close(trained, user_vectors[users] @ item_vectors.T)
    save_file(model.state_dict(), tmp_path / "weights.safetensors")
    torch.manual_seed(99)
    other = make()
    other.scores(users)
    other.load_state_dict(load_file(tmp_path / "weights.safetensors"))
    torch.testing.assert_close(other.scores(users), trained, rtol=0, atol=0)
    assert not any("frozen" in name or "labels" in name or "adjacency" in name or "edges" in name for name in model.state_dict())


def test_scores_are_worked_out_once_and_leave_the_mode(make):
    model, calls = make(), []
    original = model.representations
    model.representations = lambda: calls.append(model.training) or original()
    for block in torch.arange(NUM_USERS).split(5):
        assert not model.scores(block).requires_grad
    assert calls == [False]
    assert model.training


def test_dropout_changes_the_targets_in_training_alone():
    torch.manual_seed(0)
    model = bm3_of(content_of("text"), sgfd=True, dropout=0.5)
    batch = batch_of()
    first, second = model(batch, 1), model(batch, 1)
    assert all(first[name] != second[name] for name in ("ui", "iu", "text_item", "text_self"))
    assert all(first[name] == second[name] for name in ("reg", "class", "fusion", "response", "feature"))
    assert torch.equal(model.scores(torch.arange(3)), model.scores(torch.arange(3)))
    model.eval()
    assert model(batch, 1)["loss"] == model(batch, 1)["loss"]


def test_bm3_by_rows_of_the_batch():
    """Each distinct item once and counted gives what a row each gives."""
    torch.manual_seed(0)
    model = bm3_of(content_of("text"), sgfd=False)
    batch = PairBatch(torch.tensor([0, 0, 1, 2, 2]), torch.tensor([3, 3, 3, 4, 5]))
    losses = model(batch, 1)
    users, items = model.propagate()
    u, i, f = users[batch.users], items[batch.positives], model.extractor(model.content(batch.positives))["text"]

    def distance(vector, target):
        return (1 - F.cosine_similarity(model.predictor(vector), target)).mean()

    expected = {
        "ui": distance(u, i),
        "iu": distance(i, u),
        "reg": 0.1 * (users.norm() + items.norm()) / NUM_ITEMS,
        "text_item": 2 * distance(f, i),
        "text_self": 2 * distance(f, f),
    }
    for name, value in expected.items():
        torch.testing.assert_close(losses[name], value, msg=name)
    torch.testing.assert_close(items, adjacency().mean_of_layers(all_vectors(model), 1)[NUM_USERS:] + model.item_embedding.weight)


def all_vectors(model) -> torch.Tensor:
    return torch.cat([model.user_embedding.weight, model.item_embedding.weight])


def test_who_learns_from_what_in_bm3():
    """Modality terms leave the embeddings alone, and so does SGFD."""
    gradients = []
    for cl_weight, sgfd_weight in [(2.0, 1.0), (0.0, 0.0)]:
        torch.manual_seed(0)
        model = bm3_of(content_of("text"), sgfd=True, cl_weight=cl_weight)
        model.extractor.settings = replace(
            model.extractor.settings, class_weight=sgfd_weight, response_weight=sgfd_weight, feature_weight=sgfd_weight
        )
        model(batch_of(), 1)["loss"].backward()
        gradients.append((model.user_embedding.weight.grad, model.item_embedding.weight.grad))
    torch.testing.assert_close(*gradients)


def test_half_precision_features_are_given_out_as_float32():
    content = content_of("text", dtype=torch.float16)
    assert content(torch.tensor([1, 2]))["text"].dtype == torch.float32
    assert content()["text"].shape == (NUM_ITEMS, 10)
    assert ItemContent({}).labels_of(torch.tensor([1, 2])).tolist() == [-1, -1]


def test_bpr_loss():
    users, positives = torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, 1.0]])
    negatives = torch.tensor([[[1.0, 1.0], [0.0, 4.0]]])
    margins = torch.tensor([5.0 - 3.0, 5.0 - 8.0])
    torch.testing.assert_close(bpr_loss(users, positives, negatives), -margins.sigmoid().log().mean())
    assert bpr_loss(users, -1000 * positives, negatives).isfinite()


def test_lightgcn_by_hand():
    torch.manual_seed(0)
    model, batch = HOSTS["lightgcn"](), batch_of()
    users, items = adjacency().mean_of_layers(all_vectors(model), 2).split([NUM_USERS, NUM_ITEMS])
    losses = model(batch, 1)
    torch.testing.assert_close(losses["bpr"], bpr_loss(users[batch.users], items[batch.positives], items[batch.negatives]))
    squares = sum(
        table.weight[rows].square().sum(-1).mean()
        for table, rows in [
            (model.user_embedding, batch.users),
            (model.item_embedding, batch.positives),
            (model.item_embedding, batch.negatives),
        ]
    )
    torch.testing.assert_close(losses["reg"], 1e-4 / 2 * squares)
