"""SGFD's extractor and its hosts, plain and with SGFD, against the numbers of the official implementation, stored as goldens.

`pytest tests/test_sgfd_parity.py --golden-dir DIR` takes the goldens of another folder (or of its folder `sgfd`).
"""

import numpy as np
import pytest
import torch
from sgfd_goldens import RESPONSE_TOLERANCE, SgfdGolden, assert_all_near, assert_near

from odmt.distributed import World
from odmt.features.extractors import PlainExtractor, RawFeatures, SgfdExtractor
from odmt.graph.adjacency import Adjacency
from odmt.graph.content import ItemContent
from odmt.graph.edges import Edges
from odmt.graph.models.bm3 import BM3, BM3Settings
from odmt.graph.models.grcn import GRCN, GRCNSettings
from odmt.graph.models.host import Host
from odmt.graph.models.maml import MAML, MAMLSettings
from odmt.graph.published import GRCN_SEEN_SCORE, bm3_metrics, grcn_metrics, listed_hits, maml_metrics
from odmt.graph.sampling import PairBatch
from odmt.item_lists import ItemLists
from odmt.metrics import summarize
from odmt.ranking import ScoreBlock, rank_held_out

TOLERANCE = 1e-5
MAML_TOLERANCE = 1e-4


@pytest.fixture
def golden(sgfd_golden) -> SgfdGolden:
    return sgfd_golden


def slots(golden: SgfdGolden) -> torch.Tensor:
    """The items of the batch of `loss.*`, repeated as often as they occur, in the order of the official code."""
    arrays = golden.arrays
    if golden.host == "grcn":
        return torch.stack([arrays["batch.positives"][0], arrays["batch.negatives"][0]], 1).flatten()
    return torch.cat([arrays["batch.pairs"][:, 1:], arrays["batch.negatives"]], 1).flatten()


def expected_terms(golden: SgfdGolden) -> dict[str, torch.Tensor]:
    """The official terms of a batch, by the names of this project."""
    if golden.host == "bm3":
        columns = zip(golden.meta["loss_terms"], golden.arrays["losses.first"])
        return {name: value for name, value in columns if name.startswith(("class", "response", "feature", "fusion"))}
    found = golden.section("loss.")
    terms = {"fusion": found["fusion" if "fusion" in found else "ce.fusion"]}
    for ours, official in {"class": "ce", "response": "kd", "feature": "fd"}.items():
        for modality in ("image", "text"):
            value = found[f"{official}.{modality}"].double()
            terms[f"{ours}_{modality}"] = value.mean()  # MAML's are one value a slot
    return terms


@pytest.mark.official(sgfd=True)
def test_extractor_vectors(golden):
    extractor, arrays = golden.extractor(), golden.arrays
    teachers, students = extractor.teach(golden.features), extractor(golden.features)
    for modality in ("image", "text"):
        if golden.host == "bm3":
            assert_near(teachers[modality], arrays[f"extractor.{modality}.teacher"], TOLERANCE)
            assert_near(students[modality], arrays[f"extractor.{modality}.student"], TOLERANCE)
            classify = extractor.classifier(modality)
            assert_near(classify(teachers[modality]), arrays[f"extractor.{modality}.teacher_logits"], TOLERANCE)
            assert_near(classify(students[modality]), arrays[f"extractor.{modality}.student_logits"], TOLERANCE)
        elif golden.host == "grcn":
            assert_near(teachers[modality][slots(golden)], arrays[f"inter.teacher_batch.{modality}"], TOLERANCE)
            assert_near(students[modality][slots(golden)], arrays[f"inter.student_batch.{modality}"], TOLERANCE)
        else:
            assert_near(teachers[modality][slots(golden)], arrays[f"inter.{modality}.teacher"], TOLERANCE)
            assert_near(students[modality], arrays[f"inter.{modality}.student"], TOLERANCE)
    if golden.host == "bm3":
        assert_near(extractor.fuse(teachers), arrays["extractor.fused_logits"], TOLERANCE)


@pytest.mark.official(host="bm3", sgfd=True)
def test_extractor_losses_of_all_items(golden):
    terms = golden.extractor().terms(golden.features, golden.labels)
    for modality in ("image", "text"):
        expected = golden.arrays[f"extractor.{modality}.losses"]
        assert_near(terms[f"class_{modality}"], expected[0], TOLERANCE)
        assert_near(terms[f"response_{modality}"], expected[1], RESPONSE_TOLERANCE)
        assert_near(terms[f"feature_{modality}"], expected[2], TOLERANCE)
    assert_near(terms["fusion"], golden.arrays["extractor.fusion_loss"].squeeze(), TOLERANCE)


