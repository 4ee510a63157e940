"""Dropout that does not dominate a training step on a CPU."""

import torch
from torch import Tensor, nn

LEVELS = 1 << 16  # of a random number of 16 bits


class _Masked(torch.autograd.Function):
    """x * mask, the mask drawn four numbers at a time; PyTorch's own draws one after the other."""

    @staticmethod
    def forward(ctx, x, num_dropped):
        count = x.numel()
        random = torch.empty(-(-count // 4), dtype=torch.int64).random_(-(1 << 63), None).view(torch.int16)[:count].view(x.shape)
        mask = (random >= num_dropped - LEVELS // 2).to(x.dtype).mul_(LEVELS / (LEVELS - num_dropped))
        ctx.save_for_backward(mask)
        return x * mask

    @staticmethod
    def backward(ctx, grad):
        (mask,) = ctx.saved_tensors
        return grad * mask, None


class Dropout(nn.Dropout):
    """`nn.Dropout`, on a CPU about three times as fast; its probability there is a multiple of 1/65536."""

    stacks = True

    def forward(self, x: Tensor) -> Tensor:
        """Zero elements with probability p in training, and scale the others so that the mean stays."""
        if not self.training or self.p == 0:
            return super().forward(x)
        if x.device.type != "cpu" or torch.compiler.is_compiling():
            # One kernel; PyTorch takes it on CUDA alone, not where kernels are counted.
            return torch.native_dropout(x, self.p, True)[0]
        return _Masked.apply(x, min(round(self.p * LEVELS), LEVELS - 1))
