"""The oracle variance: what it saves when told for free, and what telling it costs.

Taking the energy of the sample itself as its variance is a side channel. `genie_gain` says how
many bits pass through it, `variance_price` what a real code pays to send the same numbers.
"""

from __future__ import annotations

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
from ._special import digamma_minus_log, stirling_remainder
from .gaussian import half_log2_ratio

__all__ = ["clamped_variance_price", "genie_gain", "oracle_rate", "variance_price"]


def oracle_rate(
    power: npt.ArrayLike, distortion: npt.ArrayLike, *, smooth: bool = False
) -> FloatOrArray:
    """Rate of a latent whose variance is told for free, sample by sample. Genie-aided.

    Parameters
    ----------
    power : array_like
        r² >= 0, or s² >= 0 in the smooth form.
    distortion : array_like
        D > 0 (the water level θ in the smooth form), broadcast against `power`.
    smooth : bool
        Noise goes to every latent: ŷ = s + n, n ~ N(0, θ). The two forms agree where
        r² = s² + θ; the smooth one has no dead zone.

    Returns
    -------
    float or ndarray
        ½ log2 max(1, r²/D), or ½ log2(1 + s²/θ), in bits.

    Raises
    ------
    ValueError
        If an argument is NaN or out of range, or the shapes do not broadcast.

    Notes
    -----
    "A Theoretical Framework for Rate-Distortion Limits in Learned Image Compression", eqs. 9, 11
    and 12. It bounds the rate-distortion function in neither direction.
    """
    p, d = broadcast(
        power=as_floats(power, "power", minimum=0.0),
        distortion=as_floats(distortion, "distortion", minimum=0.0, strict=True),
    )
    return scalar_or_array(0.5 * np.log1p(p / d) / LN2 if smooth else half_log2_ratio(p, d))


def genie_gain(n: npt.ArrayLike = 1, *, snr: npt.ArrayLike | None = None) -> FloatOrArray:
    """Change of rate when n Gaussian latents are told their own mean square.

    The latents s_1 … s_n are independent and N(0, P). A code that knows P pays Shannon's
    ½ log2(1 + P/θ) for each; the oracle pays ½ E log2(1 + p/θ), where p = Σ s_i²/n. The
    gain is the second less the first, which Jensen's inequality makes **negative**.

    Parameters
    ----------
    n : array_like
        Latents that share one told variance, at least 1.
    snr : array_like, optional
        P/θ >= 0, power to water level, broadcast against `n`. If left out it is infinite and the
        result is the limit [ψ(n/2) + ln(2/n)]/(2 ln 2), the largest saving.

    Returns
    -------
    float or ndarray
        Change of rate in bits per latent, at most 0: -0.9164 for n = 1, which is
        -(γ + ln 2)/(2 ln 2); -0.115, -0.477 and -0.750 at an `snr` of 1, 10 and 100.

    Raises
    ------
    ValueError
        If n is below 1, `snr` negative, one of them is NaN, or the shapes do not broadcast.

    See Also
    --------
    variance_price : What telling the variance costs: more, for any spread of 10 or above.
    """
    count = as_floats(n, "n", minimum=1.0)
    if snr is None:
        return scalar_or_array(
            digamma_minus_log(np.atleast_1d(0.5 * count)).reshape(count.shape) / (2.0 * LN2)
        )
    count, ratio = broadcast(n=count, snr=as_floats(snr, "snr", minimum=0.0, finite=False))
    return scalar_or_array(_jensen_gap(count, ratio) / (2.0 * LN2))


def _jensen_gap(n: FloatArray, snr: FloatArray) -> FloatArray:
    """E ln((1 + snr q)/(1 + snr)) in nats for n q ~ χ²_n.

    The trapezoidal rule in x = ln q, where the integrand is analytic and vanishes doubly
    exponentially to the right and exponentially to the left: it converges to rounding.
    """
    t = 80.0 / n[..., np.newaxis]  # at the ends the density is exp(-40) of its peak or less
    reach = np.sqrt(2.0 * t)
    left, right = -(reach + t), np.minimum(reach, np.log1p(reach + t) + 1.0)
    x = left + (right - left) * np.linspace(0.0, 1.0, 801)
    # q itself has mean 1, so (q - 1) times a constant can be taken off: every term then has the
    # same sign and a small gap keeps its digits.
    rise = np.expm1(x)
    density = np.exp(0.5 * n[..., np.newaxis] * (x - rise))
    rest = 1.0 / (1.0 + snr[..., np.newaxis])
    q = np.exp(x)
    with np.errstate(divide="ignore"):
        near = np.log1p(np.maximum((1.0 - rest) * rise, -0.9))
        far = np.where(rest > 0.0, np.log(q + (1.0 - q) * rest), x)
    log_ratio = np.where((1.0 - rest) * rise > -0.5, near, far)
    term = log_ratio - (1.0 - rest) * rise
    return np.asarray((density * term).sum(axis=-1) / density.sum(axis=-1))


