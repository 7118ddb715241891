"""The encoder of trellis-coded quantisation: a cheapest way through each lane's trellis."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from waterfill.bitstream import Rows, Trellis, gaussian_tables
from waterfill.bitstream.normal import LOG2_SIGMA_MIN, ROWS, ROWS_PER_OCTAVE
from waterfill.bitstream.trellis import FIRST_ROW, NEXT, QUANTISER, STATES, STEP, trellis_tables
from waterfill.codec.channels import Crossing
from waterfill.codec.densities import Density
from waterfill.codec.noise import Noise
from waterfill.codec.priors import integer_symbols

__all__ = ["TrellisCoded", "cheapest_path", "near"]

#: Bits per squared step that keep symbols near y where nothing is known of the picture: four times
#: what a squared step is worth at the slope of rate and distortion, 6/ln 2. With less, latents are
#: pulled to zero that the analysis transform, trained with rounding, has already shrunk.
_NEAR = 4.0 * 6.0 / np.log(2.0)
#: Symbols have 32 bits.
_FARTHEST = 2.0**30


def _before() -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The two states before each state, and the parities that lead from them to it, (2, STATES)."""
    edges: list[list[tuple[int, int]]] = [[] for _ in range(STATES)]
    for state in range(STATES):
        for parity in (0, 1):
            edges[NEXT[state, parity]].append((state, parity))
    found = np.array(edges).transpose(2, 1, 0)
    return found[0], found[1]


_FROM, _BRANCH = _before()
#: Which of the four branches of a step, 2 · quantiser + parity, lead to each state.
_COSTS_FROM = 2 * QUANTISER[_FROM] + _BRANCH


class _Branches(NamedTuple):
    """Cost of the best symbol of each branch, 2 · quantiser + parity, and the symbol: (4, n)."""

    costs: NDArray[np.float64]
    symbols: NDArray[np.int64]


def _branches(
    rows: NDArray[np.int64], target: NDArray[np.float64], curvature: NDArray[np.float64]
) -> _Branches:
    """For latents by themselves; targets and curvature in steps."""
    tables = trellis_tables()
    distance, weight = np.abs(target) / STEP, curvature * STEP**2
    costs, symbols = np.empty((4, len(rows))), np.empty((4, len(rows)), np.int64)
    for quantiser in (0, 1):
        row = 2 * (rows - FIRST_ROW) + quantiser
        reach = -tables.first[row]

        def price(
            k: NDArray[np.int64],
            row: NDArray[np.int64] = row,
            quantiser: int = quantiser,
        ) -> NDArray[np.float64]:
            error = 2.0 * k - quantiser * (k > 0) - distance
            result: NDArray[np.float64] = tables.bits(row, k)[0] + weight * error * error
            return result

        nearest = (distance + quantiser) / 2.0
        for parity in (0, 1):
            last = reach - ((reach - parity) & 1)  # a table holds as far, in this parity
            best = np.clip(2 * np.rint((nearest - parity) / 2.0) + parity, parity, last)
            best = best.astype(np.int64)
            least = price(best)
            # One closer to zero may cost less; only an escape reaches beyond a table.
            further_in = np.maximum(best - 2, parity)
            others = [further_in]
            if parity == 0 and (nearest > reach).any():
                others.append(np.maximum(np.rint(nearest).astype(np.int64), reach + 1))
            for other in others:
                found = price(other)
                best = np.where(found < least, other, best)
                least = np.minimum(found, least)
            costs[2 * quantiser + parity] = least
            symbols[2 * quantiser + parity] = np.where(target < 0, -best, best)
    return _Branches(costs, symbols)


def cheapest_path(
    trellis: Trellis, target: NDArray[np.float64], curvature: NDArray[np.float64]
) -> NDArray[np.int32]:
    """Symbols of the least bits + curvature · (ŷ − target)², for latents that a trellis codes.

    Viterbi's algorithm, in all lanes at once.

    Parameters
    ----------
    trellis
        Trellis of a plane.
    target
        Latents in steps from the centre, in the shape of the plane.
    curvature
        Bits per squared step, positive, in the shape of the plane.

    Returns
    -------
    NDArray
        Flat, in the order of the trellis's lanes.
    """
    where, starts = trellis.lanes
    if not len(where):
        return np.zeros(0, np.int32)
    rows = trellis.rounded.rows.ravel()[where]
    costs, symbols = _branches(rows, target.ravel()[where], curvature.ravel()[where])
    total = np.full((STATES, starts[1]), np.inf)
    total[0] = 0.0
    second = np.empty((STATES, len(where)), np.bool_)
    for start, stop in pairwise(starts):
        live = total[:, : stop - start]
        ways = live[_FROM] + costs[_COSTS_FROM, start:stop]
        np.less(ways[1], ways[0], out=second[:, start:stop])
        total[:, : stop - start] = ways.min(0)
    state = total.argmin(0)
    found = np.empty(len(where), np.int32)
    for start, stop in zip(starts[-2::-1], starts[:0:-1], strict=True):
        now = state[: stop - start]
        way = second[now, np.arange(start, stop)].astype(np.int64)
        found[start:stop] = symbols[_COSTS_FROM[way, now], np.arange(start, stop)]
        state[: stop - start] = _FROM[way, now]
    return found


@dataclass(frozen=True)
class TrellisCoded:
    """Trellis-coded quantisation as a channel, for latents that are taken for Gaussian.

    What ``--trellis`` writes into a stream, at its ideal code length. A plane of latents goes
    through together, (C, …).
    """

    def __call__(self, y: Tensor, density: Density, noise: Noise) -> Crossing:
        """Choose symbols near y, and charge their code lengths."""
        known = density.gaussian()
        octaves = torch.log2(known.sigma.double()) - LOG2_SIGMA_MIN
        rows = torch.round(octaves * ROWS_PER_OCTAVE).clamp(0, ROWS - 1).long().numpy()
        trellis = Trellis(Rows(gaussian_tables(), rows))
        residual = (y.double() - known.mu.double()).numpy()
        symbols = near(trellis, residual)
        received = torch.from_numpy(trellis.residual(symbols)).to(y.dtype)
        bits = torch.from_numpy(trellis.bits(symbols)).to(y.dtype)
        return Crossing(received + known.mu, bits)


def near(trellis: Trellis, residual: NDArray[np.float64]) -> NDArray[np.int32]:
    """Symbols near y − centre, in steps, where nothing is known of the picture.

    Raises
    ------
    CodecError
        If a value is not finite.
    """
    symbols = integer_symbols(torch.from_numpy(residual)).ravel()
    residual = residual.clip(-_FARTHEST, _FARTHEST)
    symbols[trellis.lanes.where] = cheapest_path(trellis, residual, np.full(residual.shape, _NEAR))
    return symbols.reshape(residual.shape)
