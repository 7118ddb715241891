"""The learned factorised density of Ballé et al. (2018, appendix 6.1)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from waterfill.bitstream import Tables
from waterfill.codec.bounds import bounded
from waterfill.codec.densities import Gaussian
from waterfill.errors import CodecError

__all__ = ["DeepFactorized", "Factorized", "Reach"]

_TAIL = 2.0**-20
_WIDEST = 1 << 14  # symbols further out are escapes, however wide the density


class Reach(NamedTuple):
    """Points between which the densities lie, each (C,)."""

    low: NDArray[np.float64]
    high: NDArray[np.float64]


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

    Attributes
    ----------
    centre
        What values are rounded about, (C,): zero, but for weights made elsewhere.
    """

    _WIDTHS = (1, 3, 3, 3, 3, 1)
    centre: Tensor

    def __init__(self, channels: int, *, spread: float = 10.0) -> None:
        super().__init__()
        self.channels = channels
        self.register_buffer("centre", torch.zeros(channels))
        layers = len(self._WIDTHS) - 1
        scale = spread ** (1.0 / layers)
        self.matrices = nn.ParameterList()
        self.biases = nn.ParameterList()
        self.factors = nn.ParameterList()
        for inputs, outputs in zip(self._WIDTHS[:-1], self._WIDTHS[1:], strict=True):
            start = math.log(math.expm1(1.0 / scale / outputs))
            self.matrices.append(nn.Parameter(torch.full((channels, outputs, inputs), start)))
            # Distinct biases break the symmetry; drawn from the global generator like all else.
            bias = nn.init.uniform_(torch.empty(channels, outputs, 1), -0.5, 0.5)
            self.biases.append(nn.Parameter(bias))
        for outputs in self._WIDTHS[1:-1]:
            self.factors.append(nn.Parameter(torch.zeros(channels, outputs, 1)))

    def logits(self, x: Tensor, *, frozen: bool = False) -> Tensor:
        """Logit of the CDF at ``x``, shape (C, 1, n), in the precision of ``x``."""

        def own(parameter: Tensor) -> Tensor:
            return (parameter.detach() if frozen else parameter).to(x.dtype)

        # In bfloat16 the CDF's steps would be coarser than the bins it is asked about.
        with torch.autocast(x.device.type, enabled=False):
            for k, (matrix, bias) in enumerate(zip(self.matrices, self.biases, strict=True)):
                x = F.softplus(own(matrix)) @ x + own(bias)
                if k < len(self.factors):
                    x = x + torch.tanh(own(self.factors[k])) * torch.tanh(x)
        return x

    def bits(self, x: Tensor, width: Tensor, *, frozen: bool = False) -> Tensor:
        """Bits of the bin of ``width`` around ``x``; both (B, C, h, w) or broadcast to it."""
        batch, channels, h, w = x.shape
        half = 0.5 * width.expand_as(x)
        ends = torch.stack([x - half, x + half]).permute(2, 0, 1, 3, 4).reshape(channels, 1, -1)
        low, high = self.logits(ends, frozen=frozen).reshape(channels, 2, batch, h, w).unbind(1)
        # On the side where sigmoid is far from 1, differences keep their digits.
        sign = -torch.sign(low + high).detach()
        mass = (torch.sigmoid(sign * high) - torch.sigmoid(sign * low)).abs()
        return -torch.log2(bounded(mass, 1e-9, 1.0)).permute(1, 0, 2, 3)

    def cdf(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        """CDF in float64 at ``x`` of shape (C, n), for integer tables and quantiles."""
        at = torch.from_numpy(x)[:, None, :].to(self.centre.device)
        with torch.no_grad():
            cdf: NDArray[np.float64] = torch.sigmoid(self.logits(at))[:, 0, :].cpu().numpy()
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

    def reach(self) -> Reach:
        """Points outside which each density has 2⁻²⁰ at either end, found by bisection."""
        return Reach(self.quantile(_TAIL), self.quantile(1.0 - _TAIL))

    def tables(self, gain: NDArray[np.float64], reach: Reach | None = None) -> Tables:
        """Integer tables of x − centre at ``gain`` steps per unit, one row for each channel.

        Parameters
        ----------
        gain
            (C,).
        reach
            What :meth:`reach` gave, for tables at several gains: most of the time goes there.
        """
        centre = self.centre.double().cpu().numpy()
        low, high = reach or self.reach()
        first = np.floor((low - centre) * gain).astype(np.int64)
        last = np.ceil((high - centre) * gain).astype(np.int64)
        first, last = np.clip(first, -_WIDEST, _WIDEST), np.clip(last, -_WIDEST, _WIDEST)
        edges = np.arange(int((last - first).max()) + 2)[None, :] + first[:, None] - 0.5
        masses = np.diff(self.cdf(edges / gain[:, None] + centre[:, None]), axis=1)
        sizes = last - first + 1
        return Tables.from_masses(
            first, [row[:size] for row, size in zip(masses, sizes, strict=True)]
        )


@dataclass(frozen=True)
class Factorized:
    """A learned density as a channel's: of latents in steps.

    Attributes
    ----------
    density
        Density of latents before their gains.
    gain
        Steps per unit, (B, C, 1, 1).
    is_frozen
        Whether the density's own parameters get no gradient.
    """

    density: DeepFactorized
    gain: Tensor
    is_frozen: bool = False

    @property
    def centre(self) -> Tensor:
        """What latents are rounded about."""
        return self.density.centre[:, None, None] * self.gain

    def bits(self, residual: Tensor) -> Tensor:
        """From differences of the CDF."""
        width = 1.0 / self.gain
        return self.density.bits((residual + self.centre) * width, width, frozen=self.is_frozen)

    def frozen(self) -> Factorized:
        """With a fixed density."""
        return Factorized(self.density, self.gain, is_frozen=True)

    def scaled(self, step: float) -> Factorized:
        """With fewer steps per unit."""
        return Factorized(self.density, self.gain / step, self.is_frozen)

    def gaussian(self) -> Gaussian:
        """Not while it is being learned.

        Raises
        ------
        CodecError
            Always.
        """
        raise CodecError("a factorised prior can't be trained with a Gaussian test channel")