@pytest.mark.official(sgfd=True)
@pytest.mark.parametrize("distinct", [False, True], ids=["repeated", "counted"])
def test_extractor_losses_of_a_batch(golden, distinct):
    extractor, counts = golden.extractor(), None
    items = golden.arrays["batch.00"][1] if golden.host == "bm3" else slots(golden)
    if distinct:
        items, counts = items.unique(return_counts=True)
    features = {modality: table[items] for modality, table in golden.features.items()}
    terms = extractor.terms(features, golden.labels[items], counts)
    expected = expected_terms(golden)
    assert sorted(terms) == sorted(expected)
    for name, value in expected.items():
        assert_near(terms[name], value, RESPONSE_TOLERANCE if name.startswith("response") else TOLERANCE, name)
    gradients_of_the_extractor_alone(golden, extractor, extractor.losses(features, golden.labels[items], counts))


def gradients_of_the_extractor_alone(golden, extractor, losses):
    """Teachers, classifiers and fusion are trained by SGFD's losses alone; MAML's gradients are of the sum over all slots."""
    for parameter in extractor.parameters():
        parameter.grad = None
    if losses:
        scale = len(slots(golden)) if golden.host == "maml" else 1
        (scale * sum(losses.values())).backward()
    expected = golden.official_gradients()
    for name, parameter in extractor.named_parameters():
        if not name.startswith("students"):
            assert_near(parameter.grad, expected[f"extractor.{name}"], RESPONSE_TOLERANCE, name)


# BM3


def bm3_model(golden: SgfdGolden) -> BM3:
    """The host of a golden with the initial weights."""
    args = golden.args
    content = ItemContent(golden.features, golden.labels, trained=not golden.has_sgfd)
    num_users, num_items = args["num_users"], args["num_items"]
    users, items = torch.tensor(golden.meta["train"]).T
    keys = {"n_layers": "num_layers", "dropout": "dropout", "reg_weight": "reg_weight", "cl_weight": "cl_weight"}
    settings = BM3Settings(**{ours: args[official] for official, ours in keys.items()})
    adjacency = Adjacency(users, items, num_users, num_items)
    model = BM3(adjacency, content, bm3_extractor(golden), num_users, num_items, golden.dim, settings)
    model.load_state_dict(golden.state())
    return model


def bm3_extractor(golden: SgfdGolden) -> torch.nn.Module:
    if golden.has_sgfd:
        return SgfdExtractor(golden.widths, golden.dim, golden.num_labels, golden.settings())
    return PlainExtractor(golden.widths, golden.dim, xavier=True)


def bm3_terms(golden: SgfdGolden, model: BM3, batch: torch.Tensor) -> tuple[dict, torch.Tensor]:
    """The official columns and the differentiable total."""
    losses = model(PairBatch(*batch), epoch=1)
    weights = {"reg": model.settings.reg_weight} | dict.fromkeys(
        ("text_item", "image_item", "text_self", "image_self"), model.settings.cl_weight
    )
    columns = {name: loss.detach() / weights.get(name, 1) for name, loss in losses.items()}
    total = losses["loss"]
    columns |= {"total": total.detach()}
    if golden.has_sgfd:
        items = batch[1]
        columns["sgfd"] = sum(columns.get(name, torch.zeros(())) for name in ("class", "fusion", "response", "feature"))
        with torch.no_grad():
            columns |= model.extractor.terms(model.content(items), model.content.labels_of(items))
    return {name: columns[name] for name in golden.meta["loss_terms"]}, total


def assert_terms(golden: SgfdGolden, got: dict, expected: torch.Tensor):
    for name, value in zip(golden.meta["loss_terms"], expected, strict=True):
        assert_near(got[name], value, RESPONSE_TOLERANCE if name.startswith("response") else TOLERANCE, name)


@pytest.mark.official(host="bm3")
def test_bm3_graph(golden):
    adjacency, size = bm3_model(golden).adjacency, golden.args["num_users"] + golden.args["num_items"]
    expected = torch.zeros(size, size)
    expected[tuple(golden.arrays["graph.index"])] = golden.arrays["graph.value"]
    assert torch.equal(adjacency(torch.eye(size)), expected)


