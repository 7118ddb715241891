"""Blahut–Arimoto brackets the truth from both sides, and closes the bracket."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from waterfill.theory import blahut_arimoto, gaussian_rate

LN2 = math.log(2.0)


def entropy(p: float) -> float:
    return -p * math.log2(p) - (1 - p) * math.log2(1 - p)


@pytest.mark.parametrize(
    ("slope", "bits", "distortion", "nats"), [(15.0, 0.3411, 0.03032, 0.69110)]
)
def test_beta_on_a_grid(slope: float, bits: float, distortion: float, nats: float) -> None:
    x = (np.arange(1000) + 0.5) / 1000
    rho = (x[:, None] - np.linspace(0.0, 1.0, 401)) ** 2
    tolerance = 0.9e-4 / LN2
    point = blahut_arimoto(x * (1 - x), rho, slope, tolerance_bits=tolerance)
    low, high = (LN2 * f for f in point.lagrangian_bits)
    assert high - low < 1e-4
    assert low - 1e-5 <= nats + 1e-4
    assert high >= nats
    # Along R + λD = F the two read-outs trade: an error of D is λ times one of R.
    assert point.distortion == pytest.approx(distortion, abs=1e-4)
    assert point.rate_bits == pytest.approx(bits, abs=slope / LN2 * 1e-5 + 1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("slope", "bits", "distortion", "digit"),
    [
        (15.0, 0.3411, 0.03032, 1e-5),
        (40.0, 0.9631, 0.01227, 1e-5),
        (150.0, 1.8956, 0.003313, 1e-6),
        (600.0, 2.8890, 0.000832, 1e-6),
    ],
)
def test_beta_at_all_slopes(slope: float, bits: float, distortion: float, digit: float) -> None:
    x = (np.arange(1000) + 0.5) / 1000
    rho = (x[:, None] - np.linspace(0.0, 1.0, 401)) ** 2
    point = blahut_arimoto(x * (1 - x), rho, slope, tolerance_bits=3e-5)
    assert LN2 * (point.lagrangian_bits[1] - point.lagrangian_bits[0]) < 1e-4
    assert point.distortion == pytest.approx(distortion, abs=digit)
    # The rate at the distortion that is given, which is rounded to its last digit.
    there = point.lagrangian_bits[1] - slope * distortion / LN2
    assert there == pytest.approx(bits, abs=1e-4 + 0.5 * digit * slope / LN2)


@pytest.mark.parametrize("p", [0.5, 0.3, 0.1])
def test_binary_source_with_hamming_distortion(p: float) -> None:
    slope = 4.0
    point = blahut_arimoto([p, 1 - p], [[0, 1], [1, 0]], slope, tolerance_bits=1e-9)
    d = math.exp(-slope) / (1 + math.exp(-slope))
    assert point.distortion == pytest.approx(d, abs=1e-6)
    assert point.rate_bits == pytest.approx(entropy(p) - entropy(d), abs=1e-6)


def test_gaussian_on_a_fine_grid() -> None:
    x = np.linspace(-6.0, 6.0, 301)
    point = blahut_arimoto(np.exp(-x * x / 2), (x[:, None] - x) ** 2, 2.0, tolerance_bits=1e-4)
    assert point.distortion == pytest.approx(0.25, rel=5e-3)
    assert point.rate_bits == pytest.approx(gaussian_rate(1.0, point.distortion), rel=5e-3)


@settings(deadline=None, max_examples=40)
@given(
    arrays(np.float64, (5,), elements=st.floats(0.01, 1.0)),
    arrays(np.float64, (5, 4), elements=st.floats(0.0, 5.0)),
    st.floats(0.05, 20.0),
)
def test_bounds_hold_whenever_it_stops(p: np.ndarray, rho: np.ndarray, slope: float) -> None:
    early = blahut_arimoto(p, rho, slope, iterations=3)
    late = blahut_arimoto(p, rho, slope, tolerance_bits=1e-7)
    assert early.lagrangian_bits[0] <= late.lagrangian_bits[1] + 1e-9
    assert late.lagrangian_bits[0] <= early.lagrangian_bits[1] + 1e-9
    assert late.reproduction.sum() == pytest.approx(1.0)
    p = p / p.sum()
    assert late.rate_bits <= -np.sum(p * np.log2(p)) + 1e-5


@pytest.mark.parametrize(
    ("p", "rho", "slope"),
    [([1.0], [[1.0], [2.0]], 1.0), ([1.0], [[-1.0]], 1.0), ([0.0], [[1.0]], 1.0),
     ([1.0], [[math.nan]], 1.0), ([1.0], [[1.0]], 0.0)],
)  # fmt: skip
def test_what_is_not_defined_is_refused(p: list, rho: list, slope: float) -> None:
    with pytest.raises(ValueError, match=r"distortion|slope"):
        blahut_arimoto(p, rho, slope)
