"""GDN against its formula, its gradient, and its inverse."""

from __future__ import annotations

import pytest
import torch

from waterfill.codec.transforms import GDN, hyper_analysis, hyper_synthesis, residual, table1


@pytest.mark.parametrize("inverse", [False, True])
def test_gdn_is_its_formula(inverse: bool) -> None:
    torch.manual_seed(0)
    gdn = GDN(4, inverse=inverse)
    torch.nn.init.uniform_(gdn.root_gamma, 0.1, 1.0)
    x = torch.randn(2, 4, 3, 5)
    gamma = gdn.root_gamma**2 - GDN._ROOT_FLOOR**2
    norm = (gdn.root_beta**2)[None, :, None, None] + torch.einsum("ij,bjhw->bihw", gamma, x**2)
    expected = x * norm.sqrt() if inverse else x / norm.sqrt()
    assert torch.allclose(gdn(x), expected, atol=1e-5)


@pytest.mark.parametrize("inverse", [False, True])
def test_hand_written_gradient_is_the_derivative(inverse: bool) -> None:
    torch.manual_seed(0)
    gdn = GDN(3, inverse=inverse).double()
    torch.nn.init.uniform_(gdn.root_gamma, 0.1, 1.0)

    def call(x: torch.Tensor, gamma: torch.Tensor, beta: torch.Tensor) -> torch.Tensor:
        parameters = {"root_gamma": gamma, "root_beta": beta}
        result: torch.Tensor = torch.func.functional_call(gdn, parameters, (x,))
        return result

    x = torch.randn(2, 3, 2, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(call, (x, gdn.root_gamma, gdn.root_beta))


def test_gamma_reaches_zero_exactly_and_can_leave_it() -> None:
    gdn = GDN(2)
    with torch.no_grad():
        gdn.root_gamma.fill_(1e-30)
    x = torch.tensor([[[[3.0]], [[0.5]]]])
    y = gdn(x)
    assert torch.allclose(y, x / torch.sqrt(torch.tensor(1 + GDN._BETA_FLOOR)))
    # Shrinking |y| wants a larger γ: the gradient must point there although γ is at its floor.
    (y**2).sum().backward()
    assert gdn.root_gamma.grad is not None
    assert (gdn.root_gamma.grad < 0).all()


def test_shapes_and_strides() -> None:
    x = torch.zeros(1, 3, 128, 192)
    forth, back = table1(8, 12)
    y = forth(x)
    assert y.shape == (1, 12, 8, 12)
    assert back(y).shape == x.shape
    z = hyper_analysis(12, 6)(y)
    assert z.shape == (1, 6, 2, 3)
    assert hyper_synthesis(6, 24)(z).shape == (1, 24, 8, 12)


def test_residual_transforms_learn_in_bfloat16() -> None:
    """Gradients within their memory: a strided 1×1 convolution of three planes has none such."""
    torch.manual_seed(0)
    g_a, _ = residual(32, 32, attention=False)
    g_a = g_a.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    for _ in range(3):
        x = torch.rand(4, 3, 128, 128).contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16):
            y = g_a(x)
        y.float().square().mean().backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in g_a.parameters())
