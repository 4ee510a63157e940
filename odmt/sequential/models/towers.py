"""Item encoders that treat every source by itself (the FST modules of Sec. 2 and Figure 1).

A tower is called with the items and the name of its source. Legend: M items, V vectors of these, T tokens of all of them, W
feature width, D model width.
"""

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor, nn

from odmt.features.items import Items, Tokens
from odmt.sequential.models.dropout import Dropout
from odmt.sequential.models.packing import Packing, fill_gaps
from odmt.sequential.models.sources import Linear
from odmt.sequential.models.transformer import ItemLayers


def head(dim_in: int, dim: int) -> nn.Sequential:
    """The two-layer DNN W2 LeakyReLU(W1 x + b1) + b2 that ends every tower (Eq. 3)."""
    return nn.Sequential(Linear(dim_in, dim), nn.LeakyReLU(), Linear(dim, dim))


class ItemTable(nn.Embedding):
    """A vector an item; row 0 is the padding's. Where `sparse` is set, the gradient holds the rows that were looked up alone; of
    several processes these must be items of the batch.

    Args:
        initial: [N + 1, W], copied: training never changes the features it came from. Deviation: the official code's table from
            text or image features is a view of these, which training changes too.
    """

    def __init__(self, initial: Tensor):
        num_rows, width = initial.shape
        super().__init__(num_rows, width, _weight=initial.clone())


class IdEmbedding(nn.Module):
    """A table of ID vectors of width D, used as they are."""

    def __init__(self, num_items: int, dim: int):
        super().__init__()
        self.table = ItemTable(nn.init.xavier_normal_(torch.empty(num_items + 1, dim)))

    def forward(self, items: Items, source: str) -> Tensor:
        """M items -> [V, D]."""
        return items.repeat(self.table(items.numbers))


class ProjectedId(nn.Module):
    """A table of ID vectors as wide as the features, projected to D, then the head.

    Args:
        initial: [N + 1, W], what the table starts from.
    """

    def __init__(self, initial: Tensor, dim: int):
        super().__init__()
        self.table = ItemTable(initial)
        self.projection = nn.Linear(initial.shape[1], dim)
        self.head = head(dim, dim)

    def forward(self, items: Items, source: str) -> Tensor:
        """M items -> [V, D]."""
        return items.repeat(self.head(self.projection(self.table(items.numbers))))


class ClsTower(nn.Module):
    """What takes the CLS feature alone: the DNN or the MoE adaptor."""

    reads: ClassVar = "cls"

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, items: Items, source: str) -> Tensor:
        """M items, one token each -> [V, D]."""
        return torch.cat([self.network(block.repeat(block.features[source].values)) for block in items.blocks()])


class TransformerTower(nn.Module):
    """Transformer layers over one modality's tokens, then the head on the CLS token (TRMx + DNNs).

    As in the IMT, tokens pass the layers once an item, the CLS token that is read once a vector.
    """

    reads: ClassVar = "tokens"

    def __init__(self, width: int, dim: int, num_layers: int, dropout: float):
        super().__init__()
        self.projection = nn.Linear(width, dim)
        self.dropout = Dropout(dropout)
        self.blocks = ItemLayers(dim, num_layers, dropout)
        self.head = head(dim, dim)

    @staticmethod
    def stochastic(dropout: float) -> bool:
        """An item is encoded anew at every occurrence where there is dropout."""
        return dropout > 0

    def forward(self, items: Items, source: str) -> Tensor:
        """M items -> [V, D]."""
        return torch.cat([self._encode(block.features[source], block) for block in items.blocks()])

    def _encode(self, tokens: Tokens, items: Items) -> Tensor:
        packing = Packing.right_padded(tokens.lengths, len(tokens.values), tokens.longest)
        allowed = packing.valid()[:, None, None, :]
        projected = self.projection(tokens.values)
        read = self.dropout(items.repeat(tokens.first(projected)))[:, None]  # [V, 1, D]
        rows, packing = fill_gaps(projected, packing)
        rows = self.dropout(rows)
        return self.head(self.blocks(read, rows, packing, allowed, [0], items)[:, 0])


