"""What a run leaves behind, RUNS/DATASET/NAME/, and how it is opened, continued and closed."""

import fcntl
import itertools
import json
import logging
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO

from odmt import remedies
from odmt.config import RunConfig
from odmt.config_files import flatten, is_saved, load_config, name_with, read_yaml, save_config
from odmt.environment import environment
from odmt.errors import InputError
from odmt.files import read_json, reading, sync, unfinished_tensors, write_text, writing
from odmt.trackers import SCALARS, Tracker, check_tracker, open_tracker

log = logging.getLogger(__name__)

# Where the same run may be continued with another value: they decide where it runs, not what it computes.
FREE_KEYS = {
    "runs",
    "name",
    "data.root",
    "data.placement",
    "data.device_budget_gb",
    "data.pinned_budget_gb",
    "train.device",
    "train.save_every",
    "train.tracker",
}
LOCKS = {"lock", "reserved"}  # held by the run itself; by the launcher that has taken it
CONFIG, LAST, METRICS = "config.yaml", "last.safetensors", "metrics.jsonl"
# What a run leaves in its folder: all that is ever removed from it. The checkpoint goes first and the configuration last: killed in
# between, nothing is continued as what it is not.
FILES = [
    LAST,
    *("result.json", "best.safetensors", "best.next.safetensors", "ranks.safetensors", METRICS, "training_curve.png"),
    *("train.log", "output.log", "environment.json", CONFIG),
]


def in_words(differing: Mapping[str, tuple]) -> str:
    """`RunFolder.differing` for a message."""
    return ", ".join(f"{key}={before} (now {now})" for key, (before, now) in differing.items())


def num_epochs(folder: Path) -> int:
    """How many epochs a run has noted so far."""
    with suppress(OSError):  # none yet
        return (folder / METRICS).read_bytes().count(b"\n")
    return 0


def reserve(folder: Path, name: str = "lock") -> IO | None:
    """Make a run's folder and hold a file of it until that is closed here and wherever it is inherited; None: somebody holds it.

    Raises:
        InputError: the folder cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / name).open("a")
    except OSError as error:
        raise InputError(f"{folder}: cannot be written to ({error}); set runs= to a folder that can") from error
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    except OSError as error:
        log.warning("%s: the file system cannot lock (%s), so nobody stops a second process from training this run", folder, error)
    return file


class RunLog(logging.FileHandler):
    """A log file that ends the run where it cannot be written to, as the run's other files do."""

    def handleError(self, record):
        """Raise what `emit` met."""
        with writing(Path(self.baseFilename), remedies.go_on()):
            raise