@pytest.mark.official(host="bm3")
def test_bm3_losses_and_gradients(golden):
    model = bm3_model(golden)
    got, total = bm3_terms(golden, model, golden.arrays["batch.00"])
    assert_terms(golden, got, golden.arrays["losses.first"])
    total.backward()
    expected = golden.official_gradients()
    parameters = dict(model.named_parameters())
    assert sorted(parameters) == sorted(expected)
    for name, gradient in expected.items():
        assert_near(parameters[name].grad, gradient, TOLERANCE, name)


@pytest.mark.official(host="bm3")
def test_bm3_trajectory_and_representations(golden):
    model = bm3_model(golden)
    optimizer = torch.optim.Adam(model.parameters(), lr=golden.meta["optimiser"]["lr"])
    assert_bm3_scores(golden, model, "before")
    for step, (_, batch) in enumerate(sorted(golden.section("batch.").items())):
        got, total = bm3_terms(golden, model, batch)
        assert_terms(golden, got, golden.arrays["trajectory.losses"][step])
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
    assert_all_near(model.state_dict(), golden.state("final."), TOLERANCE)
    assert_bm3_scores(golden, model, "after")


def assert_bm3_scores(golden: SgfdGolden, model: BM3, when: str):
    users, items = model.prepared()
    assert_near(users, golden.arrays[f"users.{when}"], TOLERANCE)
    assert_near(items, golden.arrays[f"items.{when}"], TOLERANCE)
    assert_near(model.scores(torch.arange(golden.args["num_users"])), golden.arrays[f"scores.{when}"], TOLERANCE)


@pytest.mark.official(host="bm3")
def test_bm3_starts_like_the_official_code(golden):
    """One seed draws the same weights, created in the same order."""
    model = bm3_model(golden)
    args = golden.args
    torch.manual_seed(args["seed"])
    start = BM3(
        model.adjacency, model.content, torch.nn.Identity(), args["num_users"], args["num_items"], golden.dim, model.settings
    )
    start.extractor = bm3_extractor(golden)
    for name, tensor in golden.state().items():
        assert torch.equal(start.state_dict()[name], tensor), name


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.official(host="bm3")
def test_bm3_lists_and_published_metrics(golden, when):
    arrays, users = golden.arrays, golden.arrays["eval.users"]
    seen, held_out = (torch.tensor(golden.meta[part]).T for part in ("train", "test"))
    scores = arrays[f"scores.{when}"].clone()
    hits = listed_hits(scores, tuple(seen), tuple(held_out), 20)
    in_test = set(map(tuple, golden.meta["test"]))
    for user, items in zip(users.tolist(), arrays[f"topk.{when}"].tolist()):
        assert hits[user].tolist() == [(user, item) in in_test for item in items]
    counts = held_out[0].bincount(minlength=len(scores))[users].numpy()
    got = bm3_metrics(hits[users.numpy()], counts, [5, 10, 20])
    names = {"recall": "bm3_official_pooled_recall", "ndcg": "bm3_official_ndcg_of_hits"}
    for name, value in golden.meta["metrics"][when]["official"].items():
        metric, cutoff = name.split("@")
        assert got[f"{names[metric]}@{cutoff}"] == pytest.approx(value, rel=1e-12)


# GRCN


def grcn_model(golden: SgfdGolden) -> GRCN:
    """The host of a golden with the initial weights."""
    meta, arrays, args = golden.meta, golden.arrays, golden.args
    sizes = meta["users"], meta["items"]
    edges = Edges(arrays["edges.user"], arrays["edges.item"], *sizes)
    routing = 0 if "no effect" in args["routing"] else args["num_routing"]
    settings = GRCNSettings(routing, args["is_pruning"], args["weight_decay"])
    extractor = golden.extractor() if golden.has_sgfd else PlainExtractor(golden.widths, golden.dim)
    model = GRCN(edges, ItemContent(golden.features, golden.labels), extractor, *sizes, golden.dim, settings)
    model.load_state_dict(golden.state())
    return model


def grcn_batch(golden: SgfdGolden, step: int) -> PairBatch:
    arrays = golden.arrays
    return PairBatch(*(arrays[f"batch.{part}"][step] for part in ("users", "positives")), arrays["batch.negatives"][step][:, None])


