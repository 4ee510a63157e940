"""Metrics as the official evaluators work them out, for a look at the paper's table; they are no standard ones and choose nothing.

All of them look at one list a user: his best-scored items, with the train items masked in the host's own way. In the paper's table
the hosts are mixed, and with them the definitions.

Legend: B users of a block, U users with a held-out item, N items, M places of a list.
"""

from collections.abc import Callable, Iterable
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from odmt.ranking import ScoreBlock

LIST_LENGTH = 20
OFFICIAL_CUTOFFS = [5, 10, 20]
MASKED = -1e10
GRCN_SEEN_SCORE = 1e-5  # what GRCN's evaluator gives a user's train items


class Lists(Protocol):
    """Items of every user."""

    def of(self, users: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The items of some users, one user after the other, and how many each has."""


def published_metrics(host: str, blocks: Iterable[ScoreBlock], seen: Lists, held_out: Lists) -> dict[str, float]:
    """What the official evaluator of a host would print; nothing for hosts that SGFD was not published on.

    Args:
        host: bm3, grcn or maml.
        blocks: scores of all users who have held-out items.
        seen: what is masked. Deviation: the official evaluators know no validation items.
        held_out: what is to be found.
    """
    if host not in EVALUATORS:
        return {}
    hits, num_held_out, num_candidates = [], [], []
    for block in blocks:
        scores = block.scores["fused"]
        rows = {}
        for name, lists in {"seen": seen, "held_out": held_out}.items():
            items, counts = lists.of(block.users)
            users = np.repeat(np.arange(len(block.users)), counts)
            rows[name] = (torch.from_numpy(users).to(scores.device), torch.from_numpy(items).to(scores.device)), counts
        seen_score = GRCN_SEEN_SCORE if host == "grcn" else MASKED
        hits.append(listed_hits(scores, rows["seen"][0], rows["held_out"][0], LIST_LENGTH, seen_score))
        num_held_out.append(rows["held_out"][1])
        num_candidates.append(scores.shape[1] - rows["seen"][1])
    arguments = [np.concatenate(hits), np.concatenate(num_held_out)]
    if host == "maml":
        arguments.append(np.concatenate(num_candidates))
    return EVALUATORS[host](*arguments, OFFICIAL_CUTOFFS)


def listed_hits(
    scores: Tensor, seen: tuple[Tensor, Tensor], held_out: tuple[Tensor, Tensor], length: int, seen_score: float = MASKED
) -> np.ndarray:
    """Tell which places of every user's list hold a held-out item.

    Args:
        scores: [B, N], left as they are.
        seen: rows and columns of the scores that are masked.
        held_out: rows and columns of the held-out items.
        length: M; a list of fewer items ends with places that hold nothing.
        seen_score: what a masked item scores instead.

    Returns:
        bool [B, M].
    """
    scores = scores.clone()
    scores[seen] = seen_score
    wanted = torch.zeros_like(scores, dtype=torch.bool)
    wanted[held_out] = True
    best = scores.topk(min(length, scores.shape[1]), sorted=True).indices
    hits = wanted.gather(1, best).cpu().numpy()
    return np.pad(hits, ((0, 0), (0, length - hits.shape[1])))


def bm3_metrics(hits: np.ndarray, num_held_out: np.ndarray, cutoffs: list[int]) -> dict[str, float]:
    """What SGFD's BM3 copy prints; the original BM3 has the standard metrics.

    Recall is pooled over the users: hits of all by held-out items of all. NDCG divides the gain of the *whole* list, whatever the
    cut-off, by the ideal of the hits among the first K - 1: it may exceed 1, a user whose only hit is at K or later counts as 0,
    and it depends on the largest cut-off.

    Args:
        hits: bool [U, M], of lists as long as the largest cut-off.
        num_held_out: [U], 1 at least.
        cutoffs: K; the largest is M.
    """
    assert hits.shape[1] == max(cutoffs), "lists are as long as the largest cut-off"
    metrics: dict[str, float] = {}
    for cutoff in cutoffs:
        metrics[f"bm3_official_pooled_recall@{cutoff}"] = float(hits[:, :cutoff].sum() / num_held_out.sum())
        metrics[f"bm3_official_ndcg_of_hits@{cutoff}"] = _ndcg(hits, hits[:, : cutoff - 1].sum(1))
    return metrics


def grcn_metrics(hits: np.ndarray, num_held_out: np.ndarray, cutoffs: list[int]) -> dict[str, float]:
    """What GRCN's evaluator prints, the original's too, from lists in which train items score `GRCN_SEEN_SCORE`.

    Train items thus stand before every item of a negative score and take places. NDCG divides by the ideal of the hits among the
    first K, so that it tells only how early the found ones stand. Deviation: the official evaluator sees the representations of
    before the last step's update.

    Args:
        hits: bool [U, M].
        num_held_out: [U], 1 at least.
        cutoffs: K, at most M.
    """
    metrics: dict[str, float] = {}
    for cutoff in cutoffs:
        found = hits[:, :cutoff].sum(1)
        metrics |= _shares("grcn_official", found, num_held_out, cutoff, np.full(len(found), cutoff))
        metrics[f"grcn_official_ndcg_of_hits@{cutoff}"] = _ndcg(hits[:, :cutoff], found)
    return metrics


def maml_metrics(hits: np.ndarray, num_held_out: np.ndarray, num_candidates: np.ndarray, cutoffs: list[int]) -> dict[str, float]:
    """What SGFD's MAML copy prints; the original MAML has the standard metrics.

    NDCG divides by the ideal of the hits in the *whole* list, at most K of them; precision by the items that are listed, which are
    fewer than K where fewer candidates remain.

    Args:
        hits: bool [U, M], officially of lists of 20.
        num_held_out: [U], 1 at least.
        num_candidates: [U], items that are not masked.
        cutoffs: K, at most M.
    """
    metrics: dict[str, float] = {}
    for cutoff in cutoffs:
        found = hits[:, :cutoff].sum(1)
        metrics |= _shares("maml_official", found, num_held_out, cutoff, np.minimum(num_candidates, cutoff).clip(min=1))
        metrics[f"maml_official_ndcg_of_hits@{cutoff}"] = _ndcg(hits[:, :cutoff], np.minimum(hits.sum(1), cutoff))
    return metrics


def _shares(prefix: str, found: np.ndarray, num_held_out: np.ndarray, cutoff: int, listed: np.ndarray) -> dict[str, float]:
    return {
        f"{prefix}_recall@{cutoff}": float((found / num_held_out).mean()),
        f"{prefix}_precision@{cutoff}": float((found / listed).mean()),
        f"{prefix}_hit@{cutoff}": float((found > 0).mean()),
    }


def _ndcg(hits: np.ndarray, ideal_hits: np.ndarray) -> float:
    """Mean over users of the gain of their lists bool [U, M] by that of so many hits [U] at the top; 0 where there are none."""
    gains = 1 / np.log(np.arange(2, hits.shape[1] + 2))
    ideal = np.concatenate([[np.inf], gains.cumsum()])
    return float((hits @ gains / ideal[ideal_hits]).mean())


EVALUATORS: dict[str, Callable[..., dict[str, float]]] = {"bm3": bm3_metrics, "grcn": grcn_metrics, "maml": maml_metrics}
