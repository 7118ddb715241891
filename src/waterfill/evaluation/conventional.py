"""Conventional codecs as anchors: which there are, and the settings that trace their curves."""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from waterfill.data.images import Picture
from waterfill.errors import CodecError
from waterfill.evaluation.coders import (
    Coder,
    Ffmpeg,
    Heif,
    JpegXL,
    Pillow,
    Setting,
)
from waterfill.evaluation.colour import Colour

__all__ = ["CONVENTIONAL", "Conventional", "conventional", "missing"]


@dataclass(frozen=True)
class Conventional:
    """A conventional codec.

    Attributes
    ----------
    name
        For tables.
    title
        With chroma subsampling and encoder, for people.
    settings
        What the encoder is told, one mapping per point of the curve, ascending rate.
    coder
        Who writes and reads the files.
    colour
        Conversion before the codec, which sets its ceiling; None where nothing is lost in it.
    caveat
        What to know before comparing; may be empty.
    """

    name: str
    title: str
    settings: tuple[Setting, ...] = field(repr=False)
    coder: Coder = field(repr=False)
    colour: Colour | None = None
    caveat: str = ""

    def made_of(self, setting: Setting) -> str | None:
        """Hex digest that tells it from others of its name; empty for those of this package.

        None if that can't be said, of a coder that is no dataclass of plain values. Classes go by
        their names: what their code does is for :meth:`version` to say.
        """
        known = CONVENTIONAL.get(self.name)
        ours = known is not None and (self.coder, self.colour) == (known.coder, known.colour)
        if type(self) is Conventional and ours:
            return ""
        try:
            about = [_described(part, setting) for part in (self.coder, self.colour)]
        except TypeError:
            return None
        return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()

    def version(self) -> str:
        """Library and version.

        Raises
        ------
        CodecError
            If the library is missing, with what to install.
        """
        return self.coder.version()

    def encode(self, picture: Picture, setting: Setting) -> bytes:
        """The file.

        Raises
        ------
        CodecError
            If the library is missing or fails.
        """
        with _blamed(self.name, picture.name):
            return self.coder.encode(picture, setting)

    def decode(self, data: bytes, height: int, width: int) -> NDArray[np.uint8]:
        """Pixels (height, width, 3) of a file, as a viewer sees them.

        Raises
        ------
        CodecError
            If the library is missing or fails, or gives back another size.
        """
        with _blamed(self.name, f"a file of {width}×{height} pixels"):
            pixels = self.coder.decode(data, height, width)
        if pixels.shape != (height, width, 3):
            raise CodecError(f"{self.name} gave back a picture of {pixels.shape}")
        return pixels

    def code(self, picture: Picture, setting: Setting) -> tuple[int, Picture]:
        """Bytes of the file, and the picture a viewer sees."""
        data = self.encode(picture, setting)
        pixels = self.decode(data, picture.height, picture.width)
        return len(data), Picture(picture.name, pixels, picture.grey)

    def ceiling(self, picture: Picture) -> NDArray[np.uint8]:
        """What colour conversion alone leaves of a picture, without the codec."""
        return picture.pixels if self.colour is None else self.colour.round_trip(picture.pixels)


def _described(value: Any, setting: Setting) -> Any:
    """A value as JSON holds it, a dataclass by its name and fields; TypeError of anything else."""
    if value is None or isinstance(value, str | bool | int | float):
        return value
    if isinstance(value, list | tuple):
        return [_described(item, setting) for item in value]
    if isinstance(value, type) or not is_dataclass(value):
        raise TypeError(f"{type(value).__name__} doesn't show what it is made of")
    parts = {part.name: getattr(value, part.name) for part in fields(value)}
    if isinstance(value, Ffmpeg):  # a function shows what it does where it is used
        parts["options"] = value.options(setting)
    kind = f"{type(value).__module__}.{type(value).__qualname__}"
    return [kind, {name: _described(part, setting) for name, part in parts.items()}]


@contextmanager
def _blamed(codec: str, what: str) -> Iterator[None]:
    """Say which codec failed on what, whatever its library throws: sides have limits."""
    try:
        yield
    except (CodecError, OSError, ValueError, RuntimeError) as error:
        raise CodecError(f"{codec} can't code {what}: {error}") from None


def _each(key: str, *values: float, **fixed: Any) -> tuple[dict[str, Any], ...]:
    return tuple({key: value, **fixed} for value in values)


def _j2k(*, irreversible: bool) -> tuple[dict[str, Any], ...]:
    """By compression ratio, colours transformed: else each plane of RGB is coded by itself."""
    fixed = {"mct": 1, "irreversible": irreversible, "no_jp2": True}
    return tuple(
        {"quality_mode": "rates", "quality_layers": [ratio], **fixed}
        for ratio in (192, 128, 96, 64, 48, 32, 24, 16, 12, 8, 6)
    )


def _vvenc(setting: Setting) -> list[str]:
    # QPA would spend bits where eyes look, not where errors are.
    return ["-preset", setting["preset"], "-qp", str(setting["qp"]), "-qpa", "0"]


def _x265(setting: Setting) -> list[str]:
    told = f"qp={setting['qp']}:keyint=1:info=0:pools=none:frame-threads=1:log-level=error"
    return ["-preset", setting["preset"], "-tune", "psnr", "-x265-params", told]


