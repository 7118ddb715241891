"""The known answers of the literature, at settings that take up to a minute each."""

from __future__ import annotations

import math

import numpy as np
import pytest

import waterfill as wf
from waterfill.data.source_names import open_source

pytestmark = pytest.mark.slow

PAIR = "gaussian:var=1.20552675+1.08976637"


def excess(point: object, source: str, slope: float, unit: float = 1.0) -> float:
    """R + λD above the truth, as a share of the true R."""
    d, r = open_source(source).truth(slope)  # type: ignore[misc]
    return (point.lagrangian * unit - (r + slope * d)) / r  # type: ignore[attr-defined]


def test_sandwich_of_two_gaussians() -> None:
    """λ = 3 on the mean squared error: R(⅓) = 1.23505 nats, F = 2.23505."""
    curve = wf.bounds(PAIR, "sandwich", [3.0], rate_unit="nats", steps=300, samples=400_000,
                      lower_steps=400)  # fmt: skip
    upper, lower = curve.points
    assert upper.status == "upper bound"
    assert 1.235 <= upper.lagrangian - 1.0 <= 1.245
    assert lower.status == "lower bound"
    assert 1.9 <= lower.lagrangian <= 2.235


def test_blahut_arimoto_of_two_gaussians() -> None:
    (point,) = wf.bounds(PAIR, "ba", [3.0], rate_unit="nats", samples=400_000).points
    assert point.lagrangian - 1.0 == pytest.approx(1.23505, rel=0.005)


@pytest.mark.parametrize("slope", [1.0, 3.0, 10.0, 30.0])
def test_a_thousand_gaussians(slope: float) -> None:
    source = "gaussian:n=1000,spread=2"
    (point,) = wf.bounds(source, "sandwich-upper", [slope], rate_unit="bits/dim", hidden=0,
                         prior="factorised", batch=64, steps=100).points  # fmt: skip
    inner = slope * math.log(2)
    assert -1e-3 <= excess(point, source, inner, 1000 * math.log(2)) <= 0.02


@pytest.mark.parametrize(("n", "nats", "particles"), [(2, 1.5394, 500), (5, 2.6807, 1000),
                                                      (10, 3.4488, 2000)])  # fmt: skip
def test_noisy_spheres_on_fresh_samples(n: int, nats: float, particles: int) -> None:
    (point,) = wf.bounds(f"sphere:n={n}", "wgd", [10.0], rate_unit="nats", distortion="half-sse",
                         particles=particles).points  # fmt: skip
    assert point.samples == 50_000
    rate = point.lagrangian - 10.0 * n * 0.05
    assert rate == pytest.approx(nats, rel=0.02)


@pytest.mark.parametrize(("slope", "published"), [(20.0, 10.878 - 10.575), (5.0, 6.837 - 6.793)])
def test_nerd_beats_the_published_read_outs_with_as_many_atoms(
    slope: float, published: float
) -> None:
    (point,) = wf.bounds("gaussian:n=40,decay=0.5", "nerd", [slope * math.log2(math.e)],
                         distortion="sse", steps=100).points  # fmt: skip
    assert point.ceiling == pytest.approx(math.log2(40_000))
    variances = 4.0 * np.exp(-np.arange(40.0))
    exact = wf.theory.reverse_waterfill(variances, distortion=point.distortion).bits
    assert -0.1 < point.rate - exact < published
