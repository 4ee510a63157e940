"""The fast path against the plain computation, and the plain computation against the official code's numbers."""

import copy
import math

import numpy as np
import pytest
import torch
from torch import Tensor

import odmt.sequential.losses as losses_module
from odmt.bench.official import OfficialODMT, left_padded, losses, rank_users
from odmt.bench.synthetic import SyntheticTable
from odmt.bench.trainers import padded_tokens
from odmt.distributed import World
from odmt.features import items as items_module
from odmt.features.items import to_device
from odmt.features.tables import count_tokens, gather_features
from odmt.precision import Precision
from odmt.sequential.batches import train_batch
from odmt.sequential.config import DistillationConfig, ModelConfig
from odmt.sequential.losses import Objective, ramp_up
from odmt.sequential.models import sources as sources_module
from odmt.sequential.models.builder import build_recommender
from odmt.sequential.models.official import official_name
from odmt.sequential.scoring import encode_catalogue, rank_targets

CPU = torch.device("cpu")
MAX_SEQ_LEN = 6
NUM_ITEMS = 12
WIDTHS = {"id": 20, "text": 20, "image": 20}
EPOCH = 7

# Training parts; each user's two targets are drawn. L is 6.
USERS = {
    "random": None,
    "no_padding": [[1, 2, 3, 4, 5, 6, 7], [8, 9, 10, 11, 12, 1, 2], [3, 5, 7, 9, 11, 2, 4]],
    "almost_all_padding": [[1, 2], [3, 4], [5, 6], [2, 7]],
    "single_items": [[1], [2], [3, 4, 5], [1], [6, 2]],
    "repeats": [[1, 1, 1, 1], [1, 2, 1, 2, 1, 2, 1], [2, 2, 3], [3, 1, 3, 1, 3], [4, 4]],
}


def windows_of(parts: list[list[int]] | None, rng: np.random.Generator) -> list[list[int]]:
    """Training parts, random where none are given, with two more items each."""
    if parts is None:
        parts = [rng.integers(1, NUM_ITEMS + 1, rng.integers(1, MAX_SEQ_LEN + 2)).tolist() for _ in range(9)]
    unseen = [np.setdiff1d(np.arange(1, NUM_ITEMS + 1), part) for part in parts]
    return [part + rng.choice(rest, 2, replace=False).tolist() for part, rest in zip(parts, unseen)]


def tables_of(ties: bool, rng: np.random.Generator) -> dict[str, SyntheticTable]:
    """Random features; with ties, the second half of the items has those of the first."""
    rows = np.arange(NUM_ITEMS) % (NUM_ITEMS // 2 if ties else NUM_ITEMS)
    lengths = {"text": rng.integers(1, 6, NUM_ITEMS), "image": np.full(NUM_ITEMS, 4)}
    return {source: SyntheticTable(length, rows, CPU, WIDTHS[source]) for source, length in lengths.items()}


def pair(config: ModelConfig, tables: dict[str, SyntheticTable]):
    """The same model twice, in float64: the package's and the oracle."""
    fast = build_recommender(config, NUM_ITEMS, MAX_SEQ_LEN, WIDTHS, lambda source: tables[source].cls()).double()
    with torch.no_grad():  # LayerNorms and biases start where errors in them would not show
        for parameter in fast.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.05)
    oracle = OfficialODMT(config, NUM_ITEMS, MAX_SEQ_LEN, WIDTHS).double().load_recommender(fast.state_dict())
    return fast, oracle


def relative_error(got: Tensor, expected: Tensor, floor: float = 0.0) -> float:
    return float((got - expected).detach().norm() / max(expected.detach().norm(), floor))


