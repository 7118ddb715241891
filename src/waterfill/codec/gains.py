"""Variable rate: one set of weights, a gain per channel and quality.

Scaling y against a fixed step *is* moving the water level: a gain g makes the step 1/g and the
distortion of an active latent 1/(12 g²). A quality therefore is nothing but a vector of gains,
and a fractional quality lies between two vectors.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from waterfill.bitstream.container import QUALITY_STEPS
from waterfill.bitstream.normal import power_of_two
from waterfill.errors import CodecError, QualityError

__all__ = [
    "GAIN_BITS",
    "LAMBDAS",
    "QUALITIES",
    "CodedGains",
    "Gains",
    "check_quality",
    "lambda_of_quality",
    "lambdas_of",
    "relative_step",
]

#: λ in bpp + λ·255²·MSE at qualities 1 … 8 (the values of Minnen 2018, as CompressAI uses them).
LAMBDAS = (0.0018, 0.0035, 0.0067, 0.0130, 0.0250, 0.0483, 0.0932, 0.1800)
QUALITIES = tuple(range(1, len(LAMBDAS) + 1))

#: Coding takes log₂ gains in whole numbers of 2^−GAIN_BITS.
GAIN_BITS = 12

_REFERENCE = 4  # the quality at which gains start at 1


def check_quality(quality: float) -> float:
    """Return ``quality`` as a float, or raise :class:`QualityError` unless 1 ≤ quality ≤ 8."""
    no_number = f"quality must be a number, not {quality!r}"
    if isinstance(quality, str | bool | np.bool_):  # which float() would take
        raise QualityError(no_number)
    try:
        value = float(quality)
    except (TypeError, ValueError):
        raise QualityError(no_number) from None
    if not QUALITIES[0] <= value <= QUALITIES[-1]:
        raise QualityError(f"quality must lie in {QUALITIES[0]} … {QUALITIES[-1]}, not {quality}")
    return value


def lambdas_of(quality: Tensor) -> Tensor:
    """λ of qualities from 1 to 8, elementwise, geometric between the integers.

    λ weighs squared error in 8-bit units against bits per pixel: bpp + λ·255²·MSE.
    """
    logs = torch.tensor(LAMBDAS, dtype=quality.dtype, device=quality.device).log()
    position = quality - QUALITIES[0]
    low = position.floor().clamp(0, len(LAMBDAS) - 2).long()
    return torch.lerp(logs[low], logs[low + 1], position - low).exp()


def lambda_of_quality(quality: float) -> float:
    """λ of one quality; ``QualityError`` unless it lies from 1 to 8."""
    return float(lambdas_of(torch.tensor(check_quality(quality), dtype=torch.float64)))


def relative_step(quality: Tensor) -> Tensor:
    """Quantisation step at the optimum, relative to that of quality 4: (λ/λ₄)^−½, elementwise."""
    return (lambdas_of(quality) / LAMBDAS[_REFERENCE - 1]).rsqrt()


class Gains(nn.Module):
    """Per-channel log₂ gains and inverse gains at qualities 1 … 8, linear in between.

    Parameters
    ----------
    channels
        Channels C of the tensor that is scaled.
    exponent
        Initial gain is (λ/λ₄)^exponent: ½ for latents, whose distortion at the optimum goes as
        1/λ.
    fixed
        No gains, for a codec of one quality: the transforms find their own scale.
    """

    def __init__(self, channels: int, *, exponent: float, fixed: bool = False) -> None:
        super().__init__()
        self.channels = channels
        self.log2_gain: nn.Parameter | None = None
        self.log2_inverse: nn.Parameter | None = None
        if not fixed:
            start = [exponent * math.log2(lam / LAMBDAS[_REFERENCE - 1]) for lam in LAMBDAS]
            self.log2_gain = nn.Parameter(_rows(start, channels))
            self.log2_inverse = nn.Parameter(_rows([-value for value in start], channels))

    def forward(self, quality: Tensor) -> tuple[Tensor, Tensor]:
        """log₂ gain and log₂ inverse gain, each (B, C, 1, 1), for qualities of shape (B,)."""
        if self.log2_gain is None or self.log2_inverse is None:
            zero = quality.new_zeros(len(quality), self.channels, 1, 1)
            return zero, zero
        position = quality - QUALITIES[0]
        low = position.floor().clamp(0, len(LAMBDAS) - 2).long()
        share = (position - low)[:, None]
        return (
            torch.lerp(self.log2_gain[low], self.log2_gain[low + 1], share)[:, :, None, None],
            torch.lerp(self.log2_inverse[low], self.log2_inverse[low + 1], share)[:, :, None, None],
        )

    @torch.no_grad()
    def coded(self, quality: float) -> CodedGains:
        """The gains at one quality as coding uses them, a function of integers alone."""
        return CodedGains(
            _interpolated(self.log2_gain, quality, self.channels),
            _interpolated(self.log2_inverse, quality, self.channels),
        )


def _rows(values: Sequence[float], channels: int) -> Tensor:
    return torch.tensor(values)[:, None].expand(-1, channels).contiguous()


def _interpolated(table: Tensor | None, quality: float, channels: int) -> NDArray[np.int64]:
    """Between the rows of a table of log₂ gains, in whole numbers of 2^−GAIN_BITS."""
    if table is None:
        return np.zeros(channels, dtype=np.int64)
    position = round((quality - QUALITIES[0]) * QUALITY_STEPS)
    low = min(position // QUALITY_STEPS, len(LAMBDAS) - 2)
    share = position - low * QUALITY_STEPS
    ends = torch.round(table[low : low + 2].double().cpu() * 2.0**GAIN_BITS).long().numpy()
    mixed: NDArray[np.int64] = ends[0] * (QUALITY_STEPS - share) + ends[1] * share
    return mixed // QUALITY_STEPS


@dataclass(frozen=True)
class CodedGains:
    """Gains of one quality: log₂ gain and log₂ inverse gain, int64 (C,) in 2^−GAIN_BITS."""

    log2_gain: NDArray[np.int64]
    log2_inverse: NDArray[np.int64]

    @cached_property
    def gain(self) -> Tensor:
        """Steps per unit, float64 (C,), to the last bit the same everywhere."""
        return _powers(self.log2_gain)

    @cached_property
    def reciprocal(self) -> Tensor:
        """Units per step, as context and hyper-networks see them, float64 (C,)."""
        return _powers(-self.log2_gain)

    @cached_property
    def inverse(self) -> Tensor:
        """What the synthesis multiplies ŷ by, float64 (C,)."""
        return _powers(self.log2_inverse)


def _powers(log2: NDArray[np.int64]) -> Tensor:
    bits = 40
    try:
        powers = [power_of_two(int(k), GAIN_BITS, bits) / 2.0**bits for k in log2]
    except OverflowError:
        raise CodecError("a gain is beyond all numbers: the weights are broken") from None
    return torch.tensor(powers, dtype=torch.float64)
