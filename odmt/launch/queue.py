"""The trials of a dataset as an Optuna study, from which launchers in any number of terminals and machines take.

Optuna keeps the points, who runs them and what validation said; nothing of the test set goes there. A trial is waiting, running,
complete or failed, and goes back from running to waiting when its launcher stops. A launcher that vanished is known by the reserved
folder that it no longer holds or, from another machine, by its silence.
"""

import fcntl
import logging
import platform
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import IO, Literal, get_args, get_origin

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import text
from sqlalchemy.exc import DatabaseError

from odmt.config_files import flatten, type_of
from odmt.errors import InputError
from odmt.files import writing
from odmt.launch.database import Database
from odmt.launch.trials import Trial

log = logging.getLogger(__name__)

BEAT_SECONDS = 60  # how often a launcher says that it lives
SILENCE_SECONDS = 300  # after which other machines take it for dead; their clocks must agree better than this
LOCK_SECONDS = 60  # in which another launcher writes to the database and lets it go
HOST = platform.node()
OPTIONS = {"pool_pre_ping": True}  # of the engine: a server that was started anew meanwhile is connected to again
DROPPED = "dropped"  # of the study: names of trials that no GRID has any more and that are not to be shown


class TrialQueue:
    """The study of a dataset, and this launcher's part in it.

    Attributes:
        trials: those that this launcher runs, by name.
        total: how many there are to be.
        seconds_between_looks: at what runs.
    """

    seconds_between_looks = 5.0

    def __init__(self, url: str, dataset: str, trials: Mapping[str, Trial], read_only: bool = False):
        """Open the study, or make it.

        Args:
            url: of the database, as SQLAlchemy writes it.
            dataset: the study's name.
            trials: those that this launcher is to queue and run, by name.
            read_only: only look at a study that is there, and write nothing, not even a lock.

        Raises:
            InputError: there is no such database, it is another program's, locked, damaged or cannot be reached or written to.
        """
        self.trials = trials
        self.total = len(trials)
        self._mine: dict[str, int] = {}  # Optuna's ids of the trials that run here
        self._last_beat = time.monotonic()
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.database = Database.of(url)
        file = self.database.file
        if file and not read_only:
            with writing(file.parent, "set runs= to a folder that can"):
                file.parent.mkdir(parents=True, exist_ok=True)
        with self.database.explained():
            if read_only:
                self.storage = RDBStorage(self.database.read_only_url, skip_table_creation=True)
                self.study = optuna.load_study(storage=self.storage, study_name=dataset)
                return
            with self._alone() if file else nullcontext():
                self.storage = _open_storage(url)
                self.study = optuna.create_study(
                    storage=self.storage, study_name=dataset, direction="maximize", load_if_exists=True
                )

    def newest(self) -> dict[str, FrozenTrial]:
        """All trials of the study by name; of one that was queued again after it had failed, the last."""
        with self.database.explained():
            entries = self.study.get_trials(deepcopy=False)
            dropped = set(self.study.user_attrs.get(DROPPED, [])) - self.trials.keys()
        named = ((entry.user_attrs["name"], entry) for entry in entries if "name" in entry.user_attrs)
        return {name: entry for name, entry in named if name not in dropped}

    def drop_others(self):
        """Leave the trials that are not this launcher's out of the study from now on; their folders stay."""
        with self._alone():
            others = self.newest().keys() - self.trials.keys()
            self.study.set_user_attr(DROPPED, sorted(others.union(self.study.user_attrs.get(DROPPED, []))))

    def enqueue(self, retry_failed: bool = False):
        """Queue every trial that never was, those whose result is not that of their settings now, and on request what failed."""
        with self._alone():
            known = self.newest()
            for name, trial in self.trials.items():
                state = known[name].state if name in known else None
                stale = state == TrialState.COMPLETE and (trial.is_to_go_on() or trial.differing())
                if state is None or stale or (state == TrialState.FAIL and retry_failed):
                    self.study.enqueue_trial(trial.point, user_attrs={"name": name})

    def claim(self) -> tuple[Trial, IO] | None:
        """Take the first trial that waits or was abandoned, with its reserved folder; None if there is none."""
        with self._alone():
            return self._take()

    def _take(self) -> tuple[Trial, IO] | None:
        newest = self.newest()
        for name, trial in self.trials.items():
            entry = newest[name]
            if not (entry.state == TrialState.WAITING or _may_be_abandoned(entry)):
                continue
            try:
                lock = trial.lock()
            except InputError as error:  # of this folder; the other trials go on
                log.warning("%s: FAILED, %s", name, error)
                self.storage.set_trial_user_attr(self._id(entry), "reason", str(error))
                self.storage.set_trial_state_values(self._id(entry), TrialState.FAIL)
                continue
            if lock:
                self._mine[name] = self._id(entry)
                self._note(name, host=HOST, seen=time.time())
                self.storage.set_trial_state_values(self._mine[name], TrialState.RUNNING)
                return trial, lock
        return None

    def to_prune(self, trial: Trial) -> bool:
        """Whether to stop a trial that runs: never one of a grid."""
        return False

    def beat(self):
        """Say that this launcher lives; to be called often."""
        if time.monotonic() - self._last_beat > BEAT_SECONDS:
            self._last_beat = time.monotonic()
            for name in self._mine:
                with self._alone(), suppress(UpdateFinishedTrialError):
                    self._note(name, seen=time.time())

    def finish(self, name: str, result: dict):
        """Note what validation said of a trial's best epoch."""
        trial_id = self._mine[name]
        with self._alone(), suppress(UpdateFinishedTrialError):
            self._record_parameters(trial_id, self.trials[name])
            self._note(name, **{key: result[key] for key in ("best_epoch", "epochs", "seconds")})
            self._note(name, valid=self.trials[name].selected(result))
            self.storage.set_trial_state_values(trial_id, TrialState.COMPLETE, [self.trials[name].value(result)])
        del self._mine[name]

    def fail(self, name: str, reason: str):
        """Note that a trial failed, and why."""
        with self._alone(), suppress(UpdateFinishedTrialError):
            self._note(name, reason=reason)
            self.storage.set_trial_state_values(self._mine[name], TrialState.FAIL)
        del self._mine[name]

    def release(self):
        """Give the unfinished trials of this launcher back."""
        while self._mine:
            with self._alone(), suppress(UpdateFinishedTrialError):
                self.storage.set_trial_state_values(self._mine.popitem()[1], TrialState.WAITING)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Let one launcher at a time read and change the study: Optuna may queue a point twice and, in SQLite, hand it out twice.

        A server locks a row that nobody else locks. SQLite has no such locks: there it is a file beside the database.
        """
        with self.database.explained():
            if self.database.file:
                with self._file_lock(Path(f"{self.database.file}.lock")):
                    yield
            else:
                with self.storage.engine.begin() as connection:
                    connection.execute(text("SELECT version_info_id FROM version_info FOR UPDATE"))
                    yield

    @contextmanager
    def _file_lock(self, path: Path) -> Iterator[None]:
        with writing(path, "set runs= to a folder that can, or free the place"):
            file = path.open("a")
        with file:
            deadline = time.monotonic() + LOCK_SECONDS
            while True:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > deadline:
                        raise InputError(
                            f"{path}: another launcher has held it for {LOCK_SECONDS} s; see whether it hangs"
                        ) from None
                    time.sleep(0.05)
            yield

    def _id(self, entry: FrozenTrial) -> int:
        """What the storage calls a trial, which knows but its number in the study."""
        study = self.storage.get_study_id_from_name(self.study.study_name)
        return self.storage.get_trial_id_from_study_id_trial_number(study, entry.number)

    def _note(self, name: str, **attributes):
        for key, value in attributes.items():
            self.storage.set_trial_user_attr(self._mine[name], key, value)

    def _record_parameters(self, trial_id: int, trial: Trial):
        """Make the point known to Optuna's plots; not lists, of which it knows nothing, nor nulls, which are its missing ones."""
        known = self.storage.get_trial(trial_id).params
        typed = dict(flatten(trial.config))
        for key in trial.point:
            values = [other.point[key] for other in self.trials.values() if other.point.get(key) is not None]
            distribution = _distribution(trial.family, key, typed[key], values)
            if distribution and key not in known:
                self.storage.set_trial_param(trial_id, key, distribution.to_internal_repr(typed[key]), distribution)


