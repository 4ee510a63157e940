"""Tensors on their way to a GPU: the small ones as one copy from one pinned buffer, what is pinned already from where it is.

PyTorch's allocator gives a pinned buffer out again when the copies from it are done, and not before.
"""

import functools
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields, is_dataclass
from typing import TypeVar

import torch
from torch import Tensor

from odmt.prefetch import prefetch

T = TypeVar("T")

ALIGNMENT = 16  # bytes: the largest element of a tensor


def tensors_of(part) -> list[Tensor]:
    """All tensors of a tensor, a dict or a dataclass of such, in the order of `with_tensors`."""
    found: list[Tensor] = []

    def note(tensor: Tensor) -> Tensor:
        found.append(tensor)
        return tensor

    with_tensors(part, note)
    return found


def with_tensors(part, change: Callable[[Tensor], Tensor]):
    """The same tensor, dict or dataclass, every tensor of it changed."""
    if isinstance(part, Tensor):
        return change(part)
    if isinstance(part, dict):
        return {key: with_tensors(value, change) for key, value in part.items()}
    if is_dataclass(part) and not isinstance(part, type):
        return type(part)(**{field.name: with_tensors(getattr(part, field.name), change) for field in fields(part)})
    return part


def pack(tensors: Sequence[Tensor], pinned: bool = False) -> Tensor:
    """Copy tensors into one buffer of bytes."""
    buffer = torch.empty(sum(map(_room, tensors)), dtype=torch.uint8, pin_memory=pinned)
    for own, tensor in zip(unpack(buffer, tensors), tensors):
        own.copy_(tensor)
    return buffer


def unpack(buffer: Tensor, tensors: Sequence[Tensor]) -> Iterator[Tensor]:
    """Views of a buffer where `pack` puts tensors of such types and shapes."""
    start = 0
    for tensor in tensors:
        yield buffer[start : start + tensor.nbytes].view(tensor.dtype).view(tensor.shape)
        start += _room(tensor)


def to_gpu(part, device: torch.device):
    """Move the tensors of a batch from the CPU to a GPU, on the current stream and without waiting."""
    loose = [tensor for tensor in tensors_of(part) if tensor.device.type == "cpu" and not tensor.is_pinned()]
    moved = unpack(pack(loose, pinned=True).to(device, non_blocking=True), loose)
    arrived = {id(tensor): own for tensor, own in zip(loose, moved)}
    return with_tensors(part, lambda tensor: arrived.get(id(tensor), tensor).to(device, non_blocking=True))


def pin_exactly(tensor: Tensor) -> Tensor:
    """Pin the memory of a tensor that lives as long as it is used; PyTorch's own allocator would take up to twice as much.

    Raises:
        RuntimeError: so much cannot be pinned.
    """
    runtime, address = torch.cuda.cudart(), tensor.data_ptr()
    torch.cuda.check_error(int(runtime.cudaHostRegister(address, tensor.nbytes, 0)))
    weakref.finalize(tensor.untyped_storage(), runtime.cudaHostUnregister, address)
    return tensor


def _room(tensor: Tensor) -> int:
    return -(-tensor.nbytes // ALIGNMENT) * ALIGNMENT


def prepared(items: Iterator[T], device: torch.device) -> Iterator[T]:
    """What is made for a device: for a GPU one ahead, in a thread; elsewhere every core computes already, and would wait for it.

    The thread has a stream of its own, so that its copies and look-ups pass while the GPU computes; who takes an item has his
    stream wait for what that item needs, and for no more.
    """
    if device.type != "cuda":
        return items
    stream = _stream(device)

    def initialize():
        torch.cuda.set_device(device)  # threads start on the first GPU
        torch.cuda.set_stream(stream)

    def made(item: T):
        current = torch.cuda.current_stream(device)
        current.wait_stream(stream)
        for tensor in tensors_of(item):
            tensor.record_stream(current)  # else its memory would be given out again in the thread while it is still read

    return prefetch(items, initialize, made)


@functools.cache
def _stream(device: torch.device) -> torch.cuda.Stream:
    """The one stream of such threads: PyTorch keeps memory apart by the stream that asked for it."""
    return torch.cuda.Stream(device)
