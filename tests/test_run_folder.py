"""A run's folder: what may be continued, what is noted, scalars for TensorBoard."""

import json
import subprocess
from pathlib import Path

import pytest

from odmt.config_files import flatten, load_config
from odmt.errors import InputError
from odmt.run_folder import FREE_KEYS, RunFolder, environment


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
    with pytest.raises(InputError, match=r"started with model.dim=768 \(now 64\), train.lr=0.5 \(now 0.0001\); --overwrite it"):
        folder("model.dim=64").check(resume=True, overwrite=False)
    folder("model.dim=64").check(resume=False, overwrite=True)


def test_continuing_and_replacing_are_not_asked_for_at_once(folder):
    with pytest.raises(InputError, match="--resume continues a run, --overwrite replaces it: give one of them"):
        folder().check(resume=True, overwrite=True)


def test_a_run_may_be_continued_for_more_epochs_but_not_for_fewer(folder):
    started = folder("train.epochs=5")
    started.open(overwrite=False, provenance={})
    started.write_result({"epochs": 5})
    started.close()
    folder("train.epochs=6").check(resume=True, overwrite=False)
    assert folder("train.epochs=5").result() == {"epochs": 5}
    assert folder("train.epochs=6").result() is None
    with pytest.raises(InputError, match=r"started with train.epochs=5 \(now 4\)"):
        folder("train.epochs=4").check(resume=True, overwrite=False)


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
