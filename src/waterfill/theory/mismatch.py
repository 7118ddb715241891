"""What a Gaussian entropy model pays when its mean or its variance is not the true one.

`predicted_variance` is what the model says, `second_moment` what the source has about the predicted
mean: the true variance, and the squared error of the mean.
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
from .gaussian import half_log2_ratio

__all__ = ["gaussian_code_length", "gaussian_kl", "test_channel_rate", "variance_mismatch"]


def gaussian_code_length(
    second_moment: npt.ArrayLike, predicted_variance: npt.ArrayLike
) -> FloatOrArray:
    """Expected code length under a zero-mean Gaussian entropy model.

    Parameters
    ----------
    second_moment : array_like
        E[y²] >= 0.
    predicted_variance : array_like
        v > 0 of the model, in the same unit, broadcast against `second_moment`.

    Returns
    -------
    float or ndarray
        ½ log2(2πv) + E[y²]/(2v ln 2): a differential rate in bits, for cells of unit size. It is
        least at v = E[y²].

    Raises
    ------
    ValueError
        If an argument is NaN or out of range, or the shapes do not broadcast.

    Notes
    -----
    "A Theoretical Framework for Rate-Distortion Limits in Learned Image Compression", theorem 1,
    eq. 1.
    """
    m, v = broadcast(
        second_moment=as_floats(second_moment, "second_moment", minimum=0.0),
        predicted_variance=as_floats(
            predicted_variance, "predicted_variance", minimum=0.0, strict=True
        ),
    )
    return scalar_or_array(0.5 * np.log2(2.0 * np.pi * v) + m / (2.0 * v * LN2))


def _itakura_saito(numerator: FloatArray, denominator: FloatArray) -> FloatArray:
    """w - 1 - ln w for w = numerator / denominator, in digits also where w is close to 1."""
    with np.errstate(divide="ignore"):
        w = numerator / denominator
        excess = (numerator - denominator) / denominator
        return np.asarray(excess - np.where(np.abs(excess) < 0.5, np.log1p(excess), np.log(w)))


def variance_mismatch(
    second_moment: npt.ArrayLike, predicted_variance: npt.ArrayLike
) -> FloatOrArray:
    """Rate lost by coding with a predicted variance in place of the true second moment.

    Parameters
    ----------
    second_moment : array_like
        E[r²] >= 0 about the predicted mean.
    predicted_variance : array_like
        v > 0, in the same unit, broadcast against `second_moment`.

    Returns
    -------
    float or ndarray
        ½(w - 1 - ln w)/ln 2 bits with w = E[r²]/v, half the Itakura-Saito divergence: 0 where
        they agree and positive elsewhere. It is infinite for a second moment of zero, which an
        oracle would code with an infinitely negative differential rate.

    Raises
    ------
    ValueError
        If an argument is NaN or out of range, or the shapes do not broadcast.

    Notes
    -----
    This is `gaussian_code_length` at v less its minimum over v, so it splits the rate of a codec
    into what an oracle pays and what not knowing the variance costs. "A Theoretical Framework for
    Rate-Distortion Limits in Learned Image Compression", appendix A-A, calls it the KL divergence
    of a mismatched model.
    """
    m, v = broadcast(
        second_moment=as_floats(second_moment, "second_moment", minimum=0.0),
        predicted_variance=as_floats(
            predicted_variance, "predicted_variance", minimum=0.0, strict=True
        ),
    )
    return scalar_or_array(0.5 * _itakura_saito(m, v) / LN2)


def gaussian_kl(
    mean: npt.ArrayLike,
    variance: npt.ArrayLike,
    prior_mean: npt.ArrayLike,
    prior_variance: npt.ArrayLike,
) -> FloatOrArray:
    """Kullback-Leibler divergence KL(N(mean, variance) ‖ N(prior_mean, prior_variance)).

    Parameters
    ----------
    mean, prior_mean : array_like
        Real numbers.
    variance, prior_variance : array_like
        Positive, in the square of their unit. All four are broadcast.

    Returns
    -------
    float or ndarray
        ½[v/v' - 1 - ln(v/v') + (m - m')²/v'] / ln 2, in bits, at least 0.

    Raises
    ------
    ValueError
        If an argument is NaN or out of range, or the shapes do not broadcast.

    Notes
    -----
    With variance D this is the rate of sending one sample of the test channel through a prior.
    Least over the prior variance, at D + (m - m')², it is ``oracle_rate((m - m')**2, D,
    smooth=True)``.
    """
    m, v, m0, v0 = broadcast(
        mean=as_floats(mean, "mean"),
        variance=as_floats(variance, "variance", minimum=0.0, strict=True),
        prior_mean=as_floats(prior_mean, "prior_mean"),
        prior_variance=as_floats(prior_variance, "prior_variance", minimum=0.0, strict=True),
    )
    return scalar_or_array(0.5 * (_itakura_saito(v, v0) + (m - m0) ** 2 / v0) / LN2)


def test_channel_rate(
    residual: npt.ArrayLike, predicted_variance: npt.ArrayLike, distortion: npt.ArrayLike
) -> FloatOrArray:
    """Rate of the Gaussian test channel when its variance is predicted, not told.

    Parameters
    ----------
    residual : array_like
        r = y - μ, real numbers.
    predicted_variance : array_like
        v >= 0, of r.
    distortion : array_like
        D > 0, in the unit of the variance. All three are broadcast.

    Returns
    -------
    float or ndarray
        ½ log2(v/D) + ½ α²(r²/v - 1)/ln 2 bits with α² = 1 - D/v: the divergence of N(αr, D), what
        is sent, from N(0, v), what is expected. It is 0 where v <= D, where nothing is sent. Its
        mean is ½ log2(v/D) exactly where E[r²] = v.

    Raises
    ------
    ValueError
        If an argument is NaN or out of range, or the shapes do not broadcast.

    Notes
    -----
    ½ log2(v/D) alone ("A Theoretical Framework for Rate-Distortion Limits in Learned Image
    Compression", eqs. 9 and 11) must not be charged for a predicted variance: it is next to
    nothing for v just above D, however large the residual.
    """
    r, v, d = broadcast(
        residual=as_floats(residual, "residual"),
        predicted_variance=as_floats(predicted_variance, "predicted_variance", minimum=0.0),
        distortion=as_floats(distortion, "distortion", minimum=0.0, strict=True),
    )
    active = v > d
    v = np.where(active, v, d)  # where nothing is sent both terms are then exactly 0
    surprise = (1.0 - d / v) * (r * r / v - 1.0) / (2.0 * LN2)
    return scalar_or_array(half_log2_ratio(v, d) + surprise)
