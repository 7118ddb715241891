"""The rungs: each is a channel, a source of variances, a source of means, and what it proves.

To add one, make it of a class below, or write a class with :meth:`Rung.climb`, and put it into
:data:`LADDER`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from waterfill.allocator import release_free_blocks
from waterfill.codec.channels import (
    Channel,
    Dithered,
    GaussianTest,
    OracleGaussian,
    Rounding,
)
from waterfill.codec.densities import Gaussian
from waterfill.codec.latents import Arrival
from waterfill.codec.trellis import TrellisCoded
from waterfill.ladder.context import Posterior, fit_context
from waterfill.ladder.subjects import View, noise_of
from waterfill.ladder.variances import Grouped, Moments, Oracle, Pooled, VarianceSource

__all__ = [
    "BESIDE",
    "BITSTREAM",
    "CONTEXT",
    "IDEAL",
    "LADDER",
    "LATENTS",
    "POSTERIOR",
    "SIDE",
    "TOLD",
    "TRELLIS",
    "UNKNOWN_VARIANCE",
    "Climb",
    "Known",
    "Rung",
    "Spent",
    "Status",
]


class Status(StrEnum):
    """What a rung's number is."""

    ACHIEVED = "achieved"
    ACHIEVED_IDEAL = "achieved up to coder overhead"
    ACHIEVABLE = "achievable"
    GENIE = "genie-aided"


#: Names of rungs that the decomposition reads.
BITSTREAM, IDEAL, TRELLIS = "bitstream", "ideal coder", "trellis"
TEST_CHANNEL, POSTERIOR, CONTEXT = "test channel", "learned posterior", "+ context"
#: Rungs far below the codec's PSNR at its own setting that the decomposition needs.
BESIDE = (TEST_CHANNEL, POSTERIOR, CONTEXT)
#: Names of what bits buy.
LATENTS, SIDE = "latents", "side information"
#: The latents' rate of the rung ``+ context`` in two: what it would be if each variance were told,
#: which is genie-aided, and what not knowing it costs.
TOLD = "latents, variances told (genie-aided)"
UNKNOWN_VARIANCE = "variances not known (genie-aided)"


@dataclass(frozen=True)
class Known:
    """What is known before a picture is looked at.

    Attributes
    ----------
    data_set
        Moments of all pictures that are measured.
    levels
        Variance of the noise that each channel should bear, (M,).
    """

    data_set: Moments
    levels: Tensor


class Spent(NamedTuple):
    """Bits of the latents (M, h, w) of a tile, added up two ways: all of them take too much memory.

    ``by_channel`` is float64 (M,), ``by_place`` float32 (h, w).
    """

    by_channel: Tensor
    by_place: Tensor

    @classmethod
    def on(cls, bits: Tensor) -> Spent:
        """Sums of the bits of each latent (M, h, w)."""
        return cls(bits.double().sum((1, 2)), bits.sum(0).float())


@dataclass(frozen=True)
class Climb:
    """A picture on a rung.

    Attributes
    ----------
    y_hats
        ŷ of each tile (M, h, w), in steps.
    spent
        Bits on the latents, tile by tile.
    parts
        All bits by what they buy.
    lost
        Bits of the latents that are lost, by the name of the part, tile by tile.
    """

    y_hats: list[Tensor]
    spent: list[Spent]
    parts: dict[str, float]
    lost: dict[str, list[Spent]] = field(default_factory=dict)

    @property
    def bits(self) -> float:
        """All bits."""
        return sum(self.parts.values())


def _sum(spent: Sequence[Spent]) -> float:
    return float(sum(float(one.by_channel.sum()) for one in spent))


T = TypeVar("T")


def _one_by_one(tiles: Iterable[T]) -> Iterator[T]:
    """Tiles, what was made of each given back before the next: only ŷ and sums of bits remain."""
    for k, tile in enumerate(tiles):
        if k:
            release_free_blocks()
        yield tile


def _by_prior(views: Sequence[View], arrivals: Iterable[Arrival]) -> Climb:
    """What arrived by the codec's own prior, its side information paid for."""
    y_hats, spent = [], []
    for arrival in _one_by_one(arrivals):
        y_hats.append(arrival.y_hat)
        spent.append(Spent.on(arrival.bits))
    return Climb(y_hats, spent, {LATENTS: _sum(spent), SIDE: _side(views)})


