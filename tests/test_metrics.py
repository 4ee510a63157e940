"""Metrics as visible fractions."""

from math import log2

import numpy as np
import pytest

from odmt.metrics import describe_groups, ndcg, per_user, popularity_groups, recall, summarize, summarize_groups
from odmt.ranking import OUT_OF_REACH

RANKS = np.array([1, 3, 10, 11, 20, 21, OUT_OF_REACH])


def test_recall():
    assert recall(RANKS, 10) == pytest.approx(3 / 7)
    assert recall(RANKS, 20) == pytest.approx(5 / 7)
    assert recall(RANKS, 2) == pytest.approx(1 / 7)


def test_ndcg():
    assert ndcg(RANKS, 10) == pytest.approx(1 / 7 * (1 + 1 / 2 + 1 / log2(11)))
    assert ndcg(RANKS, 20) == pytest.approx(1 / 7 * (1 + 1 / 2 + 1 / log2(11) + 1 / log2(12) + 1 / log2(21)))


def test_nobody_hits():
    nobody = np.array([OUT_OF_REACH, 500])
    assert recall(nobody, 20) == ndcg(nobody, 20) == 0


def test_summary():
    summary = summarize({"fused": np.array([1, 15]), "id": np.array([30, 3])})
    assert summary == {
        "fused/recall@10": 1 / 2,
        "fused/ndcg@10": 1 / 2,
        "fused/recall@20": 2 / 2,
        "fused/ndcg@20": pytest.approx(1 / 2 * (1 + 1 / log2(16))),
        "id/recall@10": 1 / 2,
        "id/ndcg@10": pytest.approx(1 / 2 * 1 / 2),
        "id/recall@20": 1 / 2,
        "id/ndcg@20": pytest.approx(1 / 2 * 1 / 2),
    }


def test_popularity_groups_have_equal_item_counts():
    counts = np.array([0, 7, 0, 1, 2, 3, 0, 9, 9, 1])  # items 2 and 6 are never seen
    assert popularity_groups(counts, 3).tolist() == [0, 2, 0, 1, 1, 2, 0, 3, 3, 1]


def test_five_groups_by_default():
    groups = popularity_groups(np.arange(101))
    assert np.bincount(groups).tolist() == [1, 20, 20, 20, 20, 20]
    assert (np.diff(groups) >= 0).all()


def test_more_groups_than_seen_items():
    assert popularity_groups(np.array([0, 5, 1, 0])).tolist() == [0, 2, 1, 0]


def test_summary_by_group_leaves_empty_groups_out():
    ranks = {"fused": np.array([1, 3, 50, 2])}
    summary = summarize_groups(ranks, np.array([0, 2, 2, 0]))
    assert list(summary) == ["0", "2"]
    assert [group["users"] for group in summary.values()] == [2, 2]
    assert summary["0"]["fused/ndcg@10"] == pytest.approx(1 / 2 * (1 + 1 / log2(3)))
    assert summary["2"]["fused/recall@10"] == 1 / 2


def test_several_held_out_items_a_user():
    ranks, offsets = np.array([1, 3, 50, 2, 7.5]), np.array([0, 3, 3, 4, 5])  # of the second user there are none
    assert per_user("recall", ranks, 10, offsets).tolist() == [2 / 3, 1, 1]
    assert per_user("recall", ranks, 2, offsets).tolist() == [1 / 3, 1, 0]
    ideal = 1 + 1 / log2(3) + 1 / log2(4)
    expected = [(1 + 1 / log2(4)) / ideal, 1 / log2(3), 1 / log2(8.5)]
    assert per_user("ndcg", ranks, 10, offsets) == pytest.approx(expected)
    assert per_user("ndcg", ranks, 2, offsets)[0] == pytest.approx(1 / (1 + 1 / log2(3))), "the ideal has min(held-out, k) hits"
    assert per_user("precision", ranks, 10, offsets).tolist() == [2 / 10, 1 / 10, 1 / 10]
    assert per_user("hit", ranks, 2, offsets).tolist() == [1, 1, 0]
    assert per_user("mrr", ranks, 5, offsets).tolist() == [1, 1 / 2, 0]
    assert recall(ranks, 10, offsets) == pytest.approx((2 / 3 + 1 + 1) / 3)
    assert ndcg(ranks, 10, offsets) == pytest.approx(sum(expected) / 3)


def test_groups_of_several_held_out_items():
    ranks, offsets = {"fused": np.array([1, 30, 2, 40])}, np.array([0, 3, 4])
    summary = summarize_groups(ranks, np.array([1, 1, 0, 1]), (10,), ("recall",), offsets)
    assert summary == {"0": {"users": 1, "fused/recall@10": 1}, "1": {"users": 2, "fused/recall@10": (1 / 2 + 0) / 2}}


def test_groups_say_what_they_are():
    counts = np.array([0, 7, 0, 1, 2])
    said = describe_groups(popularity_groups(counts, 2), counts)
    assert said == {"0": "never seen in training", "1": "seen 1 to 2 times in training", "2": "seen 7 times in training"}
