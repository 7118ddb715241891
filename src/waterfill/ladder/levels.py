"""How much noise a channel of latents should bear: the posterior that a decoder calls for."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from waterfill.codec.channels import WATER_LEVEL

__all__ = ["STRENGTHS", "activity_of", "levels_of", "sensitivity"]

#: How strictly levels may follow the sensitivities: from not at all to as theory has it.
STRENGTHS = (0.0, 0.25, 0.5, 1.0)

#: Latents to a side of the piece that is looked at, and how often.
_PIECE, _PROBES = 16, 2
#: No channel's level is further from the common one than this factor.
_FURTHEST = 8.0


def sensitivity(reconstruct: Callable[[Tensor], Tensor], y_hat: Tensor, *, seed: int = 0) -> Tensor:
    """Squared error in pixels that a unit of squared error in a latent of each channel makes.

    The diagonal of JᵀJ for the Jacobian J of g_s at ŷ, averaged over the middle of the picture, by
    Hutchinson's estimator.

    Parameters
    ----------
    reconstruct
        g_s, differentiable, (M, h, w) → (planes, H, W).
    y_hat
        (M, h, w).
    seed
        Of the probes.

    Returns
    -------
    Tensor
        (M,), at least 0.
    """
    _, height, width = y_hat.shape
    top, left = max(0, (height - _PIECE) // 2), max(0, (width - _PIECE) // 2)
    piece = y_hat[:, top : top + _PIECE, left : left + _PIECE].detach().clone().requires_grad_()
    generator = torch.Generator().manual_seed(seed)
    total = torch.zeros(len(y_hat))
    with torch.enable_grad():
        shown = reconstruct(piece)
        for probe in range(_PROBES):
            signs = torch.randint(0, 2, shown.shape, generator=generator).to(shown.dtype) * 2 - 1
            (found,) = torch.autograd.grad(
                (shown * signs).sum(), piece, retain_graph=probe + 1 < _PROBES
            )
            total += found.square().mean((1, 2)) / _PROBES
    return total


def levels_of(
    weights: Tensor, activity: Tensor, strength: float, level: float = WATER_LEVEL
) -> Tensor:
    """Water level of each channel, so that all pay alike for the error that shows.

    Reverse water-filling with weights: θ_c is inverse to the channel's sensitivity w_c, if g_s were
    linear; as it isn't, to a power of it. The common factor keeps the error of channels that are
    active near what it is at one level for all.

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
    if not bool((weights > 0).any()) or not bool(torch.isfinite(weights).all()):
        return torch.full_like(weights, level)
    total = activity.sum().clamp_min(1e-9)
    common = (activity * weights).sum() / total
    factor = (common / weights.clamp_min(common * 1e-6)) ** strength
    return level * factor.clamp(1.0 / _FURTHEST, _FURTHEST)


def activity_of(ys: Sequence[Tensor], level: float = WATER_LEVEL) -> Tensor:
    """Mean of y²/(y² + θ) of each channel over tiles (M, h, w)."""
    shares = [y.square() / (y.square() + level) for y in ys]
    count = sum(s[0].numel() for s in shares)
    return torch.stack([s.sum((1, 2)) for s in shares]).sum(0) / count
