"""The codec that is shipped, on photographs it has never seen."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import waterfill as wf
from waterfill.codec.model import Codec
from waterfill.data.images import Picture, find_images, load_picture, sample_pictures
from waterfill.evaluation.conventional import CONVENTIONAL
from waterfill.evaluation.metrics import psnr

QUALITIES = range(1, 9)


@pytest.fixture(scope="module")
def bundled() -> Codec:
    return wf.load_codec()


def code_everywhere(codec: Codec, pictures: list[Picture]) -> list[tuple[float, float]]:
    """Mean (bpp, PSNR) at each quality; every file is checked on the way."""
    curve = []
    for quality in QUALITIES:
        cells = []
        for picture in pictures:
            latents = codec.latents(picture, quality)
            data = codec.pack(picture, [latents], quality)
            symbols = latents.quantised
            ideal = (symbols.bits.sum() + latents.side_bits) / 8
            assert ideal <= len(data) <= 1.005 * ideal + 64
            decoded = np.asarray(wf.decompress(data, codec=codec))
            y_hat = symbols.y_hat
            seen = codec.synthesise(y_hat, quality, picture.height, picture.width)
            assert np.array_equal(decoded, seen)
            cells.append((8 * len(data) / picture.pixel_count, psnr(picture.pixels, decoded)))
        curve.append(tuple(float(v) for v in np.mean(cells, axis=0)))
    return curve  # type: ignore[return-value]


def jpeg_curve(pictures: list[Picture]) -> list[tuple[float, float]]:
    jpeg = CONVENTIONAL["jpeg"]

    def point(setting: Any) -> tuple[float, float]:
        cells = []
        for picture in pictures:
            size, decoded = jpeg.code(picture, setting)
            cells.append((8 * size / picture.pixel_count, psnr(picture.pixels, decoded.pixels)))
        bpp, quality = np.mean(cells, axis=0)
        return float(bpp), float(quality)

    return [point(setting) for setting in jpeg.settings]


def test_bundled_codec_beats_jpeg_on_a_sample(bundled: Codec) -> None:
    (picture,) = sample_pictures(["coffee"])
    crop = Picture("coffee", np.ascontiguousarray(picture.pixels[50:306, 150:406]))
    curve = code_everywhere(bundled, [crop])
    assert [bpp for bpp, _ in curve] == sorted(bpp for bpp, _ in curve)
    assert [quality for _, quality in curve] == sorted(quality for _, quality in curve)
    assert wf.bd_rate(jpeg_curve([crop]), curve) < 0


def test_bundled_weights_say_where_they_come_from() -> None:
    from importlib import resources

    from waterfill.codec.registry import read_codec

    data = (resources.files("waterfill.codec") / "weights/default.safetensors").read_bytes()
    assert len(data) < 12_000_000  # the wheel is to stay below 20 MB
    codec, facts = read_codec(data, "default")
    assert codec.config.n >= 64
    assert codec.config.m >= 96
    assert int(facts["steps"]) > 0
    assert {"seconds", "training", "validation"} <= set(facts)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_bundled_codec_is_below_jpeg_on_kodak(bundled: Codec) -> None:
    folder = os.environ.get("WATERFILL_KODAK")
    if not folder or not Path(folder).is_dir():
        pytest.skip("WATERFILL_KODAK names no folder of the Kodak photographs")
    pictures = [load_picture(path) for path in find_images([folder])]
    assert wf.bd_rate(jpeg_curve(pictures), code_everywhere(bundled, pictures)) < -30
