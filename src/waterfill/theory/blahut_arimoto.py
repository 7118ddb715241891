"""The Blahut–Arimoto algorithm for finite alphabets, with bounds from both sides."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ._arrays import LN2, FloatArray, as_floats

__all__ = ["BlahutArimoto", "Kernel", "blahut_arimoto", "solve_kernel"]


class BlahutArimoto(NamedTuple):
    """A point of R(D) of a finite source, and how far from it the algorithm stopped."""

    distortion: float
    """D = E ρ under the channel found."""
    rate_bits: float
    """R at D: I(X; Y) of that channel, up to the certificate."""
    lagrangian_bits: tuple[float, float]
    """Lower and upper bound on min I + λ E ρ in bits: both hold whenever the iteration stops."""
    reproduction: FloatArray
    """Probabilities of the letters of the reproduction."""
    iterations: int
    """How many maps of the reproduction's law were made."""


class Kernel(NamedTuple):
    """e^{−λ(ρ − its least in the row)} and what the bounds need beside it.

    Matrices are dense, or sparse ones that know ``@``, ``.T`` and nothing else.
    """

    likelihood: Any
    """(source, reproduction)."""
    weighted: Any
    """The same times ρ."""
    shift: FloatArray
    """λ times the least ρ of each row, (source)."""
    cut: float = 0.0
    """Largest likelihood that was left out as zero."""


def blahut_arimoto(
    probabilities: npt.ArrayLike,
    distortion: npt.ArrayLike,
    slope: float,
    *,
    tolerance_bits: float = 1e-5,
    iterations: int = 20_000,
) -> BlahutArimoto:
    """Solve min I(X; Y) + λ E ρ(X, Y) for a finite source and a finite reproduction.

    Parameters
    ----------
    probabilities : array_like
        (K) of the source's letters; they are normalised.
    distortion : array_like
        ρ >= 0, (K, L) for L letters of the reproduction.
    slope : float
        λ > 0 in nats per unit of ρ: the curve is met where dR/dD = -λ.
    tolerance_bits : float
        Stop when the two bounds on the Lagrangian are this close.
    iterations : int
        Stop after so many maps in any case; the bounds say what is left.

    Returns
    -------
    BlahutArimoto
        D, R in bits, the certificate and the reproduction's law.

    Raises
    ------
    ValueError
        If shapes do not fit, or a value is NaN or out of range.

    Notes
    -----
    Blahut, "Computation of channel capacity and rate-distortion functions", 1972, theorems 6 and
    7. The map is accelerated by squared extrapolation (Varadhan & Roland 2008), which is undone
    wherever it would not descend.

    Examples
    --------
    >>> point = blahut_arimoto([0.5, 0.5], [[0, 1], [1, 0]], slope=2.0)
    >>> round(point.distortion, 4)
    0.1192
    """
    p = as_floats(probabilities, "probabilities", minimum=0.0)
    rho = as_floats(distortion, "distortion", minimum=0.0)
    if p.ndim != 1 or rho.ndim != 2 or rho.shape[0] != p.size or not rho.size or not p.sum() > 0:
        raise ValueError(f"distortion {rho.shape} does not fit {p.shape} probabilities")
    if not (math.isfinite(slope) and slope > 0):
        raise ValueError(f"slope must be finite and greater than 0, got {slope:g}")
    least = rho.min(axis=1)
    likelihood = np.exp(-slope * (rho - least[:, None]))
    kernel = Kernel(likelihood, likelihood * rho, slope * least)
    return solve_kernel(
        p / p.sum(), kernel, slope, tolerance_bits=tolerance_bits, iterations=iterations
    )


def solve_kernel(
    p: FloatArray,
    kernel: Kernel,
    slope: float,
    *,
    tolerance_bits: float = 1e-5,
    iterations: int = 20_000,
    progress: Callable[[int, float], None] = lambda done, gap: None,
) -> BlahutArimoto:
    """Run `blahut_arimoto` on a kernel that is given, which may be sparse.

    Parameters
    ----------
    p : ndarray
        (K), summing to 1.
    kernel : Kernel
        Of a source of K letters.
    slope, tolerance_bits, iterations
        As `blahut_arimoto`.
    progress : callable
        Called with the maps made and the certificate's gap in bits.
    """
    a, a_t = kernel.likelihood, kernel.likelihood.T
    q = np.full(a.shape[1], 1.0 / a.shape[1])
    offset = float(p @ kernel.shift)

    def look(q: FloatArray) -> tuple[float, FloatArray, FloatArray]:
        """The Lagrangian in nats, e^φ of each row, and c, by which the map multiplies."""
        mass = np.maximum(a @ q, 1e-300)
        return offset - float(p @ np.log(mass)), 1.0 / mass, a_t @ (p / mass)

    upper, inverse, c = look(q)
    lower, done = -math.inf, 0
    while True:
        # Whatever the law, F >= its Lagrangian - log max c; what was cut could only add to c.
        slack = kernel.cut * float(p @ inverse)
        lower = max(lower, upper - math.log(float(c.max()) + slack))
        if done % 100 < 3:
            progress(done, (upper - lower) / LN2)
        if (upper - lower) / LN2 <= tolerance_bits or done >= iterations:
            break
        first = q * c
        first /= first.sum()
        second = first * look(first)[2]
        second /= second.sum()
        step, turn = first - q, second - 2.0 * first + q
        size = float(np.linalg.norm(turn))
        stride = max(float(np.linalg.norm(step)) / size, 1.0) if size > 0.0 else 1.0
        leap = np.maximum(q + 2.0 * stride * step + stride**2 * turn, 0.01 * second)
        leap /= leap.sum()
        plain, leaped = look(second), look(leap)
        better = leaped[0] <= plain[0]
        q, (upper, inverse, c) = (leap, leaped) if better else (second, plain)
        done += 3
    distortion = float((p * inverse) @ (kernel.weighted @ q))
    rate = max(0.0, (upper - slope * distortion) / LN2)
    return BlahutArimoto(distortion, rate, (lower / LN2, upper / LN2), q, done)
