"""What is needed next is made while the present is used."""

import functools
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

from odmt.transfer import tensors_of

T = TypeVar("T")


def prefetch(
    items: Iterator[T], initialize: Callable[[], None] | None = None, made: Callable[[T], None] | None = None
) -> Iterator[T]:
    """Have the next item made in another thread while this one is used.

    Args:
        items: none of them None.
        initialize: called once in the thread.
        made: called with each item before the thread begins the next one.
    """
    with ThreadPoolExecutor(1, initializer=initialize) as pool:
        pending = pool.submit(next, items, None)
        while (item := pending.result()) is not None:
            if made is not None:
                made(item)
            pending = pool.submit(next, items, None)
            yield item


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
