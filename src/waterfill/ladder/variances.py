"""Where a rung takes its variance from, and what telling the decoder costs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from waterfill.codec.channels import WATER_LEVEL
from waterfill.theory import clamped_variance_price

__all__ = ["Grouped", "Moments", "Oracle", "Pooled", "VarianceSource", "Variances"]

#: b/a of the scales a price covers: σ from the water level's square root to a thousand times it.
SPREAD = 1000.0
#: Stands for a variance of zero, which no density has.
_TINY = 1e-12


@dataclass(frozen=True)
class Moments:
    """Second moments of latents about zero, of a picture or of a set.

    Attributes
    ----------
    power
        Σ y² of each channel, float64 (M,).
    count
        Latents of each channel.
    pictures
        How many they come from.
    """

    power: NDArray[np.float64]
    count: int
    pictures: int

    @classmethod
    def of(cls, ys: Sequence[Tensor]) -> Moments:
        """Moments of one picture, from its tiles."""
        power = sum(y.double().square().sum((1, 2)) for y in ys)
        assert isinstance(power, Tensor)
        return cls(power.numpy(), sum(y[0].numel() for y in ys), 1)

    @classmethod
    def joined(cls, moments: Sequence[Moments]) -> Moments:
        """Moments of all their pictures together."""
        power = np.sum([m.power for m in moments], axis=0)
        return cls(power, sum(m.count for m in moments), sum(m.pictures for m in moments))


class Variances(NamedTuple):
    """σ of the latents of each tile, and the bits that telling the decoder takes in all.

    The σ are made one tile after the other, as they are asked for: of a large picture they take as
    much memory as the latents.
    """

    sigmas: Iterable[Tensor]
    price_bits: float


class VarianceSource(Protocol):
    """Scales that a rung works with in place of the prior's."""

    def __call__(self, ys: Sequence[Tensor], data_set: Moments) -> Variances:
        """The scales of the tiles (M, h, w) of a picture, and their price.

        Parameters
        ----------
        ys
            The tiles.
        data_set
            Moments of all pictures that are measured.
        """
        ...


@dataclass(frozen=True)
class Oracle:
    """σ² = y², told for free element by element: genie-aided (paper 1, theorem 1)."""

    def __call__(self, ys: Sequence[Tensor], data_set: Moments) -> Variances:
        """The magnitude of y."""
        return Variances((y.abs().clamp_min(math.sqrt(_TINY)) for y in ys), 0.0)


def _told(power: Tensor) -> Tensor:
    """σ that the code has a word for.

    It has none outside [√θ, 1000 √θ]: those take the nearest end; the lower one a hair below θ, so
    that float32 can't lift a silent group above it.
    """
    return torch.sqrt(power.clamp(WATER_LEVEL * (1 - 1e-6), WATER_LEVEL * SPREAD**2))


def _price(members: int) -> float:
    """Bits of telling the one variance of so many latents."""
    return members * float(clamped_variance_price(members, SPREAD))


@dataclass(frozen=True)
class Grouped:
    """σ² = the second moment of k×k latents of one channel, paid for.

    The price is that of the normalised maximum-likelihood code for a scale between √θ and
    1000 √θ, groups below the water level included: saying that a group is silent costs too. It is
    the regret for the latents themselves; what the channel delivers near the water level has a
    variance that goes to zero, and of groups of a few latents that can cost somewhat more.

    Parameters
    ----------
    window
        Side k of the window that shares a variance.
    """

    window: int

    def __call__(self, ys: Sequence[Tensor], data_set: Moments) -> Variances:
        """The second moments, spread over their groups."""
        price = 0.0
        for y in ys:
            channels, height, width = y.shape
            size = self._size(y)
            members = np.outer(_extents(height, size[0]), _extents(width, size[1]))
            for count, repeats in zip(*np.unique(members, return_counts=True), strict=True):
                price += channels * int(repeats) * _price(int(count))
        return Variances((self._sigma(y) for y in ys), price)

    def _size(self, y: Tensor) -> tuple[int, int]:
        """Sides of a window, no larger than the tile."""
        return min(self.window, y.shape[1]), min(self.window, y.shape[2])

    def _sigma(self, y: Tensor) -> Tensor:
        """σ of a tile."""
        size = self._size(y)
        power = F.avg_pool2d((y * y)[None].double(), size, ceil_mode=True, count_include_pad=False)
        told = _told(power).repeat_interleave(size[0], 2).repeat_interleave(size[1], 3)
        return told[0, :, : y.shape[1], : y.shape[2]].to(y.dtype)


@dataclass(frozen=True)
class Pooled:
    """σ² = the second moment of many latents at once, paid for as in :class:`Grouped`.

    Parameters
    ----------
    scope
        ``channel`` of the picture, ``image`` (all of its channels), or ``data set`` (a channel of
        all pictures that are measured, each of which pays its share).
    """

    scope: str

    def __call__(self, ys: Sequence[Tensor], data_set: Moments) -> Variances:
        """The second moments of each channel."""
        own = Moments.of(ys)
        channels = len(own.power)
        if self.scope == "image":
            powers = np.full(channels, own.power.sum() / (own.count * channels))
            price = _price(own.count * channels)
        elif self.scope == "channel":
            powers = own.power / own.count
            price = channels * _price(own.count)
        else:
            powers = data_set.power / data_set.count
            price = channels * _price(data_set.count) * own.count / data_set.count
        sigma = _told(torch.from_numpy(powers)).float()[:, None, None]
        return Variances([sigma.expand_as(y) for y in ys], price)


def _extents(length: int, size: int) -> list[int]:
    """Members along one axis of windows of ``size``, the last one cut at the border."""
    return [min(size, length - start) for start in range(0, length, size)]
