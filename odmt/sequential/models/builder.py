"""From the settings of `ModelConfig` to a model, of the parts in `odmt.sequential.models.parts`."""

from collections.abc import Callable, Mapping
from functools import reduce
from operator import add

import torch
from torch import Tensor, nn

from odmt.errors import InputError
from odmt.sequential.config import ModelConfig
from odmt.sequential.models.ensemble import ItemEnsemble, member_names
from odmt.sequential.models.parts import BACKBONES, ITEM_ENCODERS, Ingredients
from odmt.sequential.models.recommender import FDSA, Recommender, SourceBackbones
from odmt.sequential.models.sgfd import SgfdSource
from odmt.sequential.models.towers import EarlyFusion, HiddenId

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
    encoders = [_item_encoder(config, num_items, widths, cls, sgfd) for _ in range(config.ensemble)]
    return Recommender(encoders[0] if config.ensemble == 1 else ItemEnsemble(encoders), _user_encoder(config, max_seq_len))


def _item_encoder(
    config: ModelConfig, num_items: int, widths: Mapping[str, int], cls: Callable[[str], Tensor], sgfd: SgfdSource | None
) -> nn.Module:
    projected = "id" in config.sources and config.id_encoder == "projected"
    initial = initial_id_table(config, num_items, widths, cls) if projected else None
    of_sources: dict[str, int] = {source: widths[source] for source in config.sources if source != "id"}
    encoder = ITEM_ENCODERS[config.item_encoder].make(Ingredients(config, num_items, of_sources, initial, sgfd))
    if config.id_dropout:
        encoder = HiddenId(encoder, config.id_dropout)
    if config.fusion in ("early", "sum"):
        return EarlyFusion(encoder, mean=config.fusion == "early")
    return encoder


def _user_encoder(config: ModelConfig, max_seq_len: int) -> nn.Module:
    def backbone() -> nn.Module:
        return BACKBONES[config.backbone].make(config, max_seq_len)

    if config.fusion == "fdsa":
        return FDSA(backbone(), backbone(), config.dim, config.dropout)
    sources = member_names(config.ensemble) if config.fusion in ("early", "sum") else config.sources
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
    return reduce(add, features) / len(features)
