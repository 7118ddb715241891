"""The regulariser: two gradients of one number, in units that don't vanish."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pandas
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from waterfill.codec.config import CodecConfig
from waterfill.codec.densities import dequantised_bits, gaussian_bin_bits
from waterfill.codec.gains import lambdas_of, relative_step
from waterfill.codec.model import Codec
from waterfill.codec.priors import RELATIONS, SOURCE_MODELS, SourceModel, source_model_for
from waterfill.errors import CodecError, TrainingError
from waterfill.training.config import OBJECTIVES, TrainConfig
from waterfill.training.loop import train
from waterfill.training.objectives import Batch, Objective, RateDistortion, objective_of
from waterfill.training.regulariser import Regulariser

CONFIG = TrainConfig(codec=CodecConfig(n=4, m=6, hyper=4))


def codec() -> Codec:
    torch.manual_seed(0)
    return Codec(CONFIG.codec)


def regularised(alpha: float, **changes: object) -> Objective:
    config = dataclasses.replace(CONFIG, source_model="aligned", alpha=alpha, **changes)  # type: ignore[arg-type]
    return objective_of(config, codec())


def batch(count: int = 2) -> Batch:
    generator = torch.Generator().manual_seed(3)
    pixels = torch.randint(0, 256, (count, 3, 64, 64), generator=generator).to(torch.uint8)
    return Batch(pixels, torch.linspace(2.0, 7.0, count), list(range(count)))


def stirred(model: nn.Module, scale: float = 0.05) -> None:
    """Weights that say something."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale)


def test_the_two_steps_of_an_iteration_are_the_papers() -> None:
    alpha = 0.3
    plain, both = RateDistortion(codec()), regularised(alpha)
    assert both.regulariser is not None
    both.regulariser.share = 1.0
    stirred(both.regulariser)
    one = batch()
    loss = both(one).loss
    loss.backward()

    # Written out: the codec on R + λD − αH with q fixed, then q on H with x̂ fixed.
    x = one.pictures()
    losses, x_hat = plain.cost(x, batch())
    entropy = both.regulariser.source.bits_per_dimension(x, x_hat)
    weight = relative_step(one.quality)
    first = losses.loss - alpha * (weight * entropy).mean()
    assert float(loss.detach()) == pytest.approx(float(first.detach()), rel=1e-5)
    expected = torch.autograd.grad(first, list(plain.codec.g_s.parameters()), retain_graph=True)
    for parameter, theirs in zip(both.codec.g_s.parameters(), expected, strict=True):
        assert parameter.grad is not None
        assert torch.allclose(parameter.grad, theirs, rtol=1e-3, atol=1e-6)
    parameters = list(both.regulariser.parameters())
    likelihood = both.regulariser.source.bits_per_dimension(x, x_hat.detach()).mean()
    for parameter, theirs in zip(
        parameters, torch.autograd.grad(likelihood, parameters), strict=True
    ):
        assert parameter.grad is not None
        assert torch.allclose(parameter.grad, theirs, rtol=1e-3, atol=1e-6)


def test_the_codecs_step_does_not_touch_q_and_qs_does_not_touch_the_codec() -> None:
    """At α = 0 the codec gets nothing; with α doubled it gets twice as much, and q no more."""
    source = SourceModel("mean-scale")
    stirred(source)
    x = torch.rand(2, 3, 16, 16)
    gradients = {}
    for alpha in (0.0, 0.2, 0.4):
        x_hat = (x + 0.05).requires_grad_()
        source.zero_grad()
        total = Regulariser(alpha, source, share=1.0)(x, x_hat)
        total.backward()
        of_source = torch.cat([p.grad.flatten() for p in source.parameters() if p.grad is not None])
        gradients[alpha] = (x_hat.grad, of_source.clone())
    assert gradients[0.0][0] is None
    assert torch.equal(gradients[0.0][1], gradients[0.4][1])
    once, twice = gradients[0.2][0], gradients[0.4][0]
    assert once is not None
    assert twice is not None
    assert torch.allclose(2 * once, twice, rtol=1e-4, atol=1e-12)


