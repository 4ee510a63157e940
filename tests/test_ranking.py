"""Ranks against brute force: ties, repeated targets, history masks, blocks; and what is encoded."""

import numpy as np
import pytest
import torch
from torch import nn

from odmt.distributed import World
from odmt.features.items import Items
from odmt.item_lists import ItemLists
from odmt.metrics import summarize
from odmt.precision import Precision
from odmt.ranking import OUT_OF_REACH, ScoreBlock, count_ranks, rank_held_out
from odmt.sequential import scoring
from odmt.sequential.models.recommender import Recommender
from odmt.sequential.scoring import encode_catalogue, rank_targets

NUM_ITEMS, DIM = 30, 3
WORLD, PRECISION = World(0, 1, torch.device("cpu")), Precision("cpu", torch.float32)


class WholeNumberTable(nn.Module):
    """An item encoder of small whole numbers: their dot products are exact, and many are equal."""

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.tables = {s: torch.randint(-2, 3, (NUM_ITEMS + 1, DIM), generator=generator).float() for s in ("id", "text")}
        self.encoded = []

    def forward(self, items: Items) -> dict[str, torch.Tensor]:
        self.encoded += items.numbers.tolist()
        return {source: table[items.numbers] for source, table in self.tables.items()}


class Sums(nn.Module):
    """A user encoder whose state is the sum of the items so far."""

    def forward(self, vectors, inputs):
        states = {}
        for source, table in vectors.items():
            parts = torch.split(table[inputs.rows], inputs.lengths.tolist())
            states[source] = torch.cat([part.cumsum(0) for part in parts])
        return states


@pytest.fixture
def model() -> Recommender:
    return Recommender(WholeNumberTable(), Sums())


@pytest.fixture
def interactions(interactions_of):
    """Windows with repeats: some targets stand in the history, some items twice in it."""
    rng = np.random.default_rng(1)
    windows = [rng.integers(1, NUM_ITEMS + 1, rng.integers(3, 9)).tolist() for _ in range(60)]
    windows[0] = [4, 5, 4, 6, 4]  # the test target stands in the history
    windows[1] = [7, 8, 7, 7, 9]  # the validation target does; for test it is history
    return interactions_of(windows, NUM_ITEMS, max_seq_len=4)


def ranks_by_brute_force(model, interactions, split: str) -> dict[str, list[int]]:
    """1 + the number of items outside the history with a higher score + half of those with an equal one."""
    held_out = {"valid": 2, "test": 1}[split]
    ranks = {"fused": [], "id": [], "text": []}
    for user in range(interactions.num_users):
        window = interactions.items[interactions.offsets[user] : interactions.offsets[user + 1]].tolist()
        history, target = window[:-held_out], window[-held_out]
        seen = history[-interactions.max_seq_len :]
        scores = {}
        for source, table in model.item_encoder.tables.items():
            scores[source] = (table @ table[seen].sum(0)).tolist()
        scores["fused"] = [(a + b) / 2 for a, b in zip(scores["id"], scores["text"])]
        for source, rank in ranks.items():
            others = [item for item in range(1, NUM_ITEMS + 1) if item not in history]
            better = sum(scores[source][item] > scores[source][target] for item in others)
            equal = sum(scores[source][item] == scores[source][target] for item in others if item != target)
            rank.append(OUT_OF_REACH if target in history else 1 + better + equal / 2)
    return ranks


@pytest.mark.parametrize("split", ["valid", "test"])
@pytest.mark.parametrize(
    ("item_block", "user_block", "scores", "min_users"), [(512, 1024, 1 << 22, 32), (7, 11, 1, 4), (1, 1, 1, 1)]
)
def test_ranks_are_those_of_brute_force(model, interactions, monkeypatch, split, item_block, user_block, scores, min_users):
    monkeypatch.setattr(scoring, "ITEM_BLOCK", item_block)
    monkeypatch.setattr(scoring, "USER_BLOCK", user_block)
    monkeypatch.setattr(scoring, "CPU_SCORES", scores)
    monkeypatch.setattr(scoring, "MIN_USERS", min_users)
    catalogue = encode_catalogue(model, {}, NUM_ITEMS, WORLD, PRECISION)
    assert model.item_encoder.encoded == list(range(1, NUM_ITEMS + 1))
    ranks = rank_targets(model, catalogue, interactions, split, WORLD)
    expected = ranks_by_brute_force(model, interactions, split)
    assert {source: rank.tolist() for source, rank in ranks.items()} == expected
    assert expected["fused"].count(OUT_OF_REACH) > 1
    assert len(set(expected["fused"])) > 10


