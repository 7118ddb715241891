"""One small codec of each kind, for tests that all of them must pass."""

from __future__ import annotations

import torch

from waterfill.codec.config import CodecConfig
from waterfill.codec.model import Codec

_FIXED = (3.0, 3.0)

FAMILY = {
    "factorized": CodecConfig(8, 12, 8, side="none", qualities=_FIXED),
    "scale": CodecConfig(8, 12, 8, side="scale"),
    "mean-scale": CodecConfig(8, 12, 8),
    "linear-scale": CodecConfig(8, 12, 8, side="mean-scale-wide", linear_scale=True),
    "one-rate": CodecConfig(8, 12, 8, qualities=_FIXED),
    "masked": CodecConfig(8, 12, 8, side="mean-scale-wide", context="masked"),
    "residual": CodecConfig(8, 12, 8, transform="residual", side="residual", context="masked"),
    "attention": CodecConfig(
        8, 8, 8, transform="attention", side="residual", context="masked", mixtures=3
    ),
    "space-channel": CodecConfig(8, 24, 8, context="space-channel"),
    "klt": CodecConfig(8, 24, 8, transform="klt", context="space-channel"),
    "conditional": CodecConfig(
        8, 24, 8, transform="klt", context="space-channel", conditional=True
    ),
    "digits": CodecConfig(8, 8, 8, transform="table2"),
}


def member(name: str) -> Codec:
    """A codec with seeded random weights that leave nothing at its start's zero."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        codec = Codec(FAMILY[name]).eval()
        with torch.no_grad():
            for label, parameter in codec.named_parameters():
                if any(part in label for part in ("join", "leave", "blocks", "modulation")):
                    parameter.normal_(0.0, 0.05)
                elif label.startswith("g_a") and parameter.ndim == 4:
                    parameter.mul_(1.8)  # symbols other than zero
    return codec
