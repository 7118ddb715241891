"""How sensitive a decoder is, channel by channel."""

from __future__ import annotations

import math

import pytest
import torch

from waterfill.codec.channels import WATER_LEVEL
from waterfill.codec.sensitivity import sensitivity
from waterfill.ladder.levels import activity_of, levels_of


def test_of_a_linear_decoder_it_is_the_squared_length_of_its_columns() -> None:
    torch.manual_seed(0)
    weight = torch.randn(5, 3, 8, 8) * torch.tensor([0.1, 0.5, 1.0, 2.0, 4.0])[:, None, None, None]

    def decode(y_hat: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.conv_transpose2d(y_hat[None], weight, stride=8)[0]

    found = sensitivity(decode, torch.randn(5, 40, 30))
    assert found.tolist() == pytest.approx(weight.square().sum((1, 2, 3)).tolist(), rel=0.25)


def test_levels_go_against_the_sensitivity_as_strictly_as_told() -> None:
    weights, activity = torch.tensor([1.0, 4.0, 1e9, 0.0]), torch.tensor([0.5, 0.5, 0.0, 0.0])
    strict = levels_of(weights, activity, 1.0)
    assert float(strict[0] / strict[1]) == pytest.approx(4.0)
    # What shows in the picture of those that are active stays what it was.
    shown = (activity * weights * strict).sum() / (activity * weights).sum()
    flat = levels_of(weights, activity, 0.0)
    assert torch.allclose(flat, torch.full((4,), WATER_LEVEL))
    assert 0.5 * WATER_LEVEL < float(shown) < WATER_LEVEL * (1 + 1e-6)
    # None is further from the rest than a factor of eight.
    assert strict[2] == pytest.approx(WATER_LEVEL / 8)
    assert strict[3] == pytest.approx(WATER_LEVEL * 8)


def test_a_decoder_without_gradient_gives_one_level_to_all() -> None:
    levels = levels_of(torch.zeros(3), torch.ones(3), 1.0)
    assert torch.equal(levels, torch.full((3,), WATER_LEVEL))


@pytest.mark.parametrize(
    ("weights", "activity"),
    [
        ([1.0, 4.0], [0.0, 0.0]),  # no channel is active
        ([1.0, 0.0], [0.0, 0.0]),
        ([1.0, 0.0], [0.0, 1.0]),  # what is active doesn't show
        ([1.0, math.inf], [1.0, 1.0]),
    ],
)
@pytest.mark.parametrize("strength", [0.0, 0.5, 1.0])
def test_where_nothing_active_shows_all_channels_have_one_level(
    weights: list[float], activity: list[float], strength: float
) -> None:
    levels = levels_of(torch.tensor(weights), torch.tensor(activity), strength)
    assert torch.equal(levels, torch.full((2,), WATER_LEVEL))


def test_levels_do_not_depend_on_how_active_all_channels_are_together() -> None:
    weights, activity = torch.tensor([1.0, 4.0]), torch.tensor([0.5, 0.25])
    expected = levels_of(weights, activity, 0.5)
    assert torch.allclose(levels_of(weights, activity * 1e-12, 0.5), expected)


def test_activity_goes_from_silent_to_loud() -> None:
    y = torch.stack([torch.zeros(4, 4), torch.full((4, 4), 100.0)])
    assert activity_of([y, y]).tolist() == pytest.approx([0.0, 1.0], abs=1e-4)
