"""Dot products and weighted sums along the edges of the user-item graph, without ever making a vector an edge.

The one place of the graph models that is tuned for speed. A gather writes E vectors of width D to memory and reads them again,
twice an operation and twice again for its gradient. Here a dot product of every edge is a sampled dense product, and a sum over a
node's edges a bag of rows; the gradient of either is made of the two others, so that nothing is larger than the [E] weights and
the [U, D] and [N, D] tables. On a CPU either is 10 to 20 times faster than the gathers (BENCHMARKS.md).

Legend: U users, N items, E edges, D width.
"""

import warnings

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

with warnings.catch_warnings():  # The first such tensor of a process says that they are in beta; let it be this one.
    warnings.simplefilter("ignore")
    torch.sparse_csr_tensor(torch.zeros(1, dtype=torch.long), torch.zeros(0, dtype=torch.long), torch.zeros(0), (0, 0))


class Edges(nn.Module):
    """The pairs of users and items, in both orders; edge e connects `users[e]` and `items[e]`.

    A pair that is given twice is two edges. The edges are sorted by user, then by item.

    Args:
        users: int64 [E], from 0.
        items: int64 [E], from 0.
        num_users: U.
        num_items: N.
    """

    users: Tensor
    items: Tensor
    by_item: Tensor
    users_by_item: Tensor
    user_starts: Tensor
    item_starts: Tensor

    def __init__(self, users: Tensor, items: Tensor, num_users: int, num_items: int):
        super().__init__()
        by_user = torch.argsort(users * num_items + items)
        users, items = users[by_user], items[by_user]
        by_item = torch.argsort(items, stable=True)
        buffers = {
            "users": users,
            "items": items,
            "by_item": by_item,  # the edges in the order of their items
            "users_by_item": users[by_item],
            "user_starts": _starts(users, num_users),  # of a user's edges, and where the last user's end [U + 1]
            "item_starts": _starts(items, num_items),  # of an item's edges among `by_item` [N + 1]
        }
        for name, buffer in buffers.items():
            self.register_buffer(name, buffer, persistent=False)

    def __len__(self) -> int:
        """E."""
        return len(self.users)

    def dot(self, users: Tensor, items: Tensor) -> Tensor:
        """Vectors [U, D] and [N, D] -> the dot product of either end of every edge [E]."""
        return _Dot.apply(users, items, self)

    def sum_to_users(self, weights: Tensor, items: Tensor) -> Tensor:
        """Weights [E] and vectors [N, D] -> the weighted sum of every user's items [U, D]; 0 for a user without."""
        return _SumToUsers.apply(weights, items, self)

    def sum_to_items(self, weights: Tensor, users: Tensor) -> Tensor:
        """Weights [E] and vectors [U, D] -> the weighted sum of every item's users [N, D]; 0 for an item without."""
        return _SumToItems.apply(weights, users, self)

    def softmax_over_items(self, logits: Tensor) -> Tensor:
        """Logits [E] -> their softmax over the items of each user [E]."""
        return _softmax(logits, self.users, len(self.user_starts) - 1)

    def softmax_over_users(self, logits: Tensor) -> Tensor:
        """Logits [E] -> their softmax over the users of each item [E]."""
        return _softmax(logits, self.items, len(self.item_starts) - 1)


class _Dot(torch.autograd.Function):
    @staticmethod
    def forward(ctx, users: Tensor, items: Tensor, edges: Edges) -> Tensor:
        ctx.save_for_backward(users, items)
        ctx.edges = edges
        return _dot(edges, users, items)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor):
        users, items = ctx.saved_tensors
        to_users, to_items, _ = ctx.needs_input_grad
        return (
            _sum_to_users(ctx.edges, gradient, items) if to_users else None,
            _sum_to_items(ctx.edges, gradient, users) if to_items else None,
            None,
        )


class _SumToUsers(torch.autograd.Function):
    @staticmethod
    def forward(ctx, weights: Tensor, items: Tensor, edges: Edges) -> Tensor:
        ctx.save_for_backward(weights, items)
        ctx.edges = edges
        return _sum_to_users(edges, weights, items)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor):
        weights, items = ctx.saved_tensors
        to_weights, to_items, _ = ctx.needs_input_grad
        return (
            _dot(ctx.edges, gradient, items) if to_weights else None,
            _sum_to_items(ctx.edges, weights, gradient) if to_items else None,
            None,
        )


class _SumToItems(torch.autograd.Function):
    @staticmethod
    def forward(ctx, weights: Tensor, users: Tensor, edges: Edges) -> Tensor:
        ctx.save_for_backward(weights, users)
        ctx.edges = edges
        return _sum_to_items(edges, weights, users)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor):
        weights, users = ctx.saved_tensors
        to_weights, to_users, _ = ctx.needs_input_grad
        return (
            _dot(ctx.edges, users, gradient) if to_weights else None,
            _sum_to_users(ctx.edges, weights, gradient) if to_users else None,
            None,
        )


def _dot(edges: Edges, users: Tensor, items: Tensor) -> Tensor:
    zeros, size = users.new_zeros(len(edges)), (len(users), len(items))
    places = torch.sparse_csr_tensor(edges.user_starts, edges.items, zeros, size, check_invariants=False)
    return torch.sparse.sampled_addmm(places, users.contiguous(), items.contiguous().t(), beta=0.0).values()


def _sum_to_users(edges: Edges, weights: Tensor, items: Tensor) -> Tensor:
    return _sum_rows(edges.items, edges.user_starts, weights, items)


def _sum_to_items(edges: Edges, weights: Tensor, users: Tensor) -> Tensor:
    return _sum_rows(edges.users_by_item, edges.item_starts, weights[edges.by_item], users)


def _sum_rows(rows: Tensor, starts: Tensor, weights: Tensor, table: Tensor) -> Tensor:
    return F.embedding_bag(
        rows, table.contiguous(), starts, mode="sum", per_sample_weights=weights.contiguous(), include_last_offset=True
    )


def _softmax(logits: Tensor, nodes: Tensor, num_nodes: int) -> Tensor:
    """Softmax of the edges [E] of each node; shifted by the node's largest, so that none overflows."""
    largest = logits.new_full((num_nodes,), -torch.inf).scatter_reduce(0, nodes, logits.detach(), "amax")
    powers = (logits - largest[nodes]).exp()
    return powers / powers.new_zeros(num_nodes).index_add(0, nodes, powers)[nodes]


def _starts(sorted_nodes: Tensor, num_nodes: int) -> Tensor:
    """Where the edges of every node begin among the sorted ones, and the end of the last [number of nodes + 1]."""
    return F.pad(torch.bincount(sorted_nodes, minlength=num_nodes).cumsum(0), (1, 0))
