"""Searches as a user starts them, and the queue behind them: real processes and signals, real studies, a tiny dataset."""

import json
from pathlib import Path

import optuna
import pytest
import test_sweep
from optuna.trial import FrozenTrial, TrialState
from test_sweep import PATIENCE, num_epochs, place, result, start, table_rows, wait_until  # noqa: F401, two of them fixtures

from odmt.launch.search import SearchQueue
from odmt.launch.space import Range, SearchSpace
from odmt.launch.sweep import launch
from odmt.launch.table import summary
from odmt.launch.trials import Trial

GRID = {"train.lr": Range(1e-4, 1e-1, log=True), "model.dim": [8, 16]}
LAUNCHER = """
from odmt.launch.space import Range
from odmt.launch.sweep import launch

launch("ring.yaml", {"train.lr": Range(1e-4, 1e-1, log=True), "model.dim": [8, 16]})
"""

pytestmark = pytest.mark.usefixtures("place")


def open_search(grid=GRID, num_trials=40, pruner="none", seed=0, **settings) -> SearchQueue:
    space = SearchSpace("ring.yaml", grid, settings)
    return SearchQueue(test_sweep.STORAGE, "ring", space, num_trials, pruner, seed)


def entries(queue: SearchQueue) -> list[FrozenTrial]:
    return queue.study.get_trials()


def finish(queue: SearchQueue, valid: float, test: float = 0.5) -> Trial:
    """Take a run and note it as finished."""
    trial, lock = queue.claim()
    (trial.folder / "result.json").write_text(json.dumps(result(valid, test)))
    queue.finish(trial.name, result(valid, test))
    lock.close()
    return trial


def abandon(queue: SearchQueue):
    """Let go of what the end of a process lets go of."""
    for point in queue._points.values():
        point.held.close()


