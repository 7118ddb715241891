"""Integer probability tables: what is estimated is what gets coded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import constriction
import numpy as np
from numpy.typing import NDArray

from waterfill.errors import CodecError

__all__ = ["ESCAPE_BITS", "PRECISION", "Tables"]

#: Frequencies of a table add up to 2^PRECISION, the precision of the range coder.
PRECISION = 24
#: A symbol outside its table costs the escape symbol plus this many bits.
ESCAPE_BITS = 32

_TOTAL = 1 << PRECISION


def _integer_frequencies(masses: NDArray[np.float64]) -> NDArray[np.int64]:
    """Round masses to positive integers that add up to 2^PRECISION."""
    if not np.isfinite(masses).all() or len(masses) > _TOTAL // 2:
        raise CodecError("no table can hold these probabilities: the weights are broken")
    share = np.maximum(masses, 0.0)
    room = _TOTAL - len(share)
    frequencies = 1 + np.floor(share / share.sum() * room).astype(np.int64)
    frequencies[np.argmax(frequencies)] += _TOTAL - frequencies.sum()
    result: NDArray[np.int64] = frequencies
    return result


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

    def __len__(self) -> int:
        return len(self.frequencies)

    def entries(
        self, row: int, symbols: NDArray[np.int32]
    ) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
        """Index of each symbol in its table, and which symbols escape."""
        escape = len(self.frequencies[row]) - 1
        index = symbols.astype(np.int64) - self.first[row]
        outside = (index < 0) | (index >= escape)
        return np.where(outside, escape, index).astype(np.int32), outside

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

    def bits(self, symbols: NDArray[np.int32], rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """Ideal code length of each symbol in bits, escapes included; shape of ``symbols``."""
        cost = np.empty(symbols.size, dtype=np.float64)
        for row, where in group_by_row(rows.ravel()):
            index, outside = self.entries(row, symbols.ravel()[where])
            logs = PRECISION - np.log2(self.frequencies[row].astype(np.float64))
            cost[where] = logs[index] + ESCAPE_BITS * outside
        return cost.reshape(symbols.shape)


def group_by_row(rows: NDArray[np.int64]) -> list[tuple[int, NDArray[np.intp]]]:
    """Positions of each row that occurs, rows ascending, positions in order."""
    if not rows.size:
        return []
    order = np.argsort(rows, kind="stable")
    ordered = rows[order]
    starts = np.flatnonzero(np.diff(ordered, prepend=ordered[:1] - 1))
    return [
        (int(ordered[start]), where)
        for start, where in zip(starts, np.split(order, starts[1:]), strict=True)
    ]
