"""The Karhunen–Loève transform of photographs, as the start of a codec that has room for it.

A network that is trained to code must first find something like a decorrelating transform, and
spends most of a short training on it. For blocks the best linear one is known in closed form.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from waterfill.codec.gains import LAMBDAS
from waterfill.codec.model import LOG2_SIGMA_MIN, Codec
from waterfill.codec.transforms import BLOCK, FilteredAnalysis, FilteredSynthesis
from waterfill.data.crops import CropSource
from waterfill.data.sets import PictureSet

__all__ = ["klt_of_blocks", "start_from_klt"]

_CROPS, _CROP_SIDE = 1024, 128
_REFERENCE_LAMBDA = LAMBDAS[3]  # the quality at which gains start at 1


def klt_of_blocks(
    crops: NDArray[np.uint8],
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Mean colour, variances and basis of 16×16 blocks.

    Parameters
    ----------
    crops
        uint8 (n, H, W, 3), sides multiples of 16.

    Returns
    -------
    mean, variances, basis
        Mean colour (3,); variances (768,), descending, and the orthonormal basis as rows
        (768, 3, 16, 16), all of pixels in [0, 1].
    """
    n, height, width, _ = crops.shape
    cells = crops.reshape(n, height // BLOCK, BLOCK, width // BLOCK, BLOCK, 3)
    blocks = cells.transpose(0, 1, 3, 5, 2, 4).reshape(-1, 3, BLOCK, BLOCK) / 255.0
    mean = blocks.mean((0, 2, 3))
    centred = (blocks - mean[:, None, None]).reshape(len(blocks), -1)
    variances, basis = np.linalg.eigh(centred.T @ centred / len(centred))
    return mean, variances[::-1], basis.T[::-1].reshape(-1, 3, BLOCK, BLOCK)


@torch.no_grad()
def start_from_klt(codec: Codec, pictures: PictureSet, *, seed: int) -> None:
    """Set the block transforms of a codec, and make its prior expect their latents.

    A latent is scaled so that a unit step is the right one at quality 4: at the optimum of
    bits + λ/3·Σ(255 e)² each active coefficient has the distortion 3/(2 ln 2 λ), and Δ² is twelve
    times that. The prior starts as N(0, variance) for each channel.

    Parameters
    ----------
    codec
        A codec with ``klt`` in its config, just made.
    pictures
        Photographs to take statistics from.
    seed
        Of the choice of blocks.
    """
    m = codec.config.m
    crops = CropSource(pictures, size=_CROP_SIDE, seed=seed).batch(0, _CROPS)
    mean, variances, basis = klt_of_blocks(crops)
    step = math.sqrt(12.0 * 3.0 / (2.0 * math.log(2.0) * _REFERENCE_LAMBDA)) / 255.0
    deviations = torch.from_numpy(np.sqrt(variances[:m].clip(1e-12)) / step).float()
    rows = torch.from_numpy(basis[:m].copy()).float()
    colour = torch.from_numpy(mean).float() - 0.5
    forward, inverse = codec.g_a, codec.g_s
    if not (isinstance(forward, FilteredAnalysis) and isinstance(inverse, FilteredSynthesis)):
        raise ValueError("this codec has no block transforms to set")
    assert forward.blocks.bias is not None
    assert inverse.blocks.bias is not None
    forward.blocks.weight.copy_(rows / step)
    forward.blocks.bias.copy_(-(rows.sum((2, 3)) @ colour) / step)
    inverse.blocks.weight.copy_(rows * step)
    inverse.blocks.bias.copy_(colour)
    # h_a meets latents whose deviations span four decades: let it see whitened ones.
    first = codec.prior.h_a[0]
    assert isinstance(first, nn.Conv2d)
    first.weight.mul_(1.0 / deviations.clamp_min(0.1)[None, :, None, None])
    last = codec.prior.h_s[-1]
    assert isinstance(last, nn.Conv2d)
    assert last.bias is not None
    last.weight.mul_(0.1)
    last.bias.copy_(
        torch.cat([torch.zeros(m), torch.log2(deviations).clamp_min(LOG2_SIGMA_MIN + 1)])
    )
