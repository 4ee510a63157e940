"""Settings that every family of models shares, with types, defaults and help.

A family's tree (`odmt.sequential.config`) is made of these and its own; `odmt.config_files` reads it.
"""

import math
import re
from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal

from odmt.errors import InputError

SAVE_EVERY = re.compile(r"(\d+) ?epochs?|(\d+(?:\.\d+)?) ?min(?:utes?)?")

Split = Literal["valid", "test"]  # of what is held out

MAX_NAME_BYTES = 240  # of a folder's name; file systems have 255, and names of files beside it end in a suffix


def require(condition: bool, key: str, problem: str):
    """Raise an `InputError` that names the key, unless the condition holds."""
    if not condition:
        raise InputError(f"config key {key}: {problem}")


def require_name(name: str, key: str, remedy: str):
    """Raise an `InputError` unless a text can be the name of a folder: one part of a path, so that nothing leaves its folder."""
    require(bool(name.strip()), key, f"{name!r} is empty: give a name")
    require(name not in (".", "..") and "/" not in name, key, f"{name!r} is a path and no name; {remedy}")
    require(name.isprintable(), key, f"{name!r} has characters that cannot be seen")
    length = len(name.encode(errors="surrogateescape"))
    require(length <= MAX_NAME_BYTES, key, f"{name[:20]!r}... has {length} bytes: {MAX_NAME_BYTES} at most")


@dataclass
class DataConfig:
    """Which dataset is read; a family adds its own.

    Attributes:
        dataset: name of the dataset's folder.
        root: folder that holds the datasets.
    """

    dataset: str = "demo"
    root: str = "data"

    def __post_init__(self):
        require_name(self.dataset, "data.dataset", "give the folder above it as data.root")
        require(bool(self.root) and "\0" not in self.root, "data.root", "name the folder that holds the datasets")

    @property
    def folder(self) -> Path:
        """The dataset's folder."""
        return Path(self.root) / self.dataset


@dataclass
class TrainConfig:
    """How it is trained; a family adds its own, and says of these what is particular to it.

    Attributes:
        epochs: passes over the training data; every one is validated.
        batch_size: of a step.
        lr: the optimizer's step size.
        warm_up_epochs: over so many the step size rises to `lr`, step by step.
        decay: what follows: `none` keeps the step size, `cosine` lets it fall to zero at the last of `epochs`.
        weight_decay: the optimizer's decay, on every parameter.
        clip_norm: the largest gradient norm; null: any.
        precision: autocast type; `auto` is bf16 on a GPU that has it, fp16 on another GPU, fp32 on a CPU.
        device: `auto` takes the GPU where there is one.
        seed: of all that is random: weights, batches, negatives, dropout.
        patience: stop after so many epochs that bring no better metric of selection; null: never.
        test_curve: note the test metrics of every epoch too, to draw them (Figure 2); nothing is chosen by them.
        tracker: where the run is followed beside its own files, if that library is installed (`odmt.trackers`).
        save_every: how old what --resume goes on from may be, such as `2min` or `5epochs`. A kill loses the epoch under way and,
            of finished epochs, at most so much; with minutes all of it together, where epochs are shorter. An epoch that takes
            longer is saved when it ends, while the next one begins.
    """

    epochs: int = 30
    batch_size: int | None = None
    lr: float = 1e-3
    warm_up_epochs: float = 0.0
    decay: Literal["none", "cosine"] = "none"
    weight_decay: float = 0.0
    clip_norm: float | None = None
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    device: Literal["auto", "cuda", "cpu"] = "auto"
    seed: int = 1
    patience: int | None = None
    test_curve: bool = False
    tracker: Literal["tensorboard", "wandb", "mlflow", "none"] = "tensorboard"
    save_every: str = "1min"

    def __post_init__(self):
        require(self.epochs >= 1, "train.epochs", "must be 1 or more")
        for key in ("lr", "clip_norm"):
            require(getattr(self, key) is None or getattr(self, key) > 0, f"train.{key}", "must be positive")
        require(
            0 <= self.warm_up_epochs < self.epochs,
            "train.warm_up_epochs",
            f"{self.warm_up_epochs:g} is not from 0 to less than train.epochs, {self.epochs}",
        )
        require(self.weight_decay >= 0, "train.weight_decay", "must not be negative")
        require(self.seed >= 0, "train.seed", "must not be negative")
        require(self.seed < 2**63, "train.seed", "must be below 2^63")
        require(self.patience is None or self.patience >= 1, "train.patience", "must be 1 or more, or null")
        every = SAVE_EVERY.fullmatch(self.save_every)
        require(
            every is not None and any(map(float, filter(None, every.groups()))),
            "train.save_every",
            f"{self.save_every!r} is no time; 1min, 5epochs",
        )

    @property
    def save_interval(self) -> tuple[float, float]:
        """Epochs and seconds after which a run is to be saved, one of them without end."""
        every = SAVE_EVERY.fullmatch(self.save_every)
        assert every is not None, "it has been checked"
        epochs, minutes = every.groups()
        return float(epochs or math.inf), 60 * float(minutes or math.inf)


