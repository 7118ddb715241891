"""Generalised divisive normalisation."""

from __future__ import annotations

import math
from typing import Any, cast

import torch
from torch import Tensor, nn

from waterfill.codec.bounds import bounded

__all__ = ["GDN"]


class _Normalise(torch.autograd.Function):
    """x · n^(∓1/2) with n = β + γ x² at each place, differentiated by hand.

    Left to autograd, the element-wise steps around the matrix product are a third of a training
    step on a CPU: each is one more pass over the largest tensors of the network. Written out,
    half of the passes go, and the rest work in place. With channels last in memory, the product
    is one of matrices; asked for as a convolution, it takes a slower way.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, gamma: Tensor, beta: Tensor, inverse: bool) -> Tensor:
        batch, channels, height, width = x.shape
        ctx.shape = (batch, height, width, channels)
        flat = x.movedim(1, -1).reshape(-1, channels)
        ctx.dtype = gamma.dtype
        gamma, beta = gamma.to(x.dtype), beta.to(x.dtype)
        norm = torch.addmm(beta, flat * flat, gamma.T)
        root = norm.sqrt_() if inverse else norm.rsqrt_()
        if any(ctx.needs_input_grad):
            y = flat * root
            ctx.save_for_backward(flat, gamma, root)
            ctx.inverse = inverse
        else:  # a large picture has no memory to spare
            y = root.mul_(flat)
        return y.view(ctx.shape).movedim(-1, 1)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        flat, gamma, root = ctx.saved_tensors
        grad = grad.to(flat.dtype).movedim(1, -1).reshape(flat.shape)
        # dL/dn: for y = x √n it is g x / (2 √n), for y = x / √n it is −g x / (2 n^{3/2}).
        through_norm = grad * flat
        if ctx.inverse:
            through_norm.div_(root)
        else:
            through_norm.mul_(root).mul_(root).mul_(root).neg_()
        # The ½ of dL/dn and the 2 of d(x²)/dx cancel in the gradient of x.
        grad_x = torch.mm(through_norm, gamma).mul_(flat).addcmul_(grad, root)
        grad_gamma = grad_beta = None
        if ctx.needs_input_grad[1]:
            grad_gamma = torch.mm(through_norm.T, flat * flat).to(ctx.dtype).mul_(0.5)
            grad_beta = through_norm.to(ctx.dtype).sum(0).mul_(0.5)
        return grad_x.view(ctx.shape).movedim(-1, 1), grad_gamma, grad_beta, None


class GDN(nn.Module):
    r"""Generalised divisive normalisation, or its approximate inverse.

    .. math:: y_i = x_i \Big/ \sqrt{\beta_i + \sum_j \gamma_{ij} x_j^2}

    (the inverse multiplies instead of dividing). β and γ are stored as square roots. That of γ has
    a floor, and its square is subtracted: a γ of 0 is reached exactly, with a gradient that leads
    out again, instead of in ever smaller numbers that end as denormals and slow every product.

    Parameters
    ----------
    channels
        Number of channels C of the input, shape ``(B, C, H, W)``.
    inverse
        Multiply by the norm instead of dividing by it (IGDN).

    References
    ----------
    Ballé, Laparra, Simoncelli, "Density modeling of images using a generalized normalization
    transformation", ICLR 2016; Table I of the rate–distortion limits paper.
    """

    _OFF_DIAGONAL = 2.0**-6
    _ROOT_FLOOR = 2.0**-9
    _BETA_FLOOR = 1e-6

    def __init__(self, channels: int, *, inverse: bool = False) -> None:
        super().__init__()
        self.inverse = inverse
        self.root_beta = nn.Parameter(torch.ones(channels))
        gamma = torch.full((channels, channels), self._OFF_DIAGONAL)
        gamma.fill_diagonal_(0.1**0.5)
        self.root_gamma = nn.Parameter(gamma)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise ``x`` (B, C, H, W)."""
        root = bounded(self.root_gamma, self._ROOT_FLOOR, math.inf)
        gamma = root * root - self._ROOT_FLOOR**2
        beta = self.root_beta * self.root_beta + self._BETA_FLOOR
        return cast(Tensor, _Normalise.apply(x, gamma, beta, self.inverse))  # type: ignore[no-untyped-call]
