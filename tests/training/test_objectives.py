"""One loop, many objectives: each has the gradient that its paper asks for."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from waterfill.codec.config import CodecConfig
from waterfill.codec.gains import lambdas_of, relative_step
from waterfill.codec.model import Codec
from waterfill.codec.priors import NoSideInformation
from waterfill.errors import TrainingError
from waterfill.training.config import OBJECTIVES, TrainConfig
from waterfill.training.objectives import (
    Batch,
    GenieAided,
    Objective,
    RateDistortion,
    distortion_cost,
    objective_of,
    weighted_cost,
)

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


def oracle(**changes: object) -> GenieAided:
    values = {"objective": "oracle-test-channel", **changes}
    objective = objective_of(dataclasses.replace(CONFIG, **values), codec())  # type: ignore[arg-type]
    assert isinstance(objective, GenieAided)
    return objective


ORACLES = [
    {"objective": "oracle-rounding"},
    {"oracle_mode": "smooth"},
    {"oracle_mode": "paper"},
    {"oracle_mode": "paper-detached", "budget": 0.02},
]


def gradients(objective: Objective, cost: torch.Tensor) -> dict[str, torch.Tensor]:
    names, parameters = zip(*objective.named_parameters(), strict=True)
    found = torch.autograd.grad(cost, parameters, allow_unused=True)
    return {n: g for n, g in zip(names, found, strict=True) if g is not None and g.abs().sum() > 0}


@pytest.mark.parametrize("changes", ORACLES)
def test_an_oracles_loss_and_gradient_know_nothing_of_the_prior(changes: dict[str, object]) -> None:
    objective = oracle(**changes)
    x = batch().pictures()
    passage = objective.codec(
        x, batch().quality, objective.oracle, batch().noise, prior=NoSideInformation()
    )
    alone = weighted_cost(passage, x, batch().quality)
    whole = objective(batch())
    # Nothing is charged for z, and what the prior asks for is a record, not a cost.
    assert float(passage.z_bits.sum()) == 0.0
    assert float(whole.loss.detach()) == pytest.approx(float(alone.loss.detach()), rel=1e-6)
    assert torch.allclose(whole.bpp, alone.bpp)
    expected, found = gradients(objective, alone.loss), gradients(objective, whole.loss)
    assert expected
    for name, gradient in expected.items():
        assert torch.allclose(found[name], gradient, rtol=1e-4, atol=1e-8), name
    # All that the prior's own rate trains is the prior.
    beside = found.keys() - expected.keys()
    assert beside
    assert all(name.startswith("codec.prior.") for name in beside)


@pytest.mark.parametrize("changes", ORACLES)
def test_no_prior_asks_for_less_than_the_oracle(changes: dict[str, object]) -> None:
    # The oracle's is the least divergence over all variances, for the same ŷ and mean.
    objective = oracle(**changes)
    with torch.no_grad():
        for parameter in objective.codec.g_a.parameters():
            parameter.mul_(1.5)
        losses = objective(batch())
    assert (losses.prior_bpp >= losses.bpp * (1 - 1e-5)).all()


def test_a_predicted_mean_is_trained_and_its_side_information_paid_for() -> None:
    objective = oracle(oracle_mean="predicted")
    losses = objective(batch())
    found = gradients(objective, losses.loss)
    assert any(name.startswith("codec.prior.side.h_a") for name in found)
    x = batch().pictures()
    passage = objective.codec(x, batch().quality, objective.oracle, batch().noise)
    assert (passage.z_bits > 0).all()
    bpp = (passage.y_bits + passage.z_bits) / (64 * 64)
    assert torch.allclose(losses.bpp, bpp, rtol=1e-5)
    # The prior beside it learns scales; the mean is left to the oracle.
    alone = gradients(objective, weighted_cost(passage, x, batch().quality).loss)
    for name in alone:
        if name.startswith("codec.g_a"):
            assert torch.allclose(found[name], alone[name], rtol=1e-3, atol=1e-7)


@pytest.mark.parametrize("kind", ["rate-distortion", "oracle-test-channel"])
def test_a_factor_of_lambda_weighs_the_distortion_alone(kind: str) -> None:
    plain, scaled = (
        objective_of(dataclasses.replace(CONFIG, objective=kind, lambda_scale=s), codec())(batch())
        for s in (1.0, 0.25)
    )
    assert scaled.bpp.tolist() == plain.bpp.tolist()
    quality = batch().quality
    less = relative_step(quality) * lambdas_of(quality) * 255.0**2 * plain.mse.detach()
    saved = float((plain.loss - scaled.loss).detach())
    assert saved == pytest.approx(0.75 * float(less.mean()), rel=1e-4)


def test_ms_ssim_is_the_same_in_mixed_precision() -> None:
    # Of a smooth picture, whose local variances are small beside its squares.
    x = torch.linspace(0.5, 0.9, 192).expand(1, 3, 192, 192).contiguous()
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    x_hat, quality = (x + 0.01 * noise).clamp(0.0, 1.0), torch.tensor([4.0])

    def found(mixed: bool) -> tuple[torch.Tensor, torch.Tensor]:
        given = x_hat.clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
            cost = distortion_cost("ms-ssim", given, x, quality).sum()
        return cost.detach(), torch.autograd.grad(cost, given)[0]

    for exact, mixed in zip(found(False), found(True), strict=True):
        torch.testing.assert_close(mixed, exact)


def test_ms_ssim_is_charged_by_its_own_weight() -> None:
    objective = objective_of(dataclasses.replace(CONFIG, distortion="ms-ssim", crop=192), codec())
    pixels = torch.randint(0, 256, (2, 3, 192, 192), dtype=torch.uint8)
    one = Batch(pixels, torch.tensor([1.0, 8.0]), [1, 2])
    losses = objective(one)
    x = one.pictures()
    _, x_hat = objective.cost(x, Batch(pixels, one.quality, [1, 2]))
    similarity = torch.stack([ms_ssim_of(a, b) for a, b in zip(x_hat, x, strict=True)])
    cost = losses.bpp + torch.tensor([2.4, 220.0]) * (1.0 - similarity)
    expected = (relative_step(one.quality) * cost).mean()
    assert float(losses.loss.detach()) == pytest.approx(float(expected.detach()), rel=1e-4)


def ms_ssim_of(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    # Wang 2003 written out in float64, independent of what is tested.
    window = torch.exp(-(torch.arange(-5.0, 6.0, dtype=torch.float64) ** 2) / 4.5)
    window = torch.outer(window, window) / window.sum() ** 2
    blur = lambda x: torch.nn.functional.conv2d(x[:, None], window[None, None])  # noqa: E731
    a, b = a.double(), b.double()
    product = torch.ones(3, dtype=torch.float64)
    weights = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
    for k, weight in enumerate(weights):
        ma, mb = blur(a), blur(b)
        va, vb, cov = blur(a * a) - ma**2, blur(b * b) - mb**2, blur(a * b) - ma * mb
        term = (2 * cov + 0.03**2) / (va + vb + 0.03**2)
        if k == len(weights) - 1:
            term = term * (2 * ma * mb + 0.01**2) / (ma**2 + mb**2 + 0.01**2)
        product = product * term.mean((1, 2, 3)).relu() ** weight
        a, b = (torch.nn.functional.avg_pool2d(x[None], 2)[0] for x in (a, b))
    return product.mean()


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"oracle_mean": "predicted"}, "no oracle's"),
        ({"objective": "oracle-rounding", "oracle_mean": "both"}, "oracle_mean"),
        ({"objective": "oracle-test-channel", "oracle_mode": "rough"}, "oracle_mode"),
        ({"objective": "oracle-test-channel", "budget": 0.1}, "budget"),
        ({"budget": -1.0}, "budget"),
        ({"distortion": "lpips"}, "distortion"),
        ({"distortion": "ms-ssim", "crop": 128}, "192 at least"),
        ({"distortion": "ms-ssim", "source_model": "aligned"}, "mse"),
        ({"alpha": 0.1}, "source_model"),
        ({"source_model": "best"}, "source_model"),
        ({"source_model": "aligned", "alpha": -0.1}, "alpha"),
        ({"source_model": "aligned", "alpha_unit": "picture"}, "alpha_unit"),
        ({"source_model": "aligned", "alpha_decay": 1.5}, "alpha_decay"),
        ({"source_model": "aligned", "source_rate": 0.0}, "source_rate"),
        (
            {"source_model": "weaker", "codec": CodecConfig(side="none", qualities=(2.0, 2.0))},
            "weaker",
        ),
        (
            {
                "objective": "oracle-rounding",
                "oracle_mean": "predicted",
                "codec": CodecConfig(side="scale"),
            },
            "no mean",
        ),
    ],
)
def test_settings_that_contradict_each_other_are_refused(
    changes: dict[str, object], problem: str
) -> None:
    with pytest.raises(TrainingError, match=problem):
        dataclasses.replace(CONFIG, **changes)  # type: ignore[arg-type]


def test_a_part_of_a_batch_is_measured_as_in_the_whole() -> None:
    objective = RateDistortion(codec())
    whole, cut = batch(2), batch(2)
    part = Batch(cut.pixels[1:], cut.quality[1:], [1])
    with torch.no_grad():
        assert float(objective(whole).bpp[1]) == pytest.approx(float(objective(part).bpp), rel=1e-5)
