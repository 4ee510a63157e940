"""How two sides are compared: interleaved repeats for time, fresh processes for memory, one table, one JSON file."""

import json
import re
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import torch
from torch.utils.flop_counter import FlopCounterMode

from odmt.checkpoint import write_atomically

MATRIX = 8192  # rows and columns of the product that a GPU's peak is measured by

Run = Callable[[int], None]  # does the repeat of the given number
Make = Callable[..., Any]  # settings -> data, which has the attributes `device` and `work`
Build = Callable[[Any], Run]  # data -> one side, warmed up


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
            "peak MB": peak and peak / 1e6,
        }
        row |= {f"{unit}/s": count / median for unit, count in self.work.items()}
        if self.utilisation is not None:
            row["FLOPs utilisation"] = self.utilisation * statistics.median(self.seconds) / median
        return row


def compare(
    name: str, settings: dict[str, Any], make: Make, sides: tuple[Build, Build], repeats: int, memory_settings: dict | None = None
) -> Measurement:
    """Measure the package against the baseline.

    Args:
        name: of the task.
        settings: arguments of `make`.
        make: makes the data that both sides share; importable, as it is called in other processes too.
        sides: build the package's side and the baseline; importable.
        repeats: of each side, in turn.
        memory_settings: what differs where memory is measured, where a shorter run has the same peak.
    """
    brief = {**settings, **(memory_settings or {})}
    peaks = [peak_bytes(make, side, brief) for side in sides]
    data = make(**settings)
    seconds = interleave([side(data) for side in sides], repeats, data.device)
    measurement = Measurement(name, settings, *seconds, *peaks, data.work)
    if data.device.type == "cuda":
        flops = count_flops(sides[0](data))
        measurement.utilisation = flops / statistics.median(seconds[0]) / peak_flops(data.device)
    return measurement


def interleave(runs: list[Run], repeats: int, device: torch.device) -> list[list[float]]:
    """Seconds of every repeat of each run; the runs take turns, so that all see the same noise of the machine."""
    seconds: list[list[float]] = [[] for _ in runs]
    for repeat in range(repeats):
        for run, taken in zip(runs, seconds):
            taken.append(timed(lambda run=run, repeat=repeat: run(repeat), device))
    return seconds


def timed(run: Callable[[], None], device: torch.device) -> float:
    """Seconds of a call, until the device has finished."""
    synchronize(device)
    started = time.perf_counter()
    run()
    synchronize(device)
    return time.perf_counter() - started


def synchronize(device: torch.device):
    """Wait for a GPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def peak_bytes(make: Make, build: Build, settings: dict[str, Any]) -> int:
    """Memory that a side takes at most beyond its data, from building it to the end of a repeat, in a fresh process."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(_peak_bytes, make, build, settings).result()


def _peak_bytes(make: Make, build: Build, settings: dict[str, Any]) -> int:
    data = make(**settings)
    before = memory_now(data.device)
    build(data)(0)
    synchronize(data.device)
    return memory_peak(data.device) - before


def memory_now(device: torch.device) -> int:
    """Bytes of this process: allocated on its GPU, or resident."""
    return torch.cuda.memory_allocated(device) if device.type == "cuda" else process_memory("VmRSS")


def memory_peak(device: torch.device) -> int:
    """The most bytes of this process so far."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else process_memory("VmHWM")


def process_memory(key: Literal["VmRSS", "VmHWM", "RssAnon"]) -> int:
    """Bytes of this process: resident now, at most so far, or now without the files that it has mapped."""
    # Not getrusage: its peak starts with that of the process that started this one.
    return int(re.search(rf"{key}:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024


def count_flops(run: Run) -> int:
    """Floating-point operations of the matrix products of one repeat."""
    with FlopCounterMode(display=False) as counter:
        run(0)
    return counter.get_total_flops()


def peak_flops(device: torch.device) -> float:
    """Floating-point operations a second of a large bf16 matrix product."""
    left, right = (torch.randn(MATRIX, MATRIX, device=device, dtype=torch.bfloat16) for _ in range(2))
    torch.mm(left, right)
    seconds = min(timed(lambda: torch.mm(left, right), device) for _ in range(10))
    return 2 * MATRIX**3 / seconds


def choose_device(name: str) -> torch.device:
    """`cuda`, `cpu`, or `auto` for a GPU where there is one."""
    return torch.device("cuda" if name == "auto" and torch.cuda.is_available() else name.replace("auto", "cpu"))


def report(measurements: list[Measurement], path: Path | None):
    """Print a table and write the JSON file where one is asked for."""
    table = pd.DataFrame([row for measurement in measurements for row in measurement.rows()]).astype(object)
    print(table.where(table.notna(), None).to_markdown(index=False, floatfmt=".4g", missingval=""))
    if path is not None:
        write_atomically(path, json.dumps([measurement.summary() for measurement in measurements], indent=2) + "\n")
