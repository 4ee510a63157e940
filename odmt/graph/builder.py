"""From the settings of a run to a model: the one place where names become classes."""

from collections.abc import Mapping

import torch
from torch import Tensor

from odmt.features.extractors import PlainExtractor, RawFeatures, SgfdExtractor
from odmt.features.labels import Labels
from odmt.graph.adjacency import Adjacency
from odmt.graph.config import Config
from odmt.graph.content import ItemContent
from odmt.graph.edges import Edges
from odmt.graph.models.bm3 import BM3
from odmt.graph.models.bprmf import BPRMF
from odmt.graph.models.grcn import GRCN
from odmt.graph.models.host import Host
from odmt.graph.models.lightgcn import LightGCN
from odmt.graph.models.maml import MAML
from odmt.graph.pairs import Pairs

# Choice: MAML is taught as BM3 is. Its official copy sums over the batch, knows 25 categories whatever the data, and loses the
# image's response loss; `sgfd.copy=maml` has all that.
DEFAULT_COPIES = {"bm3": "bm3", "grcn": "grcn", "maml": "bm3"}


def build_model(config: Config, pairs: Pairs, features: Mapping[str, Tensor], labels: Labels | None) -> Host:
    """Build the model that the configuration describes.

    Args:
        config: what to build.
        pairs: of users and items.
        features: raw features [N, W] by modality, in the order of `config.model.modalities`.
        labels: categories of the items; None: they are not learnt.
    """
    model, host = config.model, config.model.host
    sizes = pairs.num_users, pairs.num_items
    ends = torch.from_numpy(pairs.train.users), torch.from_numpy(pairs.train.items)
    if host == "bprmf":
        return BPRMF(*sizes, model.dim, config.lightgcn.reg_weight)
    if host == "lightgcn":
        settings = config.lightgcn
        return LightGCN(Adjacency(*ends, *sizes), *sizes, model.dim, settings.num_layers, settings.reg_weight)
    trained = host == "bm3" and model.extractor == "plain"  # the original BM3 trains the features themselves
    content = ItemContent(features, None if labels is None else torch.from_numpy(labels.numbers), trained)
    extractor = build_extractor(config, content.widths, 0 if labels is None else len(labels.names))
    if host == "bm3":
        return BM3(Adjacency(*ends, *sizes), content, extractor, *sizes, model.dim, config.bm3)
    if host == "grcn":
        return GRCN(Edges(*ends, *sizes), content, extractor, *sizes, model.dim, config.grcn)
    return MAML(content, extractor, *sizes, model.dim, config.maml, config.batch_size)


def build_extractor(config: Config, widths: Mapping[str, int], num_labels: int) -> torch.nn.Module:
    """SGFD, or what the host's own paper has in its place; of raw features of these widths by modality."""
    host, dim = config.model.host, config.model.dim
    if config.model.extractor == "sgfd":
        return SgfdExtractor(widths, dim, num_labels, config.sgfd.settings(DEFAULT_COPIES[host]))
    if host == "maml":  # the original joins text first
        return RawFeatures({modality: widths[modality] for modality in ("text", "image") if modality in widths})
    return PlainExtractor(widths, dim, xavier=host == "bm3")
