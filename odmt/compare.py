"""Finished runs on the same held-out items, of whatever family, user by user: the numbers behind `scripts/compare.py`.

Legend: U users who have a held-out item, P held-out items of all of them, one user after the other, k cut-off.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats

from odmt.errors import InputError
from odmt.features.labels import read_labels
from odmt.metrics import describe_groups, per_user, popularity_groups
from odmt.publishing import CARD
from odmt.recommend import Recommendations, load_run
from odmt.significance import METHOD, Difference, compare

MOST_CATEGORIES = 12  # that are shown: those with the most held-out items
LENGTH_GROUPS = 4


@dataclass
class Contender:
    """A run with its test ranks, in an order that all contenders share.

    Attributes:
        name: as tables call it.
        run: what it recommends.
        ranks: of the held-out items [P] by source.
    """

    name: str
    run: Recommendations
    ranks: dict[str, np.ndarray]


@dataclass
class Comparison:
    """Contenders on the same held-out items.

    Attributes:
        contenders: the first is what the others are compared with.
        users: names [U].
        targets: names of the held-out items [P].
        offsets: int64 [U + 1], where each user's begin.
        k: the cut-off of hits.
    """

    contenders: list[Contender]
    users: list[str]
    targets: list[str]
    offsets: np.ndarray
    k: int

    def metrics(self) -> pd.DataFrame:
        """The metrics of every run by source, means over users."""
        settings = self.contenders[0].run.task.config.evaluation
        rows = []
        for contender in self.contenders:
            for source, ranks in contender.ranks.items():
                values = {
                    f"{name}@{k}": per_user(name, ranks, k, self.offsets).mean()
                    for k in settings.cutoffs
                    for name in settings.metrics
                }
                rows.append({"run": contender.name, "source": source, **values})
        return pd.DataFrame(rows)

    def differences(self) -> pd.DataFrame:
        """The fused metrics of every other run minus the first's, with paired 95 % bootstrap intervals over users."""
        settings, (first, *others) = self.contenders[0].run.task.config.evaluation, self.contenders
        rows = []
        for other in others:
            for k in settings.cutoffs:
                for name in settings.metrics:
                    theirs, ours = (per_user(name, of.ranks["fused"], k, self.offsets) for of in (other, first))
                    difference = _in_words(compare(theirs, ours))
                    rows.append({"run": f"{other.name} − {first.name}", "metric": f"{name}@{k}", **difference})
        return pd.DataFrame(rows)

    def hits(self, contender: Contender) -> np.ndarray:
        """Whom a run serves: who has a held-out item among the first k of the fused score, bool [U]."""
        return per_user("hit", contender.ranks["fused"], self.k, self.offsets) > 0

    def served(self) -> pd.DataFrame:
        """How many users one run serves and another does not."""
        hits = {contender.name: self.hits(contender) for contender in self.contenders}
        rows = [
            {
                "": f"served by {name}",
                **{f"not by {other}": int((of & ~hits[other]).sum()) for other in hits},
                "in all": int(of.sum()),
            }
            for name, of in hits.items()
        ]
        return pd.DataFrame(rows)

    def served_differently(self, most: int) -> dict[str, list[str]]:
        """Some users whom one of two runs serves alone, by what is said of them."""
        first, *others = self.contenders
        found = {}
        for other in others:
            for one, two in ((first, other), (other, first)):
                users = np.flatnonzero(self.hits(one) & ~self.hits(two))[:most]
                found[f"served by {one.name}, not by {two.name}"] = [self.users[user] for user in users]
        return {said: users for said, users in found.items() if users}

    def by_popularity(self) -> pd.DataFrame:
        """Recall of the held-out items by how often they occur in training."""
        task = self.contenders[0].run.task
        counts = task.train_counts()
        groups = popularity_groups(counts)
        columns = np.array([self.contenders[0].run.catalogue.columns[item] for item in self.targets])
        words = describe_groups(groups, counts)
        ends = {1: ", least popular", groups.max(): ", most popular"}

        def say(group: int) -> str:  # the ends of two groups may be the same: they are of as many items
            return f"fifth {group} of the items{ends.get(group, '')}: {words[str(group)]}" if group else words["0"]

        return self._of_items(groups[columns], say)

    def by_category(self) -> pd.DataFrame | None:
        """Recall of the held-out items by category, the largest ones; None where the dataset has no labels.tsv."""
        path = self.contenders[0].run.task.config.data.folder / "labels.tsv"
        if not path.is_file():
            return None
        items = sorted(set(self.targets))
        labels = read_labels(path, items)
        numbers = dict(zip(items, labels.numbers))
        groups = np.array([numbers[item] for item in self.targets])
        largest = np.argsort(-np.bincount(groups), kind="stable")[:MOST_CATEGORIES]
        kept = np.where(np.isin(groups, largest), groups, len(labels.names))
        return self._of_items(kept, lambda group: [*labels.names, "all others"][group])

    def by_length(self) -> pd.DataFrame:
        """Recall of users by the length of their histories, in groups of about as many users."""
        _, people = self.contenders[0].run.people(self.users)
        lengths = np.diff(people.histories.offsets)
        edges = np.unique(np.quantile(lengths, np.linspace(0, 1, LENGTH_GROUPS + 1)).astype(int))
        groups = np.clip(np.searchsorted(edges, lengths, side="right") - 1, 0, max(len(edges) - 2, 0))
        rows = []
        for group in np.unique(groups):
            members = groups == group
            shown = f"{lengths[members].min()} to {lengths[members].max()} items"
            recall = {
                of.name: per_user("recall", of.ranks["fused"], self.k, self.offsets)[members].mean() for of in self.contenders
            }
            rows.append({"history": shown, "users": int(members.sum()), **recall})
        return pd.DataFrame(rows)

    def correlation(self) -> pd.DataFrame:
        """Spearman's correlation of the held-out items' ranks, between all sources of all runs."""
        ranks = {f"{of.name} {source}": values for of in self.contenders for source, values in of.ranks.items()}
        placed = [stats.rankdata(values) for values in ranks.values()]
        with np.errstate(invalid="ignore", divide="ignore"):  # all ranks alike: there is no correlation
            table = np.atleast_2d(np.corrcoef(placed))
        return pd.DataFrame(table, columns=list(ranks)).assign(**{"": list(ranks)})[["", *ranks]]

    def tables(self) -> dict[str, pd.DataFrame]:
        """All tables by their headings."""
        found = {
            "Test metrics": self.metrics(),
            f"Differences of the fused score; {METHOD}": self.differences(),
            f"Users who have a held-out item among the first {self.k}": self.served(),
            f"Share of held-out items among the first {self.k}, by popularity": self.by_popularity(),
            f"recall@{self.k} by length of history": self.by_length(),
            f"Share of held-out items among the first {self.k}, by category": self.by_category(),
            "Rank correlation of the sources": self.correlation(),
        }
        return {heading: table for heading, table in found.items() if table is not None}

    def _of_items(self, groups: np.ndarray, say) -> pd.DataFrame:
        rows = []
        for group in np.unique(groups):
            members = groups == group
            shares = {of.name: float((of.ranks["fused"][members] <= self.k).mean()) for of in self.contenders}
            rows.append({"held-out items": say(group), "number": int(members.sum()), **shares})
        return pd.DataFrame(rows)


