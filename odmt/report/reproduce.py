"""Reproduce a paper's tables and figures: train what is missing, then show the paper's numbers beside the measured ones."""

import logging
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from datetime import date
from pathlib import Path

import pandas as pd
import torch
from tabulate import tabulate
from tqdm import tqdm

from odmt.cli import report_mistakes, run
from odmt.cores import num_cores
from odmt.errors import InputError
from odmt.files import writing
from odmt.launch.pool import check_gpus, run_trials
from odmt.launch.trials import Trial, read_anew
from odmt.outputs import check_page
from odmt.report import figures, tables
from odmt.report.expansion import Cell, candidates, check_data, chosen, expand, result_of, search_size
from odmt.report.measurements import Measurement, measure
from odmt.report.page import Page, check_replaced
from odmt.report.papers import load_reports
from odmt.report.provenance import COMPARED, chosen_on_test, footer, gaps, num_users, searched
from odmt.report.request import Request, check_search
from odmt.report.rows import Report
from odmt.report.web_page import Chapter, write_reports

log = logging.getLogger(__name__)

ALL = "all"
NO_GPU = "cpu"  # names no GPU in CUDA_VISIBLE_DEVICES

Plan = dict[str, list[Cell]]  # cells by the name of a report


def main(args: list[str] | None = None):
    """The command line: a command for every table and figure, with the options of `Request`."""
    titles = {name: _described(report) for name, report in load_reports().items()}
    titles[ALL] = "All tables and figures of ODMT's paper; what stands in several is trained once."
    commands = {name: type(name, (Request,), {"__doc__": title}) for name, title in titles.items()}
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    request = run(commands, args)
    with report_mistakes():
        failures = reproduce(type(request).__name__, request)
    sys.exit(1 if failures else 0)


def _described(report: Report) -> str:
    if not (size := search_size(report)):
        return f"{report.title}."
    return (
        f"{report.title}. With --search up to {size} trials a dataset, fewer with --lrs, --dims and --grid; --dry-run counts them."
    )


def reproduce(name: str, request: Request) -> int:
    """Make one report, or all; returns how many trials failed.

    Raises:
        InputError: settings that are wrong, a dataset or features that are missing; before anything is trained.
    """
    read_anew()
    check_search(request)
    reports = {key: report for key, report in load_reports().items() if key == name or (name == ALL and report.in_all)}
    plan = {key: [cell for dataset in request.datasets for cell in expand(reports[key], dataset, request)] for key in reports}
    if request.dry_run:
        print(count(plan, request))
        try:
            check_gpus(request.gpus)
            check_data([cell for cells in plan.values() for cell in cells if not _makes(cell.dataset, request)], request)
        except InputError as error:
            print(f"it would stop: {error}")
        return 0
    if request.search and not request.render_only:
        log.info(count(plan, request))
    page = request.page or (request.reports / "index.html" if name == ALL else None)
    with writing(request.reports):
        request.reports.mkdir(parents=True, exist_ok=True)
    for key, report in reports.items():
        check_replaced(request.reports, key, report.title)
    if page:
        check_page(page)
    left = {} if request.render_only else train_missing(plan, request)
    chapters = [write(key, reports[key], [measure(cell, request) for cell in cells], request, left) for key, cells in plan.items()]
    if page:
        write_reports(chapters, request, page)
        log.info("page: %s", page)
    return len(left)


def count(plan: Plan, request: Request) -> str:
    """Trials by table and figure, how many of them are finished, and how many there are in all, equal ones counted once."""
    lines: list[tuple[str, int, int, int | str]] = []
    everything: dict[Path, Trial] = {}
    for name, cells in plan.items():
        trials = distinct(trial for cell in cells for trial in candidates(cell, request))
        everything |= {trial.folder: trial for trial in trials}
        lines.append((name, *_finished(trials), sum(bool(cell.refusal) for cell in cells)))
    lines.append(("in all", *_finished(list(everything.values())), ""))
    table = tabulate(lines, ("", "trials", "finished", "rows that cannot be"))
    if not request.search:
        return table
    table += "".join(f"\n{name} searches {searched(cells)}" for name, cells in plan.items())
    if len(request.seeds) == 1:
        return table
    models = {cell.trial.folder for cells in plan.values() for cell in cells if not cell.refusal}
    return f"{table}\nand {len(models) * (len(request.seeds) - 1)} trials with the other seeds, where the search leads"


def train_missing(plan: Plan, request: Request) -> dict[Path, str]:
    """Run the trials that are not finished, those of a search first; returns the states of those that still are not, by folder."""
    check_gpus(request.gpus)
    cells = [cell for cells in plan.values() for cell in cells]
    if any(_makes(dataset, request) for dataset in request.datasets):
        from odmt.demo import run as demo  # loads transformers, for which nothing else here has to wait

        demo.prepare(request.data / "demo")
    check_data(cells, request)
    left = _run(distinct(trial for cell in cells for trial in candidates(cell, request)), request)
    if request.search and len(request.seeds) > 1:
        left |= _run(distinct(trial for cell in cells for trial in chosen(cell, request)), request)
    return left


