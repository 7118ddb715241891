"""BD-rate in full: known answers, an independent implementation, and what is said of bad curves."""

from __future__ import annotations

import math
import warnings
from itertools import pairwise, permutations

import numpy as np
import pytest
from numpy.typing import NDArray

import waterfill as wf
from waterfill.errors import CurveError, WaterfillError
from waterfill.evaluation.bd import LEAST_PICTURES, Method, bootstrap_interval, compare
from waterfill.evaluation.published import published_curve, published_curves

CURVE = np.array([(0.12, 27.6), (0.25, 30.1), (0.49, 33.0), (0.93, 36.2), (1.6, 39.7)])


@pytest.mark.parametrize(
    ("test", "percent"),
    [
        ("HPCM-Large", -19.95),
        ("LALIC", -15.26),
        ("mbt2018", 11.0),
        ("hyperprior", 30.5),
        ("bpg", 22.0),
        ("MLIC++", -15.0),
        ("elic", -7.0),
        ("cheng2020", 3.7),
        ("webp", 79.0),
        ("jpeg", 208.0),
    ],
)
def test_known_bd_rates_against_vtm_come_out(test: str, percent: float) -> None:
    found = compare(published_curve("vtm").array(), published_curve(test).array())
    tolerance = 0.5 if abs(percent) > 50 else 0.1
    assert found.rate_percent == pytest.approx(percent, abs=tolerance)


@pytest.mark.parametrize("method", ["pchip", "akima"])
def test_all_published_pairs_equal_an_independent_implementation(method: Method) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it imports a library of figures
        peer = pytest.importorskip("bjontegaard")
    # It wants distinct, ascending points. All pairs take long: they are a test of their own.
    curves = {
        name: curve.array()
        for name, curve in published_curves().items()
        if (np.diff(curve.array(), axis=0) > 0).all()
    }
    assert len(curves) >= 95
    names = list(curves)
    pairs = [("vtm", name) for name in names] + list(pairwise(names))
    compared = 0
    for a, b in pairs:
        (ra, qa), (rb, qb) = curves[a].T, curves[b].T
        try:
            found = compare(curves[a], curves[b], method=method)
        except WaterfillError:
            assert max(qa[0], qb[0]) >= min(qa[-1], qb[-1])
            continue
        about = {"method": method, "require_matching_points": False, "min_overlap": 0}
        assert found.rate_percent == pytest.approx(peer.bd_rate(ra, qa, rb, qb, **about), abs=1e-6)
        if math.isfinite(found.quality_db):
            expected = peer.bd_psnr(ra, qa, rb, qb, **about)
            assert found.quality_db == pytest.approx(expected, abs=1e-6)
        compared += 1
    assert compared >= 150


@pytest.mark.slow
def test_every_published_pair_equals_an_independent_implementation() -> None:
    peer = pytest.importorskip("bjontegaard")
    curves = {
        name: curve.array()
        for name, curve in published_curves().items()
        if (np.diff(curve.array(), axis=0) > 0).all()
    }
    compared = 0
    for (_, a), (_, b) in permutations(curves.items(), 2):
        if max(a[0, 1], b[0, 1]) < min(a[-1, 1], b[-1, 1]):
            found = wf.bd_rate(a, b)
            about = {"method": "pchip", "require_matching_points": False, "min_overlap": 0}
            expected = peer.bd_rate(a[:, 0], a[:, 1], b[:, 0], b[:, 1], **about)
            assert found == pytest.approx(expected, rel=1e-6, abs=1e-6)
            compared += 1
    assert compared > 9000


def test_the_fuller_result_agrees_with_the_short_one_and_says_what_it_rests_on() -> None:
    test = CURVE[::-1] * [0.8, 1.0] + [0.0, 2.0]
    found = compare(CURVE, test)
    assert found.rate_percent == pytest.approx(wf.bd_rate(CURVE, test), abs=1e-12)
    assert found.range_db == (29.6, 39.7)
    assert found.range_bpp == pytest.approx((0.12, 1.28))
    assert found.share == pytest.approx((39.7 - 29.6) / (41.7 - 27.6))
    assert found.interval is None
    assert len(found.warnings) == 1
    assert "72 %" in found.warnings[0]


def test_bd_psnr_of_a_raised_curve_is_what_it_was_raised_by() -> None:
    for method in ("pchip", "akima"):
        found = compare(CURVE, CURVE + np.array([0.0, 0.7]), method=method)  # type: ignore[arg-type]
        assert found.quality_db == pytest.approx(0.7, abs=1e-9)


def test_points_of_one_quality_and_falling_rates_are_reported() -> None:
    double = np.vstack([CURVE, CURVE[2] * [1.5, 1.0]])
    found = compare(double, CURVE * [0.9, 1.0])
    assert found.rate_percent == pytest.approx(-10.0)
    assert "1 dearer point " in found.warnings[0]
    falling = CURVE.copy()
    falling[2, 0] = 0.2
    assert any("rate falls" in line for line in compare(CURVE, falling).warnings)
    assert any("dearer" in w for w in compare(CURVE, johnston()).warnings)


