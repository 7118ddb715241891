"""Rate–distortion curves: reading one at a PSNR, and the mean distance of two."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike
from scipy.interpolate import PchipInterpolator

from waterfill.evaluation.bd import compare

__all__ = ["bd_rate", "rate_at_psnr"]


def bd_rate(anchor: ArrayLike, test: ArrayLike) -> float:
    """Bjøntegaard delta rate: mean rate difference at equal PSNR, in percent.

    Parameters
    ----------
    anchor, test
        (n, 2) arrays of (bpp, dB), at least four points each, in any order. Of points at one PSNR
        the cheapest counts.

    Returns
    -------
    float
        Negative where ``test`` needs fewer bits than ``anchor``. Log rate is interpolated over
        PSNR by PCHIP, and averaged over the PSNR range that both curves cover.

    Raises
    ------
    CurveError
        Below four points, without overlap, for values that are not finite, or columns that look
        swapped. :func:`~waterfill.evaluation.bd.compare` says more, and gives intervals.
    """
    return compare(anchor, test, resamples=0).rate_percent


def rate_at_psnr(
    rates: Sequence[float], psnrs: Sequence[float], psnr: float, slopes: Sequence[float]
) -> float:
    """Rate of a curve at a PSNR, in the unit of ``rates``.

    Inside the curve log rate is interpolated by PCHIP. Outside, or where there is but one point,
    it is extrapolated along the given slope from the nearest point.

    Parameters
    ----------
    rates, psnrs
        The points, rates positive, PSNR in dB and distinct, in any order.
    psnr
        Where to read.
    slopes
        d ln(rate) / d PSNR at each point, from the λ the codec works at.
    """
    order = np.argsort(psnrs, kind="stable")
    x, y = np.asarray(psnrs, float)[order], np.log(np.asarray(rates, float)[order])
    ends = np.asarray(slopes, float)[order]
    if psnr <= x[0]:
        return math.exp(y[0] + ends[0] * (psnr - x[0]))
    if psnr >= x[-1]:
        return math.exp(y[-1] + ends[-1] * (psnr - x[-1]))
    return math.exp(float(PchipInterpolator(x, y)(psnr)))
