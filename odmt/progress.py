"""How far a run is, as its checkpoint notes it, and what its numbers depend on, which stays the same to its last epoch."""

import math
from dataclasses import dataclass, field
from pathlib import Path

from odmt import remedies
from odmt.errors import InputError
from odmt.files import parse_json, read_text
from odmt.task import Task

# What checkpoints of earlier versions call the same.
RENAMED = {"odmt.trainer.build_model": "odmt.sequential.task.build_model"}


@dataclass
class Progress:
    """Where a run stands after an epoch.

    Attributes:
        epoch: finished epochs.
        best_epoch: the one with the best validation.
        history: a line of metrics an epoch.
        scaler: state of the fp16 loss scaling.
        task: state of the task beyond weights and optimizer.
        basis: what the numbers depend on beside the configuration, by name (`Run.fingerprint`).
        described: data and model in words, to tell what differs.
    """

    epoch: int = 0
    best_epoch: int = 0
    history: list[dict] = field(default_factory=list)
    scaler: dict = field(default_factory=dict)
    task: dict = field(default_factory=dict)
    basis: dict[str, str] = field(default_factory=dict)
    described: str = ""

    @classmethod
    def read(cls, metadata: dict, path: Path, selection: str) -> "Progress":
        """Take a checkpoint's metadata for what they say, if they can be so.

        Raises:
            InputError: they cannot; naming the file.
        """
        try:
            progress = cls(**metadata)
            epochs, best = range(1, len(progress.history) + 1), progress.best_epoch
            counted = [line["epoch"] for line in progress.history] == [*epochs] and type(best) is int and best in epochs
            sound = counted and progress.epoch == len(epochs) and math.isfinite(progress.history[best - 1][selection])
            dicts = all(isinstance(part, dict) for part in (progress.scaler, progress.task, progress.basis))
        except (TypeError, KeyError, AttributeError) as error:
            raise InputError(f"{path}: not what a run notes ({error}); {remedies.train_anew()}") from error
        if not sound or not dicts:
            raise InputError(f"{path}: epochs, metrics and best epoch do not fit together; {remedies.train_anew()}")
        return progress

    def best(self, selection: str) -> float:
        """The best value so far of the metric that selects."""
        return self.history[self.best_epoch - 1][selection] if self.best_epoch else -1.0


def read_history(run: Path) -> list[dict]:
    """The metrics of a run's epochs so far, the lines of its metrics.jsonl; none before the first has ended.

    Args:
        run: its folder.

    Raises:
        InputError: they cannot be read.
    """
    path, remedy = run / "metrics.jsonl", f"remove {run} and train it again"
    if not path.exists():
        return []
    lines = [parse_json(line, path, remedy) for line in read_text(path, remedy).splitlines()]
    if not all(isinstance(line, dict) for line in lines):
        raise InputError(f"{path}: damaged: a line is no metrics; {remedy}")
    return lines


def check_basis(path: Path, noted: dict, now: dict[str, str], task: Task, remedy: str):
    """Refuse weights that were trained on something else.

    Args:
        path: where they lie, for the message.
        noted: what is noted beside them: `basis`, what they were trained on by name, and `described`, data and model in words.
        now: what there is.
        task: of now.
        remedy: what to do, unless what was is brought back.

    Raises:
        InputError: naming what differs.
    """
    renamed = RENAMED | task.renamed()
    before = {key: renamed.get(value, value) for key, value in noted.get("basis", {}).items()}
    if "model" in before and before["model"] != now["model"]:
        raise InputError(
            f"{path}: trained with other model {before['model']} (now {now['model']}); a model of one's own is continued and read "
            "in Python alone, where train and load_run take the function that makes it as build="
        )
    # What an earlier version did not note cannot differ from what it noted.
    differing = [key for key in before if before[key] != now.get(key)]
    if "processes" in differing:
        number = before["processes"]
        several = f"{number} processes" if number != "1" else "one process"
        raise InputError(
            f"{path}: trained by {several} (now {now['processes']}), each of which sees train.batch_size users a step; "
            f"start {several} again{remedies.processes(number)}, {remedy}"
        )
    if differing:
        values = ", ".join(f"{key} {before[key]} (now {now.get(key)})" for key in differing)
        words = "; ".join(_in_words(key, before[key], now.get(key)) for key in differing)
        then = f"; then {noted['described']}; now {task}" if noted.get("described", str(task)) != str(task) else ""
        of_data = not set(differing) <= {"precision", "compilation"}
        place = f" (data are now read from {task.config.data.folder})" if of_data else ""
        raise InputError(f"{path}: trained with other {values}; bring that back{place}, {remedy}. {words}{then}")


def _in_words(key: str, before: str, now: str | None) -> str:
    """What differs between two starts of a run, for readers to whom a hash says nothing."""
    name, _, kind = key.partition(" ")
    match key, kind:
        case "interactions", _:
            return "interactions: the dataset's users, items, or their order are others"
        case "precision", _:
            return f"precision: set train.precision as it was, {before}"
        case "compilation", _:
            return f"compilation: set train.compile as it was, {before}, which drew dropout otherwise"
        case "labels", _:
            return "labels: the items' categories are others"
        case _, "features":
            return f"{name} features: made by another encoder, or in another way"
        case _, "content":
            return f"{name} content: the items' features, or what they were made from, are others"
    return f"{key}: it is another"
