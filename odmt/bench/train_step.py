"""One training step: from the numbers of a batch of users to the new weights."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from odmt.bench.measure import choose_device, compare, report
from odmt.bench.synthetic import COUNTS, Shape, SyntheticTable, synthetic_interactions, synthetic_tables
from odmt.bench.trainers import InMemoryTrainer, OfficialTrainer
from odmt.config import Config, ModelConfig, TrainConfig
from odmt.data.interactions import Interactions
from odmt.distributed import World


@dataclass
class Data:
    """What both sides train on.

    Attributes:
        config: of the run.
        world: this process.
        interactions: of all users.
        tables: features of the items of the batches.
        batches: users of each repeat.
    """

    config: Config
    world: World
    interactions: Interactions
    tables: dict[str, SyntheticTable]
    batches: list[np.ndarray]

    @property
    def device(self) -> torch.device:
        """Where both sides compute."""
        return self.world.device

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
    world = World(0, 1, choose_device(device))
    return Data(
        config=Config(model=ModelConfig(dim=dim), train=TrainConfig(batch_size=batch)),
        world=world,
        interactions=interactions,
        tables=synthetic_tables(counts.items, items, world.device),
        batches=[users[begin : begin + batch] for begin in range(0, len(users), batch)],
    )


def odmt(data: Data) -> Callable[[int], None]:
    """The package's step."""
    return _steps(InMemoryTrainer(data.config, data.world, data.interactions, data.tables), data)


def official(data: Data) -> Callable[[int], None]:
    """The official code's step."""
    return _steps(OfficialTrainer(data.config, data.world, data.interactions, data.tables), data)


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
