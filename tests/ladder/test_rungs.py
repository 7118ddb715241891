"""Gaussian latents on the ladder: where Shannon is known, every rung must know its place."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from waterfill import theory
from waterfill.bitstream import Rows, gaussian_tables
from waterfill.codec.channels import WATER_LEVEL, GaussianTest
from waterfill.codec.coding import CodedPrior, Exchange, Prediction
from waterfill.codec.densities import Gaussian
from waterfill.codec.latents import Latents
from waterfill.codec.noise import Noise
from waterfill.codec.priors import NoContext
from waterfill.ladder.rungs import LADDER, Rung, Status, climb
from waterfill.ladder.variances import SPREAD, Grouped, Oracle

RUNGS = {rung.name: rung for rung in LADDER}
SHAPE = (16, 128, 128)
COUNT = math.prod(SHAPE)


class KnownScale(CodedPrior):
    """A prior that knows the one scale of all latents, and needs not be told."""

    def __init__(self, log2_sigma: float) -> None:
        self.row = round((log2_sigma + 4) * 16)

    def walk(
        self,
        z_symbols: NDArray[np.int32] | None,
        quality: float,
        shape: tuple[int, ...],
        exchange: Exchange,
    ) -> None:
        zero = torch.zeros(shape, dtype=torch.float64)
        rows = np.full(shape, self.row)
        ((part, _),) = NoContext().coded().walk(zero, zero)
        exchange(part, Prediction(zero, Rows(gaussian_tables(), rows), zero, rows))


def gaussian_latents(log2_sigma: float, shape: tuple[int, int, int] = SHAPE) -> Latents:
    """Latents that are iid N(0, σ²), with a prior that knows σ and side information of no cost."""
    torch.manual_seed(11)
    y = 2.0**log2_sigma * torch.randn(shape)
    return Latents(y, None, KnownScale(log2_sigma), 4.0)


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
    error = (latents.y - reached.y_hat).square().mean()
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


@pytest.mark.parametrize("window", [1, 4, 16, None])
@pytest.mark.parametrize("log2_sigma", [1.0, 4.0])
def test_gain_and_price_close_the_gap_from_above(window: int | None, log2_sigma: float) -> None:
    latents = gaussian_latents(log2_sigma)
    rung = Rung("grouped", Status.ACHIEVABLE, GaussianTest(), Grouped(window), "")
    members = window**2 if window else SHAPE[1] * SHAPE[2]
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
def test_oracle_never_pays_more_than_any_prior_with_the_same_mean(log2_sigma: float) -> None:
    latents = gaussian_latents(log2_sigma)
    oracle = climb(RUNGS["oracle, test channel"], latents).latent_bits
    for level in (WATER_LEVEL,):
        y, zero = latents.y.double(), torch.zeros(SHAPE, dtype=torch.float64)
        for wrong in (0.5, 1.0, 3.0):
            sigma = torch.full_like(zero, wrong * 2.0**log2_sigma)
            charged = GaussianTest(level)(y, Gaussian(zero, sigma), Noise(1)).bits
            # What the prior's own channel delivers in signal, an oracle would charge for as
            # ½log₂(1 + (αy)²/D): the KL minimised over the prior's variance.
            distortion = sigma.square().clamp_max(level)
            alpha_squared = 1 - distortion / sigma.square()
            least = 0.5 * torch.log2(1 + alpha_squared * y.square() / distortion)
            assert (charged - least).min() > -1e-9
    assert oracle.min() >= 0


def test_oracle_with_rounding_is_told_the_magnitude() -> None:
    latents = gaussian_latents(3.0)
    assert mean_bits(RUNGS["oracle, rounding"], latents) < mean_bits(RUNGS["ideal coder"], latents)


@pytest.mark.parametrize("shape", [(3, 1, 1), (2, 5, 7), (4, 16, 17), (1, 33, 2)])
@pytest.mark.parametrize("window", [1, 4, 16, None])
def test_groups_cover_every_latent_once(shape: tuple[int, int, int], window: int | None) -> None:
    latents = gaussian_latents(3.0, shape)
    sigma, price = Grouped(window)(latents.y)
    channels, height, width = shape
    k = window or max(height, width)
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
        uses_z = rung.variance is None
        paid = "side information" in climb(rung, gaussian_latents(0.0, (2, 4, 4))).parts
        assert paid == uses_z


def test_every_rung_with_an_oracle_is_called_genie_aided() -> None:
    for rung in LADDER:
        assert (rung.status is Status.GENIE) == isinstance(rung.variance, Oracle)


def test_noise_is_reproducible_and_does_not_touch_the_global_generator() -> None:
    latents = gaussian_latents(1.0, (2, 4, 4))
    torch.manual_seed(0)
    expected = torch.rand(2)
    torch.manual_seed(0)
    first = climb(RUNGS["test channel"], latents, seed=3)
    assert torch.equal(torch.rand(2), expected)
    second = climb(RUNGS["test channel"], latents, seed=3)
    other = climb(RUNGS["test channel"], latents, seed=4)
    assert torch.equal(first.y_hat, second.y_hat)
    assert not torch.equal(first.y_hat, other.y_hat)
