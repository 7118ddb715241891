"""How much noise a channel of latents should bear: the posterior that a decoder calls for."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from waterfill.codec.channels import WATER_LEVEL

__all__ = ["STRENGTHS", "activity_of", "levels_of"]

#: How strictly levels may follow the sensitivities: from not at all to as theory has it.
STRENGTHS = (0.0, 0.25, 0.5, 1.0)

#: No channel's level is further from the common one than this factor.
_FURTHEST = 8.0


def levels_of(
    weights: Tensor, activity: Tensor, strength: float, level: float = WATER_LEVEL
) -> Tensor:
    """Water level of each channel, so that all pay alike for the error that shows.

    Reverse water-filling with weights: θ_c is inverse to the channel's sensitivity w_c, if g_s were
    linear; as it isn't, to a power of it. The common factor keeps the error of channels that are
    active near what it is at one level for all; where none is, or none of them shows, nothing says
    which should bear more, and all get that level.

    Parameters
    ----------
    weights
        Sensitivities (M,).
    activity
        Mean of y²/(y² + θ) of each channel, in 0 … 1.
    strength
        The power, 0 … 1.
    level
        Common level.
    """
    common = (activity * weights).sum() / activity.sum()
    if not 0.0 < float(common) < math.inf or not bool(torch.isfinite(weights).all()):
        return torch.full_like(weights, level)
    factor = (common / weights.clamp_min(common * 1e-6)) ** strength
    return level * factor.clamp(1.0 / _FURTHEST, _FURTHEST)


def activity_of(ys: Sequence[Tensor], level: float = WATER_LEVEL) -> Tensor:
    """Mean of y²/(y² + θ) of each channel over tiles (M, h, w)."""
    shares = [y.square() / (y.square() + level) for y in ys]
    count = sum(s[0].numel() for s in shares)
    return torch.stack([s.sum((1, 2)) for s in shares]).sum(0) / count
