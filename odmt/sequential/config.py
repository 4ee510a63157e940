"""Settings of the sequential models, with types, defaults and help; the defaults are the paper's ODMT."""

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from odmt import config as engine
from odmt.compilation import Mode, choose_mode
from odmt.config import EvaluationConfig, left_of, require
from odmt.distributed import World, choose_device
from odmt.features.sgfd_settings import SgfdConfig
from odmt.sequential.models.parts import BACKBONES, ITEM_ENCODERS, ItemEncoderPart

Source = Literal["id", "text", "image"]


@dataclass
class DataConfig(engine.DataConfig):
    """What is read.

    Attributes:
        max_seq_len: L, the positions a backbone sees; the last L + 3 interactions of a user are kept.
        min_seq_len: users with fewer interactions are dropped. Deviation: 5 as in the official code; the paper says "more than 5".
        popularity_power: exponent of the training counts in pop(i) of Eq. 6.
        negatives: whose items a prediction is scored against where several processes train: those of its own process's users
            (`local`, the paper's) or those of everybody's (`global`): then a step is that of one process with the whole batch.
        placement: where the frozen features live: `device` (as stored, on the GPU, or in RAM on a CPU), `pinned` (page-locked
            RAM, gathered one step ahead), `disk` (read from LMDB by threads, with a GPU one step ahead), `auto` (with a GPU the
            first that fits; on a CPU `disk`, since the page cache is RAM that all processes share).
        device_budget_gb: features up to this size (GB) are put on the device by `auto`.
        pinned_budget_gb: features up to this size (GB, of every process) are put into pinned RAM by `auto`.
    """

    max_seq_len: int = 12
    min_seq_len: int = 5
    popularity_power: float = 1.0
    negatives: Literal["local", "global"] = "local"
    placement: Literal["auto", "device", "pinned", "disk"] = "auto"
    device_budget_gb: float = 12.0
    pinned_budget_gb: float = 32.0

    def __post_init__(self):
        super().__post_init__()
        require(self.max_seq_len >= 2, "data.max_seq_len", f"{self.max_seq_len} is too short, take 2 or more")
        require(
            self.min_seq_len >= 4,
            "data.min_seq_len",
            "4 at least: two targets are held out, and two items must remain to learn from",
        )


