"""Items as encoders take them: their numbers and the tokens of their frozen features.

Legend: M distinct items, V vectors of these, T feature tokens, W feature width.
"""

from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass

import torch
from torch import Tensor

from odmt.transfer import to_gpu

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

    def first(self, rows: Tensor) -> Tensor:
        """Of a row a token [T, ...] those of each item's first token [M, ...]."""
        if len(rows) == len(self.lengths) * self.longest:  # all items have as many
            return rows[:: self.longest]
        return rows.index_select(0, self.lengths.cumsum(0) - self.lengths)

    def __len__(self) -> int:
        return len(self.values if self.rows is None else self.rows)

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

    @property
    def sizes(self) -> dict[str, int]:
        """M and, where there are features, the tokens of all modalities; known without asking the device."""
        tokens = {"tokens": sum(map(len, self.features.values()))} if self.features else {}
        return {"items": len(self.numbers), **tokens}

    def repeat(self, rows: Tensor) -> Tensor:
        """A row an item [M, ...] -> a row a vector [V, ...]."""
        assert len(rows) == len(self.numbers), f"{len(rows)} rows for {len(self.numbers)} items"
        return rows if self.owners is None else rows.index_select(0, self.owners)

    def of(self, source: str) -> "Items":
        """The same items with no features but those of one source; the ID has none."""
        features = {modality: tokens for modality, tokens in self.features.items() if modality == source}
        return Items(self.numbers, features, self.owners)

    def blocks(self) -> Iterator["Items"]:
        """Cut into what is to be encoded at a time: a GPU, or what is compiled, takes everything, a CPU float32 blocks."""
        if self.numbers.device.type != "cpu" or torch.compiler.is_compiling():
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


def to_device(part, device: torch.device, dtype: torch.dtype):
    """Move every tensor of a batch or of a part of it, to a GPU without waiting for it; features then become `dtype`.

    But float16 stays so on a CPU until it is encoded, block by block: as float32 it would take twice the memory; and so does a
    table of which rows are wanted, whatever its type. (Not where float64 is asked for, which tests compare in.)
    """
    return _converted(to_gpu(part, device) if device.type == "cuda" else part, device, dtype)


def _converted(part, device: torch.device, dtype: torch.dtype):
    if isinstance(part, Tokens) and part.rows is not None and device.type == "cpu" and dtype != torch.float64:
        return part
    if isinstance(part, Tensor):
        if device.type == "cpu" and part.dtype == torch.float16 and dtype != torch.float64:
            return part
        return part.to(device, dtype if part.is_floating_point() else None)
    if isinstance(part, dict):
        return {key: _converted(value, device, dtype) for key, value in part.items()}
    if is_dataclass(part) and not isinstance(part, type):
        return type(part)(**{field.name: _converted(getattr(part, field.name), device, dtype) for field in fields(part)})
    return part
