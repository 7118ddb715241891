"""The rungs: each is a channel, a source of variances, a source of means, and what it proves."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import torch
from torch import Tensor

from waterfill.codec.channels import Channel, Dithered, GaussianTest, Rounding
from waterfill.codec.densities import Gaussian
from waterfill.codec.latents import Latents
from waterfill.codec.noise import Noise
from waterfill.ladder.variances import Grouped, Oracle, VarianceSource

__all__ = ["BITSTREAM", "LADDER", "Climb", "Rung", "Status", "climb"]


class Status(StrEnum):
    """What a rung's number is."""

    ACHIEVED = "achieved"
    ACHIEVED_IDEAL = "achieved up to coder overhead"
    ACHIEVABLE = "achievable"
    GENIE = "genie-aided"


@dataclass(frozen=True)
class Rung:
    """One system of the ladder.

    Attributes
    ----------
    name
        Short name, the key in JSON.
    status
        What the number is: a genie-aided rung is told something no decoder can know.
    channel, variance
        How y becomes ŷ, and where σ comes from, with μ = 0; None for the prior's own μ and σ,
        contexts included.
    meaning
        One line for the report.
    """

    name: str
    status: Status
    channel: Channel
    variance: VarianceSource | None
    meaning: str


#: Name of the rung that is measured in bytes, header and all.
BITSTREAM = "bitstream"

#: From what the codec does to what only a genie could do.
LADDER: tuple[Rung, ...] = (
    Rung(
        BITSTREAM,
        Status.ACHIEVED,
        Rounding(),
        None,
        "the file: rounding, range coding, header",
    ),
    Rung(
        "ideal coder",
        Status.ACHIEVED_IDEAL,
        Rounding(),
        None,
        "the same symbols at −log₂ p each, z included",
    ),
    Rung(
        "dithered",
        Status.ACHIEVABLE,
        Dithered(),
        None,
        "universal quantisation: shared uniform dither, MMSE-scaled",
    ),
    Rung(
        "test channel",
        Status.ACHIEVABLE,
        GaussianTest(),
        None,
        "Gaussian test channel at the KL divergence, MMSE-scaled",
    ),
    Rung(
        "grouped channel",
        Status.ACHIEVABLE,
        GaussianTest(),
        Grouped(None),
        "test channel, one second moment per channel instead of z, price paid",
    ),
    Rung(
        "grouped 16×16",
        Status.ACHIEVABLE,
        GaussianTest(),
        Grouped(16),
        "test channel, one second moment per 16×16 latents instead of z, price paid",
    ),
    Rung(
        "grouped 4×4",
        Status.ACHIEVABLE,
        GaussianTest(),
        Grouped(4),
        "test channel, one second moment per 4×4 latents instead of z, price paid",
    ),
    Rung(
        "grouped element",
        Status.ACHIEVABLE,
        GaussianTest(),
        Grouped(1),
        "test channel, y² of every latent instead of z, price paid",
    ),
    Rung(
        "oracle, rounding",
        Status.GENIE,
        Rounding(),
        Oracle(),
        "rounding, y² of every latent told for free (paper 1, fig. 4a)",
    ),
    Rung(
        "oracle, test channel",
        Status.GENIE,
        GaussianTest(),
        Oracle(),
        "test channel, y² of every latent told for free, MMSE-scaled (paper 1, fig. 4a)",
    ),
)


@dataclass(frozen=True)
class Climb:
    """A picture on a rung: ŷ (M, h, w) in steps, bits per latent, and all bits by what they buy."""

    y_hat: Tensor
    latent_bits: Tensor
    parts: dict[str, float]

    @property
    def bits(self) -> float:
        """All bits."""
        return sum(self.parts.values())


def climb(rung: Rung, latents: Latents, *, seed: int = 0) -> Climb:
    """Send latents through the channel of a rung.

    Parameters
    ----------
    rung
        Any rung; of the rung ``bitstream`` this gives the ideal code length, its bytes are for
        the caller to count.
    latents
        Of one picture.
    seed
        Of the channel's noise, the same for every rung.
    """
    if rung.variance is None:
        parts = {"latents": 0.0, "side information": latents.side_bits}
        if isinstance(rung.channel, Rounding):
            # These symbols have tables: what is estimated is what gets coded.
            coded = latents.quantised
            y_hat, bits = coded.y_hat, torch.from_numpy(coded.bits)
        else:
            y_hat, bits = latents.through(rung.channel, Noise(seed))
    else:
        sigma, price_bits = rung.variance(latents.y)
        density = Gaussian(torch.zeros_like(latents.y), sigma)
        y_hat, bits = rung.channel(latents.y, density, Noise(seed))
        parts = {"latents": 0.0} | ({"variance price": price_bits} if price_bits else {})
    parts["latents"] = float(bits.double().sum())
    return Climb(y_hat, bits, parts)
