"""Training runs: what they leave behind, how they are interrupted, continued and refused. Killed processes are real ones."""

import contextlib
import dataclasses
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from mounts import need_mounts
from power_cuts import Disk, write
from waiting import ENDLESS, end_after, num_epochs, wait_until

from odmt.checkpoint import load_metadata, load_tensors, save_tensors
from odmt.config import RunConfig
from odmt.config_files import load_config
from odmt.distributed import World
from odmt.errors import InputError
from odmt.features.header import Header, Record
from odmt.features.writer import FeatureWriter
from odmt.metrics import summarize
from odmt.recommend import load_run
from odmt.result import MOST_POPULAR, most_popular
from odmt.run_folder import RunFolder
from odmt.sequential.interactions import Interactions
from odmt.sequential.task import build_model, remarks
from odmt.train import Run, main, train
from odmt.trainer import NonFiniteLossError, Trainer

ALONE = World(0, 1, torch.device("cpu"))
ROOT = Path(__file__).parents[1]


def lines(folder: Path) -> list[dict]:
    """metrics.jsonl without the seconds."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in row.items() if not name.endswith("seconds")} for row in rows]


def assert_same_run(folder: Path, expected: Path):
    """Bit for bit the same weights, optimizer, ranks and metrics."""
    for name in ("best.safetensors", "last.safetensors", "ranks.safetensors"):
        (tensors, _), (expected_tensors, _) = load_tensors(folder / name), load_tensors(expected / name)
        assert tensors.keys() == expected_tensors.keys()
        assert all(torch.equal(tensors[key], tensor) for key, tensor in expected_tensors.items()), name
    assert lines(folder) == lines(expected)
    results = [json.loads((place / "result.json").read_text()) for place in (folder, expected)]
    assert [result.pop("seconds") > 0 for result in results] == [True, True]
    assert results[0] == results[1]


@contextlib.contextmanager
def command(*args: str):
    """`python -m odmt.train` as a process."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen([sys.executable, "-m", "odmt.train", *args], **pipes)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def test_killed_and_interrupted_and_continued(arguments, tmp_path):
    """SIGKILL, then Ctrl-C, then to the end: the same as a run that was never stopped."""
    args, folder = arguments(f"train.epochs={ENDLESS}"), tmp_path / "ring" / "run"
    with command(*args) as process:
        wait_until(lambda: num_epochs(folder) >= 3, process)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    killed = num_epochs(folder)
    with command(*args, "--resume") as process:
        wait_until(lambda: num_epochs(folder) >= killed + 3, process)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate()
        assert process.returncode == 130
        assert errors.rstrip().endswith("interrupted; with --resume the same command goes on")
        assert "Traceback" not in errors
    assert not (folder / "result.json").exists()
    epochs = f"train.epochs={end_after(folder, 3)}"
    train(load_config(arguments(epochs)), resume=True)
    train(load_config(arguments(epochs, "name=straight")))
    assert_same_run(folder, tmp_path / "ring" / "straight")
    assert "continuing after epoch" in (folder / "train.log").read_text()


class PowerCutError(BaseException):
    """Not caught by anything but the test."""


@pytest.mark.parametrize("save_every", ["1epoch", "2epochs"])
def test_stopped_before_every_file(arguments, tmp_path, monkeypatch, save_every):
    """A run may be stopped between any two files that it writes."""
    train(load_config(arguments("name=straight")))
    replace, finished, stops = os.replace, False, 0
    while not finished:
        left = iter(range(stops))  # shared with the thread that saves

        def stop_later(source, target, left=left):
            if next(left, None) is None:
                raise PowerCutError
            replace(source, target)

        config = load_config(arguments("name=stopped", f"train.save_every={save_every}"))
        monkeypatch.setattr(os, "replace", stop_later)
        try:
            train(config)
            finished = True
        except PowerCutError:
            stops += 1
            monkeypatch.setattr(os, "replace", replace)
            train(config, resume=True)
        assert_same_run(config.folder, tmp_path / "ring" / "straight")
        shutil.rmtree(config.folder)
    assert stops >= 2 + 3 * 2 + 1 + 2  # configuration and environment; an epoch's; the best; ranks and result


