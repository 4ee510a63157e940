"""The table of a study: every trial with its validation metrics, the best first, and what was chosen."""

import math
import statistics
import time
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path

from optuna.trial import FrozenTrial, TrialState
from tabulate import tabulate

from odmt import remedies
from odmt.errors import InputError
from odmt.files import read_json
from odmt.launch.trials import Trial
from odmt.metrics import chosen_by

NOTHING = float("-inf")  # the value of a point that has no finished trial
EFFORT = {"best epoch": "best_epoch", "epochs": "epochs"}


def summary(
    newest: Mapping[str, FrozenTrial],
    folder: Path,
    selection: str,
    trials: Mapping[str, Trial] | None = None,
    total: int = 0,
) -> str:
    """The table of all trials, the best by the metric that selects first; once all have ended, that one's test metrics.

    Trials of one point that differ by `train.seed` are one line, their mean and standard deviation: seeds are no choice.

    Args:
        newest: the study's trials by name.
        folder: of the runs of the dataset.
        selection: the metric that decides.
        trials: those of this grid, which alone decide; None: all that the study has.
        total: how many of them there are to be, where some may not be in the study yet.
    """
    if not newest:
        return f"{folder}: no trials yet"
    own: dict[str, list[str]] = {}
    for name in newest if trials is None else [name for name in trials if name in newest]:
        own.setdefault(trials[name].without_seed if trials else name, []).append(name)
    others = [] if trials is None else sorted(newest.keys() - trials.keys(), key=lambda name: (_rank([newest[name]]), name))
    ordered = sorted(own.items(), key=lambda item: _rank([newest[name] for name in item[1]]))
    rows = [_row(point, [newest[name] for name in names]) for point, names in ordered]
    unknown = [name for name in trials or () if name not in newest]  # GRID was edited, and not started since
    rows += [{"trial": name, "state": "not started"} for name in unknown]
    rows += [_row(name, [newest[name]], "not of this GRID") for name in others]
    table = tabulate(rows, headers="keys", tablefmt="pipe", missingval="", disable_numparse=True)
    text = f"{folder}: validation metrics of the best epoch\n{table}"
    if others:
        text += f"\n\ntrials that are not of this GRID ({len(others)}) decide nothing; --drop-others leaves them out from now on"
    states = [newest[name].state for names in own.values() for name in names]
    ended, total = sum(state.is_finished() for state in states), max(total, len(states) + len(unknown))
    if ended < total:
        text += f"\n\n{ended} of {total} trials have ended, {total - ended} to go"
    elif ordered and _mean_value([newest[name] for name in ordered[0][1]]) > NOTHING:
        text += f"\n\nchosen by {chosen_by(selection)}: {_chosen(ordered[0][0], ordered[0][1], newest, folder)}"
    return text


def _chosen(point: str, names: list[str], newest: Mapping[str, FrozenTrial], folder: Path) -> str:
    """The test metrics of the chosen point: of its finished seeds the mean, with standard deviation."""
    found = []
    try:
        for run in [run for name in names if newest[name].state == TrialState.COMPLETE for run in _runs(newest[name])]:
            found.append(_fused(read_json(folder / run["name"] / "result.json", remedies.test_anew())["test"]))
    except (InputError, KeyError, TypeError, AttributeError) as error:
        return f"{point}; its test metrics cannot be read: {error}"
    values = {metric: [metrics[metric] for metrics in found if metric in metrics] for metric in found[0]}
    shown = ", ".join(f"{metric} {_spread(numbers)}" for metric, numbers in values.items())
    seeds = f" of {len(found)} seeds, mean ± standard deviation" if len(found) > 1 else ""
    return f"{point}; its test metrics{seeds}: {shown}"


def _rank(entries: list[FrozenTrial]) -> tuple[float, float]:
    """What the lines are sorted by: what finished, the best first, then what was pruned, then the rest."""
    pruned = [entry.value for entry in entries if entry.state == TrialState.PRUNED and entry.value is not None]
    return -_mean_value(entries), -max(pruned, default=NOTHING)


def _runs(entry: FrozenTrial) -> list[dict]:
    """What is noted of the runs of an entry: one, or in a search one a seed."""
    return entry.user_attrs.get("runs", [entry.user_attrs])


def _mean_value(entries: list[FrozenTrial]) -> float:
    values = [entry.value for entry in entries if entry.state == TrialState.COMPLETE and entry.value is not None]
    return sum(values) / len(values) if values else NOTHING


def _spread(values: list[float]) -> str:
    mean = f"{statistics.mean(values):.4f}"
    return f"{mean} ± {statistics.stdev(values):.4f}" if len(values) > 1 else mean


def _row(name: str, entries: list[FrozenTrial], remark: str = "") -> dict[str, str]:
    """A line of the table: one trial, or one point with its seeds."""
    done = [notes for entry in entries if entry.state in (TrialState.COMPLETE, TrialState.PRUNED) for notes in _runs(entry)]
    states = [_state(entry) for entry in entries]
    state = ", ".join(f"{states.count(one)} {one}" if len(entries) > 1 else one for one in dict.fromkeys(states))
    row = {"trial": name, "state": f"{state} ({remark})" if remark else state}
    if not done:
        return row
    metrics = {metric: [_fused(notes["valid"]).get(metric, math.nan) for notes in done] for metric in _fused(done[0]["valid"])}
    effort = {label: ", ".join(str(notes[key]) for notes in done) for label, key in EFFORT.items()}
    seconds = sum(notes["seconds"] for notes in done)
    return {**row, **{metric: _spread(values) for metric, values in metrics.items()}, **effort, "time": _clock(seconds)}


def _clock(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))


def _fused(metrics: Mapping[str, float]) -> dict[str, float]:
    return {name.removeprefix("fused/"): value for name, value in metrics.items() if name.startswith("fused/")}


def _state(entry: FrozenTrial) -> str:
    notes = entry.user_attrs
    match entry.state:
        case TrialState.COMPLETE:
            return "finished"
        case TrialState.PRUNED:
            return "pruned"
        case TrialState.RUNNING:
            return f"running on {notes['host']}, seen {(time.time() - notes['seen']) / 60:.0f} min ago"
        case TrialState.FAIL:
            return "failed"
    return "interrupted" if "host" in notes else "waiting"