@dataclass
class ModelConfig:
    """How items and users become vectors.

    Attributes:
        dim: D, the width of item vectors and states.
        sources: what an item is described by.
        item_encoder: `imt` (the ID-aware Multi-modal Transformer), `transformer` (one Transformer per modality), `dnn` (two
            layers on the CLS feature), `moe` (UniSRec's parametric-whitening adaptor on the CLS feature), `sgfd` (SGFD's student on
            the CLS feature, taught by the items' categories: the dataset needs labels.tsv).
        num_layers: Transformer layers of the item encoder (`imt`, `transformer`), and its heads, or as many as divide `dim`.
        id_encoder: `projected` (a table as wide as the features, projected to D, then a head) or `embedding` (a table of width D).
        id_init: what the projected ID table starts from; `concat` is the image and the text feature side by side. Default: mean.
        id_visible_to_modalities: let text and image tokens attend to the ID token (Table 3, w/o ID mask). Default: false.
        id_dropout: of the occurrences of items in training, the share whose ID vector is hidden, so that content learns to stand
            alone: for items that few have had, and new ones. With `fusion` early or sum, and a modality beside the ID.
        fusion: `separate` (a backbone and a loss per source, ODMT), `late` (a loss on the mean of the scores), `early` (one
            backbone on the mean of the item vectors), `sum` (on their sum, UniSRec), `fdsa` (an ID and a feature stack).
        ensemble: so many models side by side that begin at other weights, each with a loss of its own; their scores are averaged.
            With `fusion` early or sum.
        backbone: the sequence backbone.
        backbone_layers: Transformer layers of SASRec.
        backbone_heads: heads of SASRec.
        dropout: the pipeline's dropout.
    """

    dim: int = 768
    sources: list[Source] = field(default_factory=lambda: ["id", "text", "image"])
    item_encoder: Literal[*ITEM_ENCODERS] = "imt"  # type: ignore[valid-type]  # the names of a table, which are known at run time
    num_layers: int = 2
    id_encoder: Literal["projected", "embedding"] = "projected"
    id_init: Literal["random", "mean", "image", "text", "concat"] | None = None
    id_visible_to_modalities: bool | None = None
    id_dropout: float = 0.0
    fusion: Literal["separate", "late", "early", "sum", "fdsa"] = "separate"
    ensemble: int = 1
    backbone: Literal[*BACKBONES] = "sasrec"  # type: ignore[valid-type]  # the names of a table, which are known at run time
    backbone_layers: int = 2
    backbone_heads: int = 2
    dropout: float = 0.1

    def __post_init__(self):
        require(bool(self.sources), "model.sources", "name at least one of id, text, image")
        require(len(set(self.sources)) == len(self.sources), "model.sources", f"{self.sources} names a source twice")
        has_id, modalities = "id" in self.sources, [source for source in self.sources if source != "id"]
        imt = self.item_encoder == "imt"
        for key in ("dim", "num_layers", "ensemble", "backbone_layers", "backbone_heads"):
            require(getattr(self, key) >= 1, f"model.{key}", "must be 1 or more")
        require(0 <= self.dropout < 1, "model.dropout", f"{self.dropout} is not in [0, 1)")
        if self.backbone == "sasrec":
            require(self.dim % self.backbone_heads == 0, "model.dim", f"{self.dim} is no multiple of backbone_heads")
        require(
            bool(modalities) or not self._encoder.joint,
            "model.item_encoder",
            f"{self.item_encoder} needs text or image in model.sources; take `dnn` for IDs alone",
        )
        if imt:
            require(
                not has_id or self.id_encoder == "projected",
                "model.id_encoder",
                "the IMT needs the ID as a token: projected",
            )
        require(
            self.id_visible_to_modalities is None or (imt and has_id),
            "model.id_visible_to_modalities",
            "the ID mask exists only in the IMT with an ID source; set item_encoder=imt with id in sources, or leave it out",
        )
        projected = has_id and self.id_encoder == "projected"
        require(self.id_init is None or projected, "model.id_init", "needs id in model.sources and id_encoder=projected")
        for init, needed in {"text": {"text"}, "image": {"image"}, "concat": {"text", "image"}}.items():
            require(
                self.id_init != init or needed <= set(modalities),
                "model.id_init",
                f"{init} needs {sorted(needed)} in model.sources",
            )
        require(self.id_init != "mean" or bool(modalities), "model.id_init", "mean needs text or image in model.sources")
        require(
            self.ensemble == 1 or self.fusion in ("early", "sum"),
            "model.ensemble",
            f"needs items of one vector: model.fusion=early or sum, not {self.fusion}",
        )
        require(0 <= self.id_dropout < 1, "model.id_dropout", f"{self.id_dropout} is not in [0, 1)")
        require(
            self.id_dropout == 0 or (self.fusion in ("early", "sum") and has_id and bool(modalities)),
            "model.id_dropout",
            "needs items of one vector (model.fusion=early or sum) of which id and text or image in model.sources are parts",
        )
        if self.fusion == "fdsa":
            require(has_id and bool(modalities), "model.fusion", "fdsa needs id and text or image in model.sources")

    @property
    def needs(self) -> dict[str, Literal["tokens", "cls"]]:
        """What the item encoder reads of each modality: all tokens or the CLS token."""
        return {source: self._encoder.reads for source in self.sources if source != "id"}

    @property
    def learns_categories(self) -> bool:
        """Whether the item encoder learns from the items' categories, which a dataset may not have."""
        return self._encoder.learns_categories

    @property
    def noisy_items(self) -> bool:
        """Whether an item's vector is another one every time that it is encoded in training."""
        return bool(self.needs) and (self.id_dropout > 0 or self._encoder.is_stochastic(self.dropout))

    @property
    def _encoder(self) -> ItemEncoderPart:
        return ITEM_ENCODERS[self.item_encoder]


