"""Integer probability tables: what is estimated is what gets coded."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
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
from waterfill.errors import CodecError

__all__ = [
    "ESCAPE_BITS",
    "PRECISION",
    "TOTAL",
    "Rows",
    "Tables",
    "gaussian_tables",
    "integer_shares",
]

#: Frequencies of a table add up to TOTAL, 2^PRECISION: the precision of the range coder.
PRECISION = 24
TOTAL = 1 << PRECISION
#: A symbol outside its table costs the escape symbol plus this many bits.
ESCAPE_BITS = 32

_GAUSSIAN_REACH = 5.5  # deviations that a table covers: 2⁻²⁴ of the mass lies outside


def _integer_frequencies(masses: NDArray[np.float64]) -> NDArray[np.int64]:
    """Round masses to positive integers that add up to 2^PRECISION."""
    if not np.isfinite(masses).all() or len(masses) > TOTAL // 2:
        raise CodecError("no table can hold these probabilities: the weights are broken")
    share = np.maximum(masses, 0.0)
    room = TOTAL - len(share)
    return _filled(1 + np.floor(share / share.sum() * room).astype(np.int64))


def integer_shares(masses: NDArray[np.int64], bits: int) -> NDArray[np.int64]:
    """Frequencies from masses in units of 2^−bits that add up to 1: the same on every machine."""
    return _filled(1 + (masses * (TOTAL - len(masses)) >> bits))


def _filled(frequencies: NDArray[np.int64]) -> NDArray[np.int64]:
    """Give what is missing from the total to the most frequent symbol."""
    frequencies[np.argmax(frequencies)] += TOTAL - frequencies.sum()
    return frequencies


@dataclass(frozen=True, eq=False)
class Tables:
    """A family of tables; a symbol's row says which one it is coded with.

    Attributes
    ----------
    first
        Lowest symbol inside each table, int64 (rows,).
    frequencies
        For each row the integer frequencies of its symbols from ``first`` up; the last entry is
        the escape, which stands for every symbol outside.
    """

    first: NDArray[np.int64]
    frequencies: Sequence[NDArray[np.int64]]
    _models: dict[int, Any] = field(default_factory=dict, repr=False)

    @classmethod
    def from_masses(cls, first: NDArray[np.int64], masses: Sequence[NDArray[np.float64]]) -> Tables:
        """Tables from probability masses; whatever a row lacks to 1 goes to its escape.

        Raises
        ------
        CodecError
            If a mass is not finite.
        """
        rows = []
        for mass in masses:
            rest = max(1.0 - float(mass.sum()), 0.0)
            rows.append(_integer_frequencies(np.append(mass, rest)))
        return cls(first, rows)

    @classmethod
    def from_flat(
        cls, first: NDArray[np.int64], sizes: NDArray[np.int64], flat: NDArray[np.int64]
    ) -> Tables:
        """Tables from the frequencies of all rows, one behind the other.

        Raises
        ------
        CodecError
            If they are not those of tables.
        """
        fits = first.ndim == sizes.ndim == flat.ndim == 1 and len(first) == len(sizes)
        if not fits or (sizes < 1).any() or sizes.sum() != len(flat) or (flat < 1).any():
            raise CodecError("the stored probability tables are damaged")
        rows = np.split(flat, np.cumsum(sizes)[:-1])
        if any(int(row.sum()) != TOTAL for row in rows):
            raise CodecError("the stored probability tables are damaged")
        return cls(first, rows)

    def flat(self) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """First symbols, sizes, and frequencies of all rows, for :meth:`from_flat`."""
        sizes = np.array([len(row) for row in self.frequencies], dtype=np.int64)
        return self.first, sizes, np.concatenate(list(self.frequencies))

    def __reduce__(self) -> tuple[Any, ...]:
        # The range coder's models can't be copied, and are soon built again.
        return Tables, (self.first, self.frequencies)

    def rows(self) -> Iterator[tuple[int, NDArray[np.int64]]]:
        """First symbol and frequencies of each row."""
        return zip((int(first) for first in self.first), self.frequencies, strict=True)

    def __len__(self) -> int:
        return len(self.frequencies)

    @cached_property
    def sizes(self) -> NDArray[np.int64]:
        """Entries of each row, the escape among them."""
        return np.array([len(row) for row in self.frequencies], dtype=np.int64)

    def entries(
        self, rows: NDArray[np.int64], symbols: NDArray[np.int32] | NDArray[np.int64]
    ) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
        """Index of each symbol in its row's table, and which symbols escape."""
        escape = self.sizes[rows] - 1
        index = symbols - self.first[rows]
        outside = (index < 0) | (index >= escape)
        return np.where(outside, escape, index).astype(np.int32), outside

    @cached_property
    def _costs(self) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Code lengths of all entries of all rows, and where each row's begin."""
        logs = PRECISION - np.log2(np.concatenate(list(self.frequencies)).astype(np.float64))
        return logs, self.sizes.cumsum() - self.sizes

    def bits(
        self, rows: NDArray[np.int64], symbols: NDArray[np.int32] | NDArray[np.int64]
    ) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """Ideal code lengths of symbols by row, escapes included; and which of them escape."""
        logs, starts = self._costs
        index, outside = self.entries(rows, symbols)
        return logs[starts[rows] + index] + ESCAPE_BITS * outside, outside

    def model(self, row: int) -> Any:
        """The range coder's model of a row, built once; ``None`` where there is no choice."""
        if row not in self._models:
            # The coder gives each of n symbols one of 2^24 shares and deals out the other
            # 2^24 − n in proportion. Handed what is left of our frequencies, which adds up to just
            # that, it scales by exactly 1: it codes with these very integers, on every machine.
            others = self.frequencies[row].astype(np.float64) - 1.0
            self._models[row] = (
                constriction.stream.model.Categorical(others, perfect=False)
                if len(others) > 1
                else None
            )
        return self._models[row]


