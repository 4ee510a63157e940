"""What an epoch costs as the catalogue and the batch grow."""

import math
import statistics
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import matplotlib.pyplot as plt
import numpy as np
import torch
from tqdm import tqdm

from odmt.bench.measure import in_fresh_process, memory_now, memory_peak, timed
from odmt.bench.results import Measurement, print_table, write_json
from odmt.bench.synthetic import COUNTS, POOL, WIDTH, Counts, synthetic_interactions, synthetic_tables
from odmt.bench.trainers import InMemoryTrainer, TrainingData
from odmt.distributed import World, choose_device
from odmt.sequential.config import Config, ModelConfig, TrainConfig

ARTS = COUNTS["arts"]


@dataclass
class Point:
    """What was measured of one catalogue and batch.

    Attributes:
        items: N.
        batch: users of a step.
        steps: seconds of every step.
        peak_bytes: memory beyond the features.
        table_pass: seconds of AdamW's pass over the ID table alone.
    """

    items: int
    batch: int
    steps: list[float]
    peak_bytes: int
    table_pass: float

    @property
    def step(self) -> float:
        """Median seconds of a step."""
        return statistics.median(self.steps)

    @property
    def epoch(self) -> float:
        """Seconds of an epoch over the users of Arts."""
        return self.step * math.ceil(ARTS.users / self.batch)

    def row(self) -> dict[str, Any]:
        """The line of the printed table."""
        return {
            "items": self.items,
            "batch": self.batch,
            "step s": self.step,
            "AdamW on the ID table s": self.table_pass,
            "step without it s": self.step - self.table_pass,
            "epoch s": self.epoch,
            "peak MB": self.peak_bytes / 1e6,
        }


def measure(items: int, batch: int, dim: int, repeats: int, device: str) -> Point:
    """Train some steps, then let AdamW alone pass over the ID table; to be called in a process of its own."""
    where = choose_device(device)
    steps, peak = measure_steps(items, batch, dim, repeats, where)
    return Point(items, batch, steps, peak, measure_table_pass(items, repeats, where))


def measure_steps(items: int, batch: int, dim: int, repeats: int, device: torch.device) -> tuple[list[float], int]:
    """Seconds of some steps after a first one, and the peak memory in bytes."""
    data = TrainingData(
        # A random table: the mean of the features would be as large as the table several times over.
        config=Config(model=ModelConfig(dim=dim, id_init="random"), train=TrainConfig(batch_size=batch)),
        world=World(0, 1, device),
        interactions=synthetic_interactions(Counts(ARTS.users, items, ARTS.mean_length)),
        tables=synthetic_tables(np.arange(items) % POOL, device),
    )
    batches = np.random.default_rng(1).permutation(ARTS.users)[: (repeats + 1) * batch].reshape(-1, batch)
    before = memory_now(device)
    trainer = InMemoryTrainer(data)
    seconds = [timed(partial(trainer.step, users), device) for users in batches]
    return seconds[1:], memory_peak(device) - before


def measure_table_pass(items: int, repeats: int, device: torch.device) -> float:
    """Median seconds of AdamW's pass over an ID table [N + 1, 768]."""
    table = torch.nn.Parameter(torch.zeros(items + 1, WIDTH, device=device))
    table.grad = torch.full_like(table, 1e-3)
    optimizer = torch.optim.AdamW([table], fused=True)
    optimizer.step()
    return statistics.median(timed(optimizer.step, device) for _ in range(repeats))


def draw(points: list[Point], path: Path):
    """Draw step, epoch and memory over the batch, a line for every catalogue."""
    figure, panels = plt.subplots(1, 3, figsize=(12, 3.5), layout="constrained")
    catalogues = sorted({point.items for point in points})
    quantities = {
        "seconds a step": lambda point: point.step,
        "seconds an epoch": lambda point: point.epoch,
        "peak memory, GB": lambda point: point.peak_bytes / 1e9,
    }
    for panel, (label, quantity) in zip(panels, quantities.items()):
        for index, items in enumerate(catalogues):
            line = [point for point in points if point.items == items]
            panel.plot([p.batch for p in line], [quantity(p) for p in line], "o-", color=f"C{index}", label=f"{items:,} items")
            if panel is panels[0]:
                panel.axhline(line[0].table_pass, color=f"C{index}", linestyle=":", linewidth=1)
        panel.set(xscale="log", yscale="log", xlabel="users a batch", ylabel=label)
    panels[0].set_title("dotted: AdamW on the ID table", fontsize="medium")
    panels[2].legend()
    figure.savefig(path, dpi=150)
    plt.close(figure)


def scaling(
    items: list[int] = [10_000, 100_000, 1_000_000],  # noqa: B006
    batches: list[int] = [64, 128, 256, 512, 1024],  # noqa: B006
    dim: int = 128,
    repeats: int = 3,
    device: Literal["auto", "cuda", "cpu"] = "auto",
    json: Path | None = None,
    plot: Path = Path("scaling.png"),
):
    """Measure time per epoch and memory of training over the size of catalogue and batch.

    Users are those of Arts; features come from a pool of 1,000 items. An epoch is the median of some steps times their number.

    Args:
        items: sizes of catalogues; a million takes 16 GB of memory.
        batches: users of a step.
        dim: model width D.
        repeats: steps that are measured of each combination.
        device: where it computes.
        json: file for the numbers.
        plot: file for the plot, PNG.
    """
    combinations = [(count, batch) for count in items for batch in batches]
    points = [
        in_fresh_process(measure, count, batch, dim, repeats, device)
        for count, batch in tqdm(combinations, desc="scaling", leave=False)
    ]
    print_table([point.row() for point in points])
    draw(points, plot)
    settings = {"dim": dim, "repeats": repeats, "device": device}
    write_json([_measurement(point, settings) for point in points], json)


def _measurement(point: Point, settings: dict[str, Any]) -> Measurement:
    sizes = {"items": point.items, "batch": point.batch, "step_seconds": point.step, "adamw_seconds": point.table_pass}
    name = f"scaling, {point.items:,} items, batch {point.batch}"
    return Measurement(name, sizes | settings, [point.epoch], peak_bytes=point.peak_bytes)
