"""Objectives: what a training step minimises. Each is a codec, a channel, a prior and a cost.

The cost is bpp + λ·255²·MSE, or bpp + λ·(1 − MS-SSIM) with a λ of its own; a config may scale λ.

======================  ===================  =========================================
kind                    channel              rate
======================  ===================  =========================================
``rate-distortion``     straight-through     of the codec's prior
``test-channel``        Gaussian test        KL divergence from the codec's prior
``learned-posterior``   Gaussian posterior   KL divergence from the codec's prior
``oracle-rounding``     straight-through     told each variance (paper 1, fig. 4a)
``oracle-test-channel`` Gaussian test        told each variance (paper 1, fig. 4)
======================  ===================  =========================================

Each can be regularised by MSE: its loss is then less by α·H_q(X|X̂) (paper 2), see
:class:`~waterfill.training.regulariser.Regulariser`.

The two oracles are genie-aided: no decoder can know what they are told. A prior is trained along
with them on the same ŷ, and what it would charge is recorded (:attr:`Losses.prior_bpp`).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from waterfill.codec.channels import (
    Channel,
    ChargedByPrior,
    GaussianPosterior,
    GaussianTest,
    Oracle,
    OracleGaussian,
    OracleStraightThrough,
    Rounding,
    StraightThrough,
)
from waterfill.codec.gains import QUALITIES, lambdas_of, relative_step
from waterfill.codec.model import Codec, Passage
from waterfill.codec.noise import Noise
from waterfill.codec.priors import NoSideInformation, SourceModel, source_model_for
from waterfill.codec.transforms import FilteredAnalysis, FilteredSynthesis
from waterfill.training.config import TrainConfig
from waterfill.training.regulariser import Regulariser

__all__ = [
    "Batch",
    "GenieAided",
    "Losses",
    "Objective",
    "RateDistortion",
    "objective_of",
]


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
        Seed of the noise of each picture.
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
    """A loss to differentiate, and what it consists of.

    Attributes
    ----------
    loss
        A scalar: the mean over pictures of bpp + λ·distortion, each over the square root of its λ.
    bpp
        Bits per pixel of y and z as the objective charges them, (B,); genie-aided under an oracle.
    mse
        Mean squared error, pixels in [0, 1], (B,).
    prior_bpp
        Bits per pixel that a learned prior charges for the same ŷ, (B,); not ``bpp`` where a genie
        helps.
    """

    loss: Tensor
    bpp: Tensor
    mse: Tensor
    prior_bpp: Tensor


#: λ of 1 − MS-SSIM at the lowest and highest quality, geometric in between (as CompressAI's).
_SIMILARITY_LAMBDAS = (2.4, 220.0)


def distortion_cost(kind: str, x_hat: Tensor, x: Tensor, quality: Tensor) -> Tensor:
    """λ times distortion of each picture, bits per pixel.

    Parameters
    ----------
    kind
        ``mse`` or ``ms-ssim``.
    x_hat, x
        (B, planes, H, W) in [0, 1].
    quality
        (B,).
    """
    if kind == "mse":
        return lambdas_of(quality) * 255.0**2 * (x_hat - x).square().mean((1, 2, 3))
    from pytorch_msssim import ms_ssim

    low, high = _SIMILARITY_LAMBDAS
    position = (quality - QUALITIES[0]) / (QUALITIES[-1] - QUALITIES[0])
    # Its variances are differences of means of squares: of bfloat16 less than nothing is left.
    with torch.autocast(x.device.type, enabled=False):
        similarity: Tensor = ms_ssim(x_hat.float(), x.float(), data_range=1.0, size_average=False)
    return low * (high / low) ** position * (1.0 - similarity)


def weighted_cost(
    passage: Passage, x: Tensor, quality: Tensor, distortion: str = "mse", scale: float = 1.0
) -> Losses:
    """bpp + λ·distortion over all qualities at once (Ballé 2018; λ by quality).

    Every picture of a batch has a quality of its own. Rates differ thirtyfold between the ends
    of the range, so each picture's cost is divided by √λ: what then counts is the relative cost,
    as in BD-rate, and no end of the range drowns the other. ``scale`` is a factor of λ.
    """
    bpp = (passage.y_bits + passage.z_bits) / (x.shape[2] * x.shape[3])
    mse = (passage.x_hat - x).square().mean((1, 2, 3))
    cost = bpp + scale * distortion_cost(distortion, passage.x_hat, x, quality)
    return Losses((relative_step(quality) * cost).mean(), bpp, mse, bpp)


class Objective(nn.Module, ABC):
    """A codec in training, with whatever networks its training needs besides.

    Parameters
    ----------
    codec
        The codec; its parameters are the module's, under ``codec.``.
    distortion
        ``mse`` or ``ms-ssim``.
    scale
        Factor of λ.
    regulariser
        Added to the loss; its source model learns beside the codec and is not part of it.
    """

    #: Names of the figures that :meth:`aside` gives.
    ASIDE = ("source_bits", "pull", "resistance")

    def __init__(
        self,
        codec: Codec,
        *,
        distortion: str = "mse",
        scale: float = 1.0,
        regulariser: Regulariser | None = None,
    ) -> None:
        super().__init__()
        self.codec = codec
        self.distortion, self.scale = distortion, scale
        self.regulariser = regulariser
        self._lambdas: Tensor | None = None

    def forward(self, batch: Batch) -> Losses:
        """Loss of a batch."""
        x = batch.pictures(self.codec.config.planes)
        losses, x_hat = self.cost(x, batch)
        if self.regulariser is None:
            return losses
        self._lambdas = self.scale * lambdas_of(batch.quality)
        # The cost of a picture is divided by √λ in the loss: so is its share of the regulariser.
        weight = relative_step(batch.quality)
        return losses._replace(
            loss=losses.loss + self.regulariser(x, x_hat, weight, batch.noise.seeds)
        )

    @abstractmethod
    def cost(self, x: Tensor, batch: Batch) -> tuple[Losses, Tensor]:
        """Rate and distortion of the pictures x of a batch, and their reconstructions."""

    @abstractmethod
    def for_validation(self, codec: Codec) -> Objective:
        """What ``codec`` is measured by on held-back pictures, without regulariser."""

    def aside(self) -> Mapping[str, float]:
        """What else is worth a record of the last batch, known once its gradients are.

        ``source_bits`` is H_q by the regulariser's unit; ``pull`` and ``resistance`` are how it and
        λ·distortion pull on x̂ (:meth:`~waterfill.training.regulariser.Regulariser.tug`). NaN
        without one.
        """
        if self.regulariser is None or self._lambdas is None:
            return dict.fromkeys(self.ASIDE, math.nan)
        values = (float(self.regulariser.entropy), *self.regulariser.tug(self._lambdas))
        return dict(zip(self.ASIDE, values, strict=True))

    def learners(self) -> dict[str, list[nn.Parameter]]:
        """Parameters that share a rate of learning and a clipping.

        The codec's ``networks``; the ``source`` model of a regulariser; and of block transforms
        that are trained ``analysis`` and ``synthesis``. A regulariser's gradients have no part in
        how far the codec goes: with α = 0 it goes where it would go without.
        """
        transforms = {"analysis": self.codec.g_a, "synthesis": self.codec.g_s}
        blocks = {
            name: [cast(nn.Parameter, transform.blocks.weight)]
            for name, transform in transforms.items()
            if isinstance(transform, FilteredAnalysis | FilteredSynthesis)
            and transform.blocks.weight.requires_grad
        }
        apart = {id(weight) for (weight,) in blocks.values()}
        networks = [p for p in self.codec.parameters() if p.requires_grad and id(p) not in apart]
        source = list(self.regulariser.parameters()) if self.regulariser is not None else []
        return {"networks": networks} | ({"source": source} if source else {}) | blocks


class RateDistortion(Objective):
    """Rate and distortion of a codec through a channel.

    Parameters
    ----------
    codec
        The codec.
    channel
        Channel of the latents; None for :class:`StraightThrough`.
    distortion
        ``mse`` or ``ms-ssim``.
    scale
        Factor of λ.
    regulariser
        Added to the loss; its source model learns beside the codec and is not part of it.
    """

    def __init__(
        self,
        codec: Codec,
        channel: Channel | None = None,
        *,
        distortion: str = "mse",
        scale: float = 1.0,
        regulariser: Regulariser | None = None,
    ) -> None:
        super().__init__(codec, distortion=distortion, scale=scale, regulariser=regulariser)
        self.channel = channel or StraightThrough()

    def cost(self, x: Tensor, batch: Batch) -> tuple[Losses, Tensor]:
        """Through the channel, at the prior's price."""
        passage = self.codec(x, batch.quality, self.channel, batch.noise)
        losses = weighted_cost(passage, x, batch.quality, self.distortion, self.scale)
        return losses, passage.x_hat

    def for_validation(self, codec: Codec) -> Objective:
        """Hard rounding, as in a stream, of what is trained for it; the same channel otherwise."""
        coded = isinstance(self.channel, StraightThrough)
        channel = Rounding() if coded else self.channel
        return RateDistortion(codec, channel, distortion=self.distortion, scale=self.scale)


