"""Objectives: what a training step minimises."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from waterfill.codec.channels import Channel, StraightThrough
from waterfill.codec.gains import lambdas_of, relative_step
from waterfill.codec.model import Codec

__all__ = ["RateDistortion", "RateDistortionLoss"]


class RateDistortionLoss(NamedTuple):
    """A loss to differentiate, and what it consists of, each of shape (B,)."""

    loss: Tensor
    bpp: Tensor
    mse: Tensor


class RateDistortion:
    """bpp + λ·255²·MSE over all qualities at once (Ballé 2018; λ by quality).

    Every picture of a batch has a quality of its own. Rates differ thirtyfold between the ends
    of the range, so each picture's cost is divided by √λ: what then counts is the relative cost,
    as in BD-rate, and no end of the range drowns the other.

    Parameters
    ----------
    channel
        The surrogate of quantisation.
    """

    def __init__(self, channel: Channel | None = None) -> None:
        self.channel = channel or StraightThrough()

    def __call__(self, codec: Codec, x: Tensor, quality: Tensor) -> RateDistortionLoss:
        """Loss of a batch ``x`` (B, 3, H, W) at one quality per picture, shape (B,)."""
        passage = codec(x, quality, self.channel)
        bpp = (passage.y_bits + passage.z_bits) / (x.shape[2] * x.shape[3])
        mse = (passage.x_hat - x).square().mean((1, 2, 3))
        cost = bpp + lambdas_of(quality) * 255.0**2 * mse
        loss = (relative_step(quality) * cost).mean()
        return RateDistortionLoss(loss, bpp, mse)
