"""Pictures in and out: reading what is supported, refusing the rest in one clear line."""

from __future__ import annotations

import glob
import io
import os
import sys
import threading
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeAlias, TypeGuard, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError

from waterfill.errors import ImageError

if TYPE_CHECKING:
    import torch

__all__ = [
    "IMAGE_SUFFIXES",
    "MAX_PIXELS",
    "MAX_SIDE",
    "ImageLike",
    "Picture",
    "as_picture",
    "bytes_in",
    "decode_picture",
    "find_images",
    "load_picture",
    "pictures_in",
    "quiet_pillow",
    "sample_pictures",
    "to_picture",
    "too_large",
]

IMAGE_SUFFIXES = frozenset(
    {".bmp", ".gif", ".jpeg", ".jpg", ".jp2", ".png", ".ppm", ".pgm", ".tif", ".tiff", ".webp"}
)
# Pillow's names of the same. Other readers are disabled: one runs programs on its input.
_FORMATS = ("BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
#: Pictures above this many pixels, 16,384², are refused.
MAX_PIXELS = 1 << 28
#: Longest side: what JPEG holds. A transform pads sides to multiples of 64, so that a picture one
#: pixel high takes the memory of 64 rows.
MAX_SIDE = 65_535

_BAND = 256  # rows that are turned into pixels at a time
_SAMPLES = ("astronaut", "chelsea", "coffee", "rocket")


@dataclass(frozen=True)
class Picture:
    """A picture in memory.

    Attributes
    ----------
    name
        File name or label, for tables.
    pixels
        uint8 (H, W, 3), RGB. A grey picture has three equal planes.
    grey
        The original has one plane.
    losses
        What of the original is not in the pixels, for people to be told.
    """

    name: str
    pixels: NDArray[np.uint8]
    grey: bool = False
    losses: tuple[str, ...] = ()

    @property
    def height(self) -> int:
        """Rows."""
        return int(self.pixels.shape[0])

    @property
    def width(self) -> int:
        """Columns."""
        return int(self.pixels.shape[1])

    @property
    def pixel_count(self) -> int:
        """Rows × columns: what bits per pixel divides by, padding never counted."""
        return self.height * self.width

    def to_pil(self) -> Image.Image:
        """The picture as a PIL image, mode ``L`` or ``RGB``."""
        return Image.fromarray(self.pixels[..., 0] if self.grey else self.pixels)


def _refusal(image: Image.Image) -> str | None:
    """Why this image can't be coded, or ``None``."""
    # Telephones append previews to a JPEG (MPO); the first picture is the one that was taken.
    if getattr(image, "n_frames", 1) > 1 and image.format != "MPO":
        return "is animated or has several pages; extract one frame first"
    if image.mode.startswith(("I", "F")):
        return f"has more than 8 bits per sample (mode {image.mode}); convert it to 8 bits first"
    if image.mode in ("CMYK", "YCCK"):
        return "is CMYK; convert it to RGB first"
    if image.mode not in ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "YCbCr"):
        return f"has the unsupported colour mode {image.mode}; convert it to RGB first"
    if _bits_per_sample(image) > 8:
        return "has more than 8 bits per sample; convert it to 8 bits first"
    return too_large(image.width, image.height)


def _bits_per_sample(image: Image.Image) -> int:
    """8, or more for files that Pillow would silently cut to 8 bits when it loads them."""
    for tile in getattr(image, "tile", None) or []:
        args = tile[3] if isinstance(tile[3], tuple) else (tile[3],)
        # BMP's "BGR;16" is 16 bits for a whole pixel.
        if any(isinstance(arg, str) and ";16" in arg and arg != "BGR;16" for arg in args):
            return 16
        if tile[0] == "ppm" and isinstance(args[-1], int) and args[-1] > 255:
            return 16
        if tile[0] == "jpeg2k":
            return _bits_of_codestream(image)
    return 8


