"""The losses against slow loops over all B (L + 1) positions, written from the paper's equations, in float64."""

import itertools
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from odmt.sequential.batches import train_batch
from odmt.sequential.config import DistillationConfig
from odmt.sequential.losses import (
    Objective,
    candidates_of_rows,
    debiased_cross_entropy,
    distillation_pairs,
    in_batch_logits,
    ramp_up,
)

NUM_ITEMS, DIM, MASKED = 12, 5, -1e4


def padded(sequences: list[list[int]]) -> list[list[int]]:
    longest = max(map(len, sequences))
    return [[0] * (longest - len(sequence)) + sequence for sequence in sequences]


def logits_by_loops(states: Tensor, vectors: Tensor, sequences: list[list[int]], popularity: Tensor) -> tuple[Tensor, list[int]]:
    """Eq. 6: a row a predicted position, a column for every position of the batch, padding too; and the target columns."""
    grid = padded(sequences)
    width, rows, targets = len(grid[0]), [], []
    for user, sequence in enumerate(sequences):
        for step in range(len(sequence) - 1):
            target = user * width + width - len(sequence) + step + 1
            row = []
            for column, item in enumerate(itertools.chain(*grid)):
                if item == 0 or (item in sequence and column != target):
                    row.append(torch.tensor(MASKED, dtype=torch.float64))
                else:
                    row.append(states[len(rows)] @ vectors[item] - math.log(popularity[item]))
            rows.append(torch.stack(row))
            targets.append(target)
    return torch.stack(rows), targets


def cross_entropy_by_loops(logits: Tensor, targets: list[int]) -> Tensor:
    """Eq. 5."""
    terms = [-(row[target] - row.exp().sum().log()) for row, target in zip(logits, targets)]
    return sum(terms) / len(terms)


def distillation_by_loops(student: Tensor, teacher: Tensor, temperature: float, divergence: str) -> Tensor:
    """Eq. 7: T^2 D(teacher -> student)."""
    total = 0.0
    for row, teacher_row in zip(student, teacher):
        p, q = (teacher_row / temperature).softmax(0), (row / temperature).softmax(0)
        for p_j, q_j in zip(p, q):
            if p_j > 0:
                total = total - p_j * q_j.log() + (p_j * p_j.log() if divergence == "kl" else 0)
    return temperature**2 * total / len(student)


def objective_by_loops(states, vectors, sequences, popularity, settings: DistillationConfig, weight: float) -> dict[str, Tensor]:
    """Eq. 5-10, sources side by side."""
    logits, losses = {}, {}
    for source in states:
        logits[source], targets = logits_by_loops(states[source], vectors[source], sequences, popularity)
        losses[f"ce_{source}"] = cross_entropy_by_loops(logits[source], targets)
    ensemble = sum(logits.values()) / len(logits)
    total = 0.0
    for source, student in logits.items():
        teacher = ensemble if source == "id" or "id" not in logits else logits["id"]
        teacher = teacher.detach() if settings.detach_teacher else teacher
        total = total + distillation_by_loops(student, teacher, settings.temperature, settings.divergence)
    losses["distillation"] = weight * total
    losses["loss"] = sum(losses.values())
    return losses


@pytest.fixture
def problem(interactions_of):
    """Random sequences with repeats, states and item vectors; everything in float64."""

    def make(seed: int, sources=("id", "text", "image"), lengths=(1, 5, 2, 7, 4)):
        rng = np.random.default_rng(seed)
        sequences = [rng.integers(1, NUM_ITEMS + 1, length).tolist() for length in lengths]
        batch = train_batch(
            interactions_of([[*row, 1, 1] for row in sequences], NUM_ITEMS, 10), np.arange(len(sequences)), share_repeats=True
        )
        generator = torch.Generator().manual_seed(seed)
        num_rows = sum(length - 1 for length in lengths)

        def leaves(rows):
            return {s: torch.randn(rows, DIM, generator=generator, dtype=torch.float64).requires_grad_() for s in sources}

        popularity = torch.rand(NUM_ITEMS + 1, generator=generator, dtype=torch.float64) + 0.01
        return sequences, batch, leaves(num_rows), leaves(NUM_ITEMS + 1), popularity

    return make


def assert_same(losses, expected, states, vectors):
    """Same values by name, and same gradients of the sum in every state and item vector."""
    assert losses.keys() == expected.keys()
    for name in expected:
        assert losses[name].item() == pytest.approx(expected[name].item(), rel=1e-10), name
    leaves = [*states.values(), *vectors.values()]
    for gradient, expected_gradient in zip(
        torch.autograd.grad(losses["loss"], leaves), torch.autograd.grad(expected["loss"], leaves)
    ):
        assert expected_gradient.norm() > 0
        torch.testing.assert_close(gradient, expected_gradient, rtol=1e-8, atol=1e-10)


def run_objective(batch, states, vectors, popularity, settings, epoch=3, late=False):
    seen = {source: vector[batch.items.numbers] for source, vector in vectors.items()}
    return Objective(popularity.log(), late, settings)(states, seen, batch, epoch)


@pytest.mark.parametrize("divergence", ["cross_entropy", "kl"])
@pytest.mark.parametrize("detach_teacher", [False, True])
def test_distillation(problem, divergence, detach_teacher):
    sequences, batch, states, vectors, popularity = problem(seed=0)
    settings = DistillationConfig(0.4, ramp_up_epochs=8, divergence=divergence, detach_teacher=detach_teacher)
    expected = objective_by_loops(states, vectors, sequences, popularity, settings, math.exp(-5 * (1 - 3 / 8) ** 2))
    assert_same(run_objective(batch, states, vectors, popularity, settings), expected, states, vectors)


