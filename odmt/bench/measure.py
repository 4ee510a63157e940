"""How two sides are compared: interleaved repeats for time, fresh processes for memory."""

import re
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Literal

import torch
from torch.utils.flop_counter import FlopCounterMode

from odmt.bench.results import Measurement

MATRIX = 8192  # rows and columns of the product that a GPU's peak is measured by

Run = Callable[[int], object]  # does the repeat of the given number
Make = Callable[..., Any]  # settings -> data, which has the attributes `device` and `work`
Build = Callable[[Any], Run]  # data -> one side, warmed up
Clock = Callable[[], float]  # seconds since some moment
CLOCKS: dict[str, Clock] = {"wall": time.perf_counter, "cpu": time.process_time}


def compare(
    name: str,
    settings: dict[str, Any],
    make: Make,
    sides: tuple[Build, Build],
    repeats: int,
    memory_settings: dict | None = None,
    clock: Clock = time.perf_counter,
) -> Measurement:
    """Measure the package against the baseline.

    Args:
        name: of the task.
        settings: arguments of `make`.
        make: makes the data that both sides share; importable, as it is called in other processes too.
        sides: build the package's side and the baseline; importable.
        repeats: of each side, in turn.
        memory_settings: what differs where memory is measured, where a shorter run has the same peak.
        clock: what seconds are read from.
    """
    brief = {**settings, **(memory_settings or {})}
    peak, baseline_peak = (peak_bytes(make, side, brief) for side in sides)
    data = make(**settings)
    seconds, baseline_seconds = interleave([side(data) for side in sides], repeats, data.device, clock)
    measurement = Measurement(name, settings, seconds, baseline_seconds, peak, baseline_peak, data.work)
    if data.device.type == "cuda":
        flops = count_flops(sides[0](data))
        measurement.utilisation = flops / statistics.median(seconds) / peak_flops(data.device)
    return measurement


def interleave(runs: list[Run], repeats: int, device: torch.device, clock: Clock = time.perf_counter) -> list[list[float]]:
    """Seconds of every repeat of each run; the runs take turns, so that all see the same noise of the machine."""
    seconds: list[list[float]] = [[] for _ in runs]
    for repeat in range(repeats):
        for run, taken in zip(runs, seconds):
            taken.append(timed(partial(run, repeat), device, clock))
    return seconds


def timed(run: Callable[[], object], device: torch.device, clock: Clock = time.perf_counter) -> float:
    """Seconds of a call, until the device has finished."""
    synchronize(device)
    started = clock()
    run()
    synchronize(device)
    return clock() - started


def synchronize(device: torch.device):
    """Wait for a GPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def peak_bytes(make: Make, build: Build, settings: dict[str, Any]) -> int:
    """Memory that a side takes at most beyond its data, from building it to the end of a repeat, in a fresh process."""
    return in_fresh_process(_peak_bytes, make, build, settings)


def _peak_bytes(make: Make, build: Build, settings: dict[str, Any]) -> int:
    data = make(**settings)
    before = memory_now(data.device)
    build(data)(0)
    synchronize(data.device)
    return memory_peak(data.device) - before


def in_fresh_process(function: Callable, *args) -> Any:
    """Call an importable function in a process that inherits nothing but imported modules; returns what it returns."""
    processes = get_context("forkserver")
    processes.set_forkserver_preload(["__main__", __name__])
    with ProcessPoolExecutor(1, mp_context=processes) as pool:
        return pool.submit(function, *args).result()


def memory_now(device: torch.device) -> int:
    """Bytes of this process: allocated on its GPU, or resident."""
    return torch.cuda.memory_allocated(device) if device.type == "cuda" else process_memory("VmRSS")


def memory_peak(device: torch.device) -> int:
    """The most bytes of this process so far."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else process_memory("VmHWM")


def reset_peak(device: torch.device):
    """Let `memory_peak` count from now on."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        Path("/proc/self/clear_refs").write_text("5")


def process_memory(key: Literal["VmRSS", "VmHWM", "RssAnon"]) -> int:
    """Bytes of this process: resident now, at most so far, or now without the files that it has mapped."""
    # Not getrusage: its peak starts with that of the process that started this one.
    found = re.search(rf"{key}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None, f"Linux says nothing of {key}"
    return int(found[1]) * 1024


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
