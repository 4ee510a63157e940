"""What one training step sees: the distinct items of some users' sequences and who is predicted from what.

Legend: B users, P predicted positions, M distinct items, V vectors of these, T feature tokens, W feature width.
"""

from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass

import numpy as np
import torch
from torch import Tensor

from odmt.data.interactions import Interactions

CPU_BLOCK = 128  # items that are encoded at a time on a CPU: what a layer makes of them stays near its cache


@dataclass
class Tokens:
    """The feature tokens of M items, one item after the other, without padding.

    Attributes:
        values: [T, W], or a table of which `rows` are the tokens.
        lengths: int64 [M].
        longest: the largest length, known without asking the device.
        rows: int64 [T], for tokens on a CPU, which are copied where they are encoded; None: all rows in order.
    """

    values: Tensor
    lengths: Tensor
    longest: int
    rows: Tensor | None = None

    @property
    def firsts(self) -> Tensor:
        """Where each item's tokens start, int64 [M]."""
        return self.lengths.cumsum(0) - self.lengths

    def split(self, size: int) -> Iterator["Tokens"]:
        """The tokens of `size` items at a time, half precision as single; on a CPU, since the lengths are looked at."""
        lengths = self.lengths.split(size)
        counts = [int(part.sum()) for part in lengths]
        parts = (self.values.split if self.rows is None else self.rows.split)(counts)
        for part, length in zip(parts, lengths):
            values = part if self.rows is None else self.values.index_select(0, part)
            values = values.float() if values.dtype == torch.float16 else values
            yield Tokens(values, length, int(length.max()))


@dataclass
class Items:
    """M items as an item encoder takes them.

    Attributes:
        numbers: int64 [M], from 1.
        features: tokens by modality; empty where IDs are all that is needed.
        owners: int64 [V], ascending: which of the M items each vector is of; None: each has one.
    """

    numbers: Tensor
    features: dict[str, Tokens]
    owners: Tensor | None = None

    def repeat(self, rows: Tensor) -> Tensor:
        """A row an item [M, ...] -> a row a vector [V, ...]."""
        assert len(rows) == len(self.numbers), f"{len(rows)} rows for {len(self.numbers)} items"
        return rows if self.owners is None else rows.index_select(0, self.owners)

    def of(self, source: str) -> "Items":
        """The same items with no features but those of one source; the ID has none."""
        features = {modality: tokens for modality, tokens in self.features.items() if modality == source}
        return Items(self.numbers, features, self.owners)

    def blocks(self) -> Iterator["Items"]:
        """Cut into what is to be encoded at a time: a GPU takes everything, a CPU blocks, whose features become float32."""
        if self.numbers.device.type != "cpu":
            yield self
            return
        features = {source: tokens.split(CPU_BLOCK) for source, tokens in self.features.items()}
        for block, numbers in enumerate(self.numbers.split(CPU_BLOCK)):
            first = block * CPU_BLOCK
            owners = None
            if self.owners is not None:
                begin, end = torch.searchsorted(self.owners, torch.tensor([first, first + len(numbers)])).tolist()
                owners = self.owners[begin:end] - first
            yield Items(numbers, {source: next(parts) for source, parts in features.items()}, owners)


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
        candidates: int32 [B, V], how many positions each vector stands for as a candidate of a user's predictions (Eq. 5): none
            where its item is among the user's own. That the target is a candidate is not counted here.
    """

    items: Items
    inputs: Sequences
    targets: Tensor
    candidates: Tensor


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
    user_of_row = np.repeat(np.arange(len(users)), lengths)
    own = np.zeros((len(users), len(numbers)), bool)
    own[user_of_row, rows] = True
    items = Items(torch.from_numpy(numbers.astype(np.int64)), {})
    if share_repeats:
        candidates = np.where(own, 0, counts).astype(np.int32)
    else:
        items.owners = torch.from_numpy(np.repeat(np.arange(len(numbers)), counts))
        candidates = (~own).repeat(counts, 1).astype(np.int32)
        order = np.argsort(rows, kind="stable")
        rows[order] = np.arange(len(rows))
    ends = np.cumsum(lengths)
    is_input, is_target = np.ones((2, len(rows)), bool)
    is_input[ends - 1] = False
    is_target[ends - lengths] = False
    return Batch(
        items=items,
        inputs=_sequences(rows[is_input], lengths - 1),
        targets=torch.from_numpy(rows[is_target]),
        candidates=torch.from_numpy(candidates),
    )


def eval_inputs(interactions: Interactions, users: np.ndarray, split: str) -> Sequences:
    """The inputs of some users for a held-out split; rows are item numbers themselves."""
    flat, lengths = interactions.inputs(users, split)
    return _sequences(flat.astype(np.int64), lengths)


def epoch_users(num_users: int, batch_size: int, seed: int, epoch: int, rank: int = 0, world: int = 1) -> Iterator[np.ndarray]:
    """Yield the users of every step of an epoch, in an order that (seed, epoch) alone decides.

    Choice: of several processes each takes every world-th user; the order is repeated from its start until all have equally many.
    """
    order = np.random.default_rng((seed, epoch)).permutation(num_users)
    order = np.resize(order, -(-num_users // world) * world)[rank::world]
    for start in range(0, len(order), batch_size):
        yield order[start : start + batch_size]


def to_device(part, device: torch.device, dtype: torch.dtype):
    """Move every tensor of a batch or of a part of it, to a GPU without waiting for it; features then become `dtype`.

    But float16 stays so on a CPU until it is encoded, block by block: as float32 it would take twice the memory. (Not where
    float64 is asked for, which tests compare in.)
    """
    if isinstance(part, Tensor):
        if device.type == "cpu" and part.dtype == torch.float16 and dtype != torch.float64:
            return part
        if device.type == "cuda" and part.device.type == "cpu":
            part = part.pin_memory()
        moved = part.to(device, non_blocking=True)
        return moved.to(dtype) if moved.is_floating_point() else moved
    if isinstance(part, dict):
        return {key: to_device(value, device, dtype) for key, value in part.items()}
    if is_dataclass(part):
        return type(part)(**{field.name: to_device(getattr(part, field.name), device, dtype) for field in fields(part)})
    return part


def _sequences(rows: np.ndarray, lengths: np.ndarray) -> Sequences:
    return Sequences(torch.from_numpy(rows), torch.from_numpy(lengths), int(lengths.max()))
