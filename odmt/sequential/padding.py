"""Training batches padded to few shapes, for what is compiled once a shape; what pads them has no part in the losses.

Behind those of a batch stand items that are nobody's, their tokens copies of a real one's, and users whose predictions do not
count: candidates that stand for no position, and rows that the means leave out, so that all their gradients are zeros.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from odmt.features.items import Items, Tokens
from odmt.features.tables import FeatureTable
from odmt.sequential.batches import Batch, Sequences

STEPS = 8  # of sizes up to the mean batch's: a batch is padded to 9/8 of the mean, or 10/8, ..., or 16/8

Sizes = dict[str, int]  # users, items, vectors, pairs (of user and own item), predictions, and tokens by modality


class Padding:
    """The shapes of a run's batches.

    Args:
        examples: batches without features, of which the shapes are multiples; one that has fewer users is left out.
        tables: the items' features by modality.
        max_seq_len: L, the longest input.
    """

    def __init__(self, examples: Sequence[Batch], tables: Mapping[str, FeatureTable], max_seq_len: int):
        self.lengths = {modality: torch.from_numpy(table.lengths) for modality, table in tables.items()}
        self.longest = {modality: int(lengths.max()) for modality, lengths in self.lengths.items()}
        self.max_seq_len = max_seq_len
        # Of what pads a batch, who takes what, and how much each at least and at most.
        self.shares = {"predictions": ("users", 0, max_seq_len)}
        self.shares |= {modality: ("items", int(lengths.min()), int(lengths.max())) for modality, lengths in self.lengths.items()}
        sizes = [self.sizes(batch) for batch in examples]
        whole = [of_batch for of_batch in sizes if of_batch["users"] == max(size["users"] for size in sizes)]
        self.num_examples = len(whole)
        self.totals = {name: sum(of_batch[name] for of_batch in whole) for name in whole[0]}

    def sizes(self, batch: Batch) -> Sizes:
        """How large a batch on the CPU is."""
        items = batch.items
        return {
            "users": len(batch.inputs.lengths),
            "items": len(items.numbers),
            "vectors": len(items.numbers if items.owners is None else items.owners),
            "pairs": batch.own.shape[1],
            "predictions": len(batch.targets),
            **{modality: int(lengths[items.numbers - 1].sum()) for modality, lengths in self.lengths.items()},
        }

    def room(self, batch: Batch) -> Sizes:
        """The sizes that a batch is padded to: of a large one and of the epoch's last mostly the same."""
        sizes = self.sizes(batch)
        rooms = map(self._scaled, range(STEPS + 1, 2 * STEPS + 1))
        return next((room for room in rooms if self._fits(sizes, room)), None) or self._doubled(sizes)

    def _scaled(self, eighths: int) -> Sizes:
        """So many eighths of the mean sizes.

        But where users or items have nearly as much as they can, what is to be shared out grows by half of what those that pad can
        take: a batch may have more of it than the mean, or less.
        """
        parts = STEPS * self.num_examples
        room = {name: _ceil(total * eighths, parts) for name, total in self.totals.items()}
        for name, (holders, least, most) in self.shares.items():
            full, held = (most - least) * self.totals[holders], self.totals[name] - least * self.totals[holders]
            more = min(held, full // 2) * (eighths - STEPS)
            room[name] = least * room[holders] + _ceil(held * STEPS + more, parts)
        return room

    def _doubled(self, sizes: Sizes) -> Sizes:
        """Powers of two for a batch that is like no other; of users and items twice as many, so that all can be shared out."""
        room = {name: _power(size) for name, size in sizes.items()}
        room |= {name: _power(2 * sizes[name]) for name in ("users", "items", "vectors")}
        for name, (holders, least, most) in self.shares.items():
            held = _power(max(1, sizes[name] - least * sizes[holders]))
            room[name] = least * room[holders] + min(held, (most - least) * room[holders] // 2)
        return room

    def _fits(self, sizes: Sizes, room: Sizes) -> bool:
        """Whether a batch has place, what pads it can be shared out, and candidates that pad it have an item that is nobody's."""
        free = {name: room[name] - size for name, size in sizes.items()}
        shared = all(least * free[of] <= free[name] <= most * free[of] for name, (of, least, most) in self.shares.items())
        return min(free.values()) >= 0 and shared and (free["items"] > 0 or free["vectors"] == 0)

    def pad(self, batch: Batch, room: Sizes) -> Batch:
        """Pad a batch, which may be on a GPU and is not waited for; its features become the encoders' whole input."""
        features = {modality: self._pad_tokens(modality, tokens, room) for modality, tokens in batch.items.features.items()}
        owners, inputs = batch.items.owners, batch.inputs
        predictions = len(batch.targets)
        return replace(
            batch,
            items=Items(
                _fill(batch.items.numbers, room["items"], 0),
                features,
                None if owners is None else _fill(owners, room["vectors"], room["items"] - 1),
            ),
            inputs=Sequences(
                _fill(inputs.rows, room["predictions"], 0),
                _deal(inputs.lengths, room["users"], room["predictions"] - predictions),
                self.max_seq_len,
            ),
            targets=_fill(batch.targets, room["predictions"], 0),
            own=torch.stack([_fill(part, room["pairs"], part[0]) for part in batch.own]),
            positions=_fill(batch.positions, room["vectors" if owners is None else "items"], 0),
            real=torch.arange(room["predictions"], device=batch.targets.device) < predictions,
        )

    def _pad_tokens(self, modality: str, tokens: Tokens, room: Sizes) -> Tokens:
        if tokens.values.device.type == "cpu":
            (tokens,) = tokens.split(len(tokens.lengths))  # copied and converted
        values = _fill(tokens.values, room[modality], tokens.values[0])
        return Tokens(values, _deal(tokens.lengths, room["items"], len(values) - len(tokens.values)), self.longest[modality])


def _ceil(number: int, parts: int) -> int:
    return -(-number // parts)


def _power(number: int) -> int:
    """The power of two that is not smaller."""
    return 1 << (number - 1).bit_length()


def _fill(rows: Tensor, size: int, last: Tensor | int) -> Tensor:
    """Rows [n, ...] and behind them copies of one -> [size, ...]."""
    padded = rows.new_empty(size, *rows.shape[1:])
    padded[: len(rows)] = rows
    padded[len(rows) :] = last
    return padded


def _deal(lengths: Tensor, size: int, total: int) -> Tensor:
    """Lengths [n] and behind them a total dealt out evenly -> [size]."""
    others = size - len(lengths)
    each, left = divmod(total, max(others, 1))
    return torch.cat([lengths, (torch.arange(others, device=lengths.device) < left) + each])
