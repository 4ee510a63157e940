"""The normalised adjacency of the user-item graph, and propagation over it as BM3 and LightGCN do it.

Legend: U users, N items, E train pairs, D width. Nodes are the users, then the items.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Adjacency(nn.Module):
    """D^-1/2 A D^-1/2, A having 1 for every distinct pair in both directions; a node without pairs has an empty row.

    Degrees have 1e-7 added, as in BM3. Deviation: LightGCN adds nothing; the difference is below what float32 tells apart.

    Choice: no sparse tensor, whose products take 2 to 8 times as long on a CPU as a bag of rows does. The matrix is symmetric, so
    that the gradient is the same product.

    Args:
        users: int64 [E], from 0.
        items: int64 [E], from 0; a pair that stands twice counts once.
        num_users: U.
        num_items: N.
    """

    starts: Tensor
    columns: Tensor
    values: Tensor

    def __init__(self, users: Tensor, items: Tensor, num_users: int, num_items: int):
        super().__init__()
        pairs = (users * num_items + items).unique()
        users, items = pairs // num_items, pairs % num_items + num_users
        senders, receivers = torch.cat([items, users]), torch.cat([users, items])
        order = torch.argsort(receivers, stable=True)
        degrees = torch.bincount(receivers, minlength=num_users + num_items)
        scale = (degrees.double() + 1e-7).rsqrt()
        self.register_buffer("starts", F.pad(degrees.cumsum(0), (1, 0)), persistent=False)  # of every node's row [U + N + 1]
        self.register_buffer("columns", senders[order], persistent=False)  # [2E]
        values = (scale[senders] * scale[receivers])[order].float()
        self.register_buffer("values", values, persistent=False)  # [2E]

    def forward(self, vectors: Tensor) -> Tensor:
        """Multiply by vectors [U + N, D] of the nodes."""
        return _Product.apply(vectors, self)

    def mean_of_layers(self, vectors: Tensor, num_layers: int) -> Tensor:
        """Mean of the vectors [U + N, D] and of what each of `num_layers` propagations makes of the one before."""
        mean = vectors
        for _ in range(num_layers):
            vectors = self(vectors)
            mean = mean + vectors
        return mean / (num_layers + 1)


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx, vectors: Tensor, adjacency: Adjacency) -> Tensor:
        ctx.adjacency = adjacency
        return _sum_rows(adjacency, vectors)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient: Tensor):
        return _sum_rows(ctx.adjacency, gradient), None


def _sum_rows(adjacency: Adjacency, vectors: Tensor) -> Tensor:
    return F.embedding_bag(
        adjacency.columns,
        vectors.contiguous(),
        adjacency.starts,
        mode="sum",
        per_sample_weights=adjacency.values.to(vectors.dtype),
        include_last_offset=True,
    )
