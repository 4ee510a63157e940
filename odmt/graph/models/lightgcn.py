"""LightGCN: embeddings propagated over the graph and nothing else.

"LightGCN: Simplifying and Powering Graph Convolution Network for Recommendation" (He et al., SIGIR 2020). A baseline without
features.

Legend: U users, N items, B rows of a batch, D width.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from odmt.config import require
from odmt.graph.adjacency import Adjacency
from odmt.graph.models.bprmf import BPRMF


@dataclass(frozen=True)
class LightGCNSettings:
    """What LightGCN and BPR-MF can be told.

    Attributes:
        num_layers: propagations over the graph; BPR-MF has none.
        reg_weight: of the squared norms of the batch's embeddings.
    """

    num_layers: int = 2
    reg_weight: float = 1e-4

    def __post_init__(self):
        require(self.num_layers >= 1, "lightgcn.num_layers", "must be 1 or more; host=bprmf has none")
        require(self.reg_weight >= 0, "lightgcn.reg_weight", "must not be negative")


class LightGCN(BPRMF):
    """The mean of the embeddings over the layers, trained like BPR-MF; the penalty is on the embeddings of layer 0.

    Args:
        adjacency: of the train pairs.
        num_users: U.
        num_items: N.
        dim: D.
        num_layers: propagations over the graph.
        reg_weight: of the squared norms of the batch's embeddings.
    """

    def __init__(self, adjacency: Adjacency, num_users: int, num_items: int, dim: int, num_layers: int, reg_weight: float):
        super().__init__(num_users, num_items, dim, reg_weight)
        self.adjacency, self.num_layers = adjacency, num_layers

    def representations(self) -> tuple[Tensor, Tensor]:
        """Mean over the layers of users [U, D] and items [N, D]."""
        sizes = [self.user_embedding.num_embeddings, self.item_embedding.num_embeddings]
        embeddings = torch.cat([self.user_embedding.weight, self.item_embedding.weight])
        return self.adjacency.mean_of_layers(embeddings, self.num_layers).split(sizes)
