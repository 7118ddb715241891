"""Streams with a trellis: decoded like any other, smaller, and refused where they can't be."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from family import FAMILY, member
from known_scale import gaussian_latents
from numpy.typing import NDArray
from PIL import Image

import waterfill as wf
from waterfill.bitstream import Container, Rows, Trellis, gaussian_tables
from waterfill.cli import run
from waterfill.codec.gains import lambda_of_quality
from waterfill.codec.model import Codec
from waterfill.codec.noise import Noise
from waterfill.codec.refine import refine
from waterfill.codec.trellis import TrellisCoded, near
from waterfill.data.images import MAX_PIXELS, sample_pictures

GAUSSIAN = [name for name in FAMILY if name not in ("factorized", "attention", "digits")]


@pytest.mark.parametrize(
    ("name", "effort"), [*((name, 0) for name in GAUSSIAN), ("masked", 2), ("klt", 2)]
)
def test_streams_decode_to_the_encoders_pixels(
    name: str, effort: int, photo: NDArray[np.uint8]
) -> None:
    codec = member(name)
    pixels = np.ascontiguousarray(photo[:70, :90])
    quality = codec.check_quality(None)
    (latents,) = codec.tiles(pixels, quality, effort=effort, trellis=True)
    data = codec.compress(pixels, quality, effort=effort, trellis=True)
    expected = codec.synthesise(latents.quantised.y_hat, quality, 70, 90)
    assert np.array_equal(np.asarray(wf.decompress(data, codec=codec)), expected)
    ideal = (latents.quantised.bits.sum() + latents.side_bits) / 8
    assert ideal - 1 <= len(data) <= 1.005 * ideal + 64


def test_tiles_decode_too(photo: NDArray[np.uint8]) -> None:
    codec = member("klt")
    codec.tile = 64
    pixels = np.ascontiguousarray(photo[:100, :140])
    data = codec.compress(pixels, 5.0, trellis=True)
    tiles = [tile.quantised.y_hat for tile in codec.tiles(pixels, 5.0, trellis=True)]
    assert len(tiles) == 6
    expected = codec.assemble(tiles, 5.0, 100, 140)
    assert np.array_equal(np.asarray(wf.decompress(data, codec=codec)), expected)


def cost_of(pixels: NDArray[np.uint8], data: bytes, quality: float) -> float:
    mse = float(np.mean((np.asarray(wf.decompress(data)).astype(float) - pixels) ** 2))
    return 8 * len(data) / (pixels.size / 3) + lambda_of_quality(quality) * mse


@pytest.mark.parametrize("quality", [pytest.param(3.0, marks=pytest.mark.slow), 7.0])
def test_the_bundled_codec_gains(quality: float) -> None:
    codec = wf.load_codec()
    (picture,) = sample_pictures(["coffee"])
    pixels = np.ascontiguousarray(picture.pixels[50:178, 150:278])
    rounded, trellised, both = (
        cost_of(pixels, codec.compress(pixels, quality, effort=effort, trellis=trellis), quality)
        for effort, trellis in ((0, False), (0, True), (3, True))
    )
    assert both < trellised < 0.995 * rounded


def test_known_latents_gain_what_the_channel_says() -> None:
    latents = dataclasses.replace(gaussian_latents(1.0, (8, 32, 32)), trellis=True)
    coded = latents.quantised
    arrival = latents.through(TrellisCoded(), Noise(0))
    assert torch.equal(arrival.y_hat, coded.y_hat)
    np.testing.assert_allclose(arrival.bits.numpy(), coded.bits, rtol=1e-6)


def test_refinement_never_costs(tiny: Codec, photo: NDArray[np.uint8]) -> None:
    latents = dataclasses.replace(tiny.latents(photo[:96, :96], 6), trellis=True)
    x = torch.from_numpy(photo[:96, :96]).permute(2, 0, 1) / 255
    price = lambda_of_quality(6)
    costs = []
    for passes in (0, 2, 5):
        found = refine(latents, lambda y: tiny.reconstruct(y, 6), x, price, passes=passes)
        with torch.no_grad():
            error = float((tiny.reconstruct(found.y_hat, 6)[:, :96, :96] - x).square().sum())
        costs.append(float(found.bits.sum()) + price * 255.0**2 / 3 * error)
    assert costs[2] <= costs[1] <= costs[0]
    assert math.isfinite(costs[0])


@pytest.mark.parametrize("name", ["factorized", "attention"])
def test_priors_that_are_not_gaussian_are_refused(name: str, photo: NDArray[np.uint8]) -> None:
    codec = member(name)
    with pytest.raises(wf.CodecError, match="trellis"):
        codec.compress(photo, trellis=True)
    plain = Container.unpack(codec.compress(photo[:64, :64]), max_pixels=MAX_PIXELS)
    header = dataclasses.replace(plain.header, trellis=True)
    with pytest.raises(wf.BitstreamError, match="trellis"):
        wf.decompress(Container(header, plain.sections).pack(), codec=codec)


def test_a_stream_of_rounding_is_not_taken_for_one_of_a_trellis(
    tiny: Codec, photo: NDArray[np.uint8]
) -> None:
    plain = Container.unpack(tiny.compress(photo, 8), max_pixels=MAX_PIXELS)
    header = dataclasses.replace(plain.header, trellis=True)
    with pytest.raises(wf.BitstreamError):
        wf.decompress(Container(header, plain.sections).pack(), codec=tiny)


def test_the_command_says_what_a_stream_holds(
    tmp_path: Path, photo: NDArray[np.uint8], capsys: pytest.CaptureFixture[str]
) -> None:
    Image.fromarray(photo[:64, :64]).save(tmp_path / "a.png")
    for flags, kind in (([], "rounding"), (["--trellis"], "trellis")):
        out = str(tmp_path / "a.wfl")
        assert run(["compress", str(tmp_path / "a.png"), out, *flags]) == 0
        assert run(["decompress", out, str(tmp_path / "b.png")]) == 0
        capsys.readouterr()
        assert run(["info", out]) == 0
        assert f"quantiser  {kind}" in capsys.readouterr().out


@pytest.mark.parametrize("row", [10, 120])
def test_latents_beyond_all_symbols_keep_their_sign_and_none_is_no_number(row: int) -> None:
    trellis = Trellis(Rows(gaussian_tables(), np.full((1, 1, 3), row, np.int64)))
    low, high, small = near(trellis, np.array([[[-5e9, 5e9, 0.1]]])).ravel()
    assert low < -(1 << 28) < 1 << 28 < high
    assert small == 0
    with pytest.raises(wf.CodecError, match="not finite"):
        near(trellis, np.array([[[np.nan, 0.0, 0.0]]]))
