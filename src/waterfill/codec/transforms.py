"""Transforms: the networks g_a, g_s, h_a, h_s, and nothing else.

A transform maps a picture to latents or back. It knows nothing of rates, quantisation or bytes.
"""

from __future__ import annotations

import math
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from waterfill.codec.bounds import bounded

__all__ = [
    "BLOCK",
    "GDN",
    "BesideBlocks",
    "analysis",
    "hyper_analysis",
    "hyper_synthesis",
    "synthesis",
]


#: Side of a latent's cell in pixels: four strides of 2.
BLOCK = 16


class _Normalise(torch.autograd.Function):
    """x · n^(∓1/2) with n = β + γ ∗ x², differentiated by hand.

    Left to autograd, the element-wise steps around the 1×1 convolution are a third of a training
    step on a CPU: each is one more pass over the largest tensors of the network. Written out,
    half of the passes go, and the rest work in place.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, gamma: Tensor, beta: Tensor, inverse: bool) -> Tensor:
        norm = F.conv2d(x * x, gamma, beta)
        root = norm.sqrt_() if inverse else norm.rsqrt_()
        if not any(ctx.needs_input_grad):  # a large picture has no memory to spare
            return root.mul_(x)
        y = x * root
        ctx.save_for_backward(x, gamma, root)
        ctx.inverse = inverse
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, gamma, root = ctx.saved_tensors
        grad, gamma = grad.to(x.dtype), gamma.to(x.dtype)
        # dL/dn: for y = x √n it is g x / (2 √n), for y = x / √n it is −g x / (2 n^{3/2}).
        through_norm = grad * x
        if ctx.inverse:
            through_norm.div_(root)
        else:
            through_norm.mul_(root).mul_(root).mul_(root).neg_()
        # The ½ of dL/dn and the 2 of d(x²)/dx cancel in the gradient of x.
        grad_x = F.conv_transpose2d(through_norm, gamma).mul_(x).addcmul_(grad, root)
        grad_gamma = grad_beta = None
        if ctx.needs_input_grad[1]:
            channels = x.shape[1]
            half = 0.5 * through_norm.movedim(1, -1).reshape(-1, channels)
            power = (x * x).movedim(1, -1).reshape(-1, channels)
            grad_gamma = (half.T @ power)[:, :, None, None].to(gamma.dtype)
            grad_beta = half.sum(0).to(gamma.dtype)
        return grad_x, grad_gamma, grad_beta, None


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
        gamma = (root * root - self._ROOT_FLOOR**2)[:, :, None, None]
        beta = self.root_beta * self.root_beta + self._BETA_FLOOR
        return cast(Tensor, _Normalise.apply(x, gamma, beta, self.inverse))  # type: ignore[no-untyped-call]


def _down(inputs: int, outputs: int, kernel: int = 5) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, stride=2, padding=kernel // 2)


def _up(inputs: int, outputs: int, kernel: int = 5) -> nn.ConvTranspose2d:
    return nn.ConvTranspose2d(
        inputs, outputs, kernel, stride=2, padding=kernel // 2, output_padding=1
    )


class BesideBlocks(nn.Module):
    """A network and a fixed linear transform of 16×16 blocks, side by side: their outputs add.

    What a linear transform can do needs no training; the network learns what it can't. The
    transform's weights are zero until someone sets them (see :mod:`waterfill.training.klt`), and
    are not trained.

    Parameters
    ----------
    network
        Its last layer starts at zero, so that training starts from the linear transform.
    blocks
        The linear transform: a convolution, or deconvolution, of stride 16.
    """

    #: Factor on the network's output. Its steps in training shrink with it: a transform that is
    #: good already is not to be shaken.
    _SCALE = 0.1

    def __init__(self, network: nn.Sequential, blocks: nn.Conv2d | nn.ConvTranspose2d) -> None:
        super().__init__()
        self.network = network
        self.blocks = blocks.requires_grad_(False)
        #: Leave the network out, as if its output were still zero: many times faster.
        self.linear_only = False
        for parameter in (*network[-1].parameters(), *blocks.parameters()):
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor, step: Tensor | float = 1.0) -> Tensor:
        """The sum of both.

        Parameters
        ----------
        x
            Pictures, or latents.
        step
            Relative quantisation step of the latents, a number or (B, 1, 1, 1). The network works
            in its unit: what it has to mend grows with it, and it is not told the quality.
        """
        linear: Tensor = self.blocks(x)
        if self.linear_only:
            return linear
        corrected: Tensor = linear + (self._SCALE * step) * self.network(x / step)
        return corrected


def analysis(n: int, m: int) -> nn.Sequential:
    """g_a of Table I: four stride-2 5×5 convolutions with GDN between, 3 → n → n → n → m."""
    return nn.Sequential(_down(3, n), GDN(n), _down(n, n), GDN(n), _down(n, n), GDN(n), _down(n, m))


def synthesis(n: int, m: int) -> nn.Sequential:
    """g_s of Table I: the mirror image of :func:`analysis`, m → n → n → n → 3."""
    return nn.Sequential(
        _up(m, n),
        GDN(n, inverse=True),
        _up(n, n),
        GDN(n, inverse=True),
        _up(n, n),
        GDN(n, inverse=True),
        _up(n, 3),
    )


def hyper_analysis(m: int, n: int) -> nn.Sequential:
    """h_a of Table I: 3×3 stride 1, then two 5×5 stride 2, leaky ReLU between, m → n → n → n."""
    return nn.Sequential(
        nn.Conv2d(m, n, 3, padding=1),
        nn.LeakyReLU(),
        _down(n, n),
        nn.LeakyReLU(),
        _down(n, n),
    )


def hyper_synthesis(n: int, m: int) -> nn.Sequential:
    """h_s of Table I: two 5×5 stride-2 deconvolutions and a 3×3, n → n → n → 2m (μ and log₂ σ)."""
    return nn.Sequential(
        _up(n, n),
        nn.LeakyReLU(),
        _up(n, n),
        nn.LeakyReLU(),
        nn.Conv2d(n, 2 * m, 3, padding=1),
    )