def _bits_of_codestream(image: Image.Image) -> int:
    """Bits of a sample of a JPEG 2000 file that has not been loaded (ISO 15444-1, A.5.1)."""
    stream: IO[bytes] = getattr(image, "fp")  # noqa: B009  (of files alone)
    place = stream.tell()
    stream.seek(0)
    _, _, sizes = stream.read().partition(b"\xff\x4f\xff\x51")
    stream.seek(place)
    count = int.from_bytes(sizes[36:38], "big")
    return max(((depth & 0x7F) + 1 for depth in sizes[38 : 38 + 3 * count : 3]), default=8)


def too_large(width: int, height: int) -> str | None:
    """Why a picture of this size is not supported, or ``None``."""
    if width * height > MAX_PIXELS:
        return f"has {width}×{height} pixels; at most {MAX_PIXELS:,} are supported"
    if max(width, height) > MAX_SIDE:
        return f"has {width}×{height} pixels; a side may have {MAX_SIDE:,} at most"
    return None


#: A path; a PIL image; a uint8 array (H, W) or (H, W, 3); a uint8 tensor, also (3, H, W); the bytes
#: of a picture's file, or a binary stream of them; a :class:`Picture`.
ImageLike: TypeAlias = (
    "str | os.PathLike[str] | Image.Image | NDArray[np.uint8] | torch.Tensor | bytes | bytearray "
    "| memoryview | IO[bytes] | Picture"
)


def to_picture(image: Picture | Image.Image | NDArray[np.uint8], name: str = "image") -> Picture:
    """Turn a PIL image or a uint8 array into a :class:`Picture`.

    Parameters
    ----------
    image
        A PIL image, or an array of shape (H, W), (H, W, 1) or (H, W, 3) and dtype uint8.
    name
        Label for tables and messages.

    Raises
    ------
    ImageError
        For alpha that is not fully opaque, more than 8 bits, CMYK, animations, empty and very
        large pictures, and arrays of another shape or dtype.
    """
    if isinstance(image, Picture):
        reason = too_large(image.width, image.height)
        if reason:
            raise ImageError(f"{image.name}: {reason}")
        return image
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8:
            raise ImageError(f"{name}: an array must have dtype uint8, not {image.dtype}")
        if image.ndim == 3 and image.shape[2] == 1:
            image = image[..., 0]
        if image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] != 3):
            raise ImageError(f"{name}: an array must be (H, W) or (H, W, 3), not {image.shape}")
        if image.size == 0:
            raise ImageError(f"{name}: has no pixels")
        reason = too_large(image.shape[1], image.shape[0])
        if reason:
            raise ImageError(f"{name}: {reason}")
        grey = image.ndim == 2
        rgb = np.repeat(image[..., None], 3, axis=2) if grey else image
        return Picture(name, np.ascontiguousarray(rgb), grey)
    reason = _refusal(image)
    if reason:
        raise ImageError(f"{name}: {reason}")
    transparent = image.mode in ("LA", "PA", "RGBA") or "transparency" in image.info
    if transparent:
        lowest = image.convert("RGBA").getchannel("A").getextrema()[0]
        if isinstance(lowest, (int, float)) and lowest < 255:
            raise ImageError(f"{name}: has transparency, which can't be coded; flatten it first")
    grey = image.mode in ("1", "L", "LA")
    return replace(to_picture(_pixels_of(image, grey), name), losses=_losses(image))


def _pixels_of(image: Image.Image, grey: bool) -> NDArray[np.uint8]:
    """Pixels (H, W) or (H, W, 3), in bands of rows: each step would copy all of them otherwise."""
    width, height = image.size
    pixels = np.empty((height, width) if grey else (height, width, 3), np.uint8)
    for top in range(0, height, _BAND):
        bottom = min(top + _BAND, height)
        band = image.crop((0, top, width, bottom))
        pixels[top:bottom] = np.asarray(band.convert("L" if grey else "RGB"))
    return pixels


def _losses(image: Image.Image) -> tuple[str, ...]:
    """What a stream doesn't carry of this image, beside metadata."""
    profile = image.info.get("icc_profile")
    if not isinstance(profile, bytes) or not profile:
        return ()
    try:
        described = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        title = " ".join(ImageCms.getProfileDescription(described).split())
    except (ImageCms.PyCMSError, OSError, ValueError):
        title = "damaged"
    # Pixels without a profile are taken for sRGB wherever they are shown.
    return () if title.startswith("sRGB") else (f"colour profile ({title[:80]})",)


