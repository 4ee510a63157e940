"""From the frozen features of items to vectors of a host's width: one linear layer, or SGFD's teacher and student.

SGFD, "Semantic-Guided Feature Distillation for Multimodal Recommendation" (Liu et al., ACM MM 2023): per modality a deep teacher
learns an item's category, a shallow student learns from the teacher, and the host sees the student alone. All of it is trained
together with the host. A host asks an extractor for vectors and adds the losses that it hands out to its own; it does not know
which extractor it has.

Deviation: the paper's equations could not be had; everything here follows the official code, whose three copies (one a host)
differ. What differs is a field of `SgfdSettings`, each copy one of its values (`odmt.features.sgfd_settings`).

Legend: N items, B distinct items of a batch, W width of a raw feature, D width of the host, L labels.
"""

from collections.abc import Mapping
from functools import reduce
from itertools import pairwise
from operator import add
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from odmt.features.sgfd_settings import BM3_COPY, SgfdSettings


class RawFeatures(nn.Module):
    """An extractor that gives the raw features, as the original MAML takes them.

    Attributes:
        modalities: in the order given.
        widths: of the vectors that `forward` gives, by modality.
    """

    def __init__(self, widths: Mapping[str, int]):
        super().__init__()
        self.modalities, self.widths = list(widths), dict(widths)

    def forward(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Raw features [N, W] by modality -> the same."""
        return {modality: features[modality] for modality in self.modalities}

    def losses(self, *_, **__) -> dict[str, Tensor]:
        """No losses; takes what `SgfdExtractor.losses` takes."""
        return {}


class PlainExtractor(RawFeatures):
    """One linear layer a modality, as in the original BM3 and GRCN, and no losses.

    Args:
        widths: W by modality.
        dim: D.
        xavier: start from Xavier normal weights (the original BM3) instead of PyTorch's default.
    """

    def __init__(self, widths: Mapping[str, int], dim: int, xavier: bool = False):
        super().__init__(dict.fromkeys(widths, dim))
        self.projections = nn.ModuleDict()
        for modality, width in widths.items():
            self.projections[modality] = project = nn.Linear(width, dim)
            if xavier:
                nn.init.xavier_normal_(project.weight)

    def forward(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Raw features [N, W] by modality -> vectors [N, D]."""
        return {modality: project(features[modality]) for modality, project in self.projections.items()}


class SgfdExtractor(nn.Module):
    """Teacher, student and classifier of every modality, and the fusion of the teachers.

    Choice: with one modality alone the fusion is a second classifier of its teacher, two layers deep. Parts whose losses have
    weight 0 are there, so that a start does not depend on the weights, but need no gradient; officially it is 0.

    Args:
        widths: W by modality, one at least.
        dim: D.
        num_labels: L.
        settings: weights, and what the official copies do differently.

    Attributes:
        modalities: in the order given.
        widths: of the vectors that `forward` gives, by modality.
    """

    def __init__(self, widths: Mapping[str, int], dim: int, num_labels: int, settings: SgfdSettings = BM3_COPY):
        super().__init__()
        if not widths:
            raise ValueError("SGFD needs one modality at least")
        self.settings = settings
        self.modalities, self.widths = list(widths), dict.fromkeys(widths, dim)
        self.fusion_order = sorted(widths, key=lambda modality: [*settings.fusion_order, modality].index(modality))
        outputs = settings.class_outputs or num_labels
        self.classifiers, self.teachers, self.students = nn.ModuleDict(), nn.ModuleDict(), nn.ModuleDict()
        for modality, width in widths.items():  # in the official order, so that a seed gives the official start
            if (key := self._classifier_key(modality)) not in self.classifiers:
                self.classifiers[key] = nn.Linear(dim, outputs)
            self.teachers[modality] = LinearChain(teacher_widths(width, dim, settings.width_divisor))
            self.students[modality] = nn.Linear(width, dim)
        self.fusion = nn.Sequential(
            nn.Linear(len(widths) * dim, dim), nn.LeakyReLU(settings.fusion_slope), nn.Linear(dim, num_labels)
        )
        if settings.glorot:
            self.apply(_start_glorot)
        self._freeze_what_no_loss_trains()

    def forward(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Raw features [N, W] by modality -> the students' vectors [N, D]."""
        return {modality: self._finish(student(features[modality])) for modality, student in self.students.items()}

    def teach(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Raw features [N, W] by modality -> the teachers' vectors [N, D]."""
        return {modality: self._finish(teacher(features[modality])) for modality, teacher in self.teachers.items()}

    def losses(
        self,
        features: Mapping[str, Tensor],
        labels: Tensor,
        counts: Tensor | None = None,
        students: Mapping[str, Tensor] | None = None,
    ) -> dict[str, Tensor]:
        """Compute SGFD's losses of the distinct items of a batch.

        Args:
            features: raw features [B, W] by modality.
            labels: int64 [B], from 0; below 0 where an item has no category: it then counts in the distillation alone.
            counts: [B], how often each item occurs in the batch, and so counts; None: once.
            students: the students' vectors [B, D] by modality of these items, where the host has them already.

        Returns:
            the terms with their weights, to be added up: `class`, `fusion`, `response`, `feature`; without those of weight 0.
        """
        weights = {
            "class": self.settings.class_weight,
            "fusion": self.settings.class_weight,
            "response": self.settings.response_weight,
            "feature": self.settings.feature_weight,
        }
        wanted = [name for name, weight in weights.items() if weight]
        if not wanted:
            return {}
        terms = self.terms(features, labels, counts, students, wanted)
        losses: dict[str, Tensor] = {}
        for name in wanted:
            if name == "fusion":
                losses[name] = weights[name] * terms[name]
                continue
            modalities = self._responding if name == "response" else self.modalities
            of_modalities = reduce(add, (terms[f"{name}_{modality}"] for modality in modalities))
            losses[name] = weights[name] / len(modalities) * of_modalities
        return losses

    def terms(
        self,
        features: Mapping[str, Tensor],
        labels: Tensor,
        counts: Tensor | None = None,
        students: Mapping[str, Tensor] | None = None,
        wanted: list[str] | tuple[str, ...] = ("class", "fusion", "response", "feature"),
    ) -> dict[str, Tensor]:
        """Compute the wanted terms without their weights, takes what `losses` takes.

        Returns:
            `class_MODALITY`, `response_MODALITY` and `feature_MODALITY`, and `fusion`.
        """
        settings = self.settings
        teachers = self.teach(features)
        if students is None:
            students = self(features) if {"response", "feature"} & set(wanted) else {}
        counts = torch.ones_like(labels) if counts is None else counts
        terms = {}
        for modality in self.modalities:
            teacher, classify = teachers[modality], self.classifier(modality)
            if {"class", "response"} & set(wanted):
                logits = _at_least_float32(classify(teacher))  # [B, L]
            if "class" in wanted:
                inputs = logits.softmax(-1) if settings.class_loss_on == "probabilities" else logits
                terms[f"class_{modality}"] = self._cross_entropy(inputs, labels, counts)
            if "response" in wanted:
                of_teacher = logits.detach() if settings.detach_teacher else logits
                of_student = _at_least_float32(classify(students[modality]))
                terms[f"response_{modality}"] = _mean(
                    response_loss(of_teacher, of_student, settings.temperature, settings.response), counts
                )
            if "feature" in wanted:
                target = teacher.detach() if settings.detach_teacher else teacher
                terms[f"feature_{modality}"] = _mean((students[modality] - target).square().mean(-1), counts)
        if "fusion" in wanted:
            terms["fusion"] = self._cross_entropy(self.fuse(teachers), labels, counts)
        return terms

    def classifier(self, modality: str) -> nn.Linear:
        """The classifier of a modality's teacher and student."""
        return cast(nn.Linear, self.classifiers[self._classifier_key(modality)])  # torch does not say what its dicts hold

    def fuse(self, teachers: Mapping[str, Tensor]) -> Tensor:
        """The teachers' vectors [B, D] by modality -> logits [B, L] of an item's category."""
        return _at_least_float32(self.fusion(torch.cat([teachers[modality] for modality in self.fusion_order], -1)))

    @property
    def _responding(self) -> list[str]:
        """The modalities whose response loss counts."""
        return self.fusion_order[-1:] if self.settings.last_response_for_all else self.modalities

    def _freeze_what_no_loss_trains(self):
        """Say of parts whose losses have weight 0 that they get no gradient, which parallel training must know."""
        settings = self.settings
        classes, responses, features = (w > 0 for w in (settings.class_weight, settings.response_weight, settings.feature_weight))
        self.fusion.requires_grad_(classes)
        self.classifiers.requires_grad_(classes or responses)
        for modality, teacher in self.teachers.items():
            responds = responses and modality in self._responding
            teacher.requires_grad_(classes or ((responds or features) and not settings.detach_teacher))

    def _classifier_key(self, modality: str) -> str:
        return "shared" if self.settings.shared_classifier else modality

    def _finish(self, vectors: Tensor) -> Tensor:
        vectors = _at_least_float32(vectors)
        if self.settings.final_slope is not None:
            vectors = F.leaky_relu(vectors, self.settings.final_slope)
        return F.normalize(vectors, dim=-1) if self.settings.normalize else vectors

    def _cross_entropy(self, logits: Tensor, labels: Tensor, counts: Tensor) -> Tensor:
        outputs, known = logits.shape[1], labels >= 0
        if self.settings.class_outputs is not None:
            known = known & (labels < outputs)
        losses = F.cross_entropy(logits, torch.where(known, labels, 0), reduction="none")
        counts = counts * known
        return (losses * counts).sum() if self.settings.summed else _mean(losses, counts)


Extractor = RawFeatures | SgfdExtractor  # what a host can have


class LinearChain(nn.ModuleList):
    """Linear layers with nothing between them, folded into one where that costs less (the same mathematics).

    Args:
        widths: of the input, between the layers, and of the output.
    """

    def __init__(self, widths: list[int]):
        super().__init__(nn.Linear(width, narrower) for width, narrower in pairwise(widths))
        products = [width * narrower for width, narrower in pairwise(widths)]
        # Multiplications: the chain takes sum(products) a row; folded it takes widths[0] * widths[-1], and the folding once.
        self._saved_a_row = sum(products) - widths[0] * widths[-1]
        self._folding = widths[-1] * sum(products[:-1])

    def forward(self, inputs: Tensor) -> Tensor:
        """[B, W] -> [B, D]."""
        if len(inputs) * self._saved_a_row > self._folding:
            return F.linear(inputs, *self.folded())
        for layer in self:
            inputs = layer(inputs)
        return inputs

    def folded(self) -> tuple[Tensor, Tensor]:
        """The one layer that does the same: weight [D, W] and bias [D]."""
        *earlier, last = cast(list[nn.Linear], list(self))  # nor what its lists do
        weight: Tensor = last.weight
        bias: Tensor = last.bias
        for layer in reversed(earlier):
            weight, bias = weight @ layer.weight, weight @ layer.bias + bias
        return weight, bias


def teacher_widths(width: int, dim: int, divisor: int) -> list[int]:
    """The widths of a teacher from W down to D: divided while the result is above D, ending at D.

    Deviation: the official layers declare width // divisor * divisor inputs, so a width that cannot be divided fails at the first
    step; here every layer takes what the one before it gives.
    """
    widths = [width]
    while widths[-1] // divisor > dim:
        widths.append(widths[-1] // divisor)
    return [*widths, dim]


def response_loss(teacher: Tensor, student: Tensor, temperature: float, form: str) -> Tensor:
    """How far the student's class probabilities are from the teacher's [B]; from logits [B, L], `form` as in `SgfdSettings`."""
    teacher, student = teacher / temperature, student / temperature
    if form == "kl":
        divergence = F.kl_div(student.log_softmax(-1), teacher.log_softmax(-1), reduction="none", log_target=True)
        return temperature**2 * divergence.sum(-1)
    difference = teacher.softmax(-1) - student.softmax(-1)
    return (difference.square() if form == "squared" else difference.abs()).mean(-1)


def _mean(losses: Tensor, counts: Tensor) -> Tensor:
    """Mean of the losses [B] of items that occur `counts` [B] times; 0 where there is none."""
    return (losses * counts).sum() / counts.sum().clamp(min=1)


def _at_least_float32(tensor: Tensor) -> Tensor:
    """Small differences of softmaxes and of unit vectors do not survive 16 bits."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def _start_glorot(module: nn.Module):
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        nn.init.zeros_(module.bias)