@dataclass
class DistillationConfig:
    """Online distillation between the sources (Eq. 7-10); in force with `model.fusion=separate`.

    Attributes:
        temperature: T.
        ramp_up_epochs: alpha, the epochs over which the weight w rises to 1.
        constant_weight: w in every epoch instead of the ramp-up; 0 trains the sources side by side without distillation.
        divergence: D(teacher -> student): `cross_entropy` with soft targets (official code) or `kl` (the paper's equation).
        detach_teacher: stop the gradient at the teacher; the official code lets it through.
    """

    temperature: float = 0.3
    ramp_up_epochs: int = 20
    constant_weight: float | None = None
    divergence: Literal["cross_entropy", "kl"] = "cross_entropy"
    detach_teacher: bool = False

    def __post_init__(self):
        require(self.temperature > 0, "distillation.temperature", f"{self.temperature} is not positive")
        require(
            self.ramp_up_epochs >= 1,
            "distillation.ramp_up_epochs",
            "1 at least; for a fixed weight set constant_weight",
        )
        require(
            self.constant_weight is None or self.constant_weight >= 0,
            "distillation.constant_weight",
            "must not be negative",
        )


@dataclass
class TrainConfig(engine.TrainConfig):
    """How it is trained, by AdamW; the rest is every family's.

    Attributes:
        epochs: passes over the users; every one is validated.
        batch_size: users per process and step. Deviation: the official script runs 128 on each of two GPUs; 128 is the paper's.
        lr: AdamW's step size.
        clip_norm: the largest gradient norm.
        compile: have PyTorch compile the step of a single process: `default`, `reduce-overhead` (CUDA graphs, on a GPU), `auto`
            (`default` for one process on a GPU, else `none`) or `none`. Batches are padded to few shapes; the first step of each
            takes minutes. On a CPU a compiled step is slower (BENCHMARKS.md).
    """

    batch_size: int = 128
    lr: float = 1e-4
    weight_decay: float = 0.1
    clip_norm: float = 5.0
    compile: Mode = "none"

    def __post_init__(self):
        require(self.batch_size >= 2, "train.batch_size", "must be 2 or more: the negatives are the other users' items")
        super().__post_init__()


@dataclass
class Config(engine.RunConfig):
    """One training run of a sequential model.

    Attributes:
        family: of models; the other keys are those of this family.
        data: what is read.
        model: how items and users become vectors.
        distillation: how the sources teach one another.
        sgfd: how the teachers of `model.item_encoder=sgfd` and their students learn.
        train: how it is trained.
        evaluation: what is measured.
        runs: folder of all run folders; this run's is RUNS/DATASET/NAME.
        name: name of the run.
    """

    tables: ClassVar = ("behaviours.tsv",)

    family: Literal["sequential"] = "sequential"
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    distillation: DistillationConfig = field(default_factory=DistillationConfig)
    sgfd: SgfdConfig = field(default_factory=SgfdConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    runs: str = "runs"
    name: str = "odmt"

    def __post_init__(self):
        super().__post_init__()
        require(
            self.model.fusion != "separate" or len(self.model.sources) > 1 or self.distillation.constant_weight == 0,
            "model.fusion",
            f"distillation needs two sources, model.sources is {self.model.sources}; set model.fusion=early",
        )
        require(
            self.model.learns_categories or not self.sgfd.given,
            f"sgfd.{self.sgfd.given[0] if self.sgfd.given else ''}",
            "changes nothing without model.item_encoder=sgfd",
        )

    @property
    def selection(self) -> str:
        """Validation recall@10 of the fused score."""
        return "valid/fused/recall@10"

    @property
    def needs(self) -> list[str]:
        """The modalities among the sources, and `labels` where categories teach."""
        return [*self.model.needs, *(["labels"] if self.model.learns_categories else [])]

    def described_by(self, available: Collection[str]) -> dict[str, object]:
        """Leave out the sources that a dataset does not have; IDs are always there."""
        return left_of("model.sources", self.model.sources, {"id", *available})

    def check_processes(self, number: int):
        """Refuse several processes that are to be compiled."""
        super().check_processes(number)
        choose_mode(self.train.compile, World(0, number, choose_device(self.train.device, "train.device=")))
