"""The uniform scalar quantiser against known answers, simulation and its limits."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from waterfill.theory import (
    HIGH_RATE_GAP,
    gaussian_rate,
    quantiser_entropy,
    quantiser_mse,
    rate_gap,
)

VARIANCES = 10.0 ** np.linspace(-4, 4, 33)


def test_high_rate_gap_is_the_papers_quarter_bit() -> None:
    assert pytest.approx(0.25461, abs=5e-6) == HIGH_RATE_GAP
    assert rate_gap(1e9) == pytest.approx(HIGH_RATE_GAP, abs=1e-9)
    assert rate_gap(1e9, match="mse") == pytest.approx(HIGH_RATE_GAP, abs=1e-9)


@pytest.mark.parametrize(
    ("variance", "gap"),
    [(0.05, 0.196), (1 / 12, 0.497), (0.2, 0.472), (1.0, 0.312), (4.0, 0.270), (16.0, 0.258)],
)
def test_gap_at_the_papers_distortion(variance: float, gap: float) -> None:
    # The published 0.270 is 0.2695 before it was rounded.
    assert rate_gap(variance) == pytest.approx(gap, abs=6e-4)
    expected = quantiser_entropy(variance) - gaussian_rate(variance, 1 / 12)
    assert rate_gap(variance, distortion=1 / 12) == rate_gap(variance) == expected


def test_gap_at_roundings_own_error() -> None:
    assert quantiser_mse(1 / 12) == pytest.approx(0.0638, abs=5e-5)
    assert rate_gap(1 / 12, match="mse") == pytest.approx(0.304, abs=5e-4)


def test_rounding_is_never_better_than_shannon_at_its_own_error() -> None:
    assert np.all(rate_gap(VARIANCES, match="mse") >= -1e-15)
    for centroid in (False, True):
        for offset in (0.0, 0.25, 0.5):
            mse = quantiser_mse(VARIANCES, 1.0, offset, centroid=centroid)
            entropy = quantiser_entropy(VARIANCES, 1.0, offset)
            assert np.all(entropy >= gaussian_rate(VARIANCES, mse) - 1e-12)


@pytest.mark.parametrize(
    ("variance", "step", "offset"), [(0.05, 1.0, 0.0), (1.0, 1.0, 0.3), (4.0, 2.5, 0.0)]
)
def test_entropy_and_error_by_simulation(variance: float, step: float, offset: float) -> None:
    y = math.sqrt(variance) * np.random.default_rng(11).standard_normal(400_000)
    index = np.round((y - offset) / step).astype(int)
    centre = index * step + offset
    assert quantiser_mse(variance, step, offset) == pytest.approx(
        np.mean((y - centre) ** 2), rel=0.01
    )
    counts = np.bincount(index - index.min())
    p = counts[counts > 0] / y.size
    assert quantiser_entropy(variance, step, offset) == pytest.approx(
        -np.sum(p * np.log2(p)), abs=0.004
    )
    means = np.bincount(index - index.min(), weights=y) / np.maximum(counts, 1)
    centroid_error = np.mean((y - means[index - index.min()]) ** 2)
    assert quantiser_mse(variance, step, offset, centroid=True) == pytest.approx(
        centroid_error, rel=0.01
    )


@pytest.mark.parametrize("variance", [1e-3, 0.05, 0.2, 0.26, 1.0, 30.0])
@pytest.mark.parametrize("offset", [0.0, 0.3, 0.5])
def test_exact_sums_bin_by_bin(variance: float, offset: float) -> None:
    """The same sums, written plainly with the C library's erfc."""
    s = math.sqrt(variance)
    bits = error = 0.0
    for k in range(-int(12 * s) - 3, int(12 * s) + 4):
        a, b = (k - 0.5 + offset) / s, (k + 0.5 + offset) / s
        if a + b < 0:  # mirror, to take differences of small tails
            a, b = -b, -a
        p = (math.erfc(a / math.sqrt(2)) - math.erfc(b / math.sqrt(2))) / 2
        bits -= p * math.log2(p) if p > 0 else 0.0
        density = [math.exp(-x * x / 2) / math.sqrt(2 * math.pi) for x in (a, b)]
        c = abs(k + offset)
        first = s * (density[0] - density[1])
        second = variance * (p + a * density[0] - b * density[1])
        error += second - 2 * c * first + c * c * p
    assert quantiser_entropy(variance, 1.0, offset) == pytest.approx(bits, rel=1e-11, abs=1e-15)
    assert quantiser_mse(variance, 1.0, offset) == pytest.approx(error, rel=1e-11)


