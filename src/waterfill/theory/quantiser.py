"""The uniform scalar quantiser of a Gaussian variable, exactly, and its gap to Shannon."""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from ._arrays import (
    LN2,
    FloatArray,
    FloatOrArray,
    as_floats,
    broadcast,
    scalar_or_array,
)
from .gaussian import half_log2_ratio
from .normal import normal_interval

__all__ = ["HIGH_RATE_GAP", "quantiser_entropy", "quantiser_mse", "rate_gap"]

HIGH_RATE_GAP = float(0.5 * np.log2(2.0 * np.pi * np.e / 12.0))
"""½ log2(2πe/12) = 0.2546 bit: entropy of rounding above the Gaussian R(D), in the limit of high
rate ("A Theoretical Framework for Rate-Distortion Limits in Learned Image Compression",
appendix B, eq. 23)."""

# Standard deviations kept on either side: the rest holds 1e-23 of the probability.
_TAIL = 10.0
# From this many steps per standard deviation on, the next term of the series is below rounding.
_FINE = 1000.0
# Values per block of the (variance, bin) table, to bound its memory.
_BLOCK = 1 << 20


def _arguments(
    variance: npt.ArrayLike, step: npt.ArrayLike, offset: npt.ArrayLike
) -> tuple[tuple[int, ...], FloatArray, FloatArray, FloatArray]:
    """Shape, σ and offset in steps (offset in [-½, ½]), and the step; all flat."""
    v, s, o = broadcast(
        variance=as_floats(variance, "variance", minimum=0.0),
        step=as_floats(step, "step", minimum=0.0, strict=True),
        offset=as_floats(offset, "offset"),
    )
    shift = o / s
    return v.shape, (np.sqrt(v) / s).ravel(), (shift - np.round(shift)).ravel(), s.ravel()


class _Sums(NamedTuple):
    """Sums over all bins, one per variance."""

    bits: FloatArray
    """Entropy."""
    error: FloatArray
    """Squared error of the centres, in squared steps. Exact only for small variances."""
    gain: FloatArray
    """How much less the centroids make it."""


