from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from odmt.errors import InputError
from odmt.features.extractors import (
    LinearChain,
    PlainExtractor,
    RawFeatures,
    SgfdExtractor,
    response_loss,
    teacher_widths,
)
from odmt.features.sgfd_settings import BM3_COPY, GRCN_COPY, MAML_COPY, SgfdConfig, SgfdSettings

WIDTHS = {"image": 50, "text": 30, "sound": 7}
LABELS = torch.tensor([0, 2, 1, 2])


def features_of(*modalities: str) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    return {modality: torch.randn(4, WIDTHS[modality], generator=generator) for modality in modalities}


def extractor_of(*modalities: str, settings: SgfdSettings = BM3_COPY) -> SgfdExtractor:
    torch.manual_seed(1)
    return SgfdExtractor({modality: WIDTHS[modality] for modality in modalities}, 8, 3, settings)


@pytest.mark.parametrize(
    ("width", "dim", "divisor", "expected"),
    [
        (4096, 128, 4, [4096, 1024, 256, 128]),
        (2048, 128, 4, [2048, 512, 128]),
        (768, 128, 4, [768, 192, 128]),
        (384, 128, 4, [384, 128]),
        (512, 128, 4, [512, 128]),
        (1000, 128, 4, [1000, 250, 128]),  # fails officially
        (30, 16, 4, [30, 16]),  # fails officially
        (7, 16, 4, [7, 16]),
        (16, 16, 4, [16, 16]),
        (4096, 128, 2, [4096, 2048, 1024, 512, 256, 128]),
        (512, 128, 2, [512, 256, 128]),
        (300, 128, 2, [300, 150, 128]),
        (301, 128, 2, [301, 150, 128]),
    ],
)
def test_teacher_widths(width, dim, divisor, expected):
    assert teacher_widths(width, dim, divisor) == expected


@pytest.mark.parametrize("copy", [BM3_COPY, GRCN_COPY, MAML_COPY], ids=["bm3", "grcn", "maml"])
@pytest.mark.parametrize("modalities", [("image",), ("text",), ("text", "image"), ("sound", "image", "text")])
def test_any_modalities(copy, modalities):
    extractor, features = extractor_of(*modalities, settings=copy), features_of(*modalities)
    vectors = extractor(features)
    assert extractor.modalities == list(vectors) == list(modalities)
    assert all(vector.shape == (4, 8) for vector in vectors.values())
    losses = extractor.losses(features, LABELS)
    assert list(losses) == ["class", "fusion", "response", "feature"]
    sum(losses.values()).backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in extractor.parameters())


def test_no_modality():
    with pytest.raises(ValueError, match="one modality at least"):
        SgfdExtractor({}, 8, 3)


@pytest.mark.parametrize("mistake", [{"width_divisor": 1}, {"temperature": 0.0}])
def test_impossible_settings(mistake):
    with pytest.raises(ValueError, match=next(iter(mistake))):
        SgfdSettings(**mistake)


def test_plain_extractors_have_no_losses():
    features = features_of("text", "image")
    plain = PlainExtractor({"text": 30, "image": 50}, 8)
    assert plain.widths == {"text": 8, "image": 8}
    assert torch.equal(plain(features)["text"], F.linear(features["text"], *plain.projections["text"].parameters()))
    raw = RawFeatures({"text": 30, "image": 50})
    assert raw.widths == {"text": 30, "image": 50}
    assert raw(features)["image"] is features["image"]
    for extractor in (plain, raw):
        assert extractor.losses(features, LABELS, torch.ones(4)) == {}
        assert extractor.losses(features, LABELS, counts=None, students=extractor(features)) == {}


def test_xavier_start_of_the_original_bm3():
    torch.manual_seed(0)
    weight = PlainExtractor({"image": 2000}, 100, xavier=True).projections["image"].weight
    assert weight.std().item() == pytest.approx((2 / 2100) ** 0.5, rel=0.01)


def test_glorot_start_of_the_maml_copy():
    extractor = SgfdExtractor({"image": 400}, 20, 3, MAML_COPY)
    assert all((parameter == 0).all() for name, parameter in extractor.named_parameters() if name.endswith("bias"))
    assert extractor.students["image"].weight.abs().max().item() == pytest.approx((6 / 420) ** 0.5, rel=0.01)


def test_items_that_repeat_count_as_often():
    extractor, features = extractor_of("text", "image"), features_of("text", "image")
    rows, counts = torch.tensor([0, 1, 1, 2, 3, 3, 3]), torch.tensor([1, 2, 1, 3])
    repeated = extractor.terms({name: table[rows] for name, table in features.items()}, LABELS[rows])
    for name, term in extractor.terms(features, LABELS, counts).items():
        torch.testing.assert_close(term, repeated[name])
    summed = extractor_of("text", "image", settings=MAML_COPY)
    repeated = summed.terms({name: table[rows] for name, table in features.items()}, LABELS[rows])
    for name, term in summed.terms(features, LABELS, counts).items():
        torch.testing.assert_close(term, repeated[name])