@dataclass(frozen=True, eq=False)
class Rows:
    """The distribution of a plane of symbols, each coded with a row of some tables.

    Symbols that share a row are coded together, rows ascending: both ends know all rows of a plane
    before its first symbol, and the coder is called once for each row instead of once for each
    symbol.

    Attributes
    ----------
    tables
        The tables.
    rows
        Of each symbol, int64, in the shape of the plane.
    """

    tables: Tables
    rows: NDArray[np.int64]

    @classmethod
    def by_channel(cls, tables: Tables, shape: tuple[int, ...]) -> Rows:
        """One row for each channel of a plane (C, h, w)."""
        rows = np.arange(shape[0], dtype=np.int64)[:, None, None]
        return cls(tables, np.ascontiguousarray(np.broadcast_to(rows, shape)))

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the plane."""
        return self.rows.shape

    def bits(self, symbols: NDArray[np.int32]) -> NDArray[np.float64]:
        """Ideal code length of each symbol in bits, escapes included; shape of ``symbols``."""
        return self.tables.bits(self.rows, symbols)[0]

    def encode(self, encoder: Any, symbols: NDArray[np.int32]) -> NDArray[np.bool_]:
        """Encode flat symbols; which of them are escapes, whose values are still to be sent."""
        order, rows, ends = _by_row(self.rows.ravel())
        index, outside = self.tables.entries(rows, symbols[order])
        start = 0
        for end in ends:
            model = self.tables.model(int(rows[start]))
            if model is not None:
                encoder.encode(index[start:end], model)
            start = end
        escaped = np.empty(symbols.size, dtype=np.bool_)
        escaped[order] = outside
        return escaped

    def decode(self, decoder: Any) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
        """Decode flat symbols, and which of them are escapes."""
        order, rows, ends = _by_row(self.rows.ravel())
        index = np.zeros(rows.size, dtype=np.int32)
        start = 0
        for end in ends:
            model = self.tables.model(int(rows[start]))
            if model is not None:
                index[start:end] = decoder.decode(model, end - start)
            start = end
        symbols = np.empty(rows.size, dtype=np.int32)
        escaped = np.empty(rows.size, dtype=np.bool_)
        symbols[order] = index + self.tables.first[rows]
        escaped[order] = index == self.tables.sizes[rows] - 1
        return symbols, escaped


@cache
def gaussian_tables() -> Tables:
    """Tables of N(0, σ²) on unit bins, σ from 2⁻⁴ to 2⁸ in sixteenths of an octave.

    In integers from the first to the last step: the same on every machine.
    """
    first, frequencies = [], []
    for row in range(ROWS):
        reciprocal = reciprocal_scale(row, POSITION_BITS - 1)  # of 2σ, in positions
        reach = -int(-_GAUSSIAN_REACH * (1 << POSITION_BITS) // (2 * reciprocal))
        edges = np.arange(-2 * reach - 1, 2 * reach + 2, 2, dtype=np.int64)
        masses = np.diff(cumulative(edges * reciprocal))
        outside = (1 << PHI_BITS) - masses.sum()
        first.append(-reach)
        frequencies.append(integer_shares(np.append(masses, outside), PHI_BITS))
    return Tables(np.array(first, dtype=np.int64), frequencies)


def _by_row(
    rows: NDArray[np.int64],
) -> tuple[NDArray[np.intp], NDArray[np.int64], list[int]]:
    """The order of coding: rows ascending, positions in order; the rows so, and where each ends."""
    order = rows.argsort(kind="stable")
    ordered = rows[order]
    ends = np.flatnonzero(ordered[1:] != ordered[:-1]) + 1
    return order, ordered, [*ends.tolist(), rows.size] if rows.size else []
