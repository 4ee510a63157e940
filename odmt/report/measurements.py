"""What finished runs measured: means over seeds, curves, and metrics by user for comparisons."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from odmt.checkpoint import load_tensors
from odmt.errors import InputError
from odmt.launch.trials import Trial
from odmt.metrics import per_user
from odmt.report.expansion import Cell, chosen, result_of
from odmt.report.request import Request
from odmt.result import MOST_POPULAR

log = logging.getLogger(__name__)

NAN = float("nan")


@dataclass(frozen=True)
class Measurement:
    """The finished runs of a cell; false where there are none: a gap.

    Attributes:
        cell: which row on which dataset.
        trials: those that are finished, one a seed.
        results: content of their result.json.
    """

    cell: Cell
    trials: list[Trial]
    results: list[dict]

    def __bool__(self) -> bool:
        return bool(self.results)

    def mean(self, metric: str) -> float:
        """Mean over seeds of a test metric of the fused scores such as `recall@10`; not a number in a gap."""
        return float(np.mean(self._values(metric))) if self else NAN

    def std(self, metric: str) -> float:
        """Standard deviation over seeds (n - 1); not a number with fewer than two."""
        return float(np.std(self._values(metric), ddof=1)) if len(self.results) > 1 else NAN

    @property
    def selection(self) -> str:
        """The metric that chose the epoch, SPLIT/SOURCE/NAME@CUTOFF, and the point of a search."""
        return self.results[0].get("selection", self.trials[0].config.selection) if self else ""

    @property
    def settings(self) -> dict[str, object]:
        """The settings that a search chose, by key."""
        return {key: self.trials[0].overrides[key] for key in self.cell.points[0]} if self else {}

    def groups(self, source: str = "fused") -> dict[int, dict]:
        """By popularity group of the target (Figure 4): its `users`, its `meaning` and the mean over seeds of its `recall@10`.

        Args:
            source: whose; `MOST_POPULAR`, which earlier versions did not note, is there too.
        """
        groups = [result["test_groups"] for result in self.results]
        meanings = self.results[0].get("groups", {}) if self else {}
        return {
            int(group): {
                "users": first["users"],
                "meaning": meanings.get(group, ""),
                "recall@10": float(np.mean([by[group][f"{source}/recall@10"] for by in groups])),
            }
            for group, first in (groups[0] if self else {}).items()
            if all(f"{source}/recall@10" in by[group] for by in groups)
        }

    def curve(self, metric: str) -> np.ndarray:
        """Mean over seeds of a metric after every epoch [epochs]; epochs that one seed did not reach are left out."""
        logs = [trial.history() for trial in self.trials]
        shortest = min(map(len, logs), default=0)
        return np.array([[line[metric] for line in log[:shortest]] for log in logs]).mean(0) if self else np.empty(0)

    def user_metrics(self, metrics: Sequence[str]) -> dict[str, np.ndarray]:
        """Metrics such as `recall@10` of every test user [U], means over seeds."""
        tensors = [load_tensors(trial.folder / "ranks.safetensors")[0] for trial in self.trials]
        return {metric: np.mean([_by_user(metric, found) for found in tensors], 0) for metric in metrics}  # [seeds, U] -> [U]

    def held_out(self) -> tuple[np.ndarray, np.ndarray]:
        """The test items of all users [P] and where each user's begin [U + 1]."""
        found = load_tensors(self.trials[0].folder / "ranks.safetensors")[0]
        return found["test/target"].numpy(), _offsets(found)

    def _values(self, metric: str) -> list[float]:
        return [result["test"][f"fused/{metric}"] for result in self.results]


def _by_user(metric: str, saved: dict[str, torch.Tensor]) -> np.ndarray:
    name, _, cutoff = metric.partition("@")
    return per_user(name, saved["test/fused"].numpy().astype(np.float64), int(cutoff), _offsets(saved))


def _offsets(saved: dict[str, torch.Tensor]) -> np.ndarray:
    """Where users begin; earlier versions saved no offsets: one target a user."""
    return saved["test/offsets"].numpy() if "test/offsets" in saved else np.arange(len(saved["test/target"]) + 1)


def most_popular(result: dict, split: str) -> dict[str, float]:
    """A split's metrics by name, if everybody is recommended the most popular items; earlier versions noted none."""
    noted = result.get("most_popular", {}).get(split, {})
    return {name.removeprefix(f"{MOST_POPULAR}/"): value for name, value in noted.items()}


def results_by_dataset(measurements: Sequence[Measurement]) -> dict[str, list[dict]]:
    """All results of finished runs by dataset."""
    found: dict[str, list[dict]] = {}
    for measurement in measurements:
        found.setdefault(measurement.cell.dataset, []).extend(measurement.results)
    return found


def measure(cell: Cell, request: Request) -> Measurement:
    """Look up the finished runs of a cell; one whose files are damaged is left out, with a word, and the others are shown."""
    found = [(trial, result) for trial in chosen(cell, request) if (result := result_of(trial)) and _whole(trial)]
    return Measurement(cell, [trial for trial, _ in found], [result for _, result in found])


def _whole(trial: Trial) -> bool:
    try:
        if (ranks := trial.folder / "ranks.safetensors").exists():
            load_tensors(ranks)
        trial.history()
    except InputError as error:
        log.warning("left out of the report: %s", error)
        return False
    return True
