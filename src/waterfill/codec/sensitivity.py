"""How strongly each channel of latents shows in the picture."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["sensitivity"]

#: Side in latents of the piece that is probed, and the number of probes.
_PIECE, _PROBES = 16, 2


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
        Seed of the probes.

    Returns
    -------
    Tensor
        (M,), at least 0.
    """
    _, height, width = y_hat.shape
    top, left = max(0, (height - _PIECE) // 2), max(0, (width - _PIECE) // 2)
    piece = y_hat[:, top : top + _PIECE, left : left + _PIECE].detach().clone().requires_grad_()
    generator = torch.Generator().manual_seed(seed)
    total = torch.zeros(len(y_hat), dtype=torch.float32)
    with torch.enable_grad():
        shown = reconstruct(piece)
        for probe in range(_PROBES):
            signs = torch.randint(0, 2, shown.shape, generator=generator).to(shown.dtype) * 2 - 1
            (found,) = torch.autograd.grad(
                (shown * signs).sum(), piece, retain_graph=probe + 1 < _PROBES
            )
            total += found.square().mean((1, 2)) / _PROBES
    return total
