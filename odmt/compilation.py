"""Whether a training step is compiled (`train.compile`), and how.

A GPU waits for its host where a step launches many small kernels. PyTorch's compiler fuses them (`default`); CUDA graphs replay
what is left without the host (`reduce-overhead`). Three decisions:

- `none` is the default: every shape of a batch is compiled once, which takes minutes, and no card has been measured yet.
- `auto` is `default` for one process on a GPU, else `none`: a CPU does not wait, and several processes exchange in between what
  they have.
- What is compiled sees few shapes, or it would be compiled at every step: a family pads its batches to them. Padding is exact, it
  takes no part. Only dropout is drawn otherwise, so that a run is continued with the compilation it began with: that is noted
  beside its weights, as `auto` is another on another device.
"""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from odmt.distributed import World
from odmt.errors import InputError

Mode = Literal["auto", "none", "default", "reduce-overhead"]


def choose_mode(mode: Mode, world: World) -> Mode:
    """Resolve `auto`.

    Raises:
        InputError: several processes are to be compiled.
    """
    if mode == "auto":
        return "default" if world.device.type == "cuda" and world.size == 1 else "none"
    if mode != "none" and world.size > 1:
        raise InputError(f"config key train.compile: {mode} is for one process, and these are {world.size}; take none")
    return mode


def check_compiler(mode: Mode, device: torch.device):
    """Look for what compiles for a CPU, before a run begins; without it the first step would fail.

    Raises:
        InputError: there is no C++ compiler.
    """
    if mode == "none" or device.type != "cpu":
        return
    from torch._inductor import cpp_builder, exc  # takes seconds

    try:
        cpp_builder.get_cpp_compiler()
    except exc.InvalidCxxCompiler as error:
        raise InputError(
            f"config key train.compile: {mode} takes a C++ compiler on a CPU ({error}): install g++, or take train.compile=none"
        ) from error


def compiled(function: Callable, mode: Mode) -> Callable:
    """Have a function compiled for every shape that it is called with."""
    return torch.compile(function, dynamic=False, mode=None if mode == "default" else mode)


def as_tensor(number: float, like: Tensor) -> Tensor:
    """A number that changes, as what is compiled takes it: of a Python number every value would be compiled."""
    return torch.full((), number, dtype=like.dtype, device=like.device)