def johnston() -> NDArray[np.float64]:
    """The one published curve that is not monotone."""
    return published_curve("tfc-johnston-2017-cvpr").array()


@pytest.mark.parametrize(
    ("test", "reason"),
    [
        (CURVE[:3], "at least four"),
        (CURVE[[0, 1, 2, 2]], "at least four"),
        (CURVE + np.array([0, 100]), "share no range of quality: 27.60 … 39.70 dB"),
        (CURVE * [1, np.nan], "finite"),
        (CURVE * [-1, 1], "positive"),
        (CURVE[:, 0], r"\(n, 2\)"),
    ],
)
def test_what_cannot_be_compared_is_refused_in_one_line(
    test: NDArray[np.float64], reason: str
) -> None:
    with pytest.raises(WaterfillError, match=reason) as refusal:
        compare(CURVE, test)
    assert "\n" not in str(refusal.value)


def test_unknown_methods_and_other_pictures_are_refused() -> None:
    with pytest.raises(WaterfillError, match="no method 'cubic'"):
        compare(CURVE, CURVE, method="cubic")  # type: ignore[arg-type]
    with pytest.raises(WaterfillError, match="2 and 3 pictures"):
        compare(np.stack([CURVE] * 2), np.stack([CURVE] * 3))


def stack(pictures: int, spread: float, seed: int) -> NDArray[np.float64]:
    """Curves of pictures, each with its own rates."""
    factors = np.exp(np.random.default_rng(seed).normal(0.0, spread, pictures))
    return np.stack([CURVE * [factor, 1.0] for factor in factors])


def test_an_interval_has_no_width_where_every_picture_agrees() -> None:
    anchor = stack(8, 0.5, 0)
    found = compare(anchor, anchor * [0.85, 1.0], resamples=50)
    assert found.interval == pytest.approx((-15.0, -15.0), abs=1e-9)
    assert found.rate_percent == pytest.approx(-15.0)


def test_few_pictures_have_no_interval() -> None:
    for count in (2, LEAST_PICTURES - 1):
        found = compare(stack(count, 0.3, 0), stack(count, 0.3, 1))
        assert found.interval is None
        assert math.isfinite(found.rate_percent)
    enough = compare(stack(LEAST_PICTURES, 0.3, 0), stack(LEAST_PICTURES, 0.3, 1), resamples=20)
    assert enough.interval is not None


def test_intervals_narrow_with_the_root_of_the_number_of_pictures_and_cover() -> None:
    widths = []
    for count in (10, 160):
        anchor = np.stack([CURVE] * count)
        found = compare(anchor, stack(count, 0.1, 1), resamples=200)
        assert found.interval is not None
        low, high = found.interval
        assert low < found.rate_percent < high
        widths.append(high - low)
    assert widths[0] / widths[1] == pytest.approx(4.0, rel=0.4)
    mean = compare(CURVE, stack(10, 0.1, 1), resamples=200)
    assert mean.interval is not None
    assert any("the other is a mean" in line for line in mean.warnings)
    again = compare(CURVE, stack(10, 0.1, 1), resamples=200)
    assert again.interval == mean.interval


@pytest.mark.parametrize("count", [8, 24])
def test_an_interval_of_few_pictures_covers_as_often_as_it_says(count: int) -> None:
    # Plain percentiles do so in 88 % and 92.5 % of cases; the expanded ones of 8 pictures in
    # 93.3 % where numpy's own quantile stands for the tail.
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(4000):
        means = rng.standard_normal(count)[rng.integers(count, size=(400, count))].mean(1)
        low, high = bootstrap_interval(means, count)
        covered += low <= 0.0 <= high
    assert 0.94 <= covered / 4000 <= 0.96


def test_an_interval_of_mean_rates_is_as_wide_as_students() -> None:
    # Of one curve at several rates BD-rate is the mean of factors: what Student's law was made for.
    tests = stack(8, 0.1, 1)
    factors = tests[:, 0, 0] / CURVE[0, 0]
    found = compare(np.stack([CURVE] * 8), tests)
    assert found.interval is not None
    student = 2 * 2.365 * 100.0 * factors.std(ddof=1) / math.sqrt(8)
    width = found.interval[1] - found.interval[0]
    assert width == pytest.approx(student, rel=0.1)


def test_what_is_no_array_of_numbers_is_a_curve_error() -> None:
    for wrong in ("a curve", [[1.0, 2.0], [3.0]]):
        with pytest.raises(CurveError, match="test must be an"):
            compare(CURVE, wrong)
    with pytest.raises(CurveError, match="coverage must lie between"):
        compare(CURVE, CURVE, coverage=95)
