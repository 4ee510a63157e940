"""Reports as one page: tables, figures, every run with its curves, settings, machine and log, the search, what is missing."""

import io
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure

from odmt.config_files import flatten
from odmt.launch.trials import Trial
from odmt.pages.rendering import BOLD, table_cells, write_page
from odmt.report.expansion import candidates, result_of
from odmt.report.figures import save_svg
from odmt.report.measurements import Measurement, most_popular
from odmt.report.page import Page
from odmt.report.request import Request
from odmt.result import MOST_POPULAR
from odmt.training_curve import training_curve

LOG_LINES = 30  # of the end of train.log
MOST_RUNS = 60  # whose curves are drawn; the page stays readable and of a few MB
SHADES = 5  # of the heat map


@dataclass
class Chapter:
    """A report that has been made.

    Attributes:
        name: table2 and so on.
        page: as its files have it.
        measurements: of its rows.
    """

    name: str
    page: Page
    measurements: Sequence[Measurement]


def write_reports(chapters: Sequence[Chapter], request: Request, path: Path):
    """Write the page of some reports."""
    measured = [of for chapter in chapters for of in chapter.measurements]
    runs = {trial.folder: (trial, result) for of in measured for trial, result in zip(of.trials, of.results)}
    names = ", ".join(chapter.name for chapter in chapters)
    write_page(
        path,
        "report.html",
        title=f"{names}: {', '.join(request.datasets)}" if len(chapters) == 1 else f"Reports: {', '.join(request.datasets)}",
        chapters=[_chapter(chapter, request) for chapter in chapters],
        runs=[_run(trial, result) for trial, result in list(runs.values())[:MOST_RUNS]],
        left_out=max(0, len(runs) - MOST_RUNS),
    )


def svg(figure: Figure) -> str:
    """A figure as SVG whose text is text, without the head that only a file needs."""
    buffer = io.StringIO()
    save_svg(figure, buffer)
    return buffer.getvalue()[buffer.getvalue().index("<svg") :]


def _chapter(chapter: Chapter, request: Request) -> dict:
    picture = request.reports / f"{chapter.name}.svg"
    shown = picture.read_text(encoding="utf-8") if chapter.page.picture and picture.is_file() else ""
    return {
        "name": chapter.name,
        "title": chapter.page.title,
        "sections": [
            (heading, table_cells(table.columns, table.itertuples(index=False))) for heading, table in chapter.page.sections
        ],
        "picture": shown[shown.index("<svg") :] if shown else "",
        "lines": [BOLD.sub(r"\1", line) for line in chapter.page.lines],
        "missing": [f"{of.cell.row.label} on {of.cell.dataset}" for of in chapter.measurements if not of],
        "searches": [found for of in chapter.measurements if request.search and (found := _search(of, request))],
    }


def _search(measurement: Measurement, request: Request) -> dict | None:
    """A heat map of a search: the last key in columns, the others in rows; shades from the worst to the best."""
    trials = candidates(measurement.cell, request)
    if len(trials) < 2:
        return None
    values = {trial.folder: trial.value(result) for trial in trials if (result := result_of(trial))}
    *others, last = list(measurement.cell.points[0])
    columns = list(dict.fromkeys(str(trial.overrides[last]) for trial in trials))
    low, high = (choose(values.values()) if values else 0.0 for choose in (min, max))
    grid: dict[str, dict[str, dict]] = {}
    for trial in trials:
        row = ", ".join(f"{key}={trial.overrides[key]}" for key in others)
        value = values.get(trial.folder)
        shade = 0 if value is None else 1 + round((SHADES - 1) * (value - low) / ((high - low) or 1))
        cell = {"text": "–" if value is None else f"{value:.4f}", "shade": shade}
        grid.setdefault(row, {})[str(trial.overrides[last])] = cell
    name = f"{measurement.cell.row.label} on {measurement.cell.dataset}: {trials[0].config.selection}"
    return {"name": name, "key": last, "columns": columns, "rows": grid}


def _run(trial: Trial, result: dict) -> dict:
    folder, config = trial.folder, trial.config
    made = json.loads(_text(folder / "environment.json") or "{}")
    log = _text(folder / "train.log").splitlines()[-LOG_LINES:]
    history = trial.history()
    return {
        "name": f"{config.data.dataset}/{config.name}",
        "curve": svg(training_curve(history, config.selection, _baseline(config.selection, result))) if history else "",
        "settings": "\n".join(f"{key}: {json.dumps(value)}" for key, value in flatten(config)),
        "environment": json.dumps({key: value for key, value in made.items() if key != "before"}, indent=2),
        "log": "\n".join(re.sub(r"\x1b\[[0-9;]*m", "", line) for line in log),
    }


def _baseline(selection: str, result: dict) -> dict[str, float]:
    """What `training_curve` draws beside the metric of selection: that of the most popular items, where it was noted."""
    split, _, metric = selection.split("/")
    noted = most_popular(result, split)
    return {MOST_POPULAR: noted[metric]} if metric in noted else {}


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
