"""Rate–distortion-optimised quantisation: a better choice of symbols for the same decoder.

Quantising each latent to what is nearest looks at one latent at a time, and at nothing that the
decoder does. Here symbols are tried beside those that are chosen, one step to or from zero, or
other ways through a trellis, and judged by what they cost in bits and by what they do to the
picture: to second order, by the gradient of the squared error at the picture that is decoded now,
and by each channel's sensitivity. Latents overlap in the picture, so only a random share of them
may change at a time, and the curvature is taken for larger than it is, the more so the more often
that was too optimistic. The best of all passes is kept, so the cost never rises.

The gradient matters: trained with rounding, an analysis transform shrinks what it sends, and
rounds to zero what isn't worth its bits. To weigh rates against the distance from y alone would do
the same again, and lose.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from waterfill.bitstream import Distribution, Trellis
from waterfill.codec.coding import Prediction
from waterfill.codec.latents import Latents, Quantised
from waterfill.codec.priors.context import Part
from waterfill.codec.sensitivity import sensitivity
from waterfill.codec.trellis import cheapest_path
from waterfill.errors import CodecError

__all__ = ["refine"]

#: Share of the latents that may change in a pass.
_SHARE = 0.5
#: Factor on their curvature at first; it falls after a pass that pays, and rises after one that
#: doesn't.
_CAUTION, _BOLDER, _MORE_CAREFUL = 2.5, 1.2, 1.5
#: Factor on the curvature of trellis lanes that may not change: contexts move what is predicted of
#: them, and which of their latents the trellis runs through.
_HELD = 50.0
#: Curvature of channels that hardly show, in bits per squared step.
_LEAST_CURVATURE = 0.3


def refine(
    latents: Latents,
    reconstruct: Callable[[Tensor], Tensor],
    x: Tensor,
    price: float,
    *,
    passes: int,
    seed: int = 0,
) -> Quantised:
    """Choose symbols by what they cost and what they do to the picture.

    Parameters
    ----------
    latents
        Latents of a picture, or of a tile.
    reconstruct
        g_s, differentiable: ŷ (M, h, w) in steps to (planes, H, W) in [0, 1].
    x
        The picture (planes, H', W'), no larger.
    price
        λ in bpp + λ·255²·MSE.
    passes
        How often all latents are looked at.
    seed
        Seed of the probes, and of which latents may change in a pass.

    Returns
    -------
    Quantised
        The choice with the least bits + λ·distortion met on the way.

    Raises
    ------
    CodecError
        If broken weights decode to what is not finite.
    """
    # Squared errors, summed over all samples, in bits.
    per_error = price * 255.0**2 / len(x)
    best = current = latents.quantised
    weights = sensitivity(reconstruct, current.y_hat, seed=seed)
    curvature = (per_error * weights).clamp_min(_LEAST_CURVATURE)[:, None, None]
    curvature = curvature.expand_as(latents.y)
    generator = torch.Generator().manual_seed(seed)
    least, caution, slope = math.inf, _CAUTION, torch.zeros(0)
    for number in range(passes + 1):
        error, found = _distortion(reconstruct, current.y_hat, x, slope=number < passes)
        cost = float(current.bits.sum()) + per_error * error
        if not number and not math.isfinite(cost):
            raise CodecError("the decoded picture is not finite: the weights are broken")
        if cost <= least:
            best, least, slope = current, cost, found
            caution = max(1.0, caution / _BOLDER)
        else:  # the model was too optimistic: once more from where it was best
            caution *= _MORE_CAREFUL
        drawn = torch.rand(latents.y.shape, generator=generator, dtype=torch.float32)
        free = drawn < _SHARE
        if number < passes:
            chooser = _Chooser(best.y_hat, per_error * slope, caution * curvature, free)
            current = latents.quantise(chooser)
    return best


def _distortion(
    reconstruct: Callable[[Tensor], Tensor], y_hat: Tensor, x: Tensor, *, slope: bool
) -> tuple[float, Tensor]:
    """Summed squared error of the picture, and its gradient in ŷ."""
    given = y_hat.clone().requires_grad_(slope)
    with torch.set_grad_enabled(slope):
        shown = reconstruct(given)[:, : x.shape[1], : x.shape[2]]
        error = (shown - x).square().sum()
    gradient = torch.autograd.grad(error, given)[0] if slope else torch.zeros(0)
    return float(error.detach()), gradient


class _Chooser:
    """Symbols near those chosen before, by bits and a quadratic model of the distortion.

    Parameters
    ----------
    before
        ŷ (M, h, w) of the choice so far.
    slope, curvature
        Slope and curvature of the distortion there, in bits.
    free
        Which latents may change; which lanes of a trellis, in the places of the first channel.
    """

    def __init__(self, before: Tensor, slope: Tensor, curvature: Tensor, free: Tensor) -> None:
        self._planes = (before, slope, curvature, free)

    def __call__(self, part: Part, predicted: Prediction) -> Tensor:
        """Symbols of a part, float64."""
        before, slope, curvature, free = (part.take(plane) for plane in self._planes)
        start = before.double() - predicted.centre
        distribution = predicted.distribution
        if not isinstance(distribution, Trellis):
            return _stepped(distribution, start, slope, curvature, free)
        chosen = _stepped(distribution.rounded, start, slope, curvature, free).contiguous()
        lanes = distribution.lane_of(np.arange(free[0].numel()))
        freed = free[0].flatten()[torch.from_numpy(lanes)].reshape(free[0].shape).expand_as(free)
        target = start - torch.where(freed, slope / (2.0 * curvature), 0.0)
        weight = torch.where(freed, curvature, _HELD * curvature).double()
        path = cheapest_path(distribution, target.numpy(), weight.numpy())
        where = torch.from_numpy(distribution.lanes.where)
        chosen.view(-1)[where] = torch.from_numpy(path).double()
        return chosen


def _stepped(
    distribution: Distribution, start: Tensor, slope: Tensor, curvature: Tensor, free: Tensor
) -> Tensor:
    """Symbols that may differ from the nearest ones by a step, where they are free to."""
    kept = torch.round(start)

    def cost(symbols: Tensor) -> Tensor:
        bits = distribution.bits(symbols.to(torch.int32).numpy())
        moved = symbols - start
        return torch.from_numpy(bits) + slope * moved + curvature * moved.square()

    chosen, least = kept, cost(kept)
    downhill = torch.where(slope > 0, -1.0, 1.0).double()
    for candidate in (kept - torch.sign(kept), kept + downhill):
        price = cost(candidate)
        better = free & (price < least)
        chosen, least = (
            torch.where(better, candidate, chosen),
            torch.where(better, price, least),
        )
    return chosen
