"""NextItNet (Yuan et al. 2019) with the settings of RecBole: dilated causal convolutions over a user's items.

Legend: P packed positions, B users, L columns, D width.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from odmt.sequential.models.packing import Packing


class CausalConv(nn.Conv1d):
    """A convolution that sees the present and the past."""

    def __init__(self, dim: int, kernel_size: int, dilation: int):
        super().__init__(dim, dim, kernel_size, dilation=dilation)

    def forward(self, grid: Tensor) -> Tensor:
        """[B, D, L] -> [B, D, L]."""
        past = (self.kernel_size[0] - 1) * self.dilation[0]
        return super().forward(F.pad(grid, (past, 0)))


class ResidualBlock(nn.Module):
    """Block "b": conv, LayerNorm, ReLU, conv of twice the dilation, LayerNorm, ReLU, residual."""

    def __init__(self, dim: int, kernel_size: int, dilation: int):
        super().__init__()
        self.conv1 = CausalConv(dim, kernel_size, dilation)
        self.norm1 = nn.LayerNorm(dim, eps=1e-8)
        self.conv2 = CausalConv(dim, kernel_size, 2 * dilation)
        self.norm2 = nn.LayerNorm(dim, eps=1e-8)

    def forward(self, grid: Tensor) -> Tensor:
        """[B, L, D] -> [B, L, D]."""
        out = F.relu(self.norm1(self.conv1(grid.mT).mT))
        return F.relu(self.norm2(self.conv2(out.mT).mT)) + grid


class NextItNet(nn.Module):
    """Residual blocks of dilations 1, 4 repeated five times, then a linear.

    Deviation: RecBole's L2 penalty on the weights is left out, for all models are trained with one loss and AdamW's decay.
    """

    def __init__(self, dim: int, dilations: tuple[int, ...] = (1, 4) * 5, kernel_size: int = 3):
        super().__init__()
        self.blocks = nn.Sequential(*(ResidualBlock(dim, kernel_size, dilation) for dilation in dilations))
        self.out = nn.Linear(dim, dim)
        nn.init.xavier_normal_(self.out.weight)
        nn.init.constant_(self.out.bias, 0.1)

    def forward(self, rows: Tensor, lengths: Tensor, longest: int) -> Tensor:
        """Item vectors [P, D] of users with `lengths` [B] items -> states [P, D]."""
        # Sequences start at column 0: what a convolution sees before them is its own zero padding, in every layer.
        packing = Packing.right_padded(lengths, len(rows), longest)
        return self.out(packing.pack(self.blocks(packing.pad(rows))))
