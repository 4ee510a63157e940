"""Settings of the models on the user-item graph, with types, defaults and help; a host's own stand beside its class."""

from collections.abc import Collection
from dataclasses import dataclass, field, fields
from typing import ClassVar, Literal

from odmt import config as engine
from odmt.config import left_of, require
from odmt.features.sgfd_settings import SgfdConfig
from odmt.graph.hosts import HOSTS
from odmt.graph.models.bm3 import BM3Settings
from odmt.graph.models.grcn import GRCNSettings
from odmt.graph.models.lightgcn import LightGCNSettings
from odmt.graph.models.maml import MAMLSettings

Modality = Literal["text", "image"]


@dataclass
class DataConfig(engine.DataConfig):
    """What is read: a dataset that is split (train.tsv, valid.tsv, test.tsv), or one of sequences.

    Attributes:
        leave_one_out: hold out the last two items of every sequence also where the dataset has a split of its own.
        max_seq_len: of sequences, as sequential models read them: the last `max_seq_len` + 3 items of a user are kept.
        min_seq_len: of sequences: users with fewer items are dropped.
    """

    leave_one_out: bool = False
    max_seq_len: int = 12
    min_seq_len: int = 5

    def __post_init__(self):
        super().__post_init__()
        require(self.max_seq_len >= 2, "data.max_seq_len", f"{self.max_seq_len} is too short, take 2 or more")
        require(self.min_seq_len >= 4, "data.min_seq_len", "4 at least: two items are held out, and two must remain to learn from")


@dataclass
class ModelConfig:
    """Which model.

    Attributes:
        host: `bm3`, `grcn` or `maml`, on which SGFD was published; `lightgcn` and `bprmf` use no features.
        extractor: how the host gets the items' content: `sgfd` (teacher and student), or `plain`, as the host's own paper has it
            (BM3: trained features and one layer; GRCN: one layer; MAML: the features themselves).
        modalities: what an item is described by. Choice: any of them, one alone too; officially it is both.
        dim: D, the width of embeddings and of what the extractor gives.
    """

    host: Literal[*HOSTS] = "bm3"  # type: ignore[valid-type]  # the names of a table, which are known at run time
    extractor: Literal["sgfd", "plain"] = "sgfd"
    modalities: list[Modality] = field(default_factory=lambda: ["image", "text"])
    dim: int = 128

    def __post_init__(self):
        require(self.dim >= 1, "model.dim", "must be 1 or more")
        require(len(set(self.modalities)) == len(self.modalities), "model.modalities", f"{self.modalities} names one twice")
        host = HOSTS[self.host]
        needed = host.uses_content and (host.plain_needs_content or self.extractor == "sgfd")
        require(bool(self.modalities) or not needed, "model.modalities", f"{self.host} needs text or image")

    @property
    def reads(self) -> list[str]:
        """The modalities whose features the model needs."""
        return list[str](self.modalities) if HOSTS[self.host].uses_content else []

    @property
    def needs_labels(self) -> bool:
        """Whether the items' categories are learnt."""
        return bool(self.reads) and self.extractor == "sgfd"


@dataclass
class TrainConfig(engine.TrainConfig):
    """How it is trained, by Adam; the rest is every family's.

    Attributes:
        epochs: passes over the train pairs; every one is validated.
        batch_size: pairs of a step; null: the host's, officially BM3 2048, GRCN 1024, MAML 256; 2048 of the others.
        num_negatives: sampled items a pair; null: the host's, MAML 4, GRCN and the baselines 1; BM3 has none.
        lr: Adam's step size.
        weight_decay: Adam's, on every parameter; none officially, where the hosts have penalties of their own.
    """

    epochs: int = 1000
    num_negatives: int | None = None
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "fp32"
    patience: int | None = 40

    def __post_init__(self):
        require(self.batch_size is None or self.batch_size >= 1, "train.batch_size", "must be 1 or more")
        require(self.num_negatives is None or self.num_negatives >= 1, "train.num_negatives", "must be 1 or more")
        super().__post_init__()


