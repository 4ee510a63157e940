"""What finished runs measured: means over seeds, curves, and metrics by user for comparisons."""

import json
from dataclasses import dataclass

import numpy as np

from odmt.checkpoint import load_tensors
from odmt.launch.trials import Trial
from odmt.metrics import per_user
from odmt.report.expansion import Cell, chosen, result_of
from odmt.report.request import Request

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

    def groups(self) -> dict[int, dict[str, float]]:
        """By popularity group of the target (Figure 4): its `users` and the mean over seeds of its `recall@10`."""
        groups = [result["test_groups"] for result in self.results]
        return {
            int(group): {"users": first["users"], "recall@10": float(np.mean([by[group]["fused/recall@10"] for by in groups]))}
            for group, first in (groups[0] if self else {}).items()
        }

    def curve(self, metric: str) -> np.ndarray:
        """Mean over seeds of a metric after every epoch [epochs]; epochs that one seed did not reach are left out."""
        logs = [(trial.folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines() for trial in self.trials]
        shortest = min(map(len, logs), default=0)
        return np.array([[json.loads(line)[metric] for line in log[:shortest]] for log in logs]).mean(0) if self else np.empty(0)

    def user_metrics(self) -> dict[str, np.ndarray]:
        """Recall@10 and ndcg@10 of every test user [U], means over seeds, and the `target` that was to be found."""
        tensors = [load_tensors(trial.folder / "ranks.safetensors")[0] for trial in self.trials]
        metrics = {
            f"{name}@10": np.mean([_by_user(name, found) for found in tensors], 0) for name in ("recall", "ndcg")
        }  # [seeds, U] -> [U]
        return {**metrics, "target": tensors[0]["test/target"].numpy()}

    def _values(self, metric: str) -> list[float]:
        return [result["test"][f"fused/{metric}"] for result in self.results]


def _by_user(name: str, saved: dict) -> np.ndarray:
    """A metric at 10 of every user, of what a run saved of its test; earlier versions saved no offsets: one target a user."""
    offsets = saved.get("test/offsets")
    return per_user(name, saved["test/fused"].numpy().astype(np.float64), 10, None if offsets is None else offsets.numpy())


def measure(cell: Cell, request: Request) -> Measurement:
    """Look up the finished runs of a cell."""
    found = [(trial, result) for trial in chosen(cell, request) if (result := result_of(trial))]
    return Measurement(cell, [trial for trial, _ in found], [result for _, result in found])
