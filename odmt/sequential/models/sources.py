"""What the sources have each of its own, computed for all of them: one after the other, or as one.

Legend: S sources, P rows, D width.
"""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ONE_BY_ONE = ("cpu",)  # devices where a source is computed after the other
PLAIN = (nn.Sequential, nn.ModuleList, nn.LeakyReLU)  # PyTorch's own that know of no leading dimension, and need not


def as_one(device: torch.device) -> bool:
    """Whether the sources are computed as one: a GPU waits for its host, which then launches a third of the kernels.

    A CPU does not wait; it gains nothing (BENCHMARKS.md) and computes a source while it is in the cache. What is compiled takes
    a whole batch at once everywhere.
    """
    return device.type not in ONE_BY_ONE or torch.compiler.is_compiling()


def for_each(function: Callable[..., Tensor], *arguments: Sequence[Tensor]) -> Sequence[Tensor]:
    """`function(*(argument[s] for each argument))` for every source s.

    Args:
        function: computes with the last dimensions of its arguments; one more before these it passes through.
        arguments: S tensors each, of one shape.
    """
    if len(arguments[0]) == 1 or not as_one(arguments[0][0].device):
        return [function(*parts) for parts in zip(*arguments, strict=True)]
    return function(*(torch.stack(list(parts)) for parts in arguments)).unbind()


def apply_each(modules: Sequence[nn.Module], inputs: Sequence[Tensor], *shared) -> Sequence[Tensor]:
    """`modules[s](inputs[s], *shared)` for every source s; as one only where the modules are alike and all of them can be.

    A class says that it can by `stacks = True` in its own body: its forward then takes [S, P, D] under weights [S, ...] too. What
    is not alike, or of a class that does not say so (a backbone of one's own; GRU4Rec, whose layer is a single kernel of cuDNN's),
    is computed one after the other.
    """
    together = as_one(inputs[0].device) and not torch.compiler.is_compiling()
    weights = _stacked(modules) if len(modules) > 1 and together else None
    if weights is None:
        return [module(part, *shared) for module, part in zip(modules, inputs, strict=True)]
    return torch.func.functional_call(modules[0], weights, (torch.stack(list(inputs)), *shared)).unbind()


def linear(rows: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Rows [..., P, D] times weight [..., E, D], plus bias [..., E] -> [..., P, E]."""
    if weight.dim() == 2:
        return F.linear(rows, weight, bias)
    return _Products.apply(rows.to(weight.dtype), weight, bias)


class _Products(torch.autograd.Function):
    """Rows [S, P, D] times weights [S, E, D], plus biases [S, E]; the gradient of the weights lies in memory as they do.

    That of PyTorch's own would be a transposed one, of which every parameter then makes a copy.
    """

    @staticmethod
    def forward(ctx, rows, weight, bias):
        ctx.save_for_backward(rows, weight)
        ctx.has_bias = bias is not None
        return torch.bmm(rows, weight.mT) if bias is None else torch.baddbmm(bias[:, None], rows, weight.mT)

    @staticmethod
    def backward(ctx, grad):
        rows, weight = ctx.saved_tensors
        return torch.bmm(grad, weight), torch.bmm(grad.mT, rows), grad.sum(1) if ctx.has_bias else None


class Linear(nn.Linear):
    """`nn.Linear`, of all sources as one where its weights are stacked."""

    stacks = True

    def forward(self, rows: Tensor) -> Tensor:
        """[..., P, D] -> [..., P, E]."""
        return linear(rows, self.weight, self.bias)


class LayerNorm(nn.LayerNorm):
    """`nn.LayerNorm`, likewise."""

    stacks = True

    def forward(self, rows: Tensor) -> Tensor:
        """[..., D] -> [..., D]."""
        if self.weight.dim() == 1:
            return super().forward(rows)
        sources = len(self.weight)
        beside = rows.flatten(1, -2).transpose(0, 1).flatten(1)  # [P, S * D], where normalizing groups is one kernel
        beside = F.group_norm(beside, sources, self.weight.flatten(), self.bias.flatten(), self.eps)
        return beside.unflatten(1, (sources, -1)).transpose(0, 1).view(rows.shape)


class Embedding(nn.Embedding):
    """`nn.Embedding`, likewise; the sources are asked for the same rows."""

    stacks = True

    def forward(self, numbers: Tensor) -> Tensor:
        """[P] -> [..., P, D]."""
        return super().forward(numbers) if self.weight.dim() == 2 else self.weight.index_select(1, numbers)


class _Stack(torch.autograd.Function):
    """S weights of each name -> one [S, ...] of it, all names in one launch, and so are the gradients.

    Args:
        num_sources: S.
        dtypes: of what is made, by name.
        weights: S of the first name, then S of the next.
    """

    @staticmethod
    def forward(ctx, num_sources, dtypes, *weights):
        ctx.dtype = weights[0].dtype
        stacked = [
            torch.empty(num_sources, *weight.shape, dtype=dtype, device=weight.device)
            for weight, dtype in zip(weights[::num_sources], dtypes, strict=True)
        ]
        for dtype in set(dtypes):  # tensors of one type are copied by one launch
            parts = [part for tensor in stacked for part in tensor.unbind()]
            chosen = [number for number, part in enumerate(parts) if part.dtype == dtype]
            torch._foreach_copy_([parts[number] for number in chosen], [weights[number] for number in chosen])
        return tuple(stacked)

    @staticmethod
    def backward(ctx, *gradients):
        rounded = [number for number, gradient in enumerate(gradients) if gradient.dtype != ctx.dtype]
        whole = list(gradients)
        for number in rounded:
            whole[number] = torch.empty_like(gradients[number], dtype=ctx.dtype)
        if rounded:
            torch._foreach_copy_([whole[number] for number in rounded], [gradients[number] for number in rounded])
        return None, None, *(part for gradient in whole for part in gradient.unbind())


def _stacked(modules: Sequence[nn.Module]) -> dict[str, Tensor] | None:
    """The weights of all modules by name [S, ...], those of products in the type that autocast computes in; None: not alike."""
    found = _alike(modules, "")
    if found is None:
        return None
    device = found[0][2][0].device.type
    half = torch.get_autocast_dtype(device) if device != "meta" and torch.is_autocast_enabled(device) else None
    names, dtypes, weights = [], [], []
    for name, in_products, of_sources in found:
        names.append(name)
        dtypes.append(half if half and in_products else of_sources[0].dtype)
        weights += of_sources
    return dict(zip(names, _Stack.apply(len(modules), dtypes, *weights)))


def _alike(modules: Sequence[nn.Module], prefix: str) -> list[tuple[str, bool, list[Tensor]]] | None:
    """(Name, whether it is a product's, its S weights) of all weights; None where types, settings or shapes differ."""
    first = modules[0]
    if not (type(first) in PLAIN or vars(type(first)).get("stacks", False)):
        return None
    for module in modules[1:]:
        if type(module) is not type(first) or module._modules.keys() != first._modules.keys():
            return None
        if module.extra_repr() != first.extra_repr():
            return None
    in_products = isinstance(first, nn.Linear | nn.Conv1d)
    found: list[tuple[str, bool, list[Tensor]]] = []
    # Not by get_parameter and get_submodule, which cost the host a third of a millisecond more a step.
    for name in first._parameters:
        weights: list[Tensor] = [weight for module in modules if (weight := module._parameters[name]) is not None]
        if weights:
            found.append((prefix + name, in_products, weights))
    for name in first._modules:
        below = _alike([part for module in modules if (part := module._modules[name]) is not None], f"{prefix}{name}.")
        if below is None:
            return None
        found += below
    return found
