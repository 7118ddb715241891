"""Networks evaluated in exact integer arithmetic, so that both ends of a stream agree.

A floating-point sum depends on its order, and the order on the number of threads, the processor
and the library. Integers don't care. Weights and activations are rounded to fixed point and held
in float64, where every product and sum here is an integer below 2⁵³ and therefore exact: whatever
the order, the result is the same to the last bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from waterfill.errors import CodecError

__all__ = [
    "ACTIVATION_BITS",
    "FixedPointNetwork",
    "integer_weights",
    "leaky",
    "settled",
    "shifted_sums",
]

#: Fractional bits of activations, inputs and outputs.
ACTIVATION_BITS = 12
_WEIGHT_BITS = 16
_LIMIT = float(1 << 22)  # activations saturate here: ±1024
_EXACT = float(1 << 53)


def integer_weights(
    weight: Tensor, bias: Tensor | None, inputs: tuple[int, ...]
) -> tuple[Tensor, Tensor]:
    """Weights and bias of a layer as integers, float64.

    Parameters
    ----------
    weight, bias
        Parameters of the trained layer.
    inputs
        Axes of ``weight`` that one output sums over.

    Raises
    ------
    CodecError
        If they are not finite, or so large that sums could pass 2⁵³.
    """
    whole = torch.round(weight.detach().double().cpu() * 2.0**_WEIGHT_BITS)
    sums = whole.abs().sum(inputs)
    if bias is None:
        bias = torch.zeros_like(sums)
    offset = torch.round(bias.detach().double().cpu() * 2.0 ** (_WEIGHT_BITS + ACTIVATION_BITS))
    if not bool((sums * _LIMIT + offset.abs() < _EXACT).all()):
        raise CodecError("weights too large for exact evaluation, or not finite")
    return whole.contiguous(), offset


def settled(sums: Tensor) -> Tensor:
    """Sums of a layer as activations: rounded to their unit and saturated. In place."""
    return sums.mul_(2.0**-_WEIGHT_BITS).round_().clamp_(-_LIMIT, _LIMIT)


def shifted_sums(
    bias: Tensor, products: Iterable[tuple[Tensor, Tensor, int]], length: int
) -> Tensor:
    """Sums of matrix products with planes that are shifted against each other.

    What a convolution is, without a copy of its input for every tap: all shifts of planes that lie
    in memory with their margins are views.

    Parameters
    ----------
    bias
        Bias of each output (O).
    products
        Weights (O, C), planes (C, …) flattened with their margins, and from which place on.
    length
        Places of the result.

    Returns
    -------
    Tensor
        (O, length), float64.
    """
    (weight, planes, start), *others = products
    sums = torch.addmm(bias[:, None], weight, planes.narrow(1, start, length))
    for weight, planes, start in others:
        sums.addmm_(weight, planes.narrow(1, start, length))
    return sums


def leaky(x: Tensor, slope: float) -> Tensor:
    """Leaky ReLU of integers: one correctly rounded product per element, no order to depend on.

    A slope lies in 0 … 1.
    """
    return (x * slope).round_().maximum(x)


class FixedPointNetwork:
    """Integer twin of a stack of convolutions, deconvolutions, (leaky) ReLUs and pixel shuffles.

    Parameters
    ----------
    network
        The trained network. It is read once; later changes to it don't reach the twin.

    Raises
    ------
    CodecError
        If the weights are not finite, or so large that sums could pass 2⁵³.
    """

    def __init__(self, network: nn.Module) -> None:
        self._steps = [_step(layer) for layer in _flattened(network)]

    @torch.no_grad()
    def __call__(self, x: Tensor) -> Tensor:
        """Integers in, integers out, float64 (B, C, H, W), in units of 2^−ACTIVATION_BITS."""
        x = x.clamp(-_LIMIT, _LIMIT)
        for step in self._steps:
            x = step(x)
        return x


def _flattened(network: nn.Module) -> list[nn.Module]:
    if isinstance(network, nn.Sequential):
        return [layer for part in network for layer in _flattened(part)]
    return [network]


def _step(layer: nn.Module) -> Callable[[Tensor], Tensor]:
    if isinstance(layer, nn.LeakyReLU):
        slope = layer.negative_slope
        return lambda x: leaky(x, slope)
    if isinstance(layer, nn.ReLU):
        return lambda x: x.clamp_min(0.0)
    if isinstance(layer, nn.PixelShuffle):
        factor = layer.upscale_factor
        return lambda x: F.pixel_shuffle(x, factor)
    if isinstance(layer, nn.ConvTranspose2d):
        return _deconvolution(layer)
    if isinstance(layer, nn.Conv2d):
        return _convolution(layer)
    raise CodecError(f"{type(layer).__name__} has no fixed-point form")


def _convolution(layer: nn.Conv2d) -> Callable[[Tensor], Tensor]:
    weight, bias = integer_weights(layer.weight, layer.bias, (1, 2, 3))
    stride, padding = layer.stride, layer.padding
    if stride != (1, 1) or isinstance(padding, str):
        return lambda x: settled(F.conv2d(x, weight, bias, stride, padding))
    rows, columns = weight.shape[2:]
    if (rows, columns, *padding) == (1, 1, 0, 0):
        across = weight.flatten(1)
        return lambda x: settled(
            torch.stack([torch.addmm(bias[:, None], across, one.flatten(1)) for one in x])
        ).view(len(x), -1, *x.shape[2:])
    taps = weight.permute(2, 3, 0, 1).contiguous()
    down, right = padding

    def convolve(x: Tensor) -> Tensor:
        _, channels, height, width = x.shape
        wide, high = width + 2 * right, height + 2 * down
        # A few places more: the last shifts of the last row end in what is thrown away.
        canvas = x.new_zeros(len(x), channels, high * wide + columns - 1)
        inner = canvas[..., : high * wide].view(len(x), channels, high, wide)
        inner[..., down : down + height, right : right + width] = x
        found = []
        for planes in canvas:
            products = (
                (taps[i, j], planes, i * wide + j) for i in range(rows) for j in range(columns)
            )
            sums = shifted_sums(bias, products, (high - rows + 1) * wide)
            found.append(sums.view(-1, high - rows + 1, wide)[..., : wide - columns + 1])
        return settled(torch.stack(found))

    return convolve


def _deconvolution(layer: nn.ConvTranspose2d) -> Callable[[Tensor], Tensor]:
    weight, bias = integer_weights(layer.weight, layer.bias, (0, 2, 3))
    stride, padding, extra = layer.stride, layer.padding, layer.output_padding
    assert isinstance(padding, tuple)
    return lambda x: settled(F.conv_transpose2d(x, weight, bias, stride, padding, extra))