@dataclass
class EvaluationConfig(engine.EvaluationConfig):
    """What is measured.

    Attributes:
        selection: what chooses the best epoch; `test`, as the authors did, makes the result an estimate of nothing.
        published: give beside them what the official evaluators of the host would print; nothing is chosen by it.
    """

    cutoffs: list[int] = field(default_factory=lambda: [10, 20, 50])
    selection: engine.Split = "valid"
    published: bool = False


@dataclass
class Config(engine.RunConfig):
    """One training run of a model on the user-item graph.

    Attributes:
        family: of models; the other keys are those of this family.
        data: what is read.
        model: which model.
        sgfd: teacher and student.
        bm3: BM3's own, with `model.host=bm3`.
        grcn: GRCN's own, with `model.host=grcn`.
        maml: MAML's own, with `model.host=maml`.
        lightgcn: those of `model.host=lightgcn` and, but for the layers, of `bprmf`.
        train: how it is trained.
        evaluation: what is measured.
        runs: folder of all run folders; this run's is RUNS/DATASET/NAME.
        name: name of the run.
    """

    tables: ClassVar = ("train.tsv", "behaviours.tsv")
    one_process: ClassVar = "a model on the graph trains in one, since a step needs the whole graph and all items"

    family: Literal["graph"] = "graph"
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    sgfd: SgfdConfig = field(default_factory=SgfdConfig)
    bm3: BM3Settings = field(default_factory=BM3Settings)
    grcn: GRCNSettings = field(default_factory=GRCNSettings)
    maml: MAMLSettings = field(default_factory=MAMLSettings)
    lightgcn: LightGCNSettings = field(default_factory=LightGCNSettings)
    train: TrainConfig = field(default_factory=TrainConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    runs: str = "runs"
    name: str = "graph"

    def __post_init__(self):
        super().__post_init__()
        name, host = self.model.host, HOSTS[self.model.host]
        for section in dict.fromkeys(part.section for part in HOSTS.values() if part.section):
            idle = [key for key in _changed(getattr(self, section)) if section != host.section or key in host.idle]
            require(not idle, f"{section}.{idle[0] if idle else ''}", f"changes nothing with model.host={name}")
        idle = [key for key in ("extractor", "modalities") if key in _changed(self.model)]
        require(
            host.uses_content or not idle,
            f"model.{idle[0] if idle else ''}",
            f"changes nothing with model.host={name}, which uses no features",
        )
        given = self.sgfd.given
        require(
            self.model.needs_labels or not given,
            f"sgfd.{given[0] if given else ''}",
            "changes nothing without model.extractor=sgfd and a host that uses features",
        )
        require(
            self.train.num_negatives is None or host.num_negatives > 0,
            "train.num_negatives",
            f"changes nothing: {host.label} samples no negatives",
        )

    @property
    def batch_size(self) -> int:
        """Pairs of a step."""
        return self.train.batch_size or HOSTS[self.model.host].batch_size

    @property
    def num_negatives(self) -> int:
        """Sampled items a pair."""
        return self.train.num_negatives or HOSTS[self.model.host].num_negatives

    @property
    def selection(self) -> str:
        """Recall@20, on validation unless the configuration says otherwise."""
        return f"{self.evaluation.selection}/fused/recall@20"

    @property
    def needs(self) -> list[str]:
        """The modalities that the host uses, and `labels` where categories teach."""
        return [*self.model.reads, *(["labels"] if self.model.needs_labels else [])]

    def described_by(self, available: Collection[str]) -> dict[str, object]:
        """Leave out the modalities that a dataset does not have."""
        return left_of("model.modalities", self.model.reads, available)


def _changed(settings) -> list[str]:
    """Names of the settings that are not as by default."""
    default = type(settings)()
    return [name for name in (field.name for field in fields(settings)) if getattr(settings, name) != getattr(default, name)]
