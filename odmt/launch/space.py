"""What a search chooses from: the values and ranges of a GRID as Optuna's distributions, and points of it as trials."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import get_args

import xxhash
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from odmt.config_files import check_key, flatten, in_yaml, load_config, type_of
from odmt.errors import InputError
from odmt.families import config_class
from odmt.launch.trials import PLACES, Trial

SEED = "train.seed"
DIGITS = 3  # of a value from a range: what it is in the run's name, in the study and in the run


@dataclass(frozen=True)
class Range:
    """All numbers between two, for a search: whole ones where the key takes whole ones. A grid takes lists alone.

    Attributes:
        low: the smallest.
        high: the largest.
        log: small numbers are as likely as large ones, as is wanted of step sizes and weights.
        step: only numbers that are so far apart, counted from the smallest; None: any.
    """

    low: float
    high: float
    log: bool = False
    step: float | None = None

    def __str__(self) -> str:
        step = f" in steps of {self.step:g}" if self.step else ""
        return f"{self.low:g} to {self.high:g}{step}{', on a log scale' if self.log else ''}"


Values = Sequence[object] | Range


def grid_values(config: str, grid: Mapping[str, object], settings: Mapping[str, object]) -> dict[str, Values]:
    """The values of every key of a GRID, each once; a setting takes the place of a key's.

    Raises:
        InputError: an unknown key, values that are no list, a key that says where a trial runs.
    """
    family = load_config([config]).family
    checked: dict[str, Values] = {}
    for key, values in grid.items():
        check_key(key, "GRID", family)
        if key in PLACES:
            raise InputError(f"GRID: {key} is nothing to search; give it with --set {key}=VALUE")
        if not isinstance(values, Range | list | tuple) or values in ([], ()):
            raise InputError(f"GRID: {key} needs a list of values, not {values!r}")
        checked[key] = values
    return {**checked, **{key: [value] for key, value in settings.items()}}


class SearchSpace:
    """The points that a search may try, and the runs of a point: one a seed, whose mean is what the point is worth.

    Attributes:
        distributions: of every key that is searched.
        epochs: the longest that a run trains.
    """

    def __init__(self, config: str, grid: Mapping[str, object], settings: Mapping[str, object]):
        """Take a GRID for what can be searched of it.

        Raises:
            InputError: as `grid_values`; nothing or something that cannot be searched; a range that is none.
        """
        values = grid_values(config, grid, settings)
        self.config = config
        seeds = values.pop(SEED, ())
        if isinstance(seeds, Range):
            raise InputError(f"GRID: {SEED} is averaged, never searched; name seeds, such as [1, 2, 3]")
        self._seeds = list(dict.fromkeys(seeds))
        self._searched = {key: given for key, given in values.items() if isinstance(given, Range) or len(given) > 1}
        self._settings = {key: given[0] for key, given in values.items() if not isinstance(given, Range) and len(given) == 1}
        if not self._searched:
            raise InputError("GRID: has one point, nothing to search: give a key several values or a Range, or leave --sampler out")
        if "train.epochs" in self._searched:
            raise InputError("GRID: train.epochs is what a pruner deals out; give it with --set train.epochs=VALUE")
        self._base = dict(flatten(load_config([config]))) | self._settings
        self.epochs = int(str(self._base["train.epochs"]))
        self.distributions = {key: self._distribution(key, given) for key, given in self._searched.items()}
        self._check_ends()

    def __str__(self) -> str:
        lines = [
            f"{key}: {given if isinstance(given, Range) else ', '.join(map(in_yaml, given))}"
            for key, given in self._searched.items()
        ]
        seeds = [f"seeds of each, averaged: {', '.join(map(str, self._seeds))}"] if len(self._seeds) > 1 else []
        return "\n".join([*lines, *seeds])

    @cached_property
    def study(self) -> str:
        """A name that differs where what is searched, or anything else that a run's numbers depend on, does."""
        defaults = dict(flatten(config_class(str(self._base["family"]))()))
        fixed = {key: value for key, value in self._base.items() if key not in PLACES | self._searched.keys() | {SEED}}
        changed = {key: value for key, value in fixed.items() if value != defaults[key]}  # a key that comes new changes no name
        searched = {key: distribution._asdict() for key, distribution in self.distributions.items()}
        text = json.dumps([changed, searched, self._seeds or [self._base[SEED]]], sort_keys=True)
        return f"tpe,{xxhash.xxh3_64_hexdigest(text.encode())[:8]}"

    @property
    def size(self) -> float:
        """How many points there are at most."""
        return math.prod(map(_num_values, self.distributions.values()))

    def rounded(self, drawn: Mapping[str, object]) -> dict[str, object]:
        """What Optuna has drawn, numbers from a range with few digits and still within it."""
        return {key: _rounded(value, self._searched[key]) for key, value in drawn.items()}

    def runs(self, params: Mapping[str, object]) -> list[Trial]:
        """The trials of a point, by the values that Optuna keeps of it."""
        point = {key: self._value(key, params[key]) for key in self._searched}
        seeds: list[dict[str, object]] = [{SEED: seed} for seed in self._seeds] or [{}]
        return [Trial((self.config,), {**self._settings, **point, **seed}, frozenset(self._searched)) for seed in seeds]

    def _check_ends(self):
        """Refuse a range of which an end is no value of its key, beside the first values of the others."""
        first = {key: given.low if isinstance(given, Range) else _choice(given[0]) for key, given in self._searched.items()}
        for key, given in self._searched.items():
            for end in (given.low, given.high) if isinstance(given, Range) else ():
                try:
                    self.runs({**first, key: end})[0].config  # noqa: B018, read to be checked
                except InputError as error:
                    raise InputError(f"GRID: {key}: {end:g}, an end of its range: {error}") from error

    def _value(self, key: str, param: object) -> object:
        given = self._searched[key]
        return param if isinstance(given, Range) else next(value for value in given if _choice(value) == param)

    def _distribution(self, key: str, given: Values) -> BaseDistribution:
        if not isinstance(given, Range):
            return CategoricalDistribution(tuple(dict.fromkeys(map(_choice, given))))
        hint = type_of(key, str(self._base["family"]))
        kinds = {hint, *get_args(hint)}
        try:
            if float in kinds:
                return FloatDistribution(given.low, given.high, given.log, given.step)
            if int in kinds:
                return IntDistribution(_whole(given.low), _whole(given.high), given.log, _whole(given.step or 1))
        except ValueError as error:
            raise InputError(f"GRID: {key}: no range from {given}: {error}") from error
        raise InputError(f"GRID: {key} takes no numbers between others; name its values in a list")


def _choice(value: object) -> bool | int | float | str | None:
    """A value as Optuna can keep it: a list is its text."""
    return value if value is None or isinstance(value, bool | int | float | str) else in_yaml(value)


def _whole(number: float) -> int:
    if number != int(number):
        raise ValueError(f"{number:g} is no whole number")
    return int(number)


def _rounded(value: object, given: Values) -> object:
    if not isinstance(value, float) or not isinstance(given, Range) or given.step:
        return value
    return min(max(float(f"{value:.{DIGITS}g}"), given.low), given.high)


def _num_values(distribution: BaseDistribution) -> float:
    match distribution:
        case CategoricalDistribution():
            return len(distribution.choices)
        case IntDistribution() | FloatDistribution() if distribution.step:
            return round((distribution.high - distribution.low) / distribution.step) + 1
    return math.inf
