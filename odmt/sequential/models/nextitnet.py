"""NextItNet (Yuan et al. 2019) with the settings of RecBole: dilated causal convolutions over a user's items.

Legend: P packed positions, B users, L columns, D width.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from odmt.sequential.models.packing import Packing
from odmt.sequential.models.sources import LayerNorm, Linear, linear


class CausalConv(nn.Conv1d):
    """A convolution that sees the present and the past."""

    stacks = True

    def __init__(self, dim: int, kernel_size: int, dilation: int):
        super().__init__(dim, dim, kernel_size, dilation=dilation)

    def forward(self, grid: Tensor) -> Tensor:
        """[..., B, L, D] -> [..., B, L, D]."""
        (size,), (dilation,), length = self.kernel_size, self.dilation, grid.shape[-2]
        past = (size - 1) * dilation
        if self.weight.dim() == 3:
            return super().forward(F.pad(grid.mT, (past, 0))).mT
        # As products, which many sources have as one: what a position sees side by side, [S, B * L, size * D].
        grid = F.pad(grid, (0, 0, past, 0))
        seen = torch.cat([grid[..., step * dilation : step * dilation + length, :] for step in range(size)], -1)
        weight = self.weight.transpose(-2, -1).flatten(-2)  # [S, D, size * D]
        return linear(seen.flatten(1, 2), weight, self.bias).unflatten(1, seen.shape[1:3])


class ResidualBlock(nn.Module):
    """Block "b": conv, LayerNorm, ReLU, conv of twice the dilation, LayerNorm, ReLU, residual."""

    stacks = True

    def __init__(self, dim: int, kernel_size: int, dilation: int):
        super().__init__()
        self.conv1 = CausalConv(dim, kernel_size, dilation)
        self.norm1 = LayerNorm(dim, eps=1e-8)
        self.conv2 = CausalConv(dim, kernel_size, 2 * dilation)
        self.norm2 = LayerNorm(dim, eps=1e-8)

    def forward(self, grid: Tensor) -> Tensor:
        """[..., B, L, D] -> [..., B, L, D]."""
        out = F.relu(self.norm1(self.conv1(grid)))
        return F.relu(self.norm2(self.conv2(out))) + grid


class NextItNet(nn.Module):
    """Residual blocks of dilations 1, 4 repeated five times, then a linear.

    Deviation: RecBole's L2 penalty on the weights is left out, for all models are trained with one loss and AdamW's decay.
    """

    stacks = True

    def __init__(self, dim: int, dilations: tuple[int, ...] = (1, 4) * 5, kernel_size: int = 3):
        super().__init__()
        self.blocks = nn.Sequential(*(ResidualBlock(dim, kernel_size, dilation) for dilation in dilations))
        self.out = Linear(dim, dim)
        nn.init.xavier_normal_(self.out.weight)
        nn.init.constant_(self.out.bias, 0.1)

    def forward(self, rows: Tensor, lengths: Tensor, longest: int) -> Tensor:
        """Item vectors [P, D] of users with `lengths` [B] items -> states [P, D]."""
        # Sequences start at column 0: what a convolution sees before them is its own zero padding, in every layer.
        packing = Packing.right_padded(lengths, rows.shape[-2], longest)
        return self.out(packing.pack(self.blocks(packing.pad(rows))))