@pytest.mark.parametrize("seed", range(1, 4))
def test_distillation_with_constant_weight(problem, seed):
    lengths = np.random.default_rng(seed).integers(1, 7, 6).tolist()
    sequences, batch, states, vectors, popularity = problem(seed, lengths=lengths)
    settings = DistillationConfig(1.3, constant_weight=0.25)
    expected = objective_by_loops(states, vectors, sequences, popularity, settings, 0.25)
    assert_same(run_objective(batch, states, vectors, popularity, settings), expected, states, vectors)


def test_distillation_without_ids(problem):
    """The ensemble of the modalities teaches both."""
    sequences, batch, states, vectors, popularity = problem(5, sources=("text", "image"))
    settings = DistillationConfig(0.5, constant_weight=1.0)
    expected = objective_by_loops(states, vectors, sequences, popularity, settings, 1.0)
    assert_same(run_objective(batch, states, vectors, popularity, settings), expected, states, vectors)


def test_late_fusion_is_one_loss_on_the_mean_of_the_logits(problem):
    sequences, batch, states, vectors, popularity = problem(6)
    logits = [logits_by_loops(states[source], vectors[source], sequences, popularity) for source in states]
    loss = cross_entropy_by_loops(sum(z for z, _ in logits) / 3, logits[0][1])
    losses = run_objective(batch, states, vectors, popularity, None, late=True)
    assert_same(losses, {"ce_fused": loss, "loss": loss}, states, vectors)


def test_one_source_has_one_loss(problem):
    sequences, batch, states, vectors, popularity = problem(7, sources=("fused",))
    loss = cross_entropy_by_loops(*logits_by_loops(states["fused"], vectors["fused"], sequences, popularity))
    losses = run_objective(batch, states, vectors, popularity, None)
    assert_same(losses, {"ce_fused": loss, "loss": loss}, states, vectors)


def test_candidates_by_hand(interactions_of):
    """Of equal scores the cross-entropy is the log of the number of candidates."""
    batch = train_batch(
        interactions_of([[1, 2, 9, 9], [3, 4, 4, 9, 9], [1, 9, 9]], NUM_ITEMS, 10), np.arange(3), share_repeats=True
    )
    losses = run_objective(
        batch,
        {"id": torch.zeros(3, DIM, dtype=torch.float64)},
        {"id": torch.zeros(NUM_ITEMS + 1, DIM, dtype=torch.float64)},
        torch.ones(NUM_ITEMS + 1, dtype=torch.float64),
        None,
    )
    # User 0 predicts 2: itself, 3, 4, 4; the third user's 1 is also his own. User 1 predicts 4 twice: itself, 1, 2, 1.
    assert losses["loss"].item() == pytest.approx((math.log(4) + 2 * math.log(4)) / 3)
    users = torch.repeat_interleave(batch.inputs.lengths)
    copies = candidates_of_rows(batch.log_candidates(torch.float32), users, batch.targets).exp()
    assert copies.tolist() == [[0, 1, 1, 2], [2, 1, 0, 1], [2, 1, 0, 1]]


def test_a_target_without_competitors_has_no_loss_and_finite_gradients():
    """Two users of the same items: nothing but the target is a candidate."""
    logits = torch.randn(1, 2, requires_grad=True)
    log_counts = candidates_of_rows(torch.zeros(2, 2).log(), torch.tensor([0]), torch.tensor([1]))
    loss = debiased_cross_entropy(logits, log_counts, torch.tensor([1]))
    loss.backward()
    assert loss.item() == 0
    assert logits.grad.abs().sum() == 0


def test_popularity_is_taken_off():
    logits = in_batch_logits(torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, 4.0], [0.0, 1.0]]), torch.tensor([0.5, 0.25]).log())
    torch.testing.assert_close(logits, torch.tensor([[11 + math.log(2), 2 + math.log(4)]]))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_scores_are_never_rounded_to_half_precision(dtype):
    states, items = torch.full((1, 8), 3.0, dtype=dtype), torch.full((1, 8), 5.0, dtype=dtype)
    items[0, 0] = 5.03125
    logits = in_batch_logits(states, items, torch.zeros(1))
    assert logits.dtype == torch.float32
    assert logits.item() == pytest.approx(8 * 15 + 3 * (items[0, 0].item() - 5))
    assert items[0, 0].item() > 5


def test_ramp_up():
    assert ramp_up(1, 20) == pytest.approx(math.exp(-5 * (19 / 20) ** 2))
    assert ramp_up(10, 20) == pytest.approx(math.exp(-5 / 4))
    assert ramp_up(20, 20) == ramp_up(300, 20) == 1
    assert ramp_up(1, 1) == 1
    weights = [ramp_up(epoch, 30) for epoch in range(1, 31)]
    assert weights == sorted(set(weights))


def test_weight_follows_the_epoch_or_is_constant(problem):
    _, batch, states, vectors, popularity = problem(8)

    def distillation(epoch, **settings):
        return run_objective(batch, states, vectors, popularity, DistillationConfig(**settings), epoch)["distillation"].item()

    full = distillation(10, ramp_up_epochs=10)
    assert distillation(4, ramp_up_epochs=10) == pytest.approx(math.exp(-5 * 0.6**2) * full)
    assert distillation(1, constant_weight=0.02) == distillation(30, constant_weight=0.02) == pytest.approx(0.02 * full)


def test_who_teaches_whom():
    logits = {"id": torch.tensor([1.0]), "text": torch.tensor([2.0]), "image": torch.tensor([6.0])}
    pairs = {name: teacher.item() for name, _, teacher in distillation_pairs(logits)}
    assert pairs == {"id": 3.0, "text": 1.0, "image": 1.0}
    del logits["id"]
    assert {name: teacher.item() for name, _, teacher in distillation_pairs(logits)} == {"text": 4.0, "image": 4.0}
