"""Channels: how y becomes ŷ, and what crossing costs.

A channel takes latents y and what the prior says of them, and returns ŷ with the bits spent on each
latent. Everything is in units of the quantisation step, so the step is 1 and the water level of a
matching Gaussian channel is θ = 1/12. The codec that is shipped, the surrogate it is trained
with and the idealised channels of the limits differ in nothing but the channel.

==============================  ===================  =========================================
channel                         ŷ                    bits
==============================  ===================  =========================================
:class:`Rounding`               ⌊y − μ⌉ + μ          −log₂ P(bin), by the prior
:class:`UniformNoise`           y + u                −log₂ of the prior convolved with U, at ŷ
:class:`StraightThrough`        as Rounding          as Rounding; y's gradient from noise
:class:`Dithered`               ⌊y − μ + u⌉ − u + μ  as UniformNoise: universal quantisation
:class:`GaussianTest`           α(y − μ) + n + μ     KL(N(αr, D) ‖ N(0, σ²))
:class:`OracleStraightThrough`  as StraightThrough   the same with σ² = (y − μ)², genie-aided
:class:`OracleGaussian`         y + n                ½log₂(1 + (y − μ)²/θ), genie-aided
==============================  ===================  =========================================
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from waterfill.codec.bounds import bounded
from waterfill.codec.densities import Density, Gaussian
from waterfill.codec.noise import Noise

__all__ = [
    "WATER_LEVEL",
    "Channel",
    "Crossing",
    "Dithered",
    "GaussianTest",
    "OracleGaussian",
    "OracleStraightThrough",
    "Rounding",
    "StraightThrough",
    "UniformNoise",
]

#: θ, the distortion of a unit-step uniform quantiser (paper 1, eq. 5).
WATER_LEVEL = 1.0 / 12.0


class Crossing(NamedTuple):
    """What comes out of a channel: ŷ, and the bits spent on each latent, both of y's shape."""

    y_hat: Tensor
    bits: Tensor


class Channel(Protocol):
    """y and its density → ŷ and bits per latent; tensors of one shape, in quantisation steps.

    What a channel draws, it draws from the noise it is given.
    """

    def __call__(self, y: Tensor, density: Density, noise: Noise) -> Crossing:
        """Send ``y`` through."""
        ...


@dataclass(frozen=True)
class Rounding:
    """Hard rounding of the residual, what the bitstream carries."""

    def __call__(self, y: Tensor, density: Density, noise: Noise) -> Crossing:
        """Round the residual."""
        symbols = torch.round(y - density.centre)
        return Crossing(symbols + density.centre, density.bits(symbols))


@dataclass(frozen=True)
class UniformNoise:
    """Additive uniform noise, the differentiable stand-in for rounding (Ballé 2017)."""

    def __call__(self, y: Tensor, density: Density, noise: Noise) -> Crossing:
        """Add the noise."""
        y_hat = y + noise.uniform(y)
        return Crossing(y_hat, density.bits(y_hat - density.centre))


@dataclass(frozen=True)
class StraightThrough:
    """True rounding with the gradient of identity; a rate that is coded, with noise's gradient.

    The synthesis trains on what it will meet (Minnen & Singh 2020), and so does σ: its gradient is
    that of the rounded residual's bits. Uniform noise gives y and μ theirs. To train σ by noise too
    is a mistake at low rates: a latent that is all but certain to be zero costs a tenth of a bit
    with noise and nothing in a stream, and many of them can double the rate.
    """

    def __call__(self, y: Tensor, density: Density, noise: Noise) -> Crossing:
        """Round in the value, not in the gradient."""
        residual = y - density.centre
        symbols = torch.round(residual).detach()
        coded = density.bits(symbols)
        noisy = density.frozen().bits(residual + noise.uniform(y))
        rounded = residual + (symbols - residual).detach()
        return Crossing(rounded + density.centre, coded + (noisy - noisy.detach()))


