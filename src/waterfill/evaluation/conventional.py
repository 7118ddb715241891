"""Conventional codecs, through Pillow, as anchors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any

import numpy as np
from PIL import Image

from waterfill.data.images import Picture

__all__ = ["CONVENTIONAL", "Conventional"]


@dataclass(frozen=True)
class Conventional:
    """A format that Pillow writes, and the settings that trace its rate–distortion curve.

    Attributes
    ----------
    name
        For tables, chroma subsampling included where the format has a choice.
    format
        Pillow's name.
    settings
        Keyword arguments of ``Image.save``, one mapping per point of the curve, ascending rate.
    """

    name: str
    format: str
    settings: tuple[Mapping[str, Any], ...] = field(repr=False)

    def code(self, picture: Picture, setting: Mapping[str, Any]) -> tuple[int, Picture]:
        """Bytes of the file, and the picture a viewer sees."""
        buffer = BytesIO()
        picture.to_pil().save(buffer, self.format, **setting)
        with Image.open(buffer) as decoded:
            pixels = np.array(decoded.convert("RGB"))
        return buffer.tell(), Picture(picture.name, pixels, picture.grey)


def _qualities(*values: int, **fixed: Any) -> tuple[dict[str, Any], ...]:
    return tuple({"quality": value, **fixed} for value in values)


#: Anchors by name.
CONVENTIONAL: dict[str, Conventional] = {
    codec.name: codec
    for codec in (
        Conventional(
            "jpeg",  # 4:2:0 as Pillow's default; optimised Huffman tables, lest it be a straw man
            "JPEG",
            _qualities(5, 10, 15, 20, 30, 40, 50, 60, 70, 80, 85, 90, 95, optimize=True),
        ),
        Conventional("webp", "WEBP", _qualities(1, 5, 15, 30, 45, 60, 75, 85, 92, 97, method=6)),
    )
}
