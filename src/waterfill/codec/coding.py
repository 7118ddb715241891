"""The integer twin of a prior: symbols and their probabilities, equal on both ends of a stream.

:meth:`CodedPrior.walk` is the one place that says which latents are coded when, and by which
distribution. Estimating, encoding, decoding and the ladder differ in what they do at each of its
stops.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, cached_property, lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from waterfill.bitstream import Distribution, Mixtures, Rows, Tables, Trellis, gaussian_tables
from waterfill.bitstream.mixtures import WEIGHT_BITS
from waterfill.bitstream.normal import (
    LOG2_SIGMA_MIN,
    ROWS,
    ROWS_PER_OCTAVE,
    exponentials,
    power_of_two,
)
from waterfill.codec.conditioning import with_terms
from waterfill.codec.config import CodecConfig
from waterfill.codec.densities import Gaussian, GaussianMixture, gaussian_bin_bits
from waterfill.codec.fixed_point import ACTIVATION_BITS, FixedPointNetwork
from waterfill.codec.gains import GAIN_BITS, CodedGains, Gains
from waterfill.codec.priors.context import Part
from waterfill.codec.priors.factorized import Reach
from waterfill.codec.priors.prior import LINEAR_SCALE_FLOOR, Prior

__all__ = ["CodedPrior", "Exchange", "Prediction", "StoredTables"]

_ONE = 2.0**ACTIVATION_BITS
#: By name: tables of z at each whole quality, or of y.
StoredTables = dict[str, Tables]


@dataclass(frozen=True)
class Prediction:
    """What is known of a part of y when its turn comes.

    Attributes
    ----------
    centre
        What its latents are rounded about, in steps, float64, in the shape of the part.
    distribution
        Probabilities of its symbols.
    means, rows
        Of a Gaussian, or of each of a mixture with K leading: means in steps, float64, and rows of
        the Gaussian tables. Empty for a factorised density.
    weights
        Weights of a mixture, in units of 2^−WEIGHT_BITS.
    """

    centre: Tensor
    distribution: Distribution
    means: Tensor
    rows: NDArray[np.int64]
    weights: NDArray[np.int64] | None = None

    @property
    def trellised(self) -> Prediction:
        """The same with symbols of trellis-coded quantisation, for Gaussians alone."""
        assert isinstance(self.distribution, Rows)
        return replace(self, distribution=Trellis(self.distribution))

    def residual(self, symbols: NDArray[np.int32]) -> Tensor:
        """ŷ − centre of symbols in the shape of the part, float64, in steps."""
        if isinstance(self.distribution, Trellis):
            return torch.from_numpy(self.distribution.residual(symbols))
        return torch.from_numpy(symbols).double()

    @property
    def density(self) -> Gaussian | GaussianMixture:
        """What is predicted, float32, in steps; the Gaussian beside it of a factorised density."""
        if self.weights is not None:
            logs = np.log(self.weights / float(1 << WEIGHT_BITS)).astype(np.float32)
            sigma = torch.from_numpy(_scales(self.rows))
            return GaussianMixture(torch.from_numpy(logs), self.means.float(), sigma)
        if self.rows.size:
            return Gaussian(self.means.float(), torch.from_numpy(_scales(self.rows)))
        assert isinstance(self.distribution, Rows)
        mean, sigma = _gaussians(self.distribution.tables)[:, :, None, None]
        centre = self.centre.float()
        return Gaussian(centre + mean, sigma.expand_as(centre))


def _scales(rows: NDArray[np.int64]) -> NDArray[np.float32]:
    """σ of rows of the Gaussian tables, in steps."""
    return np.exp2(LOG2_SIGMA_MIN + rows / ROWS_PER_OCTAVE).astype(np.float32)


@lru_cache(maxsize=4)
def _gaussians(tables: Tables) -> Tensor:
    """Mean and deviation of the Gaussian that codes each row best, float32 (2, rows)."""
    found = [_gaussian(*row) for row in tables.rows()]
    return torch.tensor(found, dtype=torch.float32).T


def _gaussian(first: int, frequencies: NDArray[np.int64]) -> tuple[float, float]:
    """Mean of a table without its escape, and the deviation of least cross-entropy.

    By variance σ would be far too small where most symbols are zero: rounding a latent that seldom
    leaves its bin takes away more than the 1/12 that it adds to others.
    """
    symbols, weights = first + np.arange(len(frequencies) - 1), frequencies[:-1]
    sigmas = _scales(np.arange(ROWS))
    if not weights.sum():
        return 0.0, float(sigmas[0])
    mean = float(np.average(symbols, weights=weights))
    residual = torch.from_numpy(symbols - mean).double()
    bits = gaussian_bin_bits(residual, torch.from_numpy(sigmas).double()[:, None])
    return mean, float(sigmas[(bits.numpy() @ weights).argmin()])


#: At each stop: the part and what is predicted of it; back comes ŷ − centre, float64, in steps.
Exchange = Callable[[Part, Prediction], Tensor]


class CodedPrior:
    """What coding needs of a prior, derived from its weights once.

    Parameters
    ----------
    prior, gains
        Prior and gains of the codec.
    stored
        Tables that came with the weights. Those of z, or of y where the prior is factorised, depend
        on exponentials and are not the same to the last bit on every machine; stored ones are.
    """

    def __init__(self, prior: Prior, gains: Gains, stored: StoredTables | None = None) -> None:
        self._config: CodecConfig = prior.config
        self._prior = prior
        self._gains = gains
        self._context = prior.context.coded()
        self._h_s = FixedPointNetwork(prior.side.h_s) if prior.side is not None else None
        self._tables: StoredTables = dict(stored or {})

    @property
    def known_tables(self) -> StoredTables:
        """Those that came with the weights, and those that have been computed since."""
        return dict(self._tables)

    def table_names(self) -> list[str]:
        """Names of all tables that depend on the weights."""
        if self._h_s is None:
            return ["y"]
        low, high = self._config.qualities
        return [f"z{quality}" for quality in range(round(low), round(high) + 1)]

    def tables(self, name: str) -> Tables:
        """Tables by name."""
        if name not in self._tables:
            if self._prior.side is not None:
                self._tables[name] = self._prior.side.tables(float(name[1:]), self._z_reach)
            else:
                assert self._prior.factorized is not None
                self._tables[name] = self._prior.factorized.tables(np.ones(self._config.m))
        return self._tables[name]

    @cached_property
    def _z_reach(self) -> Reach:
        """Reach of the density of z, the same at all qualities."""
        assert self._prior.side is not None
        return self._prior.side.density.reach()

    def z_distribution(self, shape: tuple[int, ...], quality: float) -> Rows:
        """Probabilities of the symbols of z at a quality, (N, h/4, w/4)."""
        return Rows.by_channel(self.tables(f"z{round(quality)}"), shape)

    @torch.no_grad()
    def walk(
        self,
        z_symbols: NDArray[np.int32] | None,
        quality: float,
        shape: tuple[int, ...],
        exchange: Exchange,
    ) -> None:
        """Visit all of y, part by part.

        Parameters
        ----------
        z_symbols
            The side information, where there is one.
        quality
            Quality of the stream.
        shape
            Shape of y, (M, h, w).
        exchange
            What happens at each stop.
        """
        gains = self._gains.coded(quality)
        known = torch.zeros(shape, dtype=torch.float64)
        if self._h_s is None or self._prior.side is None:
            features = torch.zeros(shape, dtype=torch.float64)
        else:
            assert z_symbols is not None
            features = self._prior.side.features(z_symbols, quality, self._h_s)
        if self._prior.told_quality:
            exact = torch.tensor([quality], dtype=torch.float64)
            features = with_terms(features[None], exact, _ONE)[0]
        for part, parameters in self._context.walk(features, known):
            mu, predicted = self._prediction(parameters, gains, part.channels)
            residual = exchange(part, predicted)
            scale = _spread(gains.reciprocal[part.channels], residual.ndim - 1) * _ONE
            part.put(known, torch.round(residual * scale) + mu)

    def _prediction(
        self, parameters: Tensor, gains: CodedGains, channels: slice
    ) -> tuple[Tensor, Prediction]:
        """The centre in units of y, as integers; and the prediction."""
        config = self._config
        if config.side == "none":
            assert self._prior.factorized is not None
            centre = self._prior.factorized.centre.cpu().double()
            centre = centre[:, None, None].expand_as(parameters)
            learned = Rows.by_channel(self.tables("y"), tuple(parameters.shape))
            nothing = np.empty(0, dtype=np.int64)
            return torch.round(centre * _ONE), Prediction(centre, learned, torch.empty(0), nothing)
        places = parameters.ndim - 1
        gain = _spread(gains.gain[channels], places)
        shift = _spread(torch.from_numpy(gains.log2_gain[channels]).double(), places)
        if config.mixtures > 1:
            places_of = parameters.shape[1:]
            logits, mu, scale = parameters.reshape(3, config.mixtures, -1, *places_of)
            means = torch.round(mu * gain)
            rows, weights = self._rows(scale, shift), _softmax(logits)
            mixed = Mixtures(weights, means.long().numpy(), rows)
            zero = torch.zeros_like(mu[0])
            return zero, Prediction(zero, mixed, means / _ONE, rows, weights)
        mu, scale = (
            (torch.zeros_like(parameters), parameters)
            if config.side == "scale"
            else parameters.chunk(2)
        )
        rows = self._rows(scale, shift)
        centre = mu * (gain / _ONE)
        return mu, Prediction(centre, Rows(gaussian_tables(), rows), centre, rows)

    def _rows(self, scale: Tensor, log2_gain: Tensor) -> NDArray[np.int64]:
        """Rows of the Gaussian tables, from what the networks say of scales."""
        shift = log2_gain - LOG2_SIGMA_MIN * 2.0**GAIN_BITS
        if self._config.linear_scale:
            floor = round(LINEAR_SCALE_FLOOR * _ONE)
            scale = _log2(scale.clamp_min(floor).contiguous())
        rows = torch.round((scale + shift) * (ROWS_PER_OCTAVE / _ONE)).clamp(0, ROWS - 1)
        return rows.long().numpy()


def _spread(values: Tensor, places: int) -> Tensor:
    """Values by channel (C,), to go with a part of so many axes behind its channels."""
    return values.reshape(-1, *(1,) * places)


@cache
def _log2_thresholds() -> Tensor:
    """Where log₂ of activations passes from one 32nd to the next, from 2⁻⁶ to 2¹⁰."""
    return torch.tensor(
        [power_of_two(k, 6, ACTIVATION_BITS) for k in range(-6 * 64 + 1, 10 * 64, 2)],
        dtype=torch.float64,
    )


def _log2(activations: Tensor) -> Tensor:
    """log₂ of positive activations to the nearest 32nd, as an activation."""
    index = torch.bucketize(activations, _log2_thresholds(), right=True)
    return (index - 6 * 32) * (_ONE / 32)


def _softmax(logits: Tensor) -> NDArray[np.int64]:
    """Weights of mixtures in 2^−WEIGHT_BITS, from integer logits with K leading."""
    table = exponentials()
    below = (logits.max(0).values - logits).long().numpy() >> (ACTIVATION_BITS - 8)
    shares = table[np.minimum(below, len(table) - 1)]
    k = len(shares)
    weights = 1 + shares * ((1 << WEIGHT_BITS) - k) // shares.sum(0)
    missing = (1 << WEIGHT_BITS) - weights.sum(0)
    largest = weights.argmax(0)
    np.put_along_axis(
        weights, largest[None], np.take_along_axis(weights, largest[None], 0) + missing, 0
    )
    result: NDArray[np.int64] = weights
    return result
