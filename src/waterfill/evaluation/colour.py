"""RGB ⇄ YCbCr with chroma at full or half resolution, as codecs of video want it.

Written here so that what conversion alone costs is known: a codec behind it can show no more.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

__all__ = ["Colour"]

#: Weights of red and blue in luma, by recommendation of the ITU-R.
_WEIGHTS = {"BT.601": (0.299, 0.114), "BT.709": (0.2126, 0.0722)}

Planes = tuple[NDArray[np.uint16], NDArray[np.uint16], NDArray[np.uint16]]


@dataclass(frozen=True)
class Colour:
    """A way of writing RGB as YCbCr.

    Attributes
    ----------
    matrix
        Whose luma weights.
    bits
        Bits of a sample: 8 … 16.
    chroma
        4:4:4, or 4:2:0: means of 2×2, and linear interpolation back.
    limited
        Luma in 16 … 235 and chroma in 16 … 240, of 8 bits, in place of the full range.
    """

    matrix: Literal["BT.601", "BT.709"] = "BT.601"
    bits: int = 8
    chroma: Literal["4:4:4", "4:2:0"] = "4:2:0"
    limited: bool = False

    def __str__(self) -> str:
        span = "limited" if self.limited else "full"
        return f"{self.matrix} YCbCr {self.chroma}, {self.bits} bits, {span} range"

    def planes(self, pixels: NDArray[np.uint8]) -> Planes:
        """Y, Cb, Cr of uint8 RGB (H, W, 3), rounded; sides must be even for 4:2:0."""
        red, blue = _WEIGHTS[self.matrix]
        r, g, b = np.moveaxis(pixels.astype(np.float64) / 255.0, 2, 0)
        y = red * r + (1.0 - red - blue) * g + blue * b
        cb, cr = (b - y) / (2.0 * (1.0 - blue)), (r - y) / (2.0 * (1.0 - red))
        if self.chroma == "4:2:0":
            cb, cr = _half(cb), _half(cr)
        return self._stored(y, 0), self._stored(cb, 1), self._stored(cr, 1)

    def pixels(self, planes: Planes) -> NDArray[np.uint8]:
        """RGB (H, W, 3) of Y, Cb, Cr, rounded and clipped to uint8."""
        red, blue = _WEIGHTS[self.matrix]
        (zero, one), (middle, wide) = self._scale(0), self._scale(1)
        y = (planes[0].astype(np.float64) - zero) / one
        cb, cr = ((plane.astype(np.float64) - middle) / wide for plane in planes[1:])
        if self.chroma == "4:2:0":
            cb, cr = _double(cb), _double(cr)
        r, b = y + 2.0 * (1.0 - red) * cr, y + 2.0 * (1.0 - blue) * cb
        g = (y - red * r - blue * b) / (1.0 - red - blue)
        rgb = np.clip(np.stack([r, g, b], 2), 0.0, 1.0)
        found: NDArray[np.uint8] = np.rint(rgb * 255.0).astype(np.uint8)
        return found

    def round_trip(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """RGB (H, W, 3) converted and back without a codec: the ceiling this conversion sets."""
        height, width = pixels.shape[:2]
        return self.pixels(self.planes(padded(pixels, 2)))[:height, :width]

    def _scale(self, chroma: int) -> tuple[float, float]:
        """Value that stands for zero, and range of a sample, for luma or for chroma."""
        step = float(1 << (self.bits - 8))
        if self.limited:
            return (128.0 if chroma else 16.0) * step, (224.0 if chroma else 219.0) * step
        return 128.0 * step * chroma, 256.0 * step - 1.0

    def _stored(self, plane: NDArray[np.float64], chroma: int) -> NDArray[np.uint16]:
        offset, span = self._scale(chroma)
        top = (1 << self.bits) - 1
        return np.clip(np.rint(plane * span + offset), 0, top).astype(np.uint16)


def padded(pixels: NDArray[np.uint8], unit: int) -> NDArray[np.uint8]:
    """RGB (H, W, 3) with its last row and column repeated up to multiples of ``unit``."""
    height, width = pixels.shape[:2]
    return np.pad(pixels, ((0, -height % unit), (0, -width % unit), (0, 0)), mode="edge")


def _half(plane: NDArray[np.float64]) -> NDArray[np.float64]:
    height, width = plane.shape
    means: NDArray[np.float64] = plane.reshape(height // 2, 2, width // 2, 2).mean((1, 3))
    return means


def _double(plane: NDArray[np.float64]) -> NDArray[np.float64]:
    """Linear interpolation to twice the size: ¾ of the nearest sample and ¼ of the next."""
    for axis in (0, 1):
        around = np.pad(plane, [(1, 1) if a == axis else (0, 0) for a in (0, 1)], mode="edge")
        size = plane.shape[axis]
        before = np.take(around, range(size), axis)
        after = np.take(around, range(2, size + 2), axis)
        pair = np.stack([0.75 * plane + 0.25 * before, 0.75 * plane + 0.25 * after], axis + 1)
        shape = list(plane.shape)
        shape[axis] *= 2
        plane = pair.reshape(shape)
    return plane
