"""The hosts that a configuration can name: the one place to add a recommender on the user-item graph to.

Settings, help, builder, SGFD's table and the tests of the contract take theirs from here.

Legend: U users, N items, W feature width, D width.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import Tensor

from odmt.features.extractors import Extractor, PlainExtractor, RawFeatures, SgfdExtractor
from odmt.features.labels import Labels
from odmt.graph.adjacency import Adjacency
from odmt.graph.content import ItemContent
from odmt.graph.edges import Edges
from odmt.graph.models.bm3 import BM3
from odmt.graph.models.bprmf import BPRMF
from odmt.graph.models.grcn import GRCN
from odmt.graph.models.host import Host
from odmt.graph.models.lightgcn import LightGCN
from odmt.graph.models.maml import MAML
from odmt.graph.pairs import Pairs

if TYPE_CHECKING:  # the settings know the hosts' names
    from odmt.graph.config import Config

G = TypeVar("G", Adjacency, Edges)

Plain = Callable[[Mapping[str, int], int], Extractor]


@dataclass(frozen=True)
class Ingredients:
    """What a host is made of; content and extractor are made when they are asked for.

    Attributes:
        config: the run.
        pairs: of users and items.
        features: raw features [N, W] by modality.
        labels: categories of the items; None: they are not learnt.
    """

    config: "Config"
    pairs: Pairs
    features: Mapping[str, Tensor]
    labels: Labels | None

    @property
    def sizes(self) -> tuple[int, int, int]:
        """U, N and D."""
        return self.pairs.num_users, self.pairs.num_items, self.config.model.dim

    def graph(self, kind: Callable[[Tensor, Tensor, int, int], G]) -> G:
        """The train pairs as an `Adjacency` or as `Edges`."""
        train = self.pairs.train
        return kind(torch.from_numpy(train.users), torch.from_numpy(train.items), self.pairs.num_users, self.pairs.num_items)

    @cached_property
    def content(self) -> ItemContent:
        """The items' features and categories."""
        trained = HOSTS[self.config.model.host].trains_features and self.config.model.extractor == "plain"
        numbers = None if self.labels is None else torch.from_numpy(self.labels.numbers)
        return ItemContent(self.features, numbers, trained)

    @cached_property
    def extractor(self) -> Extractor:
        """SGFD, or what the host's own paper has in its place."""
        return build_extractor(self.config, self.content.widths, 0 if self.labels is None else len(self.labels.names))


@dataclass(frozen=True)
class HostPart:
    """A recommender on the graph.

    Attributes:
        label: its name for readers.
        make: the model.
        batch_size: pairs of a step.
        num_negatives: sampled items a pair.
        section: of the configuration that is its own; empty: none.
        idle: keys of it that change nothing.
        uses_content: whether it uses the items' features.
        plain_needs_content: whether it needs some without SGFD too.
        plain: what stands in SGFD's place, of the features' widths and D.
        trains_features: whether the raw features are parameters without SGFD.
        copy: SGFD's official copy that it is taught by.
    """

    label: str
    make: Callable[[Ingredients], Host]
    batch_size: int = 2048
    num_negatives: int = 1
    section: str = ""
    idle: tuple[str, ...] = ()
    uses_content: bool = True
    plain_needs_content: bool = True
    plain: Plain = field(default=PlainExtractor)
    trains_features: bool = False
    copy: str = "bm3"


def build_extractor(config: "Config", widths: Mapping[str, int], num_labels: int) -> Extractor:
    """SGFD, or what the host's own paper has in its place; of raw features of these widths by modality."""
    host, dim = HOSTS[config.model.host], config.model.dim
    if config.model.extractor == "sgfd":
        return SgfdExtractor(widths, dim, num_labels, config.sgfd.settings(host.copy))
    return host.plain(widths, dim)


def _bm3(of: Ingredients) -> Host:
    return BM3(of.graph(Adjacency), of.content, of.extractor, *of.sizes, of.config.bm3)


def _grcn(of: Ingredients) -> Host:
    return GRCN(of.graph(Edges), of.content, of.extractor, *of.sizes, of.config.grcn)


def _maml(of: Ingredients) -> Host:
    return MAML(of.content, of.extractor, *of.sizes, of.config.maml, of.config.batch_size)


def _raw_features(widths: Mapping[str, int], dim: int) -> Extractor:
    """The original MAML joins text first."""
    return RawFeatures({modality: widths[modality] for modality in ("text", "image") if modality in widths})


def _lightgcn(of: Ingredients) -> Host:
    settings = of.config.lightgcn
    return LightGCN(of.graph(Adjacency), *of.sizes, settings.num_layers, settings.reg_weight)


def _bprmf(of: Ingredients) -> Host:
    return BPRMF(*of.sizes, of.config.lightgcn.reg_weight)


# Batches and negatives of the first three are the official ones. Choice: MAML is taught as BM3 is. Its official copy sums over the
# batch, knows 25 categories whatever the data, and loses the image's response loss; `sgfd.copy=maml` has all that.
HOSTS = {
    "bm3": HostPart(
        "BM3",
        _bm3,
        num_negatives=0,
        section="bm3",
        plain_needs_content=False,
        plain=partial(PlainExtractor, xavier=True),
        trains_features=True,
    ),
    "grcn": HostPart("GRCN", _grcn, batch_size=1024, section="grcn", copy="grcn"),
    "maml": HostPart("MAML", _maml, batch_size=256, num_negatives=4, section="maml", plain=_raw_features),
    "lightgcn": HostPart("LightGCN", _lightgcn, section="lightgcn", uses_content=False),
    "bprmf": HostPart("BPR-MF", _bprmf, section="lightgcn", idle=("num_layers",), uses_content=False),
}
