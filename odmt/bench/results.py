"""What a measurement leaves: a printed table and entries of a JSON file."""

import json
import statistics
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from odmt.files import write_text


@dataclass
class Measurement:
    """What was measured of one task.

    Attributes:
        name: of the task.
        settings: what it was measured with.
        seconds: of every repeat.
        baseline_seconds: likewise, of the baseline; empty where there is none.
        peak_bytes: memory beyond the data.
        baseline_peak_bytes: likewise, of the baseline.
        work: how many users, items, tokens one repeat handles.
        utilisation: model FLOPs a second over those of a large bf16 matrix product; on GPUs only.
    """

    name: str
    settings: dict[str, Any]
    seconds: list[float]
    baseline_seconds: list[float] = field(default_factory=list)
    peak_bytes: int | None = None
    baseline_peak_bytes: int | None = None
    work: dict[str, float] = field(default_factory=dict)
    utilisation: float | None = None

    def summary(self) -> dict[str, Any]:
        """The entry of the JSON file; seconds are medians."""
        seconds = statistics.median(self.seconds)
        baseline = statistics.median(self.baseline_seconds) if self.baseline_seconds else None
        return {
            "name": self.name,
            "ratio": baseline and baseline / seconds,
            "seconds": seconds,
            "baseline_seconds": baseline,
            "peak_bytes": self.peak_bytes,
            "baseline_peak_bytes": self.baseline_peak_bytes,
            "settings": self.settings,
        }

    @property
    def ratio_of_fastest(self) -> float | None:
        """How many times faster the fastest repeat was than the baseline's, which others on the machine have disturbed least."""
        return min(self.baseline_seconds) / min(self.seconds) if self.baseline_seconds else None

    def rows(self) -> list[dict[str, Any]]:
        """The lines of the printed table, one a side."""
        sides = [("odmt", self.seconds, self.peak_bytes), ("baseline", self.baseline_seconds, self.baseline_peak_bytes)]
        return [self._row(*side) for side in sides if side[1]]

    def _row(self, side: str, seconds: list[float], peak: int | None) -> dict[str, Any]:
        median = statistics.median(seconds)
        row = {
            "task": self.name,
            "side": side,
            "median s": median,
            "min s": min(seconds),
            "max s": max(seconds),
            "times faster": self.summary()["ratio"] if side == "odmt" else None,
            "by the fastest": self.ratio_of_fastest if side == "odmt" else None,
            "peak MB": peak and peak / 1e6,
        }
        row |= {f"{unit}/s": count / median for unit, count in self.work.items()}
        if self.utilisation is not None:
            row["FLOPs utilisation"] = self.utilisation * statistics.median(self.seconds) / median
        return row


def report(measurements: list[Measurement], path: Path | None):
    """Print a table and write the JSON file where one is asked for."""
    print_table([row for measurement in measurements for row in measurement.rows()])
    write_json(measurements, path)


def write_json(measurements: list[Measurement], path: Path | None):
    """Write a list of objects, one a measurement, where a file is given."""
    write_rows([measurement.summary() for measurement in measurements], path)


def write_rows(rows: list[dict[str, Any]], path: Path | None):
    """Write a list of objects, where a file is given."""
    if path is not None:
        write_text(path, json.dumps(rows, indent=2) + "\n")


def print_table(rows: list[dict[str, Any]]):
    """Print rows as a Markdown table."""
    print(to_markdown(rows))


def to_markdown(rows: list[dict[str, Any]]) -> str:
    """Rows as a Markdown table; what is None stays empty."""
    table = pd.DataFrame(rows).astype(object)
    return table.where(table.notna(), None).to_markdown(index=False, floatfmt=".4g", missingval="")
