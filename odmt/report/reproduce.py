"""Reproduce the paper's tables and figures: train what is missing, then show the paper's numbers beside the measured ones."""

import logging
import os
import sys
from collections.abc import Callable, Iterable
from datetime import date

import pandas as pd
import torch
from tabulate import tabulate
from tqdm import tqdm

from odmt.cli import report_mistakes, run
from odmt.errors import InputError
from odmt.launch.pool import check_gpus, run_trials
from odmt.launch.trials import Trial
from odmt.report import figures, tables
from odmt.report.expansion import Cell, candidates, check_data, chosen, expand, result_of
from odmt.report.measurements import Measurement, measure
from odmt.report.page import Page
from odmt.report.provenance import footer, gaps, sweep_notes
from odmt.report.request import Request
from odmt.report.rows import OWN_ROWS, ROWS, TITLES
from odmt.sequential.config import DataConfig

log = logging.getLogger(__name__)

NO_GPU = "cpu"  # names no GPU in CUDA_VISIBLE_DEVICES

Plan = dict[str, list[Cell]]  # cells by table or figure


def main(args: list[str] | None = None):
    """The command line: a command for every table and figure, with the options of `Request`."""
    titles = {**TITLES, "all": "All tables and figures of the paper; what stands in several is trained once"}
    commands = {name: type(name, (Request,), {"__doc__": f"{title}."}) for name, title in titles.items()}
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    request = run(commands, args)
    with report_mistakes():
        failures = reproduce(type(request).__name__, request)
    sys.exit(1 if failures else 0)


def reproduce(name: str, request: Request) -> int:
    """Make one report, or all; returns how many trials failed.

    Raises:
        InputError: settings that are wrong, a dataset or features that are missing; before anything is trained.
    """
    names = list(ROWS) if name == "all" else [name]
    rows = {**ROWS, **OWN_ROWS}
    plan = {name: [cell for dataset in request.datasets for cell in expand(rows[name], dataset, request)] for name in names}
    if request.dry_run:
        print(count(plan, request))
        try:
            check_gpus(request.gpus)
            check_data([cell for cells in plan.values() for cell in cells if not _makes(cell.dataset, request)], request)
        except InputError as error:
            print(f"it would stop: {error}")
        return 0
    failures = 0 if request.render_only else train_missing(plan, request)
    for target, cells in plan.items():
        write(target, [measure(cell, request) for cell in cells], request)
    return failures


def count(plan: Plan, request: Request) -> str:
    """Trials by table and figure, how many of them are finished, and how many there are in all, equal ones counted once."""
    lines, everything = [], {}
    for target, cells in plan.items():
        trials = distinct(trial for cell in cells for trial in candidates(cell, request))
        everything |= {trial.folder: trial for trial in trials}
        lines.append((target, *_finished(trials), sum(bool(cell.refusal) for cell in cells)))
    lines.append(("in all", *_finished(list(everything.values())), ""))
    table = tabulate(lines, ("", "trials", "finished", "rows that cannot be"))
    if not request.search or len(request.seeds) == 1:
        return table
    models = {cell.trial.folder for cells in plan.values() for cell in cells if not cell.refusal}
    return f"{table}\nand {len(models) * (len(request.seeds) - 1)} trials with the other seeds, where the search leads"


def train_missing(plan: Plan, request: Request) -> int:
    """Run the trials that are not finished, those of a search first; returns how many failed."""
    check_gpus(request.gpus)
    cells = [cell for cells in plan.values() for cell in cells]
    if any(_makes(dataset, request) for dataset in request.datasets):
        from odmt.demo import run as demo  # loads transformers, for which nothing else here has to wait

        demo.prepare(request.data / "demo")
    check_data(cells, request)
    failures = _run(distinct(trial for cell in cells for trial in candidates(cell, request)), request)
    if request.search and len(request.seeds) > 1:
        failures += _run(distinct(trial for cell in cells for trial in chosen(cell, request)), request)
    return failures


def _makes(dataset: str, request: Request) -> bool:
    """Whether a dataset is made here: the demo's needs no raw files."""
    return dataset == "demo" and not (request.data / "demo").exists()


def write(target: str, measurements: list[Measurement], request: Request):
    """Write the files of a table or figure."""
    if target == "table1":
        return write_table1(request)
    below = footer(measurements, request)
    metrics = tables.metric_table(target, measurements)
    numbers = {target: metrics}
    page = Page(TITLES[target], _sections(metrics, tables.side_by_side), [*below, *gaps(measurements, len(request.seeds))])
    if target == "table4":
        page.lines = [*sweep_notes(measurements), *page.lines]
    if target in tables.REFERENCES:
        numbers[f"{target}_differences"] = differences = tables.difference_table(target, measurements)
        page.sections += _sections(differences, tables.differences_as_text, ": differences")
    if request.search:
        page.sections += _sections(metrics, tables.settings_as_text, ": settings")
    if target == "figure2":
        numbers = {target: tables.curve_table(measurements)}
    if target == "figure4":
        numbers = {target: tables.group_table(measurements)}
        page.sections = _sections(numbers[target], tables.groups_as_text)
    if target in figures.PAINTERS:
        page.picture = f"{target}.png"
        figures.save(figures.draw(target, numbers[target], request.datasets, below), request.reports / target)
    page.write(request.reports, numbers)
    measured = sum(map(bool, measurements))
    log.info("%s: %d of %d models measured", request.reports / f"{target}.md", measured, len(measurements))


def write_table1(request: Request):
    """Write the files of Table 1, which is counted and not trained."""
    data = DataConfig()
    counts = tables.count_table(request.datasets, request.data, data.max_seq_len, data.min_seq_len)
    lines = [f"Written {date.today()}; counted in {request.data}, as the models see the datasets."]
    page = Page(TITLES["table1"], [("users, items and interactions", tables.side_by_side(counts))], lines)
    page.write(request.reports, {"table1": counts})
    log.info("%s", request.reports / "table1.md")


def distinct(trials: Iterable[Trial]) -> list[Trial]:
    """Each run once, in the order given."""
    return list({trial.folder: trial for trial in trials}.values())


def _run(trials: list[Trial], request: Request) -> int:
    left = []
    with tqdm(run_trials(trials, _places(request)), "trials", len(trials)) as outcomes:
        for outcome in outcomes:
            if outcome.state != "finished":
                left.append(outcome.trial)
                reason = outcome.message or "another process trains it"
                tqdm.write(f"{outcome.trial.folder} {outcome.state}: {reason}", file=sys.stderr)
    return sum(result_of(trial) is None for trial in left)  # one that another process trained may be finished by now


def _places(request: Request) -> list[str]:
    """The GPUs that are named; where none are and none is there, a place for every CPU core."""
    if request.gpus or torch.cuda.is_available():
        return request.gpus
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # for the trials: each has a core
    return [NO_GPU] * os.cpu_count()


def _finished(trials: list[Trial]) -> tuple[int, int]:
    return len(trials), sum(result_of(trial) is not None for trial in trials)


def _sections(
    table: pd.DataFrame, as_text: Callable[[pd.DataFrame], pd.DataFrame], heading: str = ""
) -> list[tuple[str, pd.DataFrame]]:
    """A section for every dataset of a long table."""
    datasets = table["dataset"].unique() if len(table) else []
    return [(dataset + heading, as_text(table[table["dataset"] == dataset])) for dataset in datasets]
