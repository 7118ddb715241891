"""One loop, many objectives: each has the gradient that its paper asks for."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from waterfill.codec.config import CodecConfig
from waterfill.codec.gains import relative_step
from waterfill.codec.model import Codec
from waterfill.training.config import OBJECTIVES, TrainConfig
from waterfill.training.objectives import Batch, RateDistortion, Regularised, objective_of

CONFIG = TrainConfig(codec=CodecConfig(n=4, m=6, hyper=4))


def codec() -> Codec:
    torch.manual_seed(0)
    return Codec(CONFIG.codec)


def batch(count: int = 2) -> Batch:
    generator = torch.Generator().manual_seed(3)
    pixels = torch.randint(0, 256, (count, 3, 64, 64), generator=generator).to(torch.uint8)
    return Batch(pixels, torch.linspace(2.0, 7.0, count), list(range(count)))


@pytest.mark.parametrize("kind", OBJECTIVES)
def test_every_objective_gives_finite_gradients_and_learns(kind: str) -> None:
    objective = objective_of(dataclasses.replace(CONFIG, objective=kind), codec())
    optimiser = torch.optim.Adam(objective.parameters(), lr=1e-2)
    costs = []
    for _ in range(12):
        losses = objective(batch())
        optimiser.zero_grad()
        losses.loss.backward()
        gradients = [p.grad for p in objective.codec.g_a.parameters()]
        assert all(g is not None and bool(g.isfinite().all()) for g in gradients)
        optimiser.step()
        costs.append(float(losses.loss.detach()))
    assert costs[-1] < costs[0]
    assert losses.bpp.shape == losses.mse.shape == (2,)


@pytest.mark.parametrize("kind", ["oracle-rounding", "oracle-test-channel"])
def test_a_genie_charges_no_side_information_and_trains_no_prior(kind: str) -> None:
    objective = objective_of(dataclasses.replace(CONFIG, objective=kind), codec())
    objective(batch()).loss.backward()
    assert all(p.grad is None for p in objective.codec.prior.parameters())


def test_a_part_of_a_batch_is_measured_as_in_the_whole() -> None:
    objective = RateDistortion(codec())
    whole, cut = batch(2), batch(2)
    part = Batch(cut.pixels[1:], cut.quality[1:], [1])
    with torch.no_grad():
        assert float(objective(whole).bpp[1]) == pytest.approx(float(objective(part).bpp), rel=1e-5)


def test_the_regulariser_pulls_codec_and_source_model_in_opposite_directions() -> None:
    alpha = 0.3
    plain, regularised = RateDistortion(codec()), Regularised(codec(), alpha)
    with torch.no_grad():  # a source model that says something
        generator = torch.Generator().manual_seed(1)
        for parameter in regularised.source.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.05)
    one = batch()
    loss = regularised(one).loss
    loss.backward()

    # The two steps of the paper, written out.
    x, passage = plain.passage(batch())
    base = plain(batch()).loss
    entropy = regularised.source.bits_per_dimension(x, passage.x_hat)
    weight = relative_step(one.quality)
    first = base - alpha * (weight * entropy).mean()
    assert float(loss.detach()) == pytest.approx(float(first.detach()), rel=1e-5)
    expected = torch.autograd.grad(first, list(plain.codec.g_s.parameters()), retain_graph=True)
    found = [p.grad for p in regularised.codec.g_s.parameters()]
    for mine, theirs in zip(found, expected, strict=True):
        assert mine is not None
        assert torch.allclose(mine, theirs, rtol=1e-3, atol=1e-6)
    likelihood = regularised.source.bits_per_dimension(x, passage.x_hat.detach()).mean()
    for parameter, theirs in zip(
        regularised.source.parameters(),
        torch.autograd.grad(likelihood, list(regularised.source.parameters())),
        strict=True,
    ):
        assert parameter.grad is not None
        assert torch.allclose(parameter.grad, theirs, rtol=1e-3, atol=1e-6)


def test_without_weight_the_regulariser_leaves_the_codec_alone() -> None:
    plain, regularised = RateDistortion(codec()), Regularised(codec(), 0.0)
    plain(batch()).loss.backward()
    regularised(batch()).loss.backward()
    for mine, theirs in zip(regularised.codec.parameters(), plain.codec.parameters(), strict=True):
        assert mine.grad is not None
        assert theirs.grad is not None
        assert torch.allclose(mine.grad, theirs.grad, rtol=1e-4, atol=1e-7)


def test_bits_of_the_source_are_per_dimension_of_8_bit_pixels() -> None:
    source = Regularised(codec(), 0.1).source
    x = torch.full((1, 3, 8, 8), 0.5)
    # Untrained it says N(x̂, 8²) in 8-bit steps: log₂(8·√(2πe))… at distance zero log₂(8·√(2π)).
    bits = float(source.bits_per_dimension(x, x).detach())
    assert bits == pytest.approx(3.0 + 0.5 * 1.837877 / 0.693147, abs=0.01)
