"""What is needed next is made while the present is used."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

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