@dataclass
class EvaluationConfig:
    """What is measured.

    Attributes:
        cutoffs: k of the metrics.
        metrics: what is worked out at every cut-off; the mean over users.
    """

    cutoffs: list[int] = field(default_factory=lambda: [10, 20])
    metrics: list[Literal["recall", "ndcg", "precision", "hit", "mrr"]] = field(default_factory=lambda: ["recall", "ndcg"])

    def __post_init__(self):
        require(
            bool(self.cutoffs) and min(self.cutoffs, default=0) >= 1, "evaluation.cutoffs", "name cut-offs of 1 or more, [10, 20]"
        )
        require(bool(self.metrics), "evaluation.metrics", "name at least one, such as [recall, ndcg]")


class RunConfig(ABC):
    """One training run; a family's tree is a dataclass of these sections and its own.

    Attributes:
        family: of models.
        data: what is read.
        train: how it is trained.
        evaluation: what is measured.
        runs: folder of all run folders; this run's is RUNS/DATASET/NAME.
        name: name of the run.
        tables: files of a dataset's interactions, one of which a dataset must have.
        one_process: why a run cannot be dealt out to several processes; empty where it can.
    """

    tables: ClassVar[tuple[str, ...]]
    one_process: ClassVar[str] = ""

    family: str
    data: DataConfig
    train: TrainConfig
    evaluation: EvaluationConfig
    runs: str
    name: str

    def __post_init__(self):
        require_name(self.name, "name", "give the folder above all runs as runs")
        require(bool(self.runs) and "\0" not in self.runs, "runs", "name the folder of all run folders")
        split, _, metric = self.selection.partition("/")
        name, _, cutoff = metric.rpartition("/")[2].partition("@")
        require(
            int(cutoff) in self.evaluation.cutoffs and name in self.evaluation.metrics,
            "evaluation",
            f"the best epoch is chosen by {split} {name}@{cutoff}: keep {cutoff} in cutoffs and {name} in metrics",
        )

    @property
    @abstractmethod
    def selection(self) -> str:
        """The metric that chooses the best epoch and the best run, SPLIT/SOURCE/NAME@CUTOFF."""

    @property
    def selecting_split(self) -> Split:
        """The split whose metric that is."""
        return "test" if self.selection.startswith("test/") else "valid"

    @property
    @abstractmethod
    def needs(self) -> list[str]:
        """What is read of the items: `text` and `image`, whose features the dataset must have, and `labels`."""

    @abstractmethod
    def described_by(self, available: Collection[str]) -> dict[str, object]:
        """Settings under which items are described by what a dataset has of `text` and `image`; {} where it has all of them.

        Raises:
            InputError: nothing would be left.
        """

    @property
    def folder(self) -> Path:
        """The run's folder."""
        return Path(self.runs) / self.data.dataset / self.name

    def check_processes(self, number: int):
        """Refuse several processes where a run cannot be dealt out to them.

        Raises:
            InputError: saying why.
        """
        if number > 1 and self.one_process:
            raise InputError(
                f"{number} processes: {self.one_process}; start it in one, and several trials side by side with a launcher"
            )


def left_of(key: str, wanted: Sequence[str], available: Collection[str]) -> dict[str, object]:
    """What is left of a list of sources on a dataset, as a setting; {} where all are.

    Raises:
        InputError: none is left.
    """
    left = [source for source in wanted if source in available]
    if wanted and not left:
        raise InputError(f"the dataset has no {' and no '.join(wanted)}")
    return {} if left == wanted else {key: left}
