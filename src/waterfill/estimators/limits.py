"""The limits paper's rungs on a plain source: its principal components in place of a codec."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from waterfill.data.sources import Source
from waterfill.errors import WaterfillError
from waterfill.estimators.axes import principal_axes
from waterfill.estimators.curve import Status
from waterfill.estimators.method import (
    FRESH,
    Finding,
    Run,
    SlopeBySlope,
    fresh_interval,
)

__all__ = ["TransformLimits"]

#: Largest rounding error of a latent, in deviations of the noise that is added to it.
_MOST_ROUNDED = 1e-2


@dataclass(frozen=True)
class TransformLimits(SlopeBySlope):
    """Two Gaussian test channels on the principal components, at the water level θ = 1/2λ.

    With the variances that were fitted, the divergence from the prior is charged and the point is
    an upper bound. With each latent's own square for a variance the same channel is charged
    ½ ln(y²/θ) where y² > θ and nothing elsewhere: nobody told the decoder those squares, and the
    point bounds R(D) from neither side. It is the paper's oracle. Where theory knows R(D) itself,
    or Shannon's bound, that is given too: a lower bound, which the oracle may undercut.

    Attributes
    ----------
    fit, samples
        Samples to fit the components on, and fresh ones to score on.

    Raises
    ------
    WaterfillError
        For fewer than two samples to fit; when run, for a discrete source.
    """

    fit: int = 20_000
    samples: int = 50_000

    name = "limits"
    takes_axes = True

    def __post_init__(self) -> None:
        if self.fit < 2:
            raise WaterfillError("limits: components take 2 samples at least to fit")

    def at(self, source: Source, slope: float, run: Run) -> Sequence[Finding]:
        """The upper bound, the oracle, and the lower bound of sources that have one."""
        fitted = run.tensor(source.sample(self.fit, run.rng(9)))
        centre, values, vectors = principal_axes(fitted)
        count = min(self.samples, max(2000, 20_000_000 // source.dimension))
        y = (run.tensor(source.fresh(count, run.rng(FRESH))).to(fitted.dtype) - centre) @ vectors
        level = 0.5 / slope
        if torch.finfo(y.dtype).eps * float(y.abs().max()) > _MOST_ROUNDED * level**0.5:
            raise OverflowError("the noise is lost in rounding beside the latents")
        noise = torch.randn(y.shape, dtype=y.dtype, device=y.device)
        predicted = self._predicted(y, values, noise, level)
        oracle = self._oracle(y, noise, level)
        found = []
        for status, (nats, error), note in (
            (Status.UPPER, predicted, "predicted variance, test channel, on principal components"),
            (Status.GENIE, oracle, "genie-aided: each latent's square is told for free"),
        ):
            lagrangian, interval, pictures = fresh_interval(nats + slope * error, source, run)
            found.append(
                Finding(
                    status,
                    slope,
                    float(error.double().mean()),
                    lagrangian,
                    interval,
                    samples=len(y),
                    note=note,
                    pictures=pictures,
                )
            )
        return found + _floor(source, slope)

    def _predicted(
        self, y: Tensor, variance: Tensor, noise: Tensor, level: float
    ) -> tuple[Tensor, Tensor]:
        """KL of N(αy, θ) from N(0, v), and the error of αŷ, of each sample."""
        active = variance > level
        alpha = (1.0 - level / variance.clamp_min(level)).sqrt()
        y_hat = alpha * y + level**0.5 * noise
        ratio = variance.clamp_min(level) / level
        nats = 0.5 * (ratio.log() + (1.0 + (alpha * y).square() / level) / ratio - 1.0)
        error = (y - torch.where(active, alpha * y_hat, 0.0)).square().sum(1)
        return (nats * active).sum(1), error

    def _oracle(self, y: Tensor, noise: Tensor, level: float) -> tuple[Tensor, Tensor]:
        """½ ln(y²/θ) above the level, and the error of αŷ with the genie's α."""
        square = y.square().clamp_min(level)
        alpha = (1.0 - level / square).sqrt()
        y_hat = alpha * y + level**0.5 * noise
        error = torch.where(y.square() > level, y - alpha * y_hat, y).square().sum(1)
        return (0.5 * (square / level).log()).sum(1), error


def _floor(source: Source, slope: float) -> list[Finding]:
    """The tangent of what theory knows."""
    for known, note in (
        (source.truth(slope), "R(D) itself"),
        (source.shannon_bound(slope), "Shannon's lower bound"),
    ):
        if known is not None:
            distortion, nats = known
            return [Finding(Status.LOWER, slope, distortion, nats + slope * distortion, note=note)]
    return []
