"""A linear decoder's answer is known: annealing finds it, and with few steps it does not."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import waterfill as wf
from waterfill.data.sources import banana
from waterfill.errors import WaterfillError
from waterfill.estimators.ais import AnnealedImportance, schedule
from waterfill.estimators.method import Run


def exact(x: np.ndarray, w: np.ndarray, b: np.ndarray, slope: float) -> tuple[float, float]:
    """F and D of x = Wz + b, in nats and squared error."""
    n, k = w.shape
    c = np.linalg.inv(np.eye(k) + 2 * slope * w.T @ w)
    mean = 2 * slope * (x - b) @ w @ c
    rate = 0.5 * (np.trace(c) + (mean**2).sum(1) - k - np.linalg.slogdet(c)[1])
    s = w @ w.T + np.eye(n) / (2 * slope)
    log_z = -0.5 * np.sum((x - b) @ np.linalg.inv(s) * (x - b), 1)
    log_z += -0.5 * np.linalg.slogdet(2 * np.pi * s)[1] + 0.5 * n * math.log(math.pi / slope)
    return float(-log_z.mean()), float(((-log_z - rate) / slope).mean())


def test_linear_decoder() -> None:
    rng = np.random.default_rng(0)
    w, b = rng.standard_normal((6, 3)), rng.standard_normal(6)
    x = rng.standard_normal((20, 3)) @ w.T + b + 0.1 * rng.standard_normal((20, 6))
    slope = 20.0
    true_f, true_d = exact(x, w, b, slope)
    true_rate = true_f - slope * true_d
    weight, bias = torch.tensor(w), torch.tensor(b)
    rates, gaps = {}, {}
    for temperatures in (300, 20):
        method = AnnealedImportance(temperatures=temperatures, chains=16, leapfrog=8)
        found, gaps[temperatures] = method.read(
            torch.tensor(x), lambda z: z @ weight.T + bias, 3, [2.0, slope], Run(0)
        )
        f = -float(found.log_z()[-1].mean())
        assert f > true_f - 0.05  # E ln Ẑ ≤ ln Z
        rates[temperatures] = f - slope * float(found.distortions()[-1].mean())
    assert rates[300] == pytest.approx(true_rate, rel=0.05)
    assert rates[20] > 1.15 * true_rate
    assert 0.0 < gaps[300] < 0.3 * gaps[20]


def test_temperatures_pass_through_every_slope() -> None:
    steps = schedule([1.0, 7.0, 30.0], 50)
    assert steps == sorted(set(steps))
    assert {1.0, 7.0, 30.0} <= set(steps)
    assert steps[-1] == 30.0
    assert steps[0] > 0


def test_one_run_gives_the_curve_and_says_it_is_an_estimate() -> None:
    curve = wf.bounds("gaussian:n=3", "ais", [1.0, 4.0], temperatures=40, chains=4, samples=20,
                      leapfrog=4, latent=3)  # fmt: skip
    low, high = curve.points
    assert low.status == high.status == "estimate"
    assert low.distortion > high.distortion
    assert low.rate < high.rate
    assert "BDMC gap" in high.note


def test_a_trained_decoder_bends_where_the_source_does() -> None:
    def lagrangian(**settings: int) -> float:
        method = AnnealedImportance(latent=2, temperatures=60, chains=4, samples=60, **settings)
        (found,) = method.curve(banana(), [2.0], Run(0))
        assert ("β-VAE at λ = 2" in found.note) == bool(settings)
        return found.lagrangian

    bound = banana().shannon_bound(2.0)
    assert bound is not None
    distortion, rate = bound
    linear, bent = lagrangian(), lagrangian(hidden=24, steps=300)
    assert rate + 2.0 * distortion - 0.1 < bent < linear - 0.3


def test_equal_slopes_are_refused() -> None:
    with pytest.raises(WaterfillError, match="differ"):
        wf.bounds("gaussian", "ais", [1.0, 1.0])
