"""Recall and NDCG with one relevant item a user, and the popularity groups of Figure 4."""

import numpy as np

CUTOFFS = (10, 20)
OUT_OF_REACH = np.iinfo(np.int32).max  # rank of a target that stands in the user's own history: it is never a hit


def recall(ranks: np.ndarray, k: int) -> float:
    """Mean over users of [rank <= k]; ranks count from 1."""
    return float((ranks <= k).mean())


def ndcg(ranks: np.ndarray, k: int) -> float:
    """Mean over users of 1 / log2(rank + 1) where rank <= k, else 0."""
    return float(np.where(ranks <= k, 1 / np.log2(ranks + 1.0), 0.0).mean())


def summarize(ranks: dict[str, np.ndarray]) -> dict[str, float]:
    """Recall and NDCG at 10 and 20 by source: `fused/recall@10` and so on."""
    metrics = {}
    for source, source_ranks in ranks.items():
        for k in CUTOFFS:
            metrics[f"{source}/recall@{k}"] = recall(source_ranks, k)
            metrics[f"{source}/ndcg@{k}"] = ndcg(source_ranks, k)
    return metrics


def popularity_groups(train_counts: np.ndarray, num_groups: int = 5) -> np.ndarray:
    """Group items by how often they occur in training.

    Choice: group 0 is never seen, the seen items fall into quantile groups of equal item count, 1 the least popular.

    Args:
        train_counts: [N + 1], of the padding item too.

    Returns:
        int64 group of every item [N + 1]; the padding's is 0.
    """
    groups = np.zeros(len(train_counts), np.int64)
    by_count = np.argsort(train_counts, kind="stable")
    seen = by_count[train_counts[by_count] > 0]
    for group, items in enumerate(np.array_split(seen, num_groups), 1):
        groups[items] = group
    return groups


def summarize_groups(ranks: dict[str, np.ndarray], groups: np.ndarray) -> dict[str, dict[str, float]]:
    """The metrics of `summarize` by group of the target, and the number of `users` in each; empty groups are left out.

    Args:
        ranks: by source [U].
        groups: of every user's target [U].
    """
    summary = {}
    for group in np.unique(groups):
        members = groups == group
        summary[str(group)] = {"users": int(members.sum()), **summarize({s: r[members] for s, r in ranks.items()})}
    return summary