def grcn_terms(golden: SgfdGolden, model: GRCN, batch: PairBatch) -> tuple[dict, torch.Tensor]:
    """The official columns and the differentiable total."""
    losses = model(batch, epoch=1)
    reg = losses["reg"] / model.settings.reg_weight
    columns = {"total": losses["loss"], "bpr": losses["bpr"], "reg": reg, "bpr_and_sgfd": losses["loss"] - losses["reg"]}
    preferences = sum(table[batch.users].square().mean() for table in model.preferences.values())
    columns |= {"reg_preference": preferences, "reg_id": reg - preferences}
    items = torch.cat([batch.positives[:, None], batch.negatives], 1).flatten()
    return columns | sgfd_columns(golden, model, items), losses["loss"]


def sgfd_columns(golden: SgfdGolden, model: Host, items: torch.Tensor) -> dict[str, torch.Tensor]:
    """SGFD's terms of the slots of a batch under their official names, without their weights."""
    if not golden.has_sgfd:
        return {}
    with torch.no_grad():
        terms = model.extractor.terms(model.content(items), model.content.labels_of(items))
    official = {"class": "ce", "response": "kd", "feature": "fd"}
    columns = {}
    for name, term in terms.items():
        kind, _, modality = name.partition("_")
        columns[f"{official[kind]}.{modality}" if modality else name] = term
    return columns


@pytest.mark.official(host="grcn")
def test_grcn_refined_graph_and_representations(golden):
    model, arrays = grcn_model(golden), golden.arrays
    users, items = arrays["edges.user"], arrays["edges.item"]
    order = torch.argsort(users * golden.meta["items"] + items)  # ours: by user, then by item
    assert torch.equal(model.edges.users, users[order])
    user_contents, item_contents, to_users, to_items = model.refine(model.extractor(model.content()))
    official_to_items, official_to_users = arrays["inter.edge_weight"].chunk(2)
    if golden.args["is_pruning"]:
        to_users, to_items = to_users.relu(), to_items.relu()
    assert_near(to_items, official_to_items[order], TOLERANCE)
    assert_near(to_users, official_to_users[order], TOLERANCE)
    for modality, of_users, of_items in zip(model.extractor.modalities, user_contents, item_contents):
        assert_near(torch.cat([of_users, of_items]), arrays[f"inter.content.{modality}"], TOLERANCE, modality)
    representations = torch.cat(model.representations())
    assert_near(representations[:, : golden.dim], arrays["inter.id"], TOLERANCE)
    assert_near(representations, arrays["representation"], TOLERANCE)


@pytest.mark.official(host="grcn")
def test_grcn_losses_and_gradients(golden):
    model = grcn_model(golden)
    got, total = grcn_terms(golden, model, grcn_batch(golden, 0))
    for name, value in golden.section("loss.").items():
        assert_near(got[name], value, RESPONSE_TOLERANCE if name.startswith("kd") else TOLERANCE, name)
    total.backward()
    assert_all_near({name: p.grad for name, p in model.named_parameters()}, golden.official_gradients(), TOLERANCE)


@pytest.mark.official(host="grcn")
def test_grcn_trajectory_and_scores(golden):
    model = grcn_model(golden)
    optimizer = torch.optim.Adam(model.parameters(), lr=golden.args["l_r"])
    for step, expected in enumerate(golden.arrays["trajectory.losses"]):
        if step == len(golden.arrays["trajectory.losses"]) - 1:
            stale = torch.cat(model.prepared())
        got, total = grcn_terms(golden, model, grcn_batch(golden, step))
        for name, value in zip(golden.meta["loss_columns"], expected, strict=True):
            assert_near(got[name], value, RESPONSE_TOLERANCE if name.startswith("kd") else TOLERANCE, name)
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
    assert_all_near(model.state_dict(), golden.state("final.state."), TOLERANCE)
    assert_near(torch.cat(model.prepared()), golden.arrays["final.representation"], TOLERANCE)
    assert_near(stale, golden.arrays["final.representation_stale"], TOLERANCE)
    assert_near(model.scores(torch.arange(golden.meta["users"])), golden.arrays["final.scores"], TOLERANCE)


@pytest.mark.official(host="grcn")
def test_grcn_published_metrics(golden):
    num_users = golden.meta["users"]
    stale = golden.arrays["final.representation_stale"]
    for name, scores in {
        "official": golden.arrays["final.scores"],
        "official_stale": stale[:num_users] @ stale[num_users:].T,
    }.items():
        hits, counts, _ = hits_of_test_users(golden, scores, GRCN_SEEN_SCORE)
        got = grcn_metrics(hits, counts, [5, 10, 20])
        for cutoff, metrics in golden.meta["metrics"][name].items():
            for metric, value in metrics.items():
                ours = {"ndcg": "ndcg_of_hits"}.get(metric, metric)
                assert got[f"grcn_official_{ours}@{cutoff}"] == pytest.approx(value, rel=1e-12), metric