def compare_step(fast, oracle, tables, interactions, temperature: float, share_repeats: bool = False):
    users = np.arange(interactions.num_users)
    log_popularity = torch.from_numpy(interactions.popularity()).log()
    batch = train_batch(interactions, users, share_repeats, count_tokens(tables, NUM_ITEMS))
    batch.items.features = gather_features(tables, batch.items.numbers)
    batch = to_device(batch, CPU, torch.float64)
    objective = Objective(log_popularity, False, DistillationConfig(temperature=temperature))
    got = objective(*fast.encode(batch), batch, EPOCH)
    got["loss"].backward()

    numbers = left_padded(*interactions.histories(users, "train"), MAX_SEQ_LEN + 1)
    (text, mask), (image, _) = (padded_tokens(tables[source], numbers.view(-1)) for source in ("text", "image"))
    vectors = oracle.encode_items(numbers.view(-1), text.double(), mask, image.double())
    logits, targets = oracle.logits(vectors, numbers, log_popularity)
    cross_entropy, distillation = losses(logits, targets, temperature)
    distillation = ramp_up(EPOCH, 20) * distillation
    (cross_entropy + distillation).backward()

    assert relative_error(got["loss"] - got["distillation"], cross_entropy) < 1e-5
    assert relative_error(got["distillation"], distillation) < 1e-5
    gradients = {official_name(name): parameter.grad for name, parameter in oracle.named_parameters()}
    largest = max(gradient.norm() for gradient in gradients.values())
    assert largest > 1e-3
    for name, parameter in fast.named_parameters():
        # Some gradients are zero but for rounding.
        assert relative_error(parameter.grad, gradients.pop(name), 1e-3 * largest) < 1e-5, name
    assert not gradients


@pytest.fixture(params=[("cpu",), ()], ids=["a source at a time", "sources as one"])
def devices(request, monkeypatch):
    """Both ways that the sources are computed in."""
    monkeypatch.setattr(sources_module, "ONE_BY_ONE", request.param)


@pytest.mark.parametrize("users", USERS)
@pytest.mark.parametrize("ties", [False, True], ids=["distinct", "ties"])
@pytest.mark.parametrize("share_repeats", [False, True], ids=["a vector an occurrence", "a vector an item"])
@pytest.mark.usefixtures("devices")
def test_a_training_step_is_exact(users, ties, share_repeats, interactions_of, monkeypatch):
    """With items and scores cut into several blocks."""
    monkeypatch.setattr(items_module, "CPU_BLOCK", 5)
    monkeypatch.setattr(losses_module, "CPU_SCORES", 40)
    rng = np.random.default_rng(0)
    torch.manual_seed(0)
    tables = tables_of(ties, rng)
    config = ModelConfig(dim=8, dropout=0.0)
    fast, oracle = pair(config, tables)
    if ties:  # items with equal vectors have equal scores
        half = NUM_ITEMS // 2
        with torch.no_grad():
            for table in (fast.item_encoder.id_table, oracle.id_encoder):
                table.weight[half + 1 :] = table.weight[1 : half + 1]
    interactions = interactions_of(windows_of(USERS[users], rng), NUM_ITEMS, MAX_SEQ_LEN)
    compare_step(fast, oracle, tables, interactions, 0.3, share_repeats)


@pytest.mark.parametrize(
    ("settings", "temperature"),
    [
        ({"num_layers": 1}, 0.1),
        ({"num_layers": 3, "dim": 12}, 0.5),
        ({"id_visible_to_modalities": True}, 0.3),
        ({"backbone_layers": 1, "backbone_heads": 4}, 1.0),
    ],
    ids=str,
)
@pytest.mark.usefixtures("devices")
def test_a_training_step_is_exact_whatever_the_model(settings, temperature, interactions_of):
    rng = np.random.default_rng(0)
    torch.manual_seed(0)
    tables = tables_of(False, rng)
    fast, oracle = pair(ModelConfig(**{"dim": 8, "dropout": 0.0, **settings}), tables)
    compare_step(fast, oracle, tables, interactions_of(windows_of(None, rng), NUM_ITEMS, MAX_SEQ_LEN), temperature)


@pytest.mark.parametrize("split", ["valid", "test"])
@pytest.mark.parametrize("users", ["random", "no_padding", "single_items"])
@pytest.mark.usefixtures("devices")
def test_ranks_are_exact(users, split, interactions_of):
    rng = np.random.default_rng(1)
    torch.manual_seed(1)
    tables = tables_of(False, rng)
    interactions = interactions_of(windows_of(USERS[users], rng), NUM_ITEMS, MAX_SEQ_LEN)
    fast, oracle = pair(ModelConfig(dim=8, dropout=0.0), tables)
    fast, oracle = fast.float().eval(), oracle.float().eval()
    world = World(0, 1, CPU)
    catalogue = encode_catalogue(fast, tables, NUM_ITEMS, world, Precision.choose("fp32", CPU))
    got = rank_targets(fast, catalogue, interactions, split, world)

    numbers = torch.arange(NUM_ITEMS + 1)
    (text, mask), (image, _) = (padded_tokens(tables[source], numbers) for source in ("text", "image"))
    with torch.no_grad():
        vectors = oracle.encode_items(numbers, text.float(), mask, image.float())
    for source, vector in vectors.items():
        assert relative_error(catalogue[source][1:], vector[1:]) < 1e-5
    expected = rank_users(oracle, vectors, interactions, split, np.arange(interactions.num_users), batch_size=4)
    for source, ranks in expected.items():
        assert got[source].tolist() == ranks.tolist()


