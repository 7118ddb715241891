"""The normal distribution holds its digits in both tails."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from waterfill.theory import erfc, log_ndtr, ndtr, normal_interval

Z = np.linspace(-37.0, 37.0, 2961)


def test_erfc_agrees_with_the_c_library() -> None:
    x = np.concatenate([np.linspace(-6.0, 26.0, 4001), [0.0, 1e-300, -1e-8]])
    np.testing.assert_allclose(erfc(x), [math.erfc(t) for t in x], rtol=2e-15)


def test_erfc_at_the_ends() -> None:
    assert erfc(np.inf) == 0.0
    assert erfc(-np.inf) == 2.0
    assert erfc(0.0) == 1.0
    assert isinstance(erfc(0.5), float)


@pytest.mark.parametrize(
    ("z", "expected"),  # fifty-digit arithmetic
    [
        (-37.5, 4.605353009581954843e-308),
        (-20.0, 2.753624118606233695e-89),
        (-1.0, 0.1586552539314570514),
        (3.0, 0.9986501019683699055),
    ],
)
def test_ndtr_known_values(z: float, expected: float) -> None:
    assert ndtr(z) == pytest.approx(expected, rel=2e-15)


def test_log_ndtr_is_the_logarithm_of_ndtr_and_goes_on_where_it_underflows() -> None:
    z = Z[Z < 5.0]
    np.testing.assert_allclose(np.exp(log_ndtr(z)), ndtr(z), rtol=2e-13)
    assert log_ndtr(-1000.0) == pytest.approx(-500007.82669481218, rel=1e-15)
    assert log_ndtr(10.0) == pytest.approx(-7.619853024160526066e-24, rel=1e-14)
    assert log_ndtr(-np.inf) == -np.inf
    assert log_ndtr(np.inf) == 0.0


@pytest.mark.parametrize("width", [1e-3, 0.05, 0.29, 0.31, 1.0, 2.5])
def test_intervals_tile_the_line(width: float) -> None:
    edges = np.concatenate([[-np.inf], np.arange(-8.0, 8.0, width), [np.inf]])
    assert math.fsum(normal_interval(edges[:-1], edges[1:])) == pytest.approx(1.0, abs=1e-14)


@given(st.floats(-36.0, 36.0), st.floats(1e-9, 8.0))
def test_an_interval_is_the_sum_of_its_halves_and_of_its_mirror_image(a: float, w: float) -> None:
    b, m = a + w, a + 0.5 * w
    whole = normal_interval(a, b)
    assert whole == normal_interval(-b, -a)
    halves = normal_interval(a, m) + normal_interval(m, b)
    if min(abs(a), abs(b)) < 37.0 and a < m < b:
        assert halves == pytest.approx(whole, rel=1e-14)


@pytest.mark.parametrize("z", [0.0, 1.0, -6.0, 20.0, -37.0])
def test_a_narrow_interval_holds_density_times_width(z: float) -> None:
    a, b = z - 1e-7, z + 1e-7
    density = math.exp(-z * z / 2) / math.sqrt(2 * math.pi)
    assert normal_interval(a, b) == pytest.approx(density * (b - a), rel=1e-11)


def test_a_far_interval_known_value() -> None:
    # Fifty-digit arithmetic: Q(30) - Q(31).
    assert normal_interval(30.0, 31.0) == pytest.approx(4.906713927148187059e-198, rel=2e-13)
    assert normal_interval(-31.0, -30.0) == normal_interval(30.0, 31.0)


def test_degenerate_intervals() -> None:
    assert normal_interval(-np.inf, np.inf) == 1.0
    assert normal_interval(np.inf, np.inf) == 0.0
    assert normal_interval(2.0, 2.0) == 0.0
    assert normal_interval(0.0, np.inf) == 0.5
    assert normal_interval(np.zeros((2, 1)), np.ones(3)).shape == (2, 3)
    assert normal_interval(np.zeros(0), 1.0).shape == (0,)


def test_bad_bounds_are_refused() -> None:
    with pytest.raises(ValueError, match="exceed"):
        normal_interval(1.0, 0.0)
    with pytest.raises(ValueError, match="NaN"):
        normal_interval(np.nan, 0.0)
    with pytest.raises(ValueError, match="broadcast"):
        normal_interval(np.zeros(2), np.ones(3))
    for function in (erfc, ndtr, log_ndtr):
        with pytest.raises(ValueError, match="NaN"):
            function([0.0, np.nan])
        with pytest.raises(ValueError, match="real"):
            function([1j])
