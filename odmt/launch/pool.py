"""Run trials side by side, each a process of its own and, where GPUs are named, on GPUs of its own.

Knows nothing of searches: `odmt.launch.sweep` feeds it from a queue, `run_trials` from any list. Finished trials are not started
again, interrupted ones continue.
"""

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal

import torch

from odmt.cores import num_cores
from odmt.errors import InputError
from odmt.files import writing
from odmt.launch.trials import Trial
from odmt.run_folder import num_epochs

GRACE_SECONDS = 40  # from SIGTERM to SIGKILL; one of several processes gives these 30
TAIL_LINES = 20
KILLED = "probably out of memory: fewer trials at once, or a smaller train.batch_size; --retry-failed lets it go on"
LIBC = ctypes.CDLL(None)
PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class Outcome:
    """How a trial ended.

    Attributes:
        trial: which.
        state: `taken`: somebody else is training in its folder; `stopped`: by `TrialPool.stop`.
        result: of a finished one, the content of result.json.
        message: of a failed one, its exit status and the end of its log.
    """

    trial: Trial
    state: Literal["finished", "failed", "taken", "stopped"]
    result: dict | None = None
    message: str = ""


@dataclass
class RunningTrial:
    """A trial with its process.

    Attributes:
        gpus: CUDA_VISIBLE_DEVICES; None: what the environment gives.
        lock: the reserved folder.
        log: everything the process prints.
        log_start: where in the log this process begins.
        deadline: of one that is to stop, when it is killed.
    """

    trial: Trial
    process: subprocess.Popen
    gpus: str | None
    lock: IO
    log: Path
    log_start: int
    deadline: float | None = None

    @property
    def progress(self) -> str:
        """How far it is."""
        return f"{self.trial.name}: {num_epochs(self.trial.folder)} epochs"

    def outcome(self) -> Outcome:
        """What the ended process left behind."""
        if self.deadline:
            return Outcome(self.trial, "stopped")
        status = self.process.returncode
        try:
            if status == 0 and (result := self.trial.result()):
                return Outcome(self.trial, "finished", result)
        except InputError as error:  # what it left cannot be read, or a configuration file was changed while it ran
            return Outcome(self.trial, "failed", message=f"error: {error}")
        how = f"exit status {status}" if status >= 0 else f"killed by {signal.Signals(-status).name}"
        if status == -signal.SIGKILL:
            how += f", {KILLED}"
        tail = "it cannot be read"
        with suppress(OSError), self.log.open(encoding="utf-8", errors="replace") as log:
            log.seek(self.log_start)
            tail = "".join(deque(log, TAIL_LINES)).rstrip()
        return Outcome(self.trial, "failed", message=f"{how}; the end of {self.log}:\n{tail}")

    def send(self, number: signal.Signals):
        """Signal the process and those of its session, if they are still there.

        Where it has started several, each has a session of its own, and they end with it (after SIGKILL on Linux alone).
        """
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)


def check_gpus(gpus: Sequence[str]):
    """Refuse to deal out GPUs that are not there: the trials would run on the CPU."""
    if gpus and not torch.cuda.is_available():
        raise InputError(f"--gpus {','.join(gpus)}: PyTorch sees no GPU here; take --at-once, or mend the driver")
    if "CUDA_VISIBLE_DEVICES" not in os.environ:  # otherwise the numbers that are seen here are others
        count = torch.cuda.device_count()
        if absent := [gpu for gpu in gpus if gpu.isdecimal() and int(gpu) >= count]:
            raise InputError(f"--gpus {','.join(gpus)}: no GPU {', '.join(absent)} here, the last is {count - 1}")


