"""Matrix factorisation trained to rank train items above sampled ones.

"BPR: Bayesian Personalized Ranking from Implicit Feedback" (Rendle et al., UAI 2009). A baseline without features or graph.

Legend: U users, N items, B rows of a batch, K negatives a row, D width.
"""

from torch import Tensor, nn

from odmt.graph.losses import bpr_loss
from odmt.graph.models.host import Host, total
from odmt.graph.sampling import PairBatch


class BPRMF(Host):
    """One vector a user, one an item.

    Choice: start (normal, deviation 0.1) and penalty are LightGCN's, so that the two differ by the graph alone.

    Args:
        num_users: U.
        num_items: N.
        dim: D.
        reg_weight: of the squared norms of the batch's embeddings.
    """

    def __init__(self, num_users: int, num_items: int, dim: int, reg_weight: float):
        super().__init__()
        self.reg_weight = reg_weight
        self.user_embedding = nn.Embedding(num_users, dim)
        self.item_embedding = nn.Embedding(num_items, dim)
        nn.init.normal_(self.user_embedding.weight, std=0.1)
        nn.init.normal_(self.item_embedding.weight, std=0.1)

    def forward(self, batch: PairBatch, epoch: int) -> dict[str, Tensor]:
        """Compute the losses of a batch.

        Returns:
            `loss`; `bpr` and `reg`, half the mean over the rows of the squared norms of its embeddings.
        """
        assert batch.negatives is not None, "the host asks for negatives"
        users, items = self.representations()
        own = self.user_embedding(batch.users), self.item_embedding(batch.positives), self.item_embedding(batch.negatives)
        squares = own[0].square().sum() + own[1].square().sum() + own[2].square().sum() / batch.negatives.shape[1]
        return total(
            {
                "bpr": bpr_loss(users[batch.users], items[batch.positives], items[batch.negatives]),
                "reg": self.reg_weight / 2 * squares / len(batch.users),
            }
        )

    def representations(self) -> tuple[Tensor, Tensor]:
        """Users [U, D] and items [N, D]."""
        return self.user_embedding.weight, self.item_embedding.weight
