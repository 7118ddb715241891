"""Objectives: what a training step minimises."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from waterfill.codec.channels import Channel, StraightThrough
from waterfill.codec.gains import LAMBDAS
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
        self._log_lambdas = torch.tensor([math.log(lam) for lam in LAMBDAS])

    def lambdas(self, quality: Tensor) -> Tensor:
        """λ of each quality, geometric between the integers."""
        logs = self._log_lambdas.to(quality.device)
        low = (quality - 1).floor().clamp(0, len(LAMBDAS) - 2).long()
        return torch.exp(torch.lerp(logs[low], logs[low + 1], quality - 1 - low))

    def __call__(self, codec: Codec, x: Tensor, quality: Tensor) -> RateDistortionLoss:
        """Loss of a batch ``x`` (B, 3, H, W) at one quality per picture, shape (B,)."""
        passage = codec(x, quality, self.channel)
        bpp = (passage.y_bits + passage.z_bits) / (x.shape[2] * x.shape[3])
        mse = (passage.x_hat - x).square().mean((1, 2, 3))
        lam = self.lambdas(quality)
        weight = (lam / LAMBDAS[3]).rsqrt()
        loss = (weight * (bpp + lam * 255.0**2 * mse)).mean()
        return RateDistortionLoss(loss, bpp, mse)
