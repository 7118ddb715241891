"""Libraries that write and read the files of conventional codecs."""

from __future__ import annotations

import importlib
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from io import BytesIO
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image, features

from waterfill.data.images import Picture, quiet_pillow
from waterfill.errors import CodecError
from waterfill.evaluation.colour import Colour, padded

__all__ = ["Coder", "Ffmpeg", "Heif", "JpegXL", "Pillow", "Setting"]

#: What is told to a library, for one point of a curve.
Setting = Mapping[str, Any]


class Coder(Protocol):
    """Pictures to the bytes of a file, and back."""

    def version(self) -> str:
        """Library and version; raises CodecError, with what to install, where it is missing."""
        ...

    def encode(self, picture: Picture, setting: Setting) -> bytes:
        """The file."""
        ...

    def decode(self, data: bytes, height: int, width: int) -> NDArray[np.uint8]:
        """Pixels (height, width, 3) that a viewer of the file sees."""
        ...


def _extra(module: str, package: str, what: str) -> Any:
    """A module that is optional."""
    try:
        return importlib.import_module(module)
    except ImportError:
        raise CodecError(
            f"{what} needs {package}: pip install 'waterfill[codecs]', or {package} alone"
        ) from None


def _installed(package: str) -> str:
    try:
        return f"{package} {version(package)}"
    except PackageNotFoundError:
        return package


@dataclass(frozen=True)
class Pillow:
    """A format that Pillow writes.

    Attributes
    ----------
    format
        Pillow's name of it.
    feature
        Pillow's name of the library behind it.
    behind
        Name of that library, for people.
    """

    format: str
    feature: str
    behind: str

    def version(self) -> str:
        """Pillow's version and the library's."""
        if not features.check(self.feature):
            raise CodecError(
                f"this Pillow writes no {self.format}: "
                f"install a wheel of Pillow 11.3 or later, which holds {self.behind}"
            )
        library = self.behind
        if self.feature == "jpg" and features.check("libjpeg_turbo"):
            library, found = "libjpeg-turbo", features.version("libjpeg_turbo")
        else:
            found = features.version(self.feature)
        return f"{_installed('pillow')}, {library} {found}"

    def encode(self, picture: Picture, setting: Setting) -> bytes:
        """The file, by ``Image.save`` with the setting as keyword arguments."""
        buffer = BytesIO()
        picture.to_pil().save(buffer, self.format, **setting)
        return buffer.getvalue()

    def decode(self, data: bytes, height: int, width: int) -> NDArray[np.uint8]:
        """Pixels, as Pillow shows them."""
        # What was written here is no bomb, however large Pillow finds it.
        with quiet_pillow(), Image.open(BytesIO(data), formats=[self.format]) as decoded:
            return np.array(decoded.convert("RGB"))


@dataclass(frozen=True)
class Heif:
    """HEIC through pillow-heif: libheif, with x265 to write and libde265 to read."""

    @staticmethod
    def _module() -> Any:
        return _extra("pillow_heif", "pillow-heif", "HEIC")

    def version(self) -> str:
        """Versions of pillow-heif, libheif and x265."""
        about = self._module().libheif_info()
        encoder = about.get("encoders", {}).get("x265")
        if encoder is None:
            raise CodecError("this pillow-heif was built without x265; install its wheel")
        return f"{_installed('pillow-heif')}, libheif {about['libheif']}, {encoder}"

    def encode(self, picture: Picture, setting: Setting) -> bytes:
        """The file; the setting is of ``HeifFile.save``."""
        buffer = BytesIO()
        rgb = Image.fromarray(picture.pixels)
        self._module().from_pillow(rgb).save(buffer, **setting)
        return buffer.getvalue()

    def decode(self, data: bytes, height: int, width: int) -> NDArray[np.uint8]:
        """Pixels."""
        return np.array(self._module().read_heif(data).to_pillow().convert("RGB"))


@dataclass(frozen=True)
class JpegXL:
    """JPEG XL through imagecodecs: libjxl, bare codestreams, one thread."""

    @staticmethod
    def _module() -> Any:
        module = _extra("imagecodecs", "imagecodecs", "JPEG XL")
        if not module.JPEGXL.available:
            raise CodecError("this imagecodecs was built without libjxl; install its wheel")
        return module

    def version(self) -> str:
        """Versions of imagecodecs and libjxl."""
        return f"{_installed('imagecodecs')}, {self._module().jpegxl_version()}"

    def encode(self, picture: Picture, setting: Setting) -> bytes:
        """The codestream; the setting is of ``imagecodecs.jpegxl_encode``."""
        pixels = np.ascontiguousarray(picture.pixels)
        data = self._module().jpegxl_encode(pixels, usecontainer=False, numthreads=1, **setting)
        return bytes(data)

    def decode(self, data: bytes, height: int, width: int) -> NDArray[np.uint8]:
        """Pixels."""
        return np.array(self._module().jpegxl_decode(data, numthreads=1), dtype=np.uint8)


