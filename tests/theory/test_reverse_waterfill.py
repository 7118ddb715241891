"""Reverse water-filling: optimality, exactness and its edges."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from waterfill.theory import gaussian_rate, reverse_waterfill
from waterfill.theory import waterfill as module

# Few distinct values make ties; the exponents span most of what float64 holds.
VALUES = st.one_of(
    st.sampled_from([0.0, 0.5, 1.0, 1.0, 2.0, 3.0]),
    st.floats(1e-3, 1e3),
    st.integers(-140, 140).map(lambda e: 10.0**e),
)
VARIANCES = st.lists(VALUES, min_size=1, max_size=30)
POSITIVE_VARIANCES = VARIANCES.filter(any)


def level_by_sorting(u: np.ndarray, budget: float) -> float:
    """Textbook solution: the k largest are active for exactly one k."""
    order = np.sort(u)[::-1]
    for k in range(1, u.size + 1):
        level = (budget - math.fsum(order[k:])) / k
        if k == u.size or level >= order[k]:
            return level
    raise AssertionError


def log2_level_by_sorting(u: np.ndarray, bits: float) -> float:
    order = np.log2(np.sort(u[u > 0])[::-1])
    for k in range(1, order.size + 1):
        level = (math.fsum(order[:k]) - 2 * bits) / k
        if k == order.size or level >= order[k]:
            return level
    raise AssertionError


def test_known_answer() -> None:
    level, distortions, bits = reverse_waterfill([4.0, 1.0, 0.25, 0.25], distortion=1.5)
    assert level == 0.5
    np.testing.assert_array_equal(distortions, [0.5, 0.5, 0.25, 0.25])
    assert bits == pytest.approx(2.0, abs=1e-15)


@given(POSITIVE_VARIANCES, st.floats(1e-12, 0.999999))
def test_distortion_budget_against_sorting(variances: list[float], share: float) -> None:
    u = np.array(variances)
    budget = share * math.fsum(u)
    level, distortions, bits = reverse_waterfill(u, distortion=budget)
    assert math.fsum(distortions) == pytest.approx(budget, rel=1e-14)
    expected = level_by_sorting(u, budget)
    # A rounding of the budget alone moves the level by budget times 1e-16.
    assert level == pytest.approx(expected, rel=1e-13, abs=4e-16 * budget)
    np.testing.assert_array_equal(distortions, np.minimum(u, level))
    assert bits == pytest.approx(np.sum(gaussian_rate(u, distortions)), rel=1e-12, abs=1e-11)


@given(POSITIVE_VARIANCES, st.floats(1e-9, 300.0))
def test_rate_budget_against_sorting(variances: list[float], bits: float) -> None:
    u = np.array(variances)
    result = reverse_waterfill(u, rate=bits)
    assert math.log2(result.level) == pytest.approx(log2_level_by_sorting(u, bits), abs=1e-11)
    assert result.bits == bits
    np.testing.assert_array_equal(result.distortions, np.minimum(u, result.level))
    spent = np.sum(gaussian_rate(u, result.distortions))
    assert spent == pytest.approx(bits, rel=1e-12, abs=1e-11)


@given(
    st.lists(st.tuples(st.floats(1e-3, 1e3), st.floats(1e-3, 1e3)), min_size=1, max_size=20),
    st.floats(1e-6, 0.999),
)
def test_kkt_conditions(pairs: list[tuple[float, float]], share: float) -> None:
    v, w = np.array(pairs).T
    budget = share * float(w @ v)
    level, distortions, bits = reverse_waterfill(v, distortion=budget, weights=w)
    assert w @ distortions == pytest.approx(budget, rel=1e-12)
    # Stationarity: -dR/dD is the same for all that get bits. The others would save more per
    # distortion, but have taken all that they can.
    slope = 1.0 / (w * distortions)
    active = distortions < v
    np.testing.assert_allclose(slope[active], 1.0 / level, rtol=1e-12)
    assert np.all(slope[~active] >= (1.0 - 1e-12) / level)
    assert np.all(distortions <= v)
    assert bits == pytest.approx(np.sum(gaussian_rate(v, distortions)), rel=1e-12, abs=1e-12)


@given(
    st.lists(st.floats(0.01, 100.0), min_size=2, max_size=8),
    st.floats(0.01, 0.99),
    st.integers(0, 2**32 - 1),
)
def test_no_other_allocation_is_cheaper(v: list[float], share: float, seed: int) -> None:
    u = np.array(v)
    result = reverse_waterfill(u, distortion=share * u.sum())
    other = np.random.default_rng(seed).uniform(0.01, 1.0, u.size) * u
    other *= result.distortions.sum() / other.sum()
    assert np.sum(gaussian_rate(u, other)) >= result.bits - 1e-9


@given(POSITIVE_VARIANCES, st.floats(1e-3, 0.999))
def test_the_two_budgets_are_inverse(variances: list[float], share: float) -> None:
    u = np.array(variances)
    first = reverse_waterfill(u, distortion=share * float(u.sum()))
    second = reverse_waterfill(u, rate=first.bits)
    assert second.distortions.sum() == pytest.approx(first.distortions.sum(), rel=1e-9)


@given(POSITIVE_VARIANCES, st.floats(0.01, 0.99), st.integers(-30, 30))
def test_scaling_by_a_power_of_two_scales_the_level(
    variances: list[float], share: float, exponent: int
) -> None:
    u, c = np.array(variances), 2.0**exponent
    budget = share * float(u.sum())
    plain = reverse_waterfill(u, distortion=budget)
    scaled = reverse_waterfill(c * u, distortion=c * budget)
    assert scaled.level == c * plain.level
    assert scaled.bits == pytest.approx(plain.bits, rel=1e-12, abs=1e-10)


@given(st.floats(1e-100, 1e100), st.floats(1e-6, 0.999))
def test_one_component_is_the_gaussian_rate_distortion_function(v: float, share: float) -> None:
    result = reverse_waterfill(v, distortion=share * v)
    assert result.level == share * v
    assert result.distortions.shape == ()
    assert result.bits == pytest.approx(gaussian_rate(v, share * v), abs=1e-12)


def test_edges_of_the_budgets() -> None:
    v = np.array([3.0, 1.0, 0.0])
    for result in (
        reverse_waterfill(v, distortion=4.0),
        reverse_waterfill(v, distortion=math.inf),
        reverse_waterfill(v, rate=0.0),
    ):
        assert result.level == 3.0
        assert result.bits == 0.0
        np.testing.assert_array_equal(result.distortions, v)
    for result in (reverse_waterfill(v, distortion=0.0), reverse_waterfill(v, rate=math.inf)):
        assert result.level == 0.0
        assert result.bits == math.inf
        np.testing.assert_array_equal(result.distortions, np.zeros(3))
    assert reverse_waterfill(v, rate=1e300).level == 0.0
    assert reverse_waterfill(np.ones(10), distortion=5e-324).bits == math.inf


@pytest.mark.parametrize("v", [[], np.zeros((2, 3)), 0.0, np.zeros(200_000)])
@pytest.mark.parametrize("budget", [0.0, 1.0, 1e300, math.inf])
def test_nothing_to_code_costs_nothing(v: Any, budget: float) -> None:
    for result in (reverse_waterfill(v, distortion=budget), reverse_waterfill(v, rate=budget)):
        assert result.level == 0.0
        assert result.bits == 0.0
        assert result.distortions.shape == np.shape(v)
        assert not result.distortions.any()


def test_weights_of_zero_and_broadcast_weights() -> None:
    v = np.array([[4.0, 1.0], [1.0, 9.0]])
    result = reverse_waterfill(v, distortion=1.0, weights=[1.0, 0.0])
    assert result.level == 0.5
    np.testing.assert_array_equal(result.distortions, [[0.5, 1.0], [0.5, 9.0]])
    assert result.bits == pytest.approx(2.0)
    ones = reverse_waterfill(v, rate=2.0, weights=np.ones((2, 2)))
    np.testing.assert_array_equal(ones.distortions, reverse_waterfill(v, rate=2.0).distortions)


def test_integers_float32_and_strides_are_taken_as_they_are() -> None:
    v = np.arange(24.0).reshape(4, 6)
    expected = reverse_waterfill(v[::2, ::3].copy(), distortion=5.0)
    for same in (v[::2, ::3], v.astype(int)[::2, ::3], v.astype(np.float32)[::2, ::3]):
        result = reverse_waterfill(same, distortion=5.0)
        assert result.level == expected.level
        np.testing.assert_array_equal(result.distortions, expected.distortions)


def test_the_input_is_left_alone() -> None:
    v = np.random.default_rng(0).exponential(size=300_000)
    before = v.copy()
    for budget in ({"distortion": 1e4}, {"rate": 1e4}, {"distortion": 1e9}, {"rate": 0.0}):
        result = reverse_waterfill(v, **budget)
        assert not np.shares_memory(v, result.distortions)
    np.testing.assert_array_equal(v, before)


def large_arrays() -> dict[str, np.ndarray]:
    rng, n = np.random.default_rng(5), 200_000
    periodic = rng.exponential(size=n)
    periodic[:: n // module._SAMPLE] *= 1000.0  # exactly what the strided sample sees
    return {
        "exponential": rng.exponential(size=n),
        "sorted lognormal": np.sort(rng.lognormal(0.0, 3.0, n)),
        "ties": np.tile([0.0, 1.0, 2.0, 5.0], n // 4),
        "constant": np.full(n, 3.0),
        "rare and huge": np.where(rng.random(n) < 1e-4, 1e6, 1e-6),
        "one": np.append(np.full(n, 1e-20), 1e20),
        "misleading sample": periodic,
        "sample of zeros": np.where(np.arange(n) % (n // module._SAMPLE), 1.0, 0.0),
        "immense range": np.minimum(rng.lognormal(0.0, 120.0, n), 1e290),
    }


@pytest.mark.parametrize("name", list(large_arrays()))
@pytest.mark.parametrize("share", [1e-9, 1e-3, 0.1, 0.5, 0.99, 1 - 1e-9])
def test_large_arrays_against_sorting(name: str, share: float) -> None:
    u = large_arrays()[name]
    budget = share * float(u.sum())
    result = reverse_waterfill(u, distortion=budget)
    assert result.distortions.sum() == pytest.approx(budget, rel=1e-12)
    order = np.sort(u)[::-1]
    # Σ min(θ, u) with θ at each component in turn brackets the level.
    position = int(np.count_nonzero(u > result.level))
    expected = (budget - math.fsum(order[position:])) / position
    assert result.level == pytest.approx(expected, rel=1e-12, abs=1e-12 * budget / position)
    active = order[:position]
    bits = 0.5 * math.fsum(np.log2(active) - np.log2(result.level))
    assert result.bits == pytest.approx(bits, rel=1e-12, abs=1e-9)

    rate = share * u.size
    result = reverse_waterfill(u, rate=rate)
    active = u[u > result.level]
    bits = 0.5 * math.fsum(np.log2(active) - np.log2(result.level))
    assert bits == pytest.approx(rate, rel=1e-11, abs=2e-9)


@settings(max_examples=25)
@given(st.integers(1, 60), st.floats(0.5, 3.0), st.floats(1e-12, 0.999))
def test_newton_needs_few_passes_on_geometric_variances(n: int, ratio: float, share: float) -> None:
    u = 2.0 ** (-ratio * np.arange(n))
    budget = share * float(u.sum())
    passes = 0
    original = module._water_held

    def counting(x: np.ndarray, level: float) -> module._Piece:
        nonlocal passes
        passes += 1
        return original(x, level)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_water_held", counting)
        level = reverse_waterfill(u, distortion=budget).level
    assert np.minimum(u, level).sum() == pytest.approx(budget, rel=1e-13)
    assert passes <= 2 + math.log2(n) + 53


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "exactly one"),
        ({"distortion": 1.0, "rate": 1.0}, "exactly one"),
        ({"distortion": -1.0}, "at least 0"),
        ({"rate": -1.0}, "at least 0"),
        ({"distortion": math.nan}, "NaN"),
        ({"rate": math.nan}, "NaN"),
        ({"distortion": [1.0]}, "one number"),
        ({"rate": "two"}, "real"),
        ({"rate": 1.0, "weights": [1.0, -1.0]}, "weights must be at least 0"),
        ({"rate": 1.0, "weights": [1.0, math.nan]}, "NaN"),
        ({"rate": 1.0, "weights": [1.0, math.inf]}, "finite"),
        ({"rate": 1.0, "weights": [1.0, 1.0, 1.0]}, "broadcast"),
        ({"rate": 1.0, "weights": np.ones((2, 2))}, "broadcast"),
    ],
)
def test_bad_budgets_and_weights_are_refused(arguments: dict[str, Any], message: str) -> None:
    for variances in ([1.0, 2.0], [0.0, 0.0]):
        with pytest.raises(ValueError, match=message):
            reverse_waterfill(variances, **arguments)


@pytest.mark.parametrize(
    ("variances", "message"),
    [
        ([1.0, math.nan], "NaN"),
        ([1.0, -1e-9], "at least 0"),
        ([1.0, math.inf], "finite"),
        ([1e308, 1e308], "finite"),
        (["a"], "real"),
        (None, "real"),
        ([[1.0], [1.0, 2.0]], "ragged"),
        ([1j], "real"),
        ([True], "real"),
    ],
)
def test_bad_variances_are_refused(variances: Any, message: str) -> None:
    for budget in ({"distortion": 1.0}, {"rate": 1.0}, {"rate": 0.0}):
        with pytest.raises(ValueError, match=message):
            reverse_waterfill(variances, **budget)


def test_a_nan_hidden_in_a_large_array_is_found() -> None:
    v = np.ones(300_001)
    v[-2] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        reverse_waterfill(v, rate=1.0)
