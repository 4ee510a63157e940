"""From rows and datasets to trials: which configuration stands behind a cell of a table.

Equal configurations are one trial, in whatever table they stand: a trial is named after its model file and what differs from it.
"""

import itertools
import logging
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from odmt.config import RunConfig
from odmt.config_files import load_config, parse_override
from odmt.errors import InputError
from odmt.features.dataset import no_dataset
from odmt.features.labels import COMMAND
from odmt.launch.trials import Trial, check_begun
from odmt.report.request import Request, grid_values
from odmt.report.rows import Axis, Report, Row, axis

log = logging.getLogger(__name__)

CONFIGS = Path(__file__).resolve().parents[2] / "configs"


@dataclass(frozen=True)
class Cell:
    """A row on a dataset.

    Attributes:
        row: the model.
        dataset: name.
        trial: its configuration, seed and searched settings apart.
        points: the settings that a search tries; one without settings where nothing is searched.
        refusal: why the model cannot be on this dataset; empty where it can.
    """

    row: Row
    dataset: str
    trial: Trial
    points: list[dict] = field(default_factory=lambda: [{}])
    refusal: str = ""


def expand(report: Report, dataset: str, request: Request) -> list[Cell]:
    """Put a report's rows on a dataset.

    Raises:
        InputError: settings that are wrong whatever the row.
    """
    bases = {family: _base(dataset, family, request) for family in dict.fromkeys(map(family_of, report.rows))}
    available = dataset_contents(request.data / dataset)
    trials = [_trial(row, dataset, bases[family_of(row)]) for row in report.rows]
    return [_cell(row, dataset, trial, available, _points(report, row, trial, request)) for row, trial in zip(report.rows, trials)]


def family_of(row: Row) -> str:
    """The family of a row's model, as its file says."""
    return Trial((_model_file(row),)).family


def _model_file(row: Row) -> str:
    return str(CONFIGS / "models" / f"{row.model}.yaml")


def _base(dataset: str, family: str, request: Request) -> Trial:
    """What all rows of a family have in common."""
    file = dataset_file(dataset, family)
    places = {"family": family, "data.dataset": dataset, "data.root": str(request.data), "runs": str(request.runs)}
    asked = dict(parse_override(pair, family) for pair in request.overrides)
    epochs = {"train.epochs": request.epochs} if request.epochs else {}
    base = Trial((str(file),) if file else (), {**places, **asked, **epochs})
    load_config([*base.configs, f"family={family}", *request.overrides])
    return base


def dataset_file(dataset: str, family: str) -> Path | None:
    """The file in configs/ with a dataset's settings for a family: DATASET.yaml or DATASET-FAMILY.yaml; None: there is none."""
    for file in (CONFIGS / f"{dataset}.yaml", CONFIGS / f"{dataset}-{family}.yaml"):
        if file.is_file() and load_config([str(file)]).family == family:
            return file
    return None


def candidates(cell: Cell, request: Request) -> list[Trial]:
    """The first trials of a cell: the whole grid in a search, one for each seed otherwise."""
    if cell.refusal:
        return []
    seeds = request.seeds[:1] if request.search else request.seeds
    points = [point for point in cell.points if _fits(with_overrides(cell.trial, point))]
    return [with_overrides(cell.trial, {**point, "train.seed": seed}) for point in points for seed in seeds]


def chosen(cell: Cell, request: Request) -> list[Trial]:
    """The trials that are reported, one a seed; none before a search has a result.

    The point of a search is chosen by the metric of selection of the family, never by a test metric unless by name.
    """
    trials = candidates(cell, request)
    if not request.search:
        return trials
    finished = [(trial.value(result), trial) for trial in trials if (result := result_of(trial))]
    if not finished:
        return []
    _, best = max(finished, key=lambda pair: pair[0])
    return [with_overrides(best, {"train.seed": seed}) for seed in request.seeds]


def with_overrides(trial: Trial, overrides: dict) -> Trial:
    """The trial with further settings."""
    return Trial(trial.configs, {**trial.overrides, **overrides})


def result_of(trial: Trial) -> dict | None:
    """The result of a finished trial, None where there is none or one of other settings, which is not this trial's."""
    try:
        return trial.result(metrics_alone=True)
    except InputError as error:
        if "damaged" in str(error) or "cannot be read" in str(error):
            log.warning("%s", error)
        return None


