"""Ranking all users of a graph dataset: held-out items by counting, against lists that are walked through user by user."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from odmt.bench.graph_data import SHAPES, GraphData, GraphShape, HostName, random_graph
from odmt.bench.graph_official_ranking import LENGTH, RECALLS
from odmt.bench.measure import CLOCKS, compare
from odmt.bench.results import report
from odmt.distributed import World, choose_device
from odmt.graph.models.host import Host
from odmt.metrics import summarize
from odmt.ranking import ScoreBlock, rank_held_out

USERS = 512  # users that are scored at a time


@dataclass
class Data:
    """What both sides rank.

    Attributes:
        graph: users, their train items and their held-out ones.
        scores: [U, N], which neither side changes.
        evaluator: whose official one the baseline is.
        device: where both compute.
    """

    graph: GraphData
    scores: Tensor
    evaluator: HostName
    device: torch.device

    @property
    def work(self) -> dict[str, float]:
        """Users of a ranking."""
        return {"users": self.graph.counts.users}


def make(evaluator: HostName, shape: GraphShape, dim: int, device: str) -> Data:
    """Make a random dataset and the scores of a GRCN on it."""
    graph, where = random_graph(SHAPES[shape]), choose_device(device)
    scores = graph.host("grcn", dim).to(where).scores(torch.arange(graph.counts.users))
    return Data(graph, scores, evaluator, where)


def score_blocks(host: Host, num_users: int) -> Iterator[ScoreBlock]:
    """The scores of all users."""
    for users in torch.arange(num_users).split(USERS):
        yield ScoreBlock(users.numpy(), {"fused": host.scores(users.to(next(host.parameters()).device))})


def recall_of(data: Data) -> float:
    """Rank and evaluate all users the package's way."""
    blocks = (ScoreBlock(users.numpy(), {"fused": data.scores[users]}) for users in torch.arange(len(data.scores)).split(USERS))
    ranks = rank_held_out(blocks, data.graph.held_out, data.graph.seen.of, World(0, 1, data.device))
    return summarize(ranks, offsets=data.graph.held_out.offsets)[f"fused/recall@{LENGTH}"]


def official_recall_of(data: Data) -> float:
    """The same the official way."""
    return RECALLS[data.evaluator](data.scores, data.graph.seen, data.graph.held_out)


def odmt(data: Data) -> Callable[[int], object]:
    """The package's ranking of all users."""
    return lambda repeat: recall_of(data)


def official(data: Data) -> Callable[[int], object]:
    """The official code's."""
    return lambda repeat: official_recall_of(data)


def graph_evaluate(
    evaluator: HostName = "grcn",
    shape: GraphShape = "sgfd-office",
    dim: int = 128,
    repeats: int = 5,
    device: Literal["auto", "cuda", "cpu"] = "auto",
    clock: Literal["wall", "cpu"] = "wall",
    json: Path | None = None,
):
    """Compare the ranking of all users with an official evaluator's loops over users, from the scores of an epoch to its metrics.

    Args:
        evaluator: whose loops: `bm3` (twice an epoch), `grcn` (three times: train items too) or `maml` (once, with an AUC).
        shape: the dataset whose counts the random data have.
        dim: width D of the GRCN that has scored.
        repeats: rankings of each side, in turn.
        device: where both compute.
        clock: `cpu` adds up the seconds of all threads, which others on the machine disturb less (with OMP_NUM_THREADS=1: threads
            that wait for one another count too).
        json: file for the numbers.
    """
    settings = {"evaluator": evaluator, "shape": shape, "dim": dim, "device": device}
    measurement = compare(f"graph-evaluate {evaluator}", settings, make, (odmt, official), repeats, clock=CLOCKS[clock])
    measurement.settings |= {"clock": clock}
    report([measurement], json)
