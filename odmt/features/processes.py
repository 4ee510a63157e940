"""Results that forked processes make ahead, and a watch on these processes."""

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import TypeVar

import torch

from odmt.errors import InputError

T = TypeVar("T")


def map_ahead(function: Callable[[int], T], count: int, num_processes: int) -> Iterator[T]:
    """Yield function(0), function(1) ... in order; every process works one result ahead. With 0 of them nothing is done ahead.

    Results come through pipes and take no shared memory, of which containers have little. Each process has a pipe of its own that
    closes when it ends, so neither a process nor this one ever waits for another that is no more.

    Raises:
        InputError: a process was killed, or none could be started.
        Exception: whatever the function raises.
    """
    if not num_processes:
        yield from map(function, range(count))
        return
    num_processes = min(num_processes, count)
    context = multiprocessing.get_context("fork")
    receivers: list[Connection] = []
    processes: list[BaseProcess] = []
    try:
        try:
            for first in range(num_processes):
                receiver, sender = context.Pipe(duplex=False)
                receivers.append(receiver)
                numbers = range(first, count, num_processes)
                processes.append(context.Process(target=_work, args=(function, numbers, sender, receivers), daemon=True))
                processes[-1].start()
                sender.close()  # or the pipe would stay open when the process ends
        except OSError as error:
            raise InputError(
                f"process {len(processes)} of --num-workers {num_processes} cannot be started ({error}); take fewer, or 0 for none"
            ) from error
        for number in range(count):
            yield _receive(receivers[number % num_processes], processes[number % num_processes])
    finally:
        for process in processes:
            if process.pid is not None:
                process.kill()
                process.join()
        for receiver in receivers:
            receiver.close()


def _work(function: Callable[[int], object], numbers: Sequence[int], sender: Connection, receivers: list[Connection]):
    # Ctrl-C reaches all processes of a terminal, and the one that waits for this one ends it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    torch.set_num_threads(1)  # those of the process that this one was forked from are not here
    with suppress(OSError):  # where memory runs out, let this process go rather than the one that can say so
        Path("/proc/self/oom_score_adj").write_text("500")
    for receiver in receivers:  # this process's copies: only the receiving process may keep them open
        receiver.close()
    try:
        for number in numbers:
            try:
                result = function(number)
            except Exception as error:
                result = _Failure(error)
            sender.send(result)
    except BrokenPipeError:  # the process that receives is no more
        os._exit(1)


class _Failure:
    """An exception on its way to the process that waits."""

    def __init__(self, error: Exception):
        self.error = error


def _receive(receiver: Connection, process: BaseProcess):
    try:
        result = receiver.recv()
    except (EOFError, OSError):  # at an end between two results or within one
        process.join()
        code = process.exitcode
        assert code is not None  # it has been joined
        ended = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended ({code})"
        raise InputError(
            f"a process that decodes images {ended}, probably out of memory or, in a container, of shared memory: take "
            "--num-workers 0 or fewer, or give the container more (docker run --memory, --shm-size). What was stored before "
            "is safe; start the same command again, it continues"
        ) from None
    if isinstance(result, _Failure):
        raise result.error
    return result
