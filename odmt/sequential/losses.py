"""The debiased in-batch loss (Eq. 5-6) and online distillation (Eq. 7-10), as pure functions.

The candidates of the paper are all item positions of the batch. Positions with the same vector have the same score, so they are
kept as V vectors with the number of positions c that each stands for: sum_j exp(z_j) over positions is sum_v exp(z_v + log c_v)
over vectors. Legend: P predicted positions, V vectors of the batch's items, B users, D width, S sources that are computed as one.
"""

import math
from functools import reduce
from operator import add

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from odmt.distributed import gather_rows
from odmt.sequential.batches import Batch
from odmt.sequential.config import DistillationConfig
from odmt.sequential.models.sources import as_one, for_each

CPU_SCORES = 1 << 17  # that a CPU computes at a time, of every source


def in_batch_logits(states: Tensor, vectors: Tensor, log_popularity: Tensor) -> Tensor:
    """Score every position against every vector of the batch: s_ij = <h_i, d_j> - log pop(j) (Eq. 6).

    Deviation: in float32 at least, whatever the encoders compute in; under the official code's autocast scores of 20 are rounded to
    sixty-fourths, and in bf16 they would be to eighths.

    Args:
        states: [P, D].
        vectors: [V, D].
        log_popularity: [V].

    Returns:
        [P, V].
    """
    dtype = torch.promote_types(states.dtype, torch.float32)
    return states.to(dtype) @ vectors.to(dtype).mT - log_popularity


def candidates_of_rows(log_counts: Tensor, users: Tensor, targets: Tensor) -> Tensor:
    """Count, for every row, the candidate positions of each vector.

    A row sees all positions of the batch but those of its own user's items, and of these its own target position.

    Args:
        log_counts: [B, V], log of the positions that each vector stands for, -inf at the user's own items.
        users: int64 [P], user of each row.
        targets: int64 [P].

    Returns:
        log c [P, V]; -inf where there is no candidate, 0 at the target.
    """
    return log_counts.index_select(0, users).scatter_(1, targets[:, None], 0.0)


def mean_over_rows(rows: Tensor, real: Tensor | None) -> Tensor:
    """The mean of rows [..., P] over all of them, or over the `real` [P] ones."""
    return rows.mean(-1) if real is None else torch.where(real, rows, 0).sum(-1) / real.sum()


def debiased_cross_entropy(logits: Tensor, log_counts: Tensor, targets: Tensor, real: Tensor | None = None) -> Tensor:
    """Mean over (real) rows of -log softmax at the target (Eq. 5): logits [P, V] -> [], or [S, P, V] -> [S]."""
    if logits.dim() == 2 and real is None:
        return F.cross_entropy(logits + log_counts, targets)
    rows = F.cross_entropy((logits + log_counts).flatten(0, -2), targets.repeat(logits.shape[:-2].numel()), reduction="none")
    return mean_over_rows(rows.view(logits.shape[:-1]), real)


def distillation_loss(
    student: Tensor,
    teacher: Tensor,
    log_counts: Tensor,
    temperature: float,
    divergence: str = "cross_entropy",
    real: Tensor | None = None,
) -> Tensor:
    """T^2 D(teacher -> student) at temperature T, summed over candidates, mean over rows (Eq. 7-9).

    Deviation: the paper's D is the KL divergence (`kl`); the official code's is the cross-entropy with soft targets, the same up
    to the teacher's entropy, whose gradient matters because it flows into the teacher too.

    Args:
        student: logits [P, V] without the counts; c copies add log c after the division by T, and c equal terms of the sum
            over candidates are one term with c times the probability.
        teacher: logits [P, V], likewise.
        log_counts: [P, V].
        temperature: T.
        divergence: `cross_entropy` or `kl`.
        real: bool [P], the rows of the mean; None: all.
    """
    soft_targets = (teacher / temperature + log_counts).softmax(-1)
    scaled = student / temperature
    log_probabilities = scaled - (scaled + log_counts).logsumexp(-1, keepdim=True)
    loss = mean_over_rows(-(soft_targets * log_probabilities).sum(-1), real)
    if divergence == "kl":
        scaled = teacher / temperature
        log_soft_targets = scaled - (scaled + log_counts).logsumexp(-1, keepdim=True)
        loss = loss + mean_over_rows((soft_targets * log_soft_targets).sum(-1), real)
    return temperature**2 * loss


