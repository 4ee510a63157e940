"""A sequential recommender: item encoder, then user encoder; READ FIRST.

An item encoder turns items into vectors, one a source; a user encoder turns the vectors of a user's items into states, one a
source; the score of an item is the dot product of state and vector, and the fused score the mean over the sources (Fig. 3).

    encoder    PerSource towers | SgfdTowers | IdAwareMultimodalTransformer,
               or EarlyFusion of one of them, or an ItemEnsemble of these                 Items -> {source: [V, D]}
    users      SourceBackbones (a backbone a source) | FDSA                                {source: [V, D]} -> {source: [P, D]}

Legend: M items, V vectors of these (in training one for every occurrence where there is dropout), P packed positions of B users,
D width.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from odmt.features.items import Items
from odmt.precision import in_full_precision
from odmt.sequential.batches import Batch, Sequences
from odmt.sequential.models.dropout import Dropout
from odmt.sequential.models.sources import apply_each
from odmt.sequential.models.towers import encode_new, losses_of


class SourceBackbones(nn.Module):
    """One sequence backbone a source, nothing shared (Eq. 4)."""

    def __init__(self, backbones: dict[str, nn.Module]):
        super().__init__()
        self.backbones = nn.ModuleDict(backbones)

    def forward(self, vectors: Mapping[str, Tensor], inputs: Sequences) -> dict[str, Tensor]:
        """Item vectors [V, D] by source -> states [P, D] by source."""
        states = _states(list(self.backbones.values()), [vectors[source] for source in self.backbones], inputs)
        return dict(zip(self.backbones, states))


class FDSA(nn.Module):
    """An ID stack and a feature stack whose last outputs are joined, scored against the ID vectors (Zhang et al. 2019).

    The feature vector of an item is the mean of its text and image vectors under a learned softmax attention.

    Deviation: RecBole's stacks share one LayerNorm and their positions; here each is a whole backbone of the pipeline. The
    attention's last linear has no bias, which softmax would cancel.
    """

    def __init__(self, id_backbone: nn.Module, feature_backbone: nn.Module, dim: int, dropout: float):
        super().__init__()
        self.id_backbone = id_backbone
        self.feature_backbone = feature_backbone
        self.attention = nn.Sequential(nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, 1, bias=False))
        self.join = nn.Sequential(nn.Linear(2 * dim, dim), nn.LayerNorm(dim, eps=1e-6), Dropout(dropout))

    def forward(self, vectors: Mapping[str, Tensor], inputs: Sequences) -> dict[str, Tensor]:
        """Item vectors [V, D] by source -> states [P, D] of the source `id`."""
        features = torch.stack([vector for source, vector in vectors.items() if source != "id"], 1)  # [V, F, D]
        features = (self.attention(features).softmax(1) * features).sum(1)
        states = _states([self.id_backbone, self.feature_backbone], [vectors["id"], features], inputs)
        return {"id": self.join(torch.cat(list(states), -1))}


def _states(backbones: Sequence[nn.Module], vectors: Sequence[Tensor], inputs: Sequences) -> Sequence[Tensor]:
    """Item vectors [V, D] of each backbone -> states [P, D]."""
    rows = [of_source.index_select(0, inputs.rows) for of_source in vectors]  # of its own: a backbone may change it in place
    return apply_each(backbones, rows, inputs.lengths, inputs.longest)


class Recommender(nn.Module):
    """An item encoder and a user encoder.

    The sources of the states are those that are scored; a user encoder may take in more.

    Attributes:
        objective: the losses of a batch; a `Task` puts in those that the configuration describes.
    """

    objective: nn.Module | None

    def __init__(self, item_encoder: nn.Module, user_encoder: nn.Module, objective: nn.Module | None = None):
        super().__init__()
        self.item_encoder = item_encoder
        self.user_encoder = user_encoder
        self.objective = objective

    def forward(self, batch: Batch, epoch: int | Tensor) -> dict[str, Tensor]:
        """The losses of a training batch by name, in float32 at least whatever the encoders compute in; epochs count from 1."""
        assert self.objective is not None, "a model without losses is not trained"
        states, vectors = self.encode(batch)
        own = losses_of(self.item_encoder, batch.items)
        with in_full_precision(batch.targets.device):
            losses = self.objective(states, vectors, batch, epoch)
        return {**losses, "loss": sum(own.values(), losses["loss"]), **own}

    def encode(self, batch: Batch) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Encode a training batch; returns states [P, D] and item vectors [V, D] by source."""
        vectors = self.encode_items(batch.items)
        states = self.encode_users(vectors, batch.inputs)
        return states, {source: vectors[source] for source in states}

    def encode_items(self, items: Items) -> dict[str, Tensor]:
        """M items -> [V, D] by source."""
        return self.item_encoder(items)

    def encode_new_items(self, items: Items) -> dict[str, Tensor]:
        """M items that no table has a row of -> [V, D] by the sources that need none."""
        return encode_new(self.item_encoder, items)

    def encode_users(self, vectors: Mapping[str, Tensor], inputs: Sequences) -> dict[str, Tensor]:
        """States at every position [P, D] by source, from the item vectors that `inputs.rows` points into."""
        return self.user_encoder(vectors, inputs)
