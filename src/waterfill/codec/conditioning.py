"""Networks that are told the quality: one set of weights, but not one answer for all rates.

What is worth coding of a picture depends on the rate, and so does what a decoder can make of it. A
codec of variable rate whose networks see neither λ nor step has to settle on something in between.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from waterfill.codec.fixed_point import ACTIVATION_BITS
from waterfill.codec.gains import QUALITIES

__all__ = ["TERMS", "Modulation", "quality_terms", "with_terms"]

#: Numbers that a quality is told by.
TERMS = 2


def quality_terms(quality: Tensor) -> Tensor:
    """Terms t and t² of qualities, t going from −1 at the lowest to 1 at the highest.

    Both are whole numbers of 2^−ACTIVATION_BITS, so that integer networks are told the same.

    Parameters
    ----------
    quality
        (B,).

    Returns
    -------
    Tensor
        (B, TERMS), of quality's type.
    """
    low, high = QUALITIES[0], QUALITIES[-1]
    t = (2.0 * quality - (low + high)) / (high - low)
    one = 2.0**ACTIVATION_BITS
    return torch.round(torch.stack([t, t * t], 1) * one) / one


def with_terms(features: Tensor, quality: Tensor, one: float = 1.0) -> Tensor:
    """Features (B, F, h, w) and behind them the terms of qualities (B,), each as a plane.

    ``one`` is what features have for 1.
    """
    terms = (one * quality_terms(quality))[:, :, None, None]
    return torch.cat([features, terms.expand(-1, -1, *features.shape[2:])], 1)


class Modulation(nn.Module):
    """A factor and an offset for each channel, quadratic in the quality's place in its range.

    It starts by changing nothing.

    Parameters
    ----------
    channels
        Channels C of what is modulated.

    References
    ----------
    Y. Choi, M. El-Khamy, J. Lee, "Variable rate deep image compression with a conditional
    autoencoder", ICCV 2019. E. Perez et al., "FiLM: visual reasoning with a general conditioning
    layer", AAAI 2018.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.zeros(TERMS, channels))
        self.offset = nn.Parameter(torch.zeros(TERMS, channels))

    def forward(self, x: Tensor, terms: Tensor) -> Tensor:
        """Modulate ``x`` (B, C, H, W) by terms (B, TERMS) of each picture's quality."""
        # No matrix product: in mixed precision a factor near 1 would be known to a hundredth.
        factor, offset = (
            (terms[:, :, None] * weights).sum(1)[:, :, None, None]
            for weights in (self.factor, self.offset)
        )
        return torch.addcmul(offset, x, 1.0 + factor)