class RunFolder:
    """The files of one run; only the main process writes.

    config.yaml (resolved), environment.json (versions, commit, machine, encoders), train.log, metrics.jsonl (a line an epoch),
    last.safetensors (everything the next epoch depends on), best.safetensors (weights of the best epoch; a killed run may leave
    best.next.safetensors, see `odmt.saving`), tensorboard/,
    ranks.safetensors (test rank of every user), training_curve.png, result.json (written last: the run is finished), lock (held
    while the run is trained) and, with a launcher, reserved (held while it has the run).
    """

    def __init__(self, config: RunConfig):
        self.config = config
        self.path: Path = config.folder
        self._lock: IO | None = None
        self._log: logging.Handler | None = None
        self._tracker: Tracker | None = None

    @property
    def last(self) -> Path:
        """The checkpoint to continue from."""
        return self.path / LAST

    @property
    def best(self) -> Path:
        """The weights of the best epoch."""
        return self.path / "best.safetensors"

    @property
    def next_best(self) -> Path:
        """The weights of the best epoch, before the checkpoint calls it so."""
        return self.path / "best.next.safetensors"

    @property
    def ranks(self) -> Path:
        """The test ranks."""
        return self.path / "ranks.safetensors"

    @property
    def curve(self) -> Path:
        """The picture of the run's course."""
        return self.path / "training_curve.png"

    def result(self) -> dict | None:
        """The result of a finished run, None where there is none yet or more epochs are asked for now.

        Raises:
            InputError: the file is damaged.
        """
        path = self.path / "result.json"
        if not path.is_file() or self.config.train.epochs > self._started_with().train.epochs:
            return None
        result = read_json(path, remedies.test_anew())
        if not isinstance(result, dict):
            raise InputError(f"{path}: damaged: no result of a run; {remedies.test_anew()}")
        return result

    def finished(self, notes: Sequence[str] = ("best_epoch", "epochs", "seconds")) -> dict | None:
        """The result of a finished run as `result`, with the metrics that are read of it and these notes.

        Raises:
            InputError: the file is damaged or holds something else.
        """
        if (result := self.result()) is None:
            return None
        split, _, metric = self.config.selection.partition("/")
        try:
            numbers = [result[key] for key in notes] + [result[split][metric]]
            numbers += [*result[split].values(), *result["test"].values()]
            sound = all(isinstance(number, int | float) for number in numbers) and metric in result["test"]
        except (KeyError, TypeError, AttributeError):
            sound = False
        if not sound:
            raise InputError(f"{self.path / 'result.json'}: damaged: not all that a run notes is there; {remedies.test_anew()}")
        return result

    def _started_with(self) -> RunConfig:
        return self.config if is_saved(self.config, self.path / CONFIG) else load_config([str(self.path / CONFIG)])

    def check(self, resume: bool, overwrite: bool):
        """Refuse to mix two runs; but a run may be continued for more epochs, or for fewer that it has not trained yet.

        Raises:
            InputError: the folder holds a run and neither flag is set, or both are, or it was started with another
                configuration.
        """
        if resume and overwrite:
            raise InputError(f"{remedies.resume()} continues a run, {remedies.overwrite()} replaces it: give one of them")
        check_tracker(self.config.train.tracker)
        started = self.path / CONFIG
        if not started.is_file():
            return self._refuse_foreign()
        if overwrite:
            return self._refuse_foreign_config(started)
        try:
            differing = self.differing()
        except InputError as error:  # perhaps an earlier version's
            self._refuse_foreign_config(started)
            raise InputError(f"{error}; the run there cannot be continued: {self._instead()}") from error
        if differing:
            raise InputError(f"{self.path}: holds a run that was started with {in_words(differing)}; {self._instead()}")
        if not resume:
            raise InputError(f"{self.path}: holds a run already; continue it with {remedies.resume()}, {self._instead()}")

    def _instead(self) -> str:
        return f"replace it with {remedies.overwrite()}, or {self.another_name()}"

    def differing(self) -> dict[str, tuple]:
        """The settings that differ from those that the run was started with, before and now; {} where there is none.

        Raises:
            InputError: what it was started with cannot be read.
        """
        if not (self.path / CONFIG).is_file():
            return {}
        before, now = dict(flatten(self._started_with())), dict(flatten(self.config))
        to_come = now["train.decay"] == "none" and now["train.epochs"] >= num_epochs(self.path)  # with a decay all steps change
        free = FREE_KEYS | ({"train.epochs"} if to_come else set())
        return {key: (before.get(key), now[key]) for key in now if before.get(key) != now[key] and key not in free}

    def another_name(self) -> str:
        """The remedy: the name that a grid would give to what is asked for; where it is what the folder holds, a free number's."""
        name, changed = self.config.name, {}
        with suppress(InputError):  # what the folder holds is no run
            changed = {key: now for key, (_, now) in self.differing().items()}
        free = (number for number in itertools.count(2) if not self.path.with_name(f"{self.path.name}-{number}").exists())
        return f"set another name={name_with(name, changed) if changed else f'{name}-{next(free)}'}"

    def _refuse_foreign(self):
        """Refuse a folder that holds something and no run, and one within a dataset.

        Raises:
            InputError: naming what is there.
        """
        with reading(self.path):
            foreign = sorted(set(os.listdir(self.path)) - self._own()) if self.path.is_dir() else []
        if foreign:
            raise InputError(
                f"{self.path}: holds {foreign[0]} and no run ({CONFIG}), so nothing is written there or removed; "
                f"{self.another_name()}, or runs= to another folder"
            )
        if self.path.parent.resolve() == self.config.data.folder.resolve():
            raise InputError(f"{self.path}: lies in the dataset; set runs= to another folder than data.root")

    def _refuse_foreign_config(self, started: Path):
        """Refuse to empty a folder whose configuration is not that of a run, though it may be one of an earlier version."""
        pairs = read_yaml(started)
        if not {"data", "train", "runs", "name"} <= pairs.keys():
            raise InputError(
                f"{started}: not the configuration of a run, so nothing is continued, and {remedies.overwrite()} removes nothing; "
                f"{self.another_name()}"
            )

    def _own(self) -> set[str]:
        """What in the folder was made by a run, by name."""
        own = {*FILES, *LOCKS, SCALARS, *(f"{name}.partial" for name in FILES)}
        return own | {path.name for path in unfinished_tensors(self.path)}

    def reserve(self):
        """Make the folder and hold it until `close`.

        Raises:
            InputError: another process trains this run; the folder cannot be made.
        """
        self._lock = self._lock or reserve(self.path)
        if self._lock is None:
            raise InputError(f"{self.path}: another process trains this run; wait for it, end it, or {self.another_name()}")

    def open(self, overwrite: bool, provenance: dict):
        """Note what runs where and on what, and send the log to the folder too; to overwrite, remove the old run first.

        Raises:
            InputError: the folder cannot be written to.
        """
        self.reserve()
        with writing(self.path):
            for above in self.path.parents[:2]:
                sync(above)  # the folder's own name, and the dataset's
            if overwrite:
                self._empty()
            (self.path / "result.json").unlink(missing_ok=True)  # of a run that is continued for more epochs
            save_config(self.config, self.path / CONFIG)
            self._write_environment(provenance)
            self._log = RunLog(self.path / "train.log", encoding="utf-8")
        self._log.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
        logging.getLogger("odmt").addHandler(self._log)

    def _empty(self):
        """Remove what a run has left, in the order of `FILES`, and nothing else."""
        for name in FILES:
            for path in (self.path / name, self.path / f"{name}.partial"):
                path.unlink(missing_ok=True)
        for path in unfinished_tensors(self.path):
            path.unlink()
        scalars = self.path / SCALARS
        if scalars.is_dir() and not scalars.is_symlink():
            for path in scalars.glob("events.out.tfevents.*"):
                path.unlink()
        if left := sorted(set(os.listdir(self.path)) - LOCKS - {SCALARS}):
            log.info("%s: not made by a run and left there: %s", self.path, ", ".join(left[:5]))

    def _write_environment(self, provenance: dict):
        """Write environment.json; of a run that is continued, what it held before stays, under `before`."""
        path = self.path / "environment.json"
        now = environment() | provenance
        if path.exists():
            try:
                earlier = read_json(path)
                now["before"] = [*earlier.pop("before", []), earlier]
            except (InputError, AttributeError, TypeError) as error:  # nothing of what is computed depends on it
                log.warning("%s: written anew, what it said of earlier starts is lost (%s)", path, error)
        write_text(path, json.dumps(now, indent=2) + "\n", remedies.go_on())

    def note(self, text: str):
        """Write to train.log alone what is shown elsewhere."""
        if self._log is not None:
            self._log.emit(logging.makeLogRecord({"msg": text, "levelno": logging.INFO}))

    def close(self):
        """End what `open` began and let the folder go: the next run of this process has one of its own."""
        if self._tracker is not None:
            with suppress(OSError):
                self._tracker.close()
            self._tracker = None
        if self._log is not None:
            logging.getLogger("odmt").removeHandler(self._log)
            with suppress(OSError):  # of a full disk, which has been told
                self._log.close()
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def write_metrics(self, history: list[dict]):
        """Write metrics.jsonl anew: a killed run never leaves half a line or an epoch twice."""
        write_text(self.path / METRICS, "".join(json.dumps(line) + "\n" for line in history), remedies.go_on())

    def write_scalars(self, epoch: int, metrics: dict[str, float]):
        """Tell the tracker of an epoch, where there is one."""
        with writing(self.path / SCALARS, remedies.go_on()):
            self._tracker = self._tracker or open_tracker(self.config, epoch)
            if self._tracker is not None:
                self._tracker.epoch(epoch, metrics)

    def track_result(self, result: dict):
        """Tell the tracker of the test, where there is one."""
        with writing(self.path / SCALARS, remedies.go_on()):
            self._tracker = self._tracker or open_tracker(self.config, result["epochs"] + 1)
            if self._tracker is not None:
                self._tracker.finish(result["test"], {"training_curve": self.curve})

    def write_result(self, result: dict):
        """Write result.json, which says that the run is finished."""
        write_text(self.path / "result.json", json.dumps(result, indent=2) + "\n", remedies.go_on())
