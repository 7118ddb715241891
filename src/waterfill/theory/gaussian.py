"""The Gaussian source: its rate-distortion function, its test channel, two correlated ones."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ._arrays import FloatArray, FloatOrArray, as_floats, broadcast, scalar_or_array

__all__ = [
    "CorrelatedRates",
    "TestChannel",
    "correlated_rates",
    "gaussian_distortion",
    "gaussian_rate",
    "gaussian_test_channel",
]


def half_log2_ratio(variance: FloatArray, distortion: FloatArray) -> FloatArray:
    """max(0, ½ log2(variance / distortion)), with 0/0 = 0 and no overflow in between."""
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        ratio = variance / distortion
        bits = 0.5 * np.log2(np.maximum(ratio, 1.0))
        # The quotient of two finite numbers can be too large where its logarithm is not.
        apart = 0.5 * (np.log2(variance) - np.log2(distortion))
    bits = np.where(np.isinf(ratio), apart, bits)
    return np.where(variance <= distortion, 0.0, bits)


def gaussian_rate(variance: npt.ArrayLike, distortion: npt.ArrayLike) -> FloatOrArray:
    """Rate-distortion function of a Gaussian variable under squared error.

    Parameters
    ----------
    variance : array_like
        σ² >= 0.
    distortion : array_like
        Mean squared error D >= 0, in the same unit, broadcast against `variance`.

    Returns
    -------
    float or ndarray
        max(0, ½ log2(σ²/D)) in bits: 0 for zero variance, infinite for zero distortion of a
        positive one.

    Raises
    ------
    ValueError
        If an argument is NaN, negative or infinite, or the shapes do not broadcast.

    Notes
    -----
    "A Theoretical Framework for Rate-Distortion Limits in Learned Image Compression", eq. 15;
    Cover & Thomas, Elements of Information Theory, 2nd ed., theorem 10.3.2.

    Examples
    --------
    >>> gaussian_rate(4.0, 1.0)
    1.0
    """
    v, d = broadcast(
        variance=as_floats(variance, "variance", minimum=0.0),
        distortion=as_floats(distortion, "distortion", minimum=0.0),
    )
    return scalar_or_array(half_log2_ratio(v, d))


def gaussian_distortion(variance: npt.ArrayLike, rate_bits: npt.ArrayLike) -> FloatOrArray:
    """Distortion-rate function of a Gaussian variable, the inverse of `gaussian_rate`.

    Parameters
    ----------
    variance : array_like
        σ² >= 0.
    rate_bits : array_like
        R >= 0 in bits, infinity included, broadcast against `variance`.

    Returns
    -------
    float or ndarray
        Mean squared error σ² 2^(-2R), in the unit of the variance.

    Raises
    ------
    ValueError
        If an argument is NaN or negative, the variance is infinite, or the shapes do not
        broadcast.

    Notes
    -----
    Cover & Thomas, Elements of Information Theory, 2nd ed., section 10.3.2.
    """
    v, r = broadcast(
        variance=as_floats(variance, "variance", minimum=0.0),
        rate_bits=as_floats(rate_bits, "rate_bits", minimum=0.0, finite=False),
    )
    return scalar_or_array(v * np.exp2(-2.0 * r))


@dataclass(frozen=True)
class TestChannel:
    """The Gaussian test channel ŷ = αy + n, n ~ N(0, noise_variance), of y ~ N(0, σ²).

    Every field is a float, or an array of the shape of the arguments broadcast.
    """

    __test__ = False  # pytest takes a class of this name for a test

    alpha: FloatOrArray
    """α = √(1 - D/σ²); 0 where D >= σ²."""
    noise_variance: FloatOrArray
    """D; 0 where D >= σ², because nothing is sent there and ŷ is exactly 0."""
    mmse_scale: FloatOrArray
    """The factor that turns ŷ into the best estimate of y. It equals α."""
    output_variance: FloatOrArray
    """Var ŷ = σ²; 0 where D >= σ²."""
    rate_bits: FloatOrArray
    """I(y; ŷ) = max(0, ½ log2(σ²/D)), in bits."""
    distortion: FloatOrArray
    """E(y - αŷ)² = min(D, σ²), of the scaled output."""
    raw_distortion: FloatOrArray
    """E(y - ŷ)² = (1 - α)²σ² + D, of ŷ itself, which is larger; σ² where D >= σ²."""


def gaussian_test_channel(variance: npt.ArrayLike, distortion: npt.ArrayLike) -> TestChannel:
    """Return the channel that attains the Gaussian rate-distortion function.

    Parameters
    ----------
    variance : array_like
        σ² >= 0.
    distortion : array_like
        D >= 0, in the same unit, broadcast against `variance`.

    Returns
    -------
    TestChannel
        Its coefficients, rate in bits and distortions.

    Raises
    ------
    ValueError
        If an argument is NaN, negative or infinite, or the shapes do not broadcast.

    Notes
    -----
    "A Theoretical Framework for Rate-Distortion Limits in Learned Image Compression", theorem 2
    with eqs. 6 and 7, and algorithm 1 for variances at or below D.
    """
    v, d = broadcast(
        variance=as_floats(variance, "variance", minimum=0.0),
        distortion=as_floats(distortion, "distortion", minimum=0.0),
    )
    active = v > d
    share = np.divide(d, v, out=np.ones(v.shape), where=active)
    alpha = np.sqrt(1.0 - share)
    noise = np.where(active, d, 0.0)
    # 1 - α = (D/σ²)/(1 + α) keeps its digits where α is close to 1.
    raw = np.where(active, (share / (1.0 + alpha)) ** 2 * v + d, v)
    scale = scalar_or_array(alpha)
    return TestChannel(
        alpha=scale,
        noise_variance=scalar_or_array(noise),
        mmse_scale=scale,
        output_variance=scalar_or_array(np.where(active, v, 0.0)),
        rate_bits=scalar_or_array(half_log2_ratio(v, d)),
        distortion=scalar_or_array(np.minimum(v, d)),
        raw_distortion=scalar_or_array(raw),
    )


@dataclass(frozen=True)
class CorrelatedRates:
    """Total rates of two correlated Gaussian variables, in bits for the pair."""

    independent: FloatOrArray
    """log2(1 + σ²/D): the additive channel ŷ = y + n, correlation ignored."""
    additive: FloatOrArray
    """I(y1, y2; ŷ1, ŷ2) of the additive channel."""
    scaled: FloatOrArray
    """I(y1, y2; ŷ1, ŷ2) of the channel ŷ = αy + n, whose independent rate is log2(σ²/D)."""
    joint: FloatOrArray
    """The rate-distortion function of the pair: what the best code needs."""


def correlated_rates(
    variance: npt.ArrayLike, correlation: npt.ArrayLike, distortion: npt.ArrayLike
) -> CorrelatedRates:
    """Return what two Gaussian variables of one variance cost under four assumptions.

    Parameters
    ----------
    variance : array_like
        σ² > 0 of each.
    correlation : array_like
        ρ in [-1, 1].
    distortion : array_like
        Squared error D > 0 allowed for each, in the unit of the variance. All three are broadcast.

    Returns
    -------
    CorrelatedRates
        ``independent >= additive >= joint`` and ``scaled >= joint``, in bits for the pair.

    Raises
    ------
    ValueError
        If an argument is NaN or out of range, or the shapes do not broadcast.

    Notes
    -----
    "A Theoretical Framework for Rate-Distortion Limits in Learned Image Compression", appendix D:
    correlation saves -½ log2(1 - ρ²σ⁴/(σ² + D)²) on the additive channel (eq. 55) and, with
    independent noise, -½ log2(1 - ρ²(1 - D/σ²)²) on the scaled one. Neither is the joint rate,
    which is ½ log2(σ⁴(1 - ρ²)/D²) while D <= σ²(1 - |ρ|) and reverse water-filling of the
    eigenvalues σ²(1 ± ρ) beyond. The scaled rate is 0 from D = σ² on.
    """
    v, rho, d = broadcast(
        variance=as_floats(variance, "variance", minimum=0.0, strict=True),
        correlation=as_floats(correlation, "correlation", minimum=-1.0),
        distortion=as_floats(distortion, "distortion", minimum=0.0, strict=True),
    )
    if np.any(rho > 1.0):
        raise ValueError("correlation must be at most 1")
    rho = np.abs(rho)
    independent = np.log1p(v / d) / np.log(2.0)
    # 1 − a² as (1 − a)(1 + a), and 1 − a without cancelling: where D is tiny a is all but 1.
    lost = (d + (1.0 - rho) * v) / (v + d)
    additive = independent + 0.5 * np.log2(lost * (2.0 - lost))
    lost = np.minimum((1.0 - rho) + rho * d / v, 1.0)
    scaled = 2.0 * half_log2_ratio(v, d) + 0.5 * np.log2(lost * (2.0 - lost))
    small, large = v * (1.0 - rho), v * (1.0 + rho)
    # Water-filling two eigenvalues with the budget 2D: the small one fills up first.
    level = np.where(d <= small, d, 2.0 * d - small)
    joint = half_log2_ratio(small, d) + half_log2_ratio(large, level)
    return CorrelatedRates(
        independent=scalar_or_array(independent),
        additive=scalar_or_array(additive),
        scaled=scalar_or_array(scaled),
        joint=scalar_or_array(joint),
    )