class MoEAdaptor(nn.Module):
    """Parametric-whitening experts (x - b) W under a noisy softmax gate (UniSRec, Hou et al. 2022, Eq. 3-4).

    Choice: the dropout is the pipeline's 0.1 (UniSRec's own code: 0.2).
    """

    reads: ClassVar = "cls"

    def __init__(self, width: int, dim: int, num_experts: int = 8, dropout: float = 0.1):
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(num_experts, width))
        self.weight = nn.Parameter(torch.empty(num_experts, dim, width))
        self.gate = nn.Parameter(torch.zeros(width, num_experts))
        self.noise = nn.Parameter(torch.zeros(width, num_experts))
        self.dropout = Dropout(dropout)
        nn.init.normal_(self.weight, std=0.02)

    @staticmethod
    def stochastic(dropout: float) -> bool:
        """Always: the gate is noisy."""
        return True

    def forward(self, features: Tensor) -> Tensor:
        """CLS features [V, W] -> [V, D]; the gate is noisy in training only."""
        logits = features @ self.gate
        if self.training:
            scale = nn.functional.softplus(features @ self.noise) + 1e-2
            logits = logits + torch.randn_like(logits) * scale
        gates = logits.softmax(-1)
        # sum over experts e of g_e W_e (x - b_e), the shift last: nothing as large as [E, V, W] but the dropped features.
        dropped = self.dropout(features.expand(len(self.shift), -1, -1))
        whitened = dropped @ self.weight.mT - torch.einsum("edw,ew->ed", self.weight, self.shift)[:, None]  # [E, V, D]
        return torch.einsum("ve,evd->vd", gates, whitened)


class ItemEncoder(nn.Module, ABC):
    """What turns items into vectors by source and has losses of its own, which are added to those of the prediction."""

    @abstractmethod
    def losses(self, items: Items) -> dict[str, Tensor]:
        """Losses of M items by name, with their weights."""


def losses_of(encoder: nn.Module, items: Items) -> dict[str, Tensor]:
    """The losses that an item encoder has of its own; any module may be one, and few have some."""
    return encoder.losses(items) if isinstance(encoder, ItemEncoder) else {}


def encode_new(encoder: nn.Module, items: Items) -> dict[str, Tensor]:
    """Encode M items that no table has a row of, by the sources that need none [V, D]; what cannot tell them gives nothing."""
    encode = getattr(encoder, "encode_new", None)
    return {} if encode is None else encode(items)


class PerSource(nn.Module):
    """One tower a source, none knowing of the others."""

    def __init__(self, towers: dict[str, nn.Module]):
        super().__init__()
        self.towers = nn.ModuleDict(towers)

    def forward(self, items: Items) -> dict[str, Tensor]:
        """Encode M items; returns [V, D] by source."""
        # A tower that cuts the items into blocks copies all features that they have.
        return {source: tower(items.of(source), source) for source, tower in self.towers.items()}

    def encode_new(self, items: Items) -> dict[str, Tensor]:
        """Encode M items by every source but the ID."""
        return {source: tower(items.of(source), source) for source, tower in self.towers.items() if source != "id"}


class HiddenId(ItemEncoder):
    """An encoder whose ID vectors are hidden at random in training, so that content learns to stand alone.

    Items that few have had gain by it, and new ones, which have no ID (DropoutNet, Volkovs et al. 2017).

    Args:
        encoder: gives vectors by source, the ID's among them, one an occurrence of an item.
        share: of the ID vectors that are zeros; the others stay as they are.
    """

    def __init__(self, encoder: nn.Module, share: float):
        super().__init__()
        self.encoder = encoder
        self.share = share

    def forward(self, items: Items) -> dict[str, Tensor]:
        """Encode M items; returns [V, D] by source."""
        by_source = self.encoder(items)
        if not self.training:
            return by_source
        ids = by_source["id"]
        shown = torch.rand(len(ids), 1, device=ids.device) >= self.share
        return {**by_source, "id": ids * shown}

    def encode_new(self, items: Items) -> dict[str, Tensor]:
        """As the encoder does."""
        return encode_new(self.encoder, items)

    def losses(self, items: Items) -> dict[str, Tensor]:
        """Those of the encoder."""
        return losses_of(self.encoder, items)


class EarlyFusion(ItemEncoder):
    """The mean of an item's vectors (SASRec+EF), or their sum (UniSRec), as its one vector."""

    def __init__(self, encoder: nn.Module, mean: bool):
        super().__init__()
        self.encoder = encoder
        self.mean = mean

    def forward(self, items: Items) -> dict[str, Tensor]:
        """Encode M items; returns [V, D] as `fused`."""
        return self._fuse(self.encoder(items))

    def encode_new(self, items: Items) -> dict[str, Tensor]:
        """The mean or the sum of what there is without an ID."""
        return self._fuse(encode_new(self.encoder, items))

    def _fuse(self, by_source: dict[str, Tensor]) -> dict[str, Tensor]:
        if not by_source:
            return {}
        vectors = torch.stack(list(by_source.values()))
        return {"fused": vectors.mean(0) if self.mean else vectors.sum(0)}

    def losses(self, items: Items) -> dict[str, Tensor]:
        """Those of the encoder."""
        return losses_of(self.encoder, items)
