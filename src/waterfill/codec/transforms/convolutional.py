"""Tables I and II of the rate–distortion limits paper: strided 5×5 convolutions with GDN."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from waterfill.codec.transforms.gdn import GDN

__all__ = ["down", "table1", "table2", "up"]


#: What a 5×5 window reaches beyond its middle.
_MARGIN = 2


class _Deconvolution(nn.ConvTranspose2d):
    """A deconvolution, and its bias after it.

    As a part of the deconvolution, the gradient of the bias takes a processor half as long as
    those of the weights and of the input together; as that of a sum, next to nothing.
    """

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        """Apply it to ``x`` (B, C, H, W)."""
        y = F.conv_transpose2d(
            x,
            self.weight,
            stride=self.stride,
            padding=_MARGIN,
            output_padding=self.output_padding,
        )
        return y if self.bias is None else y.add_(self.bias.to(y.dtype)[:, None, None])


class _ToPixels(nn.ConvTranspose2d):
    """A 5×5 deconvolution of stride 2, done as a 3×3 convolution to cells of 2×2 pixels.

    The same sums; but with three planes to make, a processor's vectors stay mostly empty, with
    twelve they don't.
    """

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        """Apply it to ``x`` (B, C, H, W)."""
        inputs, outputs = self.weight.shape[:2]
        cells = F.pad(self.weight, (0, 1, 0, 1)).reshape(inputs, outputs, 3, 2, 3, 2).flip(2, 4)
        weight = cells.permute(1, 3, 5, 0, 2, 4).reshape(4 * outputs, inputs, 3, 3)
        weight = weight.contiguous(memory_format=torch.channels_last)
        bias = None if self.bias is None else self.bias.repeat_interleave(4)
        return F.pixel_shuffle(F.conv2d(x, weight, bias, padding=1), 2)


#: Planes of pictures.
_FEW = 3


def down(inputs: int, outputs: int, stride: int = 2) -> nn.Conv2d:
    """A 5×5 convolution that keeps or halves the sides."""
    return nn.Conv2d(inputs, outputs, 5, stride=stride, padding=_MARGIN)


def up(inputs: int, outputs: int, stride: int = 2) -> nn.ConvTranspose2d:
    """A 5×5 deconvolution that keeps or doubles the sides."""
    kind = _ToPixels if outputs <= _FEW and stride == 2 else _Deconvolution
    return kind(inputs, outputs, 5, stride=stride, padding=_MARGIN, output_padding=stride - 1)


def _chain(
    layer: Callable[[int, int, int], nn.Module],
    widths: tuple[int, ...],
    strides: tuple[int, ...],
    *,
    inverse: bool,
) -> nn.Sequential:
    """Layers from each width to the next, and GDN between them."""
    layers: list[nn.Module] = []
    for inputs, outputs, stride in zip(widths[:-1], widths[1:], strides, strict=True):
        if layers:
            layers.append(GDN(inputs, inverse=inverse))
        layers.append(layer(inputs, outputs, stride))
    return nn.Sequential(*layers)


def table1(n: int, m: int) -> tuple[nn.Sequential, nn.Sequential]:
    """g_a and g_s of Table I, 3 → n → n → n → m at a sixteenth of the resolution, and back."""
    strides = (2, 2, 2, 2)
    return (
        _chain(down, (3, n, n, n, m), strides, inverse=False),
        _chain(up, (m, n, n, n, 3), strides, inverse=True),
    )


def table2(n: int, m: int) -> tuple[nn.Sequential, nn.Sequential]:
    """g_a and g_s of Table II for digits of one plane, at an eighth of the resolution."""
    return (
        _chain(down, (1, n, n, n, m), (1, 2, 2, 2), inverse=False),
        _chain(up, (m, n, n, n, 1), (2, 2, 2, 1), inverse=True),
    )