@cache
def _ffmpeg() -> str:
    """Path of the ffmpeg that imageio-ffmpeg carries."""
    module = _extra("imageio_ffmpeg", "imageio-ffmpeg", "ffmpeg, for VVC and x265,")
    try:
        return str(module.get_ffmpeg_exe())
    except RuntimeError:
        raise CodecError("imageio-ffmpeg holds no ffmpeg here; install its wheel") from None


def _run(arguments: list[str], data: bytes = b"") -> bytes:
    command = [_ffmpeg(), "-hide_banner", "-loglevel", "error", *arguments]
    done = subprocess.run(command, input=data, capture_output=True, check=False)
    if done.returncode:
        lines = done.stderr.decode(errors="replace").strip().splitlines() or ["no message"]
        raise CodecError(f"ffmpeg failed with status {done.returncode}: {lines[-1]}")
    return done.stdout


@cache
def _ffmpeg_version(encoder: str) -> str:
    listed = _run(["-encoders"]).decode(errors="replace")
    if encoder not in listed.split():
        raise CodecError(f"this ffmpeg has no {encoder}; install imageio-ffmpeg's wheel")
    first = _run(["-version"]).decode(errors="replace").splitlines()[0]
    return f"{' '.join(first.split()[:3])}, {encoder}"


@dataclass(frozen=True)
class Ffmpeg:
    """A still picture as a video of one frame, in a bare stream without a container.

    Attributes
    ----------
    encoder
        ffmpeg's name of it.
    stream
        ffmpeg's name of the bare stream.
    options
        Gives the encoder's options for a setting.
    colour
        Conversion before and after, done here and not by ffmpeg.
    """

    encoder: str
    stream: str
    options: Callable[[Setting], list[str]]
    colour: Colour

    def version(self) -> str:
        """Version of ffmpeg, with the encoder's name."""
        return _ffmpeg_version(self.encoder)

    @property
    def _format(self) -> str:
        chroma = self.colour.chroma.replace(":", "")
        return f"yuv{chroma}p" + (f"{self.colour.bits}le" if self.colour.bits > 8 else "")

    def encode(self, picture: Picture, setting: Setting) -> bytes:
        """The stream, of the picture padded to multiples of 8."""
        pixels = padded(picture.pixels, 8)
        height, width = pixels.shape[:2]
        kind = "<u2" if self.colour.bits > 8 else "u1"
        raw = b"".join(plane.astype(kind).tobytes() for plane in self.colour.planes(pixels))
        source = ["-f", "rawvideo", "-pix_fmt", self._format, "-s", f"{width}x{height}", "-r", "1"]
        target = ["-frames:v", "1", "-threads", "1", "-f", self.stream, "-"]
        coder = ["-c:v", self.encoder, *self.options(setting)]
        return _run([*source, "-i", "-", *coder, *target], raw)

    def decode(self, data: bytes, height: int, width: int) -> NDArray[np.uint8]:
        """Pixels, without the padding.

        Raises
        ------
        CodecError
            If ffmpeg fails, or gives back a picture of another size.
        """
        source = ["-threads", "1", "-f", self.stream, "-i", "-"]
        raw = _run([*source, "-f", "rawvideo", "-pix_fmt", self._format, "-"], data)
        samples = np.frombuffer(raw, "<u2" if self.colour.bits > 8 else "u1").astype(np.uint16)
        tall, wide = -(-height // 8) * 8, -(-width // 8) * 8
        half = 2 if self.colour.chroma == "4:2:0" else 1
        luma, chroma = tall * wide, (tall // half) * (wide // half)
        if samples.size != luma + 2 * chroma:
            raise CodecError(f"{self.encoder} gave back a picture of another size")
        y, cb, cr = np.split(samples, [luma, luma + chroma])
        shape = tall // half, wide // half
        planes = y.reshape(tall, wide), cb.reshape(shape), cr.reshape(shape)
        return self.colour.pixels(planes)[:height, :width]
