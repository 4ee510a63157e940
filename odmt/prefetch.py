"""What is needed next is made while the present is used."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

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
