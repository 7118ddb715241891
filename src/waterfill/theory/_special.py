"""Remainders of the gamma and digamma functions after their leading logarithms."""

from __future__ import annotations

import numpy as np

from ._arrays import FloatArray

# From here on the asymptotic series below are exact to rounding.
_LARGE = 16.0

# B_2k / (2k (2k - 1)) and B_2k / (2k), for powers x^(1 - 2k) and x^(-2k).
_STIRLING = (1 / 12, -1 / 360, 1 / 1260, -1 / 1680, 1 / 1188, -691 / 360360, 1 / 156)
_DIGAMMA = (1 / 12, -1 / 120, 1 / 252, -1 / 240, 1 / 132, -691 / 32760, 1 / 12)


def _series(x: FloatArray, coefficients: tuple[float, ...]) -> FloatArray:
    square = 1.0 / (x * x)
    total = np.zeros_like(x)
    for c in reversed(coefficients):
        total = total * square + c
    return total


def stirling_remainder(x: FloatArray) -> FloatArray:
    """ln Γ(x) - [(x - ½) ln x - x + ½ ln 2π] for x > 0, which is about 1/(12x).

    The leading terms of the quantities here cancel exactly; taking ln Γ itself would leave no
    digit of a price that is 1e-7 of it.
    """
    x = x.copy()
    remainder = np.zeros_like(x)
    while np.any(small := x < _LARGE):
        y = x[small]
        remainder[small] += (y + 0.5) * np.log1p(1.0 / y) - 1.0
        x[small] += 1.0
    return np.asarray(remainder + _series(x, _STIRLING) / x)


def digamma_minus_log(x: FloatArray) -> FloatArray:
    """ψ(x) - ln x for x > 0, which is about -1/(2x)."""
    x = x.copy()
    value = np.zeros_like(x)
    while np.any(small := x < _LARGE):
        y = x[small]
        value[small] += np.log1p(1.0 / y) - 1.0 / y
        x[small] += 1.0
    return np.asarray(value - 0.5 / x - _series(x, _DIGAMMA) / (x * x))
