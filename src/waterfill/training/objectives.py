"""Objectives: what a training step minimises. Each is a codec, a channel, a prior and a cost.

======================  ==================  ===========  ==========================================
kind                    channel             prior        cost
======================  ==================  ===========  ==========================================
``rate-distortion``     straight-through    hyperprior   bpp + λ·255²·MSE
``test-channel``        Gaussian test       hyperprior   the same, rate as a KL divergence
``oracle-rounding``     straight-through    genie's      the same, genie-aided (paper 1, fig. 4a)
``oracle-test-channel`` Gaussian, smooth    genie's      the same, genie-aided (paper 1, fig. 4a)
``regularised``         straight-through    hyperprior   bpp + λ·255²·MSE − α·H_q(X|X̂) (paper 2)
======================  ==================  ===========  ==========================================
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from waterfill.codec.channels import (
    Channel,
    GaussianTest,
    OracleGaussian,
    OracleStraightThrough,
    Rounding,
    StraightThrough,
)
from waterfill.codec.gains import lambdas_of, relative_step
from waterfill.codec.model import Codec, Passage
from waterfill.codec.noise import Noise
from waterfill.codec.priors import NoSideInformation
from waterfill.training.config import TrainConfig
from waterfill.training.sources import ReconstructionSource

__all__ = ["Batch", "Losses", "Objective", "RateDistortion", "Regularised", "objective_of"]


#: ITU-R BT.601, as picture libraries turn colours into grey.
_LUMA = (0.299, 0.587, 0.114)


class Batch:
    """What an objective is computed on.

    Plain attributes and no tuple: engines for mixed precision turn the floats that they find in
    the arguments of a module into their narrow type, and a quality is not to be rounded.

    Parameters
    ----------
    pixels
        uint8 (B, 3, H, W), sides multiples of 64.
    quality
        One for each picture, float32 (B,).
    seeds
        Of the noise of each picture.
    """

    __slots__ = ("noise", "pixels", "quality")

    def __init__(self, pixels: Tensor, quality: Tensor, seeds: Sequence[int]) -> None:
        self.pixels = pixels
        self.quality = quality
        self.noise = Noise(seeds, pixels.device)

    def pictures(self, planes: int = 3) -> Tensor:
        """The pixels as float32 in [0, 1], channels last in memory; one plane is their luma."""
        x = self.pixels.float() / 255.0
        if planes == 1:
            x = (x * x.new_tensor(_LUMA)[:, None, None]).sum(1, keepdim=True)
        return x.contiguous(memory_format=torch.channels_last)


class Losses(NamedTuple):
    """A loss to differentiate, and what it consists of, each of shape (B,)."""

    loss: Tensor
    bpp: Tensor
    mse: Tensor


def weighted_cost(passage: Passage, x: Tensor, quality: Tensor) -> Losses:
    """bpp + λ·255²·MSE over all qualities at once (Ballé 2018; λ by quality).

    Every picture of a batch has a quality of its own. Rates differ thirtyfold between the ends
    of the range, so each picture's cost is divided by √λ: what then counts is the relative cost,
    as in BD-rate, and no end of the range drowns the other.
    """
    bpp = (passage.y_bits + passage.z_bits) / (x.shape[2] * x.shape[3])
    mse = (passage.x_hat - x).square().mean((1, 2, 3))
    cost = bpp + lambdas_of(quality) * 255.0**2 * mse
    return Losses((relative_step(quality) * cost).mean(), bpp, mse)


class Objective(nn.Module, ABC):
    """A codec in training, with whatever networks its training needs besides.

    Parameters
    ----------
    codec
        The codec; its parameters are the module's, under ``codec.``.
    """

    def __init__(self, codec: Codec) -> None:
        super().__init__()
        self.codec = codec

    @abstractmethod
    def forward(self, batch: Batch) -> Losses:
        """Loss of a batch."""

    @abstractmethod
    def for_validation(self, codec: Codec) -> Objective:
        """What ``codec`` is measured by on held-back pictures."""


class RateDistortion(Objective):
    """Rate and distortion of a codec through a channel.

    Parameters
    ----------
    codec
        The codec.
    channel
        Of the latents.
    genie
        Whether the channel is told each latent's variance, so that no prior is charged.
    """

    def __init__(
        self, codec: Codec, channel: Channel | None = None, *, genie: bool = False
    ) -> None:
        super().__init__(codec)
        self.channel = channel or StraightThrough()
        self.prior = NoSideInformation() if genie else None

    def passage(self, batch: Batch) -> tuple[Tensor, Passage]:
        """The pictures of a batch, and their way through the codec."""
        x = batch.pictures(self.codec.config.planes)
        return x, self.codec(x, batch.quality, self.channel, batch.noise, prior=self.prior)

    def forward(self, batch: Batch) -> Losses:
        """Loss of a batch."""
        x, passage = self.passage(batch)
        return weighted_cost(passage, x, batch.quality)

    def for_validation(self, codec: Codec) -> Objective:
        """Hard rounding, as in a stream, of what is trained for it; the same channel otherwise."""
        coded = isinstance(self.channel, StraightThrough)
        genie = self.prior is not None
        return RateDistortion(codec, Rounding() if coded else self.channel, genie=genie)


class _Reversed(torch.autograd.Function):
    """The identity whose gradient is multiplied by a factor, sign included."""

    @staticmethod
    def forward(ctx: object, x: Tensor, factor: Tensor) -> Tensor:
        ctx.save_for_backward(factor)  # type: ignore[attr-defined]
        return x.view_as(x)

    @staticmethod
    def backward(ctx: object, grad: Tensor) -> tuple[Tensor, None]:
        (factor,) = ctx.saved_tensors  # type: ignore[attr-defined]
        return factor * grad, None


class Regularised(RateDistortion):
    """Rate–distortion with the information-theoretic regulariser of paper 2.

    The codec minimises R + λD − α·H_q(X|X̂) with the source model q frozen, q the cross-entropy
    E[−log₂ q(x|x̂)] with x̂ detached. Both are gradients of one number, taken with opposite signs
    where x̂ enters q: one forward pass serves the two steps of each iteration.

    H_q is in bits per *dimension* (pixel and colour): in bits per pixel the weights of the paper
    would outgrow λ.

    Parameters
    ----------
    codec
        The codec.
    alpha
        Weight α of the regulariser.
    """

    def __init__(self, codec: Codec, alpha: float) -> None:
        super().__init__(codec)
        self.alpha = alpha
        self.source = ReconstructionSource()

    def forward(self, batch: Batch) -> Losses:
        """Loss of a batch; the cross-entropy is in its gradient, and its value as plain loss."""
        x, passage = self.passage(batch)
        losses = weighted_cost(passage, x, batch.quality)
        # The cost of a picture is divided by √λ in the loss: so is its share of the regulariser.
        weight = relative_step(batch.quality)[:, None, None, None]
        seen = _Reversed.apply(passage.x_hat, -self.alpha * weight)  # type: ignore[no-untyped-call]
        entropy = self.source.bits_per_dimension(x, seen)
        # The value stays R + λD − αH_q's; of the two gradients each goes where it belongs.
        weighed = (weight.flatten() * entropy).mean().detach()
        total = losses.loss - self.alpha * weighed + entropy.mean() - entropy.mean().detach()
        return losses._replace(loss=total)


def objective_of(config: TrainConfig, codec: Codec) -> Objective:
    """The objective that a config asks for, on a codec."""
    if config.objective == "regularised":
        return Regularised(codec, config.alpha)
    if config.objective == "test-channel":
        return RateDistortion(codec, GaussianTest(mmse=False))
    if config.objective == "oracle-rounding":
        return RateDistortion(codec, OracleStraightThrough(), genie=True)
    if config.objective == "oracle-test-channel":
        return RateDistortion(codec, OracleGaussian(), genie=True)
    return RateDistortion(codec)