@given(st.floats(-4, 4), st.floats(-2, 2), st.floats(-3, 3), st.integers(-5, 5))
def test_only_variance_over_squared_step_and_offset_within_a_step_matter(
    log_variance: float, log_step: float, offset: float, shifts: int
) -> None:
    v, step = 10.0**log_variance, 10.0**log_step
    a = quantiser_entropy(v * step**2, step, (offset + shifts) * step)
    assert a == pytest.approx(quantiser_entropy(v, 1.0, offset), rel=1e-9, abs=1e-12)
    b = quantiser_mse(v * step**2, step, (offset + shifts) * step) / step**2
    assert b == pytest.approx(quantiser_mse(v, 1.0, offset), rel=1e-9, abs=1e-12)


def test_entropy_grows_with_variance_and_stays_below_the_maximum_entropy_bound() -> None:
    entropy = quantiser_entropy(VARIANCES)
    assert np.all(np.diff(entropy) >= 0.0)
    # Adding a uniform variable to the index gives a density of variance E k² + 1/12.
    bound = 0.5 * np.log2(2 * np.pi * np.e * (VARIANCES + quantiser_mse(VARIANCES) + 1 / 12))
    assert np.all(entropy[VARIANCES > 1] <= bound[VARIANCES > 1])


def test_small_and_large_variance_limits() -> None:
    assert quantiser_mse(1e-4) == pytest.approx(1e-4, rel=1e-12)
    assert quantiser_mse(1e4) == pytest.approx(1 / 12, rel=1e-14)
    assert quantiser_mse(0.0, 1.0, 0.3) == pytest.approx(0.09)
    assert quantiser_mse(0.0, 1.0, 0.3, centroid=True) == 0.0
    assert quantiser_entropy(0.0) == 0.0
    assert quantiser_entropy(1e-4) == 0.0  # below the smallest number, 1e-545
    # An edge at zero halves a symmetric variable: one bit, however small it is.
    assert quantiser_entropy(1e-4, 1.0, 0.5) == pytest.approx(1.0, rel=1e-14)


def test_the_series_for_fine_steps_continues_the_sum() -> None:
    below, above = 999.999**2, 1000.001**2
    v = np.array([below, above])
    excess = quantiser_entropy(v) - 0.5 * np.log2(2 * np.pi * np.e * v)
    np.testing.assert_allclose(excess * 24 * math.log(2) * v, [1.0, 1.0], rtol=3e-6)
    mse = quantiser_mse([below, above], centroid=True)
    assert mse[0] == pytest.approx(mse[1], rel=1e-11)
    plain = quantiser_mse([0.25 - 1e-12, 0.25 + 1e-12], 1.0, 0.2)
    assert plain[0] == pytest.approx(plain[1], rel=1e-10)


def test_centroids_never_hurt() -> None:
    for offset in (0.0, 0.4):
        centres = quantiser_mse(VARIANCES, 1.0, offset)
        assert np.all(quantiser_mse(VARIANCES, 1.0, offset, centroid=True) <= centres)


def test_shapes() -> None:
    assert isinstance(quantiser_entropy(1.0), float)
    assert quantiser_entropy(np.ones((2, 1)), np.ones(3)).shape == (2, 3)
    assert quantiser_mse(np.ones((2, 1)), 1.0, np.ones(3)).shape == (2, 3)
    assert quantiser_entropy(np.ones(0)).shape == (0,)
    mixed = quantiser_entropy([1e-4, 1.0, 1e4, 0.0, 1e8])
    np.testing.assert_array_equal(mixed, [quantiser_entropy(v) for v in (1e-4, 1, 1e4, 0, 1e8)])


def test_bad_arguments_are_refused() -> None:
    for function in (quantiser_entropy, quantiser_mse):
        with pytest.raises(ValueError, match="variance"):
            function(-1.0)
        with pytest.raises(ValueError, match="NaN"):
            function(np.nan)
        with pytest.raises(ValueError, match="step"):
            function(1.0, 0.0)
        with pytest.raises(ValueError, match="offset"):
            function(1.0, 1.0, np.inf)
        with pytest.raises(ValueError, match="broadcast"):
            function(np.ones(2), np.ones(3))
    with pytest.raises(ValueError, match="match"):
        rate_gap(1.0, match="other")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="finds its own"):
        rate_gap(1.0, distortion=0.1, match="mse")
    with pytest.raises(ValueError, match="distortion"):
        rate_gap(1.0, distortion=0.0)