def _side(views: Sequence[View]) -> float:
    return float(sum(view.side_bits for view in views))


@dataclass(frozen=True)
class Rung(ABC):
    """One system of the ladder.

    Attributes
    ----------
    name
        Short name, the key in JSON.
    status
        What the number is: a genie-aided rung is told something no decoder can know.
    meaning
        One line for the report.
    """

    name: str
    status: Status
    meaning: str

    @abstractmethod
    def climb(self, views: Sequence[View], known: Known, *, seed: int = 0) -> Climb:
        """Send the latents of a picture through.

        Parameters
        ----------
        views
            Its tiles.
        known
            What was known before.
        seed
            Seed of the channel's noise, the same for every rung.
        """


@dataclass(frozen=True)
class Coded(Rung):
    """Rounding as it is coded. Of the rung ``bitstream``, its bytes are for the caller to count."""

    def climb(self, views: Sequence[View], known: Known, *, seed: int = 0) -> Climb:
        """Round."""
        return _by_prior(views, (view.rounded() for view in views))


@dataclass(frozen=True)
class Predicted(Rung):
    """A channel by what the codec's own prior says, contexts in causal order."""

    channel: Channel

    def climb(self, views: Sequence[View], known: Known, *, seed: int = 0) -> Climb:
        """Walk through the prior."""
        noise = (noise_of(seed, k) for k in range(len(views)))
        arrivals = (v.through(self.channel, n) for v, n in zip(views, noise, strict=True))
        return _by_prior(views, arrivals)


@dataclass(frozen=True)
class Told(Rung):
    """A channel by variances about zero that are told; nothing is predicted."""

    channel: Channel
    variance: VarianceSource

    def climb(self, views: Sequence[View], known: Known, *, seed: int = 0) -> Climb:
        """Ask for the variances, and send."""
        ys = [view.y for view in views]
        sigmas, price = self.variance(ys, known.data_set)
        y_hats, spent = [], []
        for k, (y, sigma) in enumerate(_one_by_one(zip(ys, sigmas, strict=True))):
            density = Gaussian(torch.zeros_like(y), sigma)
            crossing = self.channel(y, density, noise_of(seed, k))
            y_hats.append(crossing.y_hat)
            spent.append(Spent.on(crossing.bits))
        parts = {LATENTS: _sum(spent)} | ({"variance price": price} if price else {})
        return Climb(y_hats, spent, parts)


#: Tiles that a context is fitted to, at most.
_TILES_FITTED = 4


def _posterior(view: View, known: Known, seed: int, tile: int) -> tuple[Posterior, Tensor, Tensor]:
    """The test channel with a level for each channel: what is sent, μ, and ŷ."""
    arrival = view.through(GaussianTest(known.levels), noise_of(seed, tile))
    level, variance = known.levels[:, None, None], arrival.sigma.square()
    residual = view.y - arrival.mu
    sent = Posterior(residual, torch.zeros_like(residual), variance, level, arrival.part)
    # The channel scaled what it received by α, the MMSE estimate.
    received = torch.where(sent.sent, (arrival.y_hat - arrival.mu) / sent.alpha, 0.0)
    return replace(sent, received=received), arrival.mu, arrival.y_hat


@dataclass(frozen=True)
class LearnedPosterior(Rung):
    """The Gaussian test channel, each channel of latents with the noise that it should bear."""

    def climb(self, views: Sequence[View], known: Known, *, seed: int = 0) -> Climb:
        """Walk through the prior."""
        y_hats, spent = [], []
        for k, view in enumerate(_one_by_one(views)):
            tile, _, y_hat = _posterior(view, known, seed, k)
            charged = tile.charge(torch.zeros_like(tile.residual), tile.variance)
            spent.append(Spent.on(charged))
            y_hats.append(y_hat)
        return Climb(y_hats, spent, {LATENTS: _sum(spent), SIDE: _side(views)})


