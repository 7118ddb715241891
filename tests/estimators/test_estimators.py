"""No bound crosses the truth beyond its interval; every point says what it is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import waterfill as wf
from waterfill.data.source_names import open_source
from waterfill.data.sources import Source, gaussian, patches
from waterfill.errors import WaterfillError
from waterfill.estimators import RDPoint, Status, Units, all_bounds
from waterfill.estimators.atoms import score
from waterfill.estimators.blahut_arimoto import BlahutArimotoGrid
from waterfill.estimators.dual import climb
from waterfill.estimators.limits import TransformLimits
from waterfill.estimators.method import (
    FRESH,
    FitThenScore,
    Method,
    Run,
    Scorer,
    check_single,
    fresh_interval,
    mean_interval,
)
from waterfill.estimators.nerd import Nerd
from waterfill.estimators.priors import Factorised, Flow, Posterior, TwoLevels
from waterfill.estimators.sandwich import Sandwich, SandwichUpper
from waterfill.estimators.wgd import WassersteinDescent

#: Small enough for seconds, large enough to be far from useless.
SMALL: dict[str, dict[str, Any]] = {
    "ba": {"cells": 225, "histogram": 20_000, "iterations": 90, "samples": 8000},
    "wgd": {"particles": 60, "steps": 25, "batch": 1000, "samples": 8000},
    "nerd": {"atoms": 2000, "training_atoms": 300, "steps": 15, "samples": 3000},
    "sandwich-upper": {"steps": 25, "samples": 8000},
    "sandwich-lower": {"k": 96, "steps": 25, "repeats": 10, "hidden": 32},
}


def margin(point: RDPoint) -> float:
    """How far R may be from the truth: twice the half-width of the 95 % interval."""
    assert point.interval is not None
    return point.interval[1] - point.interval[0]


def lagrangian(source: Source, slope: float) -> float:
    d, r = source.truth(slope)  # type: ignore[misc]
    return r + slope * d


@pytest.mark.parametrize("method", SMALL)
@settings(deadline=None, max_examples=3, derandomize=True)
@given(
    st.lists(st.floats(0.1, 3.0), min_size=1, max_size=2), st.floats(0.3, 8.0), st.integers(0, 99)
)
def test_bounds_are_bounds(method: str, variances: list[float], slope: float, seed: int) -> None:
    """Over random small Gaussians; R + λD is what is bounded."""
    source = gaussian(np.array(variances))
    curve = wf.bounds(
        source, method, [slope], rate_unit="nats", distortion="sse", seed=seed, **SMALL[method]
    )
    (point,) = curve.points
    exact = lagrangian(source, slope)
    if point.status == Status.LOWER:
        assert point.lagrangian <= exact + margin(point)
        assert point.lagrangian >= 0.5 * exact - margin(point)  # and not empty
    else:
        assert point.lagrangian >= exact - margin(point)
        assert point.lagrangian <= exact + 1.0  # and not empty
    if point.ceiling is not None:
        read = point.lagrangian if point.status == Status.LOWER else point.rate
        assert read <= point.ceiling + 1e-9


@settings(deadline=None, max_examples=25, derandomize=True)
@given(st.lists(st.floats(0.05, 1.0), min_size=2, max_size=6), st.floats(0.2, 6.0))
def test_discrete_sources_are_solved_exactly(weights: list[float], slope: float) -> None:
    p = "+".join(str(weight / sum(weights)) for weight in weights)
    (point,) = wf.bounds(f"discrete:p={p}", "ba", [slope], rate_unit="nats").points
    d, r = open_source(f"discrete:p={p}").truth(slope / 2)  # type: ignore[misc]
    exact = r + slope * d / 2
    assert point.certificate is not None
    assert point.certificate[0] - 1e-9 <= exact <= point.certificate[1] + 1e-9
    assert point.interval is None
    assert not point.near_ceiling  # the alphabet's own


@pytest.mark.parametrize("method", SMALL)
def test_same_seed_same_result_and_torch_is_left_alone(method: str) -> None:
    settings_of = (
        {**SMALL[method], "samples": 2000} if "samples" in SMALL[method] else SMALL[method]
    )
    state = torch.random.get_rng_state()
    a, b, c = (
        wf.bounds("gaussian:n=1", method, [4.0], seed=seed, **settings_of).points[0]
        for seed in (3, 3, 4)
    )
    assert torch.equal(state, torch.random.get_rng_state())
    assert (a.distortion, a.rate, a.interval) == (b.distortion, b.rate, b.interval)
    assert a.rate != c.rate


def test_units_are_one_point_in_many_words() -> None:
    """λ in the units of R and D: the same problem, so the same numbers converted."""
    nats = wf.bounds("sphere:n=4", "wgd", [10.0], rate_unit="nats", distortion="half-sse",
                     **SMALL["wgd"]).points[0]  # fmt: skip
    slope = 10.0 / math.log(2) * 2 / 4  # bits/dim of 4, mse = 2 half-sse / 4
    bits = wf.bounds("sphere:n=4", "wgd", [slope], rate_unit="bits/dim", distortion="mse",
                     **SMALL["wgd"]).points[0]  # fmt: skip
    assert bits.rate * 4 * math.log(2) == pytest.approx(nats.rate, rel=1e-9)
    assert bits.distortion == pytest.approx(nats.distortion / 2, rel=1e-9)
    assert bits.slope == pytest.approx(slope)
    assert bits.ceiling == pytest.approx(math.log2(60) / 4)


def test_a_point_near_its_ceiling_says_so() -> None:
    few = wf.bounds("gaussian:n=2", "wgd", [200.0], particles=8, steps=10, samples=2000).points[0]
    assert few.ceiling == pytest.approx(3.0)
    assert few.near_ceiling
    assert few.rate <= 3.0 + 1e-9
    assert not wf.bounds("gaussian:n=2", "wgd", [1.0], **SMALL["wgd"]).points[0].near_ceiling
    # And the lower bound's intercept can't exceed log k.
    low = wf.bounds("gaussian:n=8", "sandwich-lower", [300.0], rate_unit="nats", k=32, steps=2,
                    repeats=5).points[0]  # fmt: skip
    assert low.lagrangian <= math.log(32)


def test_a_rate_above_ln_n_is_sound_where_weights_differ_and_only_there() -> None:
    """A letter of weight w costs −ln w, however often it comes."""
    rare = replace(
        gaussian(np.ones(1)), fresh=lambda count, rng: 5.0 + 1e-3 * rng.standard_normal((count, 1))
    )
    atoms, run = torch.tensor([[0.0], [5.0]], dtype=torch.float64), Run()
    weights = torch.tensor([0.99, 0.01], dtype=torch.float64)
    found = score(rare, atoms, weights.log(), 50.0, run, samples=100)
    assert found.rate == pytest.approx(math.log(100), rel=1e-6)
    assert found.near_ceiling
    assert found.is_sound(1e-16)
    assert not replace(found, lagrangian=2 * found.lagrangian).is_sound(1e-16)
    even = score(rare, atoms, torch.full_like(weights, 0.5).log(), 50.0, run, samples=100)
    assert even.rate == pytest.approx(math.log(2), rel=1e-6)
    assert not replace(even, lagrangian=found.lagrangian).is_sound(1e-16)


def test_a_few_samples_that_fall_to_rare_particles_are_no_rounding_error() -> None:
    samples = np.random.default_rng(1).standard_t(1.5, (30, 2))
    (point,) = wf.bounds(samples, "wgd", [30.0], rate_unit="nats", distortion="sse",
                         particles=2, steps=40, batch=100).points  # fmt: skip
    assert point.rate > math.log(2) + 0.5 * math.log(2)
    assert point.near_ceiling


def test_a_curve_carries_the_truth_and_shannons_bound() -> None:
    curve = wf.bounds("sphere:n=2", "wgd", [10.0], **SMALL["wgd"])
    assert curve.truth
    # Where both are known, Shannon's bound lies on or below.
    assert max(r for _, r in curve.truth) <= max(r for _, r in curve.shannon) + 1e-9
    (row,), (point,) = curve.to_frame().to_dict("records"), curve.points
    assert (row["source"], row["rate_unit"], row["distortion_unit"]) == (
        curve.source,
        "bits",
        "mse",
    )
    assert (row["interval_low"], row["interval_high"]) == point.interval
    assert row["certificate_low"] is None
    assert curve.to_dict()["points"][0]["status"] == "upper bound"
    assert curve.environment["seed"] == 0


def test_fitting_and_scoring_never_meet() -> None:
    """Scored on the samples that they sit on, atoms would leave no distortion."""
    vectors = np.random.default_rng(0).standard_normal((240, 12))
    curve = wf.bounds(
        vectors, "wgd", [5000.0], distortion="sse", particles=200, steps=30, batch=400
    )
    assert curve.points[0].samples == 40
    assert curve.points[0].distortion > 3.0


def test_a_batch_smaller_than_the_particles_does_not_make_them_forget() -> None:
    """Fifteen particles for each sample of a step: most get nothing, and must not die of it."""
    found = {
        batch: wf.bounds("gaussian:n=4", "wgd", [40.0], rate_unit="nats", distortion="sse",
                         particles=1500, batch=batch, steps=steps, samples=4000).points[0]
        for batch, steps in ((100, 80), (6000, 4))
    }  # fmt: skip
    assert found[100].lagrangian < found[6000].lagrangian + 1.0


@pytest.mark.parametrize(
    "method",
    [
        WassersteinDescent(particles=60, steps=5, batch=300, samples=500),
        Nerd(atoms=200, training_atoms=50, steps=3, samples=500),
        SandwichUpper(steps=3, samples=500),
    ],
)
def test_what_is_fitted_once_can_be_read_on_several_sources(method: FitThenScore) -> None:
    near, far = gaussian(np.array([1.0, 0.5])), gaussian(np.array([4.0, 4.0]))
    here, there = method.on(near, [near, far], 2.0, Run(3))
    (alone,) = method.curve(near, [2.0], Run(3))
    assert here.lagrangian == alone.lagrangian
    assert here.distortion == alone.distortion
    assert there.lagrangian > here.lagrangian + 1.0


def test_blahut_arimoto_on_given_points_reaches_any_dimension() -> None:
    curve = wf.bounds("gaussian:n=6", "ba", [1.0], support="data", atoms=100, letters=400,
                      iterations=60, samples=2000, rate_unit="nats", distortion="sse")  # fmt: skip
    (point,) = curve.points
    assert point.lagrangian >= lagrangian(open_source("gaussian:n=6"), 1.0) - margin(point)
    assert point.ceiling is not None
    assert point.ceiling <= math.log(100)


@pytest.mark.parametrize("kind", [Flow, TwoLevels])
def test_priors_are_normalised(kind: Any) -> None:
    """E KL ≥ 0, and with q = p it is 0: what a density that sums to more than 1 would break."""
    torch.manual_seed(0)
    q = Posterior(torch.zeros(40_000, 2), torch.zeros(40_000, 2))
    untrained = kind(2, 16)
    with torch.no_grad():
        assert float(untrained.divergence(q, q.sample()).mean()) == pytest.approx(0.0, abs=0.02)
        for parameter in untrained.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        assert float(untrained.divergence(q, q.sample()).mean()) > -0.02


def test_divergence_of_gaussians_is_exact() -> None:
    prior = Factorised(1, 0)
    q = Posterior(torch.tensor([[1.0]]), torch.tensor([[math.log(0.5)]]))
    expected = 0.5 * (0.25 + 1.0 - 1.0 - math.log(0.25))
    assert float(prior.divergence(q, q.sample()).detach()) == pytest.approx(expected, rel=1e-6)


def test_a_flow_sees_only_what_came_before() -> None:
    flow = Flow(3, 16)
    stack = flow.stacks[0]
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in stack.parameters():
            parameter.normal_()
        z = torch.randn(1, 3)
        moved = z + torch.tensor([0.0, 0.0, 5.0])
        for a, b in zip(stack(z), stack(moved), strict=True):
            torch.testing.assert_close(a, b)  # the last component moves no output
        a, b = stack(z)[0], stack(z + torch.tensor([5.0, 0.0, 0.0]))[0]
    assert a[0, 0] == b[0, 0]
    assert (a[0, 1:] != b[0, 1:]).all()


def test_the_climb_finds_the_summit_that_a_grid_finds() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(80, 2, generator=generator, dtype=torch.float64)
    log_u = 0.3 * torch.randn(80, generator=generator, dtype=torch.float64)
    _, height = climb(x, log_u, 20.0, x)
    axis = torch.linspace(-3, 3, 301, dtype=torch.float64)
    grid = torch.cartesian_prod(axis, axis)
    values = torch.logsumexp(-log_u - 20.0 * torch.cdist(grid, x).square(), 1) - math.log(80)
    assert height >= float(values.max())
    assert height == pytest.approx(float(values.max()), abs=0.02)


def test_the_climb_finds_a_summit_far_from_all_samples() -> None:
    """Of long vectors each sample is a summit of its own, below the one in the middle of all."""
    x = torch.randn(64, 1000, generator=torch.Generator().manual_seed(0))
    slope = 3.6 / 1000
    _, height = climb(x, torch.zeros(64), slope, x)
    assert height >= float(torch.logsumexp(-slope * x.square().sum(1), 0)) - math.log(64)


def test_no_lower_bound_is_above_the_truth_where_it_nears_ln_k() -> None:
    source = gaussian(np.ones(400))
    slope = 3.8 / 400  # below 1/2 nothing is sent: F is λ times the variance
    (point,) = wf.bounds(source, "sandwich-lower", [slope], rate_unit="nats", distortion="sse",
                         k=64, steps=5, repeats=4, hidden=16).points  # fmt: skip
    assert lagrangian(source, slope) == pytest.approx(3.8)
    assert point.lagrangian - margin(point) <= 3.8


def test_a_component_that_hardly_ever_varies_does_not_spoil_the_lower_bound() -> None:
    """As a pixel at the border of a digit, which is black in the first samples."""
    rng = np.random.default_rng(0)
    samples = np.column_stack([rng.standard_normal(6000), rng.random(6000) < 0.005])
    (point,) = wf.bounds(samples, "sandwich-lower", [2.0], rate_unit="nats", distortion="sse",
                         k=20, steps=20, repeats=4, hidden=16).points  # fmt: skip
    # One Gaussian's F is ½ ln 2λ + ½; half of that is little to ask for.
    assert 0.25 * (math.log(4.0) + 1.0) < point.lagrangian


LOWER = {"k": 64, "steps": 2, "repeats": 4}


@pytest.mark.parametrize(
    ("source", "method", "more", "message"),
    [
        ("gaussian", "magic", {}, "no such method"),
        ("gaussian", "wgd", {"particle": 3}, "no setting"),
        ("gaussian", "wgd", {"particles": "many"}, "number"),
        ("gaussian", "wgd", {"particles": 0}, "above zero"),
        ("gaussian", "wgd", {"particles": 1.5}, "whole"),
        ("gaussian:n=4", "ba", {}, "out of reach"),
        ("gaussian:n=65536", "limits", {}, "in 16,384 dimensions at most, not 65,536"),
        ("gaussian:n=65536", "sandwich", {}, "in 16,384 dimensions at most, not 65,536"),
        ("gaussian", "ba", {"support": "sky"}, "grid or data"),
        ("gaussian", "sandwich", {"prior": "vamp"}, "prior"),
        ("gaussian", "sandwich-lower", {"k": 1}, "between"),
        ("gaussian", "ba", {"slopes": [0.0]}, "slopes"),
        ("gaussian", "ba", {"slopes": []}, "slopes"),
        ("gaussian", "ba", {"slopes": [math.nan]}, "slopes"),
        ("gaussian", "ba", {"slopes": [1e300]}, "slopes must lie in"),
        ("gaussian", "ba", {"slopes": [1e-300]}, "slopes must lie in"),
        ("gaussian", "ba", {"slopes": [1e20], "cells": 400}, r"slope of 1e\+20.* smaller slopes"),
        ("gaussian", "limits", {"fit": 1}, "2 samples"),
        ("gaussian", "ais", {"fit": 1}, "2 samples"),
        ("gaussian", "ba", {"slopes": [1e17], "cells": 400}, "smaller slopes"),
        ("gaussian", "wgd", {"slopes": [1e25], "particles": 9, "steps": 2}, "smaller slopes"),
        ("gaussian:n=70", "wgd", {"slopes": [1e9], "particles": 9, "steps": 2}, "smaller slopes"),
        ("gaussian", "sandwich-lower", {"slopes": [1e20], **LOWER}, "smaller slopes"),
        ("gaussian:var=1e20", "limits", {"slopes": [1e12], "fit": 9}, "smaller slopes"),
        ("gaussian", "ba", {"rate_unit": "dB"}, "rate unit"),
        ("gaussian", "ba", {"distortion": "psnr"}, "distortion"),
        ("gaussian", "ba", {"distortion": "hamming"}, "discrete"),
        ("discrete", "ba", {"distortion": "mse"}, "discrete"),
        ("discrete", "ba", {"rate_unit": "bits/dim"}, "letter"),
        ("discrete", "wgd", {}, "alphabet"),
        ("gaussian", "ba", {"seed": -1}, "seed"),
        ("gaussian", "ba", {"seed": 2**70}, "seed"),
        ("gaussian", "ba", {"seed": None}, "seed"),
        ("gaussian", "ba", {"seed": 0.5}, "seed"),
        (np.zeros((3, 2)), "wgd", {}, "twelve"),
        ([[1.0, 2.0], [3.0]], "wgd", {}, "list: is no array of samples"),
        (torch.zeros(20, 2, requires_grad=True), "wgd", {}, "Parameter|Tensor: is no array"),
        (None, "wgd", {}, "array of numbers"),
        ("gaussian", "ba", {"slopes": "steep"}, "slopes must be numbers"),
        ("gaussian", "ba", {"slopes": 0.0}, "slopes must be numbers"),
        ("gaussian", "ba", {"slopes": None}, "slopes must be numbers"),
        (
            np.random.default_rng(0).standard_normal((60, 2)),
            "sandwich-lower",
            {"steps": 1},
            "k = 1024 takes 4096 samples held back, and there are 10; choose a smaller k",
        ),
    ],
)
def test_what_can_not_be_done_is_said_in_one_line(
    source: Any, method: str, more: dict[str, Any], message: str
) -> None:
    with pytest.raises(WaterfillError, match=message) as caught:
        wf.bounds(source, method, **more)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("source", "method"),
    [(np.zeros((60, 2)), Sandwich()), ("discrete", Nerd()), ("gaussian:n=4", BlahutArimotoGrid())],
    ids=["sandwich", "nerd", "ba"],
)
def test_what_one_method_can_not_do_is_said_before_another_begins(
    source: Any, method: Method
) -> None:
    class Untouched(WassersteinDescent):
        def check(self, source: Source, slopes: Sequence[float]) -> None:
            return

        def fit(self, source: Source, slope: float, run: Run) -> Scorer:
            raise AssertionError("it has begun")

    with pytest.raises(WaterfillError):
        all_bounds(source, [Untouched(), method], 1.0)


def test_what_single_precision_cant_tell_apart_is_no_perfect_copy() -> None:
    samples = 1e8 + np.random.default_rng(0).standard_normal((60, 2))
    (point,) = wf.bounds(samples, "sandwich-upper", [1.0], steps=1, hidden=0, batch=16).points
    # h(X) is that of two Gaussians: R ≥ log₂(1/D) for D the error of each.
    assert point.rate > math.log2(1.0 / point.distortion) - 0.5


@pytest.mark.parametrize("dimension", [1, 2, 70])
def test_what_never_varies_costs_the_autoencoder_next_to_nothing(dimension: int) -> None:
    (point,) = wf.bounds(np.ones((60, dimension)), "sandwich-upper", [2.0], rate_unit="nats",
                         steps=5, batch=16, hidden=8).points  # fmt: skip
    assert abs(point.lagrangian) < 0.1 * dimension


def test_samples_and_slopes_come_as_lists_tensors_or_one_number() -> None:
    samples = np.random.default_rng(0).standard_normal((60, 2)).astype(np.float32)
    small = {"particles": 8, "steps": 5, "seed": 1}
    expected = wf.bounds(samples, "wgd", [2.0], **small).points
    for same in (samples.tolist(), torch.from_numpy(samples)):
        assert_same(wf.bounds(same, "wgd", [2.0], **small).points, expected)
    for slope in (2.0, 2, np.float32(2), np.array([2.0]), torch.tensor([2.0])):
        assert_same(wf.bounds(samples, "wgd", slope, **small).points, expected)


def assert_same(points: Sequence[RDPoint], others: Sequence[RDPoint]) -> None:
    told = [[(p.slope, p.rate, p.distortion) for p in both] for both in (points, others)]
    assert told[0] == told[1]


def test_units_convert_slopes() -> None:
    assert Units("nats", "mse", 2).inner_slope(3.0) == pytest.approx(1.5)
    assert Units("bits/dim", "mse", 1000).inner_slope(3.0) == pytest.approx(3.0 * math.log(2))


@pytest.mark.parametrize("method", SMALL)
def test_a_source_in_other_units_has_the_same_rate(method: str) -> None:
    samples = np.random.default_rng(3).normal([0.0, 4.0], 1.0, (3000, 2))
    rate, *others = (
        wf.bounds(unit * samples, method, [4.0 / unit**2], seed=1, **SMALL[method]).points[0].rate
        for unit in (1.0, 256.0, 2.0**-7)
    )
    assert others == pytest.approx([rate, rate], rel=1e-5)


def test_streams_of_a_seed_differ() -> None:
    run = Run(5)
    assert run.rng(1).random() != run.rng(2).random()


def test_the_oracle_undercuts_the_truth_and_is_called_genie_aided() -> None:
    curve = wf.bounds("gaussian:n=2,rho=0.8", "limits", [6.0], distortion="sse", rate_unit="nats")
    honest, oracle, below = curve.points
    exact = lagrangian(open_source("gaussian:n=2,rho=0.8"), 6.0)
    assert honest.status == "upper bound"
    # Fitted on the right family, it is R(D) itself.
    assert honest.lagrangian == pytest.approx(exact, abs=margin(honest))
    assert oracle.status == "genie-aided"
    assert oracle.lagrangian < exact - margin(oracle)
    assert below.status == "lower bound"
    assert below.lagrangian == pytest.approx(exact, rel=1e-12)
    assert below.interval is None


def test_a_lower_bound_is_given_where_theory_has_one() -> None:
    """Shannon's where h(X) is known, and none for samples."""
    settings = {"fit": 500, "samples": 500}
    (below,) = wf.bounds("laplacian:n=1", "limits", [9.0], **settings).of("lower bound")
    assert below.note == "Shannon's lower bound"
    # h − ½ ln(2πe D), with h = 1 + ln 2 for unit scale: bits at the D of this slope.
    level = 0.5 / (9.0 * math.log(2.0))
    entropy = (1.0 + math.log(2.0)) / math.log(2.0)
    assert below.distortion == pytest.approx(level)
    assert below.rate == pytest.approx(entropy - 0.5 * math.log2(2.0 * math.pi * math.e * level))
    samples = np.random.default_rng(0).normal(size=(600, 2))
    assert not wf.bounds(samples, "limits", [9.0], **settings).of("lower bound")


