"""What one training step sees: the distinct items of some users' sequences and who is predicted from what.

Legend: B users, P predicted positions, M distinct items, T feature tokens, W feature width.
"""

from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass

import numpy as np
import torch
from torch import Tensor

from odmt.data.interactions import Interactions


@dataclass
class Tokens:
    """The feature tokens of M items, one item after the other, without padding.

    Attributes:
        values: [T, W].
        lengths: int64 [M].
        longest: the largest length, known without asking the device.
    """

    values: Tensor
    lengths: Tensor
    longest: int


@dataclass
class Items:
    """M items as an item encoder takes them.

    Attributes:
        numbers: int64 [M], from 1.
        features: tokens by modality; empty where IDs are all that is needed.
    """

    numbers: Tensor
    features: dict[str, Tokens]


@dataclass
class Sequences:
    """B users' inputs, packed one after the other.

    Attributes:
        rows: int64 [P], indices into the M items.
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
        items: the M distinct items of the training parts.
        inputs: what the backbones see.
        targets: int64 [P], indices into the M items.
        copies: int64 [B, M], how often each item stands in each user's training part.
    """

    items: Items
    inputs: Sequences
    targets: Tensor
    copies: Tensor


def train_batch(interactions: Interactions, users: np.ndarray) -> Batch:
    """Build the batch of some users, without features."""
    flat, lengths = interactions.histories(users, "train")
    numbers, rows = np.unique(flat, return_inverse=True)
    user_of_row = np.repeat(np.arange(len(users)), lengths)
    copies = np.bincount(user_of_row * len(numbers) + rows, minlength=len(users) * len(numbers))
    ends = np.cumsum(lengths)
    is_input, is_target = np.ones((2, len(rows)), bool)
    is_input[ends - 1] = False
    is_target[ends - lengths] = False
    return Batch(
        items=Items(torch.from_numpy(numbers.astype(np.int64)), {}),
        inputs=_sequences(rows[is_input], lengths - 1),
        targets=torch.from_numpy(rows[is_target]),
        copies=torch.from_numpy(copies.reshape(len(users), len(numbers))),
    )


def eval_inputs(interactions: Interactions, users: np.ndarray, split: str) -> Sequences:
    """The inputs of some users for a held-out split; rows are item numbers themselves."""
    flat, lengths = interactions.inputs(users, split)
    return _sequences(flat.astype(np.int64), lengths)


def epoch_users(num_users: int, batch_size: int, seed: int, epoch: int, rank: int = 0, world: int = 1) -> Iterator[np.ndarray]:
    """Yield the users of every step of an epoch, in an order that (seed, epoch) alone decides.

    Of several processes each takes every world-th user; the order is repeated from its start until all have equally many.
    """
    order = np.random.default_rng((seed, epoch)).permutation(num_users)
    order = np.resize(order, -(-num_users // world) * world)[rank::world]
    for start in range(0, len(order), batch_size):
        yield order[start : start + batch_size]


def to_device(part, device: torch.device, dtype: torch.dtype):
    """Move every tensor of a batch or of a part of it, to a GPU without waiting for it; features then become `dtype`."""
    if isinstance(part, Tensor):
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
