"""Trellis-coded quantisation: two quantisers take turns, and a trellis says whose turn it is.

Together the quantisers Q₀ and Q₁ make a lattice of step Δ: even points, and odd ones with zero.
Each has half the points, so a symbol costs about as much as one of a step of 2Δ; but as every
symbol decides which quantiser follows, an encoder that looks ahead finds ŷ nearly as close to y as
on the whole lattice::

      Q₀   ·       ·       ·       ·       ·          0, ±2Δ, ±4Δ, …   2kΔ
      Q₁     ·       ·     · · ·     ·       ·        0, ±Δ,  ±3Δ, …   (2k − sign k)Δ

The trellis is Ungerboeck's of eight states; the parity of a symbol is its branch (of an escape: 0).
Latents that hardly vary are left to rounding: about zero, nothing is gained.

A plane of latents is cut into *lanes*: some of its places, with a trellis of their own that runs
through all channels, about two hundred latents long. Lanes advance side by side, so that the coder
is called for a step of all, and what happens in one doesn't concern the others.

The entropy model is a Gaussian's mass between limits that are the trellis's own: an encoder doesn't
choose the nearest point, and zero has other neighbours in Q₁ than in Q₀. Where the limits lie was
fitted to photographs (``benchmarks/trellis.py``).

References
----------
Ungerboeck, "Channel coding with multilevel/phase signals", IEEE Trans. IT 28, 1982.
Marcellin, Fischer, "Trellis coded quantization of memoryless and Gauss–Markov sources", IEEE
Trans. Comm. 38, 1990.
Schwarz et al., "Quantization and entropy coding in the versatile video coding (VVC) standard",
IEEE Trans. CSVT 31, 2021 (quantisers that share zero).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, cached_property
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from waterfill.bitstream.normal import (
    LOG2_SIGMA_MIN,
    PHI_BITS,
    POSITION_BITS,
    ROWS,
    ROWS_PER_OCTAVE,
    cumulative,
    reciprocal_scale,
)
from waterfill.bitstream.tables import Rows, Tables, integer_shares

__all__ = [
    "FIRST_ROW",
    "NEXT",
    "QUANTISER",
    "STATES",
    "STEP",
    "Lanes",
    "Trellis",
    "trellis_tables",
]

STATES = 8
#: Which quantiser belongs to a state, and the state that follows a symbol of each parity.
QUANTISER: NDArray[np.int64]
NEXT: NDArray[np.int64]
#: Δ in quantisation steps: about what costs least at the slope of rate and distortion that
#: rounding works at. Each quantiser is coarser than rounding by a third.
STEP = 21 / 32
#: Latents of a lower row of the Gaussian tables are rounded: those of σ < 0.6 steps.
FIRST_ROW = 52

#: Latents to a lane, but for a factor of √2: the number of lanes is a power of two, so that it
#: seldom changes as an encoder tries this and that. A shorter lane gains less, as a trellis needs
#: three steps to get going; a longer one takes more calls of the coder.
_LANE = 192
_REACH = 6.0  # deviations that a table covers
#: Limits are whole numbers of Δ/64, and Δ of a 32nd step.
_LIMIT_BITS = 6 + 5
_DELTA = round(STEP * 32)

#: Half the width of zero, and by how much the other limits lie beyond the middles between points,
#: for Q₀ and Q₁ in Δ/64, at σ of ½, 1, 2, 4 and 8 steps.
_ZERO = ((76, 62, 55, 57, 59), (29, 30, 33, 35, 36))
_BEYOND = ((-24, -10, -4, 6, 13), (16, 13, 15, 22, 26))
_FIRST_OCTAVE = -1


def _states() -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Ungerboeck's systematic encoder of h₀ = 13, h₁ = 04 (octal): quantisers and next states."""
    turns, follow = np.zeros(STATES, np.int64), np.zeros((STATES, 2), np.int64)
    for state in range(STATES):
        a, b, c = (state >> bit & 1 for bit in range(3))
        turns[state] = c
        for parity in (0, 1):
            follow[state, parity] = c | (a ^ c) << 1 | (b ^ parity) << 2
    return turns, follow