def _open_storage(url: str) -> RDBStorage:
    """Connect, and make the tables where there are none; of launchers that do so at the same moment all but one are refused."""
    for _ in range(2):
        try:
            return RDBStorage(url, OPTIONS)
        except DatabaseError as error:
            if "already exists" not in str(error.orig) and "UNIQUE" not in str(error.orig).upper():
                raise
            time.sleep(1)
    return RDBStorage(url, OPTIONS)


def _may_be_abandoned(entry: FrozenTrial) -> bool:
    """Whether to see if a running trial's folder is free: a launcher of this machine that lives holds it."""
    if entry.state != TrialState.RUNNING:
        return False
    return entry.user_attrs["host"] == HOST or time.time() - entry.user_attrs["seen"] > SILENCE_SECONDS


def _distribution(family: str, key: str, value: object, values: list) -> BaseDistribution | None:
    """The range of a parameter, in the kind that the type of `value` asks for."""
    match value:
        case bool():
            return CategoricalDistribution((False, True))
        case int():
            return IntDistribution(min(values), max(values))
        case float():
            return FloatDistribution(min(values), max(values))
        case str():
            return CategoricalDistribution(_choices(family, key))
    return None


def _choices(family: str, key: str) -> tuple[str, ...]:
    """All that a key of words can be: Optuna does not let choices change when a grid is edited."""
    hint = type_of(key, family)
    return next(get_args(part) for part in (hint, *get_args(hint)) if get_origin(part) is Literal)