_quiet_lock = threading.Lock()
_quiet_users = 0
_quiet_filter: Any = None
_pillows_limit: int | None = None


@contextmanager
def quiet_pillow() -> Iterator[None]:
    """Pillow's warnings ignored, and its limit of pixels ours, while any thread is in here.

    ``warnings.catch_warnings`` swaps the filters of the whole process: two threads that leave in
    the order in which they entered would bring back each other's.
    """
    global _quiet_users, _quiet_filter, _pillows_limit
    with _quiet_lock:
        if _quiet_users == 0:
            warnings.filterwarnings("ignore", module=r"PIL\.")
            _quiet_filter = warnings.filters[0]
            _pillows_limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, MAX_PIXELS
        _quiet_users += 1
    try:
        yield
    finally:
        with _quiet_lock:
            _quiet_users -= 1
            filters: Any = warnings.filters
            if _quiet_users == 0:
                Image.MAX_IMAGE_PIXELS = _pillows_limit
                if _quiet_filter in filters:
                    filters.remove(_quiet_filter)


@contextmanager
def _readable(name: str) -> Iterator[None]:
    """Whatever is wrong with a picture's file, in one line."""
    try:
        yield
    except UnidentifiedImageError:
        raise ImageError(f"{name}: is not a picture in a supported format") from None
    except Image.DecompressionBombError:
        raise ImageError(f"{name}: at most {MAX_PIXELS:,} pixels are supported") from None
    except FileNotFoundError:
        raise ImageError(f"{name}: no such file or folder") from None
    except (ImageError, MemoryError):
        raise
    except Exception as error:  # damaged files make Pillow's readers raise nearly anything
        detail = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ImageError(f"{name}: can't be read ({detail})") from None


def _read(source: Path | io.BytesIO, name: str) -> Picture:
    # Pillow warns of large and odd files; the limits here and the checks below decide.
    with _readable(name), quiet_pillow(), Image.open(source, formats=_FORMATS) as image:
        reason = _refusal(image)
        if reason:
            raise ImageError(f"{name}: {reason}")
        ImageOps.exif_transpose(image, in_place=True)
        return to_picture(image, name)


def load_picture(path: str | os.PathLike[str]) -> Picture:
    """Read a picture file, turned upright by its EXIF orientation.

    Raises
    ------
    ImageError
        If the file is missing, unreadable, cut, or of a kind :func:`to_picture` refuses.
    """
    path = Path(path)
    try:
        if path.exists() and not path.is_file():
            raise ImageError(f"{path}: is not a file")
    except OSError as error:
        raise ImageError(f"{path}: can't be read ({error})") from None
    return _read(path, str(path))


def decode_picture(data: bytes, name: str) -> Picture:
    """Read a picture from the bytes of its file, as :func:`load_picture` does.

    Raises
    ------
    ImageError
        As :func:`load_picture`.
    """
    return _read(io.BytesIO(data), name)


def bytes_in(item: object) -> bytes | None:
    """Bytes, or what a binary stream still holds; None of anything else.

    Raises
    ------
    ImageError
        If a stream can't be read.
    """
    if isinstance(item, bytes | bytearray | memoryview):
        return bytes(item)
    read = getattr(item, "read", None)
    if not callable(read):
        return None
    try:
        found = read()
    except (OSError, ValueError) as error:  # closed, say
        raise ImageError(f"{type(item).__name__}: can't be read ({error})") from None
    return found if isinstance(found, bytes) else None


def _is_tensor(item: object) -> TypeGuard[torch.Tensor]:
    """Without importing torch: where there is a tensor, that has been done."""
    module = sys.modules.get("torch")
    return module is not None and isinstance(item, module.Tensor)


