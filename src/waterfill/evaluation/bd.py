"""Bjøntegaard deltas in full: range compared, how much of the curves that is, and intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.interpolate import Akima1DInterpolator, PchipInterpolator
from scipy.special import ndtr, stdtrit

from waterfill.errors import CurveError
from waterfill.seeds import check_seed

__all__ = [
    "LEAST_PICTURES",
    "BDResult",
    "Method",
    "bootstrap_interval",
    "compare",
    "mean_difference",
    "sorted_curve",
]

#: How log rate is interpolated between points.
Method = Literal["pchip", "akima"]
#: Below this share of the range that either curve covers, a comparison says so.
_ENOUGH = 0.75
_LEAST_POINTS = 4
#: Resampling fewer pictures gives an interval of a few values: of two, there are three samples.
LEAST_PICTURES = 8
#: Columns are swapped where all of the first is above this and all of the second below. More than
#: 10 bpp at less than 10 dB is no codec's whole curve, in PSNR or in MS-SSIM; rates in other units
#: than bpp stay possible.
_BETWEEN = 10.0
_INTERPOLATORS = {"pchip": PchipInterpolator, "akima": Akima1DInterpolator}


@dataclass(frozen=True)
class BDResult:
    """How far one curve lies from another.

    Attributes
    ----------
    rate_percent
        Mean rate difference at equal quality; negative where the test needs fewer bits.
    quality_db
        Mean difference of quality at equal rate, in dB: BD-PSNR, or of MS-SSIM in dB. NaN where
        the curves share no range of rates.
    interval
        (low, high) of ``rate_percent`` in percent, by resampling pictures; None for mean curves,
        and below :data:`LEAST_PICTURES`.
    range_db, range_bpp
        What both curves cover.
    share
        ``range_db`` as a share of the range of quality that either covers.
    method
        Method of interpolation.
    warnings
        What to know before quoting the figure, a line each.
    """

    rate_percent: float
    quality_db: float
    interval: tuple[float, float] | None
    range_db: tuple[float, float]
    range_bpp: tuple[float, float]
    share: float
    method: Method
    warnings: tuple[str, ...] = field(default=())


def sorted_curve(points: ArrayLike, name: str) -> NDArray[np.float64]:
    """Points (bpp, dB) sorted by quality, as float64 (n, 2).

    Raises
    ------
    CurveError
        If the shape is another, a value is not finite, a rate not positive, or the columns look
        swapped.
    """
    curve = as_points(points, name)
    if curve.ndim != 2 or curve.shape[1] != 2:
        raise CurveError(f"{name} must be an (n, 2) array of (bpp, dB), not {curve.shape}")
    if not np.isfinite(curve).all() or (curve[:, 0] <= 0).any():
        raise CurveError(f"{name} must hold finite values and positive rates")
    rates, qualities = curve.T
    if len(curve) and qualities.max() < _BETWEEN < rates.min():
        raise CurveError(f"{name} looks like (dB, bpp); its columns must be (bpp, dB)")
    return curve[np.lexsort((curve[:, 0], curve[:, 1]))]


def as_points(points: ArrayLike, name: str) -> NDArray[np.float64]:
    """Points as float64; CurveError for what is no array of numbers."""
    try:
        return np.asarray(points, dtype=np.float64)
    except (TypeError, ValueError):
        raise CurveError(f"{name} must be an (n, 2) array of (bpp, dB)") from None


def _prepared(points: ArrayLike, name: str) -> tuple[NDArray[np.float64], list[str]]:
    """A curve with one point for each quality, the cheapest, and what there is to say of it."""
    curve, warnings = sorted_curve(points, name), []
    first = np.append(True, np.diff(curve[:, 1]) > 0)
    if not first.all():
        dropped = int((~first).sum())
        dearer = _points(dropped, "dearer ")
        warnings.append(f"{name}: {dearer} at the quality of another left out")
        curve = curve[first]
    if len(curve) < _LEAST_POINTS:
        raise CurveError(f"{name} has {_points(len(curve))}; BD-rate needs at least four")
    if (np.diff(curve[:, 0]) <= 0).any():
        warnings.append(f"{name}: rate falls somewhere as quality rises")
    return curve, warnings


def _points(number: int, kind: str = "") -> str:
    return f"{number} {kind}point{'' if number == 1 else 's'}"


def mean_difference(
    x1: NDArray[np.float64],
    y1: NDArray[np.float64],
    x2: NDArray[np.float64],
    y2: NDArray[np.float64],
    method: Method = "pchip",
) -> float:
    """Mean of y₂ − y₁ over the range that ascending x₁ and x₂ share; NaN without one."""
    low, high = max(x1[0], x2[0]), min(x1[-1], x2[-1])
    if low >= high:
        return math.nan
    kind = _INTERPOLATORS[method]
    areas = [float(kind(x, y).integrate(low, high)) for x, y in ((x1, y1), (x2, y2))]
    return (areas[1] - areas[0]) / float(high - low)


def _rate_percent(a: NDArray[np.float64], b: NDArray[np.float64], method: Method) -> float:
    difference = mean_difference(a[:, 1], np.log(a[:, 0]), b[:, 1], np.log(b[:, 0]), method)
    return 100.0 * math.expm1(difference)


def _by_rate(curve: NDArray[np.float64]) -> NDArray[np.float64]:
    """The curve sorted by rate, with the best point of each rate."""
    ordered = curve[np.lexsort((-curve[:, 1], curve[:, 0]))]
    kept: NDArray[np.float64] = ordered[np.append(True, np.diff(ordered[:, 0]) > 0)]
    return kept


def compare(
    anchor: ArrayLike,
    test: ArrayLike,
    *,
    method: Method = "pchip",
    resamples: int = 500,
    coverage: float = 0.95,
    seed: int = 0,
) -> BDResult:
    """Bjøntegaard deltas of two curves, and what they rest on.

    Parameters
    ----------
    anchor, test
        Mean curves, (n, 2) arrays of (bpp, dB) in any order; or curves of each picture,
        (pictures, n, 2), whose means are compared. The pictures of two such arrays are the same, in
        the same order, and are resampled together. An anchor that is a mean curve stays as it is.
    method
        ``pchip`` or ``akima``.
    resamples, coverage, seed
        Settings of the bootstrap over pictures.

    Returns
    -------
    BDResult
        Its ``rate_percent`` is that of :func:`~waterfill.evaluation.curves.bd_rate`, for PCHIP.

    Raises
    ------
    CurveError
        Below four points, without overlap, for values that are not finite, or for an unknown
        method or different pictures.
    WaterfillError
        For an invalid seed.

    References
    ----------
    G. Bjøntegaard, "Calculation of average PSNR differences between RD-curves", VCEG-M33, 2001.
    """
    if method not in _INTERPOLATORS:
        raise CurveError(f"no method {method!r} of interpolation; there are pchip and akima")
    seed = check_seed(seed)
    if not 0 < coverage < 1:
        raise CurveError(f"coverage must lie between 0 and 1, not {coverage}")
    stacks = [as_points(points, name) for points, name in ((anchor, "anchor"), (test, "test"))]
    means = [stack.mean(0) if stack.ndim == 3 else stack for stack in stacks]
    (a, said), (b, also) = _prepared(means[0], "anchor"), _prepared(means[1], "test")
    low, high = max(a[0, 1], b[0, 1]), min(a[-1, 1], b[-1, 1])
    if low >= high:
        raise CurveError(
            f"the curves share no range of quality: {a[0, 1]:.2f} … {a[-1, 1]:.2f} dB and "
            f"{b[0, 1]:.2f} … {b[-1, 1]:.2f} dB"
        )
    share = (high - low) / (max(a[-1, 1], b[-1, 1]) - min(a[0, 1], b[0, 1]))
    warnings = said + also
    if share < _ENOUGH:
        warnings.append(f"the curves share {100 * share:.0f} % of the range of quality they cover")
    rates = [_by_rate(curve) for curve in (a, b)]
    bpp = max(r[0, 0] for r in rates), min(r[-1, 0] for r in rates)
    logs = [np.log(r[:, 0]) for r in rates]
    return BDResult(
        _rate_percent(a, b, method),
        mean_difference(logs[0], rates[0][:, 1], logs[1], rates[1][:, 1], method),
        _interval(stacks, method, resamples, coverage, seed, warnings),
        (float(low), float(high)),
        (float(bpp[0]), float(bpp[1])),
        float(share),
        method,
        tuple(warnings),
    )


def _interval(
    stacks: Sequence[NDArray[np.float64]],
    method: Method,
    resamples: int,
    coverage: float,
    seed: int,
    warnings: list[str],
) -> tuple[float, float] | None:
    """Interval of BD-rate, over resampled pictures; None where there are too few."""
    counts = {len(stack) for stack in stacks if stack.ndim == 3}
    if len(counts) > 1:
        raise CurveError(f"anchor and test are of {' and '.join(map(str, counts))} pictures")
    if not counts or min(counts) < LEAST_PICTURES or resamples < 2:
        return None
    (count,) = counts
    if any(stack.ndim == 2 for stack in stacks):
        warnings.append("the interval is of one curve's pictures alone; the other is a mean")
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(resamples):
        chosen = rng.integers(count, size=count)
        try:
            pair = [
                _prepared(stack[chosen].mean(0) if stack.ndim == 3 else stack, "curve")[0]
                for stack in stacks
            ]
        except CurveError:
            continue
        value = _rate_percent(pair[0], pair[1], method)
        if math.isfinite(value):
            found.append(value)
    if len(found) < resamples:
        missing = resamples - len(found)
        warnings.append(f"{missing} of {resamples} resamples could not be compared")
    if len(found) < 2:
        return None
    return bootstrap_interval(found, count, coverage)


def bootstrap_interval(
    resampled: ArrayLike, count: int, coverage: float = 0.95
) -> tuple[float, float]:
    """(low, high) of a bootstrap: percentiles farther out, by as much as pictures are few.

    The law of resampled means is that of the mean, but too narrow: its variance divides by n and
    not n − 1, and it is as if the variance were known. So the share left out at either end is
    Φ(−t·√(n/(n − 1))) with Student's t of n − 1 degrees of freedom: for Gaussian means this is
    Student's interval. Unlike an interval stretched about its middle it never leaves the values
    that resamples take, and is the same in any monotone scale.

    Parameters
    ----------
    resampled
        A value of each resample.
    count
        Pictures n, at least two, that each resample draws.
    coverage
        Share of cases in which the true value lies inside.

    References
    ----------
    T. C. Hesterberg, "What teachers should know about the bootstrap: resampling in the
    undergraduate statistics curriculum", The American Statistician 69(4), 2015: the expanded
    percentile interval.
    """
    farther = math.sqrt(count / (count - 1)) * float(stdtrit(count - 1, 0.5 * (1.0 - coverage)))
    tail = 100.0 * float(ndtr(farther))
    # Between ranks as an unbiased estimate of so far a tail wants it: numpy's own lies inside.
    ends = np.percentile(np.asarray(resampled, float), [tail, 100.0 - tail], method="weibull")
    low, high = ends
    return float(low), float(high)
