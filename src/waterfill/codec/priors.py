"""Priors: (μ, σ) for each latent, and what telling the decoder about them costs.

Two densities are enough: the learned factorised density of Ballé et al. (2018, appendix 6.1), and
the Gaussian whose mean and scale a hyper-latent z describes (Minnen et al. 2018).
"""

from __future__ import annotations

import math
from typing import NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from waterfill.bitstream import Tables
from waterfill.codec.bounds import bounded
from waterfill.codec.fixed_point import ACTIVATION_BITS, FixedPointNetwork
from waterfill.codec.gains import Gains
from waterfill.codec.noise import Noise
from waterfill.codec.transforms import hyper_analysis, hyper_synthesis
from waterfill.errors import CodecError

__all__ = [
    "DeepFactorized",
    "MeanScaleHyperprior",
    "NoSideInformation",
    "Prediction",
    "integer_symbols",
]


_TAIL = 2.0**-20
_WIDEST = 1 << 14  # symbols further out are escapes, however wide the density


class DeepFactorized(nn.Module):
    """A learned density per channel, through a small monotone network for its CDF.

    c(x) = sigmoid(f_K ∘ … ∘ f_1(x)), f_k(x) = g_k(H_k x + b_k), g_k(x) = x + a_k tanh(x), with
    H_k > 0 and a_k > −1 so that c rises (Ballé et al. 2018, appendix 6.1).

    Parameters
    ----------
    channels
        Number C of independent densities.
    spread
        Rough initial width of each density.
    """

    _WIDTHS = (1, 3, 3, 3, 1)

    def __init__(self, channels: int, *, spread: float = 10.0) -> None:
        super().__init__()
        self.channels = channels
        layers = len(self._WIDTHS) - 1
        scale = spread ** (1.0 / layers)
        self.matrices = nn.ParameterList()
        self.biases = nn.ParameterList()
        self.factors = nn.ParameterList()
        for inputs, outputs in zip(self._WIDTHS[:-1], self._WIDTHS[1:], strict=True):
            start = math.log(math.expm1(1.0 / scale / outputs))
            self.matrices.append(nn.Parameter(torch.full((channels, outputs, inputs), start)))
            # Distinct biases break the symmetry; drawn from the global generator like all else.
            self.biases.append(nn.Parameter(torch.rand(channels, outputs, 1) - 0.5))
        for outputs in self._WIDTHS[1:-1]:
            self.factors.append(nn.Parameter(torch.zeros(channels, outputs, 1)))

    def logits(self, x: Tensor) -> Tensor:
        """Logit of the CDF at ``x``, shape (C, 1, n), in the precision of ``x``."""
        # In bfloat16 the CDF's steps would be coarser than the bins it is asked about.
        with torch.autocast(x.device.type, enabled=False):
            for k, (matrix, bias) in enumerate(zip(self.matrices, self.biases, strict=True)):
                x = F.softplus(matrix.to(x.dtype)) @ x + bias.to(x.dtype)
                if k < len(self.factors):
                    x = x + torch.tanh(self.factors[k].to(x.dtype)) * torch.tanh(x)
        return x

    def bits(self, x: Tensor, width: Tensor) -> Tensor:
        """Bits of the bin of ``width`` around ``x``; both (B, C, h, w) or broadcast to it."""
        batch, channels, h, w = x.shape
        half = 0.5 * width.expand_as(x)
        ends = torch.stack([x - half, x + half]).permute(2, 0, 1, 3, 4).reshape(channels, 1, -1)
        low, high = self.logits(ends).reshape(channels, 2, batch, h, w).unbind(1)
        # On the side where sigmoid is far from 1, differences keep their digits.
        sign = -torch.sign(low + high).detach()
        mass = (torch.sigmoid(sign * high) - torch.sigmoid(sign * low)).abs()
        return -torch.log2(bounded(mass, 1e-9, 1.0)).permute(1, 0, 2, 3)

    def cdf(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        """CDF in float64 at ``x`` of shape (C, n), for integer tables and quantiles."""
        with torch.no_grad():
            cdf: NDArray[np.float64] = torch.sigmoid(self.logits(torch.from_numpy(x)[:, None, :]))[
                :, 0, :
            ].numpy()
        return cdf

    def quantile(self, probability: float) -> NDArray[np.float64]:
        """Point of each channel where the CDF is ``probability``, by bisection, shape (C,)."""
        low = np.full((self.channels, 1), -1.0)
        high = np.full((self.channels, 1), 1.0)
        for _ in range(40):
            outside_low, outside_high = self.cdf(low) > probability, self.cdf(high) < probability
            if not (outside_low.any() or outside_high.any()):
                break
            low = np.where(outside_low, 2.0 * low, low)
            high = np.where(outside_high, 2.0 * high, high)
        for _ in range(60):
            middle = 0.5 * (low + high)
            below = self.cdf(middle) < probability
            low, high = np.where(below, middle, low), np.where(below, high, middle)
        return cast("NDArray[np.float64]", (0.5 * (low + high))[:, 0])

    def tables(self, gain: NDArray[np.float64]) -> Tables:
        """Integer tables of x rounded at ``gain`` steps per unit, one row for each channel.

        Each covers its density but for 2⁻²⁰ at either end, found by bisection.
        """
        first = np.floor(self.quantile(_TAIL) * gain).astype(np.int64)
        last = np.ceil(self.quantile(1.0 - _TAIL) * gain).astype(np.int64)
        first, last = np.clip(first, -_WIDEST, _WIDEST), np.clip(last, -_WIDEST, _WIDEST)
        edges = np.arange(int((last - first).max()) + 2)[None, :] + first[:, None] - 0.5
        masses = np.diff(self.cdf(edges / gain[:, None]), axis=1)
        sizes = last - first + 1
        return Tables.from_masses(
            first, [row[:size] for row, size in zip(masses, sizes, strict=True)]
        )


class Prediction(NamedTuple):
    """What a prior says of y in the trained pipeline: μ, log₂ σ of y's shape, and side bits."""

    mu: Tensor
    log2_sigma: Tensor
    side_bits: Tensor


class MeanScaleHyperprior(nn.Module):
    """μ and σ of each latent from a hyper-latent z, itself coded by a factorised density.

    ::

        y ──h_a──▶ z ──gain──▶ ⌊·⌉ ──inverse gain──▶ ẑ ──h_s──▶ μ, log₂ σ
                                │
                           side bits, by the factorised density

    It works on latents before their own gains: what z says of a picture does not depend on the
    quality, only how finely it says it.

    Parameters
    ----------
    m, n
        Channels of y, and of z and both hyper-networks.

    References
    ----------
    Minnen, Ballé, Toderici, "Joint autoregressive and hierarchical priors", NeurIPS 2018.
    """

    def __init__(self, m: int, n: int) -> None:
        super().__init__()
        self.h_a = hyper_analysis(m, n)
        self.h_s = hyper_synthesis(n, m)
        self.density = DeepFactorized(n)
        self.gains = Gains(n, exponent=0.25)

    def forward(self, y: Tensor, quality: Tensor, noise: Noise) -> Prediction:
        """Differentiable prediction: noise in the rate, straight-through rounding in μ and σ."""
        z = self.h_a(y).float()
        log2_gain, log2_inverse = self.gains(quality)
        gain = torch.exp2(log2_gain)
        noisy = z + noise.uniform(z) / gain
        side_bits = self.density.bits(noisy, 1.0 / gain)
        scaled = z * gain
        z_hat = (scaled + (torch.round(scaled) - scaled).detach()) * torch.exp2(log2_inverse)
        mu, log2_sigma = self.h_s(z_hat).float().chunk(2, dim=1)
        return Prediction(mu, log2_sigma, side_bits)

    # What follows is the same prediction for coding: integers, equal on both ends of a stream.

    def z_symbols(self, y: Tensor, quality: float) -> NDArray[np.int32]:
        """Rounded hyper-latents of ``y`` (1, M, h, w), int32 (N, h/4, w/4)."""
        log2_gain, _ = self.gains.at(quality)
        return integer_symbols((self.h_a(y).double() * torch.exp2(log2_gain))[0])

    def z_tables(self, quality: float) -> Tables:
        """Tables of z at a quality, one row for each channel."""
        log2_gain, _ = self.gains.at(quality)
        return self.density.tables(np.exp2(log2_gain.numpy()[0, :, 0, 0]))

    def fixed_point(self) -> FixedPointNetwork:
        """Integer twin of h_s, for :meth:`parameters_of`."""
        return FixedPointNetwork(self.h_s)

    def parameters_of(
        self, z_symbols: NDArray[np.int32], quality: float, network: FixedPointNetwork
    ) -> tuple[Tensor, Tensor]:
        """μ and log₂ σ of latents before gains, as integers in units of 2^−ACTIVATION_BITS.

        Both are float64 of shape (1, M, h, w), and a function of the arguments alone: no thread,
        batch or processor changes them.
        """
        _, log2_inverse = self.gains.at(quality)
        scale = torch.exp2(log2_inverse) * 2.0**ACTIVATION_BITS
        z_hat = torch.from_numpy(z_symbols.astype(np.float64))[None] * scale
        mu, log2_sigma = network(torch.round(z_hat)).chunk(2, dim=1)
        return mu, log2_sigma


class NoSideInformation:
    """μ = 0, σ = 1, and nothing sent: for channels that a genie tells the variance."""

    def __call__(self, y: Tensor, quality: Tensor, noise: Noise) -> Prediction:
        """Predict nothing for ``y``."""
        nothing = torch.zeros_like(y)
        return Prediction(nothing, nothing, y.new_zeros(len(y), 1, 1, 1))


def integer_symbols(x: Tensor) -> NDArray[np.int32]:
    """Round to int32.

    Raises
    ------
    CodecError
        If a value is not finite, as broken weights make it.
    """
    if not bool(torch.isfinite(x).all()):
        raise CodecError("the latents are not finite: the weights are broken")
    symbols: NDArray[np.int32] = torch.round(x).clamp(-(2.0**30), 2.0**30).to(torch.int32).numpy()
    return symbols
