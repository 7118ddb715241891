"""Gaussian latents on the ladder: where Shannon is known, every rung must know its place."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from known_scale import SHAPE, gaussian_latents
from numpy.typing import NDArray

from waterfill import theory
from waterfill.codec.channels import (
    WATER_LEVEL,
    Channel,
    GaussianTest,
    OracleGaussian,
    Rounding,
)
from waterfill.codec.densities import Gaussian
from waterfill.codec.latents import Arrival, Latents
from waterfill.codec.noise import Noise
from waterfill.ladder.rungs import (
    CONTEXT,
    LADDER,
    TOLD,
    UNKNOWN_VARIANCE,
    Climb,
    Known,
    Predicted,
    Rung,
    Status,
    Told,
)
from waterfill.ladder.subjects import View, stepped, steps_around
from waterfill.ladder.variances import SPREAD, Grouped, Moments, Oracle, Pooled

RUNGS = {rung.name: rung for rung in LADDER}
COUNT = math.prod(SHAPE)


def climb(rung: Rung, latents: View, *, seed: int = 0) -> Climb:
    levels = torch.full((len(latents.y),), WATER_LEVEL)
    return rung.climb([latents], Known(Moments.of([latents.y]), levels), seed=seed)


def shannon_bits(latents: Latents) -> float:
    """R(D) of the sample: its own second moment, so that sampling noise doesn't count."""
    moment = float(latents.y.double().square().mean())
    return float(theory.gaussian_rate(moment, WATER_LEVEL))


def mean_bits(rung: Rung, latents: Latents) -> float:
    return climb(rung, latents).bits / latents.y.numel()


@pytest.mark.parametrize("log2_sigma", [-2.0, -1.0, 0.0, 1.5, 4.0])
def test_test_channel_reproduces_shannon(log2_sigma: float) -> None:
    latents = gaussian_latents(log2_sigma)
    reached = climb(RUNGS["test channel"], latents)
    shannon = theory.gaussian_rate(4.0**log2_sigma, WATER_LEVEL)
    assert reached.bits / COUNT == pytest.approx(shannon, abs=0.01)
    error = (latents.y - reached.y_hats[0]).square().mean()
    assert error == pytest.approx(min(WATER_LEVEL, 4.0**log2_sigma), rel=0.01)


@pytest.mark.parametrize("log2_sigma", [-1.0, 1.0, 3.0, 7.0])
def test_oracle_falls_below_shannon_by_the_genies_gain(log2_sigma: float) -> None:
    latents = gaussian_latents(log2_sigma)
    variance = 4.0**log2_sigma
    saved = mean_bits(RUNGS["oracle, test channel"], latents) - shannon_bits(latents)
    # E max(0, ½log₂(y²/θ)) by quadrature: exact zeros below the water level keep part of the gain.
    x = (np.arange(2_000_000) + 0.5) * (8 / 2_000_000)
    density = 2 * np.exp(-x * x / 2) / math.sqrt(2 * math.pi) * (8 / 2_000_000)
    told = float((density * theory.oracle_rate(variance * x * x, WATER_LEVEL)).sum())
    assert saved == pytest.approx(told - theory.gaussian_rate(variance, WATER_LEVEL), abs=0.01)
    if log2_sigma == 7.0:  # hardly a latent is below it, and the gain is the asymptotic −.9164 bit
        assert saved == pytest.approx(theory.genie_gain(), abs=0.01)


def source_of(window: int | str) -> Grouped | Pooled:
    return Pooled(window) if isinstance(window, str) else Grouped(window)


@pytest.mark.parametrize("window", [1, 4, 16, "channel", "image"])
@pytest.mark.parametrize("log2_sigma", [1.0, 4.0])
def test_gain_and_price_close_the_gap_from_above(window: int | str, log2_sigma: float) -> None:
    latents = gaussian_latents(log2_sigma)
    rung = Told("grouped", Status.ACHIEVABLE, "", GaussianTest(), source_of(window))
    pooled = {"channel": SHAPE[1] * SHAPE[2], "image": COUNT}
    members = pooled[window] if isinstance(window, str) else window**2
    excess = mean_bits(rung, latents) - shannon_bits(latents)
    assert excess > -1e-3
    if log2_sigma == 4.0 or members >= 16:
        price = float(theory.clamped_variance_price(members, SPREAD))
        assert excess == pytest.approx(theory.genie_gain(members) + price, abs=0.02)


def test_ladder_of_a_known_variance_is_in_order() -> None:
    latents = gaussian_latents(2.0)
    bits = {name: mean_bits(rung, latents) for name, rung in RUNGS.items()}
    assert bits["ideal coder"] == pytest.approx(theory.quantiser_entropy(16.0), abs=0.01)
    assert bits["oracle, test channel"] < bits["test channel"] < bits["ideal coder"]
    assert bits["ideal coder"] - bits["test channel"] == pytest.approx(0.258, abs=0.01)
    # A longer group shares the price among more latents.
    assert bits["grouped channel"] < bits["grouped 16×16"] < bits["grouped 4×4"]
    assert bits["grouped 4×4"] < bits["grouped element"]