@dataclass(frozen=True)
class Dithered:
    """Universal quantisation: subtractive dither shared by both ends.

    The error is exactly uniform and independent of y, and the rate exactly that of the noise
    channel (Ziv 1985; Agustsson & Theis 2020).

    Parameters
    ----------
    mmse
        Shrink ŷ toward μ by σ²/(σ² + 1/12), the linear MMSE estimate, for a synthesis that was
        not trained with this noise.
    """

    mmse: bool = True

    def __call__(self, y: Tensor, density: Density, noise: Noise) -> Crossing:
        """Quantise with the dither, and take it off again."""
        residual = y - density.centre
        dither = noise.uniform(y)
        noisy = torch.round(residual + dither) - dither
        bits = density.bits(noisy)
        if self.mmse:
            variance = density.gaussian().sigma.square()
            noisy = noisy * (variance / (variance + WATER_LEVEL))
        return Crossing(noisy + density.centre, bits)


@dataclass(frozen=True)
class GaussianTest:
    """The Gaussian test channel with reverse water-filling (paper 1, eqs. 6–8, theorem 2).

    D = min(θ, σ²), α = √(1 − D/σ²), r̂ = αr + n with n ~ N(0, D). The charge is the KL divergence
    ½log₂(σ²/D) + ½α²(r²/σ² − 1)/ln 2 and not its first term alone: σ is a prediction, and a
    prediction that is too small must pay. Where σ² = E r², the mean charge is ½log₂(σ²/D).

    Parameters
    ----------
    level
        Water level θ, in squared steps.
    mmse
        Scale r̂ by α, the MMSE estimate with error exactly D, for a frozen synthesis.
    """

    level: float = WATER_LEVEL
    mmse: bool = True

    def __call__(self, y: Tensor, density: Density, noise: Noise) -> Crossing:
        """Scale, add Gaussian noise, charge the KL divergence."""
        known = density.gaussian()
        residual = y - known.mu
        variance = known.sigma.square()
        distortion = variance.clamp_max(self.level)
        # Where v ≤ θ this is exactly 0: nothing is sent, nothing is charged.
        alpha_squared = 1.0 - distortion / variance
        sent = alpha_squared > 0
        # The root's slope at 0 is infinite, and 0 · ∞ would be the gradient of what is not sent.
        alpha = torch.sqrt(torch.where(sent, alpha_squared, 1.0)) * sent
        spread = torch.sqrt(distortion) * sent
        received = alpha * residual + spread * noise.normal(y)
        bits = 0.5 * (
            torch.log2(variance / distortion)
            + alpha_squared * (residual * residual / variance - 1.0) / math.log(2.0)
        )
        if self.mmse:
            received = received * alpha
        return Crossing(received + known.mu, bits)


#: Stands for a residual of zero, whose square is no variance.
_SMALLEST_DEVIATION = 1e-3


@dataclass(frozen=True)
class OracleStraightThrough:
    """Rounding whose coder is told each latent's variance r² for free: genie-aided.

    The training form of paper 1's codec with perfect variance estimation (theorem 1, fig. 4a).
    """

    def __call__(self, y: Tensor, density: Density, noise: Noise) -> Crossing:
        """As :class:`StraightThrough` with σ = abs(y − μ)."""
        told = bounded((y - density.centre).abs(), _SMALLEST_DEVIATION, math.inf)
        return StraightThrough()(y, Gaussian(density.centre, told), noise)


@dataclass(frozen=True)
class OracleGaussian:
    """The Gaussian test channel told each latent's variance for free: genie-aided.

    With y for the noiseless part, so that the variance of what is received is (y − μ)² + θ, the
    charge is ½log₂(1 + (y − μ)²/θ), and every latent gets the noise. Above the water level this is
    paper 1's algorithm 1 after a change of variables; below it, it has the gradient that the
    algorithm lacks.

    Parameters
    ----------
    level
        Water level θ, in squared steps.
    """

    level: float = WATER_LEVEL

    def __call__(self, y: Tensor, density: Density, noise: Noise) -> Crossing:
        """Add Gaussian noise, charge the oracle's rate."""
        residual = y - density.centre
        bits = 0.5 / math.log(2.0) * torch.log1p(residual * residual / self.level)
        return Crossing(y + math.sqrt(self.level) * noise.normal(y), bits)
