"""Dropout: its distribution, its gradient, its reproducibility."""

import pytest
import torch

from odmt.sequential.models.dropout import Dropout


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_the_share_that_is_dropped_and_the_scale_of_the_rest(p):
    torch.manual_seed(0)
    out = Dropout(p)(torch.ones(1_000_001))
    dropped = (out == 0).float().mean().item()
    assert dropped == pytest.approx(p, abs=0.003)  # six standard deviations
    assert out.unique().tolist() == pytest.approx([0.0, 1 / (1 - p)], rel=1e-3)


def test_elements_are_dropped_independently():
    torch.manual_seed(0)
    kept = (Dropout(0.3)(torch.ones(400_000)) > 0).double()
    for distance in (1, 2, 3, 4, 8, 1000):
        pair = torch.corrcoef(torch.stack([kept[:-distance], kept[distance:]]))[0, 1]
        assert abs(pair) < 0.01


def test_the_gradient_has_the_same_mask():
    x = torch.randn(7, 5, dtype=torch.float64, requires_grad=True)
    out = Dropout(0.4)(x)
    out.sum().backward()
    torch.testing.assert_close(x.grad * x.detach(), out.detach())


def test_a_seed_repeats_it_and_the_next_call_does_not():
    torch.manual_seed(3)
    dropout, x = Dropout(0.5), torch.ones(100)
    first, second = dropout(x), dropout(x)
    assert not torch.equal(first, second)
    torch.manual_seed(3)
    assert torch.equal(dropout(x), first)


def test_nothing_is_dropped_in_evaluation_nor_at_0():
    x = torch.randn(50)
    assert torch.equal(Dropout(0.5).eval()(x), x)
    assert torch.equal(Dropout(0.0)(x), x)


def test_half_precision_stays():
    assert Dropout(0.5)(torch.ones(10, dtype=torch.bfloat16)).dtype == torch.bfloat16


def test_a_probability_near_1_leaves_something():
    assert torch.isfinite(Dropout(0.9999999)(torch.ones(1000))).all()