def test_padding_has_no_vector(model):
    catalogue = encode_catalogue(model, {}, NUM_ITEMS, WORLD, PRECISION)
    for source, table in model.item_encoder.tables.items():
        assert catalogue[source][0].abs().sum() == 0
        assert torch.equal(catalogue[source][1:], table[1:])


def rank(scores: list[list[float]], rows: list[int], items: list[int]) -> list[float]:
    return count_ranks(torch.tensor(scores), torch.tensor(rows), torch.tensor(items))[0].tolist()


def test_ties_share_the_mean_of_their_places():
    low = float("-inf")
    scores = [[low, 2.0, 2.0, 1.0, 2.0], [low, 0.0, 0.0, 0.0, 0.0]]
    assert rank(scores, [0, 1], [1, 3]) == [(1 + 2 + 3) / 3, (1 + 2 + 3 + 4) / 4]
    assert rank(scores, [0, 1], [3, 3]) == [4, 2.5]
    _, tied = count_ranks(torch.tensor(scores), torch.tensor([0, 0, 1]), torch.tensor([1, 3, 2]))
    assert tied.tolist() == [1, 0, 1]


def test_a_collapsed_model_finds_nobodys_items(interactions_of):
    windows = [[user % 100 + 1, 3, 4, 5 + user, 60 + user] for user in range(20)]
    interactions = interactions_of(windows, 200, 4)
    flat = Recommender(Constant(), Sums())
    catalogue = encode_catalogue(flat, {}, 200, WORLD, PRECISION)
    ranks = rank_targets(flat, catalogue, interactions, "test", WORLD)
    assert summarize(ranks)["fused/recall@20"] == 0
    assert ranks.tied == {"fused": 1.0, "id": 1.0}
    assert ranks["fused"][0] == 1 + (200 - 4 - 1) / 2  # of what is no history


class Constant(nn.Module):
    """An item encoder that gives every item the same vector."""

    def forward(self, items: Items) -> dict[str, torch.Tensor]:
        return {"id": torch.ones(len(items.numbers), DIM)}


def test_masked_items_are_no_rivals():
    low = float("-inf")
    assert rank([[low, low, low, 3.0, 1.0]], [0], [4]) == [2]
    assert rank([[low, low, low, 3.0, 1.0]], [0], [2]) == [OUT_OF_REACH]


def test_several_held_out_items_of_a_user():
    """Each has the place that it would have in the sorted list, the others' before it too."""
    scores = torch.tensor([[0.5, 0.4, 0.3, 0.2, 0.1], [0.1, 0.2, 0.3, 0.4, 0.5], [1.0, 0.0, 0.0, 0.0, 0.0]])
    held_out = ItemLists(np.array([0, 3, 2, 4, 1]), np.array([0, 2, 2, 5]))  # users 0: 0, 3; 1: none; 2: 2, 4, 1
    seen = ItemLists(np.array([1, 0]), np.array([0, 1, 1, 2]))  # user 0 had item 1, user 2 item 0
    blocks = [ScoreBlock(np.array([2, 0]), {"fused": scores[[2, 0]].clone()}), ScoreBlock(np.array([1]), {"fused": scores[[1]]})]
    ranks = rank_held_out(blocks, held_out, seen.of, WORLD)
    assert ranks["fused"].tolist() == [1, 3, 2.5, 2.5, 2.5]
    assert ranks.tied == {"fused": 3 / 5}


def test_scores_that_are_no_numbers_rank_last():
    nan = float("nan")
    scores = [[float("-inf"), nan, 1.0, 2.0], [float("-inf"), nan, nan, nan]]
    assert min(rank(scores, [0, 1], [1, 1])) > 3
    # A rival without a number counts as better: nobody wins by a broken model.
    assert rank(scores, [0], [2]) == [3]


def test_the_model_is_evaluated_without_dropout(interactions):
    class Noisy(WholeNumberTable):
        def forward(self, items):
            vectors = super().forward(items)
            return {source: nn.functional.dropout(vector, 0.5, self.training) for source, vector in vectors.items()}

    model = Recommender(Noisy(), Sums()).train()
    catalogue = encode_catalogue(model, {}, NUM_ITEMS, WORLD, PRECISION)
    assert torch.equal(catalogue["id"][1:], model.item_encoder.tables["id"][1:])
