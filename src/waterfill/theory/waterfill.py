"""Reverse water-filling: sharing a distortion or a rate among independent Gaussian components."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ._arrays import FloatArray, as_floats, as_real

__all__ = ["ReverseWaterfill", "reverse_waterfill"]

# 2^15 float64 values are 256 KiB: a chunk and its scratch buffers stay in a level-2 cache.
_CHUNK = 1 << 15
_SAMPLE = 1 << 15

# A sample brackets the level to this many standard errors. A miss costs time, not correctness.
_STANDARD_ERRORS = 5.0

# One component cannot hold more bits than the exponents of float64 span, 2^1024 / 2^-1074.
_MOST_BITS_PER_COMPONENT = 1050.0


class ReverseWaterfill(NamedTuple):
    """How a budget is shared: ``level, distortions, bits = reverse_waterfill(...)``."""

    level: float
    """The water level θ, in the units of weight x variance."""
    distortions: FloatArray
    """D_i = min(θ / w_i, v_i), of the shape of the variances."""
    bits: float
    """Total rate Σ max(0, ½ log2(w_i v_i / θ)), in bits."""


class _Piece(NamedTuple):
    """A piecewise linear function at one point: value, and slope as a count of components."""

    value: float
    active: int


class _Bracket(NamedTuple):
    """All that sums over every component need, for levels in [low, high].

    Components at or below `low` are full and those at or above `high` are cut at any such level,
    so only the ones between have to be kept.
    """

    low: float
    high: float
    held: float
    """Σ min(low, u) over all components."""
    excess: float
    """Σ max(0, log2 u - log2 high) over all components."""
    above: int
    """How many u >= high."""
    inside: FloatArray
    """The u with low < u < high."""


def _survey(x: FloatArray) -> tuple[float, float, float]:
    """Minimum, maximum and sum in one pass; NaN if any element is."""
    lowest, highest, total = np.inf, -np.inf, 0.0
    with np.errstate(over="ignore", invalid="ignore"):
        for start in range(0, x.size, _CHUNK):
            chunk = x[start : start + _CHUNK]
            lowest = np.minimum(lowest, chunk.min())
            highest = np.maximum(highest, chunk.max())
            total += chunk.sum()
    return float(lowest), float(highest), float(total)


def _gather(
    u: FloatArray, low: float, high: float, peak: float, *, need_held: bool = True
) -> _Bracket:
    """Reduce all components, of which `peak` is the largest, to a bracket in one pass.

    A rate does not depend on what is held; leaving it out saves a fifth of the time.
    """
    size = min(u.size, _CHUNK)
    scratch, is_above, is_inside = np.empty(size), np.empty(size, bool), np.empty(size, bool)
    # NumPy's minimum is faster against a second array in cache than against a number.
    lows, ones = np.full(size, low), np.ones(size)
    if high >= peak or high < max(peak, 1.0) * 2.0**-1000:
        high = np.inf  # none above, or the ratios u / high would overflow: keep them inside
    # A logarithm is dear, so take it of products, of as many factors as cannot overflow.
    ratio = peak / high if high < np.inf else 1.0
    factors = int(np.clip(1000.0 / max(np.log2(ratio), 1.0), 1.0, 16.0))
    held, excess, above, inside = 0.0, 0.0, 0, []
    for start in range(0, u.size, _CHUNK):
        chunk = u[start : start + _CHUNK]
        k = chunk.size
        if need_held and low > 0.0:
            held += float(np.minimum(chunk, lows[:k], out=scratch[:k]).sum())
        np.greater(chunk, low, out=is_inside[:k])
        if high < np.inf:
            np.multiply(chunk, 1.0 / high, out=scratch[:k])
            np.maximum(scratch[:k], ones[:k], out=scratch[:k])
            whole = k - k % factors
            products = np.multiply.reduce(scratch[:whole].reshape(factors, -1), axis=0)
            excess += float(np.log2(products, out=products).sum())
            excess += float(np.log2(scratch[whole:k]).sum())
            np.greater_equal(chunk, high, out=is_above[:k])
            above += int(np.count_nonzero(is_above[:k]))
            np.not_equal(is_inside[:k], is_above[:k], out=is_inside[:k])
        inside.append(chunk[np.flatnonzero(is_inside[:k])])
    kept = np.concatenate(inside) if inside else u[:0]
    return _Bracket(low, high, held, excess, above, kept)


def _water_held(u: FloatArray, level: float) -> _Piece:
    """Σ min(level, u), and how many u lie above the level: the slope."""
    scratch = np.empty(min(u.size, _CHUNK))
    value, active = 0.0, 0
    for start in range(0, u.size, _CHUNK):
        chunk = u[start : start + _CHUNK]
        value += float(np.minimum(chunk, level, out=scratch[: chunk.size]).sum())
        active += int(np.count_nonzero(chunk > level))
    return _Piece(value, active)


def _excess(x: FloatArray, level: float) -> _Piece:
    """Σ max(0, x - level), and how many x lie above the level: minus the slope."""
    scratch = np.empty(min(x.size, _CHUNK))
    value, active = 0.0, 0
    for start in range(0, x.size, _CHUNK):
        chunk = x[start : start + _CHUNK]
        part = np.subtract(chunk, level, out=scratch[: chunk.size])
        value += float(np.maximum(part, 0.0, out=part).sum())
        active += int(np.count_nonzero(part))
    return _Piece(value, active)


def _newton(shortfall: Callable[[float], _Piece], start: float) -> float:
    """Find where a piecewise linear shortfall, convex and falling with the level, reaches zero.

    `start` lies at or below the root. A tangent of a convex function lies below it, so from there
    Newton's method only rises and never overshoots. It lands on the root once the set of active
    components no longer changes, so neither a sort nor a bisection is needed. In each step the
    ratio of new to old shortfall and the ratio of new to old slope add up to at most one, so one
    of them halves: log2(n) + 53 steps are enough for any variances, and a handful usually is.
    """
    level, piece = start, shortfall(start)
    while piece.active:
        active, following = piece.active, level + piece.value / piece.active
        if following <= level:  # only rounding asks for a step down
            break
        level, piece = following, shortfall(following)
        if piece.active == active:
            # The tangent that led here is the function itself, so this is the root, but for the
            # rounding of a step that may have come from far away. Take that off.
            return level + piece.value / active
    return level


def _level_for_distortion(part: _Bracket, budget: float) -> float | None:
    """Solve Σ min(θ, u) = budget for θ; None if the bracket does not hold the solution."""
    rising = part.inside.size + part.above
    at_high = part.held + float(part.inside.sum()) - part.low * rising
    if part.above:
        at_high += part.above * part.high
    if budget < part.held or (part.high < np.inf and budget > at_high):
        return None
    target = budget - part.held + part.low * rising

    def shortfall(level: float) -> _Piece:
        value, active = _water_held(part.inside, level)
        return _Piece(target - value - part.above * level, active + part.above)

    return _newton(shortfall, part.low)


def _log2_excess(part: _Bracket, log2_inside: FloatArray, log2_level: float) -> _Piece:
    """Σ max(0, log2 u - log2 θ) over all components: twice the rate in bits."""
    value, active = _excess(log2_inside, log2_level)
    if part.above:
        value += part.excess + part.above * (float(np.log2(part.high)) - log2_level)
    return _Piece(value, active + part.above)


def _log2_level_for_rate(part: _Bracket, peak: float, twice_rate: float) -> float | None:
    """Solve Σ max(0, log2 u - t) = twice_rate for t; None if not in the bracket."""
    log2_inside = np.log2(part.inside)

    def shortfall(log2_level: float) -> _Piece:
        value, active = _log2_excess(part, log2_inside, log2_level)
        return _Piece(value - twice_rate, active)

    if part.excess > twice_rate:
        return None
    if part.low > 0.0 and shortfall(float(np.log2(part.low))).value < 0.0:
        return None
    start = float(np.log2(peak)) - twice_rate  # as if the largest component took it all
    if part.low > 0.0:
        start = max(start, float(np.log2(part.low)))
    return _newton(shortfall, start)


def _everything(u: FloatArray) -> _Bracket:
    return _gather(u, 0.0, np.inf, np.inf)


def _sample_of(u: FloatArray) -> FloatArray | None:
    """Evenly strided components of a large array, to guess a bracket from."""
    return np.ascontiguousarray(u[:: u.size // _SAMPLE]) if u.size >= 4 * _SAMPLE else None


def _margin(x: FloatArray) -> float:
    """How far the sum of a sample may be from its expectation."""
    scale = float(x.max())  # squares overflow where the values do not
    return _STANDARD_ERRORS * math.sqrt(x.size) * float((x / scale).std()) * scale if scale else 0.0


def _solve_distortion(u: FloatArray, peak: float, budget: float) -> tuple[float, float]:
    """Level and bits for 0 < budget < Σ u."""
    sample = _sample_of(u)
    part, level = None, None
    if sample is not None:
        every, total = _everything(sample), float(sample.sum())
        share = budget * (sample.size / u.size)

        def sample_level(amount: float) -> float:
            if amount >= total:
                return np.inf
            return (_level_for_distortion(every, amount) or 0.0) if amount > 0.0 else 0.0

        margin = _margin(np.minimum(sample, sample_level(share)))
        part = _gather(u, sample_level(share - margin), sample_level(share + margin), peak)
        level = _level_for_distortion(part, budget)
    if part is None or level is None:
        part = _everything(u)
        level = _level_for_distortion(part, budget)
        assert level is not None
    if level == 0.0:  # too small for float64
        return level, np.inf
    return level, 0.5 * _log2_excess(part, np.log2(part.inside), float(np.log2(level))).value


def _solve_rate(u: FloatArray, peak: float, bits: float) -> float:
    """Level for a finite rate > 0 in bits and some u > 0."""
    sample = _sample_of(u)
    log2_level = None
    if sample is not None and sample.any():
        every, sample_peak = _everything(sample), float(sample.max())
        share = 2.0 * bits * (sample.size / u.size)

        def sample_level(amount: float) -> float:
            if amount <= 0.0:
                return np.inf
            return float(np.exp2(_log2_level_for_rate(every, sample_peak, amount) or 0.0))

        guess = max(sample_level(share), np.finfo(np.float64).tiny)
        margin = _margin(np.log2(np.maximum(sample, guess)) - np.log2(guess))
        low, high = sample_level(share + margin), sample_level(share - margin)
        part = _gather(u, low, high, peak, need_held=False)
        log2_level = _log2_level_for_rate(part, peak, 2.0 * bits)
    if log2_level is None:
        log2_level = _log2_level_for_rate(_everything(u), peak, 2.0 * bits)
        assert log2_level is not None
    return float(np.exp2(log2_level))


def _budget(value: float, name: str) -> float:
    array = as_floats(value, name, minimum=0.0, finite=False)
    if array.ndim:
        raise ValueError(f"{name} must be one number, not an array of shape {array.shape}")
    return float(array)


def _distortions(v: FloatArray, w: FloatArray | None, u: FloatArray, level: float) -> FloatArray:
    if w is None:
        return np.minimum(v, level)
    # min(θ, w v)/w would not give back v exactly, and w may be zero.
    shared = v.copy()
    return np.divide(level, w, out=shared, where=u > level)


def reverse_waterfill(
    variances: npt.ArrayLike,
    *,
    distortion: float | None = None,
    rate: float | None = None,
    weights: npt.ArrayLike | None = None,
) -> ReverseWaterfill:
    """Share a distortion or a rate optimally among independent Gaussian components.

    Minimises Σ ½ log2(v_i / D_i) subject to Σ w_i D_i = `distortion` and 0 < D_i <= v_i, or the
    distortion subject to a total `rate`. The optimum is D_i = min(θ / w_i, v_i).

    Parameters
    ----------
    variances : array_like, any shape
        v_i >= 0. Zeros, no component at all and any dynamic range are allowed.
    distortion : float, optional
        Total budget Σ w_i D_i (not the mean), in units of weight x variance. Zero, or a budget
        whose level is too small for float64, gives level 0 and infinite bits, unless every
        variance is zero. Σ w_i v_i or more gives 0 bits and the
        level max(w_i v_i), the lowest one that costs nothing.
    rate : float, optional
        Total rate in bits. Zero gives the level max(w_i v_i); infinity, or a rate whose level is
        too small for float64, gives level 0. Where every variance is zero no bit can be spent,
        and `bits` of the result is 0.
    weights : array_like, optional
        w_i >= 0, broadcast to the shape of the variances; 1 if left out. A component of weight
        zero gets no bits.

    Returns
    -------
    ReverseWaterfill
        ``(level, distortions, bits)``: θ, the array of D_i in the shape of `variances`, and the
        total rate in bits.

    Raises
    ------
    ValueError
        Unless exactly one of `distortion` and `rate` is given; or if a variance, weight or budget
        is NaN, negative or infinite (budgets may be infinite), the weights do not broadcast, or
        Σ w_i v_i overflows.

    Notes
    -----
    "A Theoretical Framework for Rate-Distortion Limits in Learned Image Compression", appendix
    A-C, eq. 18; Cover & Thomas, Elements of Information Theory, 2nd ed., theorem 10.3.3. Both
    budgets are a monotone piecewise linear equation (in θ, or in log2 θ), solved to rounding by
    Newton's method in time linear in the number of components, without sorting them.

    Examples
    --------
    >>> level, distortions, bits = reverse_waterfill([4.0, 1.0, 0.25, 0.25], distortion=1.5)
    >>> level, distortions.tolist(), bits
    (0.5, [0.5, 0.5, 0.25, 0.25], 2.0)
    """
    if (distortion is None) == (rate is None):
        raise ValueError("give exactly one of distortion and rate")
    given = as_real(variances, "variances")
    shape, v = given.shape, given.reshape(-1)
    lowest, peak, total = _survey(v)
    if np.isnan(lowest):
        raise ValueError("variances must not contain NaN")
    if lowest < 0.0:
        raise ValueError(f"variances must be at least 0, got {lowest:g}")
    u, w = v, None
    if weights is not None:
        w = as_floats(weights, "weights", minimum=0.0)
        try:
            w = np.broadcast_to(w, shape).reshape(-1)
        except ValueError:
            raise ValueError(
                f"weights of shape {w.shape} do not broadcast to variances of shape {shape}"
            ) from None
        with np.errstate(over="ignore", invalid="ignore"):
            u = w * v
        _, peak, total = _survey(u)
    if not np.isfinite(total):
        what = "variances" if w is None else "weights x variances"
        raise ValueError(f"{what} must be finite, and so must their sum")
    peak = max(peak, 0.0)  # of no component at all

    if distortion is not None:
        budget = _budget(distortion, "distortion")
        if budget >= total:
            level, bits = peak, 0.0
        elif budget == 0.0:
            level, bits = 0.0, np.inf
        else:
            level, bits = _solve_distortion(u, peak, budget)
        return ReverseWaterfill(level, _distortions(v, w, u, level).reshape(shape), bits)

    assert rate is not None
    bits = _budget(rate, "rate")
    if bits == 0.0 or peak == 0.0:
        level, bits = peak, 0.0
    elif bits >= _MOST_BITS_PER_COMPONENT * u.size:
        level = 0.0
    else:
        level = _solve_rate(u, peak, bits)
    return ReverseWaterfill(level, _distortions(v, w, u, level).reshape(shape), bits)
