"""Where the entropy model of trellis-coded quantisation has its limits, fitted to photographs.

    python benchmarks/trellis.py PHOTOGRAPHS

Crops of every so many photographs are quantised by the bundled codec's trellis at four qualities.
For latents of each octave of σ and each quantiser, prints the half-width of zero and the shift of
the other limits (in Δ/64) that code their symbols in the fewest bits, the bits of these, of the
limits as they are, and the empirical entropy, which no table can beat.
"""

from __future__ import annotations

import argparse
from collections import defaultdict

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import ndtr

import waterfill as wf
from waterfill.bitstream import Trellis
from waterfill.bitstream.trellis import FIRST_ROW, STEP
from waterfill.data.images import find_images, load_picture

QUALITIES = (2.0, 4.0, 6.0, 8.0)
_CROP = 256
#: Symbols that say something.
_FEWEST = 5000


def code_length(
    counts: dict[int, NDArray[np.int64]], quantiser: int, zero: float, beyond: float
) -> float:
    """Mean bits of |symbols|, signs included; with how many counts, by row of σ."""
    bits = 0.0
    for row, count in counts.items():
        k = np.arange(len(count))
        limits = np.where(k == 0, zero, 64.0 * (2 * k + 1 - quantiser) + beyond) / 64.0
        outer = ndtr(limits * STEP * 2.0 ** (4 - row / 16))
        masses = np.diff(outer, prepend=0.5)
        masses[0] *= 2.0
        bits += float(count @ -np.log2(np.maximum(masses, 2.0**-24)))
    return bits / sum(int(count.sum()) for count in counts.values())


def entropy(counts: dict[int, NDArray[np.int64]]) -> float:
    """The same by the best tables that there could be."""
    bits = 0.0
    for count in counts.values():
        some = count[count > 0]
        bits += float(-(some * np.log2(some / count.sum())).sum() + count[1:].sum())
    return bits / sum(int(count.sum()) for count in counts.values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("photographs", nargs="+")
    parser.add_argument("--every", type=int, default=80, help="Of the photographs, one in so many.")
    arguments = parser.parse_args()
    codec = wf.load_codec()
    seen: dict[tuple[int, int], list[NDArray[np.int64]]] = defaultdict(list)
    spent: dict[tuple[int, int], float] = defaultdict(float)
    for path in find_images(arguments.photographs)[:: arguments.every]:
        pixels = np.ascontiguousarray(load_picture(path).pixels[:_CROP, :_CROP])
        for quality in QUALITIES:
            for tile in codec.tiles(pixels, quality, trellis=True):
                for _, plane in tile.quantised.planes:
                    trellis = plane.distribution
                    assert isinstance(trellis, Trellis)
                    where, flat = trellis.lanes.where, plane.symbols.ravel()
                    rows, turns = trellis.rounded.rows.ravel()[where], trellis.turns(flat)
                    bits = trellis.bits(plane.symbols).ravel()[where]
                    for row in np.unique(rows):
                        for turn in (0, 1):
                            here = (rows == row) & (turns == turn)
                            seen[int(row), turn].append(np.abs(flat[where][here]).astype(np.int64))
                            spent[int(row), turn] += float(bits[here].sum())
    for octave in range(FIRST_ROW // 16, 1 + max(row for row, _ in seen) // 16):
        for turn in (0, 1):
            rows_here = [row for row in range(16 * octave - 8, 16 * octave + 8) if seen[row, turn]]
            counts = {row: np.bincount(np.concatenate(seen[row, turn])) for row in rows_here}
            number = sum(int(count.sum()) for count in counts.values())
            if number < _FEWEST:
                continue
            found = minimize(
                lambda p, c=counts, t=turn: code_length(c, t, *p),
                (58.0 - 26.0 * turn, 10.0),
                method="Nelder-Mead",
            )
            print(
                f"σ {2.0 ** (octave - 4):g}, Q{turn}: zero ± {found.x[0]:.0f}, beyond "
                f"{found.x[1]:+.0f}; {found.fun:.4f} bits fitted, "
                f"{sum(spent[row, turn] for row in rows_here) / number:.4f} as it is, "
                f"{entropy(counts):.4f} entropy, {number} symbols",
                flush=True,
            )


if __name__ == "__main__":
    main()
