"""The batches of an epoch: train pairs in random order, with sampled negatives where a model wants them.

Users and items are numbered from 0.

Legend: U users, N items, E train pairs, B rows of a batch, K negatives a row.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from odmt.errors import InputError


@dataclass
class PairBatch:
    """One training step.

    Attributes:
        users: int64 [B].
        positives: int64 [B], a train item of each user.
        negatives: int64 [B, K], items outside the user's train items; None: the model wants none.
    """

    users: Tensor
    positives: Tensor
    negatives: Tensor | None = None


class PairSampler:
    """Batches of train pairs, every epoch a function of (seed, epoch) alone.

    Choice: each epoch permutes the pairs as they are stored; the official BM3 permutes the order of the epoch before, which a
    resumed run would have to repeat from the start. The last batch is shorter and kept.

    Args:
        users: int64 [E].
        items: int64 [E]; a pair that stands twice is drawn twice.
        num_users: U.
        num_items: N.
        batch_size: B.
        num_negatives: K; 0: none.
        seed: of order and negatives.

    Raises:
        InputError: negatives are wanted and a user has all items among his train items.
    """

    def __init__(
        self, users: np.ndarray, items: np.ndarray, num_users: int, num_items: int, batch_size: int, num_negatives: int, seed: int
    ):
        self.users, self.items = users.astype(np.int64), items.astype(np.int64)
        self.batch_size, self.num_negatives, self.seed = batch_size, num_negatives, seed
        self.negatives = NegativeSampler(self.users, self.items, num_users, num_items) if num_negatives else None

    def __len__(self) -> int:
        """Steps of an epoch."""
        return -(-len(self.users) // self.batch_size)

    def rows(self, epoch: int, step: int) -> np.ndarray:
        """The pairs [B] of a step (from 0) of an epoch."""
        return self._order(epoch)[step * self.batch_size : (step + 1) * self.batch_size]

    def epoch(self, epoch: int) -> Iterator[PairBatch]:
        """Yield the batches of an epoch."""
        order = self._order(epoch)
        generator = np.random.default_rng((self.seed, epoch, 1))
        for start in range(0, len(order), self.batch_size):
            rows = order[start : start + self.batch_size]
            users, negatives = self.users[rows], None
            if self.negatives is not None:
                repeated = np.repeat(users, self.num_negatives)
                negatives = torch.from_numpy(self.negatives.draw(repeated, generator)).view(-1, self.num_negatives)
            yield PairBatch(torch.from_numpy(users), torch.from_numpy(self.items[rows]), negatives)

    def _order(self, epoch: int) -> np.ndarray:
        return np.random.default_rng((self.seed, epoch)).permutation(len(self.users))


class NegativeSampler:
    """Items outside a user's train items, each as likely as the other, with replacement.

    Among the N - n items that a user with n train items has not, number r is drawn; it is item r + j, j being the number of his
    train items before it. With his train items in order as a_0 < a_1 < ..., there are a_k - k others before a_k: j counts those
    that are at most r, which is one binary search. Nothing is ever drawn again.
    """

    def __init__(self, users: np.ndarray, items: np.ndarray, num_users: int, num_items: int):
        pairs = np.unique(users * num_items + items)
        owners, own = np.divmod(pairs, num_items)
        counts = np.bincount(owners, minlength=num_users)
        if (full := np.flatnonzero(counts == num_items)).size:
            raise InputError(
                f"user number {full[0]} has all {num_items} items among the train items, so that no negative can be drawn; "
                "take the user out or use a model without negatives"
            )
        self.num_items, self.starts = num_items, np.cumsum(counts) - counts
        self.num_others = num_items - counts
        self.others_before = owners * num_items + own - (np.arange(len(own)) - self.starts[owners])

    def draw(self, users: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        """Draw an item int64 for every user of [M]."""
        drawn = generator.integers(0, self.num_others[users])
        before = np.searchsorted(self.others_before, users * self.num_items + drawn, side="right") - self.starts[users]
        return drawn + before
