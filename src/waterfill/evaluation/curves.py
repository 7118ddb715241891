"""Rate–distortion curves: reading one at a PSNR, and the mean distance of two."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike
from scipy.interpolate import PchipInterpolator

from waterfill.evaluation.bd import CurveError, mean_difference, sorted_curve

__all__ = ["bd_rate", "rate_at_psnr"]


def bd_rate(anchor: ArrayLike, test: ArrayLike) -> float:
    """Bjøntegaard delta rate: mean rate difference at equal PSNR, in percent.

    Parameters
    ----------
    anchor, test
        (n, 2) arrays of (bpp, dB), at least four points each, in any order.

    Returns
    -------
    float
        Negative where ``test`` needs fewer bits than ``anchor``. Log rate is interpolated over
        PSNR by PCHIP, and averaged over the PSNR range that both curves cover.

    Raises
    ------
    CurveError
        Below four points, without overlap, for values that are not finite, or where two points
        of a curve share a PSNR. :func:`~waterfill.evaluation.bd.compare` says more, and allows
        for the last.
    """
    curves = [sorted_curve(anchor, "anchor"), sorted_curve(test, "test")]
    for name, curve in zip(("anchor", "test"), curves, strict=True):
        if len(curve) < 4:
            raise CurveError(f"{name} has {len(curve)} points; BD-rate needs at least four")
        if (np.diff(curve[:, 1]) <= 0).any():
            raise CurveError(f"{name} has two points at one PSNR")
    (a, b) = curves
    difference = mean_difference(a[:, 1], np.log(a[:, 0]), b[:, 1], np.log(b[:, 0]))
    if math.isnan(difference):
        raise CurveError("the curves share no range of PSNR")
    return 100.0 * math.expm1(difference)


def rate_at_psnr(
    rates: Sequence[float], psnrs: Sequence[float], psnr: float, slopes: Sequence[float]
) -> float:
    """Rate of a curve at a PSNR, in the unit of ``rates``.

    Inside the curve log rate is interpolated by PCHIP. Outside, or where there is but one point,
    it goes on along the given slope from the nearest point.

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