QUANTISER, NEXT = _states()


@cache
def trellis_tables() -> Tables:
    """Tables of symbols by row of σ from :data:`FIRST_ROW` up, for Q₀ and Q₁ in turn."""
    first, frequencies = [], []
    for row in range(FIRST_ROW, ROWS):
        reciprocal = reciprocal_scale(row, POSITION_BITS - _LIMIT_BITS)
        sigma = 2.0 ** (LOG2_SIGMA_MIN + row / ROWS_PER_OCTAVE)
        reach = int(_REACH * sigma / (2.0 * STEP)) + 2
        k = np.arange(reach + 1)
        for quantiser in (0, 1):
            limits = 64 * (2 * k + 1 - quantiser) + _between_octaves(_BEYOND[quantiser], row)
            limits[0] = _between_octaves(_ZERO[quantiser], row)
            positive = limits * (_DELTA * reciprocal)
            masses = np.diff(cumulative(np.concatenate([-positive[::-1], positive])))
            masses = np.append(masses, (1 << PHI_BITS) - masses.sum())
            first.append(-reach)
            frequencies.append(integer_shares(masses, PHI_BITS))
    return Tables(np.array(first, dtype=np.int64), frequencies)


def _between_octaves(values: tuple[int, ...], row: int) -> int:
    """Of a row, from values at octaves of σ: in whole numbers, the last one held."""
    place = row - (_FIRST_OCTAVE - LOG2_SIGMA_MIN) * ROWS_PER_OCTAVE
    octave, rest = divmod(place, ROWS_PER_OCTAVE)
    if octave >= len(values) - 1:
        return values[-1]
    return values[octave] + (values[octave + 1] - values[octave]) * rest // ROWS_PER_OCTAVE


class Lanes(NamedTuple):
    """Latents that the trellises run through, in the order of coding: step by step, lane by lane.

    Attributes
    ----------
    where
        Their places in the flat plane.
    starts
        Where each step begins, and the end. A step holds the lanes 0 … n − 1 that go so far.
    """

    where: NDArray[np.intp]
    starts: NDArray[np.intp]


