"""Each channel does to a Gaussian latent exactly what theory says, in rate and in distortion."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from waterfill import theory
from waterfill.codec.channels import (
    WATER_LEVEL,
    ChargedByPrior,
    Dithered,
    GaussianPosterior,
    GaussianTest,
    OracleGaussian,
    OracleStraightThrough,
    Rounding,
    Stepped,
    StraightThrough,
    UniformNoise,
    of_channels,
    solved_level,
)
from waterfill.codec.densities import Gaussian, GaussianMixture, gaussian_bin_bits
from waterfill.codec.noise import Noise

SAMPLES = 400_000


def latents(variance: float, mean: float = 3.7) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(5)
    mu = torch.full((SAMPLES,), mean)
    sigma = torch.full((SAMPLES,), math.sqrt(variance))
    return mu + sigma * torch.randn(SAMPLES), mu, sigma


@pytest.mark.parametrize("variance", [0.2, 1.0, 16.0])
def test_rounding_spends_the_entropy_of_the_quantiser(variance: float) -> None:
    y, mu, sigma = latents(variance, mean=0.0)
    y_hat, bits = Rounding()(y, Gaussian(mu, sigma), Noise(1))
    assert bits.mean() == pytest.approx(theory.quantiser_entropy(variance), abs=0.01)
    assert (y - y_hat).square().mean() == pytest.approx(theory.quantiser_mse(variance), rel=0.01)


@pytest.mark.parametrize("variance", [0.2, 1.0, 16.0])
def test_gaussian_test_channel_reaches_shannon(variance: float) -> None:
    y, mu, sigma = latents(variance)
    y_hat, bits = GaussianTest()(y, Gaussian(mu, sigma), Noise(1))
    assert bits.mean() == pytest.approx(theory.gaussian_rate(variance, WATER_LEVEL), abs=0.01)
    assert (y - y_hat).square().mean() == pytest.approx(WATER_LEVEL, rel=0.01)


def test_gaussian_test_channel_without_mmse_scaling_errs_more() -> None:
    # Known answer: σ² = 2, D = .3 gives a raw error of .3122 (theorem 2).
    y, mu, sigma = latents(2.0)
    y_hat, _ = GaussianTest(level=0.3, mmse=False)(y, Gaussian(mu, sigma), Noise(1))
    assert (y - y_hat).square().mean() == pytest.approx(0.3122, rel=0.01)
    assert (y_hat - mu).square().mean() == pytest.approx(2.0, rel=0.01)


def test_below_the_water_level_nothing_is_sent_and_nothing_charged() -> None:
    y, mu, sigma = latents(0.9 * WATER_LEVEL)
    y_hat, bits = GaussianTest()(y, Gaussian(mu, sigma), Noise(1))
    assert torch.equal(y_hat, mu)
    assert torch.equal(bits, torch.zeros_like(bits))


@pytest.mark.parametrize("mmse", [False, True])
def test_dither_makes_the_error_uniform_and_independent(mmse: bool) -> None:
    y, mu, sigma = latents(0.5)
    y_hat, _ = Dithered(mmse=mmse)(y, Gaussian(mu, sigma), Noise(1))
    error = y_hat - y
    if mmse:  # linear MMSE of a signal in noise of variance 1/12
        assert error.square().mean() == pytest.approx(0.5 / 12 / (0.5 + 1 / 12), rel=0.01)
        return
    assert error.abs().max() <= 0.5 + 1e-5
    assert error.square().mean() == pytest.approx(1 / 12, rel=0.01)
    assert torch.corrcoef(torch.stack([error, y]))[0, 1].abs() < 0.005


def test_dithered_costs_more_than_the_test_channel_at_equal_error() -> None:
    # Both at their MMSE; the space-filling loss of a cube is at most ½log₂(2πe/12) = .2546 bit.
    y, mu, sigma = latents(4.0)
    y_hat, bits = Dithered()(y, Gaussian(mu, sigma), Noise(1))
    shannon = theory.gaussian_rate(4.0, float((y - y_hat).square().mean()))
    assert shannon < float(bits.mean()) < shannon + theory.HIGH_RATE_GAP + 0.01


def test_straight_through_rounds_in_value_and_is_the_identity_in_gradient() -> None:
    y, mu, sigma = (t[:1000] for t in latents(4.0))
    y.requires_grad_()
    y_hat, _ = StraightThrough()(y, Gaussian(mu, sigma), Noise(1))
    assert torch.allclose(y_hat, Rounding()(y, Gaussian(mu, sigma), Noise(1)).y_hat, atol=1e-5)
    (gradient,) = torch.autograd.grad(y_hat.sum(), y)
    assert torch.equal(gradient, torch.ones_like(y))


def test_straight_through_charges_and_trains_scales_by_what_is_coded() -> None:
    # A latent that is all but certain to be zero: noise would charge a tenth of a bit for it.
    y, mu = torch.zeros(1000), torch.zeros(1000)
    y[::50] = 1.0
    sigma = torch.full((1000,), 0.0625, requires_grad=True)
    bits = StraightThrough()(y, Gaussian(mu, sigma), Noise(1)).bits
    coded = Rounding()(y, Gaussian(mu, sigma), Noise(1)).bits
    assert torch.equal(bits.detach(), coded.detach())
    (mine,) = torch.autograd.grad(bits.sum(), sigma)
    (theirs,) = torch.autograd.grad(coded.sum(), sigma)
    assert torch.equal(mine, theirs)
    noisy = UniformNoise()(torch.zeros(1000), Gaussian(mu, sigma), Noise(1)).bits.mean()
    assert float(noisy.detach()) > 0.05
    # The gradient in y is that of noise, which sees further than the bin it is in.
    y.requires_grad_()
    (gradient,) = torch.autograd.grad(
        StraightThrough()(y, Gaussian(mu, sigma), Noise(1)).bits.sum(), y
    )
    (expected,) = torch.autograd.grad(
        UniformNoise()(y, Gaussian(mu, sigma), Noise(1)).bits.sum(), y
    )
    assert torch.equal(gradient, expected)


def test_noise_is_an_unbiased_stand_in_for_dithered_rate() -> None:
    y, mu, sigma = latents(1.0)
    noisy = UniformNoise()(y, Gaussian(mu, sigma), Noise(1)).bits.mean()
    assert noisy == pytest.approx(
        float(Dithered(mmse=False)(y, Gaussian(mu, sigma), Noise(1)).bits.mean()), abs=0.01
    )


@pytest.mark.parametrize("sigma", [2.0**-4, 0.3, 1.0, 40.0, 256.0])
def test_bin_masses_add_up_to_one(sigma: float) -> None:
    reach = math.ceil(9 * sigma) + 1
    r = torch.arange(-reach, reach + 1, dtype=torch.float64)
    masses = torch.exp2(-gaussian_bin_bits(r, torch.full_like(r, sigma)))
    assert masses.sum() == pytest.approx(1.0, abs=1e-9)


def test_bin_bits_stay_exact_and_keep_a_gradient_far_in_the_tail() -> None:
    r = torch.tensor([40.0, -300.0], requires_grad=True)
    bits = gaussian_bin_bits(r, torch.ones(2))
    # Known answer: the mass of a far bin is nearly that of its inner edge's tail.
    edges = np.array([39.5, 299.5])
    exact = -np.asarray(theory.log_ndtr(-edges)) / math.log(2)
    assert bits.detach().numpy() == pytest.approx(exact, rel=1e-5)
    (gradient,) = torch.autograd.grad(bits.sum(), r)
    assert gradient[0] > 10
    assert gradient[1] < -100


@pytest.mark.parametrize("distance", [0.0, 3.0, 100.0, 1e3, 3e3, 1e5, 1e7])
def test_the_slope_of_bin_bits_is_right_at_any_distance(distance: float) -> None:
    r = torch.tensor([distance, -distance], requires_grad=True)
    (gradient,) = torch.autograd.grad(gaussian_bin_bits(r, torch.ones(2)).sum(), r)
    # Of the bits −log₂[Φ(a) − Φ(b)]: [φ(a) − φ(b)] / ln 2 / mass, and far out (d − ½) / ln 2.
    exact = max(distance - 0.5, 0.0) / math.log(2)
    tolerance = 0.2 if distance == 3.0 else 2e-3
    assert float(gradient[0]) == pytest.approx(exact, rel=tolerance, abs=1e-3)
    assert float(gradient[1]) == pytest.approx(-exact, rel=tolerance, abs=1e-3)


def test_the_oracle_channel_charges_the_rate_that_theory_calls_genie_aided() -> None:
    # y ~ N(0, v): E ½log₂(1 + y²/θ) is below the Gaussian rate of v + θ, by the genie gain at most.
    y, mu, sigma = latents(4.0)
    y_hat, bits = OracleGaussian(predicted_mean=True)(y, Gaussian(mu, sigma), Noise(1))
    assert (y_hat - y).square().mean() == pytest.approx(WATER_LEVEL, rel=0.01)
    told = float(theory.gaussian_rate(4.0 + WATER_LEVEL, WATER_LEVEL))
    gain = told - float(bits.mean())
    assert 0.5 < gain < -theory.genie_gain()
    # One-hot over 65,536 positions at s²/D = 44 claims 2.75 bits in all, where it delivers 15.75.
    single = torch.zeros(65_536)
    single[7] = math.sqrt(44 * WATER_LEVEL)
    claimed = OracleGaussian()(
        single, Gaussian(torch.zeros(65_536), torch.ones(65_536)), Noise(1)
    ).bits
    assert float(claimed.sum()) == pytest.approx(2.75, abs=0.01)


def test_rounding_with_an_oracle_costs_less_than_with_the_true_variance() -> None:
    y, mu, sigma = latents(4.0)
    free = OracleStraightThrough(predicted_mean=True)(y, Gaussian(mu, sigma), Noise(1)).bits.mean()
    honest = StraightThrough()(y, Gaussian(mu, sigma), Noise(1)).bits.mean()
    assert float(free) < float(honest) - 0.3


@pytest.mark.parametrize("mode", ["paper", "paper-detached"])
def test_the_papers_oracle_sends_exact_zeros_and_charges_algorithm_1(mode: str) -> None:
    y, mu, sigma = latents(0.3, mean=0.0)
    y_hat, bits = OracleGaussian(mode)(y, Gaussian(mu, sigma), Noise(1))
    sent = y.square() > WATER_LEVEL
    assert torch.equal(y_hat == 0, ~sent)
    assert torch.equal(bits[~sent], torch.zeros(int((~sent).sum())))
    expected = 0.5 * torch.log2(y[sent].square() / WATER_LEVEL)
    assert torch.allclose(bits[sent], expected, rtol=1e-5, atol=1e-6)
    # α makes the received power that of the latent: E r̂² = r², so α·r̂ errs by θ.
    ratio = WATER_LEVEL / y[sent].square()
    error = (torch.sqrt(1 - ratio) * y_hat[sent] - y[sent]).square().mean()
    assert float(error) == pytest.approx(WATER_LEVEL, rel=0.02)


def test_smooth_and_paper_are_one_channel_after_a_change_of_variables() -> None:
    # Above the level: s = √(r² − θ) in one is r in the other, and ŷ and bits agree.
    r = torch.linspace(0.4, 9.0, 200)
    s = torch.sqrt(r.square() - WATER_LEVEL)
    nothing = Gaussian(torch.zeros(200), torch.ones(200))
    paper = OracleGaussian("paper")(r, nothing, Noise(4))
    smooth = OracleGaussian("smooth")(s, nothing, Noise(4))
    assert torch.allclose(paper.y_hat, smooth.y_hat, atol=1e-5)
    assert torch.allclose(paper.bits, smooth.bits, atol=1e-5)


def test_modes_differ_in_the_gradient_as_they_say() -> None:
    y = torch.tensor([0.1, 0.2, 1.0], requires_grad=True)  # √θ is .289
    nothing = Gaussian(torch.zeros(3), torch.ones(3))
    slopes = {
        mode: torch.autograd.grad(OracleGaussian(mode)(y, nothing, Noise(1)).y_hat.sum(), y)[0]
        for mode in ("smooth", "paper", "paper-detached")
    }
    alpha = math.sqrt(1 - WATER_LEVEL)
    assert slopes["smooth"].tolist() == [1.0, 1.0, 1.0]
    assert slopes["paper"].tolist() == pytest.approx([0.0, 0.0, 1 / alpha], rel=1e-4)
    assert slopes["paper-detached"].tolist() == pytest.approx([0.0, 0.0, alpha], rel=1e-4)


def test_at_the_edge_of_the_water_gradients_stay_numbers() -> None:
    edge = math.sqrt(WATER_LEVEL)
    y = edge + 1e-8 * torch.arange(-50.0, 50.0)
    y[0] = 0.0
    y.requires_grad_()
    nothing = Gaussian(torch.zeros(100), torch.ones(100))
    crossing = OracleGaussian("paper")(y, nothing, Noise(1))
    (slope,) = torch.autograd.grad((crossing.y_hat.square() + crossing.bits).sum(), y)
    assert bool(slope.isfinite().all())
    assert float(slope.abs().max()) < 1e3


def test_a_budget_is_met_in_every_picture() -> None:
    torch.manual_seed(2)
    y = torch.randn(3, 4, 8, 8) * torch.tensor([0.3, 1.0, 5.0])[:, None, None, None]
    level = solved_level(y.square(), 0.02)
    for picture, theta in zip(y, level, strict=True):
        expected = theory.reverse_waterfill(
            picture.square().flatten().double().numpy(), distortion=0.02 * picture.numel()
        ).level
        assert float(theta) == pytest.approx(expected, rel=1e-4)
        assert torch.minimum(theta, picture.square()).mean() == pytest.approx(0.02, rel=1e-4)
    # More than there is to lose: all of it.
    assert solved_level(y.square(), 1e6).tolist() == y.square().flatten(1).amax(1).tolist()


def test_a_priors_charge_for_an_oracles_latents_is_the_divergence() -> None:
    y, _, sigma = latents(4.0, mean=0.0)
    known = Gaussian(torch.full_like(y, 0.7), sigma)
    bits = OracleGaussian().charged_by_prior(y, known, Noise(1)).bits
    expected = theory.gaussian_kl(y.double().numpy(), WATER_LEVEL, 0.7, 4.0 + WATER_LEVEL)
    assert float(bits.mean()) == pytest.approx(float(np.mean(expected)), rel=1e-5)
    # With the best variance there is, that is the oracle's own rate.
    best = Gaussian(torch.zeros_like(y), y.abs())
    told = OracleGaussian()(y, best, Noise(1)).bits
    assert torch.allclose(
        OracleGaussian().charged_by_prior(y, best, Noise(1)).bits, told, atol=1e-4
    )


def test_a_prior_pays_for_which_latents_are_silent_too() -> None:
    # y ~ N(0, v) and the prior knows it: which of them lie below θ costs H_b(p), known exactly.
    y, _, sigma = latents(0.3, mean=0.0)
    known = Gaussian(torch.zeros_like(y), sigma)
    oracle = OracleGaussian("paper")
    charged = oracle.charged_by_prior(y, known, Noise(2))
    free = oracle(y, known, Noise(2))
    assert torch.equal(charged.y_hat, free.y_hat)
    p = 2 * float(theory.ndtr(math.sqrt(WATER_LEVEL / 0.3))) - 1
    silent = free.y_hat == 0
    assert float(silent.float().mean()) == pytest.approx(p, abs=0.003)
    assert charged.bits[silent].numpy() == pytest.approx(-math.log2(p), rel=1e-4)
    sent = charged.bits[~silent].double()
    alone = theory.gaussian_kl(
        (y[~silent] * torch.sqrt(1 - WATER_LEVEL / y[~silent] ** 2)).double().numpy(),
        WATER_LEVEL,
        0.0,
        0.3 + WATER_LEVEL,
    )
    told = sent.numpy() - np.asarray(alone)
    assert told == pytest.approx(-math.log2(1 - p), rel=1e-3)
    # All told, no oracle's bargain is left: Shannon's rate at the error of the best estimate.
    estimate = torch.sqrt(1 - WATER_LEVEL / y[~silent] ** 2) * charged.y_hat[~silent]
    error = float(((estimate - y[~silent]) ** 2).sum() + (y[silent] ** 2).sum()) / len(y)
    assert float(charged.bits.mean()) > theory.gaussian_rate(0.3, error)


def test_a_posteriors_rate_is_mutual_information_where_the_prior_fits() -> None:
    # y ~ N(0, v), ŷ = y + n ~ N(0, v + θ), and E KL = I(y; ŷ) = ½log₂(1 + v/θ).
    y, mu, sigma = latents(4.0)
    y_hat, bits = GaussianPosterior()(y, Gaussian(mu, sigma), Noise(1))
    assert float(bits.mean()) == pytest.approx(0.5 * math.log2(1 + 4.0 / WATER_LEVEL), abs=0.01)
    assert (y_hat - y).square().mean() == pytest.approx(WATER_LEVEL, rel=0.01)


def test_a_level_for_each_channel_fills_each_to_its_own() -> None:
    torch.manual_seed(1)
    y = 2.0 * torch.randn(3, 400, 400)
    levels = torch.tensor([0.02, 0.5, 3.0])
    prior = Gaussian(torch.zeros_like(y), torch.full_like(y, 2.0))
    y_hat, bits = GaussianTest(levels)(y, prior, Noise(2))
    for k, level in enumerate([0.02, 0.5, 3.0]):
        assert (y_hat - y)[k].square().mean() == pytest.approx(level, rel=0.02)
        assert bits[k].mean() == pytest.approx(0.5 * math.log2(4.0 / level), abs=0.02)
    part = of_channels(GaussianTest(levels), slice(1, 2))
    alone = part(y[1:2], Gaussian(prior.mu[1:2], prior.sigma[1:2]), Noise(2))
    assert torch.allclose(alone.bits, bits[1:2])


def test_channels_work_about_the_mean_of_a_mixture() -> None:
    """Its lattice is about zero, which is no estimate of a latent."""
    y, mu, sigma = latents(0.2, mean=4.0)
    means = torch.stack([mu - 0.5, mu + 0.5])
    log_weights = torch.full_like(means, -math.log(2.0))
    mixture = GaussianMixture(log_weights, means, sigma.expand_as(means))
    y = y + torch.where(torch.arange(len(y)) % 2 == 0, -0.5, 0.5)
    errors = [
        float((Dithered(mmse)(y, mixture, Noise(1)).y_hat - y).square().mean())
        for mmse in (True, False)
    ]
    assert errors[0] == pytest.approx(1 / (1 / 0.45 + 12), rel=0.03)
    assert errors[0] < errors[1]
    oracle = OracleGaussian("paper", predicted_mean=True)
    found, same = (oracle(y, density, Noise(1)) for density in (mixture, mixture.gaussian()))
    assert torch.equal(found.bits, same.bits)
    charged = ChargedByPrior(oracle)(y, mixture, Noise(1))
    assert torch.allclose(found.y_hat, charged.y_hat)


def test_a_step_of_all_but_one_changes_nothing_of_a_mixture() -> None:
    torch.manual_seed(0)
    mu, sigma = 3 * torch.randn(3, 2000), 0.2 + torch.rand(3, 2000)
    mixture = GaussianMixture(torch.log_softmax(torch.randn(3, 2000), 0), mu, sigma)
    y = 4 * torch.randn(2000)
    own = Rounding()(y, mixture, Noise(1))
    beside = Stepped(Rounding(), 1.0 + 1e-6)(y, mixture, Noise(1))
    assert torch.allclose(own.bits, beside.bits, rtol=1e-3)
    assert torch.allclose(own.y_hat, beside.y_hat, rtol=1e-5)


def test_a_step_scales_the_lattice_and_nothing_else() -> None:
    y, mu, sigma = latents(16.0)
    coarse = Stepped(Rounding(), 2.0)(y, Gaussian(mu, sigma), Noise(1))
    direct = Rounding()(y / 2, Gaussian(mu / 2, sigma / 2), Noise(1))
    assert torch.equal(coarse.bits, direct.bits)
    assert torch.allclose(coarse.y_hat, 2 * direct.y_hat)
    # For the test channel it is the water level: θ·step².
    stepped = Stepped(GaussianTest(), 2.0)(y, Gaussian(mu, sigma), Noise(1))
    level = GaussianTest(4 * WATER_LEVEL)(y, Gaussian(mu, sigma), Noise(1))
    assert torch.allclose(stepped.bits, level.bits, atol=1e-4)
    assert torch.allclose(stepped.y_hat, level.y_hat, atol=1e-4)