def hits_of_test_users(golden: SgfdGolden, scores: torch.Tensor, seen_score: float) -> tuple:
    """Lists of 20 of the users with a test item, their numbers of test items, and of items that are not masked."""
    seen, held_out = (torch.tensor(golden.meta[part]).T for part in ("train", "test"))
    hits = listed_hits(scores, tuple(seen), tuple(held_out), 20, seen_score)
    counts, masked = (rows.bincount(minlength=len(scores)).numpy() for rows in (held_out[0], seen.unique(dim=1)[0]))
    return hits[counts > 0], counts[counts > 0], (scores.shape[1] - masked)[counts > 0]


# MAML


def maml_model(golden: SgfdGolden, trained: str = "all") -> MAML:
    """The host of a golden with the initial weights."""
    meta, args = golden.meta, golden.args
    settings = MAMLSettings(
        hidden_dim=args["hidden_layer_dim"],
        margin=args["margin"],
        projection_weight=args["feature_l2_reg"],
        covariance_weight=args["cov_loss_weight"],
        dropout=args["dropout_rate"],
        attention_dropout=0.0,
        scale=args["feature_projection_scaling_factor"],
        clip=args["clip_norm"],
        trained=trained,
        summed=True,
    )
    content = ItemContent(golden.features, golden.labels)
    # The original takes the text first.
    extractor = golden.extractor() if golden.has_sgfd else RawFeatures({m: golden.widths[m] for m in ("text", "image")})
    model = MAML(content, extractor, meta["users"], meta["items"], golden.dim, settings, args["batch_size"])
    model.load_state_dict(golden.state())
    return model


def maml_terms(golden: SgfdGolden, model: MAML, pairs: torch.Tensor, negatives: torch.Tensor) -> tuple[dict, torch.Tensor]:
    """The official columns, those by slot as their means, and the differentiable total."""
    losses = model(PairBatch(*pairs.T, negatives), epoch=1)
    columns = {"total": losses["loss"], "metric": losses["metric"]}
    columns |= {"feature": losses["projection"], "covariance": losses["covariance"]}
    sgfd = sgfd_columns(golden, model, torch.cat([pairs[:, 1:], negatives], 1).flatten())
    return columns | {"ce.fusion" if name == "fusion" else name: term for name, term in sgfd.items()}, losses["loss"]


@pytest.mark.official(host="maml")
def test_maml_projection_attention_and_distances(golden):
    model, arrays = maml_model(golden), golden.arrays
    pairs, negatives = arrays["batch.pairs"], arrays["batch.negatives"]
    slots = torch.cat([pairs[:, 1:], negatives], 1)
    projected = model.project()
    assert_near(projected, arrays["inter.projected"], MAML_TOLERANCE)
    users = model.user_side(model.user_embedding(pairs[:, :1]))
    items = model.item_side(model.item_embedding(slots), projected[slots])
    attention, distances = model.weigh(users, items), model.distances(users, items)
    for name, positive, negative in [
        ("attention", attention[:, 0], attention[:, 1:]),
        ("distance", distances[:, 0], distances[:, 1:]),
    ]:
        assert_near(positive, arrays[f"inter.{name}.positive"], MAML_TOLERANCE, name)
        assert_near(negative, arrays[f"inter.{name}.negative"], MAML_TOLERANCE, name)


@pytest.mark.official(host="maml")
def test_maml_losses_and_gradients(golden):
    model, arrays = maml_model(golden), golden.arrays
    got, total = maml_terms(golden, model, arrays["batch.pairs"], arrays["batch.negatives"])
    for name, value in golden.section("loss.").items():
        assert_near(got[name], value.double().mean(), MAML_TOLERANCE, name)
    (total * arrays["loss.total"].numel()).backward()  # the golden's is the gradient of the sum over the slots
    assert_all_near({name: p.grad for name, p in model.named_parameters()}, golden.official_gradients(), MAML_TOLERANCE)


