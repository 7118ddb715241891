"""The prior of a codec: side information and context, composed."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from waterfill.bitstream.normal import LOG2_SIGMA_MAX, LOG2_SIGMA_MIN
from waterfill.codec.bounds import bounded
from waterfill.codec.channels import Channel, Crossing
from waterfill.codec.conditioning import with_terms
from waterfill.codec.config import CodecConfig
from waterfill.codec.densities import Density, Gaussian, GaussianMixture
from waterfill.codec.noise import Noise
from waterfill.codec.priors.context import context_of
from waterfill.codec.priors.factorized import DeepFactorized, Factorized
from waterfill.codec.priors.side import HyperLatent

__all__ = ["LINEAR_SCALE_FLOOR", "NoSideInformation", "Prior", "Sent"]

#: Smallest σ of priors whose networks give σ itself, as in the models that do so.
LINEAR_SCALE_FLOOR = 0.11


class Sent(NamedTuple):
    """All of y through the channel: ŷ before gains, bits of y and of z."""

    y_hat: Tensor
    y_bits: Tensor
    z_bits: Tensor


class Prior(nn.Module):
    """What is known of each latent before it is coded, and what knowing it costs.

    ::

        y ──▶ side information ──features──▶ context ──parameters──▶ density ──▶ channel
                                               ▲                                   │
                                               └────────────────ŷ──────────────────┘

    Parameters
    ----------
    config
        Architecture of the codec.
    """

    def __init__(self, config: CodecConfig) -> None:
        super().__init__()
        self.config = config
        self.side = HyperLatent(config) if config.side != "none" else None
        self.factorized = DeepFactorized(config.m) if config.side == "none" else None
        self.context = context_of(config)
        #: Whether the context is told the quality beside what z says.
        self.told_quality = config.conditional and config.context == "space-channel"

    def forward(
        self,
        y: Tensor,
        quality: Tensor,
        log2_gain: Tensor,
        channel: Channel,
        noise: Noise,
        *,
        coded: bool = False,
    ) -> Sent:
        """Send latents through a channel, part by part.

        Parameters
        ----------
        y
            Latents before gains, (B, M, h, w).
        quality
            (B,).
        log2_gain
            Logarithms of y's gains at these qualities, (B, M, 1, 1).
        channel, noise
            How y becomes ŷ, and what it draws.
        coded
            As a stream has it, where training approximates: z at the price of its symbols, and a
            masked context that sees what a decoder would.
        """
        gain = torch.exp2(log2_gain)

        def send(parameters: Tensor, part: Tensor, channels: slice) -> Crossing:
            step = gain[:, channels]
            density = self._density(parameters, log2_gain[:, channels], step)
            crossing = channel(part * step, density, noise)
            return crossing._replace(y_hat=crossing.y_hat / step)

        if self.side is None:  # a factorised density needs no parameters
            crossing = self.context(y.new_empty(0), y, send)
            return Sent(crossing.y_hat, crossing.bits, y.new_zeros(len(y), 1, 1, 1))
        told = self.side(y, quality, noise, coded=coded)
        through = self.context.in_order if coded else self.context
        features = with_terms(told.features, quality) if self.told_quality else told.features
        crossing = through(features, y, send)
        return Sent(crossing.y_hat, crossing.bits, told.bits)

    def _density(self, parameters: Tensor, log2_gain: Tensor, gain: Tensor) -> Density:
        """The density, in steps, that parameters (B, P, …) stand for."""
        if self.factorized is not None:
            return Factorized(self.factorized, gain)
        k = self.config.mixtures
        if k > 1:
            batch, _, *places = parameters.shape
            kinds = parameters.reshape(batch, 3, k, -1, *places)
            logits, mu, scale = kinds.permute(1, 2, 0, 3, 4, 5)
            weights = torch.log_softmax(logits, 0)
            return GaussianMixture(weights, mu * gain, self._sigma(scale, log2_gain))
        if self.config.side == "scale":
            sigma = self._sigma(parameters, log2_gain)
            return Gaussian(torch.zeros_like(sigma), sigma)
        mu, scale = parameters.chunk(2, dim=1)
        return Gaussian(mu * gain, self._sigma(scale, log2_gain))

    def _sigma(self, scale: Tensor, log2_gain: Tensor) -> Tensor:
        if self.config.linear_scale:
            scale = torch.log2(bounded(scale, LINEAR_SCALE_FLOOR, math.inf))
        return torch.exp2(bounded(scale + log2_gain, LOG2_SIGMA_MIN, LOG2_SIGMA_MAX))


class NoSideInformation:
    """μ = 0, σ = 1, and nothing sent: for channels that a genie tells the variance."""

    def __call__(
        self, y: Tensor, quality: Tensor, log2_gain: Tensor, channel: Channel, noise: Noise
    ) -> Sent:
        """Send ``y``, predicting nothing."""
        gain = torch.exp2(log2_gain)
        nothing = torch.zeros_like(y)
        crossing = channel(y * gain, Gaussian(nothing, torch.ones_like(y)), noise)
        return Sent(crossing.y_hat / gain, crossing.bits, y.new_zeros(len(y), 1, 1, 1))
