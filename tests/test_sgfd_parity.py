"""SGFD's extractor and its hosts, plain and with SGFD, against the numbers of the official implementation, stored as goldens.

`pytest tests/test_sgfd_parity.py --golden-dir DIR` takes the goldens of another folder (or of its folder `sgfd`).
"""

import pytest
import torch
from sgfd_goldens import RESPONSE_TOLERANCE, SgfdGolden, assert_all_near, assert_near

from odmt.features.extractors import PlainExtractor, SgfdExtractor
from odmt.graph.adjacency import Adjacency
from odmt.graph.content import ItemContent
from odmt.graph.models.bm3 import BM3, BM3Settings
from odmt.graph.published import bm3_metrics, listed_hits
from odmt.graph.sampling import PairBatch

TOLERANCE = 1e-5


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
    settings = BM3Settings(golden.dim, **{ours: args[official] for official, ours in keys.items()})
    adjacency = Adjacency(users, items, num_users, num_items)
    model = BM3(adjacency, content, bm3_extractor(golden), num_users, num_items, settings)
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
    start = BM3(model.adjacency, model.content, torch.nn.Identity(), args["num_users"], args["num_items"], model.settings)
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
