"""Networks evaluated in exact integer arithmetic, so that both ends of a stream agree.

A floating-point sum depends on its order, and the order on the number of threads, the processor
and the library. Integers don't care. Weights and activations are rounded to fixed point and held
in float64, where every product and sum here is an integer below 2⁵³ and therefore exact: whatever
the order, the result is the same to the last bit.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from waterfill.errors import CodecError

__all__ = ["ACTIVATION_BITS", "FixedPointNetwork"]

#: Fractional bits of activations, inputs and outputs.
ACTIVATION_BITS = 12
_WEIGHT_BITS = 16
_LIMIT = float(1 << 22)  # activations saturate here: ±1024
_EXACT = float(1 << 53)


class FixedPointNetwork:
    """Integer twin of a stack of convolutions, deconvolutions and leaky ReLUs.

    Parameters
    ----------
    network
        The trained network. It is read once; later changes to it don't reach the twin.

    Raises
    ------
    CodecError
        If the weights are not finite, or so large that sums could pass 2⁵³.
    """

    def __init__(self, network: nn.Sequential) -> None:
        self._layers: list[nn.Module] = []
        self._weights: list[tuple[Tensor, Tensor]] = []
        for layer in network:
            self._layers.append(layer)
            if isinstance(layer, nn.LeakyReLU):
                self._weights.append((torch.empty(0), torch.empty(0)))
                continue
            if not isinstance(layer, nn.Conv2d | nn.ConvTranspose2d) or layer.bias is None:
                raise CodecError(f"{type(layer).__name__} has no fixed-point form")
            weight = torch.round(layer.weight.detach().double() * 2.0**_WEIGHT_BITS)
            bias = torch.round(
                layer.bias.detach().double() * 2.0 ** (_WEIGHT_BITS + ACTIVATION_BITS)
            )
            inputs = (0, 2, 3) if isinstance(layer, nn.ConvTranspose2d) else (1, 2, 3)
            largest = weight.abs().sum(inputs) * _LIMIT + bias.abs()
            if not bool((largest < _EXACT).all()):
                raise CodecError("weights too large for exact evaluation, or not finite")
            self._weights.append((weight.contiguous(), bias))

    @torch.no_grad()
    def __call__(self, x: Tensor) -> Tensor:
        """Integers in, integers out, float64 (B, C, H, W), in units of 2^−ACTIVATION_BITS."""
        x = x.clamp(-_LIMIT, _LIMIT)
        for layer, (weight, bias) in zip(self._layers, self._weights, strict=True):
            if isinstance(layer, nn.LeakyReLU):
                # One correctly rounded product per element: no order to depend on.
                x = torch.where(x < 0, torch.round(x * layer.negative_slope), x)
                continue
            if isinstance(layer, nn.ConvTranspose2d):
                assert isinstance(layer.padding, tuple)
                x = F.conv_transpose2d(
                    x, weight, bias, layer.stride, layer.padding, layer.output_padding
                )
            elif isinstance(layer, nn.Conv2d):
                x = F.conv2d(x, weight, bias, layer.stride, layer.padding)
            x = torch.round(x * 2.0**-_WEIGHT_BITS).clamp(-_LIMIT, _LIMIT)
        return x
