"""The step size over a run; clipping and AdamW for models with a large table of item vectors, of which a step sees a few rows."""

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from odmt.config import TrainConfig


def step_size(train: TrainConfig, trained: float) -> float:
    """The optimizer's step size after so many epochs of training, a fraction among them: linear warm-up, then half a cosine.

    A function of settings and place alone, so that a run that is continued has the steps of one that was not interrupted.
    """
    if trained < train.warm_up_epochs:
        return train.lr * trained / train.warm_up_epochs
    if train.decay == "none":
        return train.lr
    left = (train.epochs - trained) / (train.epochs - train.warm_up_epochs)
    return train.lr * (1 - math.cos(math.pi * left)) / 2


def set_step_size(optimizer: torch.optim.Optimizer, lr: float):
    """Have the next steps be of this size."""
    for group in optimizer.param_groups:
        group["lr"] = lr


def clip_norm(parameters: Iterable[nn.Parameter], max_norm: float) -> Tensor:
    """Scale all gradients, sparse ones too, to a norm of `max_norm` together as `clip_grad_norm_` does; returns the norm before."""
    gradients = []
    for parameter in parameters:
        gradient = parameter.grad
        if gradient is None:
            continue
        if gradient.is_sparse:
            parameter.grad = gradient = gradient.coalesce()
            gradient = gradient.values()
        gradients.append(gradient)
    norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
    torch._foreach_mul_(gradients, (max_norm / (norm + 1e-6)).clamp(max=1.0))
    return norm


class SparseGradAdamW(torch.optim.AdamW):
    """Fused AdamW that takes sparse gradients [rows of the batch] of a table too; the numbers are those of dense ones.

    It decays and moves every row at every step, as the official code does. But the rows that a step has not seen are zeros in a
    buffer that stays, and are neither filled anew nor summed into the gradient norm, so that nothing else grows with the table.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], lr: float, weight_decay: float):
        super().__init__(parameters, lr, weight_decay=weight_decay, fused=True)
        self._buffers: dict[nn.Parameter, Tensor] = {}  # by table, zero between steps

    @torch.no_grad()
    def step(self):  # type: ignore[override]  # without a closure: no step here works the loss out again
        """Update every parameter that has a gradient."""
        written = []
        for table, gradient in self._gradients():
            if gradient.is_sparse:
                gradient = gradient.coalesce()
                rows = gradient.indices()[0]
                if table not in self._buffers:
                    self._buffers[table] = torch.zeros_like(table)
                table.grad = self._buffers[table].index_copy_(0, rows, gradient.values())
                written.append((table, gradient))
        super().step()
        for table, gradient in written:
            table.grad = gradient
            self._buffers[table].index_fill_(0, gradient.indices()[0], 0.0)

    def _gradients(self) -> list[tuple[nn.Parameter, Tensor]]:
        return [
            (parameter, parameter.grad)
            for group in self.param_groups
            for parameter in group["params"]
            if parameter.grad is not None
        ]
