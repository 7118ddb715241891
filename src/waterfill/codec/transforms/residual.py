"""Residual transforms with and without attention (Cheng et al. 2020)."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from waterfill.codec.transforms.gdn import GDN

__all__ = ["conv3", "residual", "upscaled"]


def conv3(inputs: int, outputs: int, stride: int = 1) -> nn.Conv2d:
    """A 3×3 convolution that keeps or halves the sides."""
    return nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1)


def upscaled(inputs: int, outputs: int) -> nn.Sequential:
    """Twice the sides: a 3×3 convolution whose channels become pixels."""
    return nn.Sequential(conv3(inputs, 4 * outputs), nn.PixelShuffle(2))


class ResidualBlock(nn.Module):
    """Two 3×3 convolutions, added to the identity."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self.first = conv3(n, n)
        self.second = conv3(n, n)

    def forward(self, x: Tensor) -> Tensor:
        """Apply it to ``x`` (B, n, H, W)."""
        inner = F.leaky_relu_(self.first(x))
        return F.leaky_relu_(self.second(inner)) + x


class ResidualDown(nn.Module):
    """Half the sides: two convolutions and GDN, beside one of 1×1."""

    def __init__(self, inputs: int, n: int) -> None:
        super().__init__()
        self.first = conv3(inputs, n, stride=2)
        self.second = conv3(n, n)
        self.norm = GDN(n)
        self.skip = nn.Conv2d(inputs, n, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Apply it to ``x`` (B, inputs, H, W)."""
        inner = F.leaky_relu_(self.first(x))
        # A stride of 2 inside a 1×1 convolution is the same, but in bfloat16 on a processor its
        # gradient for three planes is written beyond its memory.
        beside = self.skip(x[:, :, ::2, ::2])
        return cast(Tensor, self.norm(self.second(inner)) + beside)


class ResidualUp(nn.Module):
    """Twice the sides: an upscaling, a convolution and inverse GDN, beside another upscaling."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self.first = upscaled(n, n)
        self.second = conv3(n, n)
        self.norm = GDN(n, inverse=True)
        self.skip = upscaled(n, n)

    def forward(self, x: Tensor) -> Tensor:
        """Apply it to ``x`` (B, n, H, W)."""
        inner = F.leaky_relu_(self.first(x))
        return cast(Tensor, self.norm(self.second(inner)) + self.skip(x))


class Bottleneck(nn.Module):
    """1×1, 3×3 and 1×1 convolutions at half the width, beside the identity."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self.enter = nn.Conv2d(n, n // 2, 1)
        self.inner = conv3(n // 2, n // 2)
        self.leave = nn.Conv2d(n // 2, n, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Apply it to ``x`` (B, n, H, W)."""
        inner = F.relu_(self.inner(F.relu_(self.enter(x))))
        return F.relu_(self.leave(inner) + x)


class Attention(nn.Module):
    """x + trunk(x) · sigmoid(mask(x)): the simplified attention of Cheng et al. 2020."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self.trunk = nn.Sequential(*(Bottleneck(n) for _ in range(3)))
        self.mask = nn.Sequential(*(Bottleneck(n) for _ in range(3)), nn.Conv2d(n, n, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Apply it to ``x`` (B, n, H, W)."""
        return torch.addcmul(x, self.trunk(x), torch.sigmoid_(self.mask(x)))


def residual(n: int, m: int, *, attention: bool) -> tuple[nn.Sequential, nn.Sequential]:
    """g_a and g_s of residual blocks, 3 → n → m at a sixteenth of the resolution, and back.

    Parameters
    ----------
    n, m
        Channels inside, and of the latents; n even where there is attention.
    attention
        Two attention modules on either side.

    References
    ----------
    Cheng, Sun, Takeuchi, Katto, "Learned image compression with discretized Gaussian mixture
    likelihoods and attention modules", CVPR 2020.
    """
    forth: list[nn.Module] = [ResidualDown(3, n), ResidualBlock(n), ResidualDown(n, n)]
    forth += [Attention(n)] if attention else []
    forth += [ResidualBlock(n), ResidualDown(n, n), ResidualBlock(n), conv3(n, m, stride=2)]
    forth += [Attention(m)] if attention else []
    back: list[nn.Module] = [Attention(m)] if attention else []
    back += [conv3(m, n)] if m != n else []
    back += [ResidualBlock(n), ResidualUp(n), ResidualBlock(n), ResidualUp(n)]
    back += [Attention(n)] if attention else []
    back += [ResidualBlock(n), ResidualUp(n), ResidualBlock(n), upscaled(n, 3)]
    return nn.Sequential(*forth), nn.Sequential(*back)
