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
    "FilteredAnalysis",
    "FilteredSynthesis",
    "analysis",
    "hyper_analysis",
    "hyper_synthesis",
    "synthesis",
]


#: Side of a latent's cell in pixels: four strides of 2.
BLOCK = 16


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


def _down(inputs: int, outputs: int, kernel: int = 5) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, stride=2, padding=kernel // 2)


def _up(inputs: int, outputs: int, kernel: int = 5) -> nn.ConvTranspose2d:
    return nn.ConvTranspose2d(
        inputs, outputs, kernel, stride=2, padding=kernel // 2, output_padding=1
    )


class PictureFilter(nn.Module):
    """A residual network over pictures, at a quarter of their resolution inside.

    Cells of 4×4 pixels become channels; 3×3 convolutions, most of them in pairs that add to what
    they were given, make cells of the correction from them. What it has to do depends on the place
    in a 16×16 block, which a convolution can't see: an offset for each of the 4×4 cells of a block
    tells it.

    Parameters
    ----------
    n
        Channels inside.
    pairs
        Number of pairs of convolutions.
    """

    _CELL = 4
    #: Pictures come in [−½, ½]: brought to a deviation of about one. The small factor on the way
    #: out makes training's steps small, beside a transform that is good already.
    _SCALE_IN, _SCALE_OUT = 4.0, 0.05

    def __init__(self, n: int, pairs: int) -> None:
        super().__init__()
        self.enter = nn.Conv2d(3 * self._CELL**2, n, 3, padding=1)
        self.place = nn.Parameter(torch.zeros(1, n, BLOCK // self._CELL, BLOCK // self._CELL))
        self.pairs = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(n, n, 3, padding=1), nn.LeakyReLU(), nn.Conv2d(n, n, 3, padding=1)
            )
            for _ in range(pairs)
        )
        self.leave = nn.Conv2d(n, 3 * self._CELL**2, 3, padding=1)
        for parameter in self.leave.parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor) -> Tensor:
        """Filter ``x`` (B, 3, H, W), sides multiples of 16; zero until trained."""
        inner = self.enter(self._SCALE_IN * F.pixel_unshuffle(x, self._CELL))
        inner = inner + self.place.tile((1, 1, x.shape[2] // BLOCK, x.shape[3] // BLOCK))
        for pair in self.pairs:
            inner = inner + pair(F.leaky_relu(inner))
        return F.pixel_shuffle(self._SCALE_OUT * self.leave(inner), self._CELL)


class FilteredAnalysis(nn.Module):
    """g_a as a linear transform of 16×16 blocks behind a learned filter: y = T(x + f(x)).

    The filter moves across the borders of blocks what the transform would otherwise code twice, as
    the pre-filter of a lapped transform does, but it need not be linear. The transform's weights
    are zero until someone sets them (see :mod:`waterfill.training.klt`), and are not trained.

    Parameters
    ----------
    n, m
        Channels of the filter, and of the latents.

    References
    ----------
    Tran, Liang, Tu, "Lapped transform via time-domain pre- and post-filtering", 2003.
    """

    _PAIRS = 1

    def __init__(self, n: int, m: int) -> None:
        super().__init__()
        self.filter = PictureFilter(n, self._PAIRS)
        self.blocks = nn.Conv2d(3, m, BLOCK, stride=BLOCK).requires_grad_(False)
        #: Leave the filter out, as if it were still zero: many times faster.
        self.linear_only = False
        for parameter in self.blocks.parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor) -> Tensor:
        """Latents (B, m, H/16, W/16) of ``x`` (B, 3, H, W) in [−½, ½]."""
        if not self.linear_only:
            x = x + self.filter(x)
        return cast(Tensor, self.blocks(x))


class FilteredSynthesis(nn.Module):
    """g_s as a linear transform to 16×16 blocks and a learned filter: v = Tᵀŷ, x̂ = v + f(v).

    Parameters
    ----------
    n, m
        Channels of the filter, and of the latents.
    """

    _PAIRS = 3

    def __init__(self, n: int, m: int) -> None:
        super().__init__()
        self.filter = PictureFilter(n, self._PAIRS)
        self.blocks = nn.ConvTranspose2d(m, 3, BLOCK, stride=BLOCK).requires_grad_(False)
        #: Leave the filter out, as if it were still zero: many times faster.
        self.linear_only = False
        for parameter in self.blocks.parameters():
            nn.init.zeros_(parameter)

    def forward(self, y: Tensor, step: Tensor) -> Tensor:
        """Pictures (B, 3, H, W) in about [−½, ½] of latents (B, m, H/16, W/16).

        Parameters
        ----------
        y
            Latents.
        step
            Relative quantisation step of the latents, (B, 1, 1, 1). The filter works in its unit:
            what it has to mend grows with it, and it is not told the quality.
        """
        # A deconvolution whose stride is its kernel, at twice the speed.
        rows = self.blocks.weight.flatten(1).T[:, :, None, None]
        v = F.pixel_shuffle(F.conv2d(y, rows), BLOCK)
        v = v + cast(Tensor, self.blocks.bias)[:, None, None]
        if self.linear_only:
            return v
        return cast(Tensor, v + step * self.filter(v / step))


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
