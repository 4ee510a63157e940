"""From the command to the first batch, with features that were extracted before."""

import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Literal

import numpy as np

from odmt.bench.measure import process_memory
from odmt.bench.results import Measurement, report
from odmt.bench.synthetic import COUNTS, Shape, synthetic_interactions, write_dataset
from odmt.distributed import World, choose_device
from odmt.sequential.config import Config, DataConfig, ModelConfig
from odmt.sequential.task import SequentialTask
from odmt.trainer import Trainer


def start(root: str, dim: str, placement: Literal["device", "pinned", "disk"], device: str):
    """Build a trainer of the dataset `bench` and its first batch; print RAM of the process's own in bytes, and the items."""
    world = World(0, 1, choose_device(device))
    config = Config(data=DataConfig(dataset="bench", root=root, placement=placement), model=ModelConfig(dim=int(dim)))
    trainer = Trainer.load(config, world)
    task = trainer.task
    assert isinstance(task, SequentialTask)
    next(task.build_batches([[np.arange(min(128, task.interactions.num_users))]]))
    print(process_memory("RssAnon"), task.interactions.num_items)


def startup(
    shape: Shape = "arts",
    dim: int = 128,
    repeats: int = 3,
    device: Literal["auto", "cuda", "cpu"] = "auto",
    json: Path | None = None,
):
    """Measure how long a run takes to start when the features are in the store and in the page cache.

    Every start is a process of its own, from the launch of the interpreter to the first batch on the device. There is no
    baseline: the official code extracts all features again. Memory is what the process has beside the store's mapped files.

    Args:
        shape: the dataset whose counts the random data have; 7 GB are written to a temporary folder for Arts.
        dim: model width D.
        repeats: starts with each placement of the features, in turn.
        device: where the run would compute.
        json: file for the numbers.
    """
    where = choose_device(device)
    placements = ["disk", "device", "pinned"] if where.type == "cuda" else ["disk", "device"]
    measurements = {
        placement: Measurement(
            f"startup, {placement}", {"shape": shape, "dim": dim, "repeats": repeats, "device": device, "placement": placement}, []
        )
        for placement in placements
    }
    with tempfile.TemporaryDirectory() as root:
        write_dataset(Path(root) / "bench", synthetic_interactions(COUNTS[shape]))
        for _ in range(repeats):
            for placement, measurement in measurements.items():
                measure(measurement, root, dim, placement, device)
    report(list(measurements.values()), json)


def measure(measurement: Measurement, root: str, dim: int, placement: str, device: str):
    """Add one start to a measurement."""
    program = "import sys; from odmt.bench.startup import start; start(*sys.argv[1:])"
    command = [sys.executable, "-c", program, root, str(dim), placement, device]
    started = time.perf_counter()
    printed = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    measurement.seconds.append(time.perf_counter() - started)
    own_bytes, items = map(int, printed.split())
    measurement.peak_bytes = own_bytes
    measurement.work = {"items": items}