def load_comparison(folders: Sequence[Path], k: int = 10, device: str = "auto", data_root: Path | None = None) -> Comparison:
    """Read finished runs.

    Raises:
        InputError: fewer than two; one that is not finished; other held-out items, naming the first user who differs.
    """
    if len(folders) < 2:
        raise InputError("one run cannot be compared: name two or more")
    if k < 1:
        raise InputError(f"{k} items a list: take 1 or more")
    for folder in folders:
        _check_finished(Path(folder))
    runs = [load_run(folder, device, data_root) for folder in folders]
    users, targets, offsets = [], [], np.zeros(1, np.int64)
    contenders: list[Contender] = []
    for run, name in zip(runs, _names(runs)):
        held_out, first_item = run.task.held_out("test"), run.task.first_item
        own = {
            user: [run.item_ids[column - first_item] for column in held_out.items[slice(*held_out.offsets[number : number + 2])]]
            for number, user in enumerate(run.user_ids)
        }
        starts = dict(zip(run.user_ids, held_out.offsets))
        if not contenders:
            users = [user for user, items in own.items() if items]
            targets = [item for user in users for item in own[user]]
            offsets = np.cumsum([0, *(len(own[user]) for user in users)])
        _check_same(runs[0], run, users, targets, offsets, own)
        places = [
            starts[user] + own[user].index(item)
            for number, user in enumerate(users)
            for item in targets[offsets[number] : offsets[number + 1]]
        ]
        contenders.append(Contender(name, run, {source: of_source[places] for source, of_source in run.test_ranks().items()}))
    return Comparison(contenders, users, targets, offsets, k)


def _check_finished(folder: Path):
    """Refuse a run that has not been tested, before it is read; what is no run is told by who reads it."""
    missing = [name for name in ("result.json", "ranks.safetensors") if not (folder / name).is_file()]
    if missing == ["ranks.safetensors"] and (folder / CARD).is_file():
        raise InputError(f"{folder}: a published folder has no test ranks of the users; compare the run that it was made of")
    if missing and (folder / "config.yaml").is_file():
        raise InputError(
            f"{folder}: no {missing[0]}, so the run is not finished; python -m odmt.train {folder}/config.yaml --resume"
        )


def _check_same(
    first: Recommendations,
    other: Recommendations,
    users: list[str],
    targets: list[str],
    offsets: np.ndarray,
    own: dict[str, list[str]],
):
    """Refuse a run whose users, or what is held out of them, are others than the first one's."""
    wanted = {user: targets[offsets[number] : offsets[number + 1]] for number, user in enumerate(users)}
    for user in [*wanted, *(user for user, items in own.items() if items and user not in wanted)]:
        here, there = wanted.get(user, []), own.get(user, [])
        if sorted(here) != sorted(there):
            raise InputError(
                f"{other.folder}: other held-out items than those of {first.folder}: user {user!r} has {there} there, {here} here; "
                "compare runs of one dataset and one split (graph models take that of sequences with data.leave_one_out=true, and "
                "the same data.max_seq_len and data.min_seq_len)"
            )


def _names(runs: list[Recommendations]) -> list[str]:
    """The runs' names, with as much of their folders as tells them apart."""
    for length in range(1, 4):  # name, DATASET/name, RUNS/DATASET/name
        names = ["/".join(run.folder.parts[-length:]) for run in runs]
        if len(set(names)) == len(names):
            return names
    return [name if names.count(name) == 1 else f"{name} ({number})" for number, name in enumerate(names, 1)]


def _in_words(difference: Difference) -> dict:
    interval = f"({difference.low:+.4f}, {difference.high:+.4f})"
    return {"difference": f"{difference.mean:+.4f}", "95 % interval": interval, "p": f"{difference.p:.2g}"}