def dataset_contents(folder: Path) -> set[str]:
    """What a dataset has of `text`, `image` and `labels`; all where it is not there yet, as when trials are counted."""
    if not folder.exists():
        return {"text", "image", "labels"}
    has_images = (folder / "images").is_dir() or (folder / "features" / "image").is_dir()
    has_labels = (folder / "labels.tsv").is_file()
    return {"text", *(["image"] if has_images else []), *(["labels"] if has_labels else [])}


def check_data(cells: list[Cell], request: Request):
    """Refuse to begin where a dataset or features that a cell needs are missing, or where the trials' runs had other settings.

    Raises:
        InputError: with the command that makes them, or what differs.
    """
    found = [(cell, candidates(cell, request)) for cell in cells]
    check_begun(
        [trial for _, trials in found for trial in trials],
        "bring that back in the dataset's file, or give these settings another --runs folder",
    )
    for cell, trials in found:
        folder = request.data / cell.dataset
        for config in [trial.config for trial in trials[:1]]:
            if not any((folder / table).is_file() for table in config.tables):
                raise no_dataset(folder)
            for source in config.needs:
                if source != "labels" and not (folder / "features" / source).is_dir():
                    raise InputError(
                        f"{folder}: the dataset has no {source} features, which {cell.row.label} needs; "
                        f"make them with: python scripts/extract_features.py --dataset {folder}"
                    )


def _points(report: Report, row: Row, trial: Trial, request: Request) -> list[dict]:
    """The grid of a search for a row, or one point without settings.

    Choice: a key that is asked for and would change nothing in a model, as SGFD's temperature without SGFD, is not searched there.
    """
    if not request.search:
        return [{}]
    axes = [*report.grid, *row.grid]
    for key, values in grid_values(request, trial.family).items():
        if any(key in point for points in axes for point in points) or _accepts(trial, key, values):
            alone = [points for points in axes if all(point.keys() == {key} for point in points)]
            axes = [axis(key, *values) if points in alone else _without(points, {key}) for points in axes]
            axes += [] if alone else [axis(key, *values)]
    return _product(row, axes)


def _product(row: Row, axes: Iterable[Axis]) -> list[dict]:
    """The points of a grid for a row: what makes it what it is, is never searched."""
    fixed = {pair.partition("=")[0] for pair in row.overrides}
    products = itertools.product(*(_without(points, fixed) for points in axes))
    return [{key: value for part in parts for key, value in part.items()} for parts in products]


def search_size(report: Report) -> int:
    """How many trials a search of a report is on one dataset that has all that its models need; 0: it searches nothing."""
    searches = report.grid or any(row.grid for row in report.rows)
    return sum(len(_product(row, (*report.grid, *row.grid))) for row in report.rows) if searches else 0


def _accepts(trial: Trial, key: str, values: list) -> bool:
    return any(_fits(with_overrides(trial, {key: value})) for value in values)


def _without(points: Axis, keys: set[str]) -> Axis:
    """An axis without some keys; points that are then equal are one."""
    left = ({key: value for key, value in point.items() if key not in keys} for point in points)
    return tuple({str(point): point for point in left}.values())


def _trial(row: Row, dataset: str, base: Trial) -> Trial:
    """A row's configuration on a dataset, whatever the dataset has."""
    own = dict(parse_override(pair, base.family) for pair in row.overrides)
    # The row's own settings come last: what is asked of all trials never changes what a row is.
    return Trial((*base.configs, _model_file(row)), {**row.published.get(dataset, {}), **base.overrides, **own})


def _cell(row: Row, dataset: str, trial: Trial, available: set[str], points: list[dict]) -> Cell:
    """Put a row on a dataset.

    Choice: on a dataset without images every model is described by what is left.
    """
    try:
        config = _first_fitting(trial, points)
        if "labels" in config.needs and "labels" not in available:
            raise InputError(f"the dataset has no labels.tsv; {COMMAND}")
        if settings := config.described_by(available):
            trial = with_overrides(trial, settings)
            _first_fitting(trial, points)
    except InputError as error:
        return Cell(row, dataset, trial, points, str(error))
    return Cell(row, dataset, trial, points)


def _first_fitting(trial: Trial, points: list[dict]) -> RunConfig:
    """The configuration at the first point that the model accepts; the first refusal where it accepts none."""
    refusals = []
    for point in points:
        try:
            return with_overrides(trial, point).config
        except InputError as error:
            refusals.append(error)
    raise refusals[0]


def _fits(trial: Trial) -> bool:
    try:
        trial.config  # noqa: B018, read to be checked
    except InputError:
        return False
    return True
