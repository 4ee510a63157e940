"""The pairwise loss of models that rank a train item above sampled ones.

Legend: B rows of a batch, K negatives a row, D width.
"""

from torch import Tensor
from torch.nn import functional as F


def bpr_loss(users: Tensor, positives: Tensor, negatives: Tensor) -> Tensor:
    """Bayesian personalised ranking: the mean of -log sigmoid(<u, p> - <u, n>) (Rendle et al., UAI 2009).

    Written as softplus of the negative, which does not overflow.

    Args:
        users: [B, D].
        positives: [B, D].
        negatives: [B, K, D].
    """
    margins = (users[:, None] * (positives[:, None] - negatives)).sum(-1)  # [B, K]
    return F.softplus(-margins).mean()
