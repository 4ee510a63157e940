"""Training batches padded to few shapes, for what is compiled once a shape; what pads them has no part in the losses.

Behind those of a batch stand items that are nobody's, their tokens copies of a real one's, and users whose predictions do not
count: candidates that stand for no position, and rows that the means leave out, so that all their gradients are zeros.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import count

import torch
from torch import Tensor

from odmt.features.items import Items, Tokens
from odmt.features.tables import FeatureTable
from odmt.sequential.batches import Batch, Sequences

STEPS = 8  # of sizes up to the mean batch's: a batch is padded to 9/8 of the mean, or 10/8, ...

Sizes = dict[str, int]  # users, items, vectors, pairs (of user and own item), predictions, and tokens by modality


class Padding:
    """The shapes of a run's batches.

    Args:
        examples: batches without features, of which the shapes are multiples.
        tables: the items' features by modality.
        max_seq_len: L, the longest input.
    """

    def __init__(self, examples: Sequence[Batch], tables: Mapping[str, FeatureTable], max_seq_len: int):
        self.lengths = {modality: torch.from_numpy(table.lengths) for modality, table in tables.items()}
        self.longest = {modality: int(lengths.max()) for modality, lengths in self.lengths.items()}
        self.max_seq_len = max_seq_len
        self.num_examples = len(examples)
        sizes = [self.sizes(batch) for batch in examples]
        self.totals = {name: sum(of_batch[name] for of_batch in sizes) for name in sizes[0]}

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
        return next(room for eighths in count(STEPS + 1) if self._fits(sizes, room := self._scaled(eighths)))

    def _scaled(self, eighths: int) -> Sizes:
        """So many eighths of the mean sizes; of tokens as many an item as the mean is, so that those of equal length stay so."""
        room = {name: -(-total * eighths // (STEPS * self.num_examples)) for name, total in self.totals.items()}
        for modality in self.lengths:
            room[modality] = -(-room["items"] * self.totals[modality] // self.totals["items"])
        return room

    def _fits(self, sizes: Sizes, room: Sizes) -> bool:
        """Whether a batch has place and what pads it can be dealt out: no item without a token, neither item nor user too long."""
        free = {name: room[name] - size for name, size in sizes.items()}
        tokens = all(free["items"] <= free[name] <= longest * free["items"] for name, longest in self.longest.items())
        return min(free.values()) >= 0 and free["predictions"] <= self.max_seq_len * free["users"] and tokens

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
