"""Where the numbers of a report come from: the lines that stand below it."""

from collections.abc import Iterable, Mapping
from datetime import date, datetime
from pathlib import Path

from odmt.errors import InputError
from odmt.files import read_json
from odmt.launch.trials import Trial
from odmt.metrics import chosen_by
from odmt.report.expansion import Cell, candidates, dataset_file
from odmt.report.measurements import Measurement, results_by_dataset
from odmt.report.request import Request
from odmt.significance import METHOD

COMPARED = f"{METHOD}; of the means over seeds."
UNFINISHED = {"failed": "failed now, for reasons that were printed", "taken": "another process trains them"}  # by `Outcome.state`


def footer(measurements: list[Measurement], request: Request) -> list[str]:
    """Say when, from which commit, on what machine, with which encoders and seeds the measured numbers came about."""
    trials = [trial for measurement in measurements for trial in measurement.trials]
    written = f"Written {date.today()}"
    if not trials:
        return [f"{written}; nothing has been measured."]
    days = sorted(datetime.fromtimestamp((trial.folder / "result.json").stat().st_mtime).date() for trial in trials)
    starts = [(trial, start) for trial in trials for start in _starts(trial)]
    return [
        f"{written}; runs finished {' to '.join(dict.fromkeys((str(days[0]), str(days[-1]))))}.",
        f"Commit: {_several(start['commit'] or 'unknown' for _, start in starts)}.",
        f"Machine: {_several(_machine(start) for _, start in starts)}.",
        f"Encoders: {_several(encoder for trial, start in starts for encoder in _encoders(trial, start))}.",
        f"Seeds: {_several(str(trial.config.train.seed) for trial in trials)}.",
        f"Settings: {_settings(measurements, request)}.",
    ]


def num_users(measurements: list[Measurement]) -> list[str]:
    """Say how many users every dataset's metrics are means over; earlier versions' results do not tell."""
    found = {
        dataset: [f"{result['test_users']:,}" for result in results if "test_users" in result]
        for dataset, results in results_by_dataset(measurements).items()
    }
    return [f"{dataset}: {_several(numbers)} test users." for dataset, numbers in found.items() if numbers]


def chosen_on_test(measurements: list[Measurement]) -> list[str]:
    """Say aloud which rows were chosen on the test set."""
    found = [m for m in measurements if m.selection.startswith("test/")]
    if not found:
        return []
    rows = "; ".join(f"{m.cell.row.label} ({m.cell.dataset})" for m in found)
    return [f"CHOSEN ON THE TEST SET, by {_several(chosen_by(m.selection) for m in found)}: {rows}."]


def gaps(measurements: list[Measurement], request: Request, unfinished: Mapping[Path, str]) -> list[str]:
    """Say which models show gaps, and why, and which are means of fewer seeds than were asked for.

    Args:
        measurements: of a report.
        request: what was asked for.
        unfinished: what became of trials that have no result although they were to be run now: their states by folder.
    """
    num_seeds = len(request.seeds)
    by_reason: dict[str, list[str]] = {}
    for cell in (measurement.cell for measurement in measurements if not measurement):
        states = {unfinished[trial.folder] for trial in candidates(cell, request) if trial.folder in unfinished}
        reasons = [reason for state, reason in UNFINISHED.items() if state in states]
        by_reason.setdefault(cell.refusal or " or ".join(reasons) or "not run yet", []).append(f"{cell.row.label} ({cell.dataset})")
    lines = [f"Gaps, {reason}: {'; '.join(names)}." for reason, names in by_reason.items()]
    fewer = [(found.cell, len(found.trials)) for found in measurements if found and len(found.trials) < num_seeds]
    if fewer:
        names = "; ".join(f"{cell.row.label} ({cell.dataset}) {count}" for cell, count in fewer)
        lines.append(f"Of {num_seeds} seeds, fewer are finished: {names}.")
    return lines


def _settings(measurements: list[Measurement], request: Request) -> str:
    epochs = [f"train.epochs={request.epochs}"] if request.epochs else []
    files = {dataset_file(trial.config.data.dataset, trial.family) for m in measurements for trial in m.trials[:1]}
    origins = sorted(f"those of configs/{file.name}" if file else "the defaults" for file in files)
    settings = ", ".join([*origins, *epochs, *request.overrides])
    if not request.search:
        return settings
    choices = _several(chosen_by(m.selection) for m in measurements if m)
    return f"{settings}; {searched([m.cell for m in measurements])}: chosen by {choices} with seed {request.seeds[0]}"


def searched(cells: Iterable[Cell]) -> str:
    """What a search tries, by key; every row has its own."""
    found: dict[str, list[str]] = {}
    for key, value in (pair for cell in cells for point in cell.points for pair in point.items()):
        found.setdefault(key, []).append(_value(value))
    return "; ".join(f"{key} of {', '.join(dict.fromkeys(values))}" for key, values in found.items())


def _value(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _starts(trial: Trial) -> list[dict]:
    """What environment.json says of each time that a run was started or continued."""
    try:
        last = read_json(trial.folder / "environment.json")
        starts = [*last.pop("before", []), last]
        return [start for start in starts if {"commit", "machine", "packages"} <= start.keys()]
    except (InputError, AttributeError, TypeError):  # damaged: the numbers are still the run's
        return []


def _machine(start: dict) -> str:
    machine = start["machine"]
    processor = ", ".join(machine["gpus"]) or f"CPU, threads of a trial: {machine['cpu_threads']}"
    return f"{processor} ({machine['system']}, PyTorch {start['packages']['torch']})"


def _encoders(trial: Trial, start: dict) -> list[str]:
    dataset = trial.config.data.dataset
    encoders = start.get("encoders", {})
    return [f"{made['encoder']}, weights {made['weights']} ({dataset}, {source})" for source, made in encoders.items()]


def _several(values) -> str:
    return ", ".join(dict.fromkeys(values)) or "none"
