"""What trackers are told, read back by their own libraries, without any network."""

import importlib.util
import os
from pathlib import Path

import pytest

from odmt.config_files import load_config
from odmt.errors import InputError
from odmt.trackers import check_tracker
from odmt.train import train


@pytest.fixture
def followed(arguments, monkeypatch):
    """The function that trains two epochs under a tracker; returns the run's folder and its result."""
    monkeypatch.setenv("WANDB_MODE", "offline")

    def followed(tracker: str) -> tuple[Path, dict]:
        config = load_config(arguments(f"train.tracker={tracker}", "train.epochs=2"))
        return config.folder, train(config)

    return followed


def test_tensorboard_has_epochs_a_picture_and_settings(followed):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    folder, result = followed("tensorboard")
    events = accumulator.EventAccumulator(str(folder / "tensorboard")).Reload()
    assert [event.step for event in events.Scalars("valid/fused/recall@10")] == [1, 2]
    assert events.Scalars("test/fused/recall@10")[0].value == pytest.approx(result["test"]["fused/recall@10"])
    assert events.Tags()["images"] == ["training_curve"]
    assert "_hparams_/session_start_info" in events.summary_metadata, "HParams compares the runs of a grid by it"


def test_mlflow_has_epochs_and_settings(followed):
    mlflow = pytest.importorskip("mlflow")
    folder, result = followed("mlflow")
    (run,) = mlflow.MlflowClient().search_runs([mlflow.get_experiment_by_name("ring").experiment_id])
    assert run.data.params["model.dim"] == "8"
    assert run.data.metrics["test/fused/recall_at_10"] == pytest.approx(result["test"]["fused/recall@10"])
    history = mlflow.MlflowClient().get_metric_history(run.info.run_id, "valid/fused/recall_at_10")
    assert [point.step for point in history] == [1, 2]
    assert not (folder / "tensorboard").exists()
    (picture,) = Path(folder.parents[1], "mlruns").rglob("training_curve.png")
    assert run.info.artifact_uri == picture.parent.absolute().as_uri(), "nothing lies where the command was typed"


def test_wandb_works_offline(followed):
    pytest.importorskip("wandb")
    folder, _ = followed("wandb")
    assert list((folder.parents[1] / "wandb").glob("offline-run-*/*.wandb"))


def test_nothing_is_tracked_if_not_wanted(followed):
    folder, _ = followed("none")
    assert not (folder / "tensorboard").exists()


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_tracker_that_is_not_installed_is_named_before_training(name, arguments):
    if importlib.util.find_spec(name):
        pytest.skip(f"{name} is installed")
    with pytest.raises(InputError, match=f"train.tracker={name}: {name} is not installed; pip install"):
        train(load_config(arguments(f"train.tracker={name}")))
    check_tracker("none")
    assert os.environ.get("MLFLOW_TRACKING_URI") is None