@pytest.mark.parametrize("log2_sigma", [-3.0, 0.0, 3.0])
def test_oracle_never_pays_more_than_any_prior_for_the_same_latents(log2_sigma: float) -> None:
    latents = gaussian_latents(log2_sigma)
    y, zero = latents.y, torch.zeros(SHAPE)
    deviations = {f"{k} σ": torch.full(SHAPE, k * 2.0**log2_sigma) for k in (0.5, 1.0, 3.0)}
    # With this one the divergence is the oracle's own rate: only which latents are sent costs more.
    deviations["the best of all"] = (y.square() - WATER_LEVEL).clamp_min(1e-6).sqrt()
    (oracle,) = climb(RUNGS["oracle, test channel"], latents).spent
    for name, sigma in deviations.items():
        crossing = OracleGaussian("paper").charged_by_prior(y, Gaussian(zero, sigma), Noise(1))
        assert (crossing.bits.sum(0) - oracle.by_place).min() > -1e-4, name


def test_oracle_with_rounding_is_told_the_magnitude() -> None:
    latents = gaussian_latents(3.0)
    assert mean_bits(RUNGS["oracle, rounding"], latents) < mean_bits(RUNGS["ideal coder"], latents)


@pytest.mark.parametrize("shape", [(3, 1, 1), (2, 5, 7), (4, 16, 17), (1, 33, 2)])
@pytest.mark.parametrize("window", [1, 4, 16, "channel"])
def test_groups_cover_every_latent_once(shape: tuple[int, int, int], window: int | str) -> None:
    latents = gaussian_latents(3.0, shape)
    (sigma,), price = source_of(window)([latents.y], Moments.of([latents.y]))
    channels, height, width = shape
    k = max(height, width) if isinstance(window, str) else window
    expected = 0.0
    for top in range(0, height, k):
        for left in range(0, width, k):
            group = latents.y[:, top : top + k, left : left + k].double()
            members = group[0].numel()
            expected += channels * members * float(theory.clamped_variance_price(members, SPREAD))
            moment = group.square().mean((1, 2)).clamp(WATER_LEVEL, WATER_LEVEL * SPREAD**2)
            told = sigma[:, top : top + k, left : left + k].double().square()
            assert torch.allclose(told, moment[:, None, None].expand_as(told), rtol=1e-4)
    assert price == pytest.approx(expected)


def test_only_rungs_that_use_z_pay_for_it() -> None:
    for rung in LADDER:
        uses_z = not isinstance(rung, Told)
        paid = "side information" in climb(rung, gaussian_latents(0.0, (2, 4, 4))).parts
        assert paid == uses_z


def test_every_rung_with_an_oracle_is_called_genie_aided() -> None:
    for rung in LADDER:
        told = isinstance(rung, Told) and isinstance(rung.variance, Oracle)
        mean = isinstance(rung, Predicted) and isinstance(rung.channel, OracleGaussian)
        assert (rung.status is Status.GENIE) == (told or mean)
        assert rung.name.startswith("oracle") == (rung.status is Status.GENIE)


def test_noise_is_reproducible_and_does_not_touch_the_global_generator() -> None:
    latents = gaussian_latents(1.0, (2, 4, 4))
    torch.manual_seed(0)
    expected = torch.rand(2)
    torch.manual_seed(0)
    first = climb(RUNGS["test channel"], latents, seed=3)
    assert torch.equal(torch.rand(2), expected)
    second = climb(RUNGS["test channel"], latents, seed=3)
    other = climb(RUNGS["test channel"], latents, seed=4)
    assert torch.equal(first.y_hats[0], second.y_hats[0])
    assert not torch.equal(first.y_hats[0], other.y_hats[0])


def test_moments_of_a_set_are_shared_and_paid_for_together() -> None:
    torch.manual_seed(4)
    small, large = torch.randn(3, 8, 8), 5.0 * torch.randn(3, 16, 16)
    both = Moments.joined([Moments.of([small]), Moments.of([large])])
    assert (both.count, both.pictures) == (64 + 256, 2)
    prices = []
    for y in (small, large):
        (sigma,), price = Pooled("data set")([y], both)
        power = (small.square().sum((1, 2)) + large.square().sum((1, 2))) / 320
        assert torch.allclose(sigma[:, 0, 0].square(), power, rtol=1e-5)
        prices.append(price)
    assert prices[1] == pytest.approx(4 * prices[0])
    assert sum(prices) == pytest.approx(3 * 320 * theory.clamped_variance_price(320, SPREAD))