@pytest.fixture(scope="module")
def oracle(golden) -> OfficialODMT:
    """The oracle with the initial weights of a golden."""
    args = golden.args
    config = ModelConfig(
        dim=args["embedding_dim"],
        num_layers=args["merged_att_layers"],
        id_visible_to_modalities=args["version"] != "v1",
        backbone_layers=args["transformer_block"],
        backbone_heads=args["num_attention_heads"],
        dropout=args["drop_rate"],
    )
    widths = {source: args[f"{source}_embedding_dim"] for source in ("id", "text", "image")}
    model = OfficialODMT(config, golden.meta["n_items"], args["max_seq_len"], widths)
    state = golden.section("state.")
    model.load_state_dict({name: state[name] for name in model.state_dict()})
    return model


def golden_features(golden, slots: Tensor) -> list[Tensor]:
    return [golden.arrays[f"features.{part}"][slots] for part in ("text", "text_mask", "image")]


def golden_step(golden, model: OfficialODMT, numbers: Tensor):
    """Logits, cross-entropy and weighted distillation of a batch of goldens."""
    slots, alpha = numbers.view(-1), golden.args["alpha"]
    vectors = model.encode_items(slots, *golden_features(golden, slots))
    logits, targets = model.logits(vectors, numbers, golden.arrays["item_popularity"].log())
    cross_entropy, distillation = losses(logits, targets, golden.args["tau"])
    weight = alpha if alpha < 1 else math.exp(-5 * (1 - min(golden.meta["epoch"], alpha) / alpha) ** 2)
    return logits, cross_entropy, weight * distillation


def test_the_oracle_has_the_official_logits_losses_and_gradients(golden, oracle):
    arrays = golden.arrays
    logits, cross_entropy, distillation = golden_step(golden, oracle, arrays["batch.item_ids"])
    for source, z in logits.items():
        assert relative_error(z, arrays[f"logits.{source}"]) < 1e-5
    assert relative_error(cross_entropy, arrays["loss.ce"]) < 1e-5
    assert relative_error(distillation, arrays["loss.kl_weighted"]) < 1e-5
    oracle.zero_grad()
    (cross_entropy + distillation).backward()
    for name, parameter in oracle.named_parameters():
        assert relative_error(parameter.grad, arrays[f"grad.{name}"], 1e-4) < 1e-4, name


def test_the_oracle_has_the_official_trajectory(golden, oracle):
    model = copy.deepcopy(oracle)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3, weight_decay=0.1)
    for step, expected in enumerate(golden.arrays["trajectory.losses"]):
        optimizer.zero_grad()
        _, cross_entropy, distillation = golden_step(golden, model, golden.arrays[f"trajectory.batch.{step:02}"])
        (cross_entropy + distillation).backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 5)
        optimizer.step()
        assert relative_error(torch.stack([cross_entropy, distillation, norm]), expected) < 1e-4


def test_the_oracle_has_the_official_ranks(golden, oracle):
    numbers = torch.arange(golden.meta["n_items"] + 1)
    with torch.no_grad():
        vectors = oracle.encode_items(numbers, *golden_features(golden, numbers))
    for source, vector in vectors.items():
        assert relative_error(vector[1:], golden.arrays[f"items.{source}"][1:]) < 1e-5
    interactions = golden.interactions
    users = np.arange(interactions.num_users)
    for split in ("valid", "test"):
        targets = interactions.targets(split)
        # A target in the user's own history is out of reach, and its rank arbitrary.
        reachable = [targets[user] not in interactions.histories(users[[user]], split)[0] for user in users]
        assert sum(reachable) > len(users) // 2
        for source, rank in rank_users(oracle, vectors, interactions, split, users).items():
            assert torch.equal(rank[reachable], golden.arrays[f"eval.{split}.{source}"][reachable, 0])
