"""From rows and datasets to trials: which configuration stands behind a cell of a table.

Equal configurations are one trial, in whatever table they stand: a trial is named after its model file and what differs from it.
"""

import itertools
from dataclasses import dataclass
from pathlib import Path

from odmt.config import RunConfig
from odmt.config_files import parse_override
from odmt.errors import InputError
from odmt.features.labels import COMMAND
from odmt.launch.trials import Trial
from odmt.report.request import Request
from odmt.report.rows import Row

CONFIGS = Path(__file__).resolve().parents[2] / "configs"


@dataclass(frozen=True)
class Cell:
    """A row on a dataset.

    Attributes:
        row: the model.
        dataset: name.
        trial: its configuration, seed and searched settings apart.
        refusal: why the model cannot be on this dataset; empty where it can.
    """

    row: Row
    dataset: str
    trial: Trial
    refusal: str = ""


def expand(rows: tuple[Row, ...], dataset: str, request: Request) -> list[Cell]:
    """Put rows on a dataset.

    Raises:
        InputError: settings that are wrong whatever the row.
    """
    file = CONFIGS / f"{dataset}.yaml"
    base = Trial((str(file),) if file.is_file() else (), _overrides(dataset, request))
    config_of(base)
    sources = dataset_sources(request.data / dataset)
    return [_cell(row, dataset, base, sources, _points(request)) for row in rows]


def candidates(cell: Cell, request: Request) -> list[Trial]:
    """The first trials of a cell: the whole grid in a search, one for each seed otherwise."""
    if cell.refusal:
        return []
    seeds = request.seeds[:1] if request.search else request.seeds
    points = [point for point in _points(request) if _fits(with_overrides(cell.trial, point))]
    return [with_overrides(cell.trial, {**point, "train.seed": seed}) for point in points for seed in seeds]


def chosen(cell: Cell, request: Request) -> list[Trial]:
    """The trials that are reported, one a seed; none before a search has a result.

    The point of a search is chosen by the validation metric of the family, never by a test metric.
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


def config_of(trial: Trial) -> RunConfig:
    """The configuration of a trial.

    Raises:
        InputError: its settings do not fit together.
    """
    return trial.config


def result_of(trial: Trial) -> dict | None:
    """The result of a finished trial, None where there is none or one of other settings, which is not this trial's."""
    try:
        return trial.result()
    except InputError:
        return None


def dataset_sources(folder: Path) -> set[str]:
    """The sources that a dataset has, and `labels` of its items; all where it is not there yet, as when trials are counted."""
    if not folder.exists():
        return {"id", "text", "image", "labels"}
    has_images = (folder / "images").is_dir() or (folder / "features" / "image").is_dir()
    has_labels = (folder / "labels.tsv").is_file()
    return {"id", "text", *(["image"] if has_images else []), *(["labels"] if has_labels else [])}


def check_data(cells: list[Cell], request: Request):
    """Refuse to begin where a dataset or features that a cell needs are missing.

    Raises:
        InputError: with the command that makes them.
    """
    for cell in cells:
        folder = request.data / cell.dataset
        if not (folder / "behaviours.tsv").is_file():
            raise InputError(f"{folder}: no such dataset; scripts/prepare.py makes it from raw files, data/README.md tells how")
        needs = [source for trial in candidates(cell, request)[:1] for source in config_of(trial).model.needs]
        for source in needs:
            if not (folder / "features" / source).is_dir():
                raise InputError(
                    f"{folder}: the dataset has no {source} features, which {cell.row.label} needs; "
                    f"make them with: python scripts/extract_features.py --dataset {folder}"
                )


def _points(request: Request) -> list[dict]:
    """The grid of a search, or one point without settings."""
    if not request.search:
        return [{}]
    return [{"model.dim": dim, "train.lr": lr} for dim, lr in itertools.product(request.dims, request.lrs)]


def _overrides(dataset: str, request: Request) -> dict:
    places = {"data.dataset": dataset, "data.root": str(request.data), "runs": str(request.runs)}
    epochs = {"train.epochs": request.epochs} if request.epochs else {}
    return {**places, **dict(map(parse_override, request.overrides)), **epochs}


def _cell(row: Row, dataset: str, base: Trial, available: set[str], points: list[dict]) -> Cell:
    """Put a row on a dataset.

    Choice: on a dataset without images every model is described by what is left, id and text.
    """
    # The row's own settings come last: what is asked of all trials never changes what a row is.
    overrides = {**base.overrides, **dict(map(parse_override, row.overrides))}
    trial = Trial((*base.configs, str(CONFIGS / "models" / f"{row.model}.yaml")), overrides)
    try:
        model = _first_fitting(trial, points).model
        sources = model.sources
        if model.learns_categories and "labels" not in available:
            return Cell(row, dataset, trial, f"the dataset has no labels.tsv; {COMMAND}")
        left = [source for source in sources if source in available]
        if not left:
            return Cell(row, dataset, trial, f"the dataset has no {' and no '.join(sources)}")
        if left != sources:
            trial = with_overrides(trial, {"model.sources": left})
            _first_fitting(trial, points)
    except InputError as error:
        return Cell(row, dataset, trial, str(error))
    return Cell(row, dataset, trial)


def _first_fitting(trial: Trial, points: list[dict]) -> RunConfig:
    """The configuration at the first point that the model accepts; the first refusal where it accepts none."""
    refusals = []
    for point in points:
        try:
            return config_of(with_overrides(trial, point))
        except InputError as error:
            refusals.append(error)
    raise refusals[0]


def _fits(trial: Trial) -> bool:
    try:
        config_of(trial)
    except InputError:
        return False
    return True