@pytest.mark.parametrize("kind", OBJECTIVES)
def test_without_weight_every_objective_leaves_the_codec_where_it_would_be(kind: str) -> None:
    plain = objective_of(dataclasses.replace(CONFIG, objective=kind), codec())
    beside = regularised(0.0, objective=kind)
    found = []
    for objective in (plain, beside):
        adam = torch.optim.Adam([{"params": p} for p in objective.learners().values()], lr=1e-2)
        for _ in range(3):
            loss = objective(batch()).loss
            loss.backward()
            for parameters in objective.learners().values():
                nn.utils.clip_grad_norm_(parameters, 1.0)
            adam.step()
            adam.zero_grad()
        found.append([p.detach().clone() for p in objective.codec.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


@pytest.mark.parametrize("kind", SOURCE_MODELS)
def test_the_cross_entropy_of_a_known_source_is_its_entropy(kind: str) -> None:
    """X = X̂ + N(0, 5²) on 8-bit integers: H(X|X̂) = ½log₂(2πe(25 + 1/12)), reached within 1 %."""
    torch.manual_seed(0)
    sigma, middle = 5.0, 127.0
    source = SourceModel(kind, width=8)
    adam = torch.optim.Adam(source.parameters(), lr=2e-2)

    def draw(size: int) -> tuple[Tensor, Tensor]:
        x_hat = middle + 20.0 * torch.rand(2, 3, size, size)
        return torch.round(x_hat + sigma * torch.randn_like(x_hat)) / 255.0, x_hat / 255.0

    for _ in range(150):
        adam.zero_grad()
        source.bits_per_dimension(*draw(32)).mean().backward()
        adam.step()
    with torch.no_grad():
        found = float(source.bits_per_dimension(*draw(128)).mean())
    assert found == pytest.approx(0.5 * math.log2(2 * math.pi * math.e * (25 + 1 / 12)), rel=0.01)


def test_contexts_know_what_x_hat_does_not_say() -> None:
    """An error that neighbours share costs less where neighbours are seen (paper 2, §10)."""
    torch.manual_seed(0)
    bits = {}
    for kind in ("mean-scale", "space-channel", "masked"):
        source = SourceModel(kind, width=8)
        adam = torch.optim.Adam(source.parameters(), lr=2e-2)
        for _ in range(120):
            x_hat = torch.full((8, 3, 16, 16), 0.5)
            x = torch.round(127.5 + 10.0 * torch.randn(8, 1, 1, 1).expand_as(x_hat)) / 255.0
            x = x + torch.round(torch.randn_like(x)) / 255.0
            adam.zero_grad()
            loss = source.bits_per_dimension(x, x_hat).mean()
            loss.backward()
            adam.step()
        bits[kind] = float(loss.detach())
    assert bits["masked"] < bits["mean-scale"] - 1.0
    assert bits["space-channel"] < bits["mean-scale"] - 0.3


def test_a_masked_source_model_sees_nothing_that_comes_later() -> None:
    source = SourceModel("masked", width=8)
    stirred(source, 0.3)
    x, x_hat = torch.rand(1, 3, 8, 8), torch.rand(1, 3, 8, 8)
    features = source._features(x_hat)
    changed = x.clone()
    changed[0, :, 4, 4] += 0.5
    with torch.no_grad():
        before, after = (source._sent((v - x_hat) * 32, features).bits[0] for v in (x, changed))
    differs = (before != after).any(0)
    earlier = torch.arange(64).view(8, 8) < 4 * 8 + 4
    assert not differs[earlier].any()
    assert differs[4, 4]
    assert differs[4, 5]
    assert differs[5, 4]


def test_the_density_bounds_the_bins_and_meets_them_where_it_is_wide() -> None:
    residual = torch.linspace(-9.0, 9.0, 37, dtype=torch.float64)
    for log2_sigma in (-1.0, 0.0, 1.0, 2.0, 4.0):
        level = torch.full_like(residual, log2_sigma)
        gap = dequantised_bits(residual, level) - gaussian_bin_bits(residual, torch.exp2(level))
        assert (gap > -1e-9).all()
        sigma = 2.0**log2_sigma
        expected = residual.square() / (24 * math.log(2) * sigma**4)
        if sigma > 3:
            assert torch.allclose(gap, expected, rtol=0.0, atol=0.01 * float(expected.max()))


def test_a_window_stands_for_the_whole_on_average() -> None:
    """Gradients of x̂ from quarters, over many draws, are those of the whole picture."""
    source = SourceModel("constant")
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(1, 3, 32, 48, generator=generator)
    x_hat = x + 0.02 * torch.randn(x.shape, generator=generator)

    def pull(share: float, seed: int) -> tuple[Tensor, float]:
        regulariser = Regulariser(0.3, source, share=share)
        seen = x_hat.clone().requires_grad_()
        regulariser(x, seen, seeds=[seed]).backward()
        assert seen.grad is not None
        return seen.grad, regulariser.tug(1.0)[0]

    whole, taken = pull(1.0, 0)
    parts = [pull(0.25, seed) for seed in range(150)]
    assert all((grad != 0).float().mean() < 0.34 for grad, _ in parts)
    assert np.mean([t for _, t in parts]) == pytest.approx(taken, rel=0.05)
    inside = whole[..., 8:-8, 8:-8], torch.stack([g for g, _ in parts]).mean(0)[..., 8:-8, 8:-8]
    ratio = float((inside[0] * inside[1]).sum() / inside[0].square().sum())
    assert ratio == pytest.approx(1.6, rel=0.2)  # a border is seen less often than the middle


def test_a_picture_meets_the_same_window_whatever_it_is_trained_with() -> None:
    regulariser = Regulariser(0.1, SourceModel("mean-scale"))
    stirred(regulariser)
    x = torch.rand(3, 3, 32, 32)
    x_hat = 0.9 * x
    regulariser(x, x_hat, seeds=[4, 5, 6])
    whole = float(regulariser.entropy)
    alone = []
    for k, seed in enumerate([4, 5, 6]):
        regulariser(x[k : k + 1], x_hat[k : k + 1], seeds=[seed])
        alone.append(float(regulariser.entropy))
    assert np.mean(alone) == pytest.approx(whole, rel=1e-5)


def test_units_differ_by_the_number_of_colours() -> None:
    source = SourceModel("constant")
    x, x_hat = torch.full((1, 3, 8, 8), 0.5), torch.full((1, 3, 8, 8), 0.5)
    per_dimension, per_pixel = (
        Regulariser(0.1, source, unit=u, share=1.0) for u in ("dimension", "pixel")
    )
    values = [float(one(x, x_hat).detach()) for one in (per_dimension, per_pixel)]
    assert values[1] == pytest.approx(3 * values[0])
    assert float(per_pixel.entropy) == pytest.approx(3 * float(per_dimension.entropy))
    # Untrained it says N(x̂, 32²) of 8-bit steps: no unit-width bins on [0, 1] that cost nothing.
    assert float(per_dimension.entropy) == pytest.approx(
        5.0 + 0.5 * math.log2(2 * math.pi) + 1 / 12 / 2048 / math.log(2), abs=1e-4
    )


@pytest.mark.parametrize(("alpha", "unit"), [(0.1, "dimension"), (0.1, "pixel"), (1.0, "pixel")])
def test_the_share_of_lambda_is_that_of_theory(alpha: float, unit: str) -> None:
    """With a perfect q, dH/dMSE = 1/(2 ln 2·MSE) per dimension: the traps of paper 2's units."""
    generator = torch.Generator().manual_seed(1)
    mse, quality = 40.0, torch.tensor([1.0, 1.0])
    x = torch.rand(2, 3, 64, 64, generator=generator)
    noise = torch.randn(x.shape, generator=generator) * math.sqrt(mse) / 255.0
    source = SourceModel("constant")
    source.expect(mse / 255.0**2)
    regulariser = Regulariser(alpha, source, unit=unit)
    regulariser(x, (x + noise).requires_grad_()).backward()
    dimensions = 3 if unit == "pixel" else 1
    pull, resistance = regulariser.tug(lambdas_of(quality))
    share = pull / resistance
    expected = alpha * dimensions / (2 * math.log(2) * mse) / 0.0018
    assert share == pytest.approx(expected, rel=0.03)
    assert (share > 1) == (alpha * dimensions > 0.15)


def test_a_source_model_starts_at_the_errors_of_the_codec_it_stands_beside(tmp_path: Path) -> None:
    image = np.random.default_rng(2).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    for name in "ab":
        Image.fromarray(image).resize((96, 64)).save(tmp_path / f"{name}.png")
    config = TrainConfig(
        data=(str(tmp_path),),
        steps=1,
        batch=1,
        crop=64,
        source_model="aligned",
        source_rate=1e-9,
        codec=CodecConfig(n=4, m=8, hyper=4),
    )
    train(config, tmp_path / "run")
    row = pandas.read_csv(tmp_path / "run" / "metrics.csv").iloc[0]
    # Of a codec that draws grey, all errors are the picture's own contrast: what is as wide as they
    # are costs the entropy of a Gaussian of their power.
    power = 255.0**2 * 10.0 ** (-0.1 * row["psnr"])
    assert row["source_bits"] == pytest.approx(
        0.5 * math.log2(2 * math.pi * math.e * power), abs=0.2
    )


def test_the_tug_is_the_same_whatever_a_loss_is_multiplied_by() -> None:
    """As pieces of a batch and the scaler of float16 do."""
    x = torch.rand(2, 3, 16, 16)
    found = []
    for factor in (1.0, 0.5, 65536.0):
        regulariser = Regulariser(0.1, SourceModel("constant"), share=1.0)
        loss = regulariser(x, (0.9 * x).requires_grad_())
        (factor * loss).backward()
        found.append(regulariser.tug(0.0018))
    assert all(one == pytest.approx(found[0]) for one in found)


def test_aligned_models_follow_the_prior() -> None:
    def of(side: str, context: str = "none") -> list[str | None]:
        one = 2.0 if side == "none" else 1.0
        qualities = (one, one) if side == "none" else (1.0, 8.0)
        config = CodecConfig(side=side, context=context, qualities=qualities)
        found: list[str | None] = []
        for relation in RELATIONS:
            try:
                found.append(source_model_for(config, relation))
            except CodecError:
                found.append(None)
        return found

    assert of("none") == [None, "constant", "mean-scale"]
    assert of("scale") == ["constant", "scale", "masked"]
    assert of("mean-scale") == of("residual") == ["scale", "mean-scale", "masked"]
    assert of("mean-scale", "space-channel") == ["mean-scale", "space-channel", "masked"]
    assert of("mean-scale-wide", "masked") == ["mean-scale", "masked", "masked-wide"]
    with pytest.raises(CodecError, match="weaker, aligned, stronger"):
        source_model_for(CodecConfig(), "equal")


def test_wrong_input_is_refused() -> None:
    regulariser = Regulariser(0.1)
    with pytest.raises(TrainingError, match=r"\[0, 1\]"):
        regulariser(torch.full((1, 3, 8, 8), 255.0), torch.zeros(1, 3, 8, 8))
    with pytest.raises(CodecError, match=r"\(1, 3, 8, 4\)"):
        regulariser(torch.zeros(1, 3, 8, 8), torch.zeros(1, 3, 8, 4))
    with pytest.raises(CodecError, match="4×4"):
        regulariser(torch.zeros(1, 3, 3, 8), torch.zeros(1, 3, 3, 8))
    with pytest.raises(CodecError, match="constant"):
        SourceModel("oracle")
    with pytest.raises(TrainingError, match="alpha"):
        Regulariser(math.nan)
    with pytest.raises(TrainingError, match="dimension"):
        Regulariser(0.1, unit="bit")
    with pytest.raises(TrainingError, match="share"):
        Regulariser(0.1, share=0.0)


def test_odd_sides_lose_their_edge_alone() -> None:
    source = SourceModel("mean-scale")
    stirred(source)
    x = torch.rand(1, 3, 18, 13)
    whole = source.bits_per_dimension(x[..., :16, :12], x[..., :16, :12] * 0.9)
    assert torch.equal(source.bits_per_dimension(x, x * 0.9), whole)


def test_grey_pictures_have_a_source_model_too() -> None:
    config = TrainConfig(
        crop=64,
        source_model="aligned",
        alpha=0.1,
        codec=CodecConfig(n=4, m=6, hyper=4, transform="table2"),
    )
    torch.manual_seed(0)
    objective = objective_of(config, Codec(config.codec))
    losses = objective(batch())
    losses.loss.backward()
    assert bool(torch.isfinite(losses.loss))
    aside = objective.aside()
    assert all(np.isfinite(value) for value in aside.values())


def test_validation_knows_no_regulariser() -> None:
    objective = regularised(0.5)
    measured = objective.for_validation(objective.codec)
    plain = RateDistortion(objective.codec).for_validation(objective.codec)
    with torch.no_grad():
        assert torch.equal(measured(batch()).loss, plain(batch()).loss)
