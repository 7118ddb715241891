"""The rungs: each is a channel, a source of variances, a source of means, and what it proves."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import torch
from torch import Tensor

from waterfill.codec.channels import Channel, Dithered, GaussianTest, Rounding
from waterfill.codec.model import Latents
from waterfill.codec.noise import Noise
from waterfill.ladder.variances import Grouped, Oracle, Predicted, VarianceSource

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
    channel, variance, predicted_mean
        How y becomes ŷ, where σ comes from, and whether μ is the prior's or 0.
    meaning
        One line for the report.
    """

    name: str
    status: Status
    channel: Channel
    variance: VarianceSource
    predicted_mean: bool
    meaning: str


#: Name of the rung that is measured in bytes, header and all.
BITSTREAM = "bitstream"

#: From what the codec does to what only a genie could do.
LADDER: tuple[Rung, ...] = (
    Rung(
        BITSTREAM,
        Status.ACHIEVED,
        Rounding(),
        Predicted(),
        True,
        "the file: rounding, range coding, header",
    ),
    Rung(
        "ideal coder",
        Status.ACHIEVED_IDEAL,
        Rounding(),
        Predicted(),
        True,
        "the same symbols at −log₂ p each, z included",
    ),
    Rung(
        "dithered",
        Status.ACHIEVABLE,
        Dithered(),
        Predicted(),
        True,
        "universal quantisation: shared uniform dither, MMSE-scaled",
    ),
    Rung(
        "test channel",
        Status.ACHIEVABLE,
        GaussianTest(),
        Predicted(),
        True,
        "Gaussian test channel at the KL divergence, MMSE-scaled",
    ),
    Rung(
        "grouped channel",
        Status.ACHIEVABLE,
        GaussianTest(),
        Grouped(None),
        False,
        "test channel, one second moment per channel instead of z, price paid",
    ),
    Rung(
        "grouped 16×16",
        Status.ACHIEVABLE,
        GaussianTest(),
        Grouped(16),
        False,
        "test channel, one second moment per 16×16 latents instead of z, price paid",
    ),
    Rung(
        "grouped 4×4",
        Status.ACHIEVABLE,
        GaussianTest(),
        Grouped(4),
        False,
        "test channel, one second moment per 4×4 latents instead of z, price paid",
    ),
    Rung(
        "grouped element",
        Status.ACHIEVABLE,
        GaussianTest(),
        Grouped(1),
        False,
        "test channel, y² of every latent instead of z, price paid",
    ),
    Rung(
        "oracle, rounding",
        Status.GENIE,
        Rounding(),
        Oracle(),
        False,
        "rounding, y² of every latent told for free (paper 1, fig. 4a)",
    ),
    Rung(
        "oracle, test channel",
        Status.GENIE,
        GaussianTest(),
        Oracle(),
        False,
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
    mu = latents.mu if rung.predicted_mean else torch.zeros_like(latents.mu)
    sigma, price_bits = rung.variance(latents, latents.y - mu)
    y_hat, bits = rung.channel(latents.y, mu, sigma, Noise(seed))
    if isinstance(rung.channel, Rounding) and isinstance(rung.variance, Predicted):
        # These symbols have tables: what is estimated is what gets coded.
        bits = torch.from_numpy(latents.quantised().bits)
    parts = {"latents": float(bits.double().sum())}
    if rung.variance.needs_side_information or rung.predicted_mean:
        parts["side information"] = latents.side_bits
    if price_bits:
        parts["variance price"] = price_bits
    return Climb(y_hat, bits, parts)
