"""What a family of models offers to the engine, which knows no family: `Task`.

The engine (`odmt.trainer`, `odmt.train`) has epochs, precision, processes, checks for what is not finite, checkpoints, resuming,
early stopping, selection, the test at the end and curves; a family has what is particular to it.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from odmt.compilation import Mode
from odmt.config import RunConfig, Split
from odmt.distributed import World
from odmt.item_lists import ItemLists
from odmt.precision import Precision
from odmt.ranking import ScoreBlock


@dataclass
class EpochBatches:
    """The training steps of an epoch.

    Attributes:
        num_steps: how many there are.
        batches: one a step, on the device.
        describe: who is in the batch of a step (from 0), for messages.
        sizes: how much a batch has of what is trained on, by its name in the plural.
    """

    num_steps: int
    batches: Iterator
    describe: Callable[[int], str]
    sizes: Callable[[Any], dict[str, int]]


@dataclass(frozen=True)
class People:
    """Who is to be recommended something.

    Attributes:
        histories: what each has had, oldest first where the task is `ordered`, as columns of the scores; nobody has had nothing.
        users: int64, who they are; None: people who are not in the data.
    """

    histories: ItemLists
    users: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.histories.offsets) - 1


Vectors = dict[str, Tensor]  # by source

Scorer = Callable[[Split], Iterator[ScoreBlock]]  # split -> scores of this process's share of the users


class Task(ABC):
    """A model with its data.

    Attributes:
        config: the run.
        world: the processes.
        precision: in which the model computes.
        model: its forward takes a batch and the epoch (from 1) and gives the losses by name: `loss`, alone differentiable, is the
            sum of the others. The loss is worked out inside, so that `DistributedDataParallel` sees all of it.
        first_item: the column of the scores in which items begin; what stands before it is padding.
        user_ids: the users' names in the dataset.
        item_ids: the items' names, column by column.
        ordered: whether histories are in the order in which users had the items; else in none.
        dot_products: whether a score is the product of a user's and an item's vector.
        sparse_tables: parameters of which a batch touches few rows, with sparse gradients: PyTorch's averaging over processes
            leaves them to `average_gradients`.
        compilation: of a training step.
    """

    config: RunConfig
    world: World
    precision: Precision
    model: nn.Module
    first_item: int = 0
    user_ids: list[str]
    item_ids: list[str]
    ordered: bool = True
    dot_products: bool = True
    sparse_tables: Sequence[Tensor] = ()
    compilation: Mode = "none"

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
    def held_out(self, split: Split) -> ItemLists:
        """The items of every user that are to be found, `valid` or `test`."""

    @abstractmethod
    def seen(self, users: np.ndarray, split: Split) -> tuple[np.ndarray, np.ndarray]:
        """What is masked when a split is ranked: items, one user after the other, and the number of each one's."""

    @abstractmethod
    def train_counts(self) -> np.ndarray:
        """How often each item occurs in training, by column of the scores."""

    @abstractmethod
    def item_vectors(self) -> Vectors:
        """Vectors of all items [C, D] under the weights of now, by every source that there is."""

    @abstractmethod
    def new_item_vectors(self, item_ids: Sequence[str]) -> Vectors:
        """Vectors [M, D] of items of the dataset that training did not know, by the sources that can tell, if any: never by an ID.

        Raises:
            InputError: features that are missing.
        """

    @abstractmethod
    def user_vectors(self, people: People, vectors: Vectors) -> Vectors:
        """Vectors of some people [len(people), D] by the sources whose scores are averaged.

        Args:
            people: who.
            vectors: of the items, as `item_vectors` gives them.

        Raises:
            InputError: people who are not in the data, of a model that needs what it has learnt of a user.
        """

    @abstractmethod
    def score(self, people: People, vectors: Vectors, sources: Collection[str]) -> Iterator[ScoreBlock]:
        """Score items for some people, block by block; the numbers of a block are places in `people`.

        Args:
            people: who.
            vectors: of the items [C + M, D]; the last M, new ones, some sources do not have, and score as -inf.
            sources: which scores are wanted; `fused` is the mean over the sources that an item has.

        Raises:
            InputError: as `user_vectors`.
        """

    def renamed(self) -> dict[str, str]:
        """What checkpoints of earlier versions have in their fingerprint, and what is there now if it is the same."""
        return {}

    def provenance(self) -> dict:
        """What environment.json is to say of the data, in JSON's types."""
        return {}

    def remarks(self) -> list[str]:
        """What a reader of the metrics should know of the data."""
        return []

    def average_gradients(self, batch):  # noqa: B027, most models leave it all to PyTorch
        """Average over the processes, after a batch's backward, the gradients of `sparse_tables`."""

    def after_step(self):  # noqa: B027, most models have nothing to do
        """Do what follows every step of the optimizer."""

    def published(self, scorer: Scorer, split: Split) -> dict[str, float]:
        """Metrics as the official code works them out, under names of their own; they choose nothing."""
        return {}

    def state_dict(self) -> dict:
        """State beyond weights and optimizer that the next epoch depends on, in JSON's types."""
        return {}

    def load_state_dict(self, state: dict):  # noqa: B027, most models have none
        """Take back what `state_dict` gave."""


def builder_name(build: Callable) -> str:
    """What made a model, as its fingerprint has it."""
    return f"{build.__module__}.{getattr(build, '__qualname__', type(build).__qualname__)}"
