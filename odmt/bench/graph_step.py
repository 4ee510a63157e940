"""One training step of a recommender on the graph: from a batch of pairs to the new weights."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from odmt.bench.graph_data import SHAPES, GraphShape, HostName, random_graph
from odmt.bench.graph_official import OFFICIAL
from odmt.bench.measure import CLOCKS, compare
from odmt.bench.results import report
from odmt.distributed import choose_device
from odmt.features.items import to_device
from odmt.graph.models.host import Host
from odmt.graph.sampling import PairBatch

LR = 1e-3


@dataclass
class Data:
    """What both sides train.

    Attributes:
        host: with SGFD; copied by both.
        batches: of each repeat.
        edges: E.
        device: where both compute.
    """

    host: Host
    batches: list[PairBatch]
    edges: int
    device: torch.device

    @property
    def work(self) -> dict[str, float]:
        """Pairs of a step, its distinct items (with the negatives) as a mean over the repeats, and the edges of the graph."""
        items = [len(items_of(batch).unique()) for batch in self.batches]
        return {"pairs": len(self.batches[0].users), "items": float(np.mean(items)), "edges": self.edges}


def items_of(batch: PairBatch) -> Tensor:
    """The items of a batch, positives and negatives."""
    return batch.positives if batch.negatives is None else torch.cat([batch.positives, batch.negatives.flatten()])


def make(host: HostName, shape: GraphShape, dim: int, repeats: int, device: str) -> Data:
    """Make a random dataset, a host on it, and its batches."""
    where, graph = choose_device(device), random_graph(SHAPES[shape])
    batches = [to_device(batch, where, torch.float32) for batch, _ in zip(graph.sampler(host).epoch(1), range(repeats))]
    return Data(graph.host(host, dim).to(where), batches, len(graph.users), where)


def odmt(data: Data) -> Callable[[int], None]:
    """The package's step."""
    host = data.host
    optimizer = torch.optim.Adam(host.parameters(), LR, fused=True)
    return _steps(lambda batch: host(batch, 1)["loss"], optimizer, host, data)


def official(data: Data) -> Callable[[int], None]:
    """The official code's step."""
    model = OFFICIAL[type(data.host)](data.host)
    return _steps(model, torch.optim.Adam(model.parameters(), LR), model.host, data)


def _steps(
    loss_of: Callable[[PairBatch], Tensor] | nn.Module, optimizer: torch.optim.Optimizer, host: Host, data: Data
) -> Callable[[int], None]:
    def run(repeat: int):
        optimizer.zero_grad()
        loss_of(data.batches[repeat % len(data.batches)]).backward()
        optimizer.step()
        host.after_step()

    run(0)  # makes the optimizer's state and the threads
    return run


def graph_step(
    host: HostName = "grcn",
    shape: GraphShape = "sgfd-office",
    dim: int = 128,
    repeats: int = 5,
    device: Literal["auto", "cuda", "cpu"] = "auto",
    clock: Literal["wall", "cpu"] = "wall",
    json: Path | None = None,
):
    """Compare a training step of BM3, GRCN or MAML with SGFD with the official code's way of computing it.

    Batches are of the official size; both sides train the same parameters, all of them.

    Args:
        host: the recommender.
        shape: the dataset whose counts the random data have.
        dim: width D.
        repeats: steps of each side, in turn.
        device: where both compute.
        clock: `cpu` adds up the seconds of all threads, which others on the machine disturb less (with OMP_NUM_THREADS=1: threads
            that wait for one another count too).
        json: file for the numbers.
    """
    settings = {"host": host, "shape": shape, "dim": dim, "repeats": repeats, "device": device}
    measurement = compare(f"graph-step {host}", settings, make, (odmt, official), repeats, {"repeats": 1}, CLOCKS[clock])
    measurement.settings |= {"clock": clock}
    report([measurement], json)