def test_vectors_that_the_host_has_are_not_computed_again():
    extractor, features = extractor_of("text", "image"), features_of("text", "image")
    students = extractor(features)
    calls = []
    for student in extractor.students.values():
        student.register_forward_hook(lambda *_: calls.append(1))
    given = extractor.losses(features, LABELS, students=students)
    assert not calls
    torch.testing.assert_close(given, extractor.losses(features, LABELS))


def test_items_without_a_category_have_no_class_loss():
    extractor, features = extractor_of("text", "image"), features_of("text", "image")
    known = {name: table[:3] for name, table in features.items()}
    expected, all_items = extractor.terms(known, LABELS[:3]), extractor.terms(features, LABELS)
    got = extractor.terms(features, torch.tensor([0, 2, 1, -1]))
    for name, term in got.items():
        torch.testing.assert_close(term, (expected if name.startswith(("class", "fusion")) else all_items)[name])
    nobody = extractor.terms(features, torch.full((4,), -1))
    assert nobody["class_text"] == nobody["fusion"] == 0


def test_labels_beyond_the_classifier_have_no_class_loss_and_no_gradient():
    extractor = extractor_of("text", "image", settings=replace(MAML_COPY, class_outputs=2))
    features = features_of("text", "image")
    terms = extractor.terms({name: table[1:2] for name, table in features.items()}, torch.tensor([2]))
    assert terms["class_text"] == 0
    assert terms["fusion"] > 0
    terms["class_text"].backward()
    assert extractor.classifier("text").weight.grad.abs().max() == 0


def test_weights_and_the_mean_over_modalities():
    settings = replace(BM3_COPY, class_weight=2.0, response_weight=3.0, feature_weight=0.5)
    extractor, features = extractor_of("text", "image", settings=settings), features_of("text", "image")
    terms, losses = extractor.terms(features, LABELS), extractor.losses(features, LABELS)
    torch.testing.assert_close(losses["class"], 2 * (terms["class_text"] + terms["class_image"]) / 2)
    torch.testing.assert_close(losses["fusion"], 2 * terms["fusion"])
    torch.testing.assert_close(losses["response"], 3 * (terms["response_text"] + terms["response_image"]) / 2)
    torch.testing.assert_close(losses["feature"], 0.5 * (terms["feature_text"] + terms["feature_image"]) / 2)
    extractor.settings = replace(settings, last_response_for_all=True, fusion_order=("image", "text"))
    assert "fusion" in extractor.losses(features, LABELS)


@pytest.mark.parametrize(
    ("zero", "left"),
    [
        ({"class_weight": 0}, ["response", "feature"]),
        ({"response_weight": 0}, ["class", "fusion", "feature"]),
        ({"feature_weight": 0, "class_weight": 0}, ["response"]),
        ({"feature_weight": 0, "class_weight": 0, "response_weight": 0}, []),
    ],
)
def test_terms_of_weight_zero_are_left_out(zero, left):
    features = features_of("text", "image")
    assert list(extractor_of("text", "image", settings=replace(BM3_COPY, **zero)).losses(features, LABELS)) == left


def test_last_response_stands_for_all():
    extractor = extractor_of("text", "image", settings=replace(MAML_COPY, response_weight=1.0))
    features = features_of("text", "image")
    terms = extractor.terms(features, LABELS)
    torch.testing.assert_close(extractor.losses(features, LABELS)["response"], terms["response_text"])


def test_class_loss_on_logits():
    features = features_of("text")
    twice, once = extractor_of("text"), extractor_of("text", settings=replace(BM3_COPY, class_loss_on="logits"))
    logits = once.classifier("text")(once.teach(features)["text"])
    torch.testing.assert_close(once.terms(features, LABELS)["class_text"], F.cross_entropy(logits, LABELS))
    torch.testing.assert_close(twice.terms(features, LABELS)["class_text"], F.cross_entropy(logits.softmax(-1), LABELS))


def test_detached_teacher():
    features = features_of("text", "image")
    distillation = replace(BM3_COPY, class_weight=0.0)
    for detached in (False, True):
        extractor = extractor_of("text", "image", settings=replace(distillation, detach_teacher=detached))
        sum(extractor.losses(features, LABELS).values()).backward()
        assert all((parameter.grad is None) == detached for parameter in extractor.teachers.parameters())
        assert all(parameter.grad.abs().max() > 0 for parameter in extractor.students.parameters())


def test_response_forms():
    teacher, student, t = torch.tensor([[0.0, 2.0, 4.0]]), torch.tensor([[2.0, 0.0, 1.0]]), 2.0
    p, q = (teacher / t).softmax(-1)[0], (student / t).softmax(-1)[0]
    assert response_loss(teacher, student, t, "l1").item() == pytest.approx(((p - q).abs().sum() / 3).item())
    assert response_loss(teacher, student, t, "squared").item() == pytest.approx((((p - q) ** 2).sum() / 3).item())
    assert response_loss(teacher, student, t, "kl").item() == pytest.approx((4 * (p * (p / q).log()).sum()).item())
    extractor = extractor_of("text", settings=replace(BM3_COPY, response="kl"))
    assert extractor.terms(features_of("text"), LABELS)["response_text"] > 0


