"""Where a run's numbers are followed beside its own files: TensorBoard, Weights & Biases or MLflow, through their own libraries.

Each is an optional extra. What they keep lies beside the run: RUN/tensorboard, RUNS/wandb, RUNS/mlruns, unless the library's own
settings (WANDB_MODE, WANDB_DIR, MLFLOW_TRACKING_URI) say otherwise.
"""

import importlib
import importlib.util
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from odmt.config import RunConfig
from odmt.config_files import flatten
from odmt.errors import InputError

SCALARS = "tensorboard"  # the folder in a run's


class Tracker(ABC):
    """What is told of a run.

    Args:
        config: the run.
        first_epoch: the epoch with which it begins or goes on.
    """

    @abstractmethod
    def __init__(self, config: RunConfig, first_epoch: int):
        """Begin, or go on."""

    @abstractmethod
    def epoch(self, number: int, metrics: Mapping[str, float]):
        """Take the metrics of an epoch."""

    @abstractmethod
    def finish(self, test: Mapping[str, float], pictures: Mapping[str, Path]):
        """Take the test metrics and the pictures of a finished run."""

    @abstractmethod
    def close(self):
        """Let the run go."""


class TensorBoard(Tracker):
    """Scalars, a picture, and settings with test metrics for the HParams page, where the runs of a grid stand side by side."""

    def __init__(self, config: RunConfig, first_epoch: int):
        from torch.utils.tensorboard import SummaryWriter

        self.config = config
        self._writer = SummaryWriter(config.folder / SCALARS, purge_step=first_epoch)

    def epoch(self, number: int, metrics: Mapping[str, float]):
        """Take the metrics of an epoch."""
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, number)
        self._writer.flush()

    def finish(self, test: Mapping[str, float], pictures: Mapping[str, Path]):
        """Take the test metrics and the pictures of a finished run."""
        for name, path in pictures.items():
            with Image.open(path) as image:
                self._writer.add_image(name, np.asarray(image.convert("RGB")), dataformats="HWC")
        settings = {key: value if isinstance(value, (int, float, str)) else str(value) for key, value in flatten(self.config)}
        self._writer.add_hparams(settings, {f"test/{name}": value for name, value in test.items()}, run_name=".")
        self._writer.flush()

    def close(self):
        """Close the file."""
        self._writer.close()


class WeightsAndBiases(Tracker):
    """A run of the project `odmt`; without an account or a network with WANDB_MODE=offline, `wandb sync` uploads it later."""

    def __init__(self, config: RunConfig, first_epoch: int):
        self._library = importlib.import_module("wandb")
        self._run = self._library.init(
            project=os.environ.get("WANDB_PROJECT", "odmt"),
            dir=os.environ.get("WANDB_DIR", config.runs),
            name=config.name,
            group=config.data.dataset,
            config=dict(flatten(config)),
            settings=self._library.Settings(console="off"),
        )

    def epoch(self, number: int, metrics: Mapping[str, float]):
        """Take the metrics of an epoch."""
        self._run.log(dict(metrics), step=number)

    def finish(self, test: Mapping[str, float], pictures: Mapping[str, Path]):
        """Take the test metrics and the pictures of a finished run."""
        self._run.log({name: self._library.Image(str(path)) for name, path in pictures.items()})
        self._run.summary.update({f"test/{name}": value for name, value in test.items()})

    def close(self):
        """End the run."""
        self._run.finish()


class MLflow(Tracker):
    """A run of the experiment that is named after the dataset. (MLflow has no @ in names: recall@10 is recall_at_10.)"""

    def __init__(self, config: RunConfig, first_epoch: int):
        self._library = importlib.import_module("mlflow")
        if not os.environ.get("MLFLOW_TRACKING_URI"):
            place = Path(config.runs, "mlruns").absolute()
            place.mkdir(parents=True, exist_ok=True)
            self._library.set_tracking_uri(f"sqlite:///{place / 'mlflow.db'}" if _has("sqlalchemy") else place.as_uri())
            if self._library.get_experiment_by_name(config.data.dataset) is None:  # else pictures go to ./mlruns, wherever that is
                self._library.create_experiment(config.data.dataset, (place / config.data.dataset).as_uri())
        self._library.set_experiment(config.data.dataset)
        self._library.start_run(run_name=config.name)
        self._library.log_params(dict(flatten(config)))

    def epoch(self, number: int, metrics: Mapping[str, float]):
        """Take the metrics of an epoch."""
        self._library.log_metrics({name.replace("@", "_at_"): value for name, value in metrics.items()}, step=number)

    def finish(self, test: Mapping[str, float], pictures: Mapping[str, Path]):
        """Take the test metrics and the pictures of a finished run."""
        self._library.log_metrics({f"test/{name.replace('@', '_at_')}": value for name, value in test.items()})
        for path in pictures.values():
            self._library.log_artifact(str(path))

    def close(self):
        """End the run."""
        self._library.end_run()


TRACKERS: dict[str, Callable[[RunConfig, int], Tracker]] = {"tensorboard": TensorBoard, "wandb": WeightsAndBiases, "mlflow": MLflow}


def check_tracker(name: str):
    """Refuse a tracker whose library is not there; without TensorBoard, which is the default, nothing is tracked.

    Raises:
        InputError: with the command that installs it.
    """
    if name in ("wandb", "mlflow") and not _has(name):
        raise InputError(f"train.tracker={name}: {name} is not installed; pip install {name}, or take train.tracker=none")


def open_tracker(config: RunConfig, first_epoch: int) -> Tracker | None:
    """Open what the configuration names; None: nothing."""
    name = config.train.tracker
    if name == "none" or not _has(name):
        return None
    return TRACKERS[name](config, first_epoch)


def _has(library: str) -> bool:
    return importlib.util.find_spec(library) is not None
