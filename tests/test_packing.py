"""Packed rows to a padded grid and back, with their gradients."""

import pytest
import torch

from odmt.sequential.models.packing import Packing, fill_gaps

LENGTHS = torch.tensor([2, 0, 3, 1])
ROWS = torch.arange(1.0, 7.0)[:, None]


@pytest.mark.parametrize(
    ("packing", "grid"),
    [
        (Packing.right_padded(LENGTHS, 6, 4), [[1, 2, 0, 0], [0, 0, 0, 0], [3, 4, 5, 0], [6, 0, 0, 0]]),
        (Packing.right_padded(LENGTHS, 6, 4, start=1), [[0, 1, 2, 0], [0, 0, 0, 0], [0, 3, 4, 5], [0, 6, 0, 0]]),
        (Packing.left_padded(LENGTHS, 6, 3), [[0, 1, 2], [0, 0, 0], [3, 4, 5], [0, 0, 6]]),
    ],
)
def test_grid(packing, grid):
    padded = packing.pad(ROWS)
    assert padded[..., 0].tolist() == grid
    assert packing.valid().tolist() == [[value > 0 for value in row] for row in grid]
    assert torch.equal(packing.pack(padded), ROWS)
    assert packing.columns.tolist() == [row.index(value) for value in range(1, 7) for row in grid if value in row]
    assert packing.sequences.tolist() == [0, 0, 2, 2, 2, 3]


def test_gradients_are_those_of_the_plain_computation():
    packing = Packing.left_padded(LENGTHS, 6, 3)
    rows = torch.randn(6, 2, dtype=torch.float64, requires_grad=True)
    grid = torch.randn(4, 3, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(packing.pad, (rows,))
    assert torch.autograd.gradcheck(packing.pack, (grid,))


@pytest.mark.parametrize(("lengths", "filled"), [([3, 3, 3, 2], True), ([3, 3, 3, 3], True), ([3, 2, 3, 2], False)])
def test_gaps_are_filled_where_they_are_few(lengths, filled):
    rows = torch.arange(1.0, 1 + sum(lengths))[:, None]
    packing = Packing.right_padded(torch.tensor(lengths), len(rows), 3)
    grid = packing.pad(rows)
    rows, after = fill_gaps(rows, packing)
    assert after.in_order == filled
    assert len(rows) == (12 if filled else 10)
    assert torch.equal(after.pad(rows), grid)
    assert torch.equal(after.pack(grid), rows)
