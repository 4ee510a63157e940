"""What every recommender on the user-item graph offers to training and ranking.

A host has an extractor (`odmt.features.extractors`) where it uses the items' content and adds the extractor's losses to its own.
Users and items are numbered from 0.

Legend: U users, N items, B rows of a batch or users of a block, D width.
"""

from abc import abstractmethod
from functools import reduce
from operator import add

import torch
from torch import Tensor, nn

from odmt.graph.sampling import PairBatch


class Host(nn.Module):
    """A recommender whose scores are dot products of representations, unless `prepare` and `scores` say otherwise.

    Attributes:
        dot_products: whether they are.
    """

    dot_products = True

    def __init__(self):
        super().__init__()
        self._prepared = None

    @abstractmethod
    def forward(self, batch: PairBatch, epoch: int) -> dict[str, Tensor]:
        """Compute the losses of a batch; the epoch is from 1.

        Returns:
            `loss`, the sum of the others, which have their weights.
        """

    @abstractmethod
    def representations(self) -> tuple[Tensor, Tensor]:
        """Users [U, D] and items [N, D] under the weights of now."""

    def prepare(self) -> tuple[Tensor, ...]:
        """Work out what all scores depend on; called once for all blocks of users."""
        return self.representations()

    @torch.no_grad()
    def scores(self, users: Tensor) -> Tensor:
        """The scores [B, N] of all items for users int64 [B], without dropout and gradient."""
        user_vectors, item_vectors = self.prepared()
        return user_vectors[users] @ item_vectors.T

    @torch.no_grad()
    def prepared(self) -> tuple[Tensor, ...]:
        """What `prepare` gives in evaluation mode, worked out again when a weight has changed."""
        weights = [(weight.data_ptr(), weight._version) for weight in self.parameters()]
        if self._prepared is None or self._prepared[0] != weights:
            training = self.training
            prepared = self.eval().prepare()
            self.train(training)
            self._prepared = weights, prepared
        return self._prepared[1]

    def train(self, mode: bool = True) -> "Host":
        """Change the mode; what was prepared for scoring is not kept through training."""
        if mode:
            self._prepared = None
        return super().train(mode)

    def after_step(self):
        """Do what follows every step of the optimizer: nothing."""


def total(losses: dict[str, Tensor]) -> dict[str, Tensor]:
    """Put the sum of all losses before them as `loss`."""
    return {"loss": reduce(add, losses.values()), **losses}
