"""Variable rate: one set of weights, a gain per channel and quality.

Scaling y against a fixed step *is* moving the water level: a gain g makes the step 1/g and the
distortion of an active latent 1/(12 g²). A quality therefore is nothing but a vector of gains,
and a fractional quality lies between two vectors.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

__all__ = [
    "LAMBDAS",
    "QUALITIES",
    "Gains",
    "check_quality",
    "lambda_of_quality",
    "lambdas_of",
    "relative_step",
]

#: λ in bpp + λ·255²·MSE at qualities 1 … 8 (the values of Minnen 2018, as CompressAI uses them).
LAMBDAS = (0.0018, 0.0035, 0.0067, 0.0130, 0.0250, 0.0483, 0.0932, 0.1800)
QUALITIES = tuple(range(1, len(LAMBDAS) + 1))

_REFERENCE = 4  # the quality at which gains start at 1


def check_quality(quality: float) -> float:
    """Return ``quality`` as a float, or raise ``ValueError`` unless 1 ≤ quality ≤ 8."""
    value = float(quality)
    if not QUALITIES[0] <= value <= QUALITIES[-1]:
        raise ValueError(f"quality must lie in {QUALITIES[0]} … {QUALITIES[-1]}, not {quality}")
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
    """λ of one quality; ``ValueError`` unless it lies from 1 to 8."""
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
    """

    def __init__(self, channels: int, *, exponent: float) -> None:
        super().__init__()
        start = torch.tensor(
            [exponent * math.log2(lam / LAMBDAS[_REFERENCE - 1]) for lam in LAMBDAS]
        )
        table = start[:, None].repeat(1, channels)
        self.log2_gain = nn.Parameter(table.clone())
        self.log2_inverse = nn.Parameter(-table)

    def forward(self, quality: Tensor) -> tuple[Tensor, Tensor]:
        """log₂ gain and log₂ inverse gain, each (B, C, 1, 1), for qualities of shape (B,)."""
        position = quality - QUALITIES[0]
        low = position.floor().clamp(0, len(LAMBDAS) - 2).long()
        share = (position - low)[:, None]
        return (
            torch.lerp(self.log2_gain[low], self.log2_gain[low + 1], share)[:, :, None, None],
            torch.lerp(self.log2_inverse[low], self.log2_inverse[low + 1], share)[:, :, None, None],
        )

    @torch.no_grad()
    def at(self, quality: float) -> tuple[Tensor, Tensor]:
        """log₂ gain and log₂ inverse gain at one quality, float64 (1, C, 1, 1), for coding."""
        low = min(int(quality) - QUALITIES[0], len(LAMBDAS) - 2)
        share = quality - QUALITIES[0] - low
        tables = (self.log2_gain.double(), self.log2_inverse.double())
        forward, inverse = (t[low] * (1.0 - share) + t[low + 1] * share for t in tables)
        return forward[None, :, None, None], inverse[None, :, None, None]
