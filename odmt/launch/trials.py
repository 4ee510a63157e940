"""What a trial is: configuration files, values on top of them, and the name and folder that follow from both."""

import sys
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import IO

from odmt.config import RunConfig
from odmt.config_files import flatten, in_yaml, load_config, name_with, valid_keys
from odmt.errors import InputError
from odmt.local_processes import OPTION
from odmt.progress import read_history
from odmt.run_folder import FREE_KEYS, RunFolder, in_words, reserve

PLACES = FREE_KEYS | {"family", "data.dataset", "name"}  # keys that say what runs where, not what is tried


@dataclass(frozen=True)
class Trial:
    """A run to be made.

    Attributes:
        configs: YAML files, the later ones winning.
        overrides: values by dotted key, on top of the files.
        varied: keys whose values differ between trials: they stand in the name also where one is the files'. Never the seed, which
            is no choice: what was trained before other seeds stood beside it is the same trial.
    """

    configs: tuple[str, ...]
    overrides: Mapping[str, object] = field(default_factory=dict)
    varied: frozenset[str] = frozenset()

    @property
    def name(self) -> str:
        """The files' name and every value that differs from theirs or between trials, `odmt,dim-128,lr-0.001`."""
        base = _settings(self.configs)
        point = self.point
        changed = [key for key in valid_keys(self.family) if key in point and (key in self.varied or point[key] != base[key])]
        return name_with(self._place("name"), {key: self.point[key] for key in changed})

    @property
    def family(self) -> str:
        """Of models."""
        return self._place("family")

    @property
    def config(self) -> RunConfig:
        """The configuration.

        Raises:
            InputError: its settings do not fit together.
        """
        return _load(tuple(self.args))

    def selected(self, result: dict) -> dict[str, float]:
        """The metrics of a result by source on the split that decides between trials."""
        return result[self.config.selection.partition("/")[0]]

    def value(self, result: dict) -> float:
        """What decides between results of trials."""
        return self.selected(result)[self.config.selection.partition("/")[2]]

    @property
    def folder(self) -> Path:
        """The run's folder; known even where the values do not fit together."""
        return Path(self._place("runs")) / self._place("data.dataset") / self.name

    @property
    def point(self) -> dict[str, object]:
        """The overrides that are tried."""
        return {key: value for key, value in self.overrides.items() if key not in PLACES}

    @property
    def without_seed(self) -> str:
        """What the trials of one point that differ by their seeds have in common: the name without it."""
        point = {key: value for key, value in self.overrides.items() if key != "train.seed"}
        return Trial(self.configs, point, self.varied).name

    def is_begun(self) -> bool:
        """Whether the folder holds a run of this configuration."""
        try:
            RunFolder(self.config).check(resume=True, overwrite=False)
        except InputError:
            return False
        return (self.folder / "config.yaml").is_file()

    def is_to_go_on(self) -> bool:
        """Whether the folder holds the result of fewer epochs than are asked for now."""
        with suppress(InputError):  # what cannot be read is the trial's own failure, once it is started
            return (self.folder / "result.json").is_file() and RunFolder(self.config).result() is None
        return False

    def differing(self) -> str:
        """The settings with which the run in the folder was started and that are others now, as after an edit of a file."""
        with suppress(InputError):  # as `is_to_go_on`
            return in_words(RunFolder(self.config).differing())
        return ""

    @property
    def args(self) -> list[str]:
        """What `odmt.train` is told."""
        pairs = [f"{key}={in_yaml(value)}" for key, value in self.overrides.items() if key != "name"]
        return [*self.configs, *pairs, f"name={self.name}"]

    def command(self, num_processes: int = 1) -> list[str]:
        """The command line that makes the run, or continues it."""
        several = [OPTION, str(num_processes)] if num_processes > 1 else []
        return [sys.executable, "-m", "odmt.train", *self.args, "--resume", *several]

    def result(self, *, metrics_alone: bool = False) -> dict | None:
        """The result of the finished run, None where there is none yet; with what a run notes of itself, or the metrics alone.

        Raises:
            InputError: the folder holds the result of another configuration.
        """
        if not (self.folder / "result.json").is_file():
            return None
        folder = RunFolder(self.config)
        folder.check(resume=True, overwrite=False)
        return folder.finished(()) if metrics_alone else folder.finished()

    def history(self) -> list[dict]:
        """The metrics of the epochs so far, as `read_history`."""
        return read_history(self.folder)

    def lock(self) -> IO | None:
        """Reserve the folder for a launcher and the processes that inherit the file; None: another launcher or a run has it."""
        reserved = reserve(self.folder, "reserved")
        if reserved is None:
            return None
        if (held := reserve(self.folder)) is None:  # by a process that was not started here, or has outlived its launcher
            reserved.close()
            return None
        held.close()
        return reserved

    def _place(self, key: str) -> str:
        return str(self.overrides.get(key, _settings(self.configs)[key]))


def check_begun(trials: Iterable[Trial], remedy: str):
    """Refuse trials whose folders all hold runs of other settings, as after an edit of a file: those results are not theirs.

    One among others is its own failure, once it is started.

    Raises:
        InputError: naming what differs, with the remedy.
    """
    begun = [trial for trial in trials if (trial.folder / "config.yaml").is_file()]
    differing = [trial.differing() for trial in begun]
    if differing and all(differing):
        raise InputError(f"{begun[0].folder}: holds a run that was started with {differing[0]}; {remedy}")


def read_anew():
    """Have files of settings read again: a launcher keeps what it began with, the next one in a notebook has what was edited."""
    _load.cache_clear()
    _settings.cache_clear()


@cache
def _load(args: tuple[str, ...]) -> RunConfig:
    return load_config(args)


@cache
def _settings(configs: tuple[str, ...]) -> dict[str, object]:
    return dict(flatten(load_config(list(configs))))