def distillation_pairs(logits: dict[str, Tensor]) -> list[tuple[str, Tensor, Tensor]]:
    """Who teaches whom: the ID the modalities, the ensemble (mean of all) the ID (Eq. 8-9).

    Choice: without an ID source the ensemble teaches both modalities.

    Returns:
        (name of the student, student's logits, teacher's logits).
    """
    ensemble = fuse(logits)
    teacher = logits.get("id", ensemble)
    return [(source, student, ensemble if source == "id" else teacher) for source, student in logits.items()]


def fuse(scores: dict[str, Tensor]) -> Tensor:
    """The mean of the sources' scores."""
    return reduce(add, scores.values()) / len(scores)


def ramp_up(epoch: int | Tensor, ramp_up_epochs: int) -> float | Tensor:
    """w = exp(-5 (1 - min(epoch, alpha) / alpha)^2) (Eq. 10).

    Deviation: epochs count from 1, so the first has w = exp(-5 (1 - 1/alpha)^2), as in the official code.
    """
    if isinstance(epoch, Tensor):
        return torch.exp(-5 * (1 - epoch.clamp(max=ramp_up_epochs) / ramp_up_epochs) ** 2)
    return math.exp(-5 * (1 - min(epoch, ramp_up_epochs) / ramp_up_epochs) ** 2)


class _Blockwise(torch.autograd.Function):
    """The mean over all rows of losses, and its gradient, a block of rows after the other.

    The gradient of a block is taken as soon as its losses are there, so that nothing of the size [P, V] is kept. It is held in
    float32 at least: half precision would round it before the loss scaling, and sum the blocks' shares in few bits.

    Args:
        losses_of: (rows, their states, vectors) -> losses by name, means over these rows.
        num_rows: rows of a block.
        tensors: states [P, D] of every source, then vectors [V, D] of every source.

    Returns:
        (the sum of the losses, the losses by name without gradient).
    """

    @staticmethod
    def forward(ctx, losses_of, num_rows, *tensors):
        ctx.dtypes = [tensor.dtype for tensor in tensors]
        detached = [tensor.detach().to(torch.promote_types(tensor.dtype, torch.float32)) for tensor in tensors]
        half = len(detached) // 2
        states, vectors = detached[:half], [tensor.requires_grad_() for tensor in detached[half:]]
        totals: dict[str, Tensor] = {}
        state_gradients: list[tuple[Tensor, ...]] = []
        vector_gradients: list[Tensor] = []
        for begin in range(0, len(states[0]), num_rows):
            rows = slice(begin, begin + num_rows)
            leaves = [state[rows].requires_grad_() for state in states]
            share = len(leaves[0]) / len(states[0])
            with torch.enable_grad():
                losses = {name: share * loss for name, loss in losses_of(rows, leaves, vectors).items()}
                gradients = torch.autograd.grad(reduce(add, losses.values()), [*leaves, *vectors])
            state_gradients.append(gradients[:half])
            if vector_gradients:
                torch._foreach_add_(vector_gradients, list(gradients[half:]))
            else:
                vector_gradients = list(gradients[half:])
            for name, loss in losses.items():
                totals[name] = totals.get(name, 0) + loss.detach()
        ctx.gradients = [torch.cat(parts) for parts in zip(*state_gradients)] + vector_gradients
        return reduce(add, totals.values()), totals

    @staticmethod
    def backward(ctx, grad, _):
        return None, None, *((grad * gradient).to(dtype) for gradient, dtype in zip(ctx.gradients, ctx.dtypes))


