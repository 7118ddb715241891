"""The oracle variance is no bound, and telling it honestly costs more than it saves."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from waterfill.theory import (
    clamped_variance_price,
    gaussian_rate,
    genie_gain,
    oracle_rate,
    variance_price,
)

TABLE = [  # n, gain, price, net: at a spread of 1000, bits per latent
    (1, -0.916, 1.741, 0.825),
    (4, -0.195, 0.726, 0.531),
    (16, -0.046, 0.247, 0.201),
    (64, -0.011, 0.078, 0.066),
    (256, -0.003, 0.023, 0.020),
]


@pytest.mark.parametrize(("n", "gain", "price", "net"), TABLE)
def test_table_of_gain_and_price(n: int, gain: float, price: float, net: float) -> None:
    assert genie_gain(n) == pytest.approx(gain, abs=5e-4)
    assert variance_price(n) == pytest.approx(price, abs=6e-4)
    assert genie_gain(n) + variance_price(n) == pytest.approx(net, abs=6e-4)


# --- gain --------------------------------------------------------------------------------------


def test_genie_gain_closed_forms() -> None:
    assert genie_gain() == pytest.approx(-(np.euler_gamma + math.log(2)) / (2 * math.log(2)))
    assert genie_gain(2) == pytest.approx(-np.euler_gamma / (2 * math.log(2)), rel=1e-14)
    assert genie_gain(1e8) == pytest.approx(-1e-8 / (2 * math.log(2)), rel=1e-7)


@pytest.mark.parametrize(("snr", "saving"), [(1.0, 0.115195), (10.0, 0.477016), (100.0, 0.749659)])
def test_genie_gain_at_finite_snr(snr: float, saving: float) -> None:
    assert genie_gain(snr=snr) == pytest.approx(-saving, abs=5e-7)


@pytest.mark.parametrize("snr", [0.01, 0.1, 0.5, 1.0])
def test_genie_gain_against_gauss_hermite(snr: float) -> None:
    z, w = np.polynomial.hermite_e.hermegauss(180)
    mean = np.sum(w * oracle_rate(snr * z * z, 1.0, smooth=True)) / math.sqrt(2 * math.pi)
    shannon = 0.5 * math.log2(1 + snr)
    assert genie_gain(snr=snr) == pytest.approx(mean - shannon, abs=1e-6)


@pytest.mark.parametrize("n", [1, 3, 16])
def test_genie_gain_by_simulation(n: int) -> None:
    s = math.sqrt(20.0) * np.random.default_rng(2).standard_normal((200_000, n))
    power = np.mean(s * s, axis=1)
    mean = np.mean(oracle_rate(power, 1.0, smooth=True))
    assert genie_gain(n, snr=20.0) == pytest.approx(mean - 0.5 * math.log2(21.0), abs=0.006)


@given(st.integers(1, 10**6), st.floats(0.0, 1e6))
def test_genie_gain_lies_between_its_limit_and_zero(n: int, snr: float) -> None:
    gain = genie_gain(n, snr=snr)
    assert genie_gain(n) * (1 + 1e-9) <= gain <= 0.0


def test_genie_gain_is_continuous_at_infinite_snr_and_zero_at_none() -> None:
    n = np.array([1, 2, 7, 64, 10**4, 10**8])
    np.testing.assert_allclose(genie_gain(n, snr=np.inf), genie_gain(n), rtol=1e-12)
    np.testing.assert_allclose(genie_gain(n[:3], snr=1e300), genie_gain(n[:3]), rtol=1e-12)
    np.testing.assert_array_equal(genie_gain(n, snr=0.0), np.zeros(6))
    assert genie_gain(np.ones((2, 1)), snr=[1.0, 2.0, 3.0]).shape == (2, 3)


def test_oracle_forms_agree_above_the_threshold() -> None:
    s2 = np.linspace(0.0, 50.0, 101)
    np.testing.assert_allclose(
        oracle_rate(s2 + 0.25, 0.25), oracle_rate(s2, 0.25, smooth=True), atol=1e-14
    )
    assert oracle_rate(0.2, 0.25) == 0.0


def test_a_one_hot_latent_claims_a_sixth_of_what_it_delivers() -> None:
    """One peak among 65,536 places at s²/D = 44: 2.75 bits are claimed and 15.75 arrive."""
    places, snr = 65_536, 44.0
    assert oracle_rate(snr, 1.0, smooth=True) == pytest.approx(2.75, abs=0.005)
    # I(place; ŷ) = log2 N - E log2 Σ_j exp(s n_j - s n_i - s²), s n_i for the true place; the
    # expectation over the other n_j goes inside the logarithm by Jensen's inequality.
    z = np.linspace(-9.0, 9.0, 3601)
    density = np.exp(-0.5 * z * z) / math.sqrt(2 * math.pi) * (z[1] - z[0])
    others = (places - 1) * np.exp(-0.5 * snr - math.sqrt(snr) * z)
    assert math.log2(places) - np.sum(density * np.log1p(others)) / math.log(2) >= 15.75


def test_the_papers_formula_is_below_the_rate_distortion_function() -> None:
    """N(0, 1) with y = x and level ½: .376 bit is claimed, .535 or .819 is needed."""
    theta = 0.5
    y = np.linspace(-8.5, 8.5, 6801)
    weight = np.exp(-0.5 * y * y)
    weight /= weight.sum()
    active = y * y > theta
    assert np.sum(weight * oracle_rate(y * y, theta)) == pytest.approx(0.376, abs=5e-4)

    sent = np.where(active, np.sign(y) * np.sqrt(np.maximum(y * y - theta, 0.0)), 0.0)
    y_hat = np.linspace(-12.0, 12.0, 481)

    def explained(some: np.ndarray) -> float:
        """E[E(x | ŷ)²] over the latents that go through the noise."""
        likelihood = np.exp(-0.5 * (y_hat[:, None] - sent[some]) ** 2 / theta)
        likelihood /= math.sqrt(2 * math.pi * theta)
        mass, moment = likelihood @ weight[some], likelihood @ (weight[some] * y[some])
        return float(np.sum(moment**2 / np.maximum(mass, 1e-300)) * (y_hat[1] - y_hat[0]))

    noisy_everywhere = gaussian_rate(1.0, 1.0 - explained(np.full(y.shape, True)))
    exact_zeros = gaussian_rate(1.0, 1.0 - explained(active))
    assert noisy_everywhere == pytest.approx(0.535, abs=1e-3)
    assert exact_zeros == pytest.approx(0.819, abs=1e-3)


# --- price -------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 2, 3, 10, 31, 32, 33, 100])
def test_price_is_the_formula_with_the_gamma_function(n: int) -> None:
    half = n / 2
    log_c = math.log(2) + half * math.log(half) - half - math.lgamma(half)
    expected = (log_c + math.log(math.log(50.0))) / math.log(2) / n
    assert variance_price(n, 50.0) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("n", [1, 2, 3])
@pytest.mark.parametrize("spread", [1.5, 30.0, 1000.0])
def test_prices_are_the_integrals_of_the_best_likelihood(n: int, spread: float) -> None:
    """Integrate max over σ in [1, spread] of the density of |y|, over all and over part of it."""
    radius = np.exp(np.linspace(math.log(1e-7), math.log(60.0 * spread), 400_001))
    rms = radius / math.sqrt(n)
    sigma = np.clip(rms, 1.0, spread)
    sphere = {1: 2.0, 2: 2 * math.pi, 3: 4 * math.pi}[n]
    density = np.exp(-0.5 * (radius / sigma) ** 2) / (2 * math.pi * sigma**2) ** (n / 2)
    integrand = sphere * radius**n * density  # in d ln(radius)
    inside = (rms >= 1.0) & (rms <= spread)
    step = math.log(radius[1] / radius[0])
    assert clamped_variance_price(n, spread) == pytest.approx(
        math.log2(step * integrand.sum()) / n, abs=2e-5
    )
    assert variance_price(n, spread) == pytest.approx(
        math.log2(step * integrand[inside].sum()) / n, abs=3e-4
    )


def test_price_of_huge_groups_neither_overflows_nor_loses_digits() -> None:
    n = np.array([1e3, 1e5, 1e8])
    # C_n -> √(n/π) ln(spread), up to 1/(6n).
    expected = 0.5 * np.log2(n / np.pi) + math.log2(math.log(1000.0)) - 1 / (6 * n * math.log(2))
    np.testing.assert_allclose(variance_price(n) * n, expected, rtol=1e-9)


@given(st.integers(1, 10**6), st.floats(10.0, 1e6))
def test_telling_the_variance_never_pays_by_itself(n: int, spread: float) -> None:
    assert genie_gain(n) + clamped_variance_price(n, spread) > 0.0


@given(st.integers(1, 10**6), st.floats(1.001, 1e6))
def test_the_code_for_every_group_costs_more_than_the_one_for_some(n: int, spread: float) -> None:
    clamped, restricted = clamped_variance_price(n, spread), variance_price(n, spread)
    assert clamped > 0.0
    assert clamped > restricted
    assert 2.0 ** (n * clamped) == pytest.approx(1.0 + 2.0 ** (n * restricted), rel=1e-9)


def test_without_a_choice_there_is_no_price() -> None:
    assert clamped_variance_price(5, 1.0) == 0.0
    assert clamped_variance_price([1, 5, 100], 1.0).shape == (3,)


def test_bad_arguments_are_refused() -> None:
    for function in (genie_gain, variance_price, clamped_variance_price):
        for bad in (0, -1, 0.5, np.nan, np.inf, "n"):
            with pytest.raises(ValueError, match="n must"):
                function(bad)
    with pytest.raises(ValueError, match="snr"):
        genie_gain(1, snr=-1.0)
    for bad in (1.0, 0.5, np.nan, np.inf):
        with pytest.raises(ValueError, match="spread"):
            variance_price(1, bad)
    with pytest.raises(ValueError, match="spread"):
        clamped_variance_price(1, 0.5)
    with pytest.raises(ValueError, match="distortion"):
        oracle_rate(1.0, 0.0)
