"""What SGFD can be told: the settings of its extractor, the official copies, and what the configuration of a run may change.

Deviation: the paper's equations could not be had. The official code has a copy of the extractor for each of its three hosts; where
they differ, a field of `SgfdSettings` says so: `BM3_COPY`, `GRCN_COPY`, `MAML_COPY`.
"""

from dataclasses import dataclass, replace
from typing import Literal

from odmt.config import require


@dataclass(frozen=True)
class SgfdSettings:
    """What SGFD can be told; the defaults are the official BM3 copy.

    Attributes:
        class_weight: of the class and the fusion loss (official `ce_weight`).
        response_weight: of the response loss. Choice: the official `kd_weight` is both this and the next.
        feature_weight: of the feature loss.
        temperature: t of the response loss, constant (official `t_decay`; nothing decays).
        class_loss_on: what the classifiers' cross-entropy takes. Deviation from what it expects, as in the official code:
            `probabilities`, so that softmax is applied twice; `logits` is the usual loss.
        detach_teacher: keep the response and the feature loss from training the teacher. Officially nothing is detached: they pull
            the teacher to the student as well, and response trains the classifier through both.
        response: how far the student's class probabilities are from the teacher's: `l1` (mean of absolute differences, no t^2),
            `squared` (mean of squared ones; the MAML copy), `kl` (KL(teacher || student) * t^2, the usual form).
        width_divisor: of the teacher's widths, see `teacher_widths`.
        final_slope: LeakyReLU's slope at the end of teacher and student; None: no activation.
        normalize: divide every vector by its length.
        fusion_order: the order in which the teachers' vectors enter the fusion. Choice: others follow as they were given.
        fusion_slope: LeakyReLU's slope inside the fusion; 0 is ReLU.
        shared_classifier: one classifier for all modalities instead of one each.
        class_outputs: outputs of the classifiers whatever the data; None: as many as there are labels. Deviation: an item whose
            label is beyond them has no class loss; TensorFlow's kernel reports 0 for it too but hands back a gradient.
        summed: add the class and the fusion loss up over the batch instead of averaging them.
        last_response_for_all: the response loss of the last modality of `fusion_order` stands for the mean over all.
        glorot: start from Glorot uniform weights and zero biases instead of PyTorch's default.
    """

    class_weight: float = 0.2
    response_weight: float = 0.2
    feature_weight: float = 0.2
    temperature: float = 10.0
    class_loss_on: Literal["probabilities", "logits"] = "probabilities"
    detach_teacher: bool = False
    response: Literal["l1", "squared", "kl"] = "l1"
    width_divisor: int = 4
    final_slope: float | None = 0.01
    normalize: bool = True
    fusion_order: tuple[str, ...] = ("text", "image")
    fusion_slope: float = 0.01
    shared_classifier: bool = False
    class_outputs: int | None = None
    summed: bool = False
    last_response_for_all: bool = False
    glorot: bool = False

    def __post_init__(self):
        if self.width_divisor < 2:
            raise ValueError(f"width_divisor {self.width_divisor} makes no width smaller; take 2 or more")
        if self.temperature <= 0:
            raise ValueError(f"temperature {self.temperature} is not positive")


BM3_COPY = SgfdSettings()
GRCN_COPY = SgfdSettings(
    final_slope=None, fusion_order=("image", "text"), class_weight=1.0, response_weight=1.0, feature_weight=1.0
)
MAML_COPY = SgfdSettings(
    class_weight=0.1,
    response_weight=0.1,
    feature_weight=0.1,
    response="squared",
    width_divisor=2,
    final_slope=0.2,
    normalize=False,
    fusion_order=("image", "text"),
    fusion_slope=0.0,
    shared_classifier=True,
    class_outputs=25,
    summed=True,
    last_response_for_all=True,
    glorot=True,
)

COPIES = {"bm3": BM3_COPY, "grcn": GRCN_COPY, "maml": MAML_COPY}


@dataclass
class SgfdConfig:
    """Semantic-guided feature distillation: how teacher and student learn; null: as the official copy has it.

    Attributes:
        copy: the official copy that the other settings change. Default: of `bm3` and `grcn` their own; of any other model BM3's, of
            `maml` too, whose own is full of accidents.
        class_weight: of the losses by which the teachers learn the categories (official `ce_weight`).
        response_weight: of the difference between the class probabilities of student and teacher (official `kd_weight`).
        feature_weight: of the difference between their vectors (official `kd_weight` too).
        temperature: of the class probabilities (official `t_decay`; nothing decays).
        class_loss_on: what the classifiers' cross-entropy takes: `probabilities` (officially: softmax twice) or `logits`.
        detach_teacher: keep the distillation from training the teacher; officially it trains both.
        response: `l1` (officially) and `squared` (the official MAML copy) are means of differences, `kl` is KL(teacher || student)
            times the squared temperature.
        width_divisor: each layer of the teacher is so many times narrower than the one before.
        final_slope: LeakyReLU's slope at the end of teacher and student; 1 is no activation.
    """

    copy: Literal["bm3", "grcn", "maml"] | None = None
    class_weight: float | None = None
    response_weight: float | None = None
    feature_weight: float | None = None
    temperature: float | None = None
    class_loss_on: Literal["probabilities", "logits"] | None = None
    detach_teacher: bool | None = None
    response: Literal["l1", "squared", "kl"] | None = None
    width_divisor: int | None = None
    final_slope: float | None = None

    def __post_init__(self):
        for key in ("class_weight", "response_weight", "feature_weight"):
            value = getattr(self, key)
            require(value is None or value >= 0, f"sgfd.{key}", "must not be negative")
        require(self.temperature is None or self.temperature > 0, "sgfd.temperature", f"{self.temperature} is not positive")
        require(self.width_divisor is None or self.width_divisor >= 2, "sgfd.width_divisor", "must be 2 or more")

    @property
    def given(self) -> list[str]:
        """Names of what is set."""
        return [name for name, value in vars(self).items() if value is not None]

    def settings(self, default_copy: str) -> SgfdSettings:
        """The settings of the copy, with those that are set here instead."""
        changes = {name: getattr(self, name) for name in self.given if name != "copy"}
        return replace(COPIES[self.copy or default_copy], **changes)
