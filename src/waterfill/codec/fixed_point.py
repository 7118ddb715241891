"""Networks evaluated in exact integer arithmetic, so that both ends of a stream agree.

A floating-point sum depends on its order, and the order on the number of threads, the processor
and the library. Integers don't care. Weights and activations are rounded to fixed point and held
in float64, where every product and sum here is an integer below 2⁵³ and therefore exact: whatever
the order, the result is the same to the last bit.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from waterfill.errors import CodecError

__all__ = ["ACTIVATION_BITS", "FixedPointNetwork", "integer_weights", "leaky", "settled"]

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
        Of the trained layer.
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


def leaky(x: Tensor, slope: float) -> Tensor:
    """Leaky ReLU of integers: one correctly rounded product per element, no order to depend on."""
    return torch.where(x < 0, torch.round(x * slope), x)


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
        weight, bias = integer_weights(layer.weight, layer.bias, (1, 2, 3))
        stride, padding = layer.stride, layer.padding
        return lambda x: settled(F.conv2d(x, weight, bias, stride, padding))
    raise CodecError(f"{type(layer).__name__} has no fixed-point form")


def _deconvolution(layer: nn.ConvTranspose2d) -> Callable[[Tensor], Tensor]:
    weight, bias = integer_weights(layer.weight, layer.bias, (0, 2, 3))
    stride, padding, extra = layer.stride, layer.padding, layer.output_padding
    assert isinstance(padding, tuple)
    return lambda x: settled(F.conv_transpose2d(x, weight, bias, stride, padding, extra))