@pytest.mark.parametrize("slope", [None, 0.0, 0.2])
def test_final_activation_and_normalisation(slope):
    extractor = extractor_of("text", settings=replace(BM3_COPY, final_slope=slope, normalize=False))
    features = features_of("text")
    raw = extractor.students["text"](features["text"])
    expected = raw if slope is None else F.leaky_relu(raw, slope)
    torch.testing.assert_close(extractor(features)["text"], expected)
    extractor.settings = replace(extractor.settings, normalize=True)
    torch.testing.assert_close(extractor(features)["text"], expected / expected.norm(dim=-1, keepdim=True))


def test_width_divisor():
    assert len(extractor_of("image", settings=replace(BM3_COPY, width_divisor=2)).teachers["image"]) == 3  # 50, 25, 12, 8
    assert len(extractor_of("image").teachers["image"]) == 2  # 50, 12, 8


def test_order_of_the_fusion():
    assert extractor_of("image", "text").fusion_order == ["text", "image"]
    assert extractor_of("sound", "text", "image", settings=GRCN_COPY).fusion_order == ["image", "text", "sound"]


def test_a_chain_is_folded_where_that_costs_less_and_gives_the_same():
    torch.manual_seed(0)
    chain = LinearChain([64, 16, 8, 4]).double()
    few, many = torch.randn(1, 64).double(), torch.randn(500, 64).double()
    calls = []
    chain[0].register_forward_hook(lambda *_: calls.append(1))
    chain(few)
    assert len(calls) == 1
    got = chain(many)
    assert len(calls) == 1, "many rows go through the folded layer"
    expected = nn.Sequential(*chain)(many)
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-14)
    weights = torch.randn(4).double()
    gradients = [torch.autograd.grad((out @ weights).tanh().sum(), list(chain.parameters())) for out in (got, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-10, atol=1e-13)


def test_losses_have_float32_at_least():
    extractor, features = extractor_of("text", "image"), features_of("text", "image")
    with torch.autocast("cpu", torch.bfloat16):
        assert {loss.dtype for loss in extractor.losses(features, LABELS).values()} == {torch.float32}
    doubles = {name: table.double() for name, table in features.items()}
    assert {loss.dtype for loss in extractor.double().losses(doubles, LABELS).values()} == {torch.float64}


def test_weights_are_saved_and_loaded(tmp_path):
    from safetensors.torch import load_file, save_file

    for copy in (BM3_COPY, MAML_COPY):
        extractor, other = extractor_of("text", "image", settings=copy), SgfdExtractor({"text": 30, "image": 50}, 8, 3, copy)
        save_file(extractor.state_dict(), tmp_path / "weights.safetensors")
        other.load_state_dict(load_file(tmp_path / "weights.safetensors"))
        features = features_of("text", "image")
        torch.testing.assert_close(extractor.losses(features, LABELS), other.losses(features, LABELS))


def test_configuration_changes_what_it_names_and_leaves_the_copy():
    assert SgfdConfig().settings("maml") == MAML_COPY
    assert SgfdConfig(copy="grcn").settings("bm3") == GRCN_COPY
    given = {
        "class_weight": 0.0,
        "temperature": 3.0,
        "response": "kl",
        "width_divisor": 3,
        "detach_teacher": False,
        "final_slope": 1.0,
    }
    assert SgfdConfig(**given).given == [
        "class_weight",
        "temperature",
        "detach_teacher",
        "response",
        "width_divisor",
        "final_slope",
    ]
    assert SgfdConfig(**given).settings("maml") == replace(MAML_COPY, **given)
    features = features_of("text")
    bare = extractor_of("text", settings=replace(BM3_COPY, final_slope=None))
    torch.testing.assert_close(extractor_of("text", settings=replace(BM3_COPY, final_slope=1.0))(features), bare(features))


@pytest.mark.parametrize(
    "mistake", [{"class_weight": -1.0}, {"feature_weight": -0.1}, {"temperature": 0.0}, {"temperature": -2.0}, {"width_divisor": 1}]
)
def test_impossible_configuration(mistake):
    with pytest.raises(InputError, match=f"config key sgfd.{next(iter(mistake))}: "):
        SgfdConfig(**mistake)


@pytest.mark.parametrize("copy", [BM3_COPY, MAML_COPY], ids=["bm3", "maml"])
@pytest.mark.parametrize("left", ["", "class", "response", "feature", "class response", "response feature", "class feature"])
@pytest.mark.parametrize("detached", [False, True])
def test_parts_that_no_loss_trains_say_so(copy, left, detached):
    """So that several processes know whose gradient to wait for."""
    zeros = {f"{name}_weight": 0.0 for name in ("class", "response", "feature") if name not in left}
    extractor = extractor_of("text", "image", settings=replace(copy, detach_teacher=detached, **zeros))
    features = features_of("text", "image")
    host = sum(vector.square().sum(-1).pow(2).sum() + vector.sum() for vector in extractor(features).values())
    sum(extractor.losses(features, LABELS).values(), host).backward()
    for name, parameter in extractor.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, name
