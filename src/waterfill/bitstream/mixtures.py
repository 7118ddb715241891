"""Mixtures of Gaussians, whose tables are made for each symbol as it is coded."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import constriction
import numpy as np
from numpy.typing import NDArray

from waterfill.bitstream.normal import (
    PHI_BITS,
    POSITION_BITS,
    ROWS,
    cumulative,
    reciprocal_scale,
)
from waterfill.bitstream.tables import ESCAPE_BITS, PRECISION, TOTAL

__all__ = ["MEAN_BITS", "WEIGHT_BITS", "Mixtures"]

#: Means are whole numbers of 2^−MEAN_BITS steps, weights of 2^−WEIGHT_BITS.
MEAN_BITS, WEIGHT_BITS = 12, 14

_DEVIATIONS = 6  # of each Gaussian that a table covers
_WIDEST = 1 << 12  # symbols in a table; what lies further out escapes
_AT_ONCE = 1 << 20  # table entries made at a time
_MODEL = constriction.stream.model.Categorical(perfect=False)


@dataclass(frozen=True, eq=False)
class Mixtures:
    """The distribution of symbols that each have a mixture of K Gaussians of their own.

    Integers throughout: a symbol's table is the same on every machine.

    Attributes
    ----------
    weights
        int64 (K, …) of at least 1, adding up to 2^WEIGHT_BITS over K.
    means
        int64 (K, …), in units of 2^−MEAN_BITS.
    rows
        The scale of each, as row of the Gaussian tables, int64 (K, …).
    """

    weights: NDArray[np.int64]
    means: NDArray[np.int64]
    rows: NDArray[np.int64]

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the plane."""
        return self.rows.shape[1:]

    def bits(self, symbols: NDArray[np.int32]) -> NDArray[np.float64]:
        """Ideal code length of each symbol in bits, escapes included; shape of ``symbols``."""
        cost = np.empty(symbols.size)
        flat = symbols.ravel()
        for where, first, frequencies in self._tables():
            index, outside = _entries(flat[where], first, frequencies)
            chosen = np.take_along_axis(frequencies, index[:, None].astype(np.int64), 1)[:, 0]
            cost[where] = PRECISION - np.log2(chosen.astype(np.float64)) + ESCAPE_BITS * outside
        return cost.reshape(symbols.shape)

    def encode(self, encoder: Any, symbols: NDArray[np.int32]) -> NDArray[np.bool_]:
        """Encode flat symbols; which of them are escapes, whose values are still to be sent."""
        escaped = np.zeros(symbols.size, dtype=np.bool_)
        for where, first, frequencies in self._tables():
            index, outside = _entries(symbols[where], first, frequencies)
            encoder.encode(index, _MODEL, frequencies.astype(np.float64) - 1.0)
            escaped[where] = outside
        return escaped

    def decode(self, decoder: Any) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
        """Decode flat symbols, and which of them are escapes."""
        size = self.rows[0].size
        symbols, escaped = np.empty(size, dtype=np.int32), np.zeros(size, dtype=np.bool_)
        for where, first, frequencies in self._tables():
            index = decoder.decode(_MODEL, frequencies.astype(np.float64) - 1.0)
            symbols[where] = index + first
            escaped[where] = index == frequencies.shape[1] - 1
        return symbols, escaped

    def _tables(self) -> Iterator[tuple[NDArray[np.intp], NDArray[np.int64], NDArray[np.int64]]]:
        """Groups of symbols whose tables have one size: positions, first symbols, frequencies.

        A table spans six deviations of each of its Gaussians. Sizes are powers of two, so that
        many symbols share one; of each table the last entry is the escape.
        """
        k = len(self.rows)
        weights, means, rows = (
            part.reshape(k, -1) for part in (self.weights, self.means, self.rows)
        )
        if not rows.size:
            return
        scales = _SPANS[rows]
        low = ((means - scales) >> MEAN_BITS).min(0)
        high = (-((-means - scales) >> MEAN_BITS)).max(0)
        span = high - low + 1
        sizes = np.minimum(1 << np.ceil(np.log2(span.astype(np.float64))).astype(np.int64), _WIDEST)
        centre = (low + high) >> 1
        low = np.where(span > _WIDEST, centre - _WIDEST // 2, low)
        for size in np.unique(sizes):
            members = np.flatnonzero(sizes == size)
            at_once = _AT_ONCE // int(size)
            for part in np.split(members, range(at_once, len(members), at_once)):
                yield (
                    part,
                    low[part],
                    _frequencies(weights[:, part], means[:, part], rows[:, part], low[part], size),
                )


def _entries(
    symbols: NDArray[np.int32], first: NDArray[np.int64], frequencies: NDArray[np.int64]
) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
    escape = frequencies.shape[1] - 1
    index = symbols.astype(np.int64) - first
    outside = (index < 0) | (index >= escape)
    return np.where(outside, escape, index).astype(np.int32), outside


#: 1/σ of each row in positions of 2^−(POSITION_BITS − MEAN_BITS), and six deviations in means.
_RECIPROCALS = np.array(
    [reciprocal_scale(row, POSITION_BITS - MEAN_BITS) for row in range(ROWS)], dtype=np.int64
)
_SPANS = np.array([(_DEVIATIONS << POSITION_BITS) // int(r) for r in _RECIPROCALS], dtype=np.int64)


def _frequencies(
    weights: NDArray[np.int64],
    means: NDArray[np.int64],
    rows: NDArray[np.int64],
    first: NDArray[np.int64],
    size: int,
) -> NDArray[np.int64]:
    """Integer frequencies (n, size + 1) of symbols from ``first`` up, the escape last."""
    half = 1 << (MEAN_BITS - 1)
    edges = ((first[:, None] + np.arange(size + 1)) << MEAN_BITS) - half
    mixed = np.zeros(edges.shape, dtype=np.int64)
    for weight, mean, row in zip(weights, means, rows, strict=True):
        distance = np.clip(edges - mean[:, None], -_FAR, _FAR)
        position = distance * _RECIPROCALS[row][:, None]
        mixed += weight[:, None] * (cumulative(position) >> (PHI_BITS - _MIXED_BITS))
    masses = np.diff(mixed, axis=1)
    total = 1 << (_MIXED_BITS + WEIGHT_BITS)
    masses = np.concatenate([masses, total - masses.sum(1, keepdims=True)], axis=1)
    frequencies: NDArray[np.int64] = 1 + (
        masses * (TOTAL - masses.shape[1]) >> (_MIXED_BITS + WEIGHT_BITS)
    )
    largest = np.argmax(frequencies, axis=1)
    frequencies[np.arange(len(frequencies)), largest] += TOTAL - frequencies.sum(1)
    return frequencies


#: Bits of Φ that enter a mixture: with the weight's and the frequency's they stay below 2⁶³.
_MIXED_BITS = 62 - WEIGHT_BITS - PRECISION
#: Distances beyond this, in means, are as good as infinite, and their positions fit 63 bits.
_FAR = 1 << 24
