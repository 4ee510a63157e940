"""The thread that works one step ahead."""

import threading

import pytest

from odmt.prefetch import prefetch


def test_all_come_in_order_each_made_while_the_one_before_is_used():
    made, threads = [threading.Event() for _ in range(4)], []

    def items():
        for number in range(4):
            made[number].set()
            yield number

    for number in (ahead := prefetch(items(), lambda: threads.append(threading.current_thread()))):
        if number < 3:
            assert made[number + 1].wait(timeout=600)
        assert not any(event.is_set() for event in made[number + 2 :])
    assert list(ahead) == []
    assert threads != [threading.current_thread()]
    assert len(threads) == 1


def test_what_is_made_is_seen_before_the_next_is_begun():
    begun, seen = [], []

    def items():
        for number in range(3):
            begun.append(number)
            yield number

    assert list(prefetch(items(), made=lambda number: seen.append((number, len(begun))))) == [0, 1, 2]
    assert seen == [(0, 1), (1, 2), (2, 3)]


def test_what_goes_wrong_in_the_thread_is_raised():
    def items():
        yield 1
        raise ValueError("broken")

    ahead = prefetch(items())
    assert next(ahead) == 1
    with pytest.raises(ValueError, match="broken"):
        next(ahead)