_JPEG = Pillow("JPEG", "jpg", "libjpeg")
_JPEG_QUALITIES = (5, 10, 15, 20, 30, 40, 50, 60, 70, 80, 85, 90, 95)
_AVIF = Pillow("AVIF", "avif", "libavif")
_AVIF_QUALITIES = (10, 22, 35, 48, 60, 72, 84, 94)
# One thread for each picture; libaom tunes for what eyes see unless told. Speed 6, Pillow's own, is
# several times faster and makes a straw man; below 4 there is little left to gain.
_AVIF_FIXED = {"speed": 4, "max_threads": 1, "advanced": {"tune": "psnr"}}
_AVIF_CAVEAT = "AV1 by libaom for stills at speed 4, tuned for PSNR"
_J2K = Pillow("JPEG2000", "jpg_2000", "OpenJPEG")
_VVC = Colour("BT.709", 10, "4:2:0")
_X265 = Colour("BT.601", 8, "4:4:4")

#: Anchors by name.
CONVENTIONAL: Mapping[str, Conventional] = {
    codec.name: codec
    for codec in (
        Conventional(
            "jpeg",
            "JPEG 4:2:0",
            # Optimised Huffman tables, lest it be a straw man.
            _each("quality", *_JPEG_QUALITIES, optimize=True, subsampling=2),
            _JPEG,
            Colour(),
            "optimised Huffman tables, which published curves of JPEG have not: see jpeg-plain",
        ),
        Conventional(
            "jpeg-plain",
            "JPEG 4:2:0, standard Huffman tables",
            _each("quality", *_JPEG_QUALITIES, subsampling=2),
            _JPEG,
            Colour(),
            "with the tables that published curves of JPEG have; the codec named jpeg needs less",
        ),
        Conventional(
            "jpeg-444",
            "JPEG 4:4:4",
            _each("quality", *_JPEG_QUALITIES, optimize=True, subsampling=0),
            _JPEG,
            Colour(chroma="4:4:4"),
        ),
        Conventional(
            "jpeg2000",
            "JPEG 2000",
            _j2k(irreversible=True),
            _J2K,
            caveat="9/7 wavelet, bare codestream, one layer, by compression ratio",
        ),
        Conventional(
            "jpeg2000-53",
            "JPEG 2000, reversible 5/3 wavelet",
            _j2k(irreversible=False),
            _J2K,
            caveat="OpenJPEG's own wavelet, as in the published tfc-j2k-opj5; the codec named "
            "jpeg2000 needs less",
        ),
        Conventional(
            "webp",
            "WebP 4:2:0",
            _each("quality", 1, 5, 15, 30, 45, 60, 75, 85, 92, 97, method=6),
            Pillow("WEBP", "webp", "libwebp"),
            Colour(limited=True),
        ),
        Conventional(
            "avif",
            "AVIF 4:2:0",
            _each("quality", *_AVIF_QUALITIES, subsampling="4:2:0", **_AVIF_FIXED),
            _AVIF,
            Colour(),
            _AVIF_CAVEAT,
        ),
        Conventional(
            "avif-444",
            "AVIF 4:4:4",
            _each("quality", *_AVIF_QUALITIES, subsampling="4:4:4", **_AVIF_FIXED),
            _AVIF,
            Colour(chroma="4:4:4"),
            _AVIF_CAVEAT,
        ),
        Conventional(
            "heic",
            "HEIC 4:2:0",
            _each("quality", 5, 15, 25, 35, 45, 55, 65, 75, 85, chroma=420),
            Heif(),
            Colour(),
            "x265 with libheif's defaults, which are not for PSNR",
        ),
        Conventional(
            "jpeg-xl",
            "JPEG XL",
            _each("distance", 14.0, 10.0, 7.0, 5.0, 3.5, 2.4, 1.6, 1.0, 0.6, effort=7),
            JpegXL(),
            caveat="its encoder works for what eyes see, not for PSNR",
        ),
        Conventional(
            "vvc",
            "VVC 4:2:0, VVenC",
            _each("qp", 47, 42, 37, 32, 27, 22, preset="medium"),
            Ffmpeg("libvvenc", "vvc", _vvenc, _VVC),
            _VVC,
            "VVenC 4:2:0 and not VTM 4:4:4: no stand-in for the published VTM curves",
        ),
        Conventional(
            "x265-444",
            "x265 4:4:4, in place of BPG",
            _each("qp", 47, 42, 37, 32, 27, 22, 17, preset="veryslow"),
            Ffmpeg("libx265", "hevc", _x265, _X265),
            _X265,
            "a stand-in for BPG: the same codec, but a bare stream by another version of x265",
        ),
    )
}


def conventional(name: str) -> Conventional:
    """A conventional codec that can run here, by name.

    Raises
    ------
    CodecError
        If no codec has that name, or its library is missing.
    """
    codec = CONVENTIONAL.get(name.strip().lower())
    if codec is None:
        near = difflib.get_close_matches(name.lower(), CONVENTIONAL, n=1)
        hint = f"; did you mean {near[0]}?" if near else f"; there are {', '.join(CONVENTIONAL)}"
        raise CodecError(f"no conventional codec is named {name!r}{hint}")
    codec.version()
    return codec


def missing() -> dict[str, str]:
    """Codecs that can't run here, each with one line that says what to install."""
    found = {}
    for name, codec in CONVENTIONAL.items():
        try:
            codec.version()
        except CodecError as error:
            found[name] = str(error)
    return found
