"""The token that stands first, and features as they are stored.

Legend: B items of a batch, T tokens, W width.
"""

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from odmt.errors import InputError


def put_in_front(vector: Tensor | None, states: Tensor, valid: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
    """Put a vector, or the mean over the tokens, before these.

    Args:
        vector: [B, W]; None: the mean.
        states: [B, T, W].
        valid: [B, T], nonzero = a real token; None: all are.
    Returns:
        states [B, T + 1, W] and, where it was given, valid [B, T + 1].
    """
    if vector is None:
        vector = states.mean(1) if valid is None else _mean(states, valid[:, :, None].to(states.dtype))
    return torch.cat([vector[:, None], states], 1), None if valid is None else pad(valid, (1, 0), value=1)


def _mean(states: Tensor, weights: Tensor) -> Tensor:
    return (states * weights).sum(1) / weights.sum(1)


def to_half(states: Tensor, name: str) -> np.ndarray:
    """Features in float16.

    Raises:
        InputError: some are not finite in it.
    """
    half = states.half()
    if not half.isfinite().all():
        raise InputError(f"{name}: yields features that are not finite in float16; the checkpoint is broken or not for this")
    return half.cpu().numpy()