def _sum_over_bins(sigma: FloatArray, shift: FloatArray) -> _Sums:
    """Sum bins directly, for 0 < σ < 1000 in steps.

    Rows of like width share one table, so a mixture of very different σ costs no padding.
    """
    sums = _Sums(np.zeros_like(sigma), np.zeros_like(sigma), np.zeros_like(sigma))
    needed = np.maximum(np.ceil(_TAIL * sigma) + 1.0, 2.0)
    octave = np.ceil(np.log2(needed)).astype(int)
    for each in np.unique(octave):
        half = 1 << int(each)
        index = np.arange(-half, half + 1)
        rows = np.flatnonzero(octave == each)
        for some in np.array_split(rows, 1 + rows.size * index.size // _BLOCK):
            for total, part in zip(sums, _table(sigma[some], shift[some], index), strict=True):
                total[some] = part
    return sums


def _table(sigma: FloatArray, shift: FloatArray, index: npt.NDArray[np.int_]) -> _Sums:
    scale, centre = sigma[:, np.newaxis], index + shift[:, np.newaxis]
    edges = (np.append(index - 0.5, index[-1] + 0.5) + shift[:, np.newaxis]) / scale
    p = normal_interval(edges[:, :-1], edges[:, 1:])
    # The bin around zero may hold nearly everything. One minus the others is more exact there.
    middle = index.size // 2
    others = p[:, :middle].sum(axis=1) + p[:, middle + 1 :].sum(axis=1)
    rest = np.delete(p, middle, axis=1)
    information = -(rest * np.log2(np.where(rest > 0.0, rest, 1.0))).sum(axis=1)
    p[:, middle] = 1.0 - others
    bits = information - (1.0 - others) * np.log1p(-others) / LN2

    # Moments of each bin: ∫yφ from the density at its edges, ∫y²φ likewise by parts.
    with np.errstate(over="ignore"):
        density = np.exp(-0.5 * edges * edges) / np.sqrt(2.0 * np.pi)
    first = scale * (density[:, :-1] - density[:, 1:])
    slope = edges * density
    second = scale * scale * (p - (slope[:, 1:] - slope[:, :-1]))
    error = (second - 2.0 * centre * first + centre * centre * p).sum(axis=1)
    # A bin too far out to divide by its probability adds nothing.
    gain = np.divide((first - centre * p) ** 2, p, out=np.zeros_like(p), where=p > 1e-290)
    return _Sums(bits, error, gain.sum(axis=1))


def quantiser_entropy(
    variance: npt.ArrayLike, step: npt.ArrayLike = 1.0, offset: npt.ArrayLike = 0.0
) -> FloatOrArray:
    """Entropy of a uniformly quantised N(0, v), what an ideal entropy coder pays.

    Parameters
    ----------
    variance : array_like
        v >= 0.
    step : array_like
        Width of a bin, positive, in the unit of √v.
    offset : array_like
        Shifts the grid: bin k is [(k - ½) step + offset, (k + ½) step + offset]. At 0 this is
        rounding, at half a step a quantiser with an edge at zero. All three are broadcast.

    Returns
    -------
    float or ndarray
        H in bits per sample.

    Raises
    ------
    ValueError
        If an argument is NaN or out of range, or the shapes do not broadcast.

    Notes
    -----
    The mean of eq. 4 of "A Theoretical Framework for Rate-Distortion Limits in Learned Image
    Compression" for a calibrated model, summed over all bins. Above a thousand steps per standard
    deviation, ½ log2(2πe v/step²) + step²/(24 v ln 2) takes the place of the sum.
    """
    shape, sigma, shift, _ = _arguments(variance, step, offset)
    bits = np.zeros_like(sigma)
    # A variable without variance on an edge is still in one bin or the other: no information.
    direct = (sigma > 0.0) & (sigma < _FINE)
    bits[direct] = _sum_over_bins(sigma[direct], shift[direct]).bits
    fine = sigma >= _FINE
    s = sigma[fine]
    bits[fine] = 0.5 * np.log2(2.0 * np.pi * np.e) + np.log2(s) + 1.0 / (24.0 * LN2 * s * s)
    return scalar_or_array(bits.reshape(shape))


def quantiser_mse(
    variance: npt.ArrayLike,
    step: npt.ArrayLike = 1.0,
    offset: npt.ArrayLike = 0.0,
    *,
    centroid: bool = False,
) -> FloatOrArray:
    """Mean squared error of a uniformly quantised N(0, v).

    Parameters
    ----------
    variance, step, offset : array_like
        As for `quantiser_entropy`.
    centroid : bool
        Reconstruct each bin at its mean rather than its centre, which is best for this step.

    Returns
    -------
    float or ndarray
        E(y - Q(y))², in the unit of the variance. It tends to step²/12 for large variance and,
        without offset, to v for small.

    Raises
    ------
    ValueError
        If an argument is NaN or out of range, or the shapes do not broadcast.

    Notes
    -----
    The squared error is a periodic function of y, so its mean follows from its Fourier series:
    step²/12 + (step/π)² Σ_m (-1)^m/m² cos(2πm offset/step) exp(-2π²m²v/step²). For small variance,
    where that cancels, and for centroids the bins are summed instead. "A Theoretical Framework
    for Rate-Distortion Limits in Learned Image Compression", eq. 20, is the limit.
    """
    shape, sigma, shift, width = _arguments(variance, step, offset)
    error = shift * shift  # all there is without variance
    smooth = sigma >= 0.5
    s, o = sigma[smooth], shift[smooth]
    total = np.full(s.shape, 1.0 / 12.0)
    for m in range(1, 5):
        wave = np.cos(2.0 * np.pi * m * o) * np.exp(-2.0 * (np.pi * m * s) ** 2)
        total += (-1.0) ** m * wave / (np.pi * m) ** 2
    error[smooth] = total
    direct = (sigma > 0.0) & (sigma < (_FINE if centroid else 0.5))
    if direct.any():
        sums = _sum_over_bins(sigma[direct], shift[direct])
        error[direct] = np.where(smooth[direct], error[direct], sums.error)
        if centroid:
            error[direct] -= sums.gain
    if centroid:
        fine = sigma >= _FINE
        error[fine] -= 1.0 / (144.0 * sigma[fine] ** 2)  # a bin's mean is off centre by y/12σ²
        error[sigma == 0.0] = 0.0
    return scalar_or_array((error * width * width).reshape(shape))


def rate_gap(
    variance: npt.ArrayLike,
    *,
    distortion: npt.ArrayLike | None = None,
    match: Literal["fixed", "mse"] = "fixed",
) -> FloatOrArray:
    """How much more rounding to integers costs than the Gaussian rate-distortion function.

    Parameters
    ----------
    variance : array_like
        v >= 0 of the rounded N(0, v).
    distortion : array_like, optional
        D > 0 at which R(D) is taken for ``match="fixed"``; 1/12 if left out, the error of
        rounding at high rate. Broadcast against `variance`.
    match : {"fixed", "mse"}
        "fixed" compares as the paper does. That is unfair to rounding at small variance, where
        its error is below 1/12; "mse" takes R(D) at the error that rounding really makes.

    Returns
    -------
    float or ndarray
        H(round y) - R(D) in bits; `HIGH_RATE_GAP` in the limit of large variance. "mse" is never
        negative.

    Raises
    ------
    ValueError
        If an argument is NaN or out of range, `match` is unknown, or `distortion` is given along
        with ``match="mse"``.

    Notes
    -----
    "A Theoretical Framework for Rate-Distortion Limits in Learned Image Compression", figure 2
    and eqs. 4 and 5.
    """
    if match not in ("fixed", "mse"):
        raise ValueError(f'match must be "fixed" or "mse", not {match!r}')
    if match == "mse" and distortion is not None:
        raise ValueError('distortion is for match="fixed"; match="mse" finds its own')
    v = as_floats(variance, "variance", minimum=0.0)
    if match == "mse":
        d = np.asarray(quantiser_mse(v))
    else:
        given = 1.0 / 12.0 if distortion is None else distortion
        v, d = broadcast(
            variance=v, distortion=as_floats(given, "distortion", minimum=0.0, strict=True)
        )
    return scalar_or_array(quantiser_entropy(v) - half_log2_ratio(v, d))
