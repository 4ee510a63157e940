"""The step size over a run; AdamW with sparse gradients against PyTorch's own with dense ones."""

import math

import pytest
import torch
from torch import nn

from odmt.config import TrainConfig
from odmt.optimizer import SparseGradAdamW, clip_norm, step_size
from odmt.sequential.models.towers import ItemTable


def model_of(sparse: bool) -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(ItemTable(torch.randn(20, 6)), nn.Linear(6, 3))
    model[0].sparse = sparse
    return model


def losses_of(model: nn.Module, batches: list[torch.Tensor]):
    for numbers in batches:
        yield (model(numbers) ** 2).sum() / 10


@pytest.mark.parametrize("max_norm", [0.05, 100.0])
def test_sparse_gradients_give_the_weights_of_dense_ones(max_norm):
    """Rows seen once, in several steps, twice in one, and never: these decay, and coast on the moments of their last step."""
    batches = [torch.tensor(numbers) for numbers in ([1, 2, 3], [3, 3, 7], [5], [1, 5, 5, 5], [9, 3])]
    ours, torchs = model_of(sparse=True), model_of(sparse=False)
    optimizer = SparseGradAdamW(ours.parameters(), 0.01, 0.1)
    reference = torch.optim.AdamW(torchs.parameters(), 0.01, weight_decay=0.1)
    for loss, expected in zip(losses_of(ours, batches), losses_of(torchs, batches)):
        optimizer.zero_grad()
        loss.backward()
        assert ours[0].weight.grad.is_sparse
        norm = clip_norm(ours.parameters(), max_norm)
        optimizer.step()
        reference.zero_grad()
        expected.backward()
        torch.testing.assert_close(norm, nn.utils.clip_grad_norm_(torchs.parameters(), max_norm))
        reference.step()
        torch.testing.assert_close(ours[0].weight.grad.to_dense(), torchs[0].weight.grad)
        for parameter, wanted in zip(ours.parameters(), torchs.parameters()):
            torch.testing.assert_close(parameter, wanted)


def test_its_state_is_adamws():
    """A checkpoint of one can be continued by the other."""
    model = model_of(sparse=True)
    optimizer = SparseGradAdamW(model.parameters(), 0.01, 0.1)
    next(losses_of(model, [torch.tensor([4, 4, 2])])).backward()
    optimizer.step()
    other = torch.optim.AdamW(model.parameters(), 0.01)
    other.load_state_dict(optimizer.state_dict())
    moments = other.state[model[0].weight]
    assert sorted(moments) == ["exp_avg", "exp_avg_sq", "step"]
    assert (moments["exp_avg"].abs().sum(1) > 0).nonzero().flatten().tolist() == [2, 4]


@pytest.mark.parametrize(
    ("decay", "trained", "share"),
    [
        ("none", 0.5, 0.5 / 2),
        ("none", 2, 1),
        ("none", 9.9, 1),
        ("cosine", 1.5, 1.5 / 2),
        ("cosine", 2, 1),
        ("cosine", 4, (1 + math.cos(math.pi * 2 / 8)) / 2),
        ("cosine", 6, 1 / 2),
        ("cosine", 10, 0),
    ],
)
def test_the_step_size_rises_over_two_epochs_of_ten_and_stays_or_falls(decay, trained, share):
    train = TrainConfig(epochs=10, lr=0.3, warm_up_epochs=2, decay=decay)
    assert step_size(train, trained) == pytest.approx(0.3 * share)


def test_without_warm_up_the_first_step_is_whole():
    assert step_size(TrainConfig(epochs=10, lr=0.3), 0.0) == 0.3
