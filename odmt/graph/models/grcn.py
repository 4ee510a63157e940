"""GRCN: the graph is refined by how well an item's content fits a user's preference, and what remains propagates the IDs.

"Graph-Refined Convolutional Network for Multimedia Recommendation with Implicit Feedback" (Wei et al., ACM MM 2020, arXiv
2111.02036). The official code of the paper and of SGFD are the same in what this file does.

Deviation from the paper: its refining layer routes a user's preference through his items for some rounds. The official code runs
those rounds with the edges turned round, so that only items receive and nothing comes of it; all published numbers are without.
That is the default here too, and not computed; `routing` gives the paper's rounds.

Legend: U users, N items, E train pairs, B rows of a batch, D width, M modalities.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from odmt.config import require
from odmt.features.extractors import Extractor
from odmt.graph.content import ItemContent
from odmt.graph.edges import Edges
from odmt.graph.losses import bpr_loss
from odmt.graph.models.host import Host, total
from odmt.graph.sampling import PairBatch

SLOPE = 0.01  # of the LeakyReLU after the projection
PROPAGATIONS = 2  # layers of the ID graph


@dataclass(frozen=True)
class GRCNSettings:
    """What GRCN can be told.

    Attributes:
        routing: rounds in which a user's preference takes up what his items are like, 3 in the paper. Deviation: 0, what the
            official code comes to.
        pruning: let no edge count negatively ("hard" pruning). A sender whose confidence is below 0 in every modality then sends
            nothing and never learns again. Off in SGFD's commands ("soft" pruning), on by default in the original.
        reg_weight: of the mean squares of the batch's ID vectors and preferences (official `weight_decay`).
    """

    routing: int = 0
    pruning: bool = False
    reg_weight: float = 1e-3

    def __post_init__(self):
        for key in ("routing", "reg_weight"):
            require(getattr(self, key) >= 0, f"grcn.{key}", "must not be negative")


class GRCN(Host):
    """A user or an item is a propagated ID vector beside a content vector of every modality.

    With `PlainExtractor` it is the original GRCN; `SgfdExtractor` gives the same if its weights are 0.

    Args:
        edges: the train pairs.
        content: of the items; one modality at least.
        extractor: gives vectors of the content of width `dim`, and losses.
        num_users: U.
        num_items: N.
        dim: D, of the ID vectors and of what the extractor gives.
        settings: rounds and weights.
    """

    def __init__(
        self,
        edges: Edges,
        content: ItemContent,
        extractor: Extractor,
        num_users: int,
        num_items: int,
        dim: int,
        settings: GRCNSettings,
    ):
        super().__init__()
        self.edges, self.content, self.extractor, self.settings = edges, content, extractor, settings
        self.sizes = num_users, num_items
        num_nodes, modalities = num_users + num_items, extractor.modalities
        # Users, then items in one table each, as officially: Xavier's deviation depends on the number of rows.
        self.id_embedding = nn.Parameter(nn.init.xavier_normal_(torch.empty(num_nodes, dim)))
        self.preferences = nn.ParameterDict(
            {modality: nn.init.xavier_normal_(torch.empty(num_users, dim)) for modality in modalities}
        )
        self.confidence = nn.Parameter(nn.init.xavier_normal_(torch.empty(num_nodes, len(modalities))))

    def forward(self, batch: PairBatch, epoch: int) -> dict[str, Tensor]:
        """Compute the losses of a batch with sampled negatives; the extractor's are of positives and negatives.

        Returns:
            `loss`; `bpr`, `reg`, and the extractor's.
        """
        assert batch.negatives is not None, "the host asks for negatives"
        vectors = self.extractor(self.content())
        users, items = self.propagate(vectors)
        losses = {
            "bpr": bpr_loss(users[batch.users], items[batch.positives], items[batch.negatives]),
            "reg": self.settings.reg_weight * self._mean_squares(batch.users, batch.positives, batch.negatives),
        }
        seen, counts = torch.cat([batch.positives[:, None], batch.negatives], 1).unique(return_counts=True)
        of_seen = {modality: vector[seen] for modality, vector in vectors.items()}
        return total(losses | self.extractor.losses(self.content(seen), self.content.labels_of(seen), counts, of_seen))

    def representations(self) -> tuple[Tensor, Tensor]:
        """Users [U, (1 + M) D] and items [N, (1 + M) D]."""
        return self.propagate(self.extractor(self.content()))

    def propagate(self, vectors: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Refine the graph and let the ID vectors go over it.

        Args:
            vectors: [N, D] by modality, what the extractor gives.

        Returns:
            users [U, (1 + M) D] and items [N, (1 + M) D]: ID vectors, then the content of every modality.
        """
        user_contents, item_contents, to_users, to_items = self.refine(vectors)
        users, items = self.propagate_ids(to_users, to_items)
        return torch.cat([users, *user_contents], -1), torch.cat([items, *item_contents], -1)

    def refine(self, vectors: dict[str, Tensor]) -> tuple[list[Tensor], list[Tensor], Tensor, Tensor]:
        """Weigh the edges by how well content and preference fit.

        Args:
            vectors: [N, D] by modality.

        Returns:
            content of users [U, D] and of items [N, D], by modality, and the weights [E] of the edges to users and to items.
        """
        edges = self.edges
        of_users, of_items = self.confidence.split(self.sizes)
        of_users, of_items = of_users[edges.users], of_items[edges.items]  # [E, M], confidence of the senders
        user_contents, item_contents, to_users, to_items = [], [], [], []
        for column, modality in enumerate(self.extractor.modalities):
            items = F.normalize(F.leaky_relu(vectors[modality], SLOPE), dim=-1)  # [N, D]
            users = self.route(F.normalize(self.preferences[modality], dim=-1), items)  # [U, D]
            fit = edges.dot(users, items)  # [E]
            # Attention is over the edges that arrive at the receiving node.
            by_user, by_item = edges.softmax_over_items(fit), edges.softmax_over_users(fit)
            user_contents.append(users + edges.sum_to_users(by_user, items))
            item_contents.append(items + edges.sum_to_items(by_item, users))
            to_users.append(by_user * of_items[:, column])
            to_items.append(by_item * of_users[:, column])
        return user_contents, item_contents, torch.stack(to_users).amax(0), torch.stack(to_items).amax(0)

    def route(self, users: Tensor, items: Tensor) -> Tensor:
        """Let the preferences [U, D] take up the content [N, D] of the user's items, for the rounds of the settings."""
        for _ in range(self.settings.routing):
            agreement = self.edges.softmax_over_items(self.edges.dot(users, items))
            users = F.normalize(users + self.edges.sum_to_users(agreement, items), dim=-1)
        return users

    def propagate_ids(self, to_users: Tensor, to_items: Tensor) -> tuple[Tensor, Tensor]:
        """Sum the ID vectors and what two layers make of them, over edges of the weights [E] of each direction."""
        if self.settings.pruning:
            to_users, to_items = to_users.relu(), to_items.relu()
        users, items = F.normalize(self.id_embedding, dim=-1).split(self.sizes)
        user_sum, item_sum = users, items
        for _ in range(PROPAGATIONS):
            users, items = self.edges.sum_to_users(to_users, items), self.edges.sum_to_items(to_items, users)
            user_sum, item_sum = user_sum + users, item_sum + items
        return user_sum, item_sum

    def _mean_squares(self, of_users: Tensor, positives: Tensor, negatives: Tensor) -> Tensor:
        """Of the raw ID vectors and preferences of a batch's rows; those of its items count half each."""
        users, items = self.id_embedding.split(self.sizes)
        of_items = (items[positives].square().mean() + items[negatives].square().mean()) / 2
        preferences = sum(table[of_users].square().mean() for table in self.preferences.values())
        return users[of_users].square().mean() + of_items + preferences
