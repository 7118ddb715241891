"""Distortion of 8-bit pixels, as a viewer of the decoded file would meet it."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

__all__ = [
    "MS_SSIM_MIN_SIDE",
    "SimilarityTo",
    "in_decibels",
    "mean_squared_error",
    "ms_ssim",
    "psnr",
    "psnr_of",
]

_SCALE_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
_WINDOW, _WINDOW_SIGMA = 11, 1.5
_C1, _C2 = (0.01 * 255.0) ** 2, (0.03 * 255.0) ** 2
#: MS-SSIM halves the picture four times under an 11-pixel window; smaller pictures have none.
MS_SSIM_MIN_SIDE = (_WINDOW - 1) * 2 ** (len(_SCALE_WEIGHTS) - 1) + 1


#: Rows that are looked at together, and the pixels above which a picture is taken in such strips.
_STRIP, _LARGE = 256, 6_000_000


def _same_shape(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> None:
    if a.shape != b.shape:
        raise ValueError(f"shapes differ: {a.shape} and {b.shape}")


def mean_squared_error(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> float:
    """Mean squared error of two uint8 arrays of one shape, in squared 8-bit units."""
    _same_shape(a, b)
    total = 0
    for top in range(0, len(a), _STRIP):  # a large picture's differences would not fit into memory
        difference = np.subtract(a[top : top + _STRIP], b[top : top + _STRIP], dtype=np.int32)
        total += int(np.square(difference, out=difference).sum(dtype=np.int64))
    return total / a.size


def psnr(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> float:
    """Peak signal-to-noise ratio in dB over all channels; infinite for equal pictures."""
    return psnr_of(mean_squared_error(a, b))


def psnr_of(mse: float) -> float:
    """PSNR in dB of a mean squared error in squared 8-bit units; infinite for none."""
    return math.inf if mse == 0 else 10.0 * math.log10(255.0**2 / mse)


def in_decibels(similarity: float) -> float:
    """MS-SSIM in dB, −10 log₁₀(1 − it); infinite for equal pictures."""
    return math.inf if similarity >= 1.0 else -10.0 * math.log10(1.0 - similarity)


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


def _similarity(x: Tensor, x_mean: Tensor, x_variance: Tensor, y: Tensor, scale: int) -> Tensor:
    """Structure and contrast, and at the coarsest scale luminance too, under each window."""
    y_mean = _blur(y)
    covariance = _blur(x * y) - x_mean * y_mean
    variances = x_variance + (_blur(y * y) - y_mean * y_mean)
    similarity = (2.0 * covariance + _C2) / (variances + _C2)
    if scale == len(_SCALE_WEIGHTS) - 1:
        means = x_mean * x_mean + y_mean * y_mean
        similarity = similarity * (2.0 * x_mean * y_mean + _C1) / (means + _C1)
    return similarity


def _mean_similarity(x: Tensor, kept: tuple[Tensor, Tensor] | None, y: Tensor, scale: int) -> float:
    """Mean over a plane, strip by strip, which stay in the cache: windows reach into the next.

    ``kept`` are mean and variance of ``x`` under each window; None where there was no room.
    """
    total, count = 0.0, 0
    for top in range(0, len(x) - _WINDOW + 1, _STRIP):
        piece, other = (z[top : top + _STRIP + _WINDOW - 1] for z in (x, y))
        mean, variance = (
            _statistics(piece) if kept is None else (z[top : top + _STRIP] for z in kept)
        )
        found = _similarity(piece, mean, variance, other, scale)
        total += float(found.sum(dtype=torch.float64))
        count += found.numel()
    return total / count


def _statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance under each window."""
    mean = _blur(x)
    return mean, _blur(x * x) - mean * mean


def _plane(pixels: NDArray[np.uint8], number: int) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(pixels[..., number], np.float32))


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
        #: Of each plane and scale the plane, and its mean and variance under each window.
        self._kept: list[list[tuple[Tensor, tuple[Tensor, Tensor]]]] = []
        height, width = original.shape[:2]
        if self._large_enough and height * width <= _LARGE:
            for number in range(original.shape[2]):
                x, scales = _plane(original, number), []
                for _ in _SCALE_WEIGHTS:
                    scales.append((x, _statistics(x)))
                    x = _halve(x)
                self._kept.append(scales)

    @property
    def _large_enough(self) -> bool:
        return bool(min(self.original.shape[:2]) >= MS_SSIM_MIN_SIDE)

    def __call__(self, copy: NDArray[np.uint8]) -> float:
        """MS-SSIM of a copy, uint8 of the original's shape; NaN below 161 pixels."""
        _same_shape(self.original, copy)
        if not self._large_enough:
            return math.nan
        return float(np.mean([self._of_plane(copy, k) for k in range(copy.shape[2])]))

    def _of_plane(self, copy: NDArray[np.uint8], number: int) -> float:
        y = _plane(copy, number)
        x = None if self._kept else _plane(self.original, number)
        product = 1.0
        for scale, weight in enumerate(_SCALE_WEIGHTS):
            if x is None:
                similarity = _mean_similarity(*self._kept[number][scale], y, scale)
            else:
                similarity = _mean_similarity(x, None, y, scale)
                x = _halve(x)
            product *= max(similarity, 0.0) ** weight
            y = _halve(y)
        return product


def ms_ssim(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> float:
    """Multi-scale structural similarity of (H, W, 3) pictures; NaN below 161 pixels."""
    return SimilarityTo(a)(b)
