"""Train the points of a grid, or of a search, and choose by validation: what `run_arts.py` and its likes call.

The points wait in an Optuna study (`odmt.launch.queue`). Every launcher, on whatever GPU, terminal or machine it is started, takes
trials from there and runs them (`odmt.launch.pool`) until none is left.
"""

import itertools
import shlex
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import IO

from optuna.trial import TrialState
from tqdm import tqdm

from odmt.cli import report_mistakes
from odmt.config_files import load_config, parse_override
from odmt.errors import InputError
from odmt.launch.pool import Outcome, TrialPool, check_gpus
from odmt.launch.queue import TrialQueue
from odmt.launch.search import PRUNERS, SearchQueue
from odmt.launch.space import SEED, Range, SearchSpace, grid_values
from odmt.launch.table import summary
from odmt.launch.trials import Trial, check_begun, read_anew
from odmt.metrics import chosen_by

NUM_TRIALS, PRUNER = 40, "hyperband"  # of a search


def launch(config: str, grid: Mapping[str, object], args: Sequence[str] | None = None):
    """Train every point of a grid as the command line says, print the table and end the process.

    Its status is 0, 1 when a trial has failed, 2 after a user's mistake, 130 or 143 when interrupted.

    Args:
        config: YAML file of the dataset.
        grid: lists of values to try, by dotted key; the trials are their product. For a search also a `Range` of values.
        args: the command line.
    """
    options = _parser(config).parse_args(args)
    options.gpus = [gpu for names in options.gpus for gpu in names.split(",")]
    read_anew()
    with report_mistakes(interrupted="interrupted; the same command goes on"):
        base = load_config([config])
        try:
            base.check_processes(options.gpus_per_trial)
        except InputError as error:
            raise InputError(f"--gpus-per-trial {options.gpus_per_trial}: {error}") from None
        settings = dict(parse_override(pair, base.family) for pair in options.set)
        folder = Trial((config,), settings).folder.parent
        database = folder / "study.db"
        url = options.storage or f"sqlite:///{database}"
        study: Callable[..., TrialQueue]
        if search := _search(options):
            space = SearchSpace(config, grid, settings)
            study = partial(SearchQueue, url, folder.name, space, *search)
        else:
            trials = grid_trials(config, grid, settings)
            check_begun(trials.values(), f"bring that back in {config}, or set another name= or runs= (--set name=NEW)")
            study = partial(TrialQueue, url, folder.name, trials)
        if options.dry_run or options.show:
            _refuse_changes(options)
        if options.dry_run:
            print(f"{search[0]} trials\n{space}" if search else trials_as_text(trials, options.gpus_per_trial))
            sys.exit(0)
        if options.show and not options.storage and not database.exists():
            raise InputError(f"{database}: no trials yet; start them without --show")
        if options.show:
            queue = study(read_only=True)
            print(summary(queue.newest(), folder, base.selection, queue.trials, queue.total))
            sys.exit(0)
        with TrialPool(options.gpus, options.gpus_per_trial, options.at_once) as pool:
            check_gpus(options.gpus)
            queue = study()
            if options.drop_others:
                queue.drop_others()
            queue.enqueue(options.retry_failed)
            run_queue(queue, pool)
        newest = queue.newest()
        print(summary(newest, folder, base.selection, queue.trials, queue.total))
        sys.exit(_status([newest[name].state for name in queue.trials]))


def _search(options: Namespace) -> tuple[int, str, int] | None:
    """What a search is asked for: trials, pruner and seed, with defaults; None: a grid is wanted.

    Raises:
        InputError: options that do not fit together.
    """
    asked = {"--trials": options.trials, "--pruner": options.pruner, "--sampler-seed": options.sampler_seed}
    if options.sampler == "grid":
        for option, value in asked.items():
            if value is not None:
                raise InputError(f"{option} {value}: a grid tries every point; add --sampler tpe, or leave {option} out")
        return None
    if options.drop_others:
        raise InputError("--drop-others: a search has a study of its own; leave it out, or --sampler tpe")
    num_trials, seed = NUM_TRIALS if options.trials is None else options.trials, options.sampler_seed or 0
    if num_trials < 1 or not 0 <= seed < 2**32:
        raise InputError(f"--trials {num_trials} --sampler-seed {seed}: 1 trial or more, and a seed from 0 to 2^32 - 1")
    return num_trials, options.pruner or PRUNER, seed


def _refuse_changes(options: Namespace):
    """Refuse options that change the study beside one that only prints."""
    prints = "--dry-run" if options.dry_run else "--show"
    for option, given in {"--drop-others": options.drop_others, "--retry-failed": options.retry_failed}.items():
        if given:
            raise InputError(f"{option} {prints}: {prints} prints and changes nothing; leave one of them out")


def grid_trials(config: str, grid: Mapping[str, object], settings: Mapping[str, object]) -> dict[str, Trial]:
    """Build the product of a grid's values as trials by name; a setting takes the place of a key's values.

    Raises:
        InputError: as `grid_values`; a range.
    """
    choices: dict[str, Sequence[object]] = {}
    for key, values in grid_values(config, grid, settings).items():
        if isinstance(values, Range):
            raise InputError(
                f"GRID: {key} is a Range, of which a grid has no points: name values in a list, or search it with --sampler tpe"
            )
        choices[key] = values
    varied = frozenset(key for key, values in choices.items() if len(values) > 1 and key != SEED)
    points = [dict(zip(choices, values)) for values in itertools.product(*choices.values())]
    return {trial.name: trial for trial in (_grid_trial(Trial((config,), point, varied)) for point in points)}


