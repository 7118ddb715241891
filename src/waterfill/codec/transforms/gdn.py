"""Generalised divisive normalisation."""

from __future__ import annotations

import math
from typing import Any, cast

import torch
from torch import Tensor, nn

from waterfill.codec.bounds import bounded

__all__ = ["GDN"]


#: Places that a processor is given at a time: what they become stays in its cache.
_AT_ONCE = 4096


def _blocks(flat: Tensor) -> list[slice]:
    """Rows of a matrix that are worked on at a time; all of them, but on a processor."""
    rows = len(flat)
    size = rows if flat.device.type != "cpu" else _AT_ONCE
    return [slice(start, start + size) for start in range(0, rows, size)]


class _Normalise(torch.autograd.Function):
    """x · n^(∓1/2) with n = β + γ x² at each place, differentiated by hand.

    Left to autograd, the element-wise steps around the matrix product are a third of a training
    step on a CPU: each is one more pass over the largest tensors of the network. Written out, most
    of the passes go, and the rest run over blocks that stay in the cache. With channels last in
    memory, the product is one of matrices; asked for as a convolution, it takes a slower way.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, gamma: Tensor, beta: Tensor, inverse: bool) -> Tensor:
        batch, channels, height, width = x.shape
        ctx.shape = (batch, height, width, channels)
        flat = x.movedim(1, -1).reshape(-1, channels)
        ctx.dtype = gamma.dtype
        gamma, beta = gamma.to(x.dtype), beta.to(x.dtype)
        learns = any(ctx.needs_input_grad)
        y = torch.empty_like(flat)
        roots = torch.empty_like(flat) if learns else None
        for block in _blocks(flat):
            part = flat[block]
            # Into the result, which is written once more, or beside it where it is needed again.
            root = y[block] if roots is None else roots[block]
            torch.mm(part * part, gamma.T, out=root)
            root.add_(beta)
            torch.mul(root.sqrt_() if inverse else root.rsqrt_(), part, out=y[block])
        if learns:
            ctx.save_for_backward(flat, gamma, roots)
            ctx.inverse = inverse
        return y.view(ctx.shape).movedim(-1, 1)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        flat, gamma, roots = ctx.saved_tensors
        grad = grad.to(flat.dtype).movedim(1, -1).reshape(flat.shape)
        grad_x = torch.empty_like(flat)
        grad_gamma = torch.zeros(gamma.shape, dtype=ctx.dtype, device=flat.device)
        grad_beta = torch.zeros(len(gamma), dtype=ctx.dtype, device=flat.device)
        sign = 1.0 if ctx.inverse else -1.0
        for block in _blocks(flat):
            part, root, given = flat[block], roots[block], grad[block]
            direct = torch.mul(given, root, out=grad_x[block])
            # Twice dL/dn, but for its sign: g x / √n for y = x √n, and g x / n^{3/2} for x / √n.
            if ctx.inverse:
                through = (given * part).div_(root)
            else:
                through = (part * root).mul_(root).mul_(direct)
            # This 2 and that of d(x²)/dx cancel in the gradient of x.
            direct.addcmul_(part, torch.mm(through, gamma), value=sign)
            if ctx.needs_input_grad[1]:
                grad_gamma += torch.mm(through.T, part * part)
                grad_beta += through.sum(0)
        return (
            grad_x.view(ctx.shape).movedim(-1, 1),
            grad_gamma.mul_(0.5 * sign),
            grad_beta.mul_(0.5 * sign),
            None,
        )


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

    @classmethod
    def root_of_gamma(cls, gamma: Tensor) -> Tensor:
        """The ``root_gamma`` that stands for γ; of what is below 0, that of 0."""
        return torch.sqrt(gamma.clamp_min(0.0) + cls._ROOT_FLOOR**2)

    @classmethod
    def root_of_beta(cls, beta: Tensor) -> Tensor:
        """The ``root_beta`` that stands for β; of what is below its floor, that of the floor."""
        return torch.sqrt((beta - cls._BETA_FLOOR).clamp_min(0.0))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise ``x`` (B, C, H, W)."""
        root = bounded(self.root_gamma, self._ROOT_FLOOR, math.inf)
        gamma = root * root - self._ROOT_FLOOR**2
        beta = self.root_beta * self.root_beta + self._BETA_FLOOR
        return cast(Tensor, _Normalise.apply(x, gamma, beta, self.inverse))  # type: ignore[no-untyped-call]
