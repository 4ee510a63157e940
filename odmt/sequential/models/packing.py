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
        return rows.new_zeros(*rows.shape[:-2], num_slots, rows.shape[-1]).index_copy_(-2, slots, rows)

    @staticmethod
    def backward(ctx, grad):
        (slots,) = ctx.saved_tensors
        return grad.index_select(-2, slots), None, None


class _Pack(torch.autograd.Function):
    """Gather rows from distinct slots of a grid; the gradient is the scatter."""

    @staticmethod
    def forward(ctx, grid, slots):
        ctx.save_for_backward(slots)
        ctx.num_slots = grid.shape[-2]
        return grid.index_select(-2, slots)

    @staticmethod
    def backward(ctx, grad):
        (slots,) = ctx.saved_tensors
        return grad.new_zeros(*grad.shape[:-2], ctx.num_slots, grad.shape[-1]).index_copy_(-2, slots, grad), None


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
    def right_padded(cls, lengths: Tensor, total: int, width: int, start: int = 0, longest: int | None = None) -> "Packing":
        """Sequences one after another, each from column `start` on.

        Args:
            lengths: [B] rows of each sequence.
            total: P, their sum; given so that a GPU need not be waited for.
            width: L, columns of the grid.
            start: first column.
            longest: the largest length, where it is not L.
        """
        firsts = torch.arange(start, len(lengths) * width + start, width, device=lengths.device)
        return cls(_slots(firsts, lengths, total, longest or width), (len(lengths), width))

    @classmethod
    def left_padded(cls, lengths: Tensor, total: int, width: int) -> "Packing":
        """Sequences one after another, each ending at the last column; arguments as `right_padded`."""
        ends = torch.arange(width, (len(lengths) + 1) * width, width, device=lengths.device)
        return cls(_slots(ends - lengths, lengths, total, width), (len(lengths), width))

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
        """Packed rows [..., P, D] -> grid [..., B, L, D], zero where there is no row."""
        if not self.in_order:
            rows = _Pad.apply(rows, self.slots, self.shape[0] * self.shape[1])
        return rows.unflatten(-2, self.shape)

    def pack(self, grid: Tensor) -> Tensor:
        """Grid [..., B, L, D] -> packed rows [..., P, D]."""
        rows = grid.flatten(-3, -2)
        return rows if self.in_order else _Pack.apply(rows, self.slots)


def fill_gaps(rows: Tensor, packing: Packing) -> tuple[Tensor, Packing]:
    """Rows [P, D] as the whole grid [B * L, D] where little of it is padding, which costs less than to leave it out."""
    if len(rows) < WORTH_FILLING * packing.shape[0] * packing.shape[1]:
        return rows, packing
    return packing.pad(rows).flatten(0, 1), Packing.full(packing.shape, rows.device)


def _slots(firsts: Tensor, lengths: Tensor, total: int, longest: int) -> Tensor:
    if total == len(lengths) * longest:  # all are as long
        return (firsts[:, None] + torch.arange(longest, device=lengths.device)).flatten()
    shifts = torch.repeat_interleave(firsts - lengths.cumsum(0) + lengths, lengths, output_size=total)
    return torch.arange(total, device=lengths.device) + shifts
