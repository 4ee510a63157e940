"""Measure this package against the official way of computing: `python scripts/bench.py train-step --help`."""

from collections.abc import Callable

from odmt.bench.epoch import epoch
from odmt.bench.evaluate import evaluate
from odmt.bench.features import features
from odmt.bench.gpu_report import gpu_report
from odmt.bench.graph_evaluate import graph_evaluate
from odmt.bench.graph_scaling import graph_scaling
from odmt.bench.graph_step import graph_step
from odmt.bench.kernels import kernels
from odmt.bench.prepare import prepare
from odmt.bench.scaling import scaling
from odmt.bench.startup import startup
from odmt.bench.train_step import train_step
from odmt.cli import run

COMMANDS: dict[str, Callable] = {
    "train-step": train_step,
    "evaluate": evaluate,
    "epoch": epoch,
    "features": features,
    "startup": startup,
    "kernels": kernels,
    "gpu-report": gpu_report,
    "scaling": scaling,
    "prepare": prepare,
    "graph-step": graph_step,
    "graph-evaluate": graph_evaluate,
    "graph-scaling": graph_scaling,
}

if __name__ == "__main__":
    run(COMMANDS)