class Objective(nn.Module):
    """The losses of a training step, by name; a module without weights, so that it moves with the model.

    Args:
        log_popularity: [N + 1].
        late: one loss on the mean of the sources' logits (SASRec+LF) instead of one a source.
        distillation: how the sources teach one another; None: they do not.
    """

    log_popularity: Tensor

    def __init__(self, log_popularity: Tensor, late: bool, distillation: DistillationConfig | None):
        super().__init__()
        self.register_buffer("log_popularity", log_popularity, persistent=False)
        self.late = late
        self.distillation = distillation

    def forward(
        self, states: dict[str, Tensor], vectors: dict[str, Tensor], batch: Batch, epoch: int | Tensor
    ) -> dict[str, Tensor]:
        """Compute the losses of one batch.

        Args:
            states: [P, D] by source.
            vectors: [V, D] by source, of those that have states.
            batch: who is predicted from what.
            epoch: from 1; what is compiled takes it as a tensor [].

        Returns:
            `loss`, the sum of the others and alone differentiable: `ce_SOURCE` and, where the sources teach one another,
            `distillation` (with its weight).
        """
        if batch.everyone is None:
            return self._losses(states, vectors, batch, epoch)
        own = torch.cat(list(vectors.values()), 1)
        everyones = gather_rows(own.to(torch.promote_types(own.dtype, torch.float32)), batch.everyone.sizes)
        gathered = dict(zip(vectors, everyones.chunk(len(vectors), 1)))
        losses = self._losses(states, gathered, batch.everyone.batch, epoch)
        return {name: batch.everyone.share * loss for name, loss in losses.items()}

    def _losses(
        self, states: dict[str, Tensor], vectors: dict[str, Tensor], batch: Batch, epoch: int | Tensor
    ) -> dict[str, Tensor]:
        log_popularity = self.log_popularity[batch.items.repeat(batch.items.numbers)]
        dtype = torch.promote_types(next(iter(states.values())).dtype, torch.float32)
        log_counts_of_users = batch.log_candidates(dtype)
        users = torch.repeat_interleave(batch.inputs.lengths, output_size=len(batch.targets))

        def losses_of(rows: slice, states: list[Tensor], vectors: list[Tensor]) -> dict[str, Tensor]:
            scores = for_each(lambda state, vector: in_batch_logits(state, vector, log_popularity), states, vectors)
            logits = dict(zip(sources, scores, strict=True))
            if self.late:
                logits = {"fused": fuse(logits)}
            targets, real = batch.targets[rows], None if batch.real is None else batch.real[rows]
            log_counts = candidates_of_rows(log_counts_of_users, users[rows], targets)
            entropies = for_each(lambda z: debiased_cross_entropy(z, log_counts, targets, real), list(logits.values()))
            losses = {f"ce_{source}": entropy for source, entropy in zip(logits, entropies)}
            if self.distillation is not None:
                losses["distillation"] = _weight(self.distillation, epoch) * _distill(self.distillation, logits, log_counts, real)
            return losses

        sources = list(states)
        given = [*states.values()], [vectors[source] for source in sources]
        if as_one(users.device) or batch.real is not None:  # all at once: blocks would only launch more kernels
            parts = losses_of(slice(None), *given)
            return {"loss": reduce(add, parts.values()), **{name: part.detach() for name, part in parts.items()}}
        # The scores of a CPU's block stay in its cache.
        loss, parts = _Blockwise.apply(losses_of, max(1, CPU_SCORES // len(log_popularity)), *given[0], *given[1])
        return {"loss": loss, **parts}


def _weight(settings: DistillationConfig, epoch: int | Tensor) -> float | Tensor:
    constant = settings.constant_weight
    return ramp_up(epoch, settings.ramp_up_epochs) if constant is None else constant


def _distill(settings: DistillationConfig, logits: dict[str, Tensor], log_counts: Tensor, real: Tensor | None) -> Tensor:
    def loss_of(student: Tensor, teacher: Tensor) -> Tensor:
        if settings.detach_teacher:
            teacher = teacher.detach()
        return distillation_loss(student, teacher, log_counts, settings.temperature, settings.divergence, real)

    _, students, teachers = zip(*distillation_pairs(logits))
    return reduce(add, for_each(loss_of, students, teachers))
