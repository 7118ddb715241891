"""The Gaussian source, its channel and its mismatch: theorems 1 and 2 and appendix D."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from waterfill import theory

POSITIVE = st.floats(1e-6, 1e6)


def normals(count: int, seed: int) -> np.ndarray:
    """Normal numbers whose second moment is exactly 1, to take most noise out of an average."""
    z = np.random.default_rng(seed).standard_normal(count)
    return np.asarray(z / np.sqrt(np.mean(z * z)))


# --- rate and distortion ---------------------------------------------------------------------


def test_gaussian_rate_known_values() -> None:
    assert theory.gaussian_rate(4.0, 1.0) == 1.0
    assert theory.gaussian_rate(1.0, 1.0) == 0.0
    assert theory.gaussian_rate(0.5, 1.0) == 0.0
    assert theory.gaussian_rate(0.0, 1.0) == 0.0
    assert theory.gaussian_rate(0.0, 0.0) == 0.0
    assert theory.gaussian_rate(1.0, 0.0) == math.inf
    assert theory.gaussian_rate(1e300, 1e-300) == pytest.approx(300 / math.log10(2))
    assert isinstance(theory.gaussian_rate(4, 1), float)


def test_gaussian_rate_broadcasts() -> None:
    rate = theory.gaussian_rate([[4.0], [16.0]], [1.0, 4.0])
    np.testing.assert_array_equal(rate, [[1.0, 0.0], [2.0, 1.0]])


@given(POSITIVE, st.floats(0.0, 30.0))
def test_rate_and_distortion_are_inverse(variance: float, bits: float) -> None:
    d = theory.gaussian_distortion(variance, bits)
    assert theory.gaussian_rate(variance, d) == pytest.approx(bits, abs=1e-13)


def test_gaussian_distortion_limits() -> None:
    assert theory.gaussian_distortion(3.0, 0.0) == 3.0
    assert theory.gaussian_distortion(3.0, math.inf) == 0.0
    assert theory.gaussian_distortion(1.0, 1.0) == 0.25


# --- theorem 1 ---------------------------------------------------------------------------------


@given(POSITIVE, st.floats(0.01, 100.0))
def test_code_length_is_least_at_the_second_moment(moment: float, factor: float) -> None:
    best = theory.gaussian_code_length(moment, moment)
    length = theory.gaussian_code_length(moment, factor * moment)
    assert length >= best - 1e-12
    # What is lost is the Itakura-Saito divergence, exactly.
    assert length - best == pytest.approx(
        theory.variance_mismatch(moment, factor * moment), abs=1e-12
    )


def test_code_length_is_the_mean_of_minus_log_density() -> None:
    y = 3.0 * normals(1000, 1)
    v = 2.5
    expected = np.mean(0.5 * np.log2(2 * np.pi * v) + y**2 / (2 * v * math.log(2)))
    assert theory.gaussian_code_length(9.0, v) == pytest.approx(expected, rel=1e-12)


def test_variance_mismatch_known_values() -> None:
    assert theory.variance_mismatch(2.0, 2.0) == 0.0
    assert theory.variance_mismatch(2.0, 1.0) == pytest.approx(0.5 / math.log(2) - 0.5)
    assert theory.variance_mismatch(0.0, 1.0) == math.inf
    tiny = 1e-7  # ½ (d - ln(1 + d)) = d²/4 to first order
    assert theory.variance_mismatch(1.0 + tiny, 1.0) == pytest.approx(
        tiny**2 / 4 / math.log(2), rel=1e-6
    )


# --- theorem 2 ---------------------------------------------------------------------------------


def test_test_channel_known_answer() -> None:
    channel = theory.gaussian_test_channel(2.0, 0.3)
    assert channel.raw_distortion == pytest.approx(0.3122, abs=5e-5)
    assert channel.alpha == pytest.approx(math.sqrt(0.85))
    assert channel.mmse_scale == channel.alpha
    assert channel.distortion == 0.3
    assert channel.output_variance == 2.0
    assert channel.rate_bits == theory.gaussian_rate(2.0, 0.3)


def test_test_channel_by_simulation() -> None:
    rng = np.random.default_rng(7)
    c = theory.gaussian_test_channel(2.0, 0.3)
    y = math.sqrt(2.0) * rng.standard_normal(400_000)
    y_hat = c.alpha * y + math.sqrt(c.noise_variance) * rng.standard_normal(y.size)
    assert np.mean((y - y_hat) ** 2) == pytest.approx(c.raw_distortion, abs=0.003)
    assert np.mean((y - c.mmse_scale * y_hat) ** 2) == pytest.approx(0.3, abs=0.003)
    assert np.var(y_hat) == pytest.approx(2.0, abs=0.02)
    # The least-squares slope of y on ŷ is the MMSE scale.
    assert np.mean(y * y_hat) / np.mean(y_hat**2) == pytest.approx(c.mmse_scale, abs=0.003)


@given(POSITIVE, POSITIVE)
def test_test_channel_information(variance: float, distortion: float) -> None:
    c = theory.gaussian_test_channel(variance, distortion)
    if variance > distortion:
        # I(y; ŷ) = ½ log2(Var ŷ / Var(ŷ | y)), and Var ŷ is that of y.
        assert c.alpha**2 * variance + c.noise_variance == pytest.approx(c.output_variance)
        rate = 0.5 * math.log2(c.output_variance / c.noise_variance)
        assert rate == pytest.approx(c.rate_bits, abs=1e-12)
        assert c.raw_distortion > c.distortion == distortion
    else:
        assert c.alpha == c.noise_variance == c.rate_bits == c.output_variance == 0.0
        assert c.distortion == c.raw_distortion == variance


# --- divergences -------------------------------------------------------------------------------


def test_gaussian_kl_known_values() -> None:
    assert theory.gaussian_kl(1.0, 2.0, 1.0, 2.0) == 0.0
    assert theory.gaussian_kl(1.0, 1.0, 0.0, 1.0) == pytest.approx(0.5 / math.log(2))


def test_gaussian_kl_by_quadrature() -> None:
    m, v, m0, v0 = 0.7, 0.4, -0.2, 1.5
    z, w = np.polynomial.hermite_e.hermegauss(20)
    y = m + math.sqrt(v) * z
    log_ratio = 0.5 * np.log(v0 / v) - (y - m) ** 2 / (2 * v) + (y - m0) ** 2 / (2 * v0)
    expected = np.sum(w * log_ratio) / math.sqrt(2 * math.pi) / math.log(2)
    assert theory.gaussian_kl(m, v, m0, v0) == pytest.approx(expected, rel=1e-12)


@given(st.floats(-50.0, 50.0), st.floats(0.01, 10.0), st.floats(0.05, 20.0))
def test_best_prior_variance_gives_the_smooth_oracle(s: float, d: float, factor: float) -> None:
    best = d + s * s
    least = theory.gaussian_kl(s, d, 0.0, best)
    assert least == pytest.approx(theory.oracle_rate(s * s, d, smooth=True), abs=1e-12)
    assert theory.gaussian_kl(s, d, 0.0, factor * best) >= least - 1e-12


@given(st.floats(-50.0, 50.0), st.floats(0.1, 50.0), st.floats(0.01, 0.99))
def test_test_channel_rate_is_the_divergence_of_what_is_sent(
    r: float, v: float, share: float
) -> None:
    d = share * v
    alpha = theory.gaussian_test_channel(v, d).alpha
    expected = theory.gaussian_kl(alpha * r, d, 0.0, v)
    assert theory.test_channel_rate(r, v, d) == pytest.approx(expected, abs=1e-9, rel=1e-12)


def test_a_calibrated_variance_pays_the_rate_distortion_function() -> None:
    r = math.sqrt(3.0) * normals(1000, 3)
    rate = np.mean(theory.test_channel_rate(r, 3.0, 0.2))
    assert rate == pytest.approx(theory.gaussian_rate(3.0, 0.2), rel=1e-12)


def test_nothing_is_paid_where_nothing_is_sent() -> None:
    assert theory.test_channel_rate(100.0, 0.05, 0.1) == 0.0
    assert theory.test_channel_rate(100.0, 0.1, 0.1) == 0.0
    assert theory.test_channel_rate(100.0, 0.0, 0.1) == 0.0


def test_plain_formula_undercharges_a_variance_just_above_the_level() -> None:
    assert theory.gaussian_rate(0.101, 0.1) < 0.01
    assert theory.test_channel_rate(10.0, 0.101, 0.1) > 7.0


# --- appendix D --------------------------------------------------------------------------------


def test_correlated_rates_known_answers() -> None:
    rates = theory.correlated_rates(1.0, 0.9, 0.05)
    assert rates.independent == pytest.approx(4.392, abs=5e-4)
    assert rates.additive == pytest.approx(3.435, abs=5e-4)
    assert rates.scaled == pytest.approx(3.375, abs=5e-4)
    assert rates.joint == pytest.approx(3.124, abs=5e-4)


@pytest.mark.parametrize("distortion", [1e-10, 1e-15, 1e-17, 1e-100])
def test_equal_sources_at_tiny_distortion_cost_one_source_and_half_a_bit(distortion) -> None:
    # ½log₂(det(Σ + D)/D²) with Σ of ones is ½log₂(2/D + 1).
    rates = theory.correlated_rates(1.0, 1.0, distortion)
    expected = 0.5 * math.log2(2.0 / distortion + 1.0)
    assert rates.additive == pytest.approx(expected, rel=1e-9)
    assert rates.scaled == pytest.approx(expected, rel=1e-9)
    assert rates.joint <= rates.additive


@given(st.floats(0.1, 10.0), st.floats(-1.0, 1.0), st.floats(0.01, 20.0))
def test_joint_rate_is_reverse_waterfilling_of_the_eigenvalues(
    v: float, rho: float, d: float
) -> None:
    rates = theory.correlated_rates(v, rho, d)
    eigenvalues = [v * (1 - abs(rho)), v * (1 + abs(rho))]
    assert rates.joint == pytest.approx(
        theory.reverse_waterfill(eigenvalues, distortion=2 * d).bits, abs=1e-9
    )
    assert rates.independent >= rates.additive - 1e-12
    assert rates.additive >= rates.joint - 1e-12
    assert rates.scaled >= rates.joint - 1e-12


@given(st.floats(0.1, 10.0), st.floats(-0.99, 0.99), st.floats(0.01, 0.99))
def test_channel_informations_are_those_of_their_covariances(
    v: float, rho: float, share: float
) -> None:
    d = share * v
    source = v * np.array([[1.0, rho], [rho, 1.0]])
    rates = theory.correlated_rates(v, rho, d)
    for alpha, rate in ((1.0, rates.additive), (math.sqrt(1 - share), rates.scaled)):
        output = alpha**2 * source + d * np.eye(2)
        information = 0.5 * math.log2(np.linalg.det(output) / d**2)
        assert rate == pytest.approx(information, abs=1e-9)


# --- bad input ---------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [np.nan, -1.0, "one", None, 1j, [[1.0], [1.0, 2.0]]])
def test_bad_variances_are_refused(bad: Any) -> None:
    for function in (
        theory.gaussian_rate,
        theory.gaussian_distortion,
        theory.gaussian_test_channel,
        theory.gaussian_code_length,
        theory.variance_mismatch,
        theory.oracle_rate,
    ):
        with pytest.raises(ValueError, match=r"must|real"):
            function(bad, 1.0)
        with pytest.raises(ValueError, match=r"must|real"):
            function(1.0, bad)
    with pytest.raises(ValueError, match=r"must|real"):
        theory.gaussian_kl(0.0, bad, 0.0, 1.0)
    with pytest.raises(ValueError, match=r"must|real"):
        theory.test_channel_rate(0.0, bad, 1.0)


def test_out_of_range_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="finite"):
        theory.gaussian_rate(np.inf, 1.0)
    with pytest.raises(ValueError, match="greater than 0"):
        theory.variance_mismatch(1.0, 0.0)
    with pytest.raises(ValueError, match="broadcast"):
        theory.gaussian_rate(np.ones(2), np.ones(3))
    for rho in (-1.1, 1.1, np.nan):
        with pytest.raises(ValueError, match="correlation"):
            theory.correlated_rates(1.0, rho, 0.1)
    with pytest.raises(ValueError, match="distortion"):
        theory.correlated_rates(1.0, 0.5, 0.0)