@pytest.mark.parametrize("count", [3, 10, 400])
def test_intervals_hold_the_mean_as_often_as_they_say(count: int) -> None:
    draws = torch.randn(4000, count, generator=torch.Generator().manual_seed(0))
    held = [low <= 0.0 <= high for _, (low, high) in map(mean_interval, draws)]
    assert sum(held) / len(held) == pytest.approx(0.95, abs=0.012)


@pytest.mark.parametrize(
    ("method", "settings"),
    [("wgd", {"particles": 10, "steps": 2}), ("limits", {}), ("sandwich-upper", {"steps": 1})],
)
def test_samples_too_far_from_zero_for_single_precision_are_refused(
    method: str, settings: dict[str, Any]
) -> None:
    samples = np.random.default_rng(0).standard_normal((300, 80))
    with pytest.raises(WaterfillError, match="so far from zero that single precision") as refusal:
        wf.bounds(samples + 1e6, method, [1.0], **settings)
    assert "\n" not in str(refusal.value)


def test_samples_less_far_from_zero_are_none_too_far() -> None:
    samples = np.random.default_rng(0).standard_normal((300, 80))
    # A coordinate that is always the same is rounded, too, but for all alike.
    constant = samples.copy()
    constant[:, 3] = 1e9 + 0.1
    for some in (samples + 1e4, constant, np.full((300, 80), 0.1)):
        check_single(some)


