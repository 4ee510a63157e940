"""Clipping, and AdamW, for models with a large table of item vectors, of which a step sees a few rows."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn


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
