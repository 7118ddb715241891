"""Densities of latents: what a prior hands to a channel.

All are in quantisation steps. A density has a centre, about which its latent is rounded, and knows
what the unit bin around any residual costs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Protocol, cast

import torch
from torch import Tensor

__all__ = ["Density", "Gaussian", "GaussianMixture", "dequantised_bits", "gaussian_bin_bits"]


class _LogNdtr(torch.autograd.Function):
    """log Φ(x) with a slope that stays exact far out.

    The slope is φ(x)/Φ(x); as exp(−x²/2 − log Φ(x)), which is what autograd knows, two numbers
    near x²/2 cancel, and in single precision nothing is left of it at a few hundred deviations.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return cast(Tensor, torch.special.log_ndtr(x))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        scaled: Tensor = torch.special.erfcx(x * -math.sqrt(0.5))
        return grad * (math.sqrt(2.0 / math.pi) / scaled)


def _log_ndtr(x: Tensor) -> Tensor:
    return cast(Tensor, _LogNdtr.apply(x))  # type: ignore[no-untyped-call]


def gaussian_bin_bits(residual: Tensor, sigma: Tensor) -> Tensor:
    """Bits of the unit bin around ``residual`` under N(0, σ²) (paper 1, eq. 4).

    −log₂[Φ((r+½)/σ) − Φ((r−½)/σ)], by log-CDFs of the lower tail: exact, with useful gradients,
    also where the probability itself underflows.
    """
    distance = residual.abs()
    upper = _log_ndtr((0.5 - distance) / sigma)
    lower = _log_ndtr((-0.5 - distance) / sigma)
    # Φ(upper) − Φ(lower) = Φ(upper)(1 − e^(lower − upper)); the bound keeps log1p finite where a
    # wide σ makes the two nearly equal.
    ratio = (lower - upper).clamp_max(-1e-6)
    bits: Tensor = (upper + torch.log1p(-torch.exp(ratio))) / -math.log(2.0)
    return bits


def dequantised_bits(residual: Tensor, log2_sigma: Tensor) -> Tensor:
    """Mean of −log₂ N(r + u; 0, σ²) over u uniform in [−½, ½]: a bin's worth of density.

    ½log₂(2πσ²) + (r² + 1/12)/(2σ² ln 2), least at σ² = E r² + 1/12. By Jensen's inequality never
    below the bits of the bin (:func:`gaussian_bin_bits`); above them by .06/σ² on average where σ
    is wide; at a fraction of the arithmetic (Theis, van den Oord, Bethge 2016, section 3.1).
    """
    power = residual.square() + 1.0 / 12.0
    scaled = power * torch.exp2(-2.0 * log2_sigma)
    return log2_sigma + (0.5 * math.log2(2.0 * math.pi) + (0.5 / math.log(2.0)) * scaled)


class Density(Protocol):
    """What is known of each latent."""

    @property
    def centre(self) -> Tensor:
        """Where the lattice of ŷ is anchored: ŷ lies at whole steps from here."""
        ...

    def bits(self, residual: Tensor) -> Tensor:
        """−log₂ of the mass of the unit bin around ``centre + residual``."""
        ...

    def frozen(self) -> Density:
        """The same, but for the gradient of all that shapes it around its centre."""
        ...

    def scaled(self, step: float) -> Density:
        """The same in units of another step."""
        ...

    def gaussian(self) -> Gaussian:
        """The Gaussian with its mean and variance, for channels whose theory is Gaussian.

        What they charge by it can be achieved: any density bounds the rate from above.
        """
        ...


@dataclass(frozen=True)
class Gaussian:
    """N(μ, σ²), rounded about its mean."""

    mu: Tensor
    sigma: Tensor

    @property
    def centre(self) -> Tensor:
        """μ."""
        return self.mu

    def bits(self, residual: Tensor) -> Tensor:
        """From log-CDFs, exact far out in the tails."""
        return gaussian_bin_bits(residual, self.sigma)

    def frozen(self) -> Gaussian:
        """With a fixed σ."""
        return Gaussian(self.mu, self.sigma.detach())

    def scaled(self, step: float) -> Gaussian:
        """Both parameters over the step."""
        return Gaussian(self.mu / step, self.sigma / step)

    def gaussian(self) -> Gaussian:
        """Itself."""
        return self


@dataclass(frozen=True)
class GaussianMixture:
    """Σ_k w_k N(μ_k, σ_k²), rounded to integers: several means have no common lattice.

    Attributes
    ----------
    log_weights, mu, sigma
        K leading: (K, …), weights as natural logarithms that are normalised over K.

    References
    ----------
    Cheng et al., "Learned image compression with discretized Gaussian mixture likelihoods and
    attention modules", CVPR 2020, eq. 9.
    """

    log_weights: Tensor
    mu: Tensor
    sigma: Tensor

    @property
    def centre(self) -> Tensor:
        """Zero."""
        return torch.zeros_like(self.mu[0])

    def bits(self, residual: Tensor) -> Tensor:
        """−log₂ of the mixed masses, from the logarithms of each."""
        each = gaussian_bin_bits(residual - self.mu, self.sigma)
        logs = self.log_weights - math.log(2.0) * each
        return torch.logsumexp(logs, 0) / -math.log(2.0)

    def frozen(self) -> GaussianMixture:
        """With fixed weights, means and scales."""
        return GaussianMixture(self.log_weights.detach(), self.mu.detach(), self.sigma.detach())

    def scaled(self, step: float) -> GaussianMixture:
        """Means and scales over the step."""
        return GaussianMixture(self.log_weights, self.mu / step, self.sigma / step)

    def gaussian(self) -> Gaussian:
        """The Gaussian with the same mean and variance."""
        weights = torch.exp(self.log_weights)
        mean = (weights * self.mu).sum(0)
        power = (weights * (self.sigma.square() + (self.mu - mean).square())).sum(0)
        return Gaussian(mean, torch.sqrt(power))