def _makes(dataset: str, request: Request) -> bool:
    """Whether a dataset is made here: the demo's needs no raw files."""
    return dataset == "demo" and not (request.data / "demo").exists()


def write(name: str, report: Report, measurements: list[Measurement], request: Request, left: Mapping[Path, str]) -> Chapter:
    """Write the files of a table or figure, and print it; returns what a page shows of it. `left`: as `train_missing` gives it."""
    if report.count is not None:
        page, numbers = _counted(name, report, request)
    else:
        page, numbers = _measured(name, report, measurements, request, left)
    page.write(request.reports, numbers)
    if report.painters:  # after the page, by which a report's files are known
        figures.save(figures.draw(report.painters, numbers[name], request.datasets), request.reports / name)
    print(f"\n{page}\n")
    done = f"{sum(map(bool, measurements))} of {len(measurements)} models measured" if measurements else "counted"
    log.info("%s: %s", request.reports / f"{name}.md", done)
    return Chapter(name, page, measurements)


def _counted(name: str, report: Report, request: Request) -> tuple[Page, dict[str, pd.DataFrame]]:
    """The page and the numbers of what is counted and not trained."""
    counts = tables.count_table(report, request.datasets, request.data)
    lines = [f"Written {date.today()}; counted in {request.data}, as the models see the datasets."]
    heading = "users, items and interactions"
    quoted = [heading] if "paper" in set(counts["origin"]) else []
    return Page(report.title, [(heading, tables.side_by_side(counts))], lines, quoted=quoted), {name: counts}


def _measured(
    name: str, report: Report, measurements: list[Measurement], request: Request, left: Mapping[Path, str]
) -> tuple[Page, dict[str, pd.DataFrame]]:
    """The page and the numbers of what is trained."""
    notes = report.notes(measurements) if report.notes else []
    metrics = tables.metric_table(report, measurements)
    numbers = {name: metrics}
    sections = _sections(metrics, lambda table: tables.side_by_side(table, report.quoted_as))
    page = Page(report.title, sections, [], quoted=set(metrics["dataset"][metrics["origin"] == "paper"]))
    if report.comparisons:
        numbers[f"{name}_differences"] = differences = tables.difference_table(report, measurements)
        page.sections += _sections(differences, lambda table: tables.differences_as_text(table, report.quoted_as), ": differences")
        notes = [*notes, COMPARED] if len(differences) else notes
    if request.search:
        page.sections += _sections(metrics, tables.settings_as_text, ": settings")
    if report.numbers:
        numbers = {name: report.numbers(measurements)}
    if report.as_text:
        page.sections = _sections(numbers[name], report.as_text)
    if report.painters:
        page.picture = f"{name}.png"
    page.lines += [*chosen_on_test(measurements), *num_users(measurements), *notes, *footer(measurements, request)]
    page.lines += gaps(measurements, request, left)
    return page, numbers


def distinct(trials: Iterable[Trial]) -> list[Trial]:
    """Each run once, in the order given."""
    return list({trial.folder: trial for trial in trials}.values())


def _run(trials: list[Trial], request: Request) -> dict[Path, str]:
    if not trials:  # of what is counted
        return {}
    left = []
    with tqdm(run_trials(trials, _places(request)), "trials", len(trials)) as outcomes:
        for outcome in outcomes:
            if outcome.state != "finished":
                left.append(outcome)
                reason = outcome.message or "another process trains it"
                tqdm.write(f"{outcome.trial.folder} {outcome.state}: {reason}", file=sys.stderr)
    # One that another process trained may be finished by now.
    return {outcome.trial.folder: outcome.state for outcome in left if result_of(outcome.trial) is None}


def _places(request: Request) -> list[str]:
    """The GPUs that are named; where none are and none is there, a place for every CPU core."""
    if request.gpus or torch.cuda.is_available():
        return request.gpus
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # for the trials: each has a core
    return [NO_GPU] * num_cores()


def _finished(trials: list[Trial]) -> tuple[int, int]:
    return len(trials), sum(result_of(trial) is not None for trial in trials)


def _sections(
    table: pd.DataFrame, as_text: Callable[[pd.DataFrame], pd.DataFrame], heading: str = ""
) -> list[tuple[str, pd.DataFrame]]:
    """A section for every dataset of a long table."""
    datasets: list[str] = table["dataset"].unique().tolist() if len(table) else []
    return [(dataset + heading, as_text(table[table["dataset"] == dataset])) for dataset in datasets]
