"""What a family of models offers to the engine, which knows no family: `Task`.

The engine (`odmt.trainer`, `odmt.train`) has epochs, precision, processes, checks for what is not finite, checkpoints, resuming,
early stopping, selection, the test at the end and curves; a family has what is particular to it.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from odmt.config import RunConfig
from odmt.distributed import World
from odmt.precision import Precision
from odmt.ranking import ItemLists, ScoreBlock


@dataclass
class EpochBatches:
    """The training steps of an epoch.

    Attributes:
        num_steps: how many there are.
        batches: one a step, on the device.
        describe: who is in the batch of a step (from 0), for messages.
    """

    num_steps: int
    batches: Iterator
    describe: Callable[[int], str]


Scorer = Callable[[str], Iterator[ScoreBlock]]  # split -> scores of this process's share of the users


class Task(ABC):
    """A model with its data.

    Attributes:
        config: the run.
        world: the processes.
        precision: in which the model computes.
        model: its forward takes a batch and the epoch (from 1) and gives the losses by name: `loss`, alone differentiable, is the
            sum of the others. The loss is worked out inside, so that `DistributedDataParallel` sees all of it.
        first_item: the column of the scores in which items begin; what stands before it is padding.
    """

    config: RunConfig
    world: World
    precision: Precision
    model: nn.Module
    first_item: int = 0

    @abstractmethod
    def __str__(self) -> str:
        """Describe data and model in a line."""

    @abstractmethod
    def optimizer(self) -> torch.optim.Optimizer:
        """Make the optimizer of the model's parameters."""

    @abstractmethod
    def fingerprint(self) -> dict[str, str]:
        """What the numbers depend on beside the configuration, by name; a run is continued on the same alone."""

    @abstractmethod
    def batches(self, epoch: int) -> EpochBatches:
        """Build the batches of an epoch, a function of (seed, epoch, rank) alone: what makes a resumed run the same."""

    @abstractmethod
    def scorer(self) -> Scorer:
        """Work out what all scores under the weights of now depend on; returns what gives them, with `fused` first."""

    @abstractmethod
    def held_out(self, split: str) -> ItemLists:
        """The items of every user that are to be found, `valid` or `test`."""

    @abstractmethod
    def seen(self, users: np.ndarray, split: str) -> tuple[np.ndarray, np.ndarray]:
        """What is masked when a split is ranked: items, one user after the other, and the number of each one's."""

    @abstractmethod
    def train_counts(self) -> np.ndarray:
        """How often each item occurs in training, by column of the scores."""

    def provenance(self) -> dict:
        """What environment.json is to say of the data, in JSON's types."""
        return {}

    def remarks(self) -> list[str]:
        """What a reader of the metrics should know of the data."""
        return []

    def after_step(self):  # noqa: B027, most models have nothing to do
        """Do what follows every step of the optimizer."""

    def published(self, scorer: Scorer, split: str) -> dict[str, float]:
        """Metrics as the official code works them out, under names of their own; they choose nothing."""
        return {}

    def state_dict(self) -> dict:
        """State beyond weights and optimizer that the next epoch depends on, in JSON's types."""
        return {}

    def load_state_dict(self, state: dict):  # noqa: B027, most models have none
        """Take back what `state_dict` gave."""
