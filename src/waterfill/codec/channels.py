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
:class:`GaussianPosterior`      y + n                KL(N(y, θ) ‖ N(μ, σ² + θ))
:class:`OracleStraightThrough`  as StraightThrough   the same with σ² = (y − μ)², genie-aided
:class:`OracleGaussian`         as either Gaussian   the same with the least σ², genie-aided
==============================  ===================  =========================================

Dithered and the Gaussian test channel then scale ŷ − μ to its MMSE estimate, unless told not to. An
oracle's μ is 0 unless it works about the predicted mean.

An oracle knows each latent's variance, which no decoder can. Beside its own charge it tells what a
prior would ask for the same ŷ (:meth:`Oracle.charged_by_prior`): the oracle's rate alone says
little, because training can lower it without end.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from waterfill.codec.bounds import bounded
from waterfill.codec.densities import Density, Gaussian, GaussianMixture, gaussian_bin_bits
from waterfill.codec.noise import Noise

__all__ = [
    "ORACLE_MODES",
    "WATER_LEVEL",
    "Channel",
    "ChargedByPrior",
    "Crossing",
    "Dithered",
    "GaussianPosterior",
    "GaussianTest",
    "Oracle",
    "OracleGaussian",
    "OracleStraightThrough",
    "Rounding",
    "Stepped",
    "StraightThrough",
    "UniformNoise",
    "of_channels",
    "solved_level",
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
        if not torch.is_grad_enabled():  # Noise is there for gradients alone.
            return Crossing(symbols + density.centre, coded)
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
            known = density.gaussian()
            variance, mean = known.sigma.square(), known.mu - density.centre
            noisy = mean + (noisy - mean) * (variance / (variance + WATER_LEVEL))
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
        Water level θ, in squared steps, or one for each channel of latents (C, …).
    mmse
        Scale r̂ by α, the MMSE estimate with error exactly D, for a frozen synthesis.
    """

    level: float | Tensor = WATER_LEVEL
    mmse: bool = True

    def of_channels(self, channels: slice) -> GaussianTest:
        """The channel as a part of the latents meets it."""
        if isinstance(self.level, Tensor):
            return GaussianTest(self.level[channels], self.mmse)
        return self

    def __call__(self, y: Tensor, density: Density, noise: Noise) -> Crossing:
        """Scale, add Gaussian noise, charge the KL divergence."""
        known = density.gaussian()
        residual = y - known.mu
        variance = known.sigma.square()
        level = torch.as_tensor(self.level, dtype=y.dtype, device=y.device)
        if level.ndim:
            level = level.reshape(-1, *(1,) * (y.ndim - 1))
        distortion = torch.minimum(variance, level)
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


@dataclass(frozen=True)
class GaussianPosterior:
    """Gaussian noise on every latent, charged at the KL divergence: a β-VAE.

    No latent is exempt, and there is no edge at a water level: where σ² = E r² the mean charge is
    ½log₂(1 + σ²/θ), which goes to zero with σ.

    Parameters
    ----------
    level
        Variance θ of the noise, in squared steps. A codec in training learns the noise of a channel
        beside its latents through its gains.
    """

    level: float = WATER_LEVEL

    def __call__(self, y: Tensor, density: Density, noise: Noise) -> Crossing:
        """Add the noise."""
        known = density.gaussian()
        level = y.new_tensor(self.level)
        received = y + torch.sqrt(level) * noise.normal(y)
        return Crossing(received, _divergence(y - known.mu, level, known.sigma.square() + level))


@dataclass(frozen=True)
class Stepped:
    """Another channel at a coarser or finer step, for codecs that have but one.

    Parameters
    ----------
    channel
        The channel at a step of 1.
    step
        Step of the lattice, or factor on √θ, in the codec's own steps.
    """

    channel: Channel
    step: float

    def __call__(self, y: Tensor, density: Density, noise: Noise) -> Crossing:
        """Send what is scaled, and scale it back."""
        crossing = self.channel(y / self.step, density.scaled(self.step), noise)
        return crossing._replace(y_hat=crossing.y_hat * self.step)

    def of_channels(self, channels: slice) -> Stepped:
        """The channel as a part of the latents meets it."""
        return Stepped(of_channels(self.channel, channels), self.step)


def of_channels(channel: Channel, channels: slice) -> Channel:
    """A channel as some channels of the latents meet it; only levels make a difference."""
    if isinstance(channel, GaussianTest | Stepped):
        return channel.of_channels(channels)
    return channel


def _divergence(mean: Tensor, variance: Tensor, prior: Tensor) -> Tensor:
    """KL(N(mean, variance) ‖ N(0, prior)), bits."""
    excess = (variance + mean * mean) / prior - 1.0
    return 0.5 * (torch.log2(prior / variance) + excess / math.log(2.0))


#: How an oracle's Gaussian channel treats the water level, see :class:`OracleGaussian`.
ORACLE_MODES = ("smooth", "paper", "paper-detached")
#: Smallest α² with a gradient of its own.
_SMALLEST_SHARE = 1e-4
#: Stands for a residual of zero, whose square is no variance.
_SMALLEST_DEVIATION = 1e-3


class Oracle(Channel, Protocol):
    """A channel that is told each latent's variance for free: genie-aided.

    Attributes
    ----------
    predicted_mean
        Whether that variance is about the prior's mean, or about zero with nothing predicted.
    """

    @property
    def predicted_mean(self) -> bool:
        """As above."""
        ...

    def charged_by_prior(self, y: Tensor, density: Density, noise: Noise) -> Crossing:
        """The same ŷ, and what the prior would charge for it in the oracle's place."""
        ...


@dataclass(frozen=True)
class ChargedByPrior:
    """An oracle's ŷ at the price of the prior: what a genie's bargain costs without the genie.

    A mean that the oracle works about is the oracle's to train, and a constant here.

    Parameters
    ----------
    oracle
        Whose ŷ.
    """

    oracle: Oracle

    def __call__(self, y: Tensor, density: Density, noise: Noise) -> Crossing:
        """Send as the oracle does, charge as a prior must."""
        known = density.gaussian()
        if self.oracle.predicted_mean:
            known = Gaussian(known.mu.detach(), known.sigma)
        return self.oracle.charged_by_prior(y, known, noise)


def _centre(density: Density, predicted_mean: bool) -> Tensor:
    """What an oracle's variance is about; a mixture is not rounded about its mean."""
    if not predicted_mean:
        return torch.zeros_like(density.centre)
    return density.gaussian().mu if isinstance(density, GaussianMixture) else density.centre


@dataclass(frozen=True)
class OracleStraightThrough:
    """Rounding whose coder is told each latent's variance r² for free: genie-aided.

    The training form of paper 1's codec with perfect variance estimation (theorem 1, fig. 4a).

    Parameters
    ----------
    predicted_mean
        As for :class:`Oracle`.
    """

    predicted_mean: bool = False

    def __call__(self, y: Tensor, density: Density, noise: Noise) -> Crossing:
        """As :class:`StraightThrough` with σ = abs(y − μ)."""
        centre = _centre(density, self.predicted_mean)
        told = bounded((y - centre).abs(), _SMALLEST_DEVIATION, math.inf)
        return StraightThrough()(y, Gaussian(centre, told), noise)

    def charged_by_prior(self, y: Tensor, density: Density, noise: Noise) -> Crossing:
        """The bin around the same ŷ, by the prior."""
        centre = _centre(density, self.predicted_mean)
        y_hat = torch.round(y - centre) + centre
        return Crossing(y_hat, density.bits((y_hat - density.centre).detach()))


@dataclass(frozen=True)
class OracleGaussian:
    """The Gaussian test channel told each latent's variance r² for free: genie-aided.

    Parameters
    ----------
    mode
        ``paper``: algorithm 1 as it stands. D = min(θ, r²), α = √(1 − D/r²), r̂ = αr + n where
        r² > θ and exactly 0 elsewhere, at ½log₂(r²/D) bits; ``paper-detached`` takes α for a
        constant in the gradient. Latents below the level get no gradient from rate or distortion.
        ``smooth``: the network gives the noiseless part s, every latent gets the noise, and the
        variance r² = s² + θ costs ½log₂(1 + s²/θ). Above the level the two are the same after a
        change of variables; below it, this one has a gradient.
    predicted_mean
        As for :class:`Oracle`.
    level
        Water level θ, in squared steps.
    budget
        Mean distortion for each latent, in squared steps, in place of a level that all pictures
        share: θ is then solved for in each (reverse water-filling). Only ``paper`` modes fill
        water; 0 for none.
    mmse
        Of ``paper`` modes: scale r̂ by α, the MMSE estimate with error exactly D, for a frozen
        synthesis.
    """

    mode: str = "smooth"
    predicted_mean: bool = False
    level: float = WATER_LEVEL
    budget: float = 0.0
    mmse: bool = False

    def _noiseless(self, y: Tensor, density: Density) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Centre, noiseless residual, water level, and whether there is noise."""
        centre = _centre(density, self.predicted_mean)
        residual = y - centre
        if self.mode == "smooth":
            level = torch.full_like(residual, self.level)
            return centre, residual, level, torch.ones_like(residual)
        power = residual * residual
        level = self._level(power)
        sent = power > level
        # Of a power of zero neither the ratio nor its slope is a number.
        share = 1.0 - level / torch.where(sent, power, 2.0 * level)
        # Just above the level the root's slope has no bound, and rounding can make it infinite.
        alpha = torch.sqrt(bounded(share, _SMALLEST_SHARE, 1.0)) * sent
        if self.mode == "paper-detached":
            alpha = alpha.detach()
        return centre, alpha * residual, level.expand_as(residual), sent.to(residual.dtype)

    def _level(self, power: Tensor) -> Tensor:
        if not self.budget:
            return power.new_full((), self.level)
        level = solved_level(power.detach(), self.budget)
        return level.reshape(-1, *(1,) * (power.ndim - 1))

    def __call__(self, y: Tensor, density: Density, noise: Noise) -> Crossing:
        """Add Gaussian noise, charge the oracle's rate."""
        centre, residual, level, noisy = self._noiseless(y, density)
        received = residual + torch.sqrt(level) * noisy * noise.normal(y)
        if self.mode == "smooth":
            bits = 0.5 / math.log(2.0) * torch.log1p(residual * residual / level)
        else:
            power = torch.where(noisy > 0, (y - centre).square(), level)
            bits = 0.5 * torch.log2(power / level)
            if self.mmse:
                received = received * torch.sqrt(1.0 - level / power)
        return Crossing(received + centre, bits)

    def charged_by_prior(self, y: Tensor, density: Density, noise: Noise) -> Crossing:
        """The same ŷ by a prior with variance σ² before noise, everything paid for.

        KL divergence of what is sent; in ``paper`` modes also which latents are sent at all, by the
        probability that the prior gives to r² > θ. An oracle has that for free.
        """
        centre, residual, level, noisy = self._noiseless(y, density)
        mean = (residual + centre).detach()
        received = mean + torch.sqrt(level) * noisy * noise.normal(y)
        known = density.gaussian()
        bits = _divergence(mean - known.mu, level, known.sigma.square() + level)
        if self.mode != "smooth":
            silent = _silence_bits(known.mu - centre.detach(), known.sigma, level)
            told = torch.log(-torch.expm1(-math.log(2.0) * silent)) / -math.log(2.0)
            bits = torch.where(noisy > 0, bits + told, silent)
        return Crossing(received, bits)


def _silence_bits(mean: Tensor, sigma: Tensor, level: Tensor) -> Tensor:
    """−log₂ of the probability that r² is at most ``level`` under N(mean, σ²); never quite 0."""
    width = 2.0 * torch.sqrt(level)
    return gaussian_bin_bits(mean / width, sigma / width).clamp_min(1e-6)


def solved_level(power: Tensor, budget: float) -> Tensor:
    """Water level θ of each picture at which the mean of min(θ, power) is ``budget``.

    Parameters
    ----------
    power
        Second moments (B, …), at least 0.
    budget
        Mean distortion; where it exceeds the mean of ``power``, θ is the largest power.
    """
    flat = power.flatten(1).double().sort(1).values
    count = flat.shape[1]
    below = F.pad(flat.cumsum(1), (1, 0))[:, :-1]
    left = torch.arange(count, 0, -1, device=flat.device)
    # With the level at the k-th power, k of them lie below: their sum and the rest at the level.
    filled = (below + left * flat) / count
    k = torch.searchsorted(filled, filled.new_full((len(flat), 1), budget)).clamp_max(count - 1)
    level = (budget * count - below.gather(1, k)) / left[k]
    level = torch.minimum(level, flat[:, -1:]).clamp_min(torch.finfo(power.dtype).tiny)
    return level[:, 0].to(power.dtype)
