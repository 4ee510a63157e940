"""Everything that BENCHMARKS.md wants to know of a card, in one call."""

import platform
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from odmt.bench import epoch as whole_epoch
from odmt.bench import train_step
from odmt.bench.measure import compare, in_fresh_process, memory_peak, timed
from odmt.bench.results import Measurement, to_markdown
from odmt.bench.synthetic import Shape
from odmt.bench.trainers import InMemoryTrainer
from odmt.distributed import choose_device
from odmt.files import write_text


def measure_epoch(shape: Shape, dim: int, batch: int, precision: Literal["fp32", "bf16"], device: str) -> dict[str, Any]:
    """Train an epoch in some type, then rank validation and test; to be called in a process of its own."""
    data = whole_epoch.make(shape, dim, batch, device)
    data.config.train = replace(data.config.train, precision=precision)
    trainer = InMemoryTrainer(data)
    trainer.step(np.arange(4))  # what is made once
    losses: dict[str, float] = {}
    train_seconds = timed(lambda: losses.update(trainer.train_epoch(1)), data.device)

    def rank():
        scorer = trainer.task.scorer()
        for split in ("valid", "test"):
            trainer.rank(split, scorer)

    rank_seconds = timed(rank, data.device)
    return {
        "epoch in": precision,
        "training s": train_seconds,
        "validation and test s": rank_seconds,
        "step ms": 1000 * trainer.speed["step_seconds"],
        "of it waiting ms": 1000 * trainer.speed["wait_seconds"],
        "items/s": trainer.speed["items_over_seconds"],
        "tokens/s": trainer.speed["tokens_over_seconds"],
        "FLOPs utilisation": trainer.speed.get("flops_utilisation"),
        "peak GB": memory_peak(data.device) / 1e9,
        "loss": losses["loss"],
    }


def gpu_report(
    shape: Shape = "arts",
    dim: int = 768,
    batch: int = 128,
    repeats: int = 5,
    device: Literal["cuda", "cpu"] = "cuda",
    out: Path = Path("gpu-report.md"),
):
    """Measure a card: a training step against the official way, and an epoch with its rankings in bf16 and in float32.

    The file that it writes is the section of BENCHMARKS.md that is missing; send it with an issue or a pull request.

    Args:
        shape: the dataset whose counts and distributions the random data have; features of all its items are made, 7 GB for Arts.
        dim: model width D.
        batch: users of a step.
        repeats: steps of each side, in turn.
        device: where it computes; `cpu` only tries the command.
        out: Markdown file for the report, which is printed too.
    """
    where = choose_device(device)
    card = torch.cuda.get_device_name(where) if where.type == "cuda" else "no GPU"
    settings = {"shape": shape, "dim": dim, "batch": batch, "repeats": repeats, "device": device}
    step: Measurement = compare("train-step", settings, train_step.make, (train_step.odmt, train_step.official), repeats)
    epochs = [in_fresh_process(measure_epoch, shape, dim, batch, precision, device) for precision in ("bf16", "fp32")]
    half, single = (row["loss"] for row in epochs)
    command = " ".join(f"--{name} {value}" for name, value in settings.items())
    text = "\n\n".join(
        [
            f"## {date.today()}, {card}, PyTorch {torch.__version__}, CUDA {torch.version.cuda}, {platform.processor() or 'CPU'}",
            f"`python scripts/bench.py gpu-report {command}`",
            to_markdown(step.rows()),
            to_markdown(epochs),
            f"The loss of the first epoch in bf16 is {half / single - 1:+.2%} off that in float32 (aim: within 1 %).",
        ]
    )
    print(text)
    write_text(out, text + "\n")