def _log_complexity(n: FloatArray, spread: FloatArray) -> FloatArray:
    """ln C_n, where C_n = 2 (n/2e)^(n/2) / Γ(n/2) · ln(spread)."""
    half = np.atleast_1d(0.5 * n)
    # (m/e)^m / Γ(m) = √(m/2π) exp(-stirling_remainder(m)), without overflow.
    log_peak = 0.5 * np.log(half / (2.0 * np.pi)) - stirling_remainder(half)
    with np.errstate(divide="ignore"):
        return np.asarray(LN2 + log_peak.reshape(n.shape) + np.log(np.log(spread)))


def _group(n: npt.ArrayLike, spread: npt.ArrayLike, *, strict: bool) -> tuple[FloatArray, ...]:
    return broadcast(
        n=as_floats(n, "n", minimum=1.0),
        spread=as_floats(spread, "spread", minimum=1.0, strict=strict),
    )


def variance_price(n: npt.ArrayLike, spread: npt.ArrayLike = 1000.0) -> FloatOrArray:
    """Price of telling the variance that n latents share, in bits per latent.

    The regret of the normalised maximum likelihood code, the least that any code can promise in
    the worst case, for zero-mean Gaussian groups whose root mean square lies in a range.

    Parameters
    ----------
    n : array_like
        Latents in the group, at least 1.
    spread : array_like
        Largest over smallest standard deviation, above 1, broadcast against `n`.

    Returns
    -------
    float or ndarray
        log2(C_n)/n bits per latent with C_n = 2 (n/2e)^(n/2) / Γ(n/2) · ln(spread): 1.741, .726,
        .247, .077 and .023 for n = 1, 4, 16, 64 and 256. It is negative where C_n < 1, for a
        spread near 1: then the data hardly ever fall in the range, and the code is for those that
        do. `clamped_variance_price` has no such corner.

    Raises
    ------
    ValueError
        If an argument is NaN or out of range, or the shapes do not broadcast.

    Notes
    -----
    J. Rissanen, "Fisher information and stochastic complexity", IEEE Transactions on Information
    Theory 42 (1996); P. Grünwald, The Minimum Description Length Principle (2007), chapter 11,
    for restricted ranges.
    """
    count, ratio = _group(n, spread, strict=True)
    return scalar_or_array(_log_complexity(count, ratio) / (count * LN2))


def clamped_variance_price(n: npt.ArrayLike, spread: npt.ArrayLike = 1000.0) -> FloatOrArray:
    """Price of telling a variance that is clamped to a range, in bits per latent.

    `variance_price` codes only groups whose root mean square lies in [a, b]. A universal code
    must take every group: most groups of an image lie below the water level, and a decoder has to
    be told that as well. Here the model is N(0, σ²) with σ in [a, b], and the best σ for given
    data is their root mean square clamped to [a, b].

    Parameters
    ----------
    n : array_like
        Latents in the group, at least 1.
    spread : array_like
        b/a >= 1, broadcast against `n`.

    Returns
    -------
    float or ndarray
        log2(1 + C_n)/n bits per latent, with C_n of `variance_price`; 0 at a spread of 1, where
        there is nothing to tell.

    Raises
    ------
    ValueError
        If an argument is NaN or out of range, or the shapes do not broadcast.

    Notes
    -----
    The normaliser is C_n + P_a(σ̂ < a) + P_b(σ̂ > b). Because n σ̂²/σ² ~ χ²_n whatever σ is, the two
    probabilities are those of χ²_n < n and of χ²_n > n, and add up to exactly one.
    """
    count, ratio = _group(n, spread, strict=False)
    return scalar_or_array(np.logaddexp(0.0, _log_complexity(count, ratio)) / (count * LN2))
