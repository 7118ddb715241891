"""The fitted context: an identity, a bound, and a known structure that it must find."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from waterfill import theory
from waterfill.codec.channels import WATER_LEVEL, GaussianTest
from waterfill.codec.densities import Gaussian
from waterfill.codec.noise import Noise
from waterfill.ladder.context import PARAMETER_BITS, FittedContext, Posterior, fit_context


def sent(residual: Tensor, variance: Tensor, seed: int = 1) -> Posterior:
    level = torch.full((len(residual), 1, 1), WATER_LEVEL)
    still = Posterior(residual, torch.zeros_like(residual), variance, level)
    crossing = GaussianTest(mmse=False)(
        residual, Gaussian(torch.zeros_like(residual), variance.sqrt()), Noise(seed)
    )
    return Posterior(residual, torch.where(still.sent, crossing.y_hat, 0.0), variance, level)


def gaussian_field(variance: Tensor, seed: int = 5) -> Tensor:
    torch.manual_seed(seed)
    return variance.sqrt() * torch.randn(variance.shape)


def test_a_charge_is_the_oracles_and_the_divergence() -> None:
    variance = torch.logspace(-3, 3, 8)[:, None, None].expand(8, 20, 20).contiguous()
    tile = sent(gaussian_field(variance), variance)
    torch.manual_seed(0)
    for mean, wrong in ((0.0, 1.0), (0.3, 0.1), (-2.0, 30.0)):
        predicted = variance * wrong * torch.exp(torch.randn_like(variance))
        offset = torch.full_like(variance, mean)
        charged = tile.charge(offset, predicted)
        told, unknown = tile.told(offset), tile.divergence(offset, predicted)
        assert torch.allclose(charged, told + unknown, atol=1e-5)
        assert (unknown > -1e-5).all()
        # Nothing is charged where nothing is sent, whatever is predicted.
        assert torch.equal(charged[~tile.sent], torch.zeros(int((~tile.sent).sum())))
        # Independently: half the Itakura–Saito divergence of second moments.
        alpha2 = 1 - WATER_LEVEL / variance[tile.sent]
        power = alpha2 * (tile.residual[tile.sent] - mean) ** 2 + WATER_LEVEL
        prior = alpha2 * predicted[tile.sent] + WATER_LEVEL
        expected = theory.variance_mismatch(power.double().numpy(), prior.double().numpy())
        assert unknown[tile.sent].numpy() == pytest.approx(expected, rel=1e-3, abs=1e-5)


def test_without_a_context_the_charge_is_the_test_channels() -> None:
    variance = torch.full((2, 50, 50), 3.0)
    residual = gaussian_field(variance)
    tile = sent(residual, variance)
    zero = torch.zeros_like(residual)
    crossing = GaussianTest()(residual, Gaussian(zero, variance.sqrt()), Noise(1))
    assert torch.allclose(tile.charge(zero, variance), crossing.bits, atol=1e-5)
    assert torch.allclose(tile.estimate(zero, variance), crossing.y_hat, atol=1e-5)


def test_where_the_prior_is_right_there_is_next_to_nothing_to_find() -> None:
    variance = torch.full((6, 64, 64), 2.0)
    tile = sent(gaussian_field(variance), variance)
    context = fit_context([tile])
    assert max(map(abs, context.parameters)) < 0.1
    before = tile.charge(torch.zeros_like(variance), variance).sum()
    after = tile.charge(*context.predict(tile)).sum()
    assert float(after) <= float(before)
    assert float(before - after) < 100


def test_energy_that_varies_from_place_to_place_is_found() -> None:
    # All channels share a scale that the prior does not know: a smooth field of 20 dB.
    wave = torch.linspace(0, 4 * math.pi, 96)
    field = torch.exp(2.3 * torch.sin(wave)[:, None] * torch.cos(wave)[None, :])
    true = 40.0 * field.expand(8, 96, 96)
    told = torch.full_like(true, float(true.mean()))
    tile = sent(gaussian_field(true), told)
    context = fit_context([tile])
    zero = torch.zeros_like(true)
    lost = float((tile.charge(zero, told) - tile.charge(zero, true)).sum())
    found = float((tile.charge(zero, told) - tile.charge(*context.predict(tile))).sum())
    assert found > 0.8 * lost
    assert context.price_bits == 5 * PARAMETER_BITS
    # A better idea of the variance is a better estimate.
    alone = (tile.estimate(zero, told) - tile.residual).square().mean()
    helped = (tile.estimate(*context.predict(tile)) - tile.residual).square().mean()
    assert float(helped) <= float(alone) * 1.001


def test_correlation_with_neighbours_is_found() -> None:
    torch.manual_seed(2)
    x = torch.randn(4, 64, 65)
    residual = 10 * (0.8 * x[..., :-1] + 0.6 * x[..., 1:])  # correlated along rows
    variance = torch.full_like(residual, 100.0)
    tile = sent(residual, variance)
    context = fit_context([tile])
    assert context.parameters[3] > 0.3
    assert abs(context.parameters[4]) < 0.1
    zero = torch.zeros_like(variance)
    gain = (tile.charge(zero, variance) - tile.charge(*context.predict(tile))).mean()
    # One neighbour alone, with ρ = .48: ½log₂(1/(1 − ρ²)).
    assert float(gain) > 0.9 * -0.5 * math.log2(1 - 0.48**2)


def test_only_what_has_arrived_is_looked_at() -> None:
    variance = torch.full((3, 7, 9), 4.0)
    tile = sent(gaussian_field(variance), variance)
    context = FittedContext((0.1, 0.5, 0.25, 0.5, -0.25))
    mean, predicted = context.predict(tile)
    for channel, row, column in [(0, 0, 0), (1, 3, 4), (2, 6, 8)]:
        received = tile.received.clone()
        received[channel, row, column] += 100.0
        changed = Posterior(tile.residual, received, tile.variance, tile.level)
        other_mean, other = context.predict(changed)
        differs = ((other != predicted) | (other_mean != mean)).nonzero().tolist()
        assert all(
            (i, j) > (row, column) or ((i, j) == (row, column) and c > channel)
            for c, i, j in differs
        )
        assert differs or (row, column, channel) == (6, 8, 2)


def test_of_what_arrives_with_a_later_part_nothing_is_known() -> None:
    # A checkerboard whose second colour comes last, and channels that come in reverse.
    rows, columns = torch.arange(6)[:, None], torch.arange(8)[None, :]
    colour = ((rows + columns) % 2).expand(3, 6, 8)
    reverse = torch.tensor([2, 1, 0])[:, None, None].expand(3, 6, 8)
    context = FittedContext((0.1, 0.5, 0.25, 0.5, -0.25))
    tile = sent(gaussian_field(torch.full((3, 6, 8), 4.0)), torch.full((3, 6, 8), 4.0))
    for part in (colour.int(), reverse.int()):
        ordered = replace(tile, part=part)
        for last in (1, 2):
            late = part >= last
            other = replace(
                ordered,
                received=torch.where(late, 100.0, tile.received),
                variance=torch.where(late, 9.0, tile.variance),
            )
            for before, after in zip(context.predict(ordered), context.predict(other), strict=True):
                assert torch.equal(before[~late], after[~late])
    # Of parts that arrive in raster order, channels innermost, all is known as without any.
    raster = torch.arange(144, dtype=torch.int32).reshape(6, 8, 3).permute(2, 0, 1)
    for part in (raster, torch.zeros(3, 6, 8, dtype=torch.int32)):
        for found, plain in zip(
            context.predict(replace(tile, part=part)), context.predict(tile), strict=True
        ):
            assert torch.equal(found, plain)


@pytest.mark.parametrize("scale", [1e-6, 1e6])
def test_nothing_to_fit_to_is_no_failure(scale: float) -> None:
    variance = torch.full((2, 3, 3), 1e-4)
    tile = sent(scale * torch.ones(2, 3, 3), variance)  # all below the water
    assert fit_context([tile]) == FittedContext((0.0,) * 5)
    wild = sent(scale * torch.ones(2, 3, 3), torch.full((2, 3, 3), 1.0))
    assert np.isfinite(fit_context([wild]).parameters).all()
