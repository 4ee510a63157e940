"""One training step: from the numbers of a batch of users to the new weights."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from odmt.bench.measure import compare
from odmt.bench.results import report
from odmt.bench.synthetic import COUNTS, Shape, synthetic_interactions, synthetic_tables
from odmt.bench.trainers import InMemoryTrainer, OfficialTrainer, TrainingData
from odmt.distributed import World, choose_device
from odmt.sequential.config import Config, ModelConfig, TrainConfig


@dataclass
class Data(TrainingData):
    """What both sides train on.

    Attributes:
        batches: users of each repeat.
    """

    batches: list[np.ndarray]

    @property
    def work(self) -> dict[str, float]:
        """Users of a step, and its distinct items and their tokens, as a mean over the repeats."""
        items = [np.unique(self.interactions.histories(users, "train")[0]) for users in self.batches]
        tokens = [sum(table.lengths[part - 1].sum() for table in self.tables.values()) + len(part) for part in items]
        return {"users": len(self.batches[0]), "items": np.mean([len(part) for part in items]), "tokens": np.mean(tokens)}


def make(shape: Shape, dim: int, batch: int, repeats: int, device: str) -> Data:
    """Make the users' windows, the batches, and features of the items in these alone."""
    counts = COUNTS[shape]
    interactions = synthetic_interactions(counts)
    users = np.random.default_rng(1).permutation(counts.users)[: repeats * batch]
    items = np.unique(interactions.histories(users, "train")[0])
    row_of_item = np.zeros(counts.items, np.int64)
    row_of_item[items - 1] = np.arange(len(items))
    world = World(0, 1, choose_device(device))
    return Data(
        config=Config(model=ModelConfig(dim=dim), train=TrainConfig(batch_size=batch)),
        world=world,
        interactions=interactions,
        tables=synthetic_tables(row_of_item, world.device),
        batches=[users[begin : begin + batch] for begin in range(0, len(users), batch)],
    )


def odmt(data: Data) -> Callable[[int], None]:
    """The package's step."""
    return _steps(InMemoryTrainer(data), data)


def official(data: Data) -> Callable[[int], None]:
    """The official code's step."""
    return _steps(OfficialTrainer(data), data)


def _steps(trainer: InMemoryTrainer | OfficialTrainer, data: Data) -> Callable[[int], None]:
    # A small first step makes the optimizer's state and the threads; a GPU also chooses its kernels by size.
    trainer.step(data.batches[0] if data.device.type == "cuda" else data.batches[0][:4])
    return lambda repeat: trainer.step(data.batches[repeat])


def train_step(
    shape: Shape = "arts",
    dim: int = 128,
    batch: int = 128,
    repeats: int = 3,
    device: Literal["auto", "cuda", "cpu"] = "auto",
    json: Path | None = None,
):
    """Compare a training step of ODMT with the official code's.

    Args:
        shape: the dataset whose counts and distributions the random data have.
        dim: model width D.
        batch: users of a step.
        repeats: steps of each side, in turn.
        device: where both compute.
        json: file for the numbers.
    """
    settings = {"shape": shape, "dim": dim, "batch": batch, "repeats": repeats, "device": device}
    report([compare("train-step", settings, make, (odmt, official), repeats)], json)
