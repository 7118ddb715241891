"""The Karhunen–Loève transform of photographs, as the start of a codec that has room for it.

A network that is trained to code must first find something like a decorrelating transform, and
spends most of a short training on it. For blocks the best linear one is known in closed form.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from waterfill.bitstream.normal import LOG2_SIGMA_MIN
from waterfill.codec.gains import LAMBDAS
from waterfill.codec.model import Codec
from waterfill.codec.priors import HyperLatent
from waterfill.codec.transforms import BLOCK, FilteredAnalysis, FilteredSynthesis
from waterfill.data.crops import CropSource
from waterfill.data.sets import PictureSet
from waterfill.errors import TrainingError

__all__ = ["BLOCK_DEVIATIONS", "grow_from", "klt_of_blocks", "start_from_klt"]

_CROPS, _CROP_SIDE = 1024, 128
_REFERENCE_LAMBDA = LAMBDAS[3]  # the quality at which gains start at 1
#: Quantisation step of a coefficient at that quality, for pixels in [0, 1].
_STEP = math.sqrt(12.0 * 3.0 / (2.0 * math.log(2.0) * _REFERENCE_LAMBDA)) / 255.0
#: Root mean squares of the weights of the two block transforms, orthonormal but for that step.
BLOCK_DEVIATIONS = tuple(scale / (BLOCK * math.sqrt(3.0)) for scale in (1.0 / _STEP, _STEP))
_NEIGHBOURS = 32  # latents whose mean gains those that follow start with


def klt_of_blocks(
    crops: NDArray[np.uint8], without: NDArray[np.float64] | None = None
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Mean colour, variances and basis of 16×16 blocks.

    Parameters
    ----------
    crops
        uint8 (n, H, W, 3), sides multiples of 16.
    without
        Orthonormal rows (k, 768), whose part of the blocks is left out: the basis then is that of
        what they don't describe.

    Returns
    -------
    mean, variances, basis
        Mean colour (3,); variances (768 − k,), descending, and the orthonormal basis as rows
        (768 − k, 3, 16, 16), all of pixels in [0, 1].
    """
    n, height, width, _ = crops.shape
    cells = crops.reshape(n, height // BLOCK, BLOCK, width // BLOCK, BLOCK, 3)
    blocks = cells.transpose(0, 1, 3, 5, 2, 4).reshape(-1, 3, BLOCK, BLOCK) / 255.0
    mean = blocks.mean((0, 2, 3))
    centred = (blocks - mean[:, None, None]).reshape(len(blocks), -1)
    covariance = centred.T @ centred / len(centred)
    size = len(covariance)
    if without is not None:
        rest = np.eye(size) - without.T @ without
        covariance = rest @ covariance @ rest
        size -= len(without)
    variances, basis = np.linalg.eigh(covariance)
    kept = slice(len(variances) - size, None)
    return mean, variances[kept][::-1], basis.T[kept][::-1].reshape(-1, 3, BLOCK, BLOCK)


@torch.no_grad()
def start_from_klt(codec: Codec, pictures: PictureSet, *, seed: int) -> None:
    """Set the block transforms of a codec, and make its prior expect their latents.

    A latent is scaled so that a unit step is the right one at quality 4: at the optimum of
    bits + λ/3·Σ(255 e)² each active coefficient has the distortion 3/(2 ln 2 λ), and Δ² is twelve
    times that. The prior starts as N(0, variance) for each channel.

    Parameters
    ----------
    codec
        A codec with the transform ``klt``, just made.
    pictures
        Photographs to take statistics from.
    seed
        Seed of the choice of blocks.

    Raises
    ------
    TrainingError
        If the codec's side information predicts no means.
    """
    side, m = _side(codec), codec.config.m
    mean, variances, basis = klt_of_blocks(_crops(pictures, seed))
    colour = torch.from_numpy(mean).float() - 0.5
    _set_blocks(codec, basis[:m], colour)
    # h_a meets latents whose deviations span four decades: let it see whitened ones.
    deviations = _in_steps(variances[:m])
    first = _conv(side.h_a[0])
    first.weight.mul_(1.0 / deviations.clamp_min(0.1)[None, :, None, None])
    last = _conv(side.h_s[-1])
    last.weight.mul_(0.1)
    assert last.bias is not None
    last.bias.copy_(torch.cat([torch.zeros(m), _log2_scale(deviations)]))


@torch.no_grad()
def grow_from(codec: Codec, other: Codec, pictures: PictureSet, *, seed: int) -> None:
    """Start from a codec that has fewer latents, but is the same otherwise.

    The further latents are the Karhunen–Loève transform of what the others don't describe. Their
    scales start as those that the hyper-network predicts for the last of the others, times the
    ratio of their deviations: where one is busy, so is the next. It doesn't see them yet.

    Parameters
    ----------
    codec
        A codec with the transform ``klt``, just made.
    other
        The codec to take over.
    pictures, seed
        As for :func:`start_from_klt`.
    """
    k, m = other.config.m, codec.config.m
    assert isinstance(other.g_a, FilteredAnalysis)
    assert isinstance(other.g_s, FilteredSynthesis)
    assert other.g_s.blocks.bias is not None
    old = (other.g_a.blocks.weight.double() * _STEP).numpy()
    # Orthonormal but for the rounding of a file: made so again.
    rows = np.linalg.svd(old.reshape(k, -1), full_matrices=False)
    kept = rows[0] @ rows[2]
    crops = _crops(pictures, seed)
    _, variances, basis = klt_of_blocks(crops, kept)
    _, whole, axes = klt_of_blocks(crops)
    near = slice(max(0, k - _NEIGHBOURS), k)
    near_variance = float((whole @ (axes.reshape(len(axes), -1) @ kept[near].T) ** 2).mean())
    _set_blocks(codec, np.concatenate([old, basis[: m - k]]), other.g_s.blocks.bias)
    side = _side(codec)
    _conv(side.h_a[0]).weight.zero_()
    last = _conv(side.h_s[-1])
    known_last = _conv(_side(other).h_s[-1])
    assert last.bias is not None
    assert known_last.bias is not None
    last.weight.zero_()
    last.bias.zero_()
    ratio = torch.from_numpy(0.5 * np.log2(variances[: m - k].clip(1e-12) / near_variance))
    last.weight[m + k :] = known_last.weight[k:][near].mean(0)
    last.bias[m + k :] = known_last.bias[k:][near].mean() + ratio.float()
    for gains, known in (
        (codec.gains.log2_gain, other.gains.log2_gain),
        (codec.gains.log2_inverse, other.gains.log2_inverse),
    ):
        if gains is not None and known is not None:  # a codec of one quality has none
            gains.copy_(known[:, near].mean(1, keepdim=True).expand_as(gains))
    pairs = {f"prior.side.h_s.{len(side.h_s) - 1}.{name}" for name in ("weight", "bias")}
    state = codec.state_dict()
    for name, tensor in other.state_dict().items():
        target = state[name]
        if name in pairs:  # μ and log₂ σ, one behind the other
            tensor, target = (t.unflatten(0, (2, -1)) for t in (tensor, target))
        target[tuple(slice(size) for size in tensor.shape)] = tensor


def _crops(pictures: PictureSet, seed: int) -> NDArray[np.uint8]:
    return CropSource(pictures, size=_CROP_SIDE, seed=seed).batch(0, _CROPS)


def _in_steps(variances: NDArray[np.float64]) -> Tensor:
    """Deviations of latents in quantisation steps, from variances of pixels in [0, 1]."""
    return torch.from_numpy(np.sqrt(variances.clip(1e-12)) / _STEP).float()


def _log2_scale(deviations: Tensor) -> Tensor:
    return torch.log2(deviations).clamp_min(LOG2_SIGMA_MIN + 1)


def _side(codec: Codec) -> HyperLatent:
    """Side information that predicts means and log₂ scales, which these starts set."""
    kind = codec.config.side
    if codec.prior.side is None or not codec.config.predicts_means:
        raise TrainingError(f"klt starts with side information of means, not {kind!r}")
    return codec.prior.side


def _conv(layer: nn.Module) -> nn.Conv2d:
    assert isinstance(layer, nn.Conv2d)
    return layer


def _set_blocks(codec: Codec, basis: NDArray[np.float64], colour: Tensor) -> None:
    """Orthonormal rows (m, 3, 16, 16) and the mean colour in [−½, ½], to and fro."""
    forward, inverse = codec.g_a, codec.g_s
    if not (isinstance(forward, FilteredAnalysis) and isinstance(inverse, FilteredSynthesis)):
        raise ValueError("this codec has no block transforms to set")
    assert forward.blocks.bias is not None
    assert inverse.blocks.bias is not None
    rows = torch.from_numpy(basis.copy()).float()
    forward.blocks.weight.copy_(rows / _STEP)
    forward.blocks.bias.copy_(-(rows.sum((2, 3)) @ colour) / _STEP)
    inverse.blocks.weight.copy_(rows * _STEP)
    inverse.blocks.bias.copy_(colour)
