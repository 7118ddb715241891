"""Source models q(x|x̂): what a reconstruction says of its original (paper 2)."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from waterfill.codec.bounds import bounded
from waterfill.codec.densities import gaussian_bin_bits

__all__ = ["ReconstructionSource"]


class ReconstructionSource(nn.Module):
    """Gaussian mean and scale of each pixel from the reconstruction alone.

    The counterpart of a mean-scale hyperprior, which is what a codec with one is to be regularised
    with (paper 2, supplementary §9).

    Parameters
    ----------
    width
        Channels inside.
    """

    #: Range of log₂ σ in 8-bit steps, and where it starts.
    _LOG2_MIN, _LOG2_MAX, _LOG2_START = -4.0, 8.0, 3.0

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.network = nn.Sequential(
            nn.Conv2d(3, width, 5, padding=2),
            nn.LeakyReLU(),
            nn.Conv2d(width, width, 5, padding=2),
            nn.LeakyReLU(),
            nn.Conv2d(width, 6, 3, padding=1),
        )
        last = cast(nn.Conv2d, self.network[-1])
        nn.init.zeros_(last.weight)
        nn.init.zeros_(cast(Tensor, last.bias))

    def bits_per_dimension(self, x: Tensor, x_hat: Tensor) -> Tensor:
        """Mean of −log₂ q over pixels and colours, shape (B,), of pictures (B, 3, H, W) in [0, 1].

        Pixels are 8-bit integers, and their bins have unit width on that scale: with bins of one
        on [0, 1] the entropy would be next to nothing, and so would its gradient.
        """
        shift, log2_sigma = self.network(x_hat - 0.5).float().chunk(2, dim=1)
        residual = 255.0 * (x - x_hat) - shift
        bounds = (self._LOG2_MIN, self._LOG2_MAX)
        sigma = torch.exp2(bounded(log2_sigma + self._LOG2_START, *bounds))
        return gaussian_bin_bits(residual, sigma).mean((1, 2, 3))
