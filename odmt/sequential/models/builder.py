"""From the settings of `ModelConfig` to a model: the one place where names become classes."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from odmt.errors import InputError
from odmt.sequential.config import ModelConfig
from odmt.sequential.models.gru4rec import GRU4Rec
from odmt.sequential.models.imt import IdAwareMultimodalTransformer
from odmt.sequential.models.nextitnet import NextItNet
from odmt.sequential.models.recommender import FDSA, Recommender, SourceBackbones
from odmt.sequential.models.sasrec import SASRec
from odmt.sequential.models.sgfd import SgfdSource, SgfdTowers
from odmt.sequential.models.towers import (
    ClsTower,
    EarlyFusion,
    IdEmbedding,
    MoEAdaptor,
    PerSource,
    ProjectedId,
    TransformerTower,
    head,
)

RANDOM_ID_WIDTH = 768  # width of a projected ID table where no feature gives it one


def build_recommender(
    config: ModelConfig,
    num_items: int,
    max_seq_len: int,
    widths: Mapping[str, int],
    cls: Callable[[str], Tensor],
    sgfd: SgfdSource | None = None,
) -> Recommender:
    """Compose a model.

    Args:
        config: what to compose.
        num_items: N.
        max_seq_len: L.
        widths: feature width by modality.
        cls: gives the CLS features [N + 1, W] of a modality; asked only where the ID table starts from them.
        sgfd: what the item encoder `sgfd` needs.
    """
    return Recommender(_item_encoder(config, num_items, widths, cls, sgfd), _user_encoder(config, max_seq_len))


def _item_encoder(
    config: ModelConfig, num_items: int, widths: Mapping[str, int], cls: Callable[[str], Tensor], sgfd: SgfdSource | None
) -> nn.Module:
    modalities = [source for source in config.sources if source != "id"]
    projected = "id" in config.sources and config.id_encoder == "projected"
    initial = initial_id_table(config, num_items, widths, cls) if projected else None
    if config.item_encoder == "imt":
        encoder = IdAwareMultimodalTransformer(
            {source: widths[source] for source in modalities},
            config.dim,
            config.num_layers,
            initial,
            bool(config.id_visible_to_modalities),
            config.dropout,
        )
    elif config.item_encoder == "sgfd":
        of_modalities = {source: widths[source] for source in modalities}
        encoder = SgfdTowers(of_modalities, config.dim, sgfd, _id_tower(config, num_items, initial))
    else:
        towers = {source: _tower(config, widths[source]) for source in modalities}
        ids = _id_tower(config, num_items, initial)
        encoder = PerSource(towers if ids is None else {"id": ids, **towers})
    if config.fusion in ("early", "sum"):
        return EarlyFusion(encoder, mean=config.fusion == "early")
    return encoder


def _id_tower(config: ModelConfig, num_items: int, initial: Tensor | None) -> nn.Module | None:
    if "id" not in config.sources:
        return None
    return IdEmbedding(num_items, config.dim) if initial is None else ProjectedId(initial, config.dim)


def _tower(config: ModelConfig, width: int) -> nn.Module:
    if config.item_encoder == "transformer":
        return TransformerTower(width, config.dim, config.num_layers, config.dropout)
    if config.item_encoder == "moe":
        return ClsTower(MoEAdaptor(width, config.dim, dropout=config.dropout))
    return ClsTower(head(width, config.dim))


def _user_encoder(config: ModelConfig, max_seq_len: int) -> nn.Module:
    def backbone() -> nn.Module:
        if config.backbone == "gru4rec":
            return GRU4Rec(config.dim)
        if config.backbone == "nextitnet":
            return NextItNet(config.dim)
        return SASRec(config.dim, max_seq_len, config.backbone_layers, config.backbone_heads, config.dropout)

    if config.fusion == "fdsa":
        return FDSA(backbone(), backbone(), config.dim, config.dropout)
    sources = ["fused"] if config.fusion in ("early", "sum") else config.sources
    return SourceBackbones({source: backbone() for source in sources})


def initial_id_table(config: ModelConfig, num_items: int, widths: Mapping[str, int], cls: Callable[[str], Tensor]) -> Tensor:
    """What the projected ID table starts from (Sec. 3.2) [N + 1, W].

    Choice: with one modality alone the default, mean, is that modality's feature, and without any it is random.

    Raises:
        InputError: the mean of features of different width.
    """
    modalities = [source for source in ("image", "text") if source in config.sources]
    init = config.id_init or ("mean" if modalities else "random")
    if init == "random":
        table = torch.empty(num_items + 1, next(iter(widths.values()), RANDOM_ID_WIDTH))
        return nn.init.xavier_normal_(table)
    if init in ("text", "image"):
        return cls(init)
    features = [cls(source) for source in modalities]
    if init == "concat":
        return torch.cat(features, -1)
    if len({feature.shape[1] for feature in features}) > 1:
        sizes = ", ".join(f"{source} {widths[source]}" for source in modalities)
        raise InputError(
            f"config key model.id_init: mean needs features of one width, these are {sizes}; take text, image or concat"
        )
    return sum(features) / len(features)
