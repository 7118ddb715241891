"""Side information: a hyper-latent z, sent ahead of y, that says what to expect of it."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from waterfill.bitstream import Tables
from waterfill.codec.config import CodecConfig
from waterfill.codec.fixed_point import ACTIVATION_BITS, FixedPointNetwork
from waterfill.codec.gains import Gains
from waterfill.codec.noise import Noise
from waterfill.codec.priors.factorized import DeepFactorized, Reach
from waterfill.codec.transforms import hyper_analysis, hyper_residual, hyper_synthesis
from waterfill.errors import CodecError

__all__ = ["HyperLatent", "SideInformation", "integer_symbols"]


class SideInformation(NamedTuple):
    """What z says, as h_s puts it (B, F, h, w), and its bits, (B, C, h/4, w/4)."""

    features: Tensor
    bits: Tensor


def _networks(config: CodecConfig) -> tuple[nn.Sequential, nn.Sequential]:
    n, m = config.hyper, config.m
    if config.side == "scale":
        return (
            hyper_analysis(m, n, nn.ReLU),
            hyper_synthesis(n, m, activation=nn.ReLU),
        )
    if config.side == "residual":
        return hyper_residual(m, n, 2 * m)
    inner = (m, 3 * m // 2) if config.side == "mean-scale-wide" else None
    return hyper_analysis(m, n), hyper_synthesis(n, 2 * m, inner=inner)


class HyperLatent(nn.Module):
    """z and its networks; z itself is coded by a factorised density.

    ::

        y ──h_a──▶ z ──gain──▶ ⌊·⌉ ──inverse gain──▶ ẑ ──h_s──▶ features
                                │
                           side bits, by the factorised density

    It works on latents before their own gains: what z says of a picture does not depend on the
    quality, only how finely it says it. The gains of z are those of the nearest whole quality, so
    that a codec has few tables for it, and they can be stored with the weights.

    Parameters
    ----------
    config
        Architecture of the codec.
    """

    def __init__(self, config: CodecConfig) -> None:
        super().__init__()
        self.h_a, self.h_s = _networks(config)
        self.density = DeepFactorized(config.hyper)
        self.gains = Gains(config.hyper, exponent=0.25, fixed=not config.variable_rate)
        self._magnitudes = config.side == "scale"

    def analysis(self, y: Tensor) -> Tensor:
        """The hyper-latent z before its gain."""
        z: Tensor = self.h_a(y.abs() if self._magnitudes else y)
        return z.float()

    def forward(
        self, y: Tensor, quality: Tensor, noise: Noise, *, coded: bool = False
    ) -> SideInformation:
        """Differentiable: noise in the rate, straight-through rounding in what is said.

        ``coded`` takes the rate of what is said, as a stream pays it.
        """
        z = self.analysis(y)
        log2_gain, log2_inverse = self.gains(quality.round())
        gain, centre = torch.exp2(log2_gain), self.density.centre[:, None, None]
        scaled = (z - centre) * gain
        rounded = scaled + (torch.round(scaled) - scaled).detach()
        charged = rounded / gain + centre if coded else z + noise.uniform(z) / gain
        bits = self.density.bits(charged, 1.0 / gain)
        features = self.h_s(rounded * torch.exp2(log2_inverse) + centre).float()
        return SideInformation(features, bits)

    # What follows is the same for coding: integers, equal on both ends of a stream.

    def symbols(self, y: Tensor, quality: float) -> NDArray[np.int32]:
        """Rounded hyper-latents of ``y`` (1, M, h, w), int32 (N, h/4, w/4)."""
        gain = self.gains.coded(round(quality)).gain[:, None, None]
        centred = self.analysis(y)[0] - self.density.centre[:, None, None]
        return integer_symbols(centred.cpu().double() * gain)

    def tables(self, quality: float, reach: Reach | None = None) -> Tables:
        """Tables of z at a quality, one row for each channel."""
        return self.density.tables(self.gains.coded(round(quality)).gain.numpy(), reach)

    def features(
        self, symbols: NDArray[np.int32], quality: float, network: FixedPointNetwork
    ) -> Tensor:
        """What h_s says, as integers in units of 2^−ACTIVATION_BITS, float64 (F, h, w).

        A function of the arguments alone: no thread, batch or processor changes it.

        Parameters
        ----------
        symbols
            Symbols of z.
        quality
            Quality of the stream.
        network
            Integer twin of h_s.
        """
        one = 2.0**ACTIVATION_BITS
        scale = self.gains.coded(round(quality)).inverse[:, None, None] * one
        centre = torch.round(self.density.centre.cpu().double() * one)[:, None, None]
        z_hat = torch.round(torch.from_numpy(symbols.astype(np.float64)) * scale) + centre
        return network(z_hat[None])[0]


def integer_symbols(x: Tensor) -> NDArray[np.int32]:
    """Round to int32.

    Raises
    ------
    CodecError
        If a value is not finite, as broken weights make it.
    """
    if not bool(torch.isfinite(x).all()):
        raise CodecError("the latents are not finite: the weights are broken")
    symbols: NDArray[np.int32] = torch.round(x).clamp(-(2.0**30), 2.0**30).to(torch.int32).numpy()
    return symbols
