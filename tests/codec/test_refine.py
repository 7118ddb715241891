"""Rate–distortion-optimised rounding: never worse than rounding, and decoded like any stream."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from known_scale import gaussian_latents
from numpy.typing import NDArray
from PIL import Image

import waterfill as wf
from waterfill.bitstream import Rows, gaussian_tables
from waterfill.cli import run
from waterfill.codec.gains import lambda_of_quality
from waterfill.codec.latents import Quantised
from waterfill.codec.model import Codec
from waterfill.codec.refine import refine
from waterfill.data.images import sample_pictures


@pytest.mark.parametrize("log2_sigma", [-1.0, 0.0, 2.0])
def test_of_an_orthonormal_transform_the_optimum_is_known(log2_sigma: float) -> None:
    latents = gaussian_latents(log2_sigma, (3, 64, 64))
    y = latents.y
    per_error = 4.0  # bits per squared step: coarse, so that zeros pay
    price = per_error * 3 / 255.0**2

    def cost(symbols: NDArray[np.int32], bits: NDArray[np.float64]) -> float:
        return float(bits.sum() + per_error * ((symbols - y.numpy()) ** 2).sum())

    rows = Rows(gaussian_tables(), np.full(y.shape, round((log2_sigma + 4) * 16)))
    nearest = np.round(y.numpy()).astype(np.int32)
    options = [nearest + k for k in (-2, -1, 0, 1, 2)]
    each = [rows.bits(k) + per_error * (k - y.numpy()) ** 2 for k in options]
    optimum = float(np.minimum.reduce(each).sum())
    rounding = cost(nearest, rows.bits(nearest))
    found = refine(latents, lambda y_hat: y_hat, y, price, passes=40)
    reached = cost(found.symbols, found.bits)
    assert optimum - 1e-3 <= reached <= rounding + 1e-6
    # Caution leaves what hardly pays.
    assert rounding - reached > 0.9 * (rounding - optimum)
    assert rounding - optimum > 0


def cost_of(codec: Codec, pixels: NDArray[np.uint8], chosen: Quantised, quality: float) -> float:
    shown = codec.reconstruct(chosen.y_hat, quality)[:, : len(pixels), : pixels.shape[1]].detach()
    x = torch.from_numpy(pixels).permute(2, 0, 1) / 255
    mse = float((shown - x).square().mean())
    distortion = lambda_of_quality(quality) * 255**2 * mse
    return float(chosen.bits.sum()) / (pixels.size / 3) + distortion


@pytest.mark.parametrize("quality", [2.0, 6.0])
def test_the_bundled_codec_gains(quality: float) -> None:
    codec = wf.load_codec()
    (picture,) = sample_pictures(["coffee"])
    pixels = np.ascontiguousarray(picture.pixels[50:178, 150:278])
    costs = []
    for effort in (0, 2, 8):
        (latents,) = codec.tiles(pixels, quality, effort=effort)
        costs.append(cost_of(codec, pixels, latents.quantised, quality))
    assert costs[2] <= costs[1] <= costs[0]
    assert costs[2] < 0.995 * costs[0]


def test_its_streams_decode_to_what_was_chosen(photo: NDArray[np.uint8]) -> None:
    codec = wf.load_codec()
    pixels = photo[:100, :140]
    (latents,) = codec.tiles(pixels, 4.0, effort=3)
    assert latents.chosen is not None
    assert (latents.chosen.symbols != codec.latents(pixels, 4.0).quantised.symbols).any()
    data = codec.compress(pixels, 4.0, effort=3)
    expected = codec.synthesise(latents.chosen.y_hat, 4.0, 100, 140)
    assert np.array_equal(np.asarray(wf.decompress(data)), expected)
    ideal = (latents.chosen.bits.sum() + latents.side_bits) / 8
    assert ideal <= len(data) <= 1.005 * ideal + 64


def test_without_a_pass_it_is_rounding(tiny: Codec, photo: NDArray[np.uint8]) -> None:
    latents = tiny.latents(photo[:64, :64], 4)
    x = torch.from_numpy(photo[:64, :64]).permute(2, 0, 1) / 255
    found = refine(latents, lambda y: tiny.reconstruct(y, 4), x, 0.01, passes=0)
    assert np.array_equal(found.symbols, latents.quantised.symbols)
    assert math.isfinite(found.bits.sum())


@pytest.mark.parametrize("effort", [-1, 10**9])
def test_an_effort_that_is_none_is_refused(
    tiny: Codec, photo: NDArray[np.uint8], effort: int
) -> None:
    with pytest.raises(wf.QualityError, match="effort"):
        tiny.compress(photo, 4, effort=effort)


def test_the_command_takes_an_effort(tmp_path: Path, photo: NDArray[np.uint8]) -> None:
    Image.fromarray(photo[:64, :64]).save(tmp_path / "a.png")
    out = tmp_path / "a.wfl"
    assert run(["compress", str(tmp_path / "a.png"), str(out), "--effort", "2"]) == 0
    assert run(["decompress", str(out), str(tmp_path / "b.png")]) == 0
    assert run(["compress", str(tmp_path / "a.png"), str(out), "--effort", "-2"]) == 2
