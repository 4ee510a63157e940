"""The trials of a dataset as an Optuna study, from which launchers in any number of terminals and machines take.

Optuna keeps the points, who runs them and what validation said; nothing of the test set goes there. A trial is waiting, running,
complete or failed, and goes back from running to waiting when its launcher stops. A launcher that vanished is known by the reserved
folder that it no longer holds or, from another machine, by its silence.
"""

import fcntl
import platform
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import IO, Literal, get_args, get_origin, get_type_hints

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import make_url, text
from sqlalchemy.exc import DatabaseError, SQLAlchemyError

from odmt.config_files import flatten
from odmt.errors import InputError
from odmt.families import config_class
from odmt.launch.trials import Trial

BEAT_SECONDS = 60  # how often a launcher says that it lives
SILENCE_SECONDS = 300  # after which other machines take it for dead; their clocks must agree better than this
HOST = platform.node()


class TrialQueue:
    """The study of a dataset, and this launcher's part in it."""

    def __init__(self, url: str, dataset: str, trials: Mapping[str, Trial]):
        """Open the study, or make it.

        Args:
            url: of the database, as SQLAlchemy writes it.
            dataset: the study's name.
            trials: those that this launcher is to queue and run, by name.
        """
        self.trials = trials
        self._mine: dict[str, int] = {}  # Optuna's ids of the trials that run here
        self._last_beat = time.monotonic()
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        try:
            address = make_url(url)
            self._file = Path(address.database or "") if address.get_backend_name() == "sqlite" else None
            if self._file == Path():
                raise InputError(f"--storage {url}: launchers cannot share memory; name a file, sqlite:///FILE")
            if self._file:
                self._file.parent.mkdir(parents=True, exist_ok=True)
            with self._alone() if self._file else nullcontext():
                self.storage = _open_storage(url)
                self.study = optuna.create_study(
                    storage=self.storage, study_name=dataset, direction="maximize", load_if_exists=True
                )
        except (SQLAlchemyError, StorageInternalError, ImportError) as error:
            raise InputError(f"--storage: {error}") from error

    def newest(self) -> dict[str, FrozenTrial]:
        """All trials of the study by name; of one that was queued again after it had failed, the last."""
        return {trial.user_attrs["name"]: trial for trial in self.study.get_trials(deepcopy=False) if "name" in trial.user_attrs}

    def enqueue(self, retry_failed: bool = False):
        """Queue every trial that never was, and on request those that failed."""
        with self._alone():
            known = self.newest()
            for name, trial in self.trials.items():
                if name not in known or (retry_failed and known[name].state == TrialState.FAIL):
                    self.study.enqueue_trial(trial.point, user_attrs={"name": name})

    def claim(self) -> tuple[Trial, IO] | None:
        """Take the first trial that waits or was abandoned, with its reserved folder; None if there is none."""
        with self._alone():
            newest = self.newest()
            for name, trial in self.trials.items():
                entry = newest[name]
                if (entry.state == TrialState.WAITING or _may_be_abandoned(entry)) and (lock := trial.lock()):
                    self._mine[name] = entry._trial_id
                    self._note(name, host=HOST, seen=time.time())
                    self.storage.set_trial_state_values(entry._trial_id, TrialState.RUNNING)
                    return trial, lock
        return None

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
        if self._file:
            with Path(f"{self._file}.lock").open("a") as file:
                fcntl.flock(file, fcntl.LOCK_EX)
                yield
        else:
            with self.storage.engine.begin() as connection:
                connection.execute(text("SELECT version_info_id FROM version_info FOR UPDATE"))
                yield

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
    for _ in range(3):
        try:
            return RDBStorage(url)
        except DatabaseError:
            time.sleep(1)
    return RDBStorage(url)


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
    section, _, field = key.rpartition(".")
    hint = get_type_hints(type(getattr(config_class(family)(), section)))[field]
    return next(get_args(part) for part in (hint, *get_args(hint)) if get_origin(part) is Literal)
