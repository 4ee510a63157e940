"""Products along the edges against what a gather gives, and their gradients."""

import copy

import pytest
import torch

from odmt.graph.edges import Edges

NUM_USERS, NUM_ITEMS, DIM = 6, 5, 3
# User 5 and item 4 have no edge; the pair (0, 1) is there twice.
USERS = torch.tensor([3, 0, 0, 1, 2, 4, 0, 2, 1])
ITEMS = torch.tensor([0, 1, 3, 0, 2, 2, 1, 0, 3])


@pytest.fixture
def edges() -> Edges:
    return Edges(USERS, ITEMS, NUM_USERS, NUM_ITEMS)


def tables(**kwargs) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Users [U, D], items [N, D], weights [E]."""
    generator = torch.Generator().manual_seed(1)
    sizes = (NUM_USERS, DIM), (NUM_ITEMS, DIM), (len(USERS),)
    return tuple(torch.randn(size, generator=generator, dtype=torch.double).requires_grad_() for size in sizes)


def test_edges_are_sorted_and_none_is_lost(edges):
    assert len(edges) == 9
    assert edges.users.tolist() == [0, 0, 0, 1, 1, 2, 2, 3, 4]
    assert edges.items.tolist() == [1, 1, 3, 0, 3, 0, 2, 0, 2]


def test_products_are_those_of_gathers(edges):
    users, items, weights = tables()
    torch.testing.assert_close(edges.dot(users, items), (users[edges.users] * items[edges.items]).sum(-1))
    dense = torch.zeros(NUM_USERS, NUM_ITEMS, dtype=torch.double).index_put((edges.users, edges.items), weights, accumulate=True)
    torch.testing.assert_close(edges.sum_to_users(weights, items), dense @ items)
    torch.testing.assert_close(edges.sum_to_items(weights, users), dense.T @ users)
    assert edges.sum_to_users(weights, items)[5].eq(0).all()
    assert edges.sum_to_items(weights, users)[4].eq(0).all()


def test_gradients(edges):
    users, items, weights = tables()
    assert torch.autograd.gradcheck(edges.dot, (users, items))
    assert torch.autograd.gradcheck(edges.sum_to_users, (weights, items))
    assert torch.autograd.gradcheck(edges.sum_to_items, (weights, users))
    assert torch.autograd.gradcheck(edges.softmax_over_items, (weights,))
    assert torch.autograd.gradcheck(edges.softmax_over_users, (weights,))


def test_softmax_is_over_each_node_and_does_not_overflow(edges):
    logits = torch.tensor([2.0, 2.0, 1.0, 900.0, 0.0, 5.0, 5.0, -900.0, 3.0])
    over_items = edges.softmax_over_items(logits)
    torch.testing.assert_close(over_items[:3], logits[:3].softmax(0))
    assert over_items[3:].tolist() == [1, 0, 0.5, 0.5, 1, 1]
    of_item_0 = edges.softmax_over_users(logits)[edges.items == 0]
    torch.testing.assert_close(of_item_0, logits[edges.items == 0].softmax(0))


def test_only_what_needs_a_gradient_gets_one(edges):
    users, items, weights = tables()
    edges.dot(users, items.detach()).sum().backward()
    edges.sum_to_users(weights.detach(), items).sum().backward()
    assert users.grad is not None
    assert items.grad is not None
    assert weights.grad is None


def test_a_graph_without_edges():
    edges = Edges(USERS[:0], ITEMS[:0], NUM_USERS, NUM_ITEMS)
    users, items, weights = tables()
    assert edges.dot(users, items).shape == (0,)
    assert edges.softmax_over_items(weights[:0]).shape == (0,)
    assert edges.sum_to_items(weights[:0], users).eq(0).all()


def test_edges_are_no_part_of_the_weights_and_can_be_copied(edges):
    assert copy.deepcopy(edges).state_dict() == {}