class GenieAided(Objective):
    """Rate and distortion of a codec whose channel is told each latent's variance.

    The codec's own prior learns to code the same ŷ without the genie. The loss reported is the
    oracle's alone; the gradient of the prior's rate reaches nothing but the prior.

    Parameters
    ----------
    codec
        The codec.
    oracle
        The channel. If its variance is about a predicted mean, side information and context
        predict that mean, and z is charged.
    distortion
        ``mse`` or ``ms-ssim``.
    scale
        Factor of λ.
    regulariser
        Added to the loss; its source model learns beside the codec and is not part of it.
    """

    def __init__(
        self,
        codec: Codec,
        oracle: Oracle,
        *,
        distortion: str = "mse",
        scale: float = 1.0,
        regulariser: Regulariser | None = None,
    ) -> None:
        super().__init__(codec, distortion=distortion, scale=scale, regulariser=regulariser)
        self.oracle = oracle

    def cost(self, x: Tensor, batch: Batch) -> tuple[Losses, Tensor]:
        """Through the oracle at its price, and what the prior would charge."""
        quality = batch.quality
        prior = None if self.oracle.predicted_mean else NoSideInformation()
        passage = self.codec(x, quality, self.oracle, batch.noise, prior=prior)
        losses = weighted_cost(passage, x, quality, self.distortion, self.scale)

        log2_gain, _ = self.codec.gains(quality)
        witness = self.codec.prior(
            passage.y.detach(),
            quality,
            log2_gain.detach(),
            ChargedByPrior(self.oracle),
            batch.noise,
        )
        y_bits, z_bits = (bits.sum((1, 2, 3)) for bits in (witness.y_bits, witness.z_bits))
        # Where the oracle's mean takes side information, its z is trained and paid for above.
        learned = y_bits if self.oracle.predicted_mean else y_bits + z_bits
        area = x.shape[2] * x.shape[3]
        beside = (relative_step(quality) * learned).mean() / area
        found = losses._replace(
            loss=losses.loss + (beside - beside.detach()),
            prior_bpp=((y_bits + z_bits) / area).detach(),
        )
        return found, passage.x_hat

    def for_validation(self, codec: Codec) -> Objective:
        """The same."""
        return GenieAided(codec, self.oracle, distortion=self.distortion, scale=self.scale)


