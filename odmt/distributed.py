"""One process or several: what `odmt.local_processes` or torchrun set up, and how the processes exchange rows."""

import ctypes
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from odmt import remedies
from odmt.cores import rank_and_size
from odmt.errors import InputError, ProcessLostError, first_line, is_of_memory

PR_SET_PDEATHSIG = 1
STARTED_BY = "ODMT_STARTED_BY"  # the environment variable in which the process that starts several gives them its number
# What gloo and NCCL say when the other end of a connection is gone.
LOST = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "ncclRemoteError", "Connection refused")


@dataclass(frozen=True)
class World:
    """The processes of a run.

    Attributes:
        rank: of this process, from 0.
        size: number of processes.
        device: this process's.
    """

    rank: int
    size: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        """True in the process that writes files."""
        return self.rank == 0


def choose_device(name: str, option: str = "--device ") -> torch.device:
    """The device of this process, a GPU always with its number: what is not numbered cannot be made current.

    Args:
        name: `cuda`, `cpu`, or `auto` for a GPU where there is one. Of several processes each takes a GPU of its own, as long as
            there are enough.
        option: how the name was given, for the message.

    Raises:
        InputError: a GPU is asked for and there is none.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise InputError(f"{option}cuda: PyTorch sees no GPU here; take {option}cpu, or fix the driver")
    if name == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)) % torch.cuda.device_count())


@contextmanager
def open_world(device: str = "auto") -> Iterator[World]:
    """Join the processes that were started together (NCCL on GPUs, gloo on CPUs); alone where there is one.

    Args:
        device: `cuda`, `cpu`, or `auto` for a GPU where there is one.
    """
    here = choose_device(device, "train.device=")
    rank, size = rank_and_size()
    if here.type == "cuda":
        torch.cuda.set_device(here)
    if size > 1:
        end_with_parent()
        dist.init_process_group("nccl" if here.type == "cuda" else "gloo")
    try:
        yield World(rank, size, here)
    except (RuntimeError, MemoryError) as error:
        raise _explained(error, size) from error
    finally:
        if size > 1:
            dist.destroy_process_group()


def _explained(error: Exception, size: int) -> Exception:
    """The error in words, where it is of memory or of a process that is gone; else as it is."""
    said = first_line(error)
    if is_of_memory(error):
        return InputError(f"not enough memory ({said}); take a smaller train.batch_size or model.dim, or a machine with more")
    if size > 1 and any(sign in str(error) for sign in LOST):
        return ProcessLostError(
            "another process of this run has ended; where it says nothing itself it was killed, probably out of memory; "
            f"{remedies.go_on()}"
        )
    return error


def end_with_parent():
    """End when whoever started the processes does, however that ends: nobody else would ever (on Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.environ.get(STARTED_BY, parent := str(os.getppid())) != parent:  # it has ended already
            sys.exit(128 + signal.SIGTERM)


def share(num_rows: int, world: World) -> slice:
    """The rows of this process when they are dealt out evenly; with as many rows as processes or more, none goes without."""
    return slice(num_rows * world.rank // world.size, num_rows * (world.rank + 1) // world.size)


def gather_shares(rows: Tensor, num_rows: int, world: World) -> Tensor:
    """Put the shares of all processes together again: [share, ...] -> [num_rows, ...] in every process."""
    if world.size == 1:
        return rows
    per_process = -(-num_rows // world.size)
    padded = rows.new_zeros(per_process, *rows.shape[1:])
    padded[: len(rows)] = rows
    parts = [torch.empty_like(padded) for _ in range(world.size)]
    dist.all_gather(parts, padded)
    shares = [share(num_rows, World(rank, world.size, world.device)) for rank in range(world.size)]
    return torch.cat([part[: own.stop - own.start] for part, own in zip(parts, shares)])


class _GatherRows(torch.autograd.Function):
    """The rows of all processes, one process's after the other's; a row's gradient is the sum over all that have used it."""

    @staticmethod
    def forward(ctx, rows, sizes):
        ctx.sizes, ctx.num_rows = sizes, len(rows)
        padded = rows.new_zeros(max(sizes), rows.shape[1])
        padded[: len(rows)] = rows
        parts = [torch.empty_like(padded) for _ in sizes]
        dist.all_gather(parts, padded)
        return torch.cat([part[:size] for part, size in zip(parts, sizes)])

    @staticmethod
    def backward(ctx, grad):
        parts = [grad.new_zeros(max(ctx.sizes), grad.shape[1]) for _ in ctx.sizes]
        for part, own, size in zip(parts, grad.split(ctx.sizes), ctx.sizes):
            part[:size] = own
        summed = torch.empty_like(parts[0])
        dist.reduce_scatter(summed, parts)
        return summed[: ctx.num_rows], None


def gather_rows(rows: Tensor, sizes: Sequence[int]) -> Tensor:
    """Put the rows of all processes one after the other, with gradient: [own, D] -> [sum of sizes, D] in every process.

    Args:
        rows: this process's.
        sizes: how many each process has, known to all.
    """
    return _GatherRows.apply(rows, tuple(sizes))


def reduce_rows(table: Tensor, touched: Tensor, world: World):
    """Average the sparse gradient of a table over the processes, of touched rows alone; then it is ascending and coalesced.

    What is sent is a row of the table for each touched one, and neither indices nor numbers of rows, which all processes know.

    Args:
        table: [N, D]; its gradient has no other rows than the touched ones.
        touched: int64 [U], ascending, the rows that some process has a gradient of; the same in all.
        world: the processes.
    """
    gradient = table.grad
    if gradient is None or world.size == 1:
        return
    values = gradient._values() / world.size
    rows = torch.searchsorted(touched, gradient._indices()[0])
    summed = values.new_zeros(len(touched), *values.shape[1:]).index_add_(0, rows, values)
    dist.all_reduce(summed)
    table.grad = torch.sparse_coo_tensor(touched[None], summed, table.shape, is_coalesced=True, check_invariants=False)


def in_main(function: Callable[[], None], world: World):
    """Call a function in the main process alone; the others wait for it, and what it raises ends all.

    Raises:
        InputError: in all processes, where the function raised it.
        ProcessLostError: in the others, where the function raised something else in the main process.
    """
    failure: list[tuple[bool, str] | None] = [None]
    raised: Exception | None = None
    if world.is_main:
        try:
            function()
        except Exception as error:
            raised, failure = error, [(isinstance(error, InputError), str(error))]
    if world.size > 1:
        dist.broadcast_object_list(failure)
    if raised is not None:
        raise raised
    if failure[0] is not None:
        is_input, message = failure[0]
        raise InputError(message) if is_input else ProcessLostError(f"the main process ended with: {message}")


def mean_over_processes(values: Tensor, world: World) -> Tensor:
    """The mean of a tensor over all processes."""
    if world.size > 1:
        dist.all_reduce(values)
        values /= world.size
    return values