@dataclass(frozen=True, eq=False)
class Trellis:
    """The distribution of a plane of symbols under trellis-coded quantisation.

    Attributes
    ----------
    rounded
        What rounding would be coded with: rows of the Gaussian tables, of a plane (C, …).
    """

    rounded: Rows

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the plane."""
        return self.rounded.shape

    @cached_property
    def quiet(self) -> NDArray[np.bool_]:
        """Which latents are rounded, flat."""
        return self.rounded.rows.ravel() < FIRST_ROW

    def lane_of(self, where: NDArray[np.intp]) -> NDArray[np.intp]:
        """The lane of each place of the flat plane."""
        places = self.rounded.rows[0].size
        lane: NDArray[np.intp] = where % places % self._lane_count
        return lane

    @cached_property
    def _lane_count(self) -> int:
        coded = self.quiet.size - int(np.count_nonzero(self.quiet))
        lanes = 1
        while lanes * lanes * 2 * _LANE**2 < coded * coded:  # up to the nearest power of two
            lanes *= 2
        return min(lanes, max(1, int(self.rounded.rows[0].size)))

    @cached_property
    def lanes(self) -> Lanes:
        """All other latents."""
        where = np.flatnonzero(~self.quiet)
        lane = self.lane_of(where)
        order = np.argsort(lane, kind="stable")
        counts = np.bincount(lane)
        longest_first = np.argsort(-counts, kind="stable")
        rank = np.empty_like(longest_first)
        rank[longest_first] = np.arange(len(counts))
        # Of each latent, in the order of lanes: which step of its lane it is.
        step = np.arange(len(where)) - np.repeat(counts.cumsum() - counts, counts)
        by_step = np.lexsort((rank[lane[order]], step))
        starts = np.concatenate([[0], np.bincount(step).cumsum()]) if len(where) else np.zeros(1)
        return Lanes(where[order][by_step], starts.astype(np.intp))

    def _tables_of(self, where: NDArray[np.intp], turn: NDArray[np.int64]) -> NDArray[np.int64]:
        """Which of the tables latents at some places are coded with."""
        tables: NDArray[np.int64] = 2 * (self.rounded.rows.ravel()[where] - FIRST_ROW) + turn
        return tables

    def turns(self, symbols: NDArray[np.int32]) -> NDArray[np.int64]:
        """The quantiser of each latent of :attr:`lanes`, given all flat symbols."""
        where, starts = self.lanes
        found = np.empty(len(where), np.int64)
        if not len(where):
            return found
        state = np.zeros(starts[1], np.int64)
        chosen = symbols[where]
        _, escapes = trellis_tables().bits(self._tables_of(where, np.zeros_like(found)), chosen)
        parity = np.where(escapes, 0, chosen & 1)
        for start, stop in pairwise(starts):
            now = state[: stop - start]
            found[start:stop] = QUANTISER[now]
            state[: stop - start] = NEXT[now, parity[start:stop]]
        return found

    def residual(self, symbols: NDArray[np.int32]) -> NDArray[np.float64]:
        """ŷ − centre of symbols, in steps."""
        flat = symbols.ravel()
        values = flat.astype(np.float64)
        where, _ = self.lanes
        k = values[where]
        values[where] = (2.0 * k - self.turns(flat) * np.sign(k)) * STEP
        return values.reshape(symbols.shape)

    def bits(self, symbols: NDArray[np.int32]) -> NDArray[np.float64]:
        """Ideal code length of each symbol in bits, escapes included; shape of ``symbols``."""
        flat = symbols.ravel()
        where, _ = self.lanes
        cost = self.rounded.bits(symbols).ravel()
        tables = self._tables_of(where, self.turns(flat))
        cost[where], _ = trellis_tables().bits(tables, flat[where])
        return cost.reshape(symbols.shape)

    def encode(self, encoder: Any, symbols: NDArray[np.int32]) -> NDArray[np.bool_]:
        """Encode flat symbols; which of them are escapes, whose values are still to be sent."""
        escaped = np.zeros(symbols.size, dtype=np.bool_)
        escaped[self.quiet] = self._resting().encode(encoder, symbols[self.quiet])
        where, starts = self.lanes
        tables = self._tables_of(where, self.turns(symbols))
        for start, stop in pairwise(starts):
            here = where[start:stop]
            step = Rows(trellis_tables(), tables[start:stop])
            escaped[here] = step.encode(encoder, symbols[here])
        return escaped

    def decode(self, decoder: Any) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
        """Decode flat symbols, and which of them are escapes."""
        symbols = np.empty(self.quiet.size, dtype=np.int32)
        escaped = np.zeros(self.quiet.size, dtype=np.bool_)
        symbols[self.quiet], escaped[self.quiet] = self._resting().decode(decoder)
        where, starts = self.lanes
        state = np.zeros(starts[1] if len(where) else 0, np.int64)
        for start, stop in pairwise(starts):
            here, now = where[start:stop], state[: stop - start]
            tables = self._tables_of(here, QUANTISER[now])
            symbols[here], escaped[here] = Rows(trellis_tables(), tables).decode(decoder)
            parity = np.where(escaped[here], 0, symbols[here] & 1)
            state[: stop - start] = NEXT[now, parity]
        return symbols, escaped

    def _resting(self) -> Rows:
        """Of the latents that are rounded."""
        return Rows(self.rounded.tables, self.rounded.rows.ravel()[self.quiet])