def test_short_vectors_may_lie_far_from_zero() -> None:
    samples = np.random.default_rng(0).standard_normal((300, 2))
    near, far = (
        wf.bounds(samples + offset, "wgd", [1.0], particles=20, steps=5).points[0].rate
        for offset in (0.0, 1e6)
    )
    assert near == pytest.approx(far, abs=1e-4)


def test_points_on_patches_say_that_these_are_alike(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for k in range(3):
        Image.fromarray(rng.integers(0, 256, (20, 20, 3), dtype=np.uint8)).save(
            tmp_path / f"{k}.png"
        )
    source = patches(tmp_path, size=2, count=300)
    for method in (WassersteinDescent(particles=20, steps=5), TransformLimits(fit=100)):
        found = wf.bounds(source, method, [10.0]).points
        with_interval = [p for p in found if p.interval is not None]
        assert with_interval
        for point in with_interval:
            assert "patches of a picture are alike" in point.note
    law = wf.bounds("gaussian:n=2", "wgd", [1.0], particles=5, steps=1)
    assert "alike" not in law.points[0].note


def test_intervals_on_patches_are_over_pictures(tmp_path: Path) -> None:
    """Of plain pictures a patch more says nothing: Student's interval of one number for each."""
    greys = np.random.default_rng(0).integers(0, 256, 18)
    for k, grey in enumerate(greys):
        Image.new("L", (9, 9), int(grey)).save(tmp_path / f"{k:02}.png")
    source, run = patches(tmp_path, size=3, count=18 * 40), Run(3)
    values = run.tensor(source.fresh(999, run.rng(FRESH))).mean(1)
    assert source.pictures is not None
    of = source.pictures(999, run.rng(FRESH))
    held = greys[1::6] / 255.0
    assert values.tolist() == pytest.approx(held[of].tolist())
    mean, (low, high), count = fresh_interval(values, source, run)
    expected, (lowest, highest) = mean_interval(torch.from_numpy(held))
    assert (mean, low, high, count) == pytest.approx((expected, lowest, highest, 3))
    # Fewer patches than there are, so not as many of each picture.
    some = run.tensor(source.fresh(50, run.rng(FRESH))).mean(1)
    near = 0.5 * (high - low)
    assert fresh_interval(some, source, run)[1] == pytest.approx((low, high), abs=near)
    (point,) = wf.bounds(source, "wgd", [10.0], particles=5, steps=3).points
    assert point.note == "the interval is over 3 pictures, whose patches are alike"
