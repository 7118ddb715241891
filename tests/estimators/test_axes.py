"""Principal axes of samples against those of the law that they are drawn from."""

from __future__ import annotations

import pytest
import torch

from waterfill.estimators.axes import principal_axes


def _drawn(deviations: list[float], vectors: torch.Tensor, count: int = 20_000) -> torch.Tensor:
    noise = torch.randn(
        count, len(deviations), dtype=torch.float64, generator=torch.Generator().manual_seed(1)
    )
    return (noise * torch.tensor(deviations)) @ vectors.T + 7.0


@pytest.mark.parametrize("significant", [False, True])
def test_they_are_those_of_a_turned_gaussian(significant):
    turn, _ = torch.linalg.qr(
        torch.randn(3, 3, dtype=torch.float64, generator=torch.manual_seed(2))
    )
    axes = principal_axes(_drawn([0.5, 1.0, 4.0], turn), significant)
    assert axes.centre == pytest.approx([7.0] * 3, abs=0.1)
    assert axes.variances == pytest.approx([0.25, 1.0, 16.0], rel=0.05)
    assert (axes.vectors.T @ turn).abs().diagonal().min() > 0.999


def test_correlations_that_are_noise_turn_no_axis():
    samples = _drawn([1.0] * 4, torch.eye(4, dtype=torch.float64))
    turned = principal_axes(samples).vectors.abs()
    kept = principal_axes(samples, significant=True).vectors.abs()
    assert turned.max(0).values.min() < 0.99
    assert torch.equal(kept.sort(0).values[-1], torch.ones(4, dtype=torch.float64))


def test_one_dimension_has_one_axis():
    axes = principal_axes(torch.tensor([[1.0], [3.0]]))
    assert (axes.centre, axes.variances, axes.vectors.abs()) == (2.0, 2.0, 1.0)
