"""The container: a fixed header, the coded sections, and checks on both.

All integers are little-endian.

======  =====  =====================================================================
offset  bytes  field
======  =====  =====================================================================
0       3      ``WFL``
3       1      version of the bitstream, 2
4       8      identity of the codec's weights: the head of their SHA-256
12      1      flags: bit 0, the picture is grey; bit 1, symbols of y are those of
               trellis-coded quantisation; the others are 0
13      2      quality in 1/256, from 1 to 8
15      4      width in pixels, 1 … 65,535
19      4      height in pixels, 1 … 65,535
23      2      side of a tile in units of 32 pixels, 1 … 64
25      4      CRC-32 of the decoded symbols of z and y, int32, in raster order
29      4      CRC-32 of everything else in the file
33      8 n    bytes of the sections of z and of y, for each of the n tiles, row by row
33+8n          section of z, section of y, for each tile
======  =====  =====================================================================
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from waterfill.data.images import MAX_SIDE
from waterfill.errors import BitstreamError

__all__ = [
    "HEADER_BYTES",
    "MAX_TILE",
    "QUALITY_STEPS",
    "SIZES_BYTES",
    "TILE_UNIT",
    "VERSION",
    "Container",
    "Header",
]

VERSION = 2
#: A quality is carried in this fraction: the finest difference of two qualities is 1/256.
QUALITY_STEPS = 256

_MAGIC = b"WFL"
_LAYOUT = struct.Struct("<3sB8sBHIIHI")
_CRC = struct.Struct("<I")
_SIZES = struct.Struct("<II")
#: Bytes before the sizes of sections, of which there are two for each tile.
HEADER_BYTES = _LAYOUT.size + _CRC.size
SIZES_BYTES = _SIZES.size
_GREY, _TRELLIS = 1, 2
#: Sides of tiles are multiples of this.
TILE_UNIT = 32
#: Longest side of a tile in pixels. A tile is decoded as a whole, in about a gigabyte at this side:
#: without a limit, a few bytes could ask for any amount.
MAX_TILE = 2048
_QUALITIES = (1 * QUALITY_STEPS, 8 * QUALITY_STEPS)


@dataclass(frozen=True)
class Header:
    """What a stream says of itself before any symbol is decoded; ``tile`` in pixels."""

    weights_id: bytes
    quality: float
    width: int
    height: int
    grey: bool
    tile: int
    symbols_crc: int
    trellis: bool = False

    @property
    def tile_count(self) -> int:
        """Number of tiles."""
        return -(-self.width // self.tile) * -(-self.height // self.tile)


class Container(NamedTuple):
    """A stream taken apart: its header and the coded sections, of z and y for each tile."""

    header: Header
    sections: Sequence[tuple[bytes, bytes]]

    def pack(self) -> bytes:
        """The stream as bytes."""
        header = self.header
        fields = _LAYOUT.pack(
            _MAGIC,
            VERSION,
            header.weights_id,
            _GREY * header.grey | _TRELLIS * header.trellis,
            round(header.quality * QUALITY_STEPS),
            header.width,
            header.height,
            header.tile // TILE_UNIT,
            header.symbols_crc,
        )
        sizes = b"".join(_SIZES.pack(len(z), len(y)) for z, y in self.sections)
        body = sizes + b"".join(part for pair in self.sections for part in pair)
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
        fields = _LAYOUT.unpack_from(data)
        if fields[1] != VERSION:
            raise BitstreamError(f"version {fields[1]} of the bitstream; this is version {VERSION}")
        (crc,) = _CRC.unpack_from(data, _LAYOUT.size)
        damaged = crc != zlib.crc32(data[HEADER_BYTES:], zlib.crc32(data[: _LAYOUT.size]))
        # The checksum is no proof of good will: these checks are for streams made to do harm, too.
        header = _checked_header(fields, max_pixels, damaged=damaged)
        sizes_end = HEADER_BYTES + SIZES_BYTES * header.tile_count
        if len(data) < sizes_end:
            raise BitstreamError(f"the stream is cut: {len(data)} bytes, not even its sizes")
        sizes = list(_SIZES.iter_unpack(data[HEADER_BYTES:sizes_end]))
        expected = sizes_end + sum(map(sum, sizes))
        if len(data) != expected:
            state = "cut" if len(data) < expected else "too long"
            raise BitstreamError(f"the stream is {state}: {len(data)} bytes, not {expected}")
        if damaged:
            raise BitstreamError(_DAMAGED)
        sections, start = [], sizes_end
        for z_size, y_size in sizes:
            middle, end = start + z_size, start + z_size + y_size
            sections.append((data[start:middle], data[middle:end]))
            start = end
        return cls(header, sections)


_DAMAGED = "the stream is damaged: its checksum doesn't match"


def _checked_header(fields: tuple[Any, ...], max_pixels: int, *, damaged: bool) -> Header:
    _, _, weights_id, flags, quality, width, height, tile, symbols_crc = fields
    reason = None
    if flags & ~(_GREY | _TRELLIS):
        reason = f"the stream has flags this version doesn't know ({flags:#04x})"
    elif not _QUALITIES[0] <= quality <= _QUALITIES[1]:
        reason = f"the stream claims quality {quality / QUALITY_STEPS:g}"
    elif not (0 < width * height <= max_pixels and max(width, height) <= MAX_SIDE):
        reason = f"the stream claims {width}×{height} pixels, which can't be"
    elif not tile:
        reason = "the stream has tiles of 0 pixels, which can't be"
    elif tile * TILE_UNIT > MAX_TILE:
        reason = f"the stream has tiles of {tile * TILE_UNIT} pixels; at most {MAX_TILE} can be"
    if reason is not None:
        raise BitstreamError(_DAMAGED if damaged else reason)
    return Header(
        weights_id,
        quality / QUALITY_STEPS,
        width,
        height,
        bool(flags & _GREY),
        tile * TILE_UNIT,
        symbols_crc,
        bool(flags & _TRELLIS),
    )