def _array_of(tensor: torch.Tensor, name: str) -> NDArray[np.uint8]:
    """Pixels of a uint8 tensor as (H, W) or (H, W, C), where it is clear which axes these are."""
    kind = str(tensor.dtype).removeprefix("torch.")
    if kind != "uint8":
        raise ImageError(
            f"{name}: a tensor must have dtype uint8, not {kind}; of values in [0, 1] pass "
            "(x * 255).round().clamp(0, 255).to(torch.uint8)"
        )
    pixels: NDArray[np.uint8] = tensor.detach().cpu().numpy()
    if pixels.ndim != 3 or pixels.shape[0] not in (1, 3):
        return pixels
    if pixels.shape[2] in (1, 3):
        shape = tuple(pixels.shape)
        raise ImageError(f"{name}: a tensor {shape} may lie either way; pass an array (H, W, 3)")
    return pixels.transpose(1, 2, 0)


def as_picture(item: ImageLike, name: str = "image") -> Picture:
    """A picture from whatever a user may hand over: see :data:`ImageLike`.

    Raises
    ------
    ImageError
        As :func:`load_picture` and :func:`to_picture`, and for anything else.
    """
    if isinstance(item, str | os.PathLike):
        return load_picture(item)
    if isinstance(item, Image.Image):
        with _readable(name):  # its file may not have been, so far
            return to_picture(item, name)
    if isinstance(item, Picture | np.ndarray):
        return to_picture(item, name)
    if _is_tensor(item):
        return to_picture(_array_of(item, name), name)
    data = bytes_in(item)
    if data is None:
        raise ImageError(
            f"{name}: {type(item).__name__} is no picture; pass a path, a PIL image, a uint8 array "
            "or tensor, or the bytes of a picture's file"
        )
    return decode_picture(data, name)


def pictures_in(images: ImageLike | Iterable[ImageLike]) -> list[ImageLike]:
    """All that was handed over, one by one: of folders and globs the files, of streams the bytes.

    A file that is named more than once is there once, as on the command line.

    Raises
    ------
    ImageError
        As :func:`find_images`.
    """
    alone = isinstance(
        images, str | os.PathLike | Image.Image | np.ndarray | Picture | bytes | bytearray
    )
    if alone or _is_tensor(images) or hasattr(images, "read") or not isinstance(images, Iterable):
        images = [cast(ImageLike, images)]
    found: list[ImageLike] = []
    files: set[str] = set()
    for item in cast("Iterable[ImageLike]", images):
        if isinstance(item, str | os.PathLike):
            for path in find_images([item]):
                place = os.path.abspath(path)
                if place not in files:
                    files.add(place)
                    found.append(path)
        else:
            data = bytes_in(item)
            found.append(item if data is None else data)
    return found


def find_images(paths: Iterable[str | os.PathLike[str]]) -> list[Path]:
    """Picture files behind files, folders (searched to any depth) and globs, sorted, once each.

    Raises
    ------
    ImageError
        If a path doesn't exist, a glob matches nothing, or a folder holds no picture.
    """
    found: dict[str, Path] = {}
    for item in paths:
        path = Path(item)
        if os.path.isdir(path):  # unlike the methods of Path, no error for names that are too long
            inside = _pictures_at(path)
            if not inside:
                raise ImageError(f"{path}: no pictures in this folder")
        elif os.path.exists(path):
            inside = [path]
        else:
            matched = [Path(p) for p in sorted(glob.glob(str(item), recursive=True))]
            if not matched:
                raise ImageError(f"{path}: no such file or folder")
            inside = [p for one in matched for p in _pictures_at(one)]
            if not inside:
                raise ImageError(f"{path}: no pictures there")
        for one in inside:
            found.setdefault(os.path.abspath(one), one)
    return list(found.values())


def _pictures_at(path: Path) -> list[Path]:
    """The picture at a path, or those of a folder; nothing for other files."""
    found = sorted(path.rglob("*")) if os.path.isdir(path) else [path]
    return [p for p in found if p.suffix.lower() in IMAGE_SUFFIXES and p.is_file()]


def sample_pictures(names: Sequence[str] = _SAMPLES) -> list[Picture]:
    """The built-in sample photographs, which scikit-image's wheel carries."""
    import skimage.data

    pictures = []
    for name in names:
        pixels = np.ascontiguousarray(getattr(skimage.data, name)())
        pictures.append(Picture(f"sample:{name}", pixels))
    return pictures
