"""A run's folder: what may be continued, what is noted, scalars for TensorBoard."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from odmt.config_files import flatten, load_config
from odmt.environment import environment
from odmt.errors import InputError
from odmt.run_folder import FILES, FREE_KEYS, RunFolder


@pytest.fixture
def folder(tmp_path):
    """The function that makes the run folder of a configuration."""
    return lambda *overrides: RunFolder(load_config([f"runs={tmp_path}", *overrides]))


def test_a_new_folder_is_free(folder, tmp_path):
    folder().check(resume=False, overwrite=False)
    folder().check(resume=True, overwrite=False)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("key", ["data.placement=disk", "train.device=cpu", "data.root=moved"])
def test_a_run_may_be_continued_in_another_place(folder, key):
    started = folder()
    started.open(overwrite=False, provenance={})
    started.close()
    assert key.partition("=")[0] in FREE_KEYS
    folder(key).check(resume=True, overwrite=False)


def test_a_run_is_not_continued_with_other_settings(folder):
    started = folder("train.lr=0.5")
    started.open(overwrite=False, provenance={})
    started.close()
    with pytest.raises(InputError, match=r"768 \(now 64\), train.lr=0.5 \(now 0.0001\); replace it with overwrite=True, or"):
        folder("model.dim=64").check(resume=True, overwrite=False)
    folder("model.dim=64").check(resume=False, overwrite=True)


def test_continuing_and_replacing_are_not_asked_for_at_once(folder):
    with pytest.raises(InputError, match="resume=True continues a run, overwrite=True replaces it: give one of them"):
        folder().check(resume=True, overwrite=True)


def test_a_run_may_be_continued_for_more_epochs_but_not_for_fewer_than_it_has(folder):
    started = folder("train.epochs=5")
    started.open(overwrite=False, provenance={})
    started.write_metrics([{"epoch": epoch} for epoch in range(1, 6)])
    started.write_result({"epochs": 5})
    started.close()
    folder("train.epochs=6").check(resume=True, overwrite=False)
    assert folder("train.epochs=5").result() == {"epochs": 5}
    assert folder("train.epochs=6").result() is None
    with pytest.raises(InputError, match=r"started with train.epochs=5 \(now 4\)"):
        folder("train.epochs=4").check(resume=True, overwrite=False)


def test_a_run_whose_steps_shrink_to_its_end_has_that_end(folder):
    started = folder("train.epochs=5", "train.decay=cosine")
    started.open(overwrite=False, provenance={})
    started.close()
    with pytest.raises(InputError, match=r"started with train.epochs=5 \(now 6\)"):
        folder("train.epochs=6", "train.decay=cosine").check(resume=True, overwrite=False)


def test_free_keys_exist():
    assert dict(flatten(load_config([]))).keys() >= FREE_KEYS


def test_metrics_are_written_anew(folder):
    run = folder()
    run.open(overwrite=False, provenance={})
    run.close()
    run.write_metrics([{"epoch": 1, "train/loss": 0.5}])
    run.write_metrics([{"epoch": 1, "train/loss": 0.5}, {"epoch": 2, "train/loss": 0.25}])
    rows = [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]
    assert rows == [{"epoch": 1, "train/loss": 0.5}, {"epoch": 2, "train/loss": 0.25}]
    assert run.result() is None
    run.write_result({"epochs": 2})
    assert run.result() == {"epochs": 2}


def test_environment_names_the_commit():
    noted = environment()
    assert {"odmt", "torch", "numpy"} <= noted["packages"].keys()
    root = Path(__file__).parents[1]
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=root, capture_output=True, text=True)
    if head.returncode == 0:
        assert noted["commit"].removesuffix("-dirty") == head.stdout.strip()
    else:
        assert noted["commit"] is None


def test_tensorboard_scalars(folder):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    # The second epoch was killed before its checkpoint, and comes again.
    for epochs in [(1, 0.5), (2, 0.75)], [(2, 0.25)]:
        run = folder()
        for epoch, value in epochs:
            run.write_scalars(epoch, {"valid/fused/recall@10": value})
        run.close()
    assert len(list((run.path / "tensorboard").iterdir())) == 2  # a file for every start, not for every epoch
    events = accumulator.EventAccumulator(str(run.path / "tensorboard")).Reload()
    scalars = events.Scalars("valid/fused/recall@10")
    assert [(scalar.step, scalar.value) for scalar in scalars] == [(1, 0.5), (2, 0.25)]


@pytest.mark.parametrize("foreign", ["dataset", "runs", "notes"])
@pytest.mark.parametrize("overwrite", [False, True])
def test_a_folder_that_holds_no_run_is_left_as_it_is(folder, tmp_path, foreign, overwrite):
    """Whatever it holds: a dataset, other runs, notes of somebody."""
    run = folder()
    inside = {"dataset": "items.tsv", "runs": "a/config.yaml", "notes": "notes.txt"}[foreign]
    (run.path / inside).parent.mkdir(parents=True)
    (run.path / inside).write_text("mine")
    with pytest.raises(InputError, match=r"holds (items.tsv|a|notes.txt) and no run \(config.yaml\), so nothing is written there"):
        run.check(resume=False, overwrite=overwrite)
    assert (run.path / inside).read_text() == "mine"


def test_a_config_yaml_of_something_else_is_not_overwritten(folder):
    run = folder()
    run.path.mkdir(parents=True)
    (run.path / "config.yaml").write_text("architectures: [BertModel]\n")
    with pytest.raises(
        InputError, match=r"config.yaml: not the configuration of a run, so nothing is continued, and overwrite=True removes"
    ):
        run.check(resume=False, overwrite=True)


def test_overwriting_removes_what_a_run_makes_and_nothing_else(folder):
    run = folder()
    run.open(overwrite=False, provenance={})
    run.close()
    theirs = {"notes.txt", "figures", "model.safetensors"}
    for name in [*FILES, *(f"{name}.partial" for name in FILES), ".tmpAb12Cd", *theirs - {"figures"}]:
        if name != "config.yaml":
            (run.path / name).write_text("x")
    (run.path / "figures").mkdir()
    (run.path / "tensorboard").mkdir()
    (run.path / "tensorboard" / "events.out.tfevents.1").write_text("x")
    (run.path / "tensorboard" / "mine").write_text("x")
    again = folder("train.lr=0.5")
    again.check(resume=False, overwrite=True)
    again.open(overwrite=True, provenance={})
    again.close()
    made = {"config.yaml", "environment.json", "train.log", "lock"}
    assert {path.name for path in run.path.iterdir()} == made | theirs | {"tensorboard"}
    assert [path.name for path in (run.path / "tensorboard").iterdir()] == ["mine"]


def test_a_run_does_not_lie_in_the_dataset(tmp_path):
    (tmp_path / "demo").mkdir()
    config = load_config([f"runs={tmp_path}", f"data.root={tmp_path}/../{tmp_path.name}"])
    with pytest.raises(InputError, match=r"demo/odmt: lies in the dataset; set runs= to another folder than data.root"):
        RunFolder(config).check(resume=False, overwrite=False)


@pytest.mark.parametrize("content", [b"", b'{"epochs": 5', b"\xff\xfe", b"[1]", b"9" * 5000, b"[" * 100_000])
def test_a_damaged_result_is_named_with_a_remedy(folder, content):
    run = folder()
    run.open(overwrite=False, provenance={})
    run.close()
    (run.path / "result.json").write_bytes(content)
    with pytest.raises(InputError, match=r"result.json: .*; remove it, and resume=True tests the run again"):
        run.result()


@pytest.mark.parametrize("content", [b"", b'{"before"', b"\xff", b"[]", b'{"before": 3}'])
def test_a_damaged_environment_is_written_anew(folder, content, caplog):
    run = folder()
    run.path.mkdir(parents=True)
    (run.path / "environment.json").write_bytes(content)
    run.open(overwrite=False, provenance={"encoders": {}})
    run.close()
    assert "environment.json: written anew, what it said of earlier starts is lost" in caplog.text
    assert json.loads((run.path / "environment.json").read_text())["encoders"] == {}


def test_a_run_of_another_seed_is_proposed_a_name(folder):
    started = folder()
    started.open(overwrite=False, provenance={})
    started.close()
    words = r"holds a run that was started with train.seed=1 \(now 2\); replace it with overwrite=True, or set another "
    with pytest.raises(InputError, match=rf"odmt: {words}name=odmt,seed-2$"):
        folder("train.seed=2").check(resume=False, overwrite=False)
    with pytest.raises(InputError, match=r"set another name=odmt,lr-0.001,seed-2$"):
        folder("train.seed=2", "train.lr=1e-3").check(resume=True, overwrite=False)
    again = r"holds a run already; continue it with resume=True, replace it with overwrite=True, or set another "
    for same in ([], ["train.device=cpu"], ["train.epochs=99"]):
        with pytest.raises(InputError, match=rf"{again}name=odmt-2$"):
            folder(*same).check(resume=False, overwrite=False)
    folder("name=odmt-2").path.mkdir()
    with pytest.raises(InputError, match=rf"{again}name=odmt-3$"):
        folder().check(resume=False, overwrite=False)


@pytest.mark.parametrize("resume", [False, True])
def test_a_run_whose_settings_are_unknown_here_is_not_said_to_go_on(folder, resume):
    started = folder()
    started.open(overwrite=False, provenance={})
    started.close()
    with (started.path / "config.yaml").open("a") as file:
        file.write("earlier: 1\n")
    with pytest.raises(InputError, match=r"'earlier'.*; the run there cannot be continued: replace it with over.*name=odmt-2$"):
        folder().check(resume=resume, overwrite=False)
    folder().check(resume=False, overwrite=True)


def test_a_run_goes_on_where_its_folder_lies_now(folder, tmp_path):
    started = folder()
    started.open(overwrite=False, provenance={})
    started.close()
    shutil.copytree(started.path, started.path.with_name("copy"))
    shutil.copytree(started.path, tmp_path / "elsewhere" / "demo" / "mine")
    shutil.copytree(started.path, tmp_path / "archive" / "mine")
    assert load_config([str(started.path / "config.yaml")]).folder == started.path
    for lies in (started.path.with_name("copy"), tmp_path / "elsewhere" / "demo" / "mine"):
        moved = RunFolder(load_config([str(lies / "config.yaml")]))
        assert moved.path == lies
        moved.check(resume=True, overwrite=False)
    named = load_config([str(started.path.with_name("copy") / "config.yaml"), "name=third"])
    assert named.folder == started.path.with_name("third")
    with pytest.raises(InputError, match=r"its run began in .*/demo/odmt and .*: move it to .*/archive/demo/mine"):
        load_config([str(tmp_path / "archive" / "mine" / "config.yaml")])
