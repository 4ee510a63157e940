"""The debiased in-batch loss (Eq. 5-6) and online distillation (Eq. 7-10), as pure functions.

The candidates of the paper are all item positions of the batch. Positions with the same item have the same score, so they are
kept as M distinct items with the number of copies c of each that a row may see: sum_j exp(z_j) over positions is
sum_m exp(z_m + log c_m) over items. Legend: P predicted positions, M distinct items, B users, D width.
"""

import math

import torch
from torch import Tensor

from odmt.config import DistillationConfig
from odmt.data.batches import Batch


def in_batch_logits(states: Tensor, items: Tensor, log_popularity: Tensor) -> Tensor:
    """Score every position against every distinct item of the batch: s_ij = <h_i, d_j> - log pop(j) (Eq. 6).

    In float32 at least, whatever the encoders compute in: half precision would round scores of 20 to sixteenths.

    Args:
        states: [P, D].
        items: [M, D].
        log_popularity: [M].

    Returns:
        [P, M].
    """
    dtype = torch.promote_types(states.dtype, torch.float32)
    return states.to(dtype) @ items.to(dtype).T - log_popularity


def log_candidates(copies: Tensor, users: Tensor, targets: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Count, for every row, the candidate positions of each item.

    A row sees all positions of the batch but those of its own user's items, and of these its own target position.

    Args:
        copies: int64 [B, M], how often each item stands in each user's training part.
        users: int64 [P], user of each row.
        targets: int64 [P].

    Returns:
        log c [P, M]; -inf where there is no candidate, 0 at the target.
    """
    candidates = copies.sum(0).where(copies == 0, 0)  # [B, M]
    return candidates.to(dtype).log()[users].scatter(1, targets[:, None], 0.0)


def debiased_cross_entropy(logits: Tensor, log_copies: Tensor, targets: Tensor) -> Tensor:
    """Mean over rows of -log softmax at the target (Eq. 5)."""
    return torch.nn.functional.cross_entropy(logits + log_copies, targets)


def distillation_loss(
    student: Tensor, teacher: Tensor, log_copies: Tensor, temperature: float, divergence: str = "cross_entropy"
) -> Tensor:
    """T^2 D(teacher -> student) at temperature T, summed over candidates, mean over rows (Eq. 7-9).

    Deviation: the paper's D is the KL divergence (`kl`); the official code's is the cross-entropy with soft targets, the same up
    to the teacher's entropy, whose gradient matters because it flows into the teacher too.

    Args:
        student: logits [P, M] without the counts; c copies add log c after the division by T, and c equal terms of the sum
            over candidates are one term with c times the probability.
        teacher: logits [P, M], likewise.
        log_copies: [P, M].
        temperature: T.
        divergence: `cross_entropy` or `kl`.
    """
    soft_targets = (teacher / temperature + log_copies).softmax(-1)
    scaled = student / temperature
    log_probabilities = scaled - (scaled + log_copies).logsumexp(-1, keepdim=True)
    loss = -(soft_targets * log_probabilities).sum(-1).mean()
    if divergence == "kl":
        scaled = teacher / temperature
        log_soft_targets = scaled - (scaled + log_copies).logsumexp(-1, keepdim=True)
        loss = loss + (soft_targets * log_soft_targets).sum(-1).mean()
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
    return sum(scores.values()) / len(scores)


def ramp_up(epoch: int, ramp_up_epochs: int) -> float:
    """w = exp(-5 (1 - min(epoch, alpha) / alpha)^2) (Eq. 10).

    Deviation: epochs count from 1, so the first has w = exp(-5 (1 - 1/alpha)^2), as in the official code.
    """
    return math.exp(-5 * (1 - min(epoch, ramp_up_epochs) / ramp_up_epochs) ** 2)


class Objective:
    """The losses of a training step, by name.

    Args:
        log_popularity: [N + 1].
        late: one loss on the mean of the sources' logits (SASRec+LF) instead of one a source.
        distillation: how the sources teach one another; None: they do not.
    """

    def __init__(self, log_popularity: Tensor, late: bool, distillation: DistillationConfig | None):
        self.log_popularity = log_popularity
        self.late = late
        self.distillation = distillation

    def __call__(self, states: dict[str, Tensor], vectors: dict[str, Tensor], batch: Batch, epoch: int) -> dict[str, Tensor]:
        """Compute the losses of one batch.

        Args:
            states: [P, D] by source.
            vectors: [M, D] by source.
            batch: who is predicted from what.
            epoch: from 1.

        Returns:
            `loss`, the sum of the others: `ce_SOURCE` and, where the sources teach one another, `distillation` (with its weight).
        """
        log_popularity = self.log_popularity[batch.items.numbers]
        logits = {source: in_batch_logits(states[source], vectors[source], log_popularity) for source in states}
        if self.late:
            logits = {"fused": fuse(logits)}
        dtype = next(iter(logits.values())).dtype
        users = torch.repeat_interleave(batch.inputs.lengths, output_size=len(batch.targets))
        log_copies = log_candidates(batch.copies, users, batch.targets, dtype)
        losses = {f"ce_{source}": debiased_cross_entropy(z, log_copies, batch.targets) for source, z in logits.items()}
        if self.distillation is not None:
            losses["distillation"] = self._weight(epoch) * self._distill(logits, log_copies)
        return {"loss": sum(losses.values()), **losses}

    def _weight(self, epoch: int) -> float:
        constant = self.distillation.constant_weight
        return ramp_up(epoch, self.distillation.ramp_up_epochs) if constant is None else constant

    def _distill(self, logits: dict[str, Tensor], log_copies: Tensor) -> Tensor:
        settings = self.distillation
        return sum(
            distillation_loss(
                student,
                teacher.detach() if settings.detach_teacher else teacher,
                log_copies,
                settings.temperature,
                settings.divergence,
            )
            for _, student, teacher in distillation_pairs(logits)
        )