@pytest.mark.parametrize(("trained", "name"), [("all", "all"), ("tables", "official")])
@pytest.mark.official(host="maml")
def test_maml_trajectories_and_scores(golden, trained, name):
    model, arrays = maml_model(golden, trained), golden.arrays
    # Both start from the projection of the items. Our own, since the loss between the two must then be exactly 0: Adam makes a
    # whole step of whatever rounding leaves of its gradient.
    with torch.no_grad():
        model.item_embedding.weight.copy_(model.project())
    assert_near(model.item_embedding.weight, arrays["trajectory.start.item_embedding.weight"], MAML_TOLERANCE)
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=golden.args["master_learning_rate"])
    for step, expected in enumerate(arrays[f"trajectory.{name}.losses"]):
        got, total = maml_terms(golden, model, arrays["trajectory.pairs"][step], arrays["trajectory.negatives"][step])
        for column, value in zip(golden.meta["loss_columns"], expected, strict=True):
            assert_near(got[column], value, MAML_TOLERANCE, column)
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        model.after_step()
        if step == 0:
            assert_parts_near(model, golden.state(f"trajectory.{name}.after_1."))
    assert_parts_near(model, golden.state(f"trajectory.{name}.final."))
    changed = {key for key, tensor in model.state_dict().items() if not torch.equal(tensor, before[key])}
    assert changed == (set(before) if trained == "all" else {"user_embedding.weight", "item_embedding.weight"})
    assert_near(model.scores(torch.arange(golden.meta["users"])), arrays[f"scores.{name}"], MAML_TOLERANCE)


def assert_parts_near(model: MAML, expected: dict[str, torch.Tensor]):
    assert_all_near({name: model.state_dict()[name] for name in expected}, expected, MAML_TOLERANCE)


@pytest.mark.official(host="maml")
def test_maml_starts_from_its_projection(golden):
    model = maml_model(golden)
    start = MAML(model.content, model.extractor, golden.meta["users"], golden.meta["items"], golden.dim, model.settings)
    assert torch.equal(start.item_embedding.weight, start.project())
    assert_near(model.scores(torch.arange(golden.meta["users"])), golden.arrays["scores.initial"], MAML_TOLERANCE)


@pytest.mark.parametrize("name", ["official", "all"])
@pytest.mark.official(host="maml")
def test_maml_published_metrics(golden, name):
    hits, counts, candidates = hits_of_test_users(golden, golden.arrays[f"scores.{name}"], float("-inf"))
    got = maml_metrics(hits, counts, candidates, [5, 10, 20])
    metrics = golden.meta["metrics"][f"after_{name}"]
    if golden.has_sgfd:
        for cutoff, expected in metrics["legacy"].items():
            for metric, value in expected.items():
                ours = {"ndcg": "ndcg_of_hits"}.get(metric, metric)
                assert got[f"maml_official_{ours}@{cutoff}"] == pytest.approx(value, rel=1e-12), metric
    for cutoff, expected in metrics["standard"].items():
        for metric in ("recall", "precision"):
            assert got[f"maml_official_{metric}@{cutoff}"] == pytest.approx(expected[metric], rel=1e-12)


# All hosts


def standard_metrics(golden: SgfdGolden) -> list[tuple[torch.Tensor, dict[str, float]]]:
    """Scores and the standard metrics of them, `recall@5` and so on."""
    metrics, arrays = golden.meta["metrics"], golden.arrays
    if golden.host == "bm3":
        return [(arrays[f"scores.{when}"], metrics[when]["standard"]) for when in ("before", "after")]
    if golden.host == "grcn":
        cases = [(arrays["final.scores"], metrics["standard"])]
    else:
        cases = [(arrays[f"scores.{name}"], metrics[f"after_{name}"]["standard"]) for name in ("official", "all")]
    return [(scores, {f"{name}@{k}": value for k, of in table.items() for name, value in of.items()}) for scores, table in cases]


def lists_of(pairs: list[list[int]], num_users: int) -> ItemLists:
    users, items = np.unique(np.array(pairs), axis=0).T
    return ItemLists(items, np.concatenate([[0], np.bincount(users, minlength=num_users).cumsum()]))


def test_standard_metrics(golden):
    for scores, expected in standard_metrics(golden):
        train, test = (lists_of(golden.meta[part], len(scores)) for part in ("train", "test"))
        blocks = (ScoreBlock(users, {"fused": scores[users]}) for users in np.array_split(np.arange(len(scores)), 3))
        ranks = rank_held_out(blocks, test, train.of, World(0, 1, torch.device("cpu")))
        got = summarize(ranks, (5, 10, 20), ("recall", "ndcg", "precision", "hit"), ranks.offsets)
        for name, value in expected.items():
            assert got[f"fused/{name}"] == pytest.approx(value, rel=1e-12), name
