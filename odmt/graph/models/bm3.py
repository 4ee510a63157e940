"""BM3: users, items and contents are pulled together without negatives.

"Bootstrap Latent Representations for Multi-modal Recommendation" (Zhou et al., WWW 2023). Plain BM3 trains the raw features
(`ItemContent(trained=True)`) through `PlainExtractor(xavier=True)`; SGFD's copy has frozen ones and `SgfdExtractor`. Everything
else is the same.

No feature enters a score: the modality terms train the predictor and the student alone, since their targets are without gradient.
What SGFD does reaches the ranking through the predictor's weights only.

Legend: U users, N items, B pairs of a batch, V distinct users or items of them, D width, M modalities.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from odmt.config import require
from odmt.features.extractors import Extractor
from odmt.graph.adjacency import Adjacency
from odmt.graph.content import ItemContent
from odmt.graph.models.host import Host, total
from odmt.graph.sampling import PairBatch


@dataclass(frozen=True)
class BM3Settings:
    """What BM3 can be told.

    Attributes:
        num_layers: propagations over the graph.
        dropout: of the targets.
        reg_weight: of the norms of the propagated tables.
        cl_weight: of the modality terms.
    """

    num_layers: int = 1
    dropout: float = 0.3
    reg_weight: float = 0.1
    cl_weight: float = 2.0

    def __post_init__(self):
        require(self.num_layers >= 0, "bm3.num_layers", "must not be negative")
        require(0 <= self.dropout < 1, "bm3.dropout", f"{self.dropout} is not in [0, 1)")
        for key in ("reg_weight", "cl_weight"):
            require(getattr(self, key) >= 0, f"bm3.{key}", "must not be negative")


class BM3(Host):
    """Embeddings of users and items, propagated, and a predictor that is to find a vector's partner.

    Args:
        adjacency: of the train pairs.
        content: of the items; no modality at all leaves the terms of users and items.
        extractor: gives vectors of the content of width `dim`, and losses.
        num_users: U.
        num_items: N.
        dim: D.
        settings: layers and weights.
    """

    def __init__(
        self,
        adjacency: Adjacency,
        content: ItemContent,
        extractor: Extractor,
        num_users: int,
        num_items: int,
        dim: int,
        settings: BM3Settings,
    ):
        super().__init__()
        self.adjacency, self.content, self.extractor, self.settings = adjacency, content, extractor, settings
        self.user_embedding = nn.Embedding(num_users, dim)
        self.item_embedding = nn.Embedding(num_items, dim)
        nn.init.xavier_uniform_(self.user_embedding.weight)
        nn.init.xavier_uniform_(self.item_embedding.weight)
        self.predictor = nn.Linear(dim, dim)
        nn.init.xavier_normal_(self.predictor.weight)

    def forward(self, batch: PairBatch, epoch: int) -> dict[str, Tensor]:
        """Compute the losses of a batch of pairs.

        Choice: what depends on a user or an item alone is worked out once for each and counts as often as it occurs; a repeated
        item has one dropout mask, as officially, where a mask is drawn for the whole table.

        Returns:
            `loss`; `ui`, `iu`, `reg`, MODALITY_item and MODALITY_self, and the extractor's.
        """
        settings = self.settings
        user_table, item_table = self.propagate()
        users, user_rows = batch.users.unique(return_inverse=True)
        items, item_rows, counts = batch.positives.unique(return_inverse=True, return_counts=True)
        user_vectors, item_vectors = user_table[users], item_table[items]  # [V, D]
        user_target, item_target = self._target(user_vectors), self._target(item_vectors)
        shares = counts / len(batch.positives)  # [V]
        losses = {
            "ui": (1 - F.cosine_similarity(self.predictor(user_vectors)[user_rows], item_target[item_rows])).mean(),
            "iu": (1 - F.cosine_similarity(self.predictor(item_vectors)[item_rows], user_target[user_rows])).mean(),
            # Deviation from the usual penalty, as officially: whole tables, norms that are not squared, both divided by N.
            "reg": settings.reg_weight * (user_table.norm() + item_table.norm()) / len(item_table),
        }
        features = self.content(items)
        vectors = self.extractor(features)
        for modality, vector in vectors.items():
            predicted = self.predictor(vector)
            for name, target in {"item": item_target, "self": self._target(vector)}.items():
                distance = 1 - F.cosine_similarity(predicted, target)
                losses[f"{modality}_{name}"] = settings.cl_weight * (distance * shares).sum()
        return total(losses | self.extractor.losses(features, self.content.labels_of(items), counts, vectors))

    def propagate(self) -> tuple[Tensor, Tensor]:
        """Vectors of all users [U, D] and items [N, D]; an item's own embedding is added once more to its mean over the layers."""
        embeddings = torch.cat([self.user_embedding.weight, self.item_embedding.weight])
        mean = self.adjacency.mean_of_layers(embeddings, self.settings.num_layers)
        users, items = mean.split([self.user_embedding.num_embeddings, self.item_embedding.num_embeddings])
        return users, items + self.item_embedding.weight

    def representations(self) -> tuple[Tensor, Tensor]:
        """Predicted users [U, D] and items [N, D]."""
        users, items = self.propagate()
        return self.predictor(users), self.predictor(items)

    def _target(self, vectors: Tensor) -> Tensor:
        return F.dropout(vectors.detach(), self.settings.dropout, self.training)
