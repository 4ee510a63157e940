"""Sources computed as one, as on a GPU, have the numbers of sources computed one after the other."""

import copy

import pytest
import torch
from torch import nn

from odmt.sequential.batches import Sequences
from odmt.sequential.config import DistillationConfig
from odmt.sequential.losses import debiased_cross_entropy, distillation_loss, in_batch_logits
from odmt.sequential.models import sources
from odmt.sequential.models.gru4rec import GRU4Rec
from odmt.sequential.models.nextitnet import NextItNet
from odmt.sequential.models.recommender import SourceBackbones
from odmt.sequential.models.sasrec import SASRec
from odmt.sequential.models.sources import apply_each, for_each
from odmt.sequential.models.towers import head
from odmt.sequential.models.transformer import TransformerBlock

DIM, LENGTHS = 8, [3, 7, 0, 1, 5]


class Own(nn.Module):
    """A backbone of a user's own: the mean of a user's items so far, projected."""

    def __init__(self):
        super().__init__()
        self.out = nn.Linear(DIM, DIM)

    def forward(self, rows, lengths, longest):
        assert rows.shape == (int(lengths.sum()), DIM)
        parts = rows.split(lengths.tolist())
        return self.out(torch.cat([part.cumsum(0) / torch.arange(1, len(part) + 1)[:, None] for part in parts]))


class Changed(SASRec):
    """One of the package's, with a forward that knows of one source alone."""

    def forward(self, rows, lengths, longest):
        return super().forward(rows - rows.mean(0), lengths, longest)


BACKBONES = {
    "sasrec": lambda: SASRec(DIM, 7, num_layers=2, dropout=0.0),
    "sasrec, one head": lambda: SASRec(DIM, 9, num_layers=1, num_heads=1, dropout=0.0),
    "nextitnet": lambda: NextItNet(DIM, (1, 4)),
    "gru4rec": lambda: GRU4Rec(DIM, hidden_dim=6, dropout=0.0),
    "own": Own,
    "changed": lambda: Changed(DIM, 7, dropout=0.0),
    "a layer replaced": lambda: replaced(SASRec(DIM, 7, dropout=0.0)),
}
STACKED = ("sasrec", "sasrec, one head", "nextitnet")


def replaced(backbone: SASRec) -> SASRec:
    backbone.norm = nn.LayerNorm(DIM)
    return backbone


@pytest.fixture
def as_one(monkeypatch):
    monkeypatch.setattr(sources, "ONE_BY_ONE", ())


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def several(make, count: int = 3) -> list[nn.Module]:
    """Modules of all weights random, so that no LayerNorm or bias hides an error."""
    modules = [make().double() for _ in range(count)]
    with torch.no_grad():
        for module in modules:
            for parameter in module.parameters():
                parameter.add_(torch.randn_like(parameter), alpha=0.3)
    return modules


def outputs_and_gradients(modules, inputs, *shared):
    inputs = [part.clone().requires_grad_() for part in inputs]
    outputs = apply_each(modules, inputs, *shared)
    sum((number + 1) * output.square().sum() for number, output in enumerate(outputs)).backward()
    parameters = [parameter for module in modules for parameter in module.parameters()]
    assert all(parameter.grad.stride() == parameter.stride() for parameter in parameters)
    return [*outputs, *(part.grad for part in inputs), *(parameter.grad for parameter in parameters)]


@pytest.mark.parametrize("name", BACKBONES)
@pytest.mark.parametrize("lengths", [LENGTHS, [4, 4, 4]], ids=["mixed", "all as long"])
def test_backbones(name, lengths, monkeypatch):
    backbones = several(BACKBONES[name])
    inputs = [torch.randn(sum(lengths), DIM, dtype=torch.float64) for _ in backbones]
    shared = torch.tensor(lengths), max(lengths)
    apart = copy.deepcopy(backbones)
    expected = outputs_and_gradients(apart, inputs, *shared)
    monkeypatch.setattr(sources, "ONE_BY_ONE", ())
    calls = []
    for number, backbone in enumerate(backbones):
        backbone.register_forward_hook(lambda *_, number=number: calls.append(number))
    got = outputs_and_gradients(backbones, inputs, *shared)
    assert calls == ([0] if name in STACKED else [0, 1, 2])
    for one, other in zip(got, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)


class InPlace(nn.Module):
    """A backbone of a user's own that writes to the rows it is given."""

    def forward(self, rows, lengths, longest):
        rows += 1
        return rows.mul_(2)