def objective_of(config: TrainConfig, codec: Codec) -> Objective:
    """The objective that a config asks for, on a codec."""
    for transform in (codec.g_a, codec.g_s):
        if isinstance(transform, FilteredAnalysis | FilteredSynthesis):
            transform.blocks.weight.requires_grad_(config.blocks_rate > 0)
    mean = config.oracle_mean == "predicted"
    regulariser = None
    if config.source_model != "none":
        kind = source_model_for(config.codec, config.source_model)
        source = SourceModel(kind, planes=config.codec.planes)
        regulariser = Regulariser(config.alpha, source, unit=config.alpha_unit)
    others: dict[str, Any] = {
        "distortion": config.distortion,
        "scale": config.lambda_scale,
        "regulariser": regulariser,
    }
    match config.objective:
        case "oracle-rounding":
            return GenieAided(codec, OracleStraightThrough(mean), **others)
        case "oracle-test-channel":
            oracle = OracleGaussian(config.oracle_mode, mean, budget=config.budget)
            return GenieAided(codec, oracle, **others)
        case "test-channel":
            channel: Channel = GaussianTest(mmse=False)
        case "learned-posterior":
            channel = GaussianPosterior()
        case _:
            channel = StraightThrough()
    return RateDistortion(codec, channel, **others)
