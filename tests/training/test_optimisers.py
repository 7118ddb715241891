"""SOAP: Adam where there is no basis, and indifferent to rotations where there is one."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from waterfill.training.optimisers import Soap, _array, _like, _shape, slots_of


def rotation(size: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.linalg.qr(torch.randn(size, size, generator=generator, dtype=torch.float64)).Q


def path(start: Tensor, slope, steps: int, **options) -> list[Tensor]:
    """Where an optimiser goes from ``start`` along ``slope`` of where it stands."""
    weight = start[..., None, None].clone().requires_grad_(True)
    optimiser = Soap([weight], **options)
    gone = []
    for _ in range(steps):
        weight.grad = slope(weight.detach()[..., 0, 0])[..., None, None]
        optimiser.step()
        gone.append(weight.detach()[..., 0, 0].clone())
    return gone


def quadratic(rows: int, columns: int):
    """Gradient of a valley that lies askew: ½ tr((W − T)ᵀ A (W − T) B)."""
    left, right = rotation(rows, 1), rotation(columns, 2)
    a = left @ torch.diag(torch.logspace(0, -3, rows, dtype=torch.float64)) @ left.T
    b = right @ torch.diag(torch.logspace(0, -3, columns, dtype=torch.float64)) @ right.T
    target = torch.randn(
        rows, columns, generator=torch.Generator().manual_seed(3), dtype=torch.float64
    )

    def slope(weight: Tensor) -> Tensor:
        return a @ (weight - target) @ b

    def cost(weight: Tensor) -> float:
        return float(0.5 * ((weight - target) * slope(weight)).sum())

    return slope, cost


@pytest.mark.parametrize("shape", [(7,), (4, 3, 3), (8, 90), (900, 900, 1, 1)], ids=str)
def test_without_a_basis_it_is_adam(shape):
    generator = torch.Generator().manual_seed(0)
    weight, other = (torch.ones(shape, requires_grad=True) for _ in range(2))
    soap = Soap([weight], lr=1e-2, betas=(0.9, 0.99))
    adam = torch.optim.Adam([other], lr=1e-2, betas=(0.9, 0.99))
    for _ in range(7):
        weight.grad = torch.randn(shape, generator=generator)
        other.grad = weight.grad.clone()
        soap.step()
        adam.step()
    torch.testing.assert_close(weight, other, rtol=1e-5, atol=1e-6)


def test_a_rotated_problem_is_solved_along_the_rotated_path():
    slope, _ = quadratic(6, 5)
    u, v = rotation(6, 4), rotation(5, 5)
    start = torch.zeros(6, 5, dtype=torch.float64)
    here = path(start, slope, 60, lr=0.05)
    there = path(u @ start @ v.T, lambda w: u @ slope(u.T @ w @ v) @ v.T, 60, lr=0.05)
    for one, other in zip(here, there, strict=True):
        torch.testing.assert_close(u @ one @ v.T, other, rtol=0, atol=1e-4)


def test_a_valley_that_lies_askew_is_followed_faster_than_by_adam():
    slope, cost = quadratic(12, 10)
    start = torch.zeros(12, 10, dtype=torch.float64)
    soap = path(start, slope, 200, lr=0.02)[-1]
    weight = start.clone().requires_grad_(True)
    adam = torch.optim.Adam([weight], lr=0.02, betas=(0.95, 0.95))
    for _ in range(200):
        weight.grad = slope(weight.detach())
        adam.step()
    assert cost(soap) < 0.5 * cost(weight.detach()) < 0.5 * cost(start)


def test_rounding_decides_no_step():
    moved = {}
    for dtype in (torch.float32, torch.float64):
        generator = torch.Generator().manual_seed(0)
        weight = torch.zeros(64, 75, 1, 1, dtype=dtype, requires_grad=True)
        soap = Soap([weight], lr=1.0)
        for step in range(3):
            weight.grad = torch.randn(64, 75, 1, 1, generator=generator).to(dtype)
            before = weight.detach().clone()
            soap.step()
            moved[dtype, step] = (weight.detach() - before).double().flatten()
    assert not moved[torch.float32, 0].any()
    for step in (1, 2):
        pair = moved[torch.float32, step], moved[torch.float64, step]
        assert torch.cosine_similarity(*pair, dim=0) > 0.9


def test_a_rare_large_gradient_moves_no_weight_far():
    """As of a latent that seldom wakes: nothing for long, then much, and the bases turn to it."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.zeros(16, 8, 3, 3, requires_grad=True)
    soap = Soap([weight], lr=1.0)
    before = weight.detach().clone()
    for step in range(400):
        scale = 1e3 if step % 90 == 17 else 1e-6
        direction = torch.randn(16, generator=generator)[:, None, None, None]
        weight.grad = scale * direction * torch.randn(1, 8, 3, 3, generator=generator)
        soap.step()
        moved, before = (weight.detach() - before).norm(), weight.detach().clone()
        assert moved <= 1.01 * weight.numel() ** 0.5


