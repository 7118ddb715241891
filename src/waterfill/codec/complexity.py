"""What a codec asks of a machine, whatever the machine: parameters, and multiplications a pixel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch.utils.flop_counter import FlopCounterMode

from waterfill.codec.channels import StraightThrough
from waterfill.codec.noise import Noise
from waterfill.codec.priors.context import MaskedContext

if TYPE_CHECKING:
    from waterfill.codec.model import Codec

__all__ = ["Complexity", "complexity_of"]

#: Side in pixels of what is counted on, a multiple of every alignment.
_SIDE = 256


@dataclass(frozen=True)
class Complexity:
    """What a codec takes.

    Attributes
    ----------
    parameters
        Of all networks.
    encoder, decoder
        Thousands of multiply–accumulate operations for a pixel (kMAC/pixel): of g_a and h_a, or
        g_s, and in both of all that predicts a latent's density. The entropy coder and passes of
        ``effort`` don't count.
    """

    parameters: int
    encoder: float
    decoder: float


@torch.no_grad()
def complexity_of(codec: Codec) -> Complexity:
    """Count what a codec does to a picture, by torch's own count of matrix products."""
    config, device = codec.config, codec.device
    x = torch.zeros(1, config.planes, _SIDE, _SIDE, device=device)
    quality = torch.full((1,), config.qualities[0], device=device)
    with FlopCounterMode(display=False) as counter:
        codec(x, quality, StraightThrough(), Noise(0, device))
    # A multiplication and an addition are two. The products of a factorised density (bmm) are not
    # those of a coder, which has its tables stored.
    thousands = {
        part: sum(v for k, v in each.items() if k != torch.ops.aten.bmm) / 2 / _SIDE**2 / 1000
        for part, each in counter.get_flop_counts().items()
    }
    whole, name = thousands["Global"], type(codec).__name__
    if isinstance(codec.prior.context, MaskedContext):
        # Training goes through it twice, once for a guess at the neighbours; coding goes once.
        whole -= thousands[f"{name}.prior.context"] / 2
    g_a, g_s = thousands[f"{name}.g_a"], thousands[f"{name}.g_s"]
    h_a = thousands.get(f"{name}.prior.side.h_a", 0.0)
    return Complexity(sum(p.numel() for p in codec.parameters()), whole - g_s, whole - g_a - h_a)
