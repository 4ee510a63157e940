"""What is needed next is made while the present is used."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

import torch

T = TypeVar("T")


def prefetch(items: Iterator[T], initialize: Callable[[], None] | None = None) -> Iterator[T]:
    """Have the next item made in another thread while this one is used.

    Args:
        items: none of them None.
        initialize: called once in the thread.
    """
    with ThreadPoolExecutor(1, initializer=initialize) as pool:
        pending = pool.submit(next, items, None)
        while (item := pending.result()) is not None:
            pending = pool.submit(next, items, None)
            yield item


def prepared(items: Iterator[T], device: torch.device) -> Iterator[T]:
    """What is made for a device: for a GPU one ahead, in a thread; elsewhere every core computes already, and would wait for it."""
    if device.type != "cuda":
        return items
    return prefetch(items, partial(torch.cuda.set_device, device))  # threads start on the first GPU
