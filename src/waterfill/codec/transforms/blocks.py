"""A linear transform of 16×16 blocks between learned filters."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from waterfill.codec.conditioning import Modulation, quality_terms
from waterfill.codec.gains import relative_step

__all__ = ["BLOCK", "FilteredAnalysis", "FilteredSynthesis", "PictureFilter"]

#: Side of a block in pixels.
BLOCK = 16


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
    conditional
        What enters each pair, and the way out, is modulated by the quality.
    """

    _CELL = 4
    #: Pictures come in [−½, ½]: brought to a deviation of about one. The small factor on the way
    #: out makes training's steps small, beside a transform that is good already.
    _SCALE_IN, _SCALE_OUT = 4.0, 0.05

    def __init__(self, n: int, pairs: int, *, conditional: bool = False) -> None:
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
        self.modulations = nn.ModuleList(Modulation(n) for _ in range(pairs * conditional))
        self.last_modulation = Modulation(n) if conditional else None

    @torch.no_grad()
    def silence(self, first: int) -> None:
        """Have the pairs from ``first`` on add nothing, until they are trained."""
        for pair in self.pairs[first:]:
            for parameter in cast(nn.Sequential, pair)[-1].parameters():
                nn.init.zeros_(parameter)

    def forward(self, x: Tensor, quality: Tensor) -> Tensor:
        """Filter ``x`` (B, 3, H, W), sides multiples of 16, qualities (B,); zero until trained."""
        inner = self.enter(self._SCALE_IN * F.pixel_unshuffle(x, self._CELL))
        inner = inner + self.place.tile((1, 1, x.shape[2] // BLOCK, x.shape[3] // BLOCK))
        if self.last_modulation is None:
            for pair in self.pairs:
                inner = inner + pair(F.leaky_relu(inner))
        else:
            terms = quality_terms(quality)
            for pair, modulation in zip(self.pairs, self.modulations, strict=True):
                inner = inner + pair(F.leaky_relu_(modulation(inner, terms)))
            inner = self.last_modulation(inner, terms)
        return F.pixel_shuffle(self._SCALE_OUT * self.leave(inner), self._CELL)


class FilteredAnalysis(nn.Module):
    """g_a as a linear transform of 16×16 blocks behind a learned filter: y = T(x + f(x)).

    The filter moves across the borders of blocks what the transform would otherwise code twice, as
    the pre-filter of a lapped transform does, but it need not be linear. The transform's weights
    are zero until someone sets them (see :mod:`waterfill.training.klt`), and are not trained unless
    a run says so.

    Parameters
    ----------
    n, m
        Channels of the filter, and of the latents.
    pairs
        Number of pairs of convolutions in the filter.
    conditional
        The filter is told the quality.

    References
    ----------
    Tran, Liang, Tu, "Lapped transform via time-domain pre- and post-filtering", 2003.
    """

    def __init__(self, n: int, m: int, pairs: int, *, conditional: bool = False) -> None:
        super().__init__()
        self.filter = PictureFilter(n, pairs, conditional=conditional)
        self.blocks = nn.Conv2d(3, m, BLOCK, stride=BLOCK).requires_grad_(False)
        #: Leave the filter out, as if it were still zero: many times faster.
        self.linear_only = False
        for parameter in self.blocks.parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor, quality: Tensor) -> Tensor:
        """Latents (B, m, H/16, W/16) of ``x`` (B, 3, H, W) in [−½, ½], for qualities (B,)."""
        if not self.linear_only:
            x = x + self.filter(x, quality)
        return cast(Tensor, self.blocks(x))


class FilteredSynthesis(nn.Module):
    """g_s as a linear transform to 16×16 blocks and a learned filter: v = Tᵀŷ, x̂ = v + f(v).

    Parameters
    ----------
    n, m
        Channels of the filter, and of the latents.
    pairs
        Number of pairs of convolutions in the filter.
    conditional
        The filter is told the quality.
    """

    def __init__(self, n: int, m: int, pairs: int, *, conditional: bool = False) -> None:
        super().__init__()
        self.filter = PictureFilter(n, pairs, conditional=conditional)
        self.blocks = nn.ConvTranspose2d(m, 3, BLOCK, stride=BLOCK).requires_grad_(False)
        #: Leave the filter out, as if it were still zero: many times faster.
        self.linear_only = False
        for parameter in self.blocks.parameters():
            nn.init.zeros_(parameter)

    def forward(self, y: Tensor, quality: Tensor) -> Tensor:
        """Pictures (B, 3, H, W) in about [−½, ½] of latents (B, m, H/16, W/16).

        Parameters
        ----------
        y
            Latents.
        quality
            (B,). The filter works in units of the quantisation step, with which what it has to mend
            grows.
        """
        # A deconvolution whose stride is its kernel, at twice the speed.
        rows = self.blocks.weight.flatten(1).T[:, :, None, None]
        v = F.pixel_shuffle(F.conv2d(y, rows), BLOCK)
        v = v + cast(Tensor, self.blocks.bias)[:, None, None]
        if self.linear_only:
            return v
        step = relative_step(quality)[:, None, None, None]
        return cast(Tensor, v + step * self.filter(v / step, quality))