def test_no_power_cut_does_harm(arguments, tmp_path, monkeypatch):
    """After any step of a run all that was not brought to the disk is lost; what is left goes on to the same digits."""
    steps = ["train.epochs=2", "train.save_every=1epoch"]
    straight = load_config(arguments(*steps, "name=straight"))
    train(straight)
    disk = Disk(tmp_path / "cut")
    with disk.follow(monkeypatch):
        train(load_config(arguments(*steps, f"runs={disk.folder}")))
    epochs = set()
    for number, files in enumerate(disk.left):
        write(tmp_path / "left" / str(number), files)
        config = load_config(arguments(*steps, f"runs={tmp_path}/left/{number}"))
        if (last := config.folder / "last.safetensors").exists():
            epochs.add(load_metadata(last)["epoch"])
        train(config, resume=True)
        assert_same_run(config.folder, straight.folder)
    assert epochs == {1, 2}
    assert len(disk.left) > 15


FULL_DISK = """
import sys, mounts
small, half, *args = sys.argv[1:]
mounts.own_mounts()  # before any other thread is there
mounts.mount_tmpfs(small, half)
import shutil
from odmt.cli import report_mistakes
from odmt.config_files import load_config
from odmt.train import train
try:
    with report_mistakes():
        train(load_config(args))
except SystemExit:
    mounts.resize_tmpfs(small, "64m")
    train(load_config(args), resume=True)
shutil.copytree(small + "/ring", small + "-filled")
"""