def test_bases_turn_towards_eigenvectors_and_the_mean_stays_what_it_is():
    generator = torch.Generator().manual_seed(0)
    colour = rotation(6, 7) @ torch.diag(torch.logspace(0, -2, 6, dtype=torch.float64))
    weight = torch.zeros(6, 9, 1, 1, dtype=torch.float64, requires_grad=True)
    turning = Soap([weight], lr=1e-3, look=1, turn=10)
    mean = torch.zeros(6, 9, dtype=torch.float64)
    for step in range(200):
        noise = torch.randn(6, 9, generator=generator, dtype=torch.float64)
        weight.grad = (colour @ noise)[..., None, None]
        mean.lerp_(colour @ noise, 0.05 if step else 0.0)
        turning.step()
    slots = turning.state[weight]
    left, right = slots["basis_1"], slots["basis_2"]
    kept = left @ slots["exp_avg"][0] @ right.T
    torch.testing.assert_close(kept, mean, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(left.T @ left, torch.eye(6, dtype=torch.float64))
    diagonal = left.T @ slots["second_1"] @ left
    off = (diagonal - torch.diag(diagonal.diagonal())).norm()
    assert off < 0.15 * diagonal.norm()
    assert (diagonal.diagonal().diff() < 0).all()


@pytest.mark.parametrize(
    ("shape", "array"),
    [
        ((6, 5), (6, 5)),
        ((6, 5, 3, 2), (1, 6, 30)),
        ((6, 100, 3, 3), (9, 6, 100)),
        ((480, 3, 16, 16), (1, 480, 768)),
        ((5,), (5,)),
        ((4, 3, 3), (4, 3, 3)),
    ],
    ids=str,
)
@pytest.mark.parametrize("channels_last", [False, True])
def test_arrays_hold_the_weight(shape, array, channels_last):
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    if channels_last and weight.ndim == 4:
        weight = weight.contiguous(memory_format=torch.channels_last)
    assert _array(weight).shape == _shape(weight) == array
    torch.testing.assert_close(_like(_array(weight), weight), weight, rtol=0, atol=0)


@pytest.mark.parametrize("shape", [(5,), (6, 5), (6, 100, 3, 3), (6, 5, 3, 3), (4, 3, 3)], ids=str)
def test_what_is_kept_are_the_tensors_that_are_told(shape):
    weight = torch.zeros(shape, requires_grad=True)
    soap = Soap([weight], lr=1e-3, turn=2, look=1)
    for _ in range(3):
        weight.grad = torch.randn(shape)
        soap.step()
    told, kept = slots_of(soap, weight), soap.state[weight]
    assert told.keys() == kept.keys()
    for name, slot in kept.items():
        assert (slot.shape, slot.dtype) == (told[name].shape, told[name].dtype), name
        assert slot.stride() == told[name].stride(), name


def test_bases_in_bfloat16_are_good_for_three_digits():
    slope, cost = quadratic(12, 10)
    start = torch.zeros(12, 10)

    def narrowed(weight: Tensor) -> Tensor:
        return slope(weight.double()).float()

    wide, narrow = (
        path(start, narrowed, 100, lr=0.02, narrow=narrow)[-1].double() for narrow in (False, True)
    )
    assert cost(narrow) == pytest.approx(cost(wide), rel=0.05)


def test_bases_turn_as_often_as_they_are_told_to() -> None:
    generator = torch.Generator().manual_seed(0)
    weight = torch.zeros(4, 6, 1, 1, requires_grad=True)
    optimiser = Soap([weight], 1e-3, look=2, turn=6)
    turned, before = [], None
    for call in range(20):
        weight.grad = torch.randn(weight.shape, generator=generator)
        optimiser.step()
        basis = optimiser.state[weight]["basis_1"].clone()
        if before is None or not torch.equal(basis, before):
            turned.append(call)
        before = basis
    assert turned == [0, 7, 13, 19]  # the first gradient gives them and moves nothing
