"""Metrics as the official evaluators work them out, for a look at the paper's table; they are no standard ones and choose nothing.

All of them look at one list a user: his best-scored items, with the train items masked in the host's own way. In the paper's table
the hosts are mixed, and with them the definitions.

Legend: B users of a block, U users with a held-out item, N items, M places of a list.
"""

import numpy as np
import torch
from torch import Tensor


def listed_hits(
    scores: Tensor, seen: tuple[Tensor, Tensor], held_out: tuple[Tensor, Tensor], length: int, seen_score: float = -1e10
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
    gains = 1 / np.log(np.arange(2, hits.shape[1] + 2))
    ideal = np.concatenate([[0], gains.cumsum()])
    metrics = {}
    for cutoff in cutoffs:
        metrics[f"bm3_official_pooled_recall@{cutoff}"] = float(hits[:, :cutoff].sum() / num_held_out.sum())
        counted = hits[:, : cutoff - 1].sum(1)
        ndcg = np.where(counted > 0, hits @ gains / np.where(counted > 0, ideal[counted], 1), 0)
        metrics[f"bm3_official_ndcg_of_hits@{cutoff}"] = float(ndcg.mean())
    return metrics
