"""What one training step sees: the distinct items of some users' sequences and who is predicted from what.

Legend: B users, P predicted positions, M distinct items, V vectors of these.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from odmt.config import Split
from odmt.features.items import Items
from odmt.item_lists import ItemLists, places
from odmt.sequential.interactions import Interactions


@dataclass
class Sequences:
    """B users' inputs, packed one after the other.

    Attributes:
        rows: int64 [P], indices into the V vectors.
        lengths: int64 [B]; 0 where a user has none.
        longest: the largest length.
    """

    rows: Tensor
    lengths: Tensor
    longest: int


@dataclass
class Batch:
    """One training step.

    Every position of a training part but the last predicts its successor.

    Attributes:
        items: the M distinct items of the training parts, and how many vectors they get.
        inputs: what the backbones see.
        targets: int64 [P], indices into the V vectors.
        own: int64 [2, E], the user (of B) and the item (of M) of every position of the training parts.
        positions: int64 [M], how many positions of the batch each vector of an item stands for.
        touched: int64 [U], the distinct items of this step in all processes, ascending; None: there is one process.
        everyone: what the predictions are scored against, where that is more than the V vectors.
        real: bool [P], False for predictions that only pad the batch (`odmt.sequential.padding`); None: all count.
        sizes: how many items and tokens it has without what pads it.
    """

    items: Items
    inputs: Sequences
    targets: Tensor
    own: Tensor
    positions: Tensor
    touched: Tensor | None = None
    everyone: "Everyone | None" = None
    real: Tensor | None = None
    sizes: dict[str, int] = field(default_factory=dict)

    def log_candidates(self, dtype: torch.dtype) -> Tensor:
        """Log of how many positions each vector stands for as a candidate of a user's predictions (Eq. 5) [B, V].

        It is -inf where the vector's item is among the user's own; that the target is a candidate is not counted here. Made where
        the batch is: [B, V] is most of what a large batch would have to send to a GPU.
        """
        counts = self.positions.to(dtype).log().repeat(len(self.inputs.lengths), 1)  # [B, M]
        counts[self.own[0], self.own[1]] = float("-inf")
        owners = self.items.owners
        return counts if owners is None else counts.index_select(1, owners)


@dataclass
class Everyone:
    """The candidates of all processes' batches, one batch after the other, for the predictions of one (`data.negatives=global`).

    Attributes:
        batch: the same predictions, without features; targets and own items are places among everyone's.
        sizes: V of each process.
        share: by which the mean over the process's predictions is multiplied, so that the mean over processes is that over all.
    """

    batch: Batch
    sizes: list[int]
    share: float


def train_batch(
    interactions: Interactions, users: np.ndarray, share_repeats: bool, token_counts: np.ndarray | None = None
) -> Batch:
    """Build the batch of some users, without features.

    Args:
        interactions: what the users have.
        users: [B], numbers of users.
        share_repeats: all occurrences of an item have one vector, which then stands for as many positions; otherwise every
            occurrence has its own.
        token_counts: [N + 1], by which the items are sorted, so that blocks of them need little padding; None: by number.
    """
    flat, lengths = interactions.histories(users, "train")
    numbers, rows, counts = np.unique(flat, return_inverse=True, return_counts=True)
    if token_counts is not None:
        order = np.argsort(token_counts[numbers], kind="stable")
        numbers, counts, rows = numbers[order], counts[order], np.argsort(order)[rows]
    own = np.stack([np.repeat(np.arange(len(users)), lengths), rows])
    items, positions = Items(torch.from_numpy(numbers.astype(np.int64)), {}), counts
    if not share_repeats:
        items.owners = torch.from_numpy(np.repeat(np.arange(len(numbers)), counts))
        positions = np.ones_like(counts)
        order = np.argsort(rows, kind="stable")
        rows = np.empty_like(rows)
        rows[order] = np.arange(len(rows))
    ends = np.cumsum(lengths)
    is_input, is_target = np.ones((2, len(rows)), bool)
    is_input[ends - 1] = False
    is_target[ends - lengths] = False
    return Batch(
        items=items,
        inputs=_sequences(rows[is_input], lengths - 1),
        targets=torch.from_numpy(rows[is_target]),
        own=torch.from_numpy(own),
        positions=torch.from_numpy(positions),
    )


def touched_items(interactions: Interactions, users: Sequence[np.ndarray]) -> Tensor:
    """The distinct items of some batches' users, ascending int64 [U]."""
    flat, _ = interactions.histories(np.concatenate(users), "train")
    touched = np.zeros(interactions.num_items + 1, bool)
    touched[flat] = True
    return torch.from_numpy(np.flatnonzero(touched))


def join(batches: Sequence[Batch], rank: int) -> Everyone:
    """Put the candidates of all processes' batches together, for the predictions of the one at `rank`."""
    mine = batches[rank]
    sizes = [len(batch.items.numbers if batch.items.owners is None else batch.items.owners) for batch in batches]
    firsts = np.cumsum([0, *(len(batch.items.numbers) for batch in batches)]).tolist()
    numbers = torch.cat([batch.items.numbers for batch in batches])
    owners = None
    if mine.items.owners is not None:
        owners = torch.cat([batch.items.owners + first for batch, first in zip(batches, firsts) if batch.items.owners is not None])
    # A user's own items, wherever they stand.
    order = np.argsort(numbers.numpy(), kind="stable")
    users, wanted = mine.own[0].numpy(), mine.items.numbers[mine.own[1]].numpy()
    begin, end = (np.searchsorted(numbers.numpy(), wanted, side, order) for side in ("left", "right"))
    own = np.stack([np.repeat(users, end - begin), order[places(begin, end - begin)]])
    together = Batch(
        items=Items(numbers, {}, owners),
        inputs=mine.inputs,
        targets=mine.targets + sum(sizes[:rank]),
        own=torch.from_numpy(own),
        positions=torch.cat([batch.positions for batch in batches]),
    )
    share = len(batches) * len(mine.targets) / sum(len(batch.targets) for batch in batches)
    return Everyone(together, sizes, share)


def eval_inputs(interactions: Interactions, users: np.ndarray, split: Split) -> Sequences:
    """The inputs of some users for a held-out split; rows are item numbers themselves."""
    flat, lengths = interactions.inputs(users, split)
    return _sequences(flat.astype(np.int64), lengths)


def history_inputs(histories: ItemLists, people: np.ndarray, max_seq_len: int) -> Sequences:
    """The last items of some people's histories as inputs; rows are item numbers themselves."""
    return _sequences(*histories.last(people, max_seq_len))


def epoch_users(num_users: int, batch_size: int, seed: int, epoch: int, rank: int = 0, world: int = 1) -> Iterator[np.ndarray]:
    """Yield the users of every step of an epoch, in an order that (seed, epoch) alone decides.

    Choice: of several processes each takes every world-th user; the order is repeated from its start until all have equally many.
    """
    order = np.random.default_rng((seed, epoch)).permutation(num_users)
    order = np.resize(order, -(-num_users // world) * world)[rank::world]
    for start in range(0, len(order), batch_size):
        yield order[start : start + batch_size]


def _sequences(rows: np.ndarray, lengths: np.ndarray) -> Sequences:
    return Sequences(torch.from_numpy(rows), torch.from_numpy(lengths), int(lengths.max()))
