"""What every sequence backbone owes: causality, no difference by padding or by the other users; and SASRec's positions."""

import pytest
import torch

from odmt.sequential.models.gru4rec import GRU4Rec
from odmt.sequential.models.nextitnet import NextItNet
from odmt.sequential.models.sasrec import SASRec

DIM, MAX_SEQ_LEN, LENGTHS = 8, 7, [3, 7, 1, 5]
BACKBONES = {
    "sasrec": lambda: SASRec(DIM, MAX_SEQ_LEN),
    "gru4rec": lambda: GRU4Rec(DIM, hidden_dim=6),
    "nextitnet": lambda: NextItNet(DIM),
}
ENDS = torch.tensor(LENGTHS).cumsum(0).tolist()


@pytest.fixture(params=BACKBONES)
def backbone(request):
    torch.manual_seed(0)
    return BACKBONES[request.param]().double().eval()


@pytest.fixture
def rows() -> torch.Tensor:
    return torch.randn(sum(LENGTHS), DIM, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def states(backbone, rows, lengths=LENGTHS, longest=None) -> torch.Tensor:
    with torch.no_grad():
        return backbone(rows, torch.tensor(lengths), longest or max(lengths))


def test_a_state_sees_its_past_and_present_only(backbone, rows):
    before = states(backbone, rows)
    for user, (end, length) in enumerate(zip(ENDS, LENGTHS)):
        for position in range(end - length, end):
            changed = rows.clone()
            changed[position, 0] += 1  # not all components: SASRec starts with a LayerNorm
            differs = (states(backbone, changed) - before).abs().amax(1) > 1e-12
            assert not differs[:position].any(), f"user {user} sees the future"
            assert not differs[end:].any(), "another user sees it"
            assert differs[position:end].all(), "a later state has forgotten it"


def test_users_do_not_depend_on_one_another(backbone, rows):
    """Alone, in a batch as wide as any, or in another order: the same states."""
    together = states(backbone, rows)
    for end, length in zip(ENDS, LENGTHS):
        own = slice(end - length, end)
        torch.testing.assert_close(states(backbone, rows[own], [length]), together[own])
        torch.testing.assert_close(states(backbone, rows[own], [length], MAX_SEQ_LEN), together[own])
    turned = torch.cat([rows[end - length : end] for end, length in zip(ENDS[::-1], LENGTHS[::-1])])
    expected = torch.cat([together[end - length : end] for end, length in zip(ENDS[::-1], LENGTHS[::-1])])
    torch.testing.assert_close(states(backbone, turned, LENGTHS[::-1]), expected)


def test_a_user_without_items_has_no_state(backbone, rows):
    lengths = [0, *LENGTHS[:2], 0, *LENGTHS[2:]]
    torch.testing.assert_close(states(backbone, rows, lengths), states(backbone, rows))


def test_gradients_do_not_depend_on_padding(backbone, rows):
    def gradients(longest):
        backbone.zero_grad()
        leaf = rows[:3].clone().requires_grad_()
        backbone(leaf, torch.tensor([3]), longest).square().sum().backward()
        return [leaf.grad, *(p.grad.clone() for p in backbone.parameters())]

    for narrow, wide in zip(gradients(3), gradients(MAX_SEQ_LEN)):
        assert narrow.isfinite().all()
        torch.testing.assert_close(narrow, wide)


def test_sasrec_knows_the_order_and_counts_positions_from_the_end(rows):
    torch.manual_seed(0)
    backbone = SASRec(DIM, MAX_SEQ_LEN, num_layers=1).double().eval()
    before = states(backbone, rows[:3], [3])
    swapped = states(backbone, rows[[1, 0, 2]], [3])
    assert not torch.allclose(swapped[2], before[2])
    with torch.no_grad():
        backbone.position.weight[: MAX_SEQ_LEN - 3] += 1  # positions that three items do not reach
    assert torch.equal(states(backbone, rows[:3], [3]), before)
    with torch.no_grad():
        backbone.position.weight[MAX_SEQ_LEN - 1, 0] += 1
    after = states(backbone, rows[:3], [3])
    assert torch.equal(after[:2], before[:2])
    assert not torch.allclose(after[2], before[2])


def test_sasrec_starts_as_specified():
    """Xavier normal for every linear and embedding weight, zero biases."""
    torch.manual_seed(0)
    backbone = SASRec(64, 50)
    for name, parameter in backbone.named_parameters():
        if "norm" in name:
            assert torch.equal(parameter, torch.full_like(parameter, float(name.endswith("weight"))))
        elif name.endswith("bias"):
            assert parameter.abs().sum() == 0
        else:
            fan_out, fan_in = parameter.shape
            assert parameter.std().item() == pytest.approx((2 / (fan_in + fan_out)) ** 0.5, rel=0.05), name
    assert [block.num_heads for block in backbone.blocks] == [2, 2]
    assert backbone.norm.eps == backbone.blocks[0].attention_norm.eps == 1e-6
