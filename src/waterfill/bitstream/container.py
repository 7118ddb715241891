"""The container: a fixed header, the coded sections, and checks on both.

All integers are little-endian.

======  =====  =====================================================================
offset  bytes  field
======  =====  =====================================================================
0       3      ``WFL``
3       1      version of the bitstream, 1
4       8      identity of the codec's weights: the head of their SHA-256
12      1      flags: bit 0, the picture is grey; the others are 0
13      2      quality in 1/256, from 1 to 8
15      4      width in pixels, 1 … 65,535
19      4      height in pixels, 1 … 65,535
23      4      bytes of the section of z
27      4      bytes of the section of y
31      4      CRC-32 of the decoded symbols of z and y, int32, in raster order
35      4      CRC-32 of everything else in the file
39             section of z, section of y
======  =====  =====================================================================
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from typing import NamedTuple

from waterfill.data.images import MAX_SIDE
from waterfill.errors import BitstreamError

__all__ = ["HEADER_BYTES", "QUALITY_STEPS", "VERSION", "Container", "Header"]

VERSION = 1
#: A quality is carried in this fraction: the finest difference of two qualities is 1/256.
QUALITY_STEPS = 256

_MAGIC = b"WFL"
_LAYOUT = struct.Struct("<3sB8sBHIIIII")
_CRC = struct.Struct("<I")
HEADER_BYTES = _LAYOUT.size + _CRC.size
_GREY = 1
_QUALITIES = (1 * QUALITY_STEPS, 8 * QUALITY_STEPS)


@dataclass(frozen=True)
class Header:
    """What a stream says of itself before any symbol is decoded."""

    weights_id: bytes
    quality: float
    width: int
    height: int
    grey: bool
    symbols_crc: int


class Container(NamedTuple):
    """A stream taken apart: its header and the coded sections."""

    header: Header
    z: bytes
    y: bytes

    def pack(self) -> bytes:
        """The stream as bytes."""
        header = self.header
        fields = _LAYOUT.pack(
            _MAGIC,
            VERSION,
            header.weights_id,
            _GREY * header.grey,
            round(header.quality * QUALITY_STEPS),
            header.width,
            header.height,
            len(self.z),
            len(self.y),
            header.symbols_crc,
        )
        body = self.z + self.y
        return fields + _CRC.pack(zlib.crc32(body, zlib.crc32(fields))) + body

    @classmethod
    def unpack(cls, data: bytes, *, max_pixels: int) -> Container:
        """Take a stream apart, and check everything that can be without a codec.

        Parameters
        ----------
        data
            The stream.
        max_pixels
            Pictures that claim more are refused before anything is allocated.

        Raises
        ------
        BitstreamError
            If the data is foreign, of another version, cut, extended, or altered anywhere.
        """
        if data[: len(_MAGIC)] != _MAGIC[: len(data)] or not data:
            raise BitstreamError("not a waterfill stream")
        if len(data) < HEADER_BYTES:
            raise BitstreamError(f"the stream is cut: {len(data)} bytes are less than a header")
        (_, version, weights_id, flags, quality, width, height, z_size, y_size, symbols_crc) = (
            _LAYOUT.unpack_from(data)
        )
        if version != VERSION:
            raise BitstreamError(f"version {version} of the bitstream; this is version {VERSION}")
        expected = HEADER_BYTES + z_size + y_size
        if len(data) != expected:
            state = "cut" if len(data) < expected else "too long"
            raise BitstreamError(f"the stream is {state}: {len(data)} bytes, not {expected}")
        (crc,) = _CRC.unpack_from(data, _LAYOUT.size)
        if crc != zlib.crc32(data[HEADER_BYTES:], zlib.crc32(data[: _LAYOUT.size])):
            raise BitstreamError("the stream is damaged: its checksum doesn't match")
        # The checksum is no proof of good will: what follows is for streams made to do harm.
        if flags & ~_GREY:
            raise BitstreamError(f"the stream has flags this version doesn't know ({flags:#04x})")
        if not _QUALITIES[0] <= quality <= _QUALITIES[1]:
            raise BitstreamError(f"the stream claims quality {quality / QUALITY_STEPS:g}")
        if not (0 < width * height <= max_pixels and max(width, height) <= MAX_SIDE):
            raise BitstreamError(f"the stream claims {width}×{height} pixels, which can't be")
        grey = bool(flags & _GREY)
        header = Header(weights_id, quality / QUALITY_STEPS, width, height, grey, symbols_crc)
        body = data[HEADER_BYTES:]
        return cls(header, body[:z_size], body[z_size:])
