"""One training epoch, one validation and one test ranking."""

from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np

from odmt.bench.measure import compare
from odmt.bench.results import report
from odmt.bench.synthetic import COUNTS, Counts, Shape, synthetic_interactions, synthetic_tables
from odmt.bench.trainers import InMemoryTrainer, OfficialTrainer, TrainingData
from odmt.distributed import World, choose_device
from odmt.sequential.config import Config, ModelConfig, TrainConfig


class Data(TrainingData):
    """What both sides train on and rank."""

    @property
    def work(self) -> dict[str, float]:
        """Users, each of whom is trained on once and ranked twice."""
        return {"users": self.interactions.num_users}


def make(shape: Shape, dim: int, batch: int, device: str, users: int | None = None) -> Data:
    """Make windows of all users, or of `users` of them, and features of all items."""
    counts = COUNTS[shape]
    world = World(0, 1, choose_device(device))
    return Data(
        config=Config(model=ModelConfig(dim=dim), train=TrainConfig(batch_size=batch)),
        world=world,
        interactions=synthetic_interactions(Counts(users or counts.users, counts.items, counts.mean_length)),
        tables=synthetic_tables(np.arange(counts.items), world.device),
    )


def odmt(data: Data) -> Callable[[int], None]:
    """The package's epoch."""
    return _epochs(InMemoryTrainer(data))


def official(data: Data) -> Callable[[int], None]:
    """The official code's epoch."""
    return _epochs(OfficialTrainer(data))


def _epochs(trainer: InMemoryTrainer | OfficialTrainer) -> Callable[[int], None]:
    trainer.step(np.arange(4))
    return lambda repeat: trainer.run_epoch()


def epoch(
    shape: Shape = "arts-small",
    dim: int = 64,
    batch: int = 128,
    repeats: int = 1,
    device: Literal["auto", "cuda", "cpu"] = "auto",
    json: Path | None = None,
):
    """Compare an epoch of training with its validation and a test to the official code's.

    Args:
        shape: the dataset whose counts and distributions the random data have; features of all its items are made.
        dim: model width D.
        batch: users of a step.
        repeats: epochs of each side, in turn.
        device: where both compute.
        json: file for the numbers.
    """
    settings = {"shape": shape, "dim": dim, "batch": batch, "device": device}
    # Memory is at its peak in the first steps already.
    measurement = compare("epoch", settings, make, (odmt, official), repeats, {"users": 2 * batch})
    measurement.settings["repeats"] = repeats
    report([measurement], json)
