"""SGFD's extractor against the numbers of the official implementation, stored as goldens.

`pytest tests/test_sgfd_parity.py --golden-dir DIR` takes the goldens of another folder (or of its folder `sgfd`).
"""

import pytest
import torch
from sgfd_goldens import RESPONSE_TOLERANCE, SgfdGolden, assert_near

TOLERANCE = 1e-5


@pytest.fixture
def sgfd(sgfd_golden) -> SgfdGolden:
    if not sgfd_golden.has_sgfd:
        pytest.skip("a host without SGFD")
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


def test_extractor_vectors(sgfd):
    extractor, arrays = sgfd.extractor(), sgfd.arrays
    teachers, students = extractor.teach(sgfd.features), extractor(sgfd.features)
    for modality in ("image", "text"):
        if sgfd.host == "bm3":
            assert_near(teachers[modality], arrays[f"extractor.{modality}.teacher"], TOLERANCE)
            assert_near(students[modality], arrays[f"extractor.{modality}.student"], TOLERANCE)
            classify = extractor.classifier(modality)
            assert_near(classify(teachers[modality]), arrays[f"extractor.{modality}.teacher_logits"], TOLERANCE)
            assert_near(classify(students[modality]), arrays[f"extractor.{modality}.student_logits"], TOLERANCE)
        elif sgfd.host == "grcn":
            assert_near(teachers[modality][slots(sgfd)], arrays[f"inter.teacher_batch.{modality}"], TOLERANCE)
            assert_near(students[modality][slots(sgfd)], arrays[f"inter.student_batch.{modality}"], TOLERANCE)
        else:
            assert_near(teachers[modality][slots(sgfd)], arrays[f"inter.{modality}.teacher"], TOLERANCE)
            assert_near(students[modality], arrays[f"inter.{modality}.student"], TOLERANCE)
    if sgfd.host == "bm3":
        assert_near(extractor.fuse(teachers), arrays["extractor.fused_logits"], TOLERANCE)


def test_extractor_losses_of_all_items(sgfd):
    if sgfd.host != "bm3":
        pytest.skip("stored for BM3 alone")
    terms = sgfd.extractor().terms(sgfd.features, sgfd.labels)
    for modality in ("image", "text"):
        expected = sgfd.arrays[f"extractor.{modality}.losses"]
        assert_near(terms[f"class_{modality}"], expected[0], TOLERANCE)
        assert_near(terms[f"response_{modality}"], expected[1], RESPONSE_TOLERANCE)
        assert_near(terms[f"feature_{modality}"], expected[2], TOLERANCE)
    assert_near(terms["fusion"], sgfd.arrays["extractor.fusion_loss"].squeeze(), TOLERANCE)


@pytest.mark.parametrize("distinct", [False, True], ids=["repeated", "counted"])
def test_extractor_losses_of_a_batch(sgfd, distinct):
    extractor, counts = sgfd.extractor(), None
    items = sgfd.arrays["batch.00"][1] if sgfd.host == "bm3" else slots(sgfd)
    if distinct:
        items, counts = items.unique(return_counts=True)
    features = {modality: table[items] for modality, table in sgfd.features.items()}
    terms = extractor.terms(features, sgfd.labels[items], counts)
    expected = expected_terms(sgfd)
    assert sorted(terms) == sorted(expected)
    for name, value in expected.items():
        assert_near(terms[name], value, RESPONSE_TOLERANCE if name.startswith("response") else TOLERANCE, name)
    gradients_of_the_extractor_alone(sgfd, extractor, extractor.losses(features, sgfd.labels[items], counts))


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
