"""Distortion of 8-bit pixels, as a viewer of the decoded file would meet it."""

from __future__ import annotations

import math
import warnings

import numpy as np
import torch
from numpy.typing import NDArray

__all__ = ["MS_SSIM_MIN_SIDE", "mean_squared_error", "ms_ssim", "psnr"]

#: MS-SSIM halves the picture four times under an 11-pixel window; smaller pictures have none.
MS_SSIM_MIN_SIDE = 161


def mean_squared_error(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> float:
    """Mean squared error of two uint8 arrays of one shape, in squared 8-bit units."""
    if a.shape != b.shape:
        raise ValueError(f"shapes differ: {a.shape} and {b.shape}")
    difference = np.subtract(a, b, dtype=np.int32)
    return float(np.mean(np.square(difference), dtype=np.float64))


def psnr(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> float:
    """Peak signal-to-noise ratio in dB over all channels; infinite for equal pictures."""
    mse = mean_squared_error(a, b)
    return math.inf if mse == 0 else 10.0 * math.log10(255.0**2 / mse)


def ms_ssim(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> float:
    """Multi-scale structural similarity (Wang 2003) of (H, W, 3) pictures; NaN below 161 pixels."""
    if a.shape != b.shape:
        raise ValueError(f"shapes differ: {a.shape} and {b.shape}")
    if min(a.shape[:2]) < MS_SSIM_MIN_SIDE:
        return math.nan
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the package has invalid escapes in its docstrings
        from pytorch_msssim import ms_ssim as measure
    first, second = (torch.from_numpy(x).permute(2, 0, 1)[None].float() for x in (a, b))
    return float(measure(first, second, data_range=255.0))
