"""Gaussian latents of one scale, with a prior that knows it: where Shannon's answer is known."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from waterfill.bitstream import Rows, gaussian_tables
from waterfill.codec.coding import CodedPrior, Exchange, Prediction
from waterfill.codec.latents import Latents
from waterfill.codec.priors import NoContext

SHAPE = (16, 128, 128)


class KnownScale(CodedPrior):
    """A prior that knows the one scale of all latents, and needs not be told."""

    def __init__(self, log2_sigma: float) -> None:
        self.row = round((log2_sigma + 4) * 16)

    def walk(
        self,
        z_symbols: NDArray[np.int32] | None,
        quality: float,
        shape: tuple[int, ...],
        exchange: Exchange,
    ) -> None:
        zero = torch.zeros(shape, dtype=torch.float64)
        rows = np.full(shape, self.row)
        ((part, _),) = NoContext().coded().walk(zero, zero)
        exchange(part, Prediction(zero, Rows(gaussian_tables(), rows), zero, rows))


def gaussian_latents(log2_sigma: float, shape: tuple[int, int, int] = SHAPE) -> Latents:
    """Latents that are iid N(0, σ²), with a prior that knows σ and side information of no cost."""
    torch.manual_seed(11)
    y = 2.0**log2_sigma * torch.randn(shape)
    return Latents(y, None, KnownScale(log2_sigma), 4.0)
