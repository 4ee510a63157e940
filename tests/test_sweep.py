"""Launchers as a user starts them, and the queue behind them: real processes, real signals, real training on a tiny dataset."""

import json
import multiprocessing
import os
import re
import runpy
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Barrier
from pathlib import Path
from uuid import uuid4

import mounts
import optuna
import pytest
from optuna.trial import TrialState
from ring_dataset import write_ring
from sqlalchemy import NullPool, create_engine, make_url, text
from waiting import ENDLESS, end_after, epochs_of, num_epochs, wait_until

from odmt.config_files import load_config, parse_override
from odmt.errors import InputError
from odmt.launch import pool as trial_pool
from odmt.launch import queue as trial_queue
from odmt.launch.pool import TrialPool, run_trials
from odmt.launch.queue import TrialQueue
from odmt.launch.sweep import grid_trials, launch
from odmt.launch.table import summary
from odmt.launch.trials import Trial, check_begun, read_anew
from odmt.run_folder import reserve
from odmt.train import train

ROOT = Path(__file__).parents[1]
PATIENCE = 500  # seconds that a process may take on a busy machine; pytest ends a test after 600
CONFIG = """
data: {dataset: ring, max_seq_len: 6}
model: {sources: [id], item_encoder: dnn, id_encoder: embedding, fusion: early, dim: 8}
train: {epochs: 1, lr: 0.01, device: cpu}
"""
GRID = {"train.lr": [0.01, 1e-3], "model.dim": [8, 7]}  # 7 is no multiple of the two heads: such trials fail


STORAGE = "sqlite:///runs/ring/study.db"


@pytest.fixture
def place(tmp_path, monkeypatch, request) -> Iterator[Path]:
    """A working directory with a dataset of IDs alone, its configuration and its launcher; with --storage a database of its own."""
    write_ring(tmp_path / "data" / "ring", 30, 9, ())
    (tmp_path / "ring.yaml").write_text(CONFIG)
    (tmp_path / "run_ring.py").write_text(f"from odmt.launch.sweep import launch\n\nlaunch('ring.yaml', {GRID})\n")
    monkeypatch.chdir(tmp_path)
    read_anew()
    if not (server := request.config.getoption("--storage")):
        yield tmp_path
        return
    engine = create_engine(server, isolation_level="AUTOCOMMIT", poolclass=NullPool)
    url = make_url(server).set(database=f"odmt_{uuid4().hex}")
    monkeypatch.setitem(globals(), "STORAGE", url.render_as_string(hide_password=False))
    with engine.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {url.database}"))
        yield tmp_path
        connection.execute(text(f"DROP DATABASE {url.database} WITH (FORCE)"))


