"""The normal distribution in integers, the same on every machine.

What a coder's tables hold must not depend on how a library computes an exponential. Here roots are
integer square roots, and Φ is summed up from a density that a recurrence of whole numbers yields.
"""

from __future__ import annotations

import math
from functools import cache

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "LOG2_SIGMA_MAX",
    "LOG2_SIGMA_MIN",
    "PHI_BITS",
    "POSITION_BITS",
    "ROWS",
    "ROWS_PER_OCTAVE",
    "cumulative",
    "exponentials",
    "power_of_two",
    "reciprocal_scale",
]

#: Range of log₂ σ, in quantisation steps, that tables cover.
LOG2_SIGMA_MIN, LOG2_SIGMA_MAX = -4, 8
#: Tables per octave of σ. The nearest one costs at most 1/3000 of a bit per latent.
ROWS_PER_OCTAVE = 16
ROWS = (LOG2_SIGMA_MAX - LOG2_SIGMA_MIN) * ROWS_PER_OCTAVE + 1

#: Φ is given in units of 2^−PHI_BITS.
PHI_BITS = 38
#: Positions are given in units of 2^−POSITION_BITS standard deviations.
POSITION_BITS = 32
_KNOTS_PER_DEVIATION_BITS = 12
_REACH = 8  # beyond so many deviations Φ is 0 or 1
_FRACTION_BITS = POSITION_BITS - _KNOTS_PER_DEVIATION_BITS
_WORK_BITS = 160


@cache
def power_of_two(numerator: int, denominator_bits: int, scale_bits: int) -> int:
    """⌊2^(numerator / 2^denominator_bits) · 2^scale_bits⌋ but for its last unit.

    By repeated integer square roots of 2, one for each binary digit of the exponent.
    """
    whole, fraction = divmod(numerator, 1 << denominator_bits)
    product, root = 1 << _WORK_BITS, 2 << _WORK_BITS
    for bit in reversed(range(denominator_bits)):
        root = math.isqrt(root << _WORK_BITS)
        if fraction >> bit & 1:
            product = product * root >> _WORK_BITS
    shift = _WORK_BITS - scale_bits - whole
    return product >> shift if shift >= 0 else product << -shift


@cache
def reciprocal_scale(row: int, scale_bits: int) -> int:
    """1/σ of a row, in units of 2^−scale_bits."""
    sixteenths = -(LOG2_SIGMA_MIN * ROWS_PER_OCTAVE + row)
    return power_of_two(sixteenths, ROWS_PER_OCTAVE.bit_length() - 1, scale_bits)


def _exponential(x: int) -> int:
    """e^−x for x ≥ 0, both in units of 2^−_WORK_BITS, by its series."""
    term = total = 1 << _WORK_BITS
    for n in range(1, 200):
        term = -(term * x >> _WORK_BITS) // n
        total += term
    return total


@cache
def _knots() -> NDArray[np.int64]:
    """Φ at multiples of 2^−12 deviations from 0 to 8, in units of 2^−PHI_BITS.

    φ(t + h)/φ(t) falls by the factor e^(−h²) from one knot to the next. The trapezoidal sum of φ is
    Φ but for h²/12 · φ′ and terms of fourth order.
    """
    per_deviation = 1 << _KNOTS_PER_DEVIATION_BITS
    one = 1 << _WORK_BITS
    ratio = _exponential(one >> (2 * _KNOTS_PER_DEVIATION_BITS + 1))  # e^(−h²/2)
    falls = ratio * ratio >> _WORK_BITS
    density, knots, total = one, [0], 0
    slopes = [0]  # of φ, as t φ
    for k in range(1, _REACH * per_deviation + 1):
        following = density * ratio >> _WORK_BITS
        ratio = ratio * falls >> _WORK_BITS
        total += (density + following) >> 1
        density = following
        knots.append(total)
        slopes.append(density * k // per_deviation)
    # ∫φ from 0 in units of h/√(2π); the constant is found from Φ(8) − ½ = ½ − 6·10⁻¹⁶.
    corrected = [
        area + slope // (12 * per_deviation) for area, slope in zip(knots, slopes, strict=True)
    ]
    half = 1 << (PHI_BITS - 1)
    return np.array([half + half * area // corrected[-1] for area in corrected], dtype=np.int64)


def cumulative(position: NDArray[np.int64]) -> NDArray[np.int64]:
    """Φ in units of 2^−PHI_BITS, at positions in units of 2^−POSITION_BITS deviations.

    Rises with its argument, and Φ(−t) = 1 − Φ(t) holds exactly.
    """
    knots = _knots()
    distance = np.minimum(np.abs(position), (_REACH << POSITION_BITS) - 1)
    at = distance >> _FRACTION_BITS
    fraction = distance & ((1 << _FRACTION_BITS) - 1)
    low = knots[at]
    upper = low + ((knots[at + 1] - low) * fraction >> _FRACTION_BITS)
    result: NDArray[np.int64] = np.where(position < 0, (1 << PHI_BITS) - upper, upper)
    return result


@cache
def exponentials() -> NDArray[np.int64]:
    """e^(−k/256) for k from 0 to 4095, in units of 2⁻³⁰."""
    ratio = _exponential(1 << (_WORK_BITS - 8))
    values, value = [], 1 << _WORK_BITS
    for _ in range(4096):
        values.append(value >> (_WORK_BITS - 30))
        value = value * ratio >> _WORK_BITS
    return np.array(values, dtype=np.int64)
