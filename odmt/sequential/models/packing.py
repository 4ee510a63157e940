"""Rows packed one after another <-> a padded grid, so that padding is computed only where that costs less than to leave it out.

Legend: P real rows, B sequences, L columns, D width.
"""

import torch
from torch import Tensor

WORTH_FILLING = 0.9  # share of a grid's slots that are rows


class _Pad(torch.autograd.Function):
    """Scatter rows to distinct slots of a zero grid; the gradient is the gather back (autograd's own would add)."""

    @staticmethod
    def forward(ctx, rows, slots, num_slots):
        ctx.save_for_backward(slots)
        return rows.new_zeros(num_slots, rows.shape[1]).index_copy_(0, slots, rows)

    @staticmethod
    def backward(ctx, grad):
        (slots,) = ctx.saved_tensors
        return grad.index_select(0, slots), None, None


class _Pack(torch.autograd.Function):
    """Gather rows from distinct slots of a grid; the gradient is the scatter."""

    @staticmethod
    def forward(ctx, grid, slots):
        ctx.save_for_backward(slots)
        ctx.num_slots = len(grid)
        return grid.index_select(0, slots)

    @staticmethod
    def backward(ctx, grad):
        (slots,) = ctx.saved_tensors
        return grad.new_zeros(ctx.num_slots, grad.shape[1]).index_copy_(0, slots, grad), None


class Packing:
    """Where P packed rows stand in a [B, L] grid.

    Attributes:
        slots: int64 [P], distinct positions in the flattened grid.
        shape: (B, L).
        in_order: the rows are the grid, slot after slot, so that padding and packing do nothing.
    """

    def __init__(self, slots: Tensor, shape: tuple[int, int], in_order: bool = False):
        self.slots = slots
        self.shape = shape
        self.in_order = in_order

    @classmethod
    def full(cls, shape: tuple[int, int], device: torch.device) -> "Packing":
        """A grid without padding."""
        return cls(torch.arange(shape[0] * shape[1], device=device), shape, in_order=True)

    @classmethod
    def right_padded(cls, lengths: Tensor, total: int, width: int, start: int = 0) -> "Packing":
        """Sequences one after another, each from column `start` on.

        Args:
            lengths: [B] rows of each sequence.
            total: P, their sum; given so that a GPU need not be waited for.
            width: L, columns of the grid.
            start: first column.
        """
        firsts = torch.arange(len(lengths), device=lengths.device) * width + start
        return cls(_slots(firsts, lengths, total), (len(lengths), width))

    @classmethod
    def left_padded(cls, lengths: Tensor, total: int, width: int) -> "Packing":
        """Sequences one after another, each ending at the last column; arguments as `right_padded`."""
        firsts = torch.arange(1, len(lengths) + 1, device=lengths.device) * width - lengths
        return cls(_slots(firsts, lengths, total), (len(lengths), width))

    @property
    def columns(self) -> Tensor:
        """Column of every packed row [P]."""
        return self.slots % self.shape[1]

    @property
    def sequences(self) -> Tensor:
        """Sequence of every packed row [P]."""
        return self.slots // self.shape[1]

    def valid(self) -> Tensor:
        """True where the grid has a row [B, L]."""
        valid = torch.zeros(self.shape[0] * self.shape[1], dtype=torch.bool, device=self.slots.device)
        return valid.index_fill_(0, self.slots, True).view(self.shape)

    def pad(self, rows: Tensor) -> Tensor:
        """Packed rows [P, D] -> grid [B, L, D], zero where there is no row."""
        if self.in_order:
            return rows.view(*self.shape, -1)
        return _Pad.apply(rows, self.slots, self.shape[0] * self.shape[1]).view(*self.shape, rows.shape[1])

    def pack(self, grid: Tensor) -> Tensor:
        """Grid [B, L, D] -> packed rows [P, D]."""
        if self.in_order:
            return grid.flatten(0, 1)
        return _Pack.apply(grid.reshape(-1, grid.shape[-1]), self.slots)


def fill_gaps(rows: Tensor, packing: Packing) -> tuple[Tensor, Packing]:
    """Rows [P, D] as the whole grid [B * L, D] where little of it is padding, which costs less than to leave it out."""
    if len(rows) < WORTH_FILLING * packing.shape[0] * packing.shape[1]:
        return rows, packing
    return packing.pad(rows).flatten(0, 1), Packing.full(packing.shape, rows.device)


def _slots(firsts: Tensor, lengths: Tensor, total: int) -> Tensor:
    shifts = torch.repeat_interleave(firsts - lengths.cumsum(0) + lengths, lengths, output_size=total)
    return torch.arange(total, device=lengths.device) + shifts