@pytest.fixture
def start(place):
    """The function that starts the launcher as a process; what still runs after the test is killed."""
    processes = []

    def start(*args: str) -> subprocess.Popen:
        command = [sys.executable, "run_ring.py", *args, *([] if STORAGE.startswith("sqlite") else ["--storage", STORAGE])]
        processes.append(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
        return processes[-1]

    yield start
    for process in processes:
        process.kill()
        process.communicate()


def study_trials() -> list[optuna.trial.FrozenTrial]:
    return optuna.load_study(study_name="ring", storage=STORAGE).trials


def table_rows(text: str) -> list[list[str]]:
    """Cells of a Markdown table, without its head."""
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")][2:]


def result(recall: float, test: float = 0.5) -> dict:
    """A result.json with one value in all validation metrics and one in all test metrics."""
    metrics = [f"fused/{metric}@{k}" for k in (10, 20) for metric in ("recall", "ndcg")]
    both = {"valid": dict.fromkeys(metrics, recall), "test": dict.fromkeys(metrics, test)}
    return {"best_epoch": 3, "epochs": 5, "seconds": 75.0, **both}


def open_queue(grid=GRID, **settings) -> TrialQueue:
    queue = TrialQueue(STORAGE, "ring", grid_trials("ring.yaml", grid, settings))
    queue.enqueue()
    return queue


# Launchers


def test_two_launchers_at_once_run_every_point_exactly_once_and_report_those_that_fail(start):
    launchers = [start("--set", "train.lr=0.01") for _ in range(2)]
    outputs = [launcher.communicate(timeout=PATIENCE) for launcher in launchers]
    assert 1 in [launcher.returncode for launcher in launchers]
    assert {launcher.returncode for launcher in launchers} <= {0, 1}

    trials = study_trials()
    states = {trial.user_attrs["name"]: trial.state for trial in trials}
    assert len(trials) == 2
    assert states == {"odmt,dim-8": TrialState.COMPLETE, "odmt,dim-7": TrialState.FAIL}
    for name, state in states.items():
        log = (Path("runs/ring") / name / "output.log").read_text()
        assert log.count("30 users, 30 items") == (state == TrialState.COMPLETE)
        assert log.count("7 is no multiple of backbone_heads") == (state == TrialState.FAIL)
    reports = "".join(errors for _, errors in outputs)
    assert reports.count("exit status 2; the end of runs/ring/odmt,dim-7") == 1
    assert reports.count("error: config key model.dim: 7 is no multiple of backbone_heads") == 1
    for trial in trials:
        if trial.state == TrialState.COMPLETE:
            written = json.loads((Path("runs/ring") / trial.user_attrs["name"] / "result.json").read_text())
            assert trial.value == written["valid"]["fused/recall@10"]
            assert trial.params == {"train.lr": 0.01, "model.dim": 8}


def test_interrupted_and_killed_launchers_leave_trials_that_continue(start):
    folder, config = Path("runs/ring/odmt"), Path("ring.yaml")
    config.write_text(CONFIG.replace("epochs: 1", f"epochs: {ENDLESS}"))
    args = ("--set", "train.lr=0.01", "--set", "model.dim=8")
    for number, status, state in ((signal.SIGTERM, 143, "WAITING"), (signal.SIGKILL, -9, "RUNNING")):  # of SIGINT below
        before = num_epochs(folder)
        launcher = start(*args)
        # One more than the checkpoint held: a run that goes on first notes the epoch that its forerunner had no time to note.
        wait_until(lambda before=before: num_epochs(folder) > before + 1, launcher)
        launcher.send_signal(number)
        launcher.communicate(timeout=PATIENCE)
        assert launcher.returncode == status
        assert [trial.state.name for trial in study_trials()] == [state]
        wait_until(lambda: Trial(("ring.yaml",)).lock())  # free: nothing of the trial runs any more

    epochs = end_after(folder, 3)
    config.write_text(CONFIG.replace("epochs: 1", f"epochs: {epochs}"))
    launcher = start(*args)
    table, _ = launcher.communicate(timeout=PATIENCE)
    assert launcher.returncode == 0
    assert [row[:2] for row in table_rows(table)] == [["odmt", "finished"]]
    assert epochs_of(folder) == list(range(1, epochs + 1))
    assert (folder / "output.log").read_text().count("continuing after epoch") == 2
    assert [trial.state.name for trial in study_trials()] == ["COMPLETE"]


def test_dry_run_prints_every_trial_and_touches_nothing(place, capsys):
    with pytest.raises(SystemExit) as end:
        launch("ring.yaml", GRID, ["--dry-run", "--set", "train.epochs=2", "--set", "data.root=/x", "runs=elsewhere"])
    assert end.value.code == 0
    printed = capsys.readouterr().out
    names = [f"odmt,dim-{dim},epochs-2,lr-{lr}" for lr in (0.01, 0.001) for dim in (8, 7)]
    assert re.findall(r"^odmt\S*", printed, re.M) == names
    assert printed.count("-m odmt.train ring.yaml train.lr=0.001 model.dim=8 train.epochs=2 data.root=/x runs=elsewhere") == 1
    assert not (place / "runs").exists()
    assert not (place / "elsewhere").exists()


def test_a_file_that_was_edited_is_read_again(place, capsys):
    for lr, name in ((0.01, "odmt"), (0.1, "odmt,lr-0.01")):
        (place / "ring.yaml").write_text(CONFIG.replace("lr: 0.01", f"lr: {lr}"))
        with pytest.raises(SystemExit):
            launch("ring.yaml", {"train.lr": [0.01]}, ["--dry-run"])
        assert re.findall(r"^odmt\S*", capsys.readouterr().out, re.M) == [name]


def test_a_file_that_was_edited_after_its_trials_ran_is_told_of(place, capsys):
    """Else the table would show what other settings brought."""
    train(Trial(("ring.yaml",)).config)
    (place / "ring.yaml").write_text(CONFIG.replace("dim: 8", "dim: 4"))
    for args in ([], ["--show"], ["--dry-run"]):
        with pytest.raises(SystemExit) as end:
            launch("ring.yaml", {"train.lr": [0.01]}, args)
        assert end.value.code == 2
        told = "error: runs/ring/odmt: holds a run that was started with model.dim=8 (now 4); bring that back in ring.yaml, or set"
        assert capsys.readouterr().err.startswith(told)


def test_one_folder_of_other_settings_is_that_trials_failure(place):
    """Though it was finished before: its result is not shown as the trial's."""
    queue = open_queue({"train.lr": [0.01, 0.1]})
    for _ in range(2):
        trial, lock = queue.claim()
        lock.close()
        queue.finish(trial.name, train(trial.config))
    config = trial.folder / "config.yaml"
    config.write_text(config.read_text().replace("seed: 1", "seed: 7"))
    trials = grid_trials("ring.yaml", {"train.lr": [0.01, 0.1]}, {})
    check_begun(trials.values(), "")
    again = open_queue({"train.lr": [0.01, 0.1]})
    claimed, lock = again.claim()
    lock.close()
    assert claimed.name == trial.name
    (outcome,) = run_trials([claimed])
    assert outcome.state == "failed"
    assert "was started with train.seed=7 (now 1)" in outcome.message


@pytest.mark.parametrize(
    ("grid", "args", "message"),
    [
        (GRID, ["--show"], "runs/ring/study.db: no trials yet"),
        (GRID, ["--show", "--drop-others"], "--drop-others --show: --show prints and changes nothing; leave one of them out"),
        (GRID, ["--retry-failed", "--dry-run"], "--retry-failed --dry-run: --dry-run prints and changes nothing"),
        (GRID, ["--set", "train.lrr=1"], "unknown key 'train.lrr'; did you mean train.lr?"),
        (GRID, ["--set", "train.lr"], "train.lr: expected KEY=VALUE"),
        (GRID, ["--gpus", "0,1,2", "--gpus-per-trial", "2"], "3 GPUs cannot be dealt out to trials of 2"),
        (GRID, ["--storage", "sqlite://"], "name a file, sqlite:///FILE"),
        (GRID, ["--storage", "nosuch://x/y"], "--storage: "),
        ({"model.width": [8]}, [], "unknown key 'model.width'"),
        ({"train.lr": 0.1}, [], "GRID: train.lr needs a list of values, not 0.1"),
        ({"train.device": ["cpu"]}, [], "GRID: train.device is nothing to search"),
    ],
)
def test_mistakes_end_before_anything_is_queued(place, capsys, grid, args, message):
    with pytest.raises(SystemExit) as end:
        launch("ring.yaml", grid, args)
    assert end.value.code == 2
    assert message in capsys.readouterr().err
    assert not (place / "runs" / "ring" / "study.db").exists()


@pytest.mark.parametrize("dataset", ["arts", "office", "hm", "stream"])
def test_the_launchers_of_the_paper_hold_its_choice(dataset, monkeypatch):
    monkeypatch.chdir(ROOT)
    grid = runpy.run_path(f"run_{dataset}.py")["GRID"]
    (trial,) = grid_trials(f"configs/{dataset}.yaml", grid, {}).values()
    assert trial.name == "odmt"  # nothing differs from the configuration
    assert trial.folder == Path("runs") / dataset / "odmt"
    assert {"model.dim", "model.id_init", "distillation.temperature", "distillation.ramp_up_epochs", "train.lr"} == grid.keys()


# Processes


def test_trials_side_by_side_have_a_gpu_each_and_end_with_the_pool(place):
    trials = [Trial(("ring.yaml",), {"train.epochs": 10_000, "train.seed": seed}) for seed in (1, 2)]
    with TrialPool(["4", "7"]) as pool:
        running = [pool.start(trial, trial.lock()) for trial in trials]
        assert not pool.free
        assert [trial.lock() for trial in trials] == [None, None]
        if sys.platform == "linux":
            environments = [Path(f"/proc/{trial.process.pid}/environ") for trial in running]
            wait_until(lambda: all(b"CUDA_VISIBLE_DEVICES" in path.read_bytes() for path in environments))
            seen = [re.search(rb"CUDA_VISIBLE_DEVICES=([^\0]*)", path.read_bytes())[1] for path in environments]
            assert seen == [b"4", b"7"]
    assert [trial.process.returncode for trial in running] == [-signal.SIGTERM] * 2
    assert all(trial.lock() for trial in trials)


def test_trials_side_by_side_on_cores_share_them(place, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.setattr(trial_pool, "num_cores", lambda: 9)
    trials = [Trial(("ring.yaml",), {"train.epochs": 10_000, "train.seed": seed}) for seed in (1, 2)]
    with TrialPool(at_once=2) as places:
        running = [places.start(trial, trial.lock()) for trial in trials]
        assert not places.free
        if sys.platform == "linux":
            environments = [Path(f"/proc/{trial.process.pid}/environ") for trial in running]
            wait_until(lambda: all(b"odmt.train" in path.with_name("cmdline").read_bytes() for path in environments))
            assert all(b"\0OMP_NUM_THREADS=4\0" in b"\0" + path.read_bytes() for path in environments)
            assert not any(b"CUDA_VISIBLE_DEVICES" in path.read_bytes() for path in environments)


@pytest.mark.parametrize("args", [["--at-once", "0"], ["--at-once", "2", "--gpus", "0"]])
def test_at_once_that_makes_no_sense(place, capsys, args):
    with pytest.raises(SystemExit) as end:
        launch("ring.yaml", GRID, args)
    assert end.value.code == 2
    assert f"--at-once {args[1]}: 1 or more, and without --gpus" in capsys.readouterr().err


def test_a_launcher_runs_as_many_at_once_as_it_is_told(start):
    launcher = start("--at-once", "2", "--set", "model.dim=8", f"train.epochs={ENDLESS}")
    folders = [Path(f"runs/ring/odmt,epochs-{ENDLESS},lr-{rate}") for rate in (0.01, 0.001)]
    wait_until(lambda: all(num_epochs(folder) for folder in folders), launcher)
    launcher.send_signal(signal.SIGINT)
    launcher.communicate(timeout=PATIENCE)
    assert launcher.returncode == 130
    assert {trial.state for trial in study_trials()} == {TrialState.WAITING}
    assert all(Trial(("ring.yaml",), {"name": folder.name}).lock() for folder in folders), "nothing of them runs any more"


def test_a_killed_trial_is_told_with_its_probable_reason(place):
    """As the kernel does it to whoever takes the most memory."""
    trial = Trial(("ring.yaml",), {"train.epochs": ENDLESS})
    with TrialPool() as places:
        victim = places.start(trial, trial.lock())
        wait_until(lambda: num_epochs(trial.folder) > 1)
        os.kill(victim.process.pid, signal.SIGKILL)
        while not (ended := places.wait()):
            pass
    (failed,) = ended
    assert failed.state == "failed"
    assert failed.message.startswith(
        "killed by SIGKILL, probably out of memory: fewer trials at once, or a smaller train.batch_size"
    )


def test_a_trial_of_two_processes_runs_and_a_finished_one_is_not_started_again(place):
    trial = Trial(("ring.yaml",))
    (outcome,) = run_trials([trial], gpus_per_trial=2)
    assert outcome.state == "finished", outcome.message
    assert outcome.result == json.loads((trial.folder / "result.json").read_text())
    log = (trial.folder / "output.log").read_text()
    assert "2 x cpu" in log
    other = Trial(("ring.yaml",), {"name": "odmt", "data.max_seq_len": 5, "train.epochs": 1})
    (again,) = run_trials([trial])
    assert (again.state, again.result) == ("finished", outcome.result)
    assert (trial.folder / "output.log").read_text() == log
    assert other.name == "odmt,max_seq_len-5"


@pytest.mark.parametrize("hold", ["launcher", "run"])
def test_a_folder_that_is_taken_is_left_alone(place, hold):
    trial = Trial(("ring.yaml",))
    with trial.lock() if hold == "launcher" else reserve(trial.folder):
        (outcome,) = run_trials([trial])
    assert outcome.state == "taken"
    assert not (trial.folder / "output.log").exists()
    with trial.lock() as free:
        assert free


# The queue


def test_queue_hands_out_every_point_once_in_the_order_of_the_grid(place):
    first, second = open_queue(), open_queue()
    assert len(study_trials()) == 4
    claimed = [(first if turn % 2 else second).claim() for turn in range(4)]
    names = [f"odmt,dim-{dim},lr-{lr}" for lr in (0.01, 0.001) for dim in (8, 7)]
    assert [trial.name for trial, _ in claimed] == names
    assert (first.claim(), second.claim()) == (None, None)
    assert {trial.state for trial in study_trials()} == {TrialState.RUNNING}


def work_through(start: Barrier, done: Queue):
    start.wait()
    queue = open_queue({"train.seed": list(range(12))})
    claimed = list(iter(queue.claim, None))  # holds the folders until all have ended
    done.put([trial.name for trial, _ in claimed])
    start.wait()


def test_processes_that_queue_at_the_same_moment_queue_and_take_every_point_once(place):
    context = multiprocessing.get_context("fork")
    start, done = context.Barrier(3), context.Queue()
    processes = [context.Process(target=work_through, args=(start, done), daemon=True) for _ in range(3)]
    for process in processes:
        process.start()
    taken = [done.get(timeout=PATIENCE) for _ in processes]
    for process in processes:
        process.join(PATIENCE)
    assert len(study_trials()) == 12
    names = [name for some in taken for name in some]
    assert len(names) == len(set(names)) == 12


def test_only_the_launchers_own_points_are_taken_and_an_edited_grid_adds_to_the_study(place):
    queue = open_queue({"model.backbone": ["sasrec"], "train.weight_decay": [0.1]})
    trial, lock = queue.claim()
    lock.close()
    train(trial.config)
    queue.finish(trial.name, result(0.1))
    edited = open_queue({"model.backbone": ["gru4rec", "sasrec"], "train.weight_decay": [0.1, 1]})
    assert [trial.user_attrs["name"] for trial in study_trials()] == [
        "odmt",  # what was run before there were other values keeps its name
        "odmt,backbone-gru4rec,weight_decay-0.1",
        "odmt,backbone-gru4rec,weight_decay-1",
        "odmt,backbone-sasrec,weight_decay-1",
    ]
    while claimed := edited.claim():
        edited.finish(claimed[0].name, result(0.2))
    assert [trial.params["train.weight_decay"] for trial in study_trials()] == [0.1, 0.1, 1.0, 1.0]


def test_a_grid_that_shrinks_finds_its_trials_under_their_names(place):
    wide = {"train.lr": [0.01, 0.1], "train.weight_decay": [0.1, 1]}
    trial = next(iter(grid_trials("ring.yaml", wide, {}).values()))
    assert trial.name == "odmt,lr-0.01,weight_decay-0.1"
    train(trial.config)
    assert list(grid_trials("ring.yaml", {**wide, "train.weight_decay": [0.1]}, {})) == [trial.name, "odmt,lr-0.1"]


def test_trials_go_on_to_more_epochs(place):
    for epochs in (1, 2):
        (place / "ring.yaml").write_text(CONFIG.replace("epochs: 1", f"epochs: {epochs}"))
        read_anew()
        queue = open_queue({"train.lr": [0.01]})
        trial, lock = queue.claim()
        lock.close()
        result = train(trial.config, resume=True)
        assert (trial.name, result["epochs"]) == ("odmt", epochs)
        queue.finish(trial.name, result)
        assert open_queue({"train.lr": [0.01]}).claim() is None


def test_a_trial_of_another_machine_is_taken_over_only_after_long_silence(place):
    other, here = open_queue(), open_queue()
    trial, lock = other.claim()
    lock.close()  # as on another machine, whose folder this one does not see
    storage = optuna.storages.RDBStorage(STORAGE)
    number = storage.get_trial_id_from_study_id_trial_number(storage.get_study_id_from_name("ring"), 0)
    storage.set_trial_user_attr(number, "host", "another machine")
    held = [here.claim() for _ in range(3)]
    assert trial.name not in [claimed.name for claimed, _ in held]
    assert here.claim() is None
    storage.set_trial_user_attr(number, "seen", time.time() - trial_queue.SILENCE_SECONDS - 1)
    assert here.claim()[0].name == trial.name
    other.finish(trial.name, result(0.1))  # it was not dead after all: the first result counts
    here.finish(trial.name, result(0.2))
    assert study_trials()[0].value == 0.1


def test_failed_trials_are_queued_again_on_request_alone(place):
    queue = open_queue({"train.lr": [0.01, 1e-3]})
    trial, lock = queue.claim()
    queue.fail(trial.name, "because")
    lock.close()
    queue.enqueue()
    assert len(study_trials()) == 2
    queue.enqueue(retry_failed=True)
    queue.enqueue(retry_failed=True)
    assert [entry.state.name for entry in study_trials()] == ["FAIL", "WAITING", "WAITING"]
    assert queue.claim()[0].name == trial.name


def test_table_is_sorted_by_validation_and_shows_the_test_metrics_of_the_chosen_trial_only_in_the_end(place):
    queue = open_queue({"train.lr": [0.1, 0.2, 0.3, 0.4]})
    for valid, test in ((0.25, 0.9), (0.75, 0.1), (0.5, 0.8)):
        trial, _ = queue.claim()
        (trial.folder / "result.json").write_text(json.dumps(result(valid, test)))
        queue.finish(trial.name, result(valid, test))
    queue.claim()
    folder = Path("runs/ring")
    names = ["odmt,lr-0.2", "odmt,lr-0.3", "odmt,lr-0.1", "odmt,lr-0.4"]
    text = summary(queue.newest(), folder, "valid/fused/recall@10")
    rows = table_rows(text)
    assert [row[0] for row in rows] == names
    assert rows[0] == [names[0], "finished", "0.7500", "0.7500", "0.7500", "0.7500", "3", "5", "0:01:15"]
    assert rows[3][1].startswith("running on ")
    assert "test" not in text
    queue.fail(names[3], "because")
    text = summary(queue.newest(), folder, "valid/fused/recall@10")
    assert [row[0] for row in table_rows(text)] == names
    assert text.endswith(
        "chosen by validation recall@10: odmt,lr-0.2; its test metrics: "
        "recall@10 0.1000, ndcg@10 0.1000, recall@20 0.1000, ndcg@20 0.1000"
    )
    assert "0.8000" not in text
    assert "0.9000" not in text


def finished(queue: TrialQueue, valid: float, test: float) -> str:
    """Take a trial and note it as finished; returns its name."""
    trial, lock = queue.claim()
    (trial.folder / "result.json").write_text(json.dumps(result(valid, test)))
    queue.finish(trial.name, result(valid, test))
    lock.close()
    return trial.name


def test_seeds_are_averaged_and_not_searched(place):
    """A lucky seed decides nothing: 0.9 is the best value, and 0.5 the better mean."""
    grid = {"train.lr": [0.1, 0.2], "train.seed": [1, 2]}
    before = open_queue({"train.lr": [0.1, 0.2]})
    names = [finished(before, valid, test) for valid, test in ((0.9, 0.2), (0.5, 0.3))]
    queue = open_queue(grid)
    names += [finished(queue, valid, test) for valid, test in ((0.0, 0.2), (0.5, 0.5))]
    assert names == ["odmt,lr-0.1", "odmt,lr-0.2", "odmt,lr-0.1,seed-2", "odmt,lr-0.2,seed-2"], "no point is trained twice"
    assert queue.claim() is None
    text = summary(queue.newest(), Path("runs/ring"), "valid/fused/recall@10", queue.trials)
    rows = table_rows(text)
    assert [row[:3] for row in rows] == [
        ["odmt,lr-0.2", "2 finished", "0.5000 ± 0.0000"],
        ["odmt,lr-0.1", "2 finished", "0.4500 ± 0.6364"],
    ]
    assert "chosen by validation recall@10: odmt,lr-0.2; its test metrics of 2 seeds, mean ± standard deviation: " in text
    assert "recall@10 0.4000 ± 0.1414" in text


def test_a_grid_that_was_edited_and_not_started_has_no_winner_yet(place):
    old = open_queue({"train.lr": [0.1, 0.2]})
    finished(old, 0.4, 0.4)
    finished(old, 0.5, 0.5)
    trials = grid_trials("ring.yaml", {"train.lr": [0.2, 0.3]}, {})
    text = summary(old.newest(), Path("runs/ring"), "valid/fused/recall@10", trials)
    states = {row[0]: row[1] for row in table_rows(text)}
    assert states == {
        "odmt,lr-0.2": "finished",
        "odmt,lr-0.3": "not started",
        "odmt,lr-0.1": "finished (not of this GRID)",
    }
    assert "chosen" not in text


def test_the_trials_of_other_grids_are_sorted_too(place):
    old = open_queue({"train.lr": [0.1, 0.2, 0.3]})
    finished(old, 0.4, 0.4)
    finished(old, 0.5, 0.5)
    text = summary(old.newest(), Path("runs/ring"), "valid/fused/recall@10", grid_trials("ring.yaml", {"train.lr": [0.4]}, {}))
    assert [row[0] for row in table_rows(text)] == ["odmt,lr-0.4", "odmt,lr-0.2", "odmt,lr-0.1", "odmt,lr-0.3"]


def test_the_trials_of_this_grid_decide_and_others_are_marked_and_dropped(place):
    old = open_queue({"train.lr": [0.1, 0.2, 0.3]})
    finished(old, 0.9, 0.9)
    old.claim()
    old.release()  # interrupted, and the grid is edited
    queue = open_queue({"train.lr": [0.4, 0.5]})
    names = [finished(queue, 0.2, 0.6), finished(queue, 0.3, 0.7)]
    text = summary(queue.newest(), Path("runs/ring"), "valid/fused/recall@10", queue.trials)
    states = {row[0]: row[1] for row in table_rows(text)}
    assert list(states)[:2] == names[::-1]
    assert states["odmt,lr-0.1"] == "finished (not of this GRID)"
    assert states["odmt,lr-0.2"] == "interrupted (not of this GRID)"
    assert states["odmt,lr-0.3"] == "waiting (not of this GRID)"
    assert "chosen by validation recall@10: odmt,lr-0.5; its test metrics: recall@10 0.7000" in text
    queue.drop_others()
    assert list(queue.newest()) == names
    assert Path("runs/ring/odmt,lr-0.1/result.json").exists()
    assert "odmt,lr-0.1" in open_queue({"train.lr": [0.1, 0.4]}).newest(), "one that a grid has again is shown again"


def test_damaged_results_are_their_trials_failures(place, start):
    contents = (b"", b"{", b"\xff", b'{"epochs": 1}', b'{"best_epoch": "x", "valid": [], "test": 3}')
    damaged = {0.1 * number: content for number, content in enumerate(contents, 1)}
    grid = {"train.lr": [*damaged, 1e-3]}
    trials = grid_trials("ring.yaml", grid, {})
    for trial, content in zip(trials.values(), damaged.values()):
        train(trial.config)
        (trial.folder / "result.json").write_bytes(content)
    (place / "run_ring.py").write_text(f"from odmt.launch.sweep import launch\n\nlaunch('ring.yaml', {grid})\n")
    launcher = start()
    table, words = launcher.communicate(timeout=PATIENCE)
    assert launcher.returncode == 1
    assert "Traceback" not in words
    *failed, good = trials
    for name in failed:
        assert re.search(rf"{name}: FAILED, error: runs/ring/{name}/result.json: .*; remove it, and --resume", words)
    assert {row[0]: row[1] for row in table_rows(table)} == {good: "finished", **dict.fromkeys(failed, "failed")}


# Databases


def database(content: bytes = b"") -> Path:
    path = Path("runs/ring/study.db")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def open_sqlite(read_only: bool = False) -> TrialQueue:
    return TrialQueue("sqlite:///runs/ring/study.db", "ring", grid_trials("ring.yaml", GRID, {}), read_only)


def test_databases_that_cannot_be_used(place):
    """Each in one sentence with a remedy, without SQL."""
    database(b"no database at all, but long enough to be looked at" * 100)
    with pytest.raises(
        InputError, match=r"^runs/ring/study.db: file is not a database; damaged, or another program's; move it away"
    ):
        open_sqlite()
    database().unlink()
    with closing(sqlite3.connect("runs/ring/study.db")) as other:
        other.execute("CREATE TABLE mine (x)")
        other.commit()
        with pytest.raises(InputError, match=r"study.db: the database of another program; name another file with --storage"):
            open_sqlite()
    database()
    open_sqlite()
    with closing(sqlite3.connect("runs/ring/study.db")) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(InputError, match=r"study.db: .*database is locked; another program holds it; end that") as error:
            open_sqlite()
    assert "SELECT" not in str(error.value)
    assert "SQL" not in str(error.value)


@pytest.mark.parametrize(
    "url",
    [
        "sqlite://?password=secret",
        "sqlite:///:memory:?password=secret",
        "postgresql://me:secret@127.0.0.1:1/x",
        "postgresql://me:secret@127.0.0.1:port/x",
        "postgresql://127.0.0.1:1/x?user=me&password=secret",
        "secret",
        "nosuch://me:secret@x/y",
    ],
)
def test_no_password_is_told(place, url):
    with pytest.raises(InputError, match="--storage") as error:
        TrialQueue(url, "ring", {})
    assert "secret" not in str(error.value)
    assert len(str(error.value).splitlines()) == 1


def test_the_table_of_a_place_that_is_read_only(place):
    mounts.need_mounts()
    queue = open_sqlite()
    queue.enqueue()
    script = (
        "import mounts; from odmt.launch.sweep import launch\nmounts.own_mounts(); mounts.make_read_only('runs')\n"
        f"try: launch('ring.yaml', {GRID}, ['--show'])\nexcept SystemExit as end: assert not end.code\n"
        f"launch('ring.yaml', {GRID}, [])"
    )
    search = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=search)
    assert len(table_rows(done.stdout)) == 4
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("error: runs/ring/study.db.lock: cannot be written (Read-only file system; ")


# Names and values


def test_one_configuration_has_one_name(place):
    config = ("ring.yaml",)
    assert Trial(config, {"train.lr": 0.01, "model.dim": 8, "data.root": "/x", "train.device": "cuda"}).name == "odmt"
    values = {"train.lr": 1e-5, "model.sources": ["id", "text"], "train.test_curve": True, "distillation.constant_weight": 0.0}
    name = "mine,sources-id+text,constant_weight-0,lr-1e-05,test_curve-true"
    assert Trial(config, {**values, "name": "mine"}).name == name
    assert Trial(config, {"name": "mine", **dict(reversed(values.items()))}).name == name


def test_values_of_the_command_line():
    pairs = ["train.lr=1e-3", "train.epochs=2", "model.sources=[id, text]", "train.patience=null", "model.id_init=text"]
    assert [parse_override(pair)[1] for pair in pairs] == [0.001, 2, ["id", "text"], None, "text"]
    # Text stays text, in a grid as in a configuration.
    assert parse_override("data.dataset=007") == ("data.dataset", "007")
    assert load_config(["data.dataset=1e3"]).data.dataset == parse_override("data.dataset=1e3")[1] == "1e3"
    with pytest.raises(InputError, match="not valid YAML"):
        parse_override("model.sources=[id")