def test_tiles_are_measured_as_the_picture_they_make() -> None:
    whole = gaussian_latents(1.0, (4, 32, 32))
    halves = [
        Latents(whole.y[:, :, part].contiguous(), None, whole.prior, 4.0)
        for part in (slice(0, 16), slice(16, 32))
    ]
    known = Known(Moments.of([whole.y]), torch.full((4,), WATER_LEVEL))
    for name in ("grouped 16×16", "grouped channel", "oracle, test channel", "ideal coder"):
        apart = RUNGS[name].climb(halves, known)
        assert apart.bits == pytest.approx(RUNGS[name].climb([whole], known).bits, rel=1e-5)


class KnownVariances:
    """Latents of given variances by channel, known to a prior that needs not be told."""

    side_bits = 0.0

    def __init__(self, variances: NDArray[np.float64], count: int) -> None:
        torch.manual_seed(3)
        self.sigma = torch.from_numpy(variances).sqrt().float()[:, None, None]
        self.y = self.sigma * torch.randn(len(variances), count, count)

    def through(self, channel: Channel, noise: Noise) -> Arrival:
        mu, sigma = torch.zeros_like(self.y), self.sigma.expand_as(self.y)
        at_once = torch.zeros(mu.shape, dtype=torch.int32)
        return Arrival(*channel(self.y, Gaussian(mu, sigma), noise), mu, sigma, at_once)

    def rounded(self) -> Arrival:
        return self.through(Rounding(), Noise(0))


@pytest.mark.parametrize("correlation", [0.0, 0.9])
@pytest.mark.parametrize("step", [0.25, 1.0, 3.0, 8.0])
def test_with_the_best_linear_transform_the_test_channel_is_rate_distortion(
    correlation: float, step: float
) -> None:
    # A vector of 8 Gaussians, neighbours correlated; the KLT makes its eigenvalues the variances.
    index = np.arange(8)
    covariance = 16.0 * correlation ** np.abs(index[:, None] - index)
    eigenvalues = np.linalg.eigvalsh(covariance)
    (view,) = stepped([KnownVariances(eigenvalues, 200)], step)
    bits = {}
    for name in ("ideal coder", "dithered", "test channel", "grouped channel"):
        reached = climb(RUNGS[name], view)
        # An orthogonal transform: the error in latents is that of the source.
        error = float((reached.y_hats[0] - view.y).square().mean()) * step**2
        truth = theory.reverse_waterfill(eigenvalues, distortion=8 * error).bits / 8
        bits[name] = reached.bits / view.y.numel()
        assert bits[name] > truth * 0.99 - 2e-3, name
        if name == "test channel":
            assert bits[name] == pytest.approx(truth, rel=0.01, abs=2e-3)
            # The oracle is off by what a genie gains: never above, and far below at high rate.
            told = climb(RUNGS["oracle, test channel"], view).bits / view.y.numel()
            assert told < truth + 2e-3
            if correlation == 0 and step == 0.25:
                expected = theory.oracle_rate(16 * GRID**2, step**2 * WATER_LEVEL) @ WEIGHTS
                assert told == pytest.approx(float(expected), abs=0.01)


#: A standard normal by quadrature.
GRID = np.linspace(-8, 8, 200_001)
WEIGHTS = np.exp(-(GRID**2) / 2) / np.exp(-(GRID**2) / 2).sum()


def test_at_equal_error_dither_never_beats_the_test_channel() -> None:
    for variance in (0.05, 0.2, 1.0, 5.0, 100.0):
        view = KnownVariances(np.full(4, variance), 200)
        reached = climb(RUNGS["dithered"], view)
        error = float((reached.y_hats[0] - view.y).square().mean())
        shannon = float(theory.gaussian_rate(variance, error))
        assert reached.bits / view.y.numel() > shannon - 2e-3


def test_the_split_of_the_rate_is_an_identity() -> None:
    latents = gaussian_latents(1.0, (6, 32, 32))
    reached = climb(RUNGS[CONTEXT], latents)
    parts = reached.parts
    told, unknown = parts[TOLD], parts[UNKNOWN_VARIANCE]
    assert told + unknown == pytest.approx(float(reached.spent[0].by_channel.sum()), rel=1e-6)
    (lost,) = reached.lost[UNKNOWN_VARIANCE]
    assert (lost.by_channel >= 0).all()
    assert float(lost.by_place.sum()) == pytest.approx(unknown, rel=1e-4)


def test_a_codec_at_another_step_works_at_the_slope_that_r_of_d_has_there() -> None:
    variances = [1.0, 10.0, 40.0]

    def slope(step: float) -> float:
        held = len(variances) * WATER_LEVEL * step**2
        near = [theory.reverse_waterfill(variances, distortion=held * f).bits for f in (0.999, 1)]
        return (near[0] - near[1]) / (0.001 * held)

    settings, main = steps_around(math.nan, slope(1.0))
    assert settings[main].price == slope(1.0)
    for setting in settings:
        assert setting.price == pytest.approx(slope(setting.step), rel=1e-6)
