"""Noise is a function of its seed: not of the batch, its layout, or what was drawn elsewhere."""

from __future__ import annotations

import torch

from waterfill.codec.noise import Noise


def test_a_picture_meets_the_same_noise_in_any_batch_and_layout() -> None:
    y = torch.zeros(3, 5, 4, 6)
    whole = Noise([7, 8, 9])
    first, second = whole.uniform(y), whole.normal(y)
    alone = Noise([8])
    assert torch.equal(alone.uniform(y[1:2]), first[1:2])
    assert torch.equal(alone.normal(y[1:2]), second[1:2])
    channels_last = y.contiguous(memory_format=torch.channels_last)
    assert torch.equal(Noise([7, 8, 9]).uniform(channels_last), first)
    assert not torch.equal(first[0], first[1])


def test_one_seed_serves_tensors_of_any_shape() -> None:
    y = torch.zeros(100_000)
    uniform, normal = Noise(3).uniform(y), Noise(3).normal(y)
    assert uniform.min() >= -0.5
    assert uniform.max() < 0.5
    assert abs(float(uniform.var()) - 1 / 12) < 1e-3
    assert abs(float(normal.var()) - 1.0) < 2e-2


def test_the_global_generator_neither_matters_nor_moves() -> None:
    y = torch.zeros(2, 3)
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first = Noise(1).normal(y)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(1)
    assert torch.equal(Noise(1).normal(y), first)