class TrialPool:
    """Places for trials to run in. Leaving the context ends what still runs, to be continued another time.

    SIGTERM leaves the context as Ctrl-C does. Should the launcher be killed outright, its trials end with it (on Linux).

    Attributes:
        free: the places without a trial, by their GPUs.
        running: the trials in the others.
    """

    def __init__(self, gpus: Sequence[str] = (), gpus_per_trial: int = 1, at_once: int = 1):
        """Deal out the GPUs, or the cores.

        Args:
            gpus: as CUDA_VISIBLE_DEVICES names them; none: trials run on what the environment gives.
            gpus_per_trial: processes of a trial, each on a GPU of its own, or on CPUs on a machine without any.
            at_once: trials at a time where no GPUs are named; they share the cores.
        """
        if at_once < 1 or (gpus and at_once > 1):
            raise InputError(f"--at-once {at_once}: 1 or more, and without --gpus, which says itself how many run at once")
        if gpus_per_trial < 1 or len(gpus) % gpus_per_trial:
            raise InputError(f"{len(gpus)} GPUs cannot be dealt out to trials of {gpus_per_trial}: name a multiple of that")
        self.processes_per_trial = gpus_per_trial
        self.free: list[str | None] = [None] * at_once
        if gpus:
            self.free = [",".join(gpus[first : first + gpus_per_trial]) for first in range(0, len(gpus), gpus_per_trial)]
        self.threads = max(1, num_cores() // at_once) if at_once > 1 else None
        self.running: list[RunningTrial] = []
        self._signal = 0
        self._ended: list[tuple[Outcome, IO | None]] = []
        self._reported: list[IO] = []  # folders whose outcome the caller is dealing with

    def __enter__(self):
        self._handlers_before = {number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def _note(self, number: int, frame):
        """Note a signal, to be obeyed at the next `check`: an exception raised here could be lost where Python ignores it."""
        self._signal = number

    def check(self):
        """Leave as a signal has asked for; to be called often.

        Raises:
            KeyboardInterrupt, SystemExit: after Ctrl-C, after SIGTERM.
        """
        if self._signal == signal.SIGINT:
            raise KeyboardInterrupt
        if self._signal:
            sys.exit(128 + self._signal)

    def __exit__(self, *exception):
        for running in self.running:
            running.send(signal.SIGTERM)
        deadline = time.monotonic() + GRACE_SECONDS
        for running in self.running:
            try:
                running.process.wait(max(0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                running.send(signal.SIGKILL)
                running.process.wait()
            running.lock.close()
        self._release()
        for number, handler in self._handlers_before.items():
            signal.signal(number, handler)

    @property
    def busy(self) -> bool:
        """True while an outcome is to come."""
        return bool(self.running or self._ended)

    def start(self, trial: Trial, lock: IO | None) -> RunningTrial | None:
        """Start a trial in a free place, unless its folder is taken (no lock) or holds its result already."""
        self.check()
        try:
            if lock is None:
                self._ended.append((Outcome(trial, "taken"), lock))
            elif result := trial.result():
                self._ended.append((Outcome(trial, "finished", result), lock))
            else:
                self.running.append(self._spawn(trial, lock, self.free[0]))
                del self.free[0]
                return self.running[-1]
        except InputError as error:
            self._ended.append((Outcome(trial, "failed", message=f"error: {error}"), lock))
        return None

    def stop(self, running: RunningTrial):
        """Stop a trial before its end; its outcome follows."""
        running.send(signal.SIGTERM)
        running.deadline = time.monotonic() + GRACE_SECONDS

    def wait(self, seconds: float = 5.0) -> list[Outcome]:
        """Return the outcomes since the last call, as soon as there is one or after so many seconds.

        Their folders stay reserved until the next call, so that nobody runs what the caller has not yet noted as ended.
        """
        self._release()
        deadline = time.monotonic() + seconds
        while True:
            self.check()
            for running in self.running:
                if running.deadline and time.monotonic() > running.deadline:
                    running.send(signal.SIGKILL)
            for running in [running for running in self.running if running.process.poll() is not None]:
                self.running.remove(running)
                self.free.append(running.gpus)
                self._ended.append((running.outcome(), running.lock))
            if self._ended or time.monotonic() > deadline:
                ended, self._ended = self._ended, []
                self._reported = [lock for _, lock in ended if lock]
                return [outcome for outcome, _ in ended]
            time.sleep(0.1)

    def _release(self):
        for lock in self._reported:
            lock.close()

    def _spawn(self, trial: Trial, lock: IO, gpus: str | None) -> RunningTrial:
        log = trial.folder / "output.log"
        environment = {} if gpus is None else {"CUDA_VISIBLE_DEVICES": gpus}
        if self.threads and "OMP_NUM_THREADS" not in os.environ:
            environment["OMP_NUM_THREADS"] = str(max(1, self.threads // self.processes_per_trial))
        with writing(log, "so the trial was not started"), log.open("ab") as output:
            start = output.tell()
            process = subprocess.Popen(
                trial.command(self.processes_per_trial),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=os.environ | environment,
                start_new_session=True,  # Ctrl-C reaches the launcher alone, which ends its trials
                pass_fds=[lock.fileno()],
                preexec_fn=_die_with_launcher if sys.platform == "linux" else None,
            )
        return RunningTrial(trial, process, gpus, lock, log, start)


def run_trials(trials: Iterable[Trial], gpus: Sequence[str] = (), gpus_per_trial: int = 1, at_once: int = 1) -> Iterator[Outcome]:
    """Run trials, as many at a time as a `TrialPool` has places, and yield how each ended, in the order in which they end.

    A trial that fails does not stop the others. Closing the iterator ends those that run.
    """
    waiting = deque(trials)
    with TrialPool(gpus, gpus_per_trial, at_once) as pool:
        while waiting or pool.busy:
            while waiting and pool.free:
                trial = waiting.popleft()
                try:
                    pool.start(trial, trial.lock())
                except InputError as error:
                    yield Outcome(trial, "failed", message=f"error: {error}")
            yield from pool.wait()


def _die_with_launcher():
    LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
