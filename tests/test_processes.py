"""Results that forked processes make ahead."""

import faulthandler
import multiprocessing
import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from mounts import mount_tmpfs, need_mounts, own_mounts
from waiting import wait_until

from odmt.errors import InputError
from odmt.features.processes import map_ahead


@pytest.mark.parametrize("num_processes", [0, 1, 3, 20])
def test_results_come_in_order(num_processes):
    big = np.arange(1 << 20)  # more than a pipe takes
    results = list(map_ahead(lambda number: (number, big + number), 7, num_processes))
    assert [number for number, _ in results] == list(range(7))
    assert all((values == big + number).all() for number, values in results)
    assert list(map_ahead(str, 0, num_processes)) == []
    assert multiprocessing.active_children() == []


def test_they_are_made_in_other_processes_one_ahead(tmp_path):
    def work(number):
        (tmp_path / str(number)).touch()
        return os.getpid()

    results = map_ahead(work, 6, 2)
    first = next(results)
    wait_until((tmp_path / "2").exists)
    assert {first, next(results)}.isdisjoint({os.getpid()})
    assert (tmp_path / "1").exists()
    assert (tmp_path / "2").exists()
    results.close()
    assert multiprocessing.active_children() == []


@pytest.mark.parametrize("num_processes", [0, 2])
def test_what_goes_wrong_is_raised(num_processes):
    def work(number):
        if number == 3:
            raise MemoryError("three")
        return number

    results = map_ahead(work, 5, num_processes)
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(MemoryError, match="three"):
        next(results)
    assert multiprocessing.active_children() == []


def is_waiting(pid: int) -> bool:
    """Whether a process sleeps, as one does whose pipe is full."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "S"


@pytest.mark.parametrize("sign", [signal.SIGKILL, signal.SIGBUS, signal.SIGTERM])
def test_a_process_that_dies_at_work_is_not_waited_for(sign):
    def work(number):
        if number == 4:
            faulthandler.disable()  # pytest has it on, and a bus error would be written out at length
            os.kill(os.getpid(), sign)
        return number

    results = map_ahead(work, 6, 3)
    assert [next(results) for _ in range(4)] == [0, 1, 2, 3]
    with pytest.raises(InputError, match=rf"was killed by {sign.name}.*--num-workers 0 .*--shm-size"):
        next(results)
    assert multiprocessing.active_children() == []


def test_a_process_that_dies_while_it_sends_is_not_waited_for(tmp_path):
    def work(number):
        if number == 1:
            (tmp_path / "pid").write_text(str(os.getpid()))
        return bytes(50_000_000)

    results = map_ahead(work, 6, 3)
    next(results)
    wait_until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text())
    victim = int((tmp_path / "pid").read_text())
    wait_until(lambda: is_waiting(victim))
    os.kill(victim, signal.SIGKILL)
    with pytest.raises(InputError, match="was killed by SIGKILL"):
        list(results)
    assert multiprocessing.active_children() == []


def test_processes_end_when_the_one_that_waits_is_killed(tmp_path):
    def work(number):
        (tmp_path / str(number)).write_text(str(os.getpid()))
        return bytes(1_000_000)

    child = os.fork()
    if not child:
        for _ in map_ahead(work, 100, 4):
            time.sleep(3600)
    wait_until(lambda: len(list(tmp_path.iterdir())) >= 4 and all(path.read_text() for path in tmp_path.iterdir()))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    pids = {int(path.read_text()) for path in tmp_path.iterdir()}
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() and not is_zombie(pid) for pid in pids))


def is_zombie(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"


def test_where_memory_runs_out_they_go_first():
    scores = list(map_ahead(lambda number: Path("/proc/self/oom_score_adj").read_text(), 1, 1))
    assert scores == ["500\n"]


def test_no_shared_memory_is_needed(capfd):
    need_mounts()
    child = os.fork()
    if not child:
        own_mounts()
        mount_tmpfs("/dev/shm", "64k")
        total = sum(len(result) for result in map_ahead(lambda number: bytes(10_000_000), 20, 8))
        os._exit(0 if total == 200_000_000 else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