@dataclass(frozen=True)
class WithContext(Rung):
    """The same channel, and a context fitted to what the prior leaves over."""

    def climb(self, views: Sequence[View], known: Known, *, seed: int = 0) -> Climb:
        """Walk through the prior, fit, and charge by what is then predicted."""
        # Of a large picture some tiles are looked at: all of them would not fit into memory.
        every = -(-len(views) // _TILES_FITTED)
        fitted = {k: _posterior(views[k], known, seed, k) for k in range(0, len(views), every)}
        context = fit_context([tile for tile, _, _ in fitted.values()])
        y_hats, spent, told, unknown = [], [], 0.0, []
        for k, view in enumerate(_one_by_one(views)):
            whole, mu, _ = fitted.get(k) or _posterior(view, known, seed, k)
            # What is derived of one tile is kept; of many it would not fit into memory either.
            tile = whole if len(views) == 1 else replace(whole)
            mean, variance = context.predict(tile)
            y_hats.append(mu + tile.estimate(mean, variance))
            spent.append(Spent.on(tile.charge(mean, variance)))
            told += float(tile.told(mean).double().sum())
            unknown.append(Spent.on(tile.divergence(mean, variance)))
        parts = {
            TOLD: told,
            UNKNOWN_VARIANCE: _sum(unknown),
            SIDE: _side(views),
            "context": context.price_bits,
        }
        return Climb(y_hats, spent, parts, {UNKNOWN_VARIANCE: unknown})


#: From what the codec does to what only a genie could do.
LADDER: tuple[Rung, ...] = (
    Coded(BITSTREAM, Status.ACHIEVED, "the file: rounding, range coding, header"),
    Coded(IDEAL, Status.ACHIEVED_IDEAL, "the same symbols at −log₂ p each, z included"),
    Predicted(
        TRELLIS,
        Status.ACHIEVABLE,
        "trellis-coded quantisation, as streams of a Gaussian prior can have it, at −log₂ p each",
        TrellisCoded(),
    ),
    Predicted(
        "dithered",
        Status.ACHIEVABLE,
        "universal quantisation: shared uniform dither, MMSE-scaled",
        Dithered(),
    ),
    Predicted(
        TEST_CHANNEL,
        Status.ACHIEVABLE,
        "Gaussian test channel at the KL divergence, MMSE-scaled",
        GaussianTest(),
    ),
    LearnedPosterior(
        POSTERIOR,
        Status.ACHIEVABLE,
        "the same, each channel with the noise that it bears best in the picture",
    ),
    WithContext(
        CONTEXT,
        Status.ACHIEVABLE,
        "the same, mean and scale corrected by what has arrived before",
    ),
    Told(
        "grouped data set",
        Status.ACHIEVABLE,
        "test channel, one second moment per channel of all pictures instead of z, price paid",
        GaussianTest(),
        Pooled("data set"),
    ),
    Told(
        "grouped image",
        Status.ACHIEVABLE,
        "test channel, one second moment per picture instead of z, price paid",
        GaussianTest(),
        Pooled("image"),
    ),
    Told(
        "grouped channel",
        Status.ACHIEVABLE,
        "test channel, one second moment per channel instead of z, price paid",
        GaussianTest(),
        Pooled("channel"),
    ),
    Told(
        "grouped 16×16",
        Status.ACHIEVABLE,
        "test channel, one second moment per 16×16 latents instead of z, price paid",
        GaussianTest(),
        Grouped(16),
    ),
    Told(
        "grouped 4×4",
        Status.ACHIEVABLE,
        "test channel, one second moment per 4×4 latents instead of z, price paid",
        GaussianTest(),
        Grouped(4),
    ),
    Told(
        "grouped element",
        Status.ACHIEVABLE,
        "test channel, y² of every latent instead of z, price paid",
        GaussianTest(),
        Grouped(1),
    ),
    Told(
        "oracle, rounding",
        Status.GENIE,
        "rounding, y² of every latent told for free (paper 1, fig. 4a)",
        Rounding(),
        Oracle(),
    ),
    Told(
        "oracle, test channel",
        Status.GENIE,
        "test channel, y² of every latent told for free, MMSE-scaled (paper 1, fig. 4a)",
        GaussianTest(),
        Oracle(),
    ),
    Predicted(
        "oracle, test channel, context",
        Status.GENIE,
        "the same about the mean that the prior predicts (paper 1, fig. 4b)",
        OracleGaussian("paper", predicted_mean=True, mmse=True),
    ),
)