def test_a_full_disk_ends_a_run_and_with_room_it_goes_on_to_the_same_digits(arguments, tmp_path):
    need_mounts()
    straight = load_config(arguments("name=straight"))
    train(straight)
    needed = sum(path.stat().st_size for path in straight.folder.rglob("*") if path.is_file())
    small = tmp_path / "small"
    small.mkdir()
    search = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}
    command = [sys.executable, "-c", FULL_DISK, str(small), str(needed * 2 // 3), *arguments(f"runs={small}")]
    done = subprocess.run(command, env=search, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (said,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert re.fullmatch(
        rf"error: {small}/ring/run/\S+: cannot be written \(No space left on device; the disk is full: make room, 0.00 GB are "
        r"free\); with --resume the same command goes on",
        said,
    )
    assert_same_run(tmp_path / "small-filled" / "run", straight.folder)


def test_the_best_weights_are_those_that_were_validated(arguments, tmp_path, monkeypatch):
    """Stopped between checkpoint and best weights: these come from the checkpoint, not from an epoch that is trained again."""
    replace, config = os.replace, load_config(arguments("train.epochs=1"))

    def stop_at_best(source, target):
        if Path(target).name == "best.safetensors":
            raise PowerCutError
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", stop_at_best)
        with pytest.raises(PowerCutError):
            train(config)
    monkeypatch.setattr(Trainer, "train_epoch", None)
    train(config, resume=True)
    best, last = (load_tensors(config.folder / f"{name}.safetensors")[0] for name in ("best", "last"))
    assert all(torch.equal(tensor, last[f"model.{name}"]) for name, tensor in best.items())


@pytest.fixture(scope="module")
def finished(ring_root, tmp_path_factory):
    """The arguments and the folder of a finished run."""
    runs = tmp_path_factory.mktemp("finished")
    args = [f"data.root={ring_root}", "data.dataset=ring", f"runs={runs}", "data.max_seq_len=5", "model.dim=8"]
    args += ["model.num_layers=2", "train.batch_size=8", "train.epochs=9", "train.lr=0.03", "train.device=cpu"]
    train(load_config(args))
    return args, runs / "ring" / "odmt"


def test_what_a_run_leaves_behind(finished):
    args, folder = finished
    names = {path.name for path in folder.iterdir()} - {"tensorboard"}
    tables = {"config.yaml", "environment.json", "metrics.jsonl", "result.json", "train.log"}
    assert names == tables | {"lock", "training_curve.png", "best.safetensors", "last.safetensors", "ranks.safetensors"}
    assert load_config([str(folder / "config.yaml")]) == load_config(args)
    environment = json.loads((folder / "environment.json").read_text())
    assert environment["packages"]["torch"] == torch.__version__
    rows = lines(folder)
    assert [row["epoch"] for row in rows] == list(range(1, 10))
    for row in rows:
        losses = [value for name, value in row.items() if name.startswith("train/") and name != "train/loss"]
        assert {"train/ce_id", "train/ce_text", "train/ce_image", "train/distillation"} <= row.keys()
        assert row["train/loss"] == pytest.approx(sum(losses), rel=1e-5)
        measured = {name.partition("/")[2] for name in row if name.startswith("valid/")}
        assert measured == {f"{s}/{m}@{k}" for s in ("fused", "id", "text", "image") for m in ("recall", "ndcg") for k in (10, 20)}
    assert rows[-1]["train/loss"] < rows[0]["train/loss"]


def test_the_result_is_the_best_epochs(finished):
    args, folder = finished
    result, rows = json.loads((folder / "result.json").read_text()), lines(folder)
    recalls = [row["valid/fused/recall@10"] for row in rows]
    assert result["best_epoch"] == recalls.index(max(recalls)) + 1
    best = rows[result["best_epoch"] - 1]
    assert result["valid"] == {name.removeprefix("valid/"): value for name, value in best.items() if name.startswith("valid/")}
    assert result["best_epoch"] < result["epochs"] == 9
    # The weights of the best epoch give the ranks that were saved, and these the metrics.
    trainer = Trainer.load(load_config(args), ALONE)
    trainer.model.load_state_dict(load_tensors(folder / "best.safetensors")[0])
    ranks = trainer.rank("test")
    saved = load_tensors(folder / "ranks.safetensors")[0]
    for source, rank in ranks.items():
        np.testing.assert_array_equal(saved[f"test/{source}"], rank)
    np.testing.assert_array_equal(saved["test/target"], trainer.task.interactions.targets("test"))
    assert result["test"] == summarize(ranks)
    assert sum(group["users"] for group in result["test_groups"].values()) == trainer.task.interactions.num_users


def test_the_test_set_is_looked_at_once(arguments, monkeypatch):
    looks, rank = [], Trainer.rank
    monkeypatch.setattr(Trainer, "rank", lambda self, split, *catalogue: looks.append(split) or rank(self, split, *catalogue))
    train(load_config(arguments()))
    assert looks == ["valid"] * 3 + ["test"]


def test_a_test_curve_changes_nothing_else(arguments, tmp_path):
    plain = train(load_config(arguments()))
    curve = train(load_config(arguments("name=curve", "train.test_curve=true")))
    assert curve | {"seconds": 0} == plain | {"seconds": 0}
    rows = lines(tmp_path / "ring" / "curve")
    assert rows[curve["best_epoch"] - 1]["test/fused/recall@10"] == curve["test"]["fused/recall@10"]
    assert "test/fused/recall@10" not in lines(tmp_path / "ring" / "run")[0]


def test_the_command_prints_the_test_metrics(finished, capsys):
    args, folder = finished
    assert main([*args, "--resume"]) == 0
    result = json.loads((folder / "result.json").read_text())
    title, header, _, *rows = capsys.readouterr().out.splitlines()
    assert title == f"test metrics (31 users) of epoch {result['best_epoch']}, the best of 9 by validation recall@10:"
    assert header.split("|")[2].strip() == "recall@10"
    assert [row.split("|")[1].strip() for row in rows] == ["fused", "id", "text", "image", "most popular"]
    assert float(rows[0].split("|")[2]) == pytest.approx(result["test"]["fused/recall@10"], abs=1e-4)


def test_early_stopping(arguments):
    result = train(load_config(arguments("train.lr=1e-12", "train.epochs=9", "train.patience=2")))
    assert (result["best_epoch"], result["epochs"]) == (1, 3)


def test_a_finished_run_goes_on_to_more_epochs(arguments, tmp_path):
    """As if it had never stopped in between."""
    train(load_config(arguments("train.epochs=4")))
    train(load_config(arguments("train.epochs=2", "name=longer")))
    result = train(load_config(arguments("train.epochs=4", "name=longer")), resume=True)
    assert result["epochs"] == 4
    assert_same_run(tmp_path / "ring" / "run", tmp_path / "ring" / "longer")


def train_two_epochs_of(config: RunConfig, monkeypatch):
    """Stop a run once its second epoch has been kept."""
    keep = Run._keep

    def cut(run, metrics):
        keep(run, metrics)
        if run.progress.epoch == 2:
            raise PowerCutError

    with monkeypatch.context() as patch:
        patch.setattr(Run, "_keep", cut)
        with pytest.raises(PowerCutError):
            train(config)


def test_an_interrupted_run_may_end_earlier_and_is_tested(arguments, tmp_path, monkeypatch):
    train_two_epochs_of(load_config(arguments("train.epochs=9", "train.save_every=1epoch")), monkeypatch)
    with pytest.raises(InputError, match=r"train.epochs=9 \(now 1\)"):
        train(load_config(arguments("train.epochs=1", "train.save_every=1epoch")), resume=True)
    assert train(load_config(arguments("train.epochs=2")), resume=True)["epochs"] == 2
    train(load_config(arguments("train.epochs=2", "name=straight")))
    assert_same_run(tmp_path / "ring" / "run", tmp_path / "ring" / "straight")


@pytest.mark.parametrize("perfect", [False, True])
def test_a_run_that_is_no_better_than_what_is_popular_says_so(arguments, monkeypatch, caplog, perfect):
    def popular(task, split):
        ranks = most_popular(task, split)
        ranks[MOST_POPULAR][:] = 1 if perfect else 31
        return ranks

    monkeypatch.setattr("odmt.result.most_popular", popular)
    train(load_config(arguments("train.epochs=1")))
    assert ("recall@10 is no better than that of the most popular items" in caplog.text) == perfect


def test_a_schedule_goes_on_where_it_was(arguments, tmp_path, monkeypatch):
    schedule = ("train.epochs=4", "train.warm_up_epochs=1.5", "train.decay=cosine")
    train(load_config(arguments(*schedule)))
    stopped = load_config(arguments(*schedule, "name=stopped"))
    train_two_epochs_of(stopped, monkeypatch)
    train(stopped, resume=True)
    assert_same_run(tmp_path / "ring" / "run", tmp_path / "ring" / "stopped")


def test_a_run_is_not_continued_on_other_data(arguments, tmp_path):
    config = load_config(arguments("train.epochs=2"))
    train(config)
    before = (tmp_path / "ring" / "run" / "result.json").read_bytes()
    moved = tmp_path / "moved"
    shutil.copytree(config.data.folder, moved / "ring")
    items = moved / "ring" / "items.tsv"
    items.write_text("".join(reversed(items.read_text().splitlines(keepends=True))))
    longer = load_config(arguments("train.epochs=3", f"data.root={moved}"))
    with pytest.raises(InputError, match=r"last.safetensors: trained with other interactions \w+ \(now \w+\); bring that back "):
        train(longer, resume=True)
    assert (tmp_path / "ring" / "run" / "result.json").read_bytes() == before


TEXT_HEADER = Header("text", "random numbers", "none", "none", 12, 4, "none")  # of the ring


def write_text_features(folder: Path, header: Header, source: str):
    items = [str(item) for item in range(1, 32)]
    with FeatureWriter(folder, header) as writer:
        writer.add({item: np.ones((2, 12), np.float16) for item in items}, {item: Record(source) for item in items})


def test_a_run_is_not_continued_on_other_features(arguments, tmp_path):
    config = load_config(arguments("train.epochs=2"))
    train(config)
    noted = json.loads((config.folder / "environment.json").read_text())["encoders"]
    assert {modality: made["weights"] for modality, made in noted.items()} == {"text": "none", "image": "none"}
    moved = tmp_path / "moved"
    shutil.copytree(config.data.folder, moved / "ring")
    text = moved / "ring" / "features" / "text"
    shutil.rmtree(text)
    longer = load_config(arguments("train.epochs=3", f"data.root={moved}"))
    others = {"content": (TEXT_HEADER, "another text"), "features": (dataclasses.replace(TEXT_HEADER, weights="others"), "none")}
    for differing, (header, source) in others.items():
        write_text_features(text, header, source)
        with pytest.raises(InputError, match=rf"trained with other text {differing} \w+ \(now \w+\); bring that back"):
            train(longer, resume=True)
        shutil.rmtree(text)
    train(load_config(arguments("train.epochs=3")), resume=True)
    again = json.loads((config.folder / "environment.json").read_text())
    assert [start["encoders"] for start in (*again["before"], again)] == [noted, noted]


def test_an_existing_run_is_not_touched(finished):
    args, folder = finished
    before = {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in folder.iterdir()}
    with pytest.raises(InputError, match=r"holds a run already; continue it with resume=True, replace it with overwrite=True"):
        train(load_config(args))
    with pytest.raises(InputError, match=r"started with train.lr=0.03 \(now 0.02\); replace it with overwrite=True, or"):
        train(load_config([*args, "train.lr=0.02"]), resume=True)
    # Finished: there is nothing to do, even where the data is gone.
    result = train(load_config([*args, "data.root=/nowhere"]), resume=True)
    assert result == json.loads((folder / "result.json").read_text())
    assert {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in folder.iterdir()} == before


def test_overwrite_starts_anew(arguments, tmp_path):
    train(load_config(arguments("train.epochs=2", "train.seed=5")))
    old = tmp_path / "ring" / "run" / "old.safetensors"
    for path in (old, old.with_name("ranks.safetensors"), old.with_name("best.safetensors.partial")):
        path.write_text("left from before")
    train(load_config(arguments()), overwrite=True)
    train(load_config(arguments("name=fresh")))
    assert_same_run(tmp_path / "ring" / "run", tmp_path / "ring" / "fresh")
    assert old.read_text() == "left from before", "no run makes such a file, so none removes it"
    assert not old.with_name("best.safetensors.partial").exists()


def test_a_run_belongs_to_one_process_at_a_time(arguments, tmp_path):
    config = load_config(arguments())
    holder = RunFolder(config)
    holder.reserve()
    for flags in ({}, {"resume": True}, {"overwrite": True}):
        with pytest.raises(
            InputError, match=r"ring/run: another process trains this run; wait for it, end it, or set another name=run-2$"
        ):
            train(config, **flags)
    assert [path.name for path in config.folder.iterdir()] == ["lock"]
    holder.close()
    train(config)
    RunFolder(config).reserve()  # let go by the run that has ended


def test_a_run_that_came_while_the_data_was_read_is_not_touched(arguments, monkeypatch):
    load = Trainer.load
    other = load_config(arguments())

    def load_slowly(*args):
        monkeypatch.setattr(Trainer, "load", load)
        train(other)
        return load(*args)

    monkeypatch.setattr(Trainer, "load", load_slowly)
    with pytest.raises(InputError, match=r"ring/run: holds a run that was started with train.lr=0.003 \(now 0.1\)"):
        train(load_config(arguments("train.lr=0.1")))
    assert load_config([str(other.folder / "config.yaml")]) == other


def test_a_run_is_continued_with_the_model_that_it_began_with(arguments):
    def build(*args):
        return build_model(*args)

    train(load_config(arguments()), build=build)
    other = (
        r"trained with other model test_train.*build \(now odmt.sequential.task.build_model\); .* in Python alone, .* as build=$"
    )
    with pytest.raises(InputError, match=other):
        train(load_config(arguments("train.epochs=4")), resume=True)
    with pytest.raises(InputError, match=other):
        load_run(load_config(arguments()).folder)
    assert train(load_config(arguments("train.epochs=4")), resume=True, build=build)["epochs"] == 4
    assert load_run(load_config(arguments()).folder, build=build).user_ids


@pytest.mark.parametrize("tied", ["backbones", "embedding"])
def test_a_model_of_tied_weights_is_saved_and_continued(arguments, tmp_path, tied):
    """One module for two sources, or one table under two names: trained as one, and as one again after a resumption."""

    def build(*args):
        model = build_model(*args)
        if tied == "backbones":
            model.user_encoder.backbones["text"] = model.user_encoder.backbones["image"]
        else:
            first, second = (model.user_encoder.backbones[source].position for source in ("text", "image"))
            second.weight = first.weight
        return model

    train(load_config(arguments("name=straight")), build=build)
    train(load_config(arguments("train.epochs=1")), build=build)
    train(load_config(arguments()), resume=True, build=build)
    assert_same_run(tmp_path / "ring" / "run", tmp_path / "ring" / "straight")
    weights, _ = load_tensors(tmp_path / "ring" / "run" / "last.safetensors")
    part = "position.weight" if tied == "embedding" else ""
    names = [name for name in weights if name.startswith(f"model.user_encoder.backbones.text.{part}")]
    assert names
    for name in names:
        assert torch.equal(weights[name], weights[name.replace(".text.", ".image.")])


def test_an_interrupted_overwrite_continues_nothing(arguments, monkeypatch):
    config, unlink = load_config(arguments()), Path.unlink
    train(config)

    def stop_after_the_checkpoint(path, **options):
        unlink(path, **options)
        if path.name == "last.safetensors":
            raise PowerCutError

    monkeypatch.setattr(Path, "unlink", stop_after_the_checkpoint)
    with pytest.raises(PowerCutError):
        train(load_config(arguments("train.lr=0.1")), overwrite=True)
    assert (config.folder / "config.yaml").exists(), "the checkpoint goes first, the configuration last"


def test_a_folder_that_cannot_be_made(arguments, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"file/ring/run: cannot be written to \(.*\); set runs= to a folder that can"):
        train(load_config(arguments(f"runs={tmp_path / 'file'}")))


def test_what_limits_the_metrics_is_said():
    users = [[1, 2, 3, 1, 2], [1, 2, 3, 4, 5], [3, 1, 3, 1, 3]]
    flat, offsets = np.concatenate(users).astype(np.int32), np.arange(0, 16, 5)
    interactions = Interactions(["a", "b", "c"], list("vwxyz"), list("vwxyz"), flat, offsets, max_seq_len=12)
    said = [
        "2 of 3 test items stand in their user's own history, which is masked: they are misses",
        "no user has more than 5 interactions, though data.max_seq_len=12 uses 15: prepare.py --last 15 keeps older ones",
    ]
    assert remarks(interactions, cut=True) == said
    assert remarks(interactions, cut=False) == said[:1]
    enough = Interactions(["b"], list("vwxyz"), list("vwxyz"), flat[5:10], np.array([0, 5]), max_seq_len=2)
    assert remarks(enough, cut=True) == []


def test_seeds_make_runs(arguments, tmp_path):
    for name, seed in {"a": 1, "b": 1, "c": 2}.items():
        train(load_config(arguments(f"name={name}", f"train.seed={seed}")))
    assert_same_run(tmp_path / "ring" / "a", tmp_path / "ring" / "b")
    assert lines(tmp_path / "ring" / "a") != lines(tmp_path / "ring" / "c")


@pytest.mark.parametrize("placement", ["device", "disk"])
def test_where_features_live_makes_no_difference(arguments, tmp_path, placement):
    train(load_config(arguments()))
    train(load_config(arguments("name=other", f"data.placement={placement}")))
    assert_same_run(tmp_path / "ring" / "other", tmp_path / "ring" / "run")


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_trains_like_single(arguments, tmp_path, precision):
    train(load_config(arguments("model.dropout=0", "train.epochs=2")))
    train(load_config(arguments("model.dropout=0", "train.epochs=2", "name=half", f"train.precision={precision}")))
    for half, single in zip(lines(tmp_path / "ring" / "half"), lines(tmp_path / "ring" / "run"), strict=True):
        assert half["train/loss"] == pytest.approx(single["train/loss"], rel=0.02)
        assert half["train/loss"] != single["train/loss"]
    weights, progress = load_tensors(tmp_path / "ring" / "half" / "last.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {torch.float32}
    assert ("scale" in progress["scaler"]) == (precision == "fp16")


def test_logs_of_runs_in_one_process_are_kept_apart(arguments, tmp_path, caplog):
    caplog.set_level("INFO", "odmt")
    for name in ("a", "b"):
        train(load_config(arguments(f"name={name}")))
        assert (tmp_path / "ring" / name / "train.log").read_text().count("epoch 3/3") == 1
    assert (tmp_path / "ring" / "a" / "train.log").read_text().count("epoch 3/3") == 1


def test_a_loss_that_is_not_finite_stops_the_run(arguments, tmp_path):
    """The step, the batch and the losses are told, and the last good checkpoint stays as it is."""
    config = load_config(arguments())
    run = Run(Trainer.load(config, ALONE), RunFolder(config))
    run.folder.open(overwrite=False, provenance={})
    config.train.epochs = 1
    run.fit()
    last = tmp_path / "ring" / "run" / "last.safetensors"
    good = last.read_bytes()
    config.train.epochs = 3
    next(run.trainer.model.user_encoder.parameters()).data[:] = float("nan")
    expected = rf"epoch 2, step 1 of 4: the loss is not finite \(loss nan, .*ce_text .*\); users user\d+, .*checkpoint is {last}\."
    with pytest.raises(NonFiniteLossError, match=expected):
        run.fit()
    run.folder.close()
    assert last.read_bytes() == good


def test_weights_that_the_last_step_broke_are_not_saved(arguments, tmp_path):
    """One step an epoch: its loss is finite still."""
    config = load_config(arguments("train.batch_size=31", "train.lr=1e39"))
    with pytest.raises(
        NonFiniteLossError, match=r"epoch 1, after the last step: weights are not finite; there is no checkpoint yet"
    ):
        train(config)
    assert not (config.folder / "last.safetensors").exists()


def test_mistakes_and_failures_have_a_status_and_no_traceback(arguments, tmp_path):
    missing = arguments("data.dataset=none")
    diverging = arguments("train.lr=1e30", "train.clip_norm=1e30")
    with command(*missing) as mistake, command(*diverging) as failure:
        _, words = mistake.communicate()
        assert mistake.returncode == 2
        assert words.startswith(f"error: {missing[0].partition('=')[2]}/none: no such dataset; ")
        assert len(words.splitlines()) == 1
        assert not (tmp_path / "none").exists(), "nothing is written before the data is read"
        _, words = failure.communicate()
        assert failure.returncode == 1
        assert "failed: epoch 1, step 2 of 4: the loss is not finite" in words.splitlines()[-1]
        assert "Traceback" not in words


def test_missing_features_name_the_command(arguments, ring_root, tmp_path):
    shutil.copytree(ring_root, tmp_path / "data", ignore=shutil.ignore_patterns("image*"))
    with pytest.raises(InputError, match=r"ring: the dataset has no images; take a model without them, model.sources=\[id,text\]"):
        train(load_config(arguments(f"data.root={tmp_path / 'data'}")))
    (tmp_path / "data" / "ring" / "images").mkdir()
    with pytest.raises(InputError, match=r"features/image: the dataset has no image features; make them with: python scripts/"):
        train(load_config(arguments(f"data.root={tmp_path / 'data'}")))
    train(load_config(arguments(f"data.root={tmp_path / 'data'}", "model.sources=[id,text]", "model.id_init=text")))


def test_the_most_popular_items_are_the_baseline(finished):
    """Ranked as any model: by how often they occur in training, the history masked, ties at their mean place."""
    args, folder = finished
    task = Trainer.load(load_config(args), ALONE).task
    interactions, counts = task.interactions, task.interactions.train_counts()
    ranks = most_popular(task, "test")["most popular"]
    targets = interactions.targets("test")
    for user in range(interactions.num_users):
        history = interactions.histories(np.array([user]), "test")[0]
        others = np.setdiff1d(np.arange(1, interactions.num_items + 1), [*history, targets[user]])
        higher, equal = (counts[others] > counts[targets[user]]).sum(), (counts[others] == counts[targets[user]]).sum()
        assert ranks[user] == 1 + higher + equal / 2
    result = json.loads((folder / "result.json").read_text())
    assert result["most_popular"]["test"] == summarize({"most popular": ranks})
    assert result["test_users"] == interactions.num_users
    assert result["groups"].keys() >= result["test_groups"].keys()


def test_a_run_of_an_earlier_version_goes_on(arguments, tmp_path):
    """Its checkpoint calls the builder by its old place, and notes less."""
    train(load_config(arguments("train.epochs=2")))
    last = tmp_path / "ring" / "run" / "last.safetensors"
    tensors, progress = load_tensors(last)
    progress["basis"] |= {"model": "odmt.trainer.build_model"}
    del progress["task"], progress["basis"]["text features"]
    save_tensors(last, tensors, progress)
    assert train(load_config(arguments("train.epochs=3")), resume=True)["epochs"] == 3
