"""The hyper-networks h_a and h_s: latents to z at a quarter of their resolution, and back."""

from __future__ import annotations

from torch import nn

from waterfill.codec.transforms.convolutional import down, up
from waterfill.codec.transforms.residual import conv3, upscaled

__all__ = ["hyper_analysis", "hyper_residual", "hyper_synthesis"]


def _activated(layers: list[nn.Module], activation: type[nn.Module]) -> nn.Sequential:
    between: list[nn.Module] = []
    for layer in layers:
        between += [activation(), layer] if between else [layer]
    return nn.Sequential(*between)


def hyper_analysis(m: int, n: int, activation: type[nn.Module] = nn.LeakyReLU) -> nn.Sequential:
    """h_a of Table I: 3×3 stride 1, then two 5×5 stride 2, m → n → n → n."""
    return _activated([conv3(m, n), down(n, n), down(n, n)], activation)


def hyper_synthesis(
    n: int,
    outputs: int,
    *,
    inner: tuple[int, int] | None = None,
    activation: type[nn.Module] = nn.LeakyReLU,
) -> nn.Sequential:
    """h_s: two 5×5 stride-2 deconvolutions and a 3×3.

    Parameters
    ----------
    n
        Channels of z.
    outputs
        Channels of what is predicted.
    inner
        Channels in between: n and n in Table I, m and 3m/2 in Minnen et al. 2018.
    activation
        Between the layers.
    """
    first, second = inner or (n, n)
    return _activated([up(n, first), up(first, second), conv3(second, outputs)], activation)


def hyper_residual(m: int, n: int, outputs: int) -> tuple[nn.Sequential, nn.Sequential]:
    """h_a and h_s of Cheng et al. 2020: five 3×3 convolutions each."""
    wide = 3 * n // 2
    return (
        _activated(
            [conv3(m, n), conv3(n, n), conv3(n, n, 2), conv3(n, n), conv3(n, n, 2)], nn.LeakyReLU
        ),
        _activated(
            [
                conv3(n, n),
                upscaled(n, n),
                conv3(n, wide),
                upscaled(wide, wide),
                conv3(wide, outputs),
            ],
            nn.LeakyReLU,
        ),
    )
