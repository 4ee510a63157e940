import pytest
import torch

from odmt.graph.adjacency import Adjacency

NUM_USERS, NUM_ITEMS = 4, 5
USERS, ITEMS = torch.tensor([0, 0, 1, 1, 1, 3, 0]), torch.tensor([0, 1, 1, 2, 4, 4, 0])  # user 2, item 3 alone; (0, 0) twice


@pytest.fixture
def dense() -> torch.Tensor:
    pairs = torch.zeros(NUM_USERS, NUM_ITEMS, dtype=torch.float64)
    pairs[USERS, ITEMS] = 1
    matrix = torch.zeros(9, 9, dtype=torch.float64)
    matrix[:NUM_USERS, NUM_USERS:], matrix[NUM_USERS:, :NUM_USERS] = pairs, pairs.T
    scale = (matrix.sum(1) + 1e-7).rsqrt()
    return scale[:, None] * matrix * scale


def test_matrix(dense):
    adjacency = Adjacency(USERS, ITEMS, NUM_USERS, NUM_ITEMS)
    torch.testing.assert_close(adjacency(torch.eye(9)), dense.float())
    assert adjacency(torch.eye(9))[2].abs().max() == 0, "a node without pairs has an empty row"


def test_mean_of_layers_and_its_gradient(dense):
    adjacency = Adjacency(USERS, ITEMS, NUM_USERS, NUM_ITEMS).double()
    adjacency.values = dense[dense.nonzero(as_tuple=True)]
    vectors = torch.randn(9, 3, dtype=torch.float64, requires_grad=True)
    expected = (vectors + dense @ vectors + dense @ (dense @ vectors)) / 3
    torch.testing.assert_close(adjacency.mean_of_layers(vectors, 2), expected)
    assert adjacency.mean_of_layers(vectors, 0) is not None
    assert torch.autograd.gradcheck(lambda v: adjacency.mean_of_layers(v, 2), vectors)


def test_weights_files_hold_no_graph():
    assert Adjacency(USERS, ITEMS, NUM_USERS, NUM_ITEMS).state_dict() == {}


def test_no_pairs():
    empty = torch.zeros(0, dtype=torch.int64)
    assert Adjacency(empty, empty, 2, 3)(torch.ones(5, 4)).abs().max() == 0
