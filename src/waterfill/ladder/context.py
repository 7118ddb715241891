"""A context fitted to what the prior leaves over: how much could still be predicted.

A codec's prior says N(μ, σ²) of each latent. What has arrived before it says more: neighbours that
came out larger than expected announce a large one. Five numbers, told once for each picture, turn
that into a better mean and variance of the residual r = y − μ,

    v' = σ² exp(a + b·log E₁ + c·log E₂),    m = d·r̂_W + e·r̂_N,

with E₁ the mean energy, relative to that expected, of the 12 causal neighbours of a 5×5 window in
the same channel, E₂ that of the channels before it at the same place, and r̂ the residuals of the
left and upper neighbours. Everything on the right has arrived before, and the channel itself stays
as it is, so the rate can be achieved. Before means in the codec's own order, part by part, and in
raster order, channels innermost, within a part: μ and σ of a later part may depend on the very
latent that is to be predicted.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor
from torch.nn import functional as F

from waterfill.codec.priors.context import CAUSAL_NEIGHBOURS

__all__ = ["PARAMETER_BITS", "FittedContext", "Posterior", "fit_context"]

#: Each parameter is told in 16 bits: whole 256ths below 128.
PARAMETER_BITS = 16
_STEPS_PER_ONE = 256.0
#: Added to the energy seen and to that expected, so that few neighbours change little.
_PRIOR_WEIGHT = 1.0
#: Active latents that a fit looks at, at most.
_MOST = 150_000
_LARGEST_LOG = 8.0


@dataclass(frozen=True)
class Posterior:
    """Latents of a tile in the Gaussian test channel, all of one shape.

    Attributes
    ----------
    residual
        r = y − μ.
    received
        αr + n with n ~ N(0, level), zero where nothing is sent.
    variance
        σ² of the prior.
    level
        Water level θ.
    part
        Number of the part that each arrives with, in the codec's order; None if all do at once.
    """

    residual: Tensor
    received: Tensor
    variance: Tensor
    level: Tensor
    part: Tensor | None = None

    @property
    def sent(self) -> Tensor:
        """Which latents are sent at all, bool: those above the water."""
        return self.variance > self.level

    @property
    def alpha(self) -> Tensor:
        """α = √(1 − θ/σ²), zero where nothing is sent."""
        return torch.sqrt((1.0 - self.level / self.variance).clamp_min(0.0))

    def _power(self, mean: Tensor) -> Tensor:
        """What an oracle is told: the second moment of what arrives about its mean."""
        return self.alpha.square() * (self.residual - mean).square() + self.level

    def _prior(self, variance: Tensor) -> Tensor:
        """The variance of what arrives, if that of the residual is as predicted."""
        return self.alpha.square() * variance + self.level

    @cached_property
    def features(self) -> Tensor:
        """log E₁, log E₂ and the estimates to the left and above of each latent, (4, M, h, w)."""
        # What is hardly above the water says little about anything.
        weight = torch.where(self.sent, 1.0 - self.level / self.variance, 0.0)
        energy = weight * self.received.square() / self.variance
        sums = torch.zeros(2, *energy.shape)
        for total, plane in zip(sums, (energy, weight), strict=True):
            for row, column in CAUSAL_NEIGHBOURS:
                _add_shifted(total, plane, row, column, self.part)
        before = [self._of_channels_before(plane) for plane in (energy, weight)]
        near = torch.log((sums[0] + _PRIOR_WEIGHT) / (sums[1] + _PRIOR_WEIGHT))
        across = torch.log((before[0] + _PRIOR_WEIGHT) / (before[1] + _PRIOR_WEIGHT))
        estimates = torch.zeros(2, *energy.shape)
        for total, (row, column) in zip(estimates, ((0, -1), (-1, 0)), strict=True):
            _add_shifted(total, self.received * self.alpha, row, column, self.part)
        return torch.stack([near, across, *estimates])

    def _of_channels_before(self, plane: Tensor) -> Tensor:
        """Sums over the channels before each, 0 where one of them arrives with a later part."""
        sums = plane.cumsum(0)[:-1]
        if self.part is not None:
            sums = torch.where(self.part.cummax(0).values[:-1] <= self.part[1:], sums, 0.0)
        return F.pad(sums, (0, 0, 0, 0, 1, 0))

    def charge(self, mean: Tensor, variance: Tensor) -> Tensor:
        """KL(N(αr, θ) ‖ N(α·mean, α²·variance + θ)) of each latent, bits.

        Parameters
        ----------
        mean, variance
            Predicted of the residual.
        """
        prior = self._prior(variance)
        excess = self._power(mean) / prior - 1.0
        return 0.5 * (torch.log2(prior / self.level) + excess / math.log(2.0))

    def told(self, mean: Tensor) -> Tensor:
        """The same, least over all variances: what an oracle pays, ½log₂(1 + α²(r − mean)²/θ)."""
        return 0.5 * torch.log2(self._power(mean) / self.level)

    def divergence(self, mean: Tensor, variance: Tensor) -> Tensor:
        """What not knowing the variance costs: half the Itakura–Saito divergence, bits.

        ½(w − 1 − ln w)/ln 2 with w the ratio of what the oracle is told to what was predicted.
        """
        w = self._power(mean) / self._prior(variance)
        return 0.5 / math.log(2.0) * (w - 1.0 - torch.log(w))

    def estimate(self, mean: Tensor, variance: Tensor) -> Tensor:
        """r̂: the MMSE estimate of the residual by that mean and variance; 0 if nothing is sent."""
        gain = self.alpha * variance / self._prior(variance)
        return torch.where(self.sent, mean + gain * (self.received - self.alpha * mean), 0.0)


def _add_shifted(total: Tensor, x: Tensor, row: int, column: int, part: Tensor | None) -> None:
    """Add to each place of (M, h, w) the value at an offset before it, no row below, if any.

    Values that arrive with a later part than the place are not added.
    """
    height, width = x.shape[1:]
    left, right = max(0, -column), width - max(0, column)
    if -row < height and left < right:
        here = (slice(None), slice(-row, None), slice(left, right))
        there = (slice(None), slice(height + row), slice(left + column, right + column))
        if part is None:
            total[here] += x[there]
        else:
            total[here] += torch.where(part[there] <= part[here], x[there], 0.0)


@dataclass(frozen=True)
class FittedContext:
    """The five numbers a, b, c, d, e, in whole 256ths."""

    parameters: tuple[float, ...]

    @property
    def price_bits(self) -> float:
        """Bits of telling them."""
        return float(PARAMETER_BITS * len(self.parameters))

    def predict(self, tile: Posterior) -> tuple[Tensor, Tensor]:
        """Mean and variance of the residual of each latent."""
        return _predicted(torch.tensor(self.parameters), tile.features, tile.variance)


def _predicted(parameters: Tensor, features: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
    a, b, c, d, e = parameters
    near, across, left, above = features
    log = (a + b * near + c * across).clamp(-_LARGEST_LOG, _LARGEST_LOG)
    return d * left + e * above, variance * torch.exp(log)


def fit_context(tiles: Sequence[Posterior]) -> FittedContext:
    """The context that makes the latents of a picture cheapest, or one that changes nothing.

    Parameters
    ----------
    tiles
        Tiles of the picture, all planes (M, h, w).
    """
    nothing = FittedContext((0.0,) * 5)
    skip = max(1, -(-sum(int(tile.sent.sum()) for tile in tiles) // _MOST))
    features, pieces = [], []
    for tile in tiles:
        chosen = tile.sent
        # A slice that is not copied would keep all that it was cut from.
        seen = tile.features if len(tiles) == 1 else replace(tile).features
        features.append(seen[:, chosen][:, ::skip].clone())
        planes = (tile.residual, tile.received, tile.variance, tile.level.expand_as(tile.residual))
        pieces.append([plane[chosen][::skip].clone() for plane in planes])
    known = torch.cat(features, 1)
    whole = Posterior(*(torch.cat(parts) for parts in zip(*pieces, strict=True)))
    if not whole.residual.numel():
        return nothing

    parameters = torch.zeros(5, requires_grad=True)
    search = torch.optim.LBFGS([parameters], max_iter=15, line_search_fn="strong_wolfe")

    def cost() -> Tensor:
        search.zero_grad()
        total = whole.charge(*_predicted(parameters, known, whole.variance)).mean()
        total.backward()  # type: ignore[no-untyped-call]
        return total

    with torch.enable_grad():
        before = float(cost().detach())
        search.step(cost)  # type: ignore[no-untyped-call]
    found = torch.round(parameters.detach() * _STEPS_PER_ONE) / _STEPS_PER_ONE
    if not bool(found.isfinite().all()) or float(found.abs().max()) >= 128:
        return nothing
    after = whole.charge(*_predicted(found, known, whole.variance)).mean()
    return FittedContext(tuple(found.tolist())) if float(after) < before else nothing
