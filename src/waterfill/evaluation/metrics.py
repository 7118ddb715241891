"""Distortion of 8-bit pixels, as a viewer of the decoded file would meet it."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

__all__ = ["MS_SSIM_MIN_SIDE", "SimilarityTo", "mean_squared_error", "ms_ssim", "psnr"]

_SCALE_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
_WINDOW, _WINDOW_SIGMA = 11, 1.5
_C1, _C2 = (0.01 * 255.0) ** 2, (0.03 * 255.0) ** 2
#: MS-SSIM halves the picture four times under an 11-pixel window; smaller pictures have none.
MS_SSIM_MIN_SIDE = (_WINDOW - 1) * 2 ** (len(_SCALE_WEIGHTS) - 1) + 1


def _same_shape(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> None:
    if a.shape != b.shape:
        raise ValueError(f"shapes differ: {a.shape} and {b.shape}")


def mean_squared_error(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> float:
    """Mean squared error of two uint8 arrays of one shape, in squared 8-bit units."""
    _same_shape(a, b)
    difference = np.subtract(a, b, dtype=np.int32)
    return float(np.mean(np.square(difference), dtype=np.float64))


def psnr(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> float:
    """Peak signal-to-noise ratio in dB over all channels; infinite for equal pictures."""
    mse = mean_squared_error(a, b)
    return math.inf if mse == 0 else 10.0 * math.log10(255.0**2 / mse)


def _gaussian_window() -> list[float]:
    taps = np.exp(-((np.arange(_WINDOW) - _WINDOW // 2) ** 2) / (2 * _WINDOW_SIGMA**2))
    return [float(tap) for tap in taps / taps.sum()]


_TAPS = _gaussian_window()


def _blur(x: Tensor) -> Tensor:
    """Separable Gaussian window over the last two axes, without padding.

    Sums of shifted views: three times faster here than a depthwise convolution of three channels.
    """
    for axis in (-2, -1):
        length = x.shape[axis] - _WINDOW + 1
        total = x.narrow(axis, 0, length) * _TAPS[0]
        for shift, tap in enumerate(_TAPS[1:], start=1):
            total.add_(x.narrow(axis, shift, length), alpha=tap)
        x = total
    return x


def _halve(x: Tensor) -> Tensor:
    return F.avg_pool2d(x[None], 2, padding=(x.shape[-2] % 2, x.shape[-1] % 2))[0]


class SimilarityTo:
    """MS-SSIM of any number of copies to one original, whose own statistics are kept.

    Parameters
    ----------
    original
        uint8 (H, W, 3).

    References
    ----------
    Wang, Simoncelli, Bovik, "Multiscale structural similarity for image quality assessment", 2003;
    per colour plane, then the mean of the planes.
    """

    def __init__(self, original: NDArray[np.uint8]) -> None:
        self.original = original
        self._scales: list[tuple[Tensor, Tensor, Tensor]] = []
        if min(original.shape[:2]) >= MS_SSIM_MIN_SIDE:
            x = self._planes(original)
            for _ in _SCALE_WEIGHTS:
                mean = _blur(x)
                self._scales.append((x, mean, _blur(x * x) - mean * mean))
                x = _halve(x)

    @staticmethod
    def _planes(pixels: NDArray[np.uint8]) -> Tensor:
        return torch.from_numpy(pixels.astype(np.float32)).permute(2, 0, 1).contiguous()

    def __call__(self, copy: NDArray[np.uint8]) -> float:
        """MS-SSIM of a copy, uint8 of the original's shape; NaN below 161 pixels."""
        _same_shape(self.original, copy)
        if not self._scales:
            return math.nan
        y = self._planes(copy)
        product = torch.ones(y.shape[0])
        for scale, (x, x_mean, x_variance) in enumerate(self._scales):
            y_mean = _blur(y)
            covariance = _blur(x * y) - x_mean * y_mean
            variances = x_variance + (_blur(y * y) - y_mean * y_mean)
            similarity = (2.0 * covariance + _C2) / (variances + _C2)
            if scale == len(_SCALE_WEIGHTS) - 1:
                means = x_mean * x_mean + y_mean * y_mean
                similarity = similarity * (2.0 * x_mean * y_mean + _C1) / (means + _C1)
            product *= similarity.mean((1, 2)).relu() ** _SCALE_WEIGHTS[scale]
            y = _halve(y)
        return float(product.mean())


def ms_ssim(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> float:
    """Multi-scale structural similarity of (H, W, 3) pictures; NaN below 161 pixels."""
    return SimilarityTo(a)(b)
