"""What an epoch and an evaluation of a recommender on the graph cost as the users grow."""

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from tqdm import tqdm

from odmt.bench.graph_data import GraphCounts, GraphData, HostName, random_graph
from odmt.bench.graph_evaluate import score_blocks
from odmt.bench.measure import CLOCKS, in_fresh_process, memory_now, memory_peak, reset_peak, timed
from odmt.bench.results import Measurement, print_table, write_json
from odmt.distributed import World, choose_device
from odmt.features.items import to_device
from odmt.graph.models.host import Host
from odmt.ranking import rank_held_out

ITEMS = 5_000
PAIRS_A_USER = 8
STEPS = 37  # of an epoch, as many as Office has: what a batch is grows with the pairs


@dataclass
class Point:
    """What was measured of a number of users.

    Attributes:
        users: U.
        edges: E.
        steps: seconds of every step.
        train_bytes: memory of training beyond the dataset, at most.
        evaluate_seconds: of ranking all users.
        evaluate_bytes: memory of that beyond the tables of users and items, at most.
    """

    users: int
    edges: int
    steps: list[float]
    train_bytes: int
    evaluate_seconds: float
    evaluate_bytes: int

    @property
    def epoch(self) -> float:
        """Seconds of an epoch: the median step as often as there are steps."""
        return STEPS * statistics.median(self.steps)

    def row(self) -> dict[str, Any]:
        """The line of the printed table."""
        return {
            "users": self.users,
            "edges": self.edges,
            "batch": self.edges // STEPS,
            "step s": statistics.median(self.steps),
            "epoch s": self.epoch,
            "epoch, us an edge": self.epoch / self.edges * 1e6,
            "training, peak MB": self.train_bytes / 1e6,
            "evaluation s": self.evaluate_seconds,
            "evaluation, us a user": self.evaluate_seconds / self.users * 1e6,
            "evaluation, peak MB": self.evaluate_bytes / 1e6,
        }


def measure(host: HostName, users: int, dim: int, repeats: int, device: str, clock: str) -> Point:
    """Train some steps, then rank all users; to be called in a process of its own."""
    where = choose_device(device)
    counts = GraphCounts(users, ITEMS, PAIRS_A_USER * users, users, 10, {"image": 64, "text": 32})
    graph = random_graph(counts)
    reset_peak(where)
    before = memory_now(where)
    model = graph.host(host, dim).to(where)
    steps = train(model, graph, host, repeats, lambda step: timed(step, where, CLOCKS[clock]))
    train_bytes = memory_peak(where) - before
    model.zero_grad()
    model.eval().prepared()
    reset_peak(where)
    before = memory_now(where)
    seconds = timed(lambda: evaluate(model, graph, where), where, CLOCKS[clock])
    return Point(users, len(graph.users), steps, train_bytes, seconds, memory_peak(where) - before)


def train(model: Host, graph: GraphData, host: HostName, repeats: int, time: Callable[[Callable], float]) -> list[float]:
    """Seconds of some steps after a first one."""
    device = next(model.parameters()).device
    optimizer = torch.optim.Adam(model.parameters(), 1e-3, fused=True)
    batches = graph.sampler(host, len(graph.users) // STEPS).epoch(1)

    def step():
        batch = to_device(next(batches), device, torch.float32)
        optimizer.zero_grad()
        model(batch, 1)["loss"].backward()
        optimizer.step()
        model.after_step()

    return [time(step) for _ in range(repeats + 1)][1:]


def evaluate(model: Host, graph: GraphData, device: torch.device):
    """Rank the held-out items of all users."""
    rank_held_out(score_blocks(model, graph.counts.users), graph.held_out, graph.seen.of, World(0, 1, device))


def graph_scaling(
    host: HostName = "grcn",
    users: list[int] = [10_000, 100_000, 1_000_000],  # noqa: B006
    dim: int = 16,
    repeats: int = 3,
    device: Literal["auto", "cuda", "cpu"] = "auto",
    clock: Literal["wall", "cpu"] = "wall",
    json: Path | None = None,
):
    """Measure an epoch of training and the ranking of all users over the number of users, at 5,000 items and 8 pairs a user.

    A step goes over the whole graph whatever its batch, so an epoch has as many steps at every size, those of Office; with batches
    of a fixed size it would grow with the square of the edges.

    Args:
        host: the recommender, with SGFD on features 64 and 32 wide.
        users: numbers of users; a million takes 6 GB of memory.
        dim: width D.
        repeats: steps that are measured of each size.
        device: where it computes.
        clock: `cpu` adds up the seconds of all threads, which others on the machine disturb less (with OMP_NUM_THREADS=1: threads
            that wait for one another count too).
        json: file for the numbers.
    """
    points = [
        in_fresh_process(measure, host, count, dim, repeats, device, clock)
        for count in tqdm(users, desc="graph-scaling", leave=False)
    ]
    print_table([point.row() for point in points])
    settings = {"host": host, "dim": dim, "repeats": repeats, "device": device, "clock": clock}
    write_json([_measurement(point, settings) for point in points], json)


def _measurement(point: Point, settings: dict[str, Any]) -> Measurement:
    sizes = {"users": point.users, "edges": point.edges, "evaluate_seconds": point.evaluate_seconds}
    sizes |= {"evaluate_bytes": point.evaluate_bytes}
    name = f"graph-scaling, {point.users:,} users"
    return Measurement(name, sizes | settings, [point.epoch], peak_bytes=point.train_bytes)
