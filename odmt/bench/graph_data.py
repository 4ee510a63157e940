"""Random pairs, features and labels of a graph dataset's counts, and the hosts on them.

Legend: U users, N items, E train pairs, P held-out pairs.
"""

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from odmt.features.extractors import SgfdExtractor
from odmt.features.sgfd_settings import COPIES
from odmt.graph.adjacency import Adjacency
from odmt.graph.content import ItemContent
from odmt.graph.edges import Edges
from odmt.graph.hosts import HOSTS
from odmt.graph.models.bm3 import BM3, BM3Settings
from odmt.graph.models.grcn import GRCN, GRCNSettings
from odmt.graph.models.host import Host
from odmt.graph.models.maml import MAML, MAMLSettings
from odmt.graph.sampling import PairSampler
from odmt.item_lists import ItemLists

HostName = Literal["bm3", "grcn", "maml"]
GraphShape = Literal["sgfd-office", "sgfd-small"]


@dataclass(frozen=True)
class GraphCounts:
    """How large a dataset is.

    Attributes:
        users: U.
        items: N.
        pairs: E.
        held_out: P.
        labels: categories.
        widths: of the features, by modality.
    """

    users: int
    items: int
    pairs: int
    held_out: int
    labels: int
    widths: dict[str, int]


SHAPES: dict[GraphShape, GraphCounts] = {
    "sgfd-office": GraphCounts(4874, 2406, 37_027, 15_930, 54, {"image": 4096, "text": 300}),
    "sgfd-small": GraphCounts(60, 40, 300, 100, 5, {"image": 96, "text": 24}),  # to try the commands
}


@dataclass
class GraphData:
    """What hosts are trained on.

    Attributes:
        counts: how much there is of it.
        users: int64 [E], in order.
        items: int64 [E].
        held_out: of every user.
        content: features and labels.
    """

    counts: GraphCounts
    users: np.ndarray
    items: np.ndarray
    held_out: ItemLists
    content: ItemContent

    @property
    def seen(self) -> ItemLists:
        """The train items of every user."""
        return _lists(self.users, self.items, self.counts.users)

    @property
    def edges(self) -> tuple[Tensor, Tensor]:
        """The two ends of the train pairs [E]."""
        return torch.from_numpy(self.users), torch.from_numpy(self.items)

    def sampler(self, name: HostName, batch_size: int | None = None) -> PairSampler:
        """The official batches of a host, or of another size."""
        size = batch_size or HOSTS[name].batch_size
        return PairSampler(self.users, self.items, self.counts.users, self.counts.items, size, HOSTS[name].num_negatives, seed=1)

    def host(self, name: HostName, dim: int, dropout: bool = True) -> Host:
        """A host with SGFD as in its official copy, though MAML's classifiers know all labels and all of it is trained."""
        counts, sizes = self.counts, (self.counts.users, self.counts.items)
        torch.manual_seed(1)
        extractor = SgfdExtractor(counts.widths, dim, counts.labels, replace(COPIES[name], class_outputs=None))
        if name == "bm3":
            bm3 = BM3Settings() if dropout else BM3Settings(dropout=0.0)
            return BM3(Adjacency(*self.edges, *sizes), self.content, extractor, *sizes, dim, bm3)
        if name == "grcn":
            return GRCN(Edges(*self.edges, *sizes), self.content, extractor, *sizes, dim, GRCNSettings())
        maml = MAMLSettings(summed=True)
        maml = maml if dropout else replace(maml, dropout=0.0, attention_dropout=0.0)
        return MAML(self.content, extractor, *sizes, dim, maml, HOSTS[name].batch_size)


def random_graph(counts: GraphCounts, seed: int = 0) -> GraphData:
    """Draw a dataset of given counts.

    Choice: every user and every item has a pair at least; beyond that the users' activity is geometric and the items' popularity
    a power law of exponent 0.6, and repeated pairs are dropped.
    """
    rng = np.random.default_rng(seed)
    activity, popularity = rng.geometric(0.3, counts.users), (1 + np.arange(counts.items)) ** -0.6
    both, total = np.arange(max(counts.users, counts.items)), counts.pairs + counts.held_out
    pairs = (both % counts.users) * counts.items + rng.permutation(len(both)) % counts.items
    while len(pairs) < total:
        drawn = 2 * (total - len(pairs))
        users = _draw(activity, drawn, rng)
        more = np.concatenate([pairs, users * counts.items + _draw(popularity, drawn, rng)])
        pairs = more[np.sort(np.unique(more, return_index=True)[1])][:total]  # the first ones of those that repeat
    users, items = np.divmod(np.sort(pairs[: counts.pairs]), counts.items)
    held_out = np.divmod(np.sort(pairs[counts.pairs :]), counts.items)
    torch.manual_seed(seed)
    features = {modality: torch.randn(counts.items, width) for modality, width in counts.widths.items()}
    content = ItemContent(features, torch.arange(counts.items) % counts.labels)
    return GraphData(counts, users, items, _lists(*held_out, counts.users), content)


def _lists(users: np.ndarray, items: np.ndarray, num_users: int) -> ItemLists:
    """Sorted pairs as the items of every user."""
    return ItemLists(items, np.concatenate([[0], np.bincount(users, minlength=num_users).cumsum()]))


def _draw(weights: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
    """Numbers of as many rows, each as likely as its weight says."""
    limits = (weights / weights.sum()).cumsum()
    return np.minimum(np.searchsorted(limits, rng.random(size)), len(weights) - 1)