def test_a_backbone_may_change_its_rows(as_one):
    vectors = {source: torch.randn(3, DIM, requires_grad=True) for source in ("id", "text")}
    users = SourceBackbones({source: InPlace() for source in vectors})
    states = users(vectors, Sequences(torch.tensor([2, 0, 2]), torch.tensor([1, 2]), 2))
    for source, state in states.items():
        torch.testing.assert_close(state, (vectors[source][[2, 0, 2]] + 1) * 2)
        state.sum().backward()
        assert vectors[source].grad[:, 0].tolist() == [2, 0, 4]


def test_heads(as_one):
    heads, inputs = several(lambda: head(6, 4)), torch.randn(3, 5, 6, dtype=torch.float64)
    expected = [module(part) for module, part in zip(heads, inputs)]
    torch.testing.assert_close(list(apply_each(heads, inputs.unbind())), expected)


@pytest.mark.parametrize(
    "other",
    [
        lambda: TransformerBlock(8, 4, 0.1),
        lambda: TransformerBlock(8, 2, 0.2),
        lambda: SASRec(8, 5),
        lambda: nn.Sequential(head(8, 8), head(8, 8)),
    ],
    ids=["heads", "dropout", "class", "parts"],
)
def test_what_is_not_alike_is_computed_apart(other):
    one = TransformerBlock(8, 2, 0.1)
    assert sources._stacked([one, TransformerBlock(8, 2, 0.1)]).keys() == dict(one.named_parameters()).keys()
    assert sources._stacked([one, other()]) is None


def test_sources_have_dropout_of_their_own(as_one):
    backbones = [copy.deepcopy(BACKBONES["sasrec"]()) for _ in range(2)]
    for backbone in backbones:
        backbone.load_state_dict(backbones[0].state_dict())
        for module in backbone.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.5
    rows = torch.randn(3, DIM)
    one, other = apply_each(backbones, [rows, rows], torch.tensor([3]), 3)
    assert not torch.allclose(one, other)
    for backbone in backbones:
        backbone.eval()
    one, other = apply_each(backbones, [rows, rows], torch.tensor([3]), 3)
    torch.testing.assert_close(one, other)


def test_products_alone_are_in_half_precision(as_one):
    backbones = several(BACKBONES["sasrec"])
    for backbone in backbones:
        backbone.float()
    inputs = [torch.randn(16, DIM) for _ in backbones]
    exact = [backbone(part, torch.tensor(LENGTHS), 7) for backbone, part in zip(backbones, inputs)]
    with torch.autocast("cpu", torch.bfloat16):
        types = {name: tensor.dtype for name, tensor in sources._stacked(backbones).items()}
        states = apply_each(backbones, inputs, torch.tensor(LENGTHS), 7)
    assert types["norm.weight"] == types["position.weight"] == torch.float32
    assert types["blocks.0.key.weight"] == types["blocks.1.expand.bias"] == torch.bfloat16
    for one, other in zip(states, exact):
        assert 1e-4 < (one - other).norm().item() / other.norm().item() < 0.02
    torch.stack(list(states)).square().sum().backward()
    assert {parameter.grad.dtype for backbone in backbones for parameter in backbone.parameters()} == {torch.float32}


@pytest.mark.parametrize("divergence", ["cross_entropy", "kl"])
def test_losses(divergence, monkeypatch):
    states, vectors = torch.randn(3, 6, DIM, dtype=torch.float64), torch.randn(3, 9, DIM, dtype=torch.float64)
    log_counts, log_popularity = torch.rand(6, 9, dtype=torch.float64), torch.rand(9, dtype=torch.float64)
    targets, settings = torch.tensor([0, 3, 8, 1, 1, 5]), DistillationConfig(divergence=divergence)

    def losses():
        logits = for_each(lambda state, vector: in_batch_logits(state, vector, log_popularity), states.unbind(), vectors.unbind())
        entropies = for_each(lambda z: debiased_cross_entropy(z, log_counts, targets), logits)
        teachers = [logits[1], logits[0], logits[0]]
        distilled = for_each(
            lambda student, teacher: distillation_loss(student, teacher, log_counts, settings.temperature, settings.divergence),
            logits,
            teachers,
        )
        return torch.stack([*entropies, *distilled])

    expected = losses()
    monkeypatch.setattr(sources, "ONE_BY_ONE", ())
    torch.testing.assert_close(losses(), expected)
