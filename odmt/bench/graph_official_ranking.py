"""Ranking the way the official evaluators of BM3, GRCN and MAML do, user by user: what `graph-evaluate` measures against.

Each walks through users and list places in Python as its original does. Standard recall comes out, so that the sides can be
compared; what the originals print beside it takes the same loops.

Legend: U users, N items.
"""

import heapq
import math
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from odmt.item_lists import ItemLists

BLOCK = 2000  # users at a time
LENGTH = 20  # of a list


def bm3_recall(scores: Tensor, seen: ItemLists, held_out: ItemLists) -> float:
    """Every place of every list is looked up among the user's items; recall and NDCG follow by loops, twice an epoch."""
    recall = 0.0
    for _ in ("valid", "test"):  # which are the same file
        hits, lengths = [], []
        for block, rows in _blocks(scores, seen):
            for user, listed in zip(block, rows.topk(LENGTH).indices.numpy()):
                wanted = _of(held_out, user)
                if len(wanted):
                    hits.append([item in wanted for item in listed])
                    lengths.append(len(wanted))
        recall = sum(sum(row) / length for row, length in zip(hits, lengths)) / len(hits)
        for row in hits:
            _ndcg(row, sum(row))
    return recall


def grcn_recall(scores: Tensor, seen: ItemLists, held_out: ItemLists) -> float:
    """Sets are met user by user; hits, gain and ideal are summed place by place; three times an epoch, for train items too."""
    nothing = ItemLists(seen.items[:0], np.zeros_like(seen.offsets))
    # The train items with nothing masked, then, as validation and as test, which are the same file, the held-out ones.
    for masked, positives in ((nothing, seen), (seen, held_out), (seen, held_out)):
        recalls = []
        for block, rows in _blocks(scores, masked):
            for user, listed in zip(block, rows.topk(LENGTH).indices):
                wanted, listed = set(_of(positives, user).tolist()), listed.tolist()
                if wanted:
                    found = len(wanted & set(listed))
                    _ndcg([item in wanted for item in listed], found)
                    recalls.append(found / len(wanted))
    return sum(recalls) / len(recalls)


def maml_recall(scores: Tensor, seen: ItemLists, held_out: ItemLists) -> float:
    """A dictionary of scores a user, the best of it by a heap, all of it sorted again for an AUC that nobody reads."""
    recalls = []
    for block, rows in _blocks(scores, seen):
        for user, row in zip(block, rows.numpy()):
            wanted = set(_of(held_out, user).tolist())
            if not wanted:
                continue
            candidates = set(range(len(row))) - set(_of(seen, user).tolist())
            score_of = {item: row[item] for item in candidates}
            best = heapq.nlargest(LENGTH, score_of, key=score_of.__getitem__)
            ordered = sorted(score_of.items(), key=lambda pair: pair[1], reverse=True)
            _auc([item in wanted for item, _ in ordered])
            hits = [item in wanted for item in best]
            _ndcg(hits, sum(hits))
            recalls.append(sum(hits) / len(wanted))
    return sum(recalls) / len(recalls)


RECALLS: dict[str, Callable[[Tensor, ItemLists, ItemLists], float]] = {
    "bm3": bm3_recall,
    "grcn": grcn_recall,
    "maml": maml_recall,
}


def _blocks(scores: Tensor, seen: ItemLists) -> Iterator[tuple[list[int], Tensor]]:
    """Numbers of users, and their scores without the items that they had before."""
    for numbers in torch.arange(len(scores)).split(BLOCK):
        rows = scores[numbers].cpu()
        for row, user in enumerate(numbers.tolist()):
            rows[row, _of(seen, user)] = float("-inf")
        yield numbers.tolist(), rows


def _of(lists: ItemLists, user: int) -> np.ndarray:
    return lists.items[lists.offsets[user] : lists.offsets[user + 1]]


def _ndcg(hits: list[bool], ideal_hits: int) -> float:
    ideal = sum(1 / math.log2(place + 2) for place in range(ideal_hits))
    return sum(1 / math.log2(place + 2) for place, hit in enumerate(hits) if hit) / ideal if ideal_hits else 0.0


def _auc(hits: list[bool]) -> float:
    found = before = 0
    for hit in hits:
        found += hit
        before += 0 if hit else found
    return before / max(found * (len(hits) - found), 1)
