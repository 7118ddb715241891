"""Conventional codecs: what they write is what is measured, and what is missing is said."""

from __future__ import annotations

import importlib
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, features
from skimage.color import rgb2ycbcr

from waterfill.data.images import Picture
from waterfill.errors import CodecError
from waterfill.evaluation import coders
from waterfill.evaluation.colour import Colour
from waterfill.evaluation.conventional import CONVENTIONAL, Conventional, conventional, missing
from waterfill.evaluation.metrics import psnr


@pytest.fixture(scope="module")
def odd(photo: NDArray[np.uint8]) -> Picture:
    """A small piece, odd in both directions."""
    return Picture("odd", np.ascontiguousarray(photo[20:101, 30:125]))


@pytest.mark.parametrize("name", list(CONVENTIONAL))
def test_rate_and_quality_rise_along_the_settings(name: str, odd: Picture) -> None:
    absent = missing()
    if name in absent:
        pytest.skip(absent[name])
    codec = conventional(name)
    chosen = codec.settings[:: (len(codec.settings) - 1) // 2]
    found = []
    for setting in chosen:
        size, decoded = codec.code(odd, setting)
        assert decoded.pixels.shape == odd.pixels.shape
        assert decoded.pixels.dtype == np.uint8
        found.append((size, psnr(odd.pixels, decoded.pixels)))
    assert found == sorted(found)
    assert found[0][0] < found[-1][0]
    assert found[-1][1] > 27
    assert any(character.isdigit() for character in codec.version())
    grey = Picture("grey", np.repeat(odd.pixels[..., :1], 3, axis=2), grey=True)
    _, decoded = codec.code(grey, chosen[-1])
    assert psnr(grey.pixels, decoded.pixels) > 27


@pytest.mark.parametrize(
    ("format", "name"), [("JPEG", "jpeg"), ("WEBP", "webp"), ("JPEG2000", "jpeg2000")]
)
def test_a_file_is_what_pillow_writes_and_shows(format: str, name: str, odd: Picture) -> None:
    codec = CONVENTIONAL[name]
    data = codec.encode(odd, codec.settings[4])
    with Image.open(BytesIO(data)) as shown:
        assert shown.format == format
        pixels = np.array(shown.convert("RGB"))
    size, decoded = codec.code(odd, codec.settings[4])
    assert size == len(data)
    assert np.array_equal(decoded.pixels, pixels)


def test_jpeg_2000_decorrelates_colours(photo: NDArray[np.uint8]) -> None:
    """Grey in three planes costs what grey in one does, only behind a colour transform."""
    codec = CONVENTIONAL["jpeg2000"]
    grey = np.repeat(photo[..., :1], 3, axis=2)
    setting = dict(codec.settings[6])
    _, three = codec.code(Picture("rgb", grey), setting)
    _, apart = codec.code(Picture("rgb", grey), setting | {"mct": 0})
    assert psnr(grey, three.pixels) > psnr(grey, apart.pixels) + 3


def test_names_of_jpeg_say_their_subsampling(odd: Picture) -> None:
    from PIL.JpegImagePlugin import get_sampling

    for name, expected in (("jpeg", 2), ("jpeg-444", 0)):
        data = CONVENTIONAL[name].encode(odd, CONVENTIONAL[name].settings[3])
        with Image.open(BytesIO(data)) as shown:
            assert get_sampling(shown) == expected


def test_colour_conversion_equals_independent_ones(photo: NDArray[np.uint8]) -> None:
    planes = Colour(chroma="4:4:4").planes(photo)
    pillow = np.asarray(Image.fromarray(photo).convert("YCbCr"), dtype=np.int64)
    for plane, expected in zip(planes, np.moveaxis(pillow, 2, 0), strict=True):
        # Pillow's tables are in fixed point.
        assert np.abs(plane.astype(np.int64) - expected).max() <= 1
    limited = Colour(chroma="4:4:4", limited=True).planes(photo)
    for plane, expected in zip(limited, np.moveaxis(rgb2ycbcr(photo), 2, 0), strict=True):
        assert np.abs(plane - expected).max() <= 0.51


@pytest.mark.parametrize("matrix", ["BT.601", "BT.709"])
@pytest.mark.parametrize("limited", [False, True])
def test_conversion_loses_little_and_nothing_where_bits_suffice(
    photo: NDArray[np.uint8], matrix: Any, limited: bool
) -> None:
    def left(bits: int, chroma: Any) -> float:
        return psnr(photo, Colour(matrix, bits, chroma, limited).round_trip(photo))

    assert left(10, "4:4:4") > 60
    assert left(12, "4:4:4") == np.inf
    assert 48 < left(8, "4:4:4") < left(10, "4:4:4")
    assert left(8, "4:2:0") < left(8, "4:4:4")
    flat = np.full((6, 8, 3), (200, 30, 90), np.uint8)
    assert psnr(flat, Colour(matrix, 10, "4:2:0", limited).round_trip(flat)) == np.inf


@pytest.mark.parametrize("name", ["jpeg", "jpeg-444", "webp"])
def test_no_codec_shows_more_than_its_ceiling(name: str, odd: Picture) -> None:
    codec = CONVENTIONAL[name]
    best = dict(codec.settings[-1]) | {"quality": 100}
    _, decoded = codec.code(odd, best)
    ceiling = psnr(odd.pixels, codec.ceiling(odd))
    # Chroma filters differ a little from library to library.
    assert psnr(odd.pixels, decoded.pixels) < ceiling + 0.5
    assert np.array_equal(CONVENTIONAL["jpeg2000"].ceiling(odd), odd.pixels)


def test_a_picture_beyond_a_library_is_refused_in_one_line_that_names_both() -> None:
    wide = Picture("wide", np.zeros((2, 20_000, 3), np.uint8))
    with pytest.raises(CodecError, match=r"^webp can't code wide: .*16383") as caught:
        CONVENTIONAL["webp"].code(wide, CONVENTIONAL["webp"].settings[0])
    assert "\n" not in str(caught.value)


def test_a_picture_beyond_pillows_limit_is_read_back(
    odd: Picture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Own codecs take larger ones than Pillow opens without being told."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    jpeg = conventional("jpeg")
    assert jpeg.code(odd, jpeg.settings[0])[1].pixels.shape == odd.pixels.shape


@pytest.mark.parametrize("error", [OSError, ValueError, RuntimeError])
def test_whatever_a_library_throws_is_refused(error: type[Exception], odd: Picture) -> None:
    class Failing:
        def version(self) -> str:
            return "0"

        def encode(self, picture: Picture, setting: Any) -> bytes:
            raise error("no reason")

        def decode(self, data: bytes, height: int, width: int) -> Any:
            raise error("no reason")

    codec = Conventional("failing", "", ({},), Failing())
    with pytest.raises(CodecError, match="failing can't code odd: no reason"):
        codec.encode(odd, {})
    with pytest.raises(CodecError, match="failing can't code a file of 3×2 pixels: no reason"):
        codec.decode(b"", 2, 3)


def test_an_unknown_codec_is_refused_in_one_line() -> None:
    with pytest.raises(CodecError, match="'jpgxl'; did you mean jpeg-xl") as refusal:
        conventional("jpgxl")
    assert "\n" not in str(refusal.value)
    with pytest.raises(CodecError, match="there are jpeg, jpeg-plain"):
        conventional("zzz")
    assert conventional("JPEG") is CONVENTIONAL["jpeg"]


def test_a_missing_library_is_refused_in_one_line_that_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real = importlib.import_module

    def without(name: str, package: str | None = None) -> Any:
        if name in ("pillow_heif", "imagecodecs", "imageio_ffmpeg"):
            raise ImportError(name)
        return real(name, package)

    monkeypatch.setattr(importlib, "import_module", without)
    monkeypatch.setattr(features, "check", lambda name: name != "avif")
    coders._ffmpeg.cache_clear()
    coders._ffmpeg_version.cache_clear()
    found = missing()
    coders._ffmpeg.cache_clear()
    assert set(found) == {"avif", "avif-444", "heic", "jpeg-xl", "vvc", "x265-444"}
    for line in found.values():
        assert "install" in line
        assert "\n" not in line
    assert "pip install 'waterfill[codecs]'" in found["heic"]
    with pytest.raises(CodecError, match="needs imagecodecs"):
        conventional("jpeg-xl")
