"""Pictures and latent maps as images inside the page."""

from __future__ import annotations

import io
import math
from base64 import b64encode
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, features
from plotly.colors import sample_colorscale, unlabel_rgb

__all__ = ["SMALLEST_WIDTH", "ColourScale", "crop_for_show", "data_uri", "diverging", "sequential"]

_LEVELS = 256
#: Above this many pixels a picture is cropped: a page with four of them must still open.
_MAX_SHOWN_PIXELS = 1_500_000
_WEBP_LONGEST_SIDE = 16383
#: Pictures that are narrower are shown enlarged to this width, in CSS pixels.
SMALLEST_WIDTH = 384
#: Colours span this share of the values, so that one outlier does not wash out a sparse map.
_SPAN = 0.998


@dataclass(frozen=True)
class ColourScale:
    """A colour scale shared by several maps, linear from ``low`` to ``high``.

    Attributes
    ----------
    low, high
        The values of its two ends; beyond them colours stay the same.
    colours
        CSS colours at equal distances.
    """

    low: float
    high: float
    colours: tuple[str, ...]

    def paint(self, values: NDArray[np.float32]) -> str:
        """A map (h, w) as a data URI of a PNG with one pixel per latent position."""
        span = max(self.high - self.low, 1e-12)
        level = np.clip((np.asarray(values, np.float64) - self.low) / span, 0.0, 1.0)
        image = Image.fromarray(np.rint(level * (_LEVELS - 1)).astype(np.uint8))
        palette = [int(v) for colour in self.colours for v in unlabel_rgb(colour)]
        image.putpalette(palette)
        return data_uri(image, "PNG")

    @property
    def gradient(self) -> str:
        """The scale as a CSS gradient, for its colour bar."""
        return f"linear-gradient(to right, {', '.join(self.colours[:: _LEVELS // 16])})"


def _colours(name: str) -> tuple[str, ...]:
    sampled = sample_colorscale(name, np.linspace(0.0, 1.0, _LEVELS).tolist())
    return tuple(
        f"rgb({', '.join(str(round(float(v))) for v in unlabel_rgb(colour))})" for colour in sampled
    )


def _spread(maps: Iterable[NDArray[np.float32]]) -> float:
    values = np.concatenate([np.abs(np.ravel(m)) for m in maps])
    return float(np.quantile(values, _SPAN)) if values.size else 0.0


def diverging(maps: Iterable[NDArray[np.float32]]) -> ColourScale:
    """One scale for several maps, the same to both sides of 0: blue below, red above."""
    end = _spread(maps)
    return ColourScale(-end, end, _colours("RdBu_r"))


def sequential(maps: Iterable[NDArray[np.float32]]) -> ColourScale:
    """One scale from 0 upwards for several maps of bits."""
    return ColourScale(0.0, _spread(maps), _colours("Viridis"))


def crop_for_show(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The central part of a picture, or all of it if that is small enough.

    Cropped and never scaled down: scaling would hide the artefacts that are to be compared.
    """
    height, width = pixels.shape[:2]
    shrink = math.sqrt(_MAX_SHOWN_PIXELS / (height * width))
    if shrink >= 1:
        return pixels
    rows, columns = max(1, int(height * shrink)), max(1, int(width * shrink))
    top, left = (height - rows) // 2, (width - columns) // 2
    return pixels[top : top + rows, left : left + columns]


def data_uri(image: Image.Image | NDArray[np.uint8], kind: str | None = None) -> str:
    """An image as a lossless data URI: ``kind``, else WebP where Pillow has it, else PNG."""
    if not isinstance(image, Image.Image):
        image = Image.fromarray(image)
    if kind is None:
        fits = max(image.size) <= _WEBP_LONGEST_SIDE and features.check("webp")
        kind = "WEBP" if fits else "PNG"
    stream = io.BytesIO()
    image.save(stream, kind, **({"lossless": True} if kind == "WEBP" else {"optimize": True}))
    return f"data:image/{kind.lower()};base64,{b64encode(stream.getvalue()).decode('ascii')}"
