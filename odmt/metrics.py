"""What follows from the ranks of held-out items: metrics by user and their means, and the popularity groups of Figure 4.

Metrics are those of the field: each is worked out for every user with at least one held-out item, then averaged over these users.

Legend: U users, P held-out items of all of them, k cut-off.
"""

from collections.abc import Mapping, Sequence

import numpy as np

CUTOFFS = (10, 20)
NAMES = ("recall", "ndcg")


def per_user(name: str, ranks: np.ndarray, k: int, offsets: np.ndarray | None = None) -> np.ndarray:
    """A metric of every user who has a held-out item.

    Args:
        name: `recall` (hits / held-out items), `ndcg` (sum over hits of 1 / log2(rank + 1), divided by the largest that
            min(held-out items, k) hits can give), `precision` (hits / k), `hit` (whether there is one), `mrr` (1 / the first rank).
        ranks: [P] from 1.
        k: ranks above it are no hits.
        offsets: int64 [U + 1], where each user's ranks begin; None: everybody has one.
    """
    if offsets is None:
        offsets = np.arange(len(ranks) + 1)
    lengths = np.diff(offsets)
    starts, lengths = offsets[:-1][lengths > 0], lengths[lengths > 0]

    def add(values: np.ndarray) -> np.ndarray:
        return np.add.reduceat(values, starts) if len(starts) else np.zeros(0)

    hits = ranks <= k
    match name:
        case "recall":
            return add(hits.astype(np.float64)) / lengths
        case "ndcg":
            ideal = np.cumsum(1 / np.log2(np.arange(2, k + 2.0)))[np.minimum(lengths, k) - 1]
            return add(np.where(hits, 1 / np.log2(ranks + 1.0), 0.0)) / ideal
        case "precision":
            return add(hits.astype(np.float64)) / k
        case "hit":
            return (add(hits.astype(np.float64)) > 0).astype(np.float64)
        case "mrr":
            best = np.minimum.reduceat(ranks, starts) if len(starts) else np.zeros(0)
            return np.where(best <= k, 1 / best, 0.0)
    raise ValueError(f"no metric {name!r}")


def recall(ranks: np.ndarray, k: int, offsets: np.ndarray | None = None) -> float:
    """The mean over users of hits / held-out items; arguments as those of `per_user`."""
    return float(per_user("recall", ranks, k, offsets).mean())


def ndcg(ranks: np.ndarray, k: int, offsets: np.ndarray | None = None) -> float:
    """The mean over users of the discounted gain of the hits / the ideal one; arguments as those of `per_user`."""
    return float(per_user("ndcg", ranks, k, offsets).mean())


def summarize(
    ranks: Mapping[str, np.ndarray],
    cutoffs: Sequence[int] = CUTOFFS,
    names: Sequence[str] = NAMES,
    offsets: np.ndarray | None = None,
) -> dict[str, float]:
    """Metrics by source, means over users: `fused/recall@10` and so on.

    Args:
        ranks: by source [P].
        cutoffs: k.
        names: as `per_user` knows them.
        offsets: int64 [U + 1]; None: one held-out item a user.
    """
    return {
        f"{source}/{name}@{k}": float(per_user(name, of_source, k, offsets).mean())
        for source, of_source in ranks.items()
        for k in cutoffs
        for name in names
    }


def popularity_groups(train_counts: np.ndarray, num_groups: int = 5) -> np.ndarray:
    """Group items by how often they occur in training.

    Choice: group 0 is never seen, the seen items fall into quantile groups of equal item count, 1 the least popular.

    Args:
        train_counts: by item.

    Returns:
        int64 group of every item, padding's (never seen) is 0.
    """
    groups = np.zeros(len(train_counts), np.int64)
    by_count = np.argsort(train_counts, kind="stable")
    seen = by_count[train_counts[by_count] > 0]
    for group, items in enumerate(np.array_split(seen, num_groups), 1):
        groups[items] = group
    return groups


def describe_groups(groups: np.ndarray, train_counts: np.ndarray) -> dict[str, str]:
    """Say of every group how often its items occur in training."""
    described = {}
    for group in np.unique(groups):
        counts = train_counts[groups == group]
        least, most = int(counts.min()), int(counts.max())
        times = "once" if most == 1 else f"{most} times" if least == most else f"{least} to {most} times"
        described[str(group)] = "never seen in training" if most == 0 else f"seen {times} in training"
    return described


def summarize_groups(
    ranks: Mapping[str, np.ndarray],
    groups: np.ndarray,
    cutoffs: Sequence[int] = CUTOFFS,
    names: Sequence[str] = NAMES,
    offsets: np.ndarray | None = None,
) -> dict[str, dict[str, float]]:
    """The metrics of `summarize` by group of the held-out items, and the number of `users` who have some of it.

    Args:
        ranks: by source [P].
        groups: of every held-out item [P]; empty groups are left out.
        cutoffs: k.
        names: of metrics.
        offsets: int64 [U + 1]; None: one held-out item a user.
    """
    if offsets is None:
        offsets = np.arange(len(groups) + 1)
    summary = {}
    for group in np.unique(groups):
        members = groups == group
        of_group = np.concatenate([[0], np.cumsum(members)])[offsets]
        metrics = summarize({source: of_source[members] for source, of_source in ranks.items()}, cutoffs, names, of_group)
        summary[str(group)] = {"users": int((np.diff(of_group) > 0).sum()), **metrics}
    return summary


def chosen_by(selection: str) -> str:
    """The metric of selection in words: `validation recall@10`; said aloud where it is the test set's."""
    split, _, metric = selection.split("/")
    if split == "test":
        return f"TEST {metric} (chosen on the test set, as the authors did: no estimate of what new data would give)"
    return f"validation {metric}"