def write_epochs(trial: Trial, *recalls: float):
    """What a run notes of its epochs."""
    metrics = [f"valid/fused/{metric}@{k}" for k in (10, 20) for metric in ("recall", "ndcg")]
    seconds = {"train_seconds": 1.0, "valid_seconds": 0.5}
    lines = [{"epoch": number, **dict.fromkeys(metrics, recall), **seconds} for number, recall in enumerate(recalls, 1)]
    (trial.folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


# Launchers


def test_a_hopeless_run_is_ended_and_its_folder_can_be_read_and_continued(place, start):  # noqa: F811
    epochs = 400  # more than a run gets through before the launcher looks at it
    judged_from = epochs // 10  # before that nobody is
    queue = open_search(num_trials=6, pruner="median", **{"train.epochs": epochs})
    for _ in range(5):
        trial, lock = queue.claim()
        write_epochs(trial, *[2.0] * judged_from)  # better than any run can be
        queue.finish(trial.name, result(2.0))
        lock.close()
    (place / "run_ring.py").write_text(LAUNCHER)
    launcher = start("--sampler", "tpe", "--trials", "6", "--pruner", "median", "--set", f"train.epochs={epochs}")
    table, words = launcher.communicate(timeout=PATIENCE)
    assert launcher.returncode == 0, words
    last = entries(queue)[-1]
    assert last.state == TrialState.PRUNED
    assert max(last.intermediate_values) == judged_from
    trial = Trial(("ring.yaml",), {"train.epochs": epochs, **last.params}, frozenset(last.params))
    assert table_rows(table)[-1][:2] == [trial.without_seed, "pruned"]
    assert f"{trial.name}: pruned\n" in words
    assert not (trial.folder / "result.json").exists()
    history = trial.history()
    assert judged_from <= len(history) < epochs
    best = max(line["valid/fused/recall@10"] for line in history[:judged_from])
    assert last.value == last.intermediate_values[judged_from] == best
    assert trial.is_begun()
    with trial.lock():
        pass


def test_a_killed_launcher_leaves_a_search_that_two_others_end(place, start):  # noqa: F811
    (place / "run_ring.py").write_text(LAUNCHER)
    args = ("--sampler", "tpe", "--pruner", "none", "--set", "train.epochs=30", "--trials")
    queue = open_search(**{"train.epochs": 30})
    trial, lock = queue.claim()
    lock.close()
    abandon(queue)
    launcher = start(*args, "1")
    wait_until(lambda: num_epochs(trial.folder) > 1)
    launcher.kill()
    launchers = [start(*args, "2") for _ in range(2)]
    tables = [launcher.communicate(timeout=PATIENCE)[0] for launcher in launchers]
    assert [launcher.returncode for launcher in launchers] == [0, 0]
    found = entries(queue)
    assert [entry.state.name for entry in found] == ["COMPLETE", "COMPLETE"]
    assert any("chosen by validation recall@10" in table for table in tables)
    assert [line["epoch"] for line in trial.history()] == list(range(1, 31))
    assert (trial.folder / "output.log").read_text().count("continuing after epoch") == 1
    assert found[0].value == json.loads((trial.folder / "result.json").read_text())["valid"]["fused/recall@10"]


@pytest.mark.parametrize(
    ("grid", "args", "message"),
    [
        (
            GRID,
            [],
            "GRID: train.lr is a Range, of which a grid has no points: name values in a list, or search it with --sampler tpe",
        ),
        (GRID, ["--trials", "3"], "--trials 3: a grid tries every point; add --sampler tpe"),
        (GRID, ["--sampler", "tpe", "--trials", "0"], "1 trial or more"),
        (GRID, ["--sampler", "tpe", "--sampler-seed", "-1"], "a seed from 0"),
        (GRID, ["--sampler", "tpe", "--drop-others"], "a search has a study of its own"),
        (GRID, ["--sampler", "tpe", "--show"], "runs/ring/study.db: no trials yet"),
        ({"train.lr": [0.1]}, ["--sampler", "tpe"], "GRID: has one point, nothing to search"),
        ({"train.lr": Range(0.1, 0.01)}, ["--sampler", "tpe"], "GRID: train.lr: no range from 0.1 to 0.01"),
        ({"train.lr": Range(0, 0.1, log=True)}, ["--sampler", "tpe"], "GRID: train.lr: no range from 0 to 0.1, on a log scale"),
        ({"train.lr": Range(-1, 1)}, ["--sampler", "tpe"], "GRID: train.lr: -1, an end of its range: config key train.lr: must be"),
        ({"model.dim": Range(8, 16.5)}, ["--sampler", "tpe"], "GRID: model.dim: no range from 8 to 16.5: 16.5 is no whole number"),
        ({"model.fusion": Range(0, 1)}, ["--sampler", "tpe"], "GRID: model.fusion takes no numbers between others"),
        ({"train.seed": Range(1, 9), **GRID}, ["--sampler", "tpe"], "GRID: train.seed is averaged, never searched; name seeds"),
        ({"train.epochs": [1, 2]}, ["--sampler", "tpe"], "GRID: train.epochs is what a pruner deals out"),
        ({"train.lrr": Range(1, 2)}, ["--sampler", "tpe"], "unknown key 'train.lrr'"),
    ],
)
def test_mistakes_end_before_anything_is_drawn(place, capsys, grid, args, message):  # noqa: F811
    with pytest.raises(SystemExit) as end:
        launch("ring.yaml", grid, args)
    assert end.value.code == 2
    assert message in capsys.readouterr().err
    assert not (place / "runs" / "ring" / "study.db").exists()


def test_dry_run_tells_what_is_searched_and_touches_nothing(place, capsys):  # noqa: F811
    with pytest.raises(SystemExit):
        launch("ring.yaml", {**GRID, "train.seed": [1, 2]}, ["--sampler", "tpe", "--dry-run", "--set", "model.dim=8"])
    told = "40 trials\ntrain.lr: 0.0001 to 0.1, on a log scale\nseeds of each, averaged: 1, 2\n"
    assert capsys.readouterr().out == told
    assert not (place / "runs").exists()


# The queue


def test_one_seed_draws_one_sequence_of_points_whoever_draws_them():
    def drawn(*queues: SearchQueue) -> list[str]:
        return [finish(queues[turn % len(queues)], 0.1 * turn).name for turn in range(8)]

    names = drawn(*[open_search(num_trials=8) for _ in range(2)])
    assert len(set(names)) == 8
    optuna.delete_study(study_name=open_search().study.study_name, storage=test_sweep.STORAGE)
    assert drawn(open_search(num_trials=8)) == names
    optuna.delete_study(study_name=open_search().study.study_name, storage=test_sweep.STORAGE)
    assert not set(drawn(open_search(num_trials=8, seed=1))) & set(names)


def test_what_waits_goes_first_and_more_trials_go_on():
    queue = open_search(num_trials=2)
    first, lock = queue.claim()
    queue.release()
    lock.close()
    assert finish(queue, 0.1).name == first.name
    finish(queue, 0.2)
    assert queue.claim() is None
    more = open_search(num_trials=3)
    text = summary(more.newest(), Path("runs/ring"), "valid/fused/recall@10", more.trials, more.total)
    assert text.endswith("2 of 3 trials have ended, 1 to go")
    finish(more, 0.3)
    assert more.claim() is None


def test_failed_points_count_and_are_queued_again_on_request_alone():
    queue = open_search(num_trials=1)
    trial, lock = queue.claim()
    queue.fail(trial.name, "because")
    lock.close()
    queue.enqueue()
    assert queue.claim() is None
    queue.enqueue(retry_failed=True)
    assert finish(queue, 0.1).name == trial.name
    assert [entry.state.name for entry in entries(queue)] == ["FAIL", "COMPLETE"]


def test_no_point_is_tried_twice_and_a_space_without_ranges_ends():
    grid = {"model.dim": [8, 16], "model.sources": [["id"], ["id", "text"]], "train.patience": [None, 3], "train.lr": [0.01]}
    queue = open_search(grid)
    assert queue.total == 8
    trials = [finish(queue, 0.1 * turn) for turn in range(8)]
    assert queue.claim() is None
    points = [(trial.config.model.dim, *trial.config.model.sources, trial.config.train.patience) for trial in trials]
    assert len(set(points)) == 8


def test_numbers_of_a_range_are_short_and_within_it():
    grid = {"train.lr": Range(0.0123456, 0.0123499), "model.dim": Range(8, 64, step=8), "train.patience": Range(2, 3)}
    queue = open_search(grid)
    for _ in range(5):
        config = finish(queue, 0.1).config
        assert 0.0123456 <= config.train.lr <= 0.0123499
        assert config.model.dim in range(8, 65, 8)
        assert config.train.patience in (2, 3)
    assert finish(open_search({"train.lr": Range(1e-4, 1e-2, log=True)}), 0.1).config.train.lr == pytest.approx(0.00125, rel=0.9)
    for entry in entries(open_search({"train.lr": Range(1e-4, 1e-2, log=True)})):
        assert float(f"{entry.params['train.lr']:.3g}") == entry.params["train.lr"]


def test_another_space_or_setting_is_another_study():
    spaces = [
        SearchSpace("ring.yaml", GRID, {}),
        SearchSpace("ring.yaml", {**GRID, "model.dim": [8, 24]}, {}),
        SearchSpace("ring.yaml", GRID, {"train.epochs": 2}),
        SearchSpace("ring.yaml", {**GRID, "train.seed": [1, 2]}, {}),
    ]
    assert len({space.study for space in spaces}) == 4
    elsewhere = SearchSpace("ring.yaml", GRID, {"runs": "elsewhere", "train.device": "cpu", "train.epochs": 1, "train.seed": 1})
    assert elsewhere.study == spaces[0].study


def test_seeds_of_a_point_are_averaged_and_stay_with_its_launcher():
    grid = {**GRID, "train.seed": [1, 2]}
    queue, other = open_search(grid, num_trials=2), open_search(grid, num_trials=1)
    first = finish(queue, 0.9, 0.2)
    assert first.config.train.seed == 1
    assert other.claim() is None, "the second seed has not begun, and the point is taken"
    assert finish(queue, 0.0, 0.2).config.train.seed == 2
    names = [finish(queue, 0.5, test).name for test in (0.3, 0.5)]
    assert names[1] == f"{names[0]},seed-2"
    assert [entry.value for entry in entries(queue)] == [0.45, 0.5]
    text = summary(queue.newest(), Path("runs/ring"), "valid/fused/recall@10", queue.trials, queue.total)
    assert [row[1:3] for row in table_rows(text)] == [["finished", "0.5000 ± 0.0000"], ["finished", "0.4500 ± 0.6364"]]
    assert "its test metrics of 2 seeds, mean ± standard deviation: recall@10 0.4000 ± 0.1414" in text


def test_an_abandoned_point_goes_on_with_the_seed_that_was_not_trained():
    grid = {**GRID, "train.seed": [1, 2]}
    gone, queue = open_search(grid, num_trials=1), open_search(grid, num_trials=1)
    finish(gone, 0.25)
    abandon(gone)
    trial, lock = queue.claim()
    assert trial.config.train.seed == 1  # which has its result
    queue.finish(trial.name, result(0.25))
    lock.close()
    assert finish(queue, 0.75).config.train.seed == 2
    assert [entry.value for entry in entries(queue)] == [0.5]


@pytest.mark.parametrize("pruner", ["hyperband", "median"])
def test_runs_behind_the_others_are_pruned_by_their_first_seed(pruner):
    queue = open_search({**GRID, "train.seed": [1, 2]}, num_trials=30, pruner=pruner, **{"train.epochs": 9})
    pruned = []
    for turn in range(30):
        trial, lock = queue.claim()
        recalls = [0.01 * (30 - turn) + 0.001 * epoch for epoch in range(9)]  # each worse than all before it
        write_epochs(trial, *recalls[:2])
        stop = queue.to_prune(trial)
        write_epochs(trial, *recalls)
        if stop or queue.to_prune(trial):
            pruned.append(trial.without_seed)
        else:
            queue.finish(trial.name, result(recalls[-1]))
            second, second_lock = queue.claim()
            assert (second.without_seed, second.config.train.seed) == (trial.without_seed, 2)
            write_epochs(second, 0.0)
            assert not queue.to_prune(second)
            queue.finish(second.name, result(recalls[-1]))
            second_lock.close()
        lock.close()
    states = {entry.user_attrs["name"]: entry.state.name for entry in entries(queue)}
    assert [name for name, state in states.items() if state == "PRUNED"] == pruned
    assert 15 < len(pruned) < 30
    assert states[next(iter(states))] == "COMPLETE"
    assert not queue.to_prune(trial), "it is stopped already"