def _grid_trial(trial: Trial) -> Trial:
    """The trial, under the name with which it was run before the grid had other values beside it, or when it still had."""
    if trial.folder.exists():
        return trial
    others = [Trial(trial.configs, trial.overrides, varied) for varied in (frozenset(), frozenset(trial.point) - {SEED})]
    return next((other for other in others if other.name != trial.name and other.is_begun()), trial)


def run_queue(queue: TrialQueue, pool: TrialPool):
    """Run trials of the queue until none is left to take, and give back those that an interrupt ends."""
    try:
        with tqdm(total=queue.total, desc="trials", disable=None) as bar:
            while True:
                pool.check()
                while pool.free and (claimed := queue.claim()):
                    _start(pool, *claimed)
                if not pool.busy:
                    break
                for outcome in pool.wait(queue.seconds_between_looks):
                    _report(outcome, queue)
                for running in pool.running:
                    if queue.to_prune(running.trial):
                        pool.stop(running)
                queue.beat()
                newest = queue.newest()
                bar.n = sum(newest[name].state.is_finished() for name in queue.trials)
                bar.set_postfix_str(", ".join(running.progress for running in pool.running))
    finally:
        queue.release()


def trials_as_text(trials: Mapping[str, Trial], gpus_per_trial: int) -> str:
    """Every trial with its command line."""
    lines = []
    for name, trial in trials.items():
        state = " (finished)" if (trial.folder / "result.json").exists() else ""
        lines.append(f"{name}{state}\n    {shlex.join(trial.command(gpus_per_trial))}")
    return "\n".join([*lines, f"{len(trials)} trials"])


def _status(states: list[TrialState]) -> int:
    num_failed, num_open = states.count(TrialState.FAIL), sum(not state.is_finished() for state in states)
    if num_open:
        _say(f"{num_open} of {len(states)} trials run elsewhere; should they stop, start this again")
    if num_failed:
        _say(f"{num_failed} of {len(states)} trials failed; --retry-failed runs them again")
    return 1 if num_failed else 0


def _start(pool: TrialPool, trial: Trial, lock: IO):
    if running := pool.start(trial, lock):
        where = "" if running.gpus is None else f" on GPU {running.gpus}"
        _say(f"{trial.name}: started{where}, log in {running.log}")


def _report(outcome: Outcome, queue: TrialQueue):
    name = outcome.trial.name
    if outcome.result is not None:
        queue.finish(name, outcome.result)
        selection = outcome.trial.config.selection
        _say(f"{name}: finished, {chosen_by(selection)} {outcome.trial.value(outcome.result):.4f}")
    elif outcome.state == "stopped":
        _say(f"{name}: pruned")
    else:
        queue.fail(name, outcome.message)
        _say(f"{name}: FAILED, {outcome.message}")


def _say(message: str):
    tqdm.write(message, file=sys.stderr)


def _parser(config: str) -> ArgumentParser:
    parser = ArgumentParser(
        description=f"Train every point of GRID with {config}, or with --sampler tpe those of a search, and show them by what "
        "validation says. Killed or interrupted at any moment, the same command goes on; started several times, also on several "
        "machines, they share the work.",
    )
    add = parser.add_argument
    add(
        "--set", metavar="KEY=VALUE", action="extend", nargs="+", default=[], help="a value for every trial, also instead of GRID's"
    )
    add(
        "--sampler",
        choices=["grid", "tpe"],
        default="grid",
        help="grid (the default): every point of GRID; tpe: points that Optuna draws from its values and Ranges, going by what "
        "validation said of those before (several train.seed make one point, their mean)",
    )
    add("--trials", metavar="N", type=int, help=f"with tpe: points in all; more continue the search (default: {NUM_TRIALS})")
    add(
        "--pruner",
        choices=list(PRUNERS),
        help=f"with tpe: how to end trials early that are behind others at the same epoch (default: {PRUNER})",
    )
    add("--sampler-seed", metavar="N", type=int, help="with tpe: of what is drawn (default: 0)")
    add("--gpus", metavar="0", nargs="+", default=[], help="run trials side by side, one a GPU: --gpus 0 1, or --gpus 0,1")
    add("--at-once", metavar="N", type=int, default=1, help="without --gpus: trials that run side by side and share the cores")
    add("--gpus-per-trial", metavar="N", type=int, default=1, help="GPUs of each trial, a process on each (default: 1)")
    add(
        "--storage",
        metavar="URL",
        help="database that the launchers share (default: sqlite:///RUNS/DATASET/study.db); for launchers on several machines a "
        "server's, such as postgresql://USER@HOST/NAME",
    )
    add("--retry-failed", action="store_true", help="run failed trials again")
    add(
        "--drop-others",
        action="store_true",
        help="leave the trials of earlier GRIDs out of the study from now on; their folders stay",
    )
    add("--dry-run", action="store_true", help="print the trials and do nothing")
    add("--show", action="store_true", help="print the table and do nothing")
    return parser
