"""A search by Optuna's TPE: points are drawn one by one from what validation said of those before, and the hopeless are pruned.

An entry of the study is a point. Its value is the mean over its seeds, which one launcher trains one after another; a point is
pruned by its first seed, so that the others are not trained. Whichever launcher has a place draws the next point; what waits, was
interrupted or is abandoned goes first, as in a grid.
"""

import os
import statistics
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import accumulate
from typing import IO

import numpy as np
import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.pruners import BasePruner, HyperbandPruner, MedianPruner, NopPruner
from optuna.samplers import TPESampler
from optuna.trial import FrozenTrial, TrialState, create_trial

from odmt.errors import InputError
from odmt.launch.queue import TrialQueue
from odmt.launch.space import SearchSpace
from odmt.launch.trials import Trial

NUM_RANDOM = 10  # points before the first that is drawn from what was seen, where at least 40 are to be tried
MAX_DRAWS = 100  # for a point that was not drawn before
# By name, for runs of so many epochs. Hyperband has four brackets at most: of a search of 40 trials that leaves ten a bracket.
PRUNERS: Mapping[str, Callable[[int], BasePruner]] = {
    "hyperband": lambda epochs: HyperbandPruner(max(1, epochs // 27), epochs, reduction_factor=3),
    "median": lambda epochs: MedianPruner(n_startup_trials=5, n_warmup_steps=epochs // 10),
    "none": lambda epochs: NopPruner(),
}


@dataclass
class Point:
    """A point that runs here.

    Attributes:
        name: of its entry in the study.
        runs: one a seed.
        held: the folder of the first, reserved until the last has ended.
        finished: what the runs say of themselves that have ended.
        waits: the next has not begun.
    """

    name: str
    runs: list[Trial]
    held: IO
    finished: list[dict] = field(default_factory=list)
    waits: bool = False


class SearchQueue(TrialQueue):
    """The study of a search, and this launcher's part in it."""

    seconds_between_looks = 1.0  # at the epochs of what runs

    def __init__(
        self, url: str, dataset: str, space: SearchSpace, num_trials: int, pruner: str, seed: int, read_only: bool = False
    ):
        """Open the study, or make it; it is that of this very space.

        Args:
            url: of the database.
            dataset: its name.
            space: what is searched.
            num_trials: how many points there are to be in the study.
            pruner: of `PRUNERS`.
            seed: of what is drawn. One launcher that runs one trial at a time draws the same points again.
            read_only: only look at it.

        Raises:
            InputError: as `TrialQueue`.
        """
        super().__init__(url, f"{dataset},{space.study}", {}, read_only)
        self.trials: dict[str, Trial] = {}  # the first run of every point
        self.space, self.seed = space, seed
        self.total = int(min(num_trials, space.size))
        self.study.pruner = PRUNERS[pruner](space.epochs)
        self._points: dict[str, Point] = {}

    def newest(self) -> dict[str, FrozenTrial]:
        """All points of the study by name, whichever launcher drew them."""
        newest = super().newest()
        for name, entry in newest.items():
            if name not in self.trials:
                self.trials[name] = self.space.runs(entry.params)[0]
        return newest

    def enqueue(self, retry_failed: bool = False):
        """On request, queue again what failed."""
        with self._alone():
            for name, entry in self.newest().items():
                if retry_failed and entry.state == TrialState.FAIL:
                    self._add(name, entry.params)

    def claim(self) -> tuple[Trial, IO] | None:
        """Take the next seed of a point that runs here, a point that waits or was abandoned, or a new one."""
        for point in [point for point in self._points.values() if point.waits]:
            trial = self._next(point)
            try:
                lock = trial.lock()
            except InputError as error:
                self.fail(trial.name, str(error))
                continue
            if lock:
                point.waits = False
                return trial, lock
        with self._alone():
            claimed = self._take() or (self._take() if self._draw() else None)
        if claimed:
            trial, lock = claimed
            name = trial.without_seed
            runs = self.space.runs(self.newest()[name].params)
            held = os.fdopen(os.dup(lock.fileno()), "a")
            self._points[name] = Point(name, runs, held)
        return claimed

    def to_prune(self, trial: Trial) -> bool:
        """Tell the pruner of the epochs that have ended; True: the point is noted as pruned, and its run is to be stopped."""
        point = self._points.get(trial.without_seed)
        if not point or point.finished:
            return False
        with suppress(UpdateFinishedTrialError):  # by another machine, which took this one for dead
            if not (history := self._judge(point)):
                return False
            notes = self._notes(trial, history)
            with self._alone():
                self._note(point.name, runs=[notes])
                self.storage.set_trial_state_values(self._mine[point.name], TrialState.PRUNED, [notes["value"]])
        self._forget(point)
        return True

    def finish(self, name: str, result: dict):
        """Note the result of a run; of a point's last run, what the point is worth."""
        point = next(point for point in self._points.values() if self._next(point).name == name)
        trial = self._next(point)
        notes = {key: result[key] for key in ("best_epoch", "epochs", "seconds")}
        point.finished.append({"name": name, **notes, "valid": trial.selected(result), "value": trial.value(result)})
        if len(point.finished) < len(point.runs):
            point.waits = True
            return
        with suppress(UpdateFinishedTrialError):
            while self._judge(point):  # too late for this one, but others are measured by it
                pass
            with self._alone():
                self._note(point.name, runs=point.finished)
                value = statistics.mean(run["value"] for run in point.finished)
                self.storage.set_trial_state_values(self._mine[point.name], TrialState.COMPLETE, [value])
        self._forget(point)

    def fail(self, name: str, reason: str):
        """Note that a run failed, and with it its point."""
        point = next(point for point in self._points.values() if self._next(point).name == name)
        super().fail(point.name, reason)
        self._forget(point)

    def release(self):
        """Give the unfinished points of this launcher back."""
        super().release()
        for point in list(self._points.values()):
            self._forget(point)

    @staticmethod
    def _next(point: Point) -> Trial:
        """The run that runs or is to run."""
        return point.runs[len(point.finished)]

    def _forget(self, point: Point):
        self._mine.pop(point.name, None)
        self._points.pop(point.name).held.close()

    def _draw(self) -> bool:
        """Draw a point that the study has not, and add it; False: there are as many as are to be, or no other is found."""
        entries = self.newest()
        if len(entries) >= self.total:
            return False
        # The sampler learns from every point, of whatever bracket of Hyperband: those of one would be too few. Of what it has drawn
        # here it thinks that it runs, and keeps away.
        seed = int(np.random.SeedSequence([self.seed, len(entries)]).generate_state(1)[0])
        sampler = TPESampler(seed=seed, n_startup_trials=min(NUM_RANDOM, self.total // 4))
        study = optuna.create_study(direction="maximize", sampler=sampler)
        study.add_trials([_as_seen(entry) for entry in entries.values()])
        for _ in range(MAX_DRAWS):
            params = self.space.rounded(study.ask(self.space.distributions).params)
            name = self.space.runs(params)[0].without_seed
            if name not in entries:
                self._add(name, params)
                return True
        self.total = len(entries)
        return False

    def _add(self, name: str, params: Mapping[str, object]):
        waiting = create_trial(
            state=TrialState.WAITING, params=dict(params), distributions=self.space.distributions, user_attrs={"name": name}
        )
        self.study.add_trial(waiting)

    def _judge(self, point: Point) -> list[dict]:
        """Tell the pruner what a point's first run has reached by each epoch that it does not know of yet.

        What it is told is the best value so far, that of the run should it end there. Returns the epochs until the one at which the
        run is to be pruned; none: it is not.
        """
        trial_id, trial = self._mine[point.name], point.runs[0]
        try:
            history = trial.history()
            reached = list(accumulate((float(line[trial.config.selection]) for line in history), max))
        except (InputError, KeyError, TypeError, ValueError):
            return []  # damaged, which is the run's affair: its result says what it is worth
        with self.database.explained():
            known = self.storage.get_trial(trial_id).intermediate_values
        for epoch in range(len(known) + 1, len(history) + 1):
            with self._alone():  # let go in between: of a run that was there already all epochs are new
                self.storage.set_trial_intermediate_value(trial_id, epoch, reached[epoch - 1])
                hopeless = self.study.pruner.prune(self.study, self.storage.get_trial(trial_id))
            if hopeless and epoch < self.space.epochs:
                return history[:epoch]
        return []

    @staticmethod
    def _notes(trial: Trial, history: list[dict]) -> dict:
        """What `finish` notes of a result, of a run that ends here."""
        selection = trial.config.selection
        split = f"{selection.partition('/')[0]}/"
        best = max(history, key=lambda line: line[selection])
        return {
            "name": trial.name,
            "best_epoch": best["epoch"],
            "epochs": len(history),
            "seconds": sum(line["train_seconds"] + line["valid_seconds"] for line in history),
            "valid": {key.removeprefix(split): value for key, value in best.items() if key.startswith(split)},
            "value": best[selection],
        }


def _as_seen(entry: FrozenTrial) -> FrozenTrial:
    """A point as the sampler is to see it: one without a value, waiting or failed, as one that runs."""
    if entry.state in (TrialState.COMPLETE, TrialState.PRUNED):
        return entry
    return create_trial(state=TrialState.RUNNING, params=entry.params, distributions=entry.distributions)
