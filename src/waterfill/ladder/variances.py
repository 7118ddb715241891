"""Where a rung takes its variance from, and what telling the decoder costs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from waterfill.codec.channels import WATER_LEVEL
from waterfill.theory import clamped_variance_price

__all__ = ["Grouped", "Oracle", "VarianceSource", "Variances"]

#: b/a of the scales a price covers: σ from the water level's square root to a thousand times it.
SPREAD = 1000.0
#: Stands for a variance of zero, which no density has.
_TINY = 1e-12


class Variances(NamedTuple):
    """σ of each latent, and the bits that telling the decoder takes on top of z."""

    sigma: Tensor
    price_bits: float


class VarianceSource(Protocol):
    """Latents (M, h, w) to the scales that a rung works with in place of the prior's."""

    def __call__(self, y: Tensor) -> Variances:
        """The scales, and their price."""
        ...


@dataclass(frozen=True)
class Oracle:
    """σ² = y², told for free element by element: genie-aided (paper 1, theorem 1)."""

    def __call__(self, y: Tensor) -> Variances:
        """The magnitude of y."""
        return Variances(y.abs().clamp_min(math.sqrt(_TINY)), 0.0)


@dataclass(frozen=True)
class Grouped:
    """σ² = the second moment of a group of latents of one channel, paid for.

    The price is that of the normalised maximum-likelihood code for a scale between √θ and
    1000 √θ, groups below the water level included: saying that a group is silent costs too.

    Parameters
    ----------
    window
        Side of the k×k window that shares a variance; ``None`` for the whole channel.
    """

    window: int | None

    def __call__(self, y: Tensor) -> Variances:
        """The second moments, spread over their groups."""
        _, height, width = y.shape
        size = (min(self.window or height, height), min(self.window or width, width))
        power = F.avg_pool2d((y * y)[None].double(), size, ceil_mode=True, count_include_pad=False)
        # The code has no word for scales outside [√θ, 1000 √θ]: those take the nearest end; the
        # lower one a hair below θ, so that float32 can't lift a silent group above it.
        power = power.clamp(WATER_LEVEL * (1 - 1e-6), WATER_LEVEL * SPREAD**2)
        spread = power.repeat_interleave(size[0], 2).repeat_interleave(size[1], 3)
        sigma = torch.sqrt(spread[0, :, :height, :width]).to(y.dtype)
        members = np.outer(_extents(height, size[0]), _extents(width, size[1]))
        counts, repeats = np.unique(members, return_counts=True)
        price = np.sum(np.asarray(clamped_variance_price(counts, SPREAD)) * counts * repeats)
        return Variances(sigma, float(price) * y.shape[0])


def _extents(length: int, size: int) -> list[int]:
    """Members along one axis of windows of ``size``, the last one cut at the border."""
    return [min(size, length - start) for start in range(0, length, size)]
