"""MAML: metric learning, where the content of an item decides which dimensions count for a user.

"User Diverse Preference Modeling by Multimodal Attentive Metric Learning" (Liu et al., ACM MM 2019, arXiv 1908.07738). A score is a
negative distance, and every pair of a user and an item has attention weights of its own.

Deviation: the official code hands its optimiser the user and the item table alone, so that projection, attention and all of SGFD
keep their random start. Here everything is trained; `trained=tables` is the official way.
Deviation: the official optimiser minimises the loss summed over the slots of a batch, so that the host's terms grow with the batch
and SGFD's weights mean something else than in BM3 and GRCN. Here the host's terms are a pair's; `summed` is the official scale.
Deviation: dropout works in training, at the official rates; officially its layers are never told that they train.

Legend: U users, N items, B pairs of a batch, K items of a pair (the positive, then its negatives), D width, H = 5D.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from odmt.config import require
from odmt.features.extractors import Extractor
from odmt.graph.content import ItemContent
from odmt.graph.models.host import Host, total
from odmt.graph.sampling import PairBatch

PAIRS = {"cpu": 1 << 9, "cuda": 1 << 16}  # that are scored at a time: what is computed of them stays in a CPU's cache


@dataclass(frozen=True)
class MAMLSettings:
    """What MAML can be told; the defaults are those of SGFD's copy, but for the deviations above.

    Attributes:
        hidden_dim: width of the projection's first layer; the two that follow have half of it.
        margin: between the distances of the positive and of the nearest negative.
        projection_weight: of the squared distance between all item vectors and the projection of their features.
        covariance_weight: of the sum of covariances between the dimensions. Deviation from its purpose, as in the official code:
            the sum is signed, so that it rewards spread rather than independence; the paper's form is not known.
        dropout: rate in the projection.
        attention_dropout: rate in the attention.
        scale: of the projection, before it is clipped.
        clip: the longest that a vector may be.
        trained: `all` parameters, or the two `tables` alone.
        summed: add the host's losses up over the batch instead of dividing them by its pairs.
    """

    hidden_dim: int = 256
    margin: float = 1.0
    projection_weight: float = 1.0
    covariance_weight: float = 5.0
    dropout: float = 0.2
    attention_dropout: float = 0.05
    scale: float = 1.0
    clip: float = 1.0
    trained: Literal["all", "tables"] = "all"
    summed: bool = False

    def __post_init__(self):
        require(self.hidden_dim >= 2, "maml.hidden_dim", "must be 2 or more: two layers have half of it")
        for key in ("margin", "projection_weight", "covariance_weight"):
            require(getattr(self, key) >= 0, f"maml.{key}", "must not be negative")
        for key in ("dropout", "attention_dropout"):
            require(0 <= getattr(self, key) < 1, f"maml.{key}", f"{getattr(self, key)} is not in [0, 1)")
        for key in ("scale", "clip"):
            require(getattr(self, key) > 0, f"maml.{key}", "must be positive")


class Side(NamedTuple):
    """What users or items bring into the attention; leading dimensions of the two sides broadcast.

    Attributes:
        vectors: [..., D].
        hidden: [..., H], their part of the first attention layer's product.
        square: [..., 1], their part of its input's squared length.
    """

    vectors: Tensor
    hidden: Tensor
    square: Tensor

    def rows(self, index) -> "Side":
        """The rows of a slice or of numbers."""
        return Side(*(part[index] for part in self))


class MAML(Host):
    """User and item vectors inside a ball, compared by a distance that attention weighs dimension by dimension.

    `RawFeatures` (text first) makes it the original MAML, `SgfdExtractor` SGFD's copy.

    Args:
        content: of the items; one modality at least.
        extractor: gives vectors of the content of any width, and losses.
        num_users: U.
        num_items: N.
        dim: D, of the tables.
        settings: widths and weights.
        batch_size: pairs of a full batch. Choice: a short last batch is divided by it too, or its terms of the whole tables would
            weigh many times more.
    """

    dot_products = False

    def __init__(
        self,
        content: ItemContent,
        extractor: Extractor,
        num_users: int,
        num_items: int,
        dim: int,
        settings: MAMLSettings,
        batch_size: int = 256,
    ):
        super().__init__()
        self.content, self.extractor, self.settings, self.batch_size = content, extractor, settings, batch_size
        self.user_embedding, self.item_embedding = (nn.Embedding(count, dim) for count in (num_users, num_items))
        half = settings.hidden_dim // 2
        widths = [sum(extractor.widths.values()), settings.hidden_dim, half, half, dim]
        self.projection = nn.ModuleList(nn.Linear(*pair) for pair in pairwise(widths))
        self.attention = nn.ModuleList([nn.Linear(3 * dim, 5 * dim), nn.Linear(5 * dim, dim)])
        for layer in (*self.projection, *self.attention):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)
        nn.init.normal_(self.user_embedding.weight, std=dim**-0.5)
        with torch.no_grad():
            self.item_embedding.weight.copy_(self.eval().project())
        self.train()
        if settings.trained == "tables":
            self.requires_grad_(False)
            self.user_embedding.requires_grad_(True)
            self.item_embedding.requires_grad_(True)

    def project(self, vectors: dict[str, Tensor] | None = None) -> Tensor:
        """What the extractor gives [N, W] by modality, worked out where it is None -> projected features [N, D] inside the ball."""
        vectors = self.extractor(self.content()) if vectors is None else vectors
        hidden = torch.cat([vectors[modality] for modality in self.extractor.modalities], -1)
        *layers, last = self.projection
        for layer in layers:
            hidden = F.dropout(layer(_unit(hidden)).relu(), self.settings.dropout, self.training)
        return _clip(self.settings.scale * last(hidden), self.settings.clip)

    @property
    def _attention_layers(self) -> tuple[nn.Linear, nn.Linear]:
        first, second = self.attention
        return cast(nn.Linear, first), cast(nn.Linear, second)  # torch does not say what its lists of modules hold

    def user_side(self, users: Tensor) -> Side:
        """Vectors [..., D] -> what they bring into the attention."""
        dim = users.shape[-1]
        return Side(users, F.linear(users, self._attention_layers[0].weight[:, :dim]), users.square().sum(-1, keepdim=True))

    def item_side(self, items: Tensor, projected: Tensor) -> Side:
        """Vectors [..., D] and projected features [..., D] -> what they bring into the attention."""
        both = torch.cat([items, projected], -1)
        return Side(
            items, F.linear(both, self._attention_layers[0].weight[:, items.shape[-1] :]), both.square().sum(-1, keepdim=True)
        )

    def weigh(self, users: Side, items: Side, dropout: float = 0.0) -> Tensor:
        """Attention weights [..., D] of pairs, which sum to D.

        The first layer's product is linear in user and item, and its input's squared length a sum, so that both are worked out
        once a user and once an item and a pair takes a quarter of the work.
        """
        first, second = self._attention_layers
        length = (users.square + items.square).clamp(min=1e-12).sqrt()
        hidden = ((users.hidden + items.hidden) / length + first.bias).tanh()  # [..., H]
        hidden = F.dropout(hidden, dropout, dropout > 0)
        # Its length divides the product, which is five times as narrow.
        logits = F.linear(hidden, second.weight) / hidden.norm(dim=-1, keepdim=True).clamp(min=1e-6) + second.bias
        return logits.shape[-1] * logits.relu().softmax(-1)

    def distances(self, users: Side, items: Side, dropout: float = 0.0) -> Tensor:
        """Squared distances [...] of pairs; attention enters squared, as in the official code."""
        return (self.weigh(users, items, dropout) * (users.vectors - items.vectors)).square().sum(-1)

    def forward(self, batch: PairBatch, epoch: int) -> dict[str, Tensor]:
        """Compute the losses of a batch with sampled negatives; the extractor's are of positives and negatives.

        Returns:
            `loss`; `metric`, `projection`, `covariance`, and the extractor's.
        """
        assert batch.negatives is not None, "the host asks for negatives"
        settings, tables = self.settings, (self.item_embedding.weight, self.user_embedding.weight)
        slots = torch.cat([batch.positives[:, None], batch.negatives], 1)  # [B, K]
        vectors = self.extractor(self.content())
        projected = self.project(vectors)  # [N, D]
        distances = self.distances(
            self.user_side(self.user_embedding(batch.users)[:, None]),
            self.item_side(self.item_embedding(slots), projected[slots]),
            settings.attention_dropout if self.training else 0.0,
        )
        scale = 1.0 if settings.summed else 1 / self.batch_size
        losses = {
            "metric": scale * self._metric(distances),
            "projection": scale * settings.projection_weight * (tables[0] - projected).square().sum(),
            "covariance": scale * settings.covariance_weight * sum_of_covariances(torch.cat(tables)),
        }
        seen, counts = slots.unique(return_counts=True)
        of_seen = {modality: vector[seen] for modality, vector in vectors.items()}
        return total(losses | self.extractor.losses(self.content(seen), self.content.labels_of(seen), counts, of_seen))

    def representations(self) -> tuple[Tensor, Tensor]:
        """The tables of the users [U, D] and the items [N, D]."""
        return self.user_embedding.weight, self.item_embedding.weight

    def prepare(self) -> tuple[Tensor, ...]:
        """Tables of the users [U, D] and the items [N, D], and the items' projected features [N, D]."""
        return (*self.representations(), self.project())

    @torch.no_grad()
    def scores(self, users: Tensor) -> Tensor:
        """Minus the distance [B, N] of every item to users int64 [B], tile by tile, so that memory grows with neither."""
        user_table, items, projected = self.prepared()
        user_side, num_items = self.user_side(user_table[users]), len(items)
        scores = items.new_empty(len(users), num_items)
        pairs = PAIRS[scores.device.type]
        width = min(pairs, num_items)
        for begin in range(0, num_items, width):
            columns = slice(begin, begin + width)
            item_side = self.item_side(items[columns], projected[columns])
            for rows in torch.arange(len(users)).split(pairs // width):
                scores[rows, columns] = -self.distances(user_side.rows((rows, None)), item_side)
        return scores

    def _metric(self, distances: Tensor) -> Tensor:
        """Hinge on the nearest negative, weighted by how many violate the margin, summed; from distances [B, K]."""
        gaps = distances[:, :1] - distances[:, 1:] + self.settings.margin  # [B, K - 1], above 0 where the margin is violated
        share = (gaps > 0).double().mean(1).to(gaps.dtype)
        return (torch.log1p(len(self.item_embedding.weight) * share) * gaps.amax(1).relu()).sum()

    @torch.no_grad()
    def after_step(self):
        """Bring both tables back into the ball."""
        for table in (self.user_embedding.weight, self.item_embedding.weight):
            table.copy_(_clip(table, self.settings.clip))


def sum_of_covariances(rows: Tensor) -> Tensor:
    """The covariances of all pairs of different columns of [R, D], summed with their signs.

    The sum over all pairs is that of the square of a row's sum, so no matrix [D, D] is needed.
    """
    centred = rows - rows.mean(0)
    return (centred.sum(1).square().sum() - centred.square().sum()) / len(rows)


def _unit(vectors: Tensor) -> Tensor:
    return F.normalize(vectors, dim=-1, eps=1e-6)


def _clip(vectors: Tensor, longest: float) -> Tensor:
    return vectors * (longest / vectors.norm(dim=-1, keepdim=True).clamp(min=longest))
