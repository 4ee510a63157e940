"""Ranking users over a catalogue of random item vectors, three sources."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from odmt.bench.measure import compare
from odmt.bench.official import OfficialODMT, rank_users
from odmt.bench.results import Measurement, report
from odmt.bench.synthetic import COUNTS, MAX_SEQ_LEN, Counts, Shape, synthetic_interactions
from odmt.distributed import World, choose_device
from odmt.sequential.config import ModelConfig
from odmt.sequential.interactions import Interactions
from odmt.sequential.models.builder import build_recommender
from odmt.sequential.models.recommender import Recommender
from odmt.sequential.scoring import rank_targets

SOURCES = ("id", "text", "image")
WIDTHS = dict.fromkeys(SOURCES, 8)  # of features, which are not needed here
USERS = 1000
BASELINE_SCORES = 8_000_000  # users x items that the baseline ranks: enough to be measured


@dataclass
class Data:
    """What both sides rank.

    Attributes:
        world: this process.
        model: encodes the users.
        vectors: [N + 1, D] by source.
        interactions: of all users.
    """

    world: World
    model: Recommender
    vectors: dict[str, Tensor]
    interactions: Interactions

    @property
    def device(self) -> torch.device:
        """Where both sides compute."""
        return self.world.device

    @property
    def work(self) -> dict[str, float]:
        """Users of a ranking, and the scores that decide it."""
        return {"users": self.interactions.num_users}


def make(items: int, users: int, dim: int, device: str) -> Data:
    """Draw item vectors and windows that look like those of Arts."""
    torch.manual_seed(0)
    world = World(0, 1, choose_device(device))
    config = ModelConfig(dim=dim, id_init="random")
    return Data(
        world=world,
        model=build_recommender(config, 1, MAX_SEQ_LEN, WIDTHS, _no_features).to(world.device),
        vectors={source: torch.randn(items + 1, dim, device=world.device) for source in SOURCES},
        interactions=synthetic_interactions(Counts(users, items, COUNTS["arts"].mean_length)),
    )


def _no_features(source: str) -> Tensor:
    raise AssertionError(f"random IDs do not start from features of the {source}")


def baseline_users(items: int, users: int) -> int:
    """How many of the users the baseline ranks, one like the other."""
    return min(users, max(8, BASELINE_SCORES // items))


def odmt(data: Data) -> Callable[[int], None]:
    """The package's ranking of all users."""

    def run(repeat: int):
        rank_targets(data.model, data.vectors, data.interactions, "test", data.world)

    return run


def official(data: Data) -> Callable[[int], None]:
    """The official code's ranking of some of the users."""
    dim = data.vectors["id"].shape[1]
    model = OfficialODMT(ModelConfig(dim=dim), 1, MAX_SEQ_LEN, WIDTHS).to(data.device)
    model.load_recommender(data.model.state_dict())
    users = np.arange(baseline_users(len(data.vectors["id"]) - 1, data.interactions.num_users))

    def run(repeat: int):
        rank_users(model, data.vectors, data.interactions, "test", users)

    return run


def evaluate(
    shape: Shape = "arts",
    items: list[int] = [10_000, 100_000, 1_000_000],  # noqa: B006
    dim: int = 128,
    repeats: int = 3,
    device: Literal["auto", "cuda", "cpu"] = "auto",
    json: Path | None = None,
):
    """Compare the ranking of 1,000 users with the official code's, over the items of a dataset and over catalogues of other sizes.

    The baseline takes so long that it ranks only as many users as give 8 million scores; its seconds are scaled to all of them.

    Args:
        shape: the dataset whose number of items comes first.
        items: numbers of items that follow.
        dim: model width D.
        repeats: rankings of each side, in turn.
        device: where both compute.
        json: file for the numbers.
    """
    report([measure(count, dim, repeats, device) for count in (COUNTS[shape].items, *items)], json)


def measure(items: int, dim: int, repeats: int, device: str) -> Measurement:
    """Compare the rankings over one catalogue."""
    settings = {"items": items, "users": USERS, "dim": dim, "device": device}
    measurement = compare(f"evaluate, {items:,} items", settings, make, (odmt, official), repeats)
    ranked = baseline_users(items, USERS)
    measurement.baseline_seconds = [seconds * USERS / ranked for seconds in measurement.baseline_seconds]
    measurement.settings |= {"repeats": repeats, "baseline_users": ranked}
    return measurement
