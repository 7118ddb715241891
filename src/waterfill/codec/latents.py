"""Latents of a picture or of a tile, as they are coded and as other channels would have them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import count
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from waterfill.bitstream import Distribution, SymbolReader, Trellis
from waterfill.codec.channels import Channel, of_channels
from waterfill.codec.coding import CodedPrior, Exchange, Prediction
from waterfill.codec.noise import Noise
from waterfill.codec.priors import integer_symbols
from waterfill.codec.priors.context import Part
from waterfill.codec.trellis import near

__all__ = ["Arrival", "Latents", "Plane", "Quantised", "decoded_latents"]


class Plane(NamedTuple):
    """Symbols, and the distribution that they are coded with."""

    symbols: NDArray[np.int32]
    distribution: Distribution

    @property
    def bits(self) -> NDArray[np.float64]:
        """Ideal code length of each symbol, bits."""
        return self.distribution.bits(self.symbols)


class Arrival(NamedTuple):
    """What a channel delivers of latents, and what was predicted of them.

    Attributes
    ----------
    y_hat
        ŷ in steps, float32 (M, h, w).
    bits
        Bits spent on each latent.
    mu, sigma
        Mean and deviation that the prior gave them, in steps.
    part
        Number of the part that each arrives with, int32: its prior looks at those before alone.
    """

    y_hat: Tensor
    bits: Tensor
    mu: Tensor
    sigma: Tensor
    part: Tensor

    @classmethod
    def blank(cls, shape: Sequence[int]) -> Arrival:
        """Planes (M, h, w) to fill in part by part."""
        y_hat, bits, mu, sigma = (torch.zeros(shape, dtype=torch.float32) for _ in range(4))
        return cls(y_hat, bits, mu, sigma, torch.zeros(shape, dtype=torch.int32))


@dataclass(frozen=True)
class Quantised:
    """Latents as they are coded.

    Attributes
    ----------
    symbols
        Symbols of y, int32 (M, h, w).
    y_hat
        ŷ in steps, float32 (M, h, w).
    planes
        The symbols part by part, in the order of coding, with their distributions.
    """

    symbols: NDArray[np.int32]
    y_hat: Tensor
    planes: list[tuple[Part, Plane]]

    @cached_property
    def bits(self) -> NDArray[np.float64]:
        """Ideal code length of each symbol, bits, (M, h, w)."""
        costs = torch.zeros(self.symbols.shape, dtype=torch.float64)
        for part, plane in self.planes:
            part.put(costs, torch.from_numpy(plane.bits))
        return costs.numpy()


#: Symbols of a part, given what is predicted of it.
Choice = Callable[[Part, Prediction], Tensor]


@dataclass(frozen=True)
class Latents:
    """The latents of one picture in quantisation steps, and what its prior says of them.

    Attributes
    ----------
    y
        What is to be coded, float32 (M, h, w).
    z
        The side information, as coded; None where there is none.
    prior
        Integer twin of the codec's prior.
    quality
        Quality of the stream.
    chosen
        Symbols that an encoder prefers to the nearest ones.
    trellis
        Whether symbols are those of trellis-coded quantisation.
    """

    y: Tensor
    z: Plane | None
    prior: CodedPrior
    quality: float
    chosen: Quantised | None = None
    trellis: bool = False

    @cached_property
    def side_bits(self) -> float:
        """Ideal code length of the side information, bits."""
        return 0.0 if self.z is None else float(self.z.bits.sum())

    def walk(self, exchange: Exchange) -> None:
        """Visit y part by part, in the order of coding."""
        symbols = None if self.z is None else self.z.symbols
        self.prior.walk(symbols, self.quality, tuple(self.y.shape), exchange)

    @cached_property
    def quantised(self) -> Quantised:
        """The symbols of a stream: those that were chosen, or the nearest ones."""
        if self.chosen is not None:
            return self.chosen
        return self.quantise(self._nearest)

    def _nearest(self, part: Part, predicted: Prediction) -> Tensor:
        residual = part.take(self.y).double() - predicted.centre
        if isinstance(predicted.distribution, Trellis):
            return torch.from_numpy(near(predicted.distribution, residual.numpy()))
        return torch.round(residual)

    def quantise(self, choose: Choice) -> Quantised:
        """Quantise part by part: the one place where an encoder's symbols come from.

        Parameters
        ----------
        choose
            Symbols of a part: whole numbers of steps from the centre that is predicted of it, or
            whatever a trellis takes them for.
        """
        symbols = torch.zeros(self.y.shape, dtype=torch.int32)
        y_hat = torch.zeros(self.y.shape, dtype=torch.float32)
        planes: list[tuple[Part, Plane]] = []

        def exchange(part: Part, predicted: Prediction) -> Tensor:
            if self.trellis:
                predicted = predicted.trellised
            chosen = integer_symbols(choose(part, predicted))
            planes.append((part, Plane(chosen, predicted.distribution)))
            residual = predicted.residual(chosen)
            part.put(symbols, torch.from_numpy(chosen))
            part.put(y_hat, (residual + predicted.centre).float())
            return residual

        self.walk(exchange)
        return Quantised(symbols.numpy(), y_hat, planes)

    def through(self, channel: Channel, noise: Noise) -> Arrival:
        """Another channel in place of rounding, and contexts made of what *it* delivers.

        A channel whose theory is Gaussian takes a mixture for the Gaussian with its mean and
        variance. A factorised density, which is known at whole steps alone, is the Gaussian that
        codes it best to all of them.
        """
        arrival, numbers = Arrival.blank(self.y.shape), count()

        def exchange(part: Part, predicted: Prediction) -> Tensor:
            density = predicted.density
            known = density.gaussian()
            crossing = of_channels(channel, part.channels)(part.take(self.y), density, noise)
            number = torch.full(crossing.bits.shape, next(numbers), dtype=torch.int32)
            values = (*crossing, known.mu, known.sigma, number)
            for plane, value in zip(arrival, values, strict=True):
                part.put(plane, value)
            return crossing.y_hat.double() - predicted.centre

        self.walk(exchange)
        return arrival

    def rounded(self) -> Arrival:
        """Rounding, at the ideal code length of the symbols that are coded; no more is told."""
        coded = self.quantised
        nothing = torch.empty(0)
        return Arrival(coded.y_hat, torch.from_numpy(coded.bits).float(), nothing, nothing, nothing)


def decoded_latents(
    prior: CodedPrior,
    z: NDArray[np.int32] | None,
    quality: float,
    shape: tuple[int, ...],
    reader: SymbolReader,
    *,
    trellis: bool = False,
) -> tuple[NDArray[np.int32], Tensor]:
    """Symbols, and ŷ in steps, read part by part: what an encoder's :class:`Quantised` holds.

    Parameters
    ----------
    prior
        Integer twin of the codec's prior.
    z
        Symbols of the side information, where there is one.
    quality
        Quality of the stream.
    shape
        Shape of y, (M, h, w).
    reader
        Reader of the stream, at the first symbol.
    trellis
        Whether symbols are those of trellis-coded quantisation.
    """
    symbols = torch.zeros(shape, dtype=torch.int32)
    y_hat = torch.zeros(shape, dtype=torch.float32)

    def exchange(part: Part, predicted: Prediction) -> Tensor:
        if trellis:
            predicted = predicted.trellised
        read = reader.read(predicted.distribution)
        residual = predicted.residual(read)
        part.put(symbols, torch.from_numpy(read))
        part.put(y_hat, (residual + predicted.centre).float())
        return residual

    prior.walk(z, quality, shape, exchange)
    return symbols.numpy(), y_hat
