"""Held-back pictures: which part of them is measured, and what is said of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from waterfill.codec.channels import Rounding
from waterfill.codec.config import CodecConfig
from waterfill.codec.model import Codec
from waterfill.codec.noise import Noise
from waterfill.data.sets import PictureFiles
from waterfill.training.config import TrainConfig
from waterfill.training.objectives import objective_of
from waterfill.training.validation import Validation

CONFIG = TrainConfig(codec=CodecConfig(n=4, m=6, hyper=4))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    pixels = np.random.default_rng(0).integers(0, 256, (80, 110, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    return tmp_path / "a.png"


@torch.no_grad()
def test_the_middle_is_measured_at_both_ends_of_the_range_and_between(path: Path) -> None:
    torch.manual_seed(0)
    codec = Codec(CONFIG.codec)
    validation = Validation(PictureFiles([path]), CONFIG)
    found = validation(objective_of(CONFIG, codec), codec, torch.device("cpu"))
    middle = np.asarray(Image.open(path))[8:72, 23:87].transpose(2, 0, 1)[None] / 255.0
    x = torch.from_numpy(middle).float()
    decibels, errors = [], []
    for quality in (1.0, 4.5, 8.0):
        passage = codec(x, torch.tensor([quality]), Rounding(), Noise([0]))
        error = float((passage.x_hat - x).double().square().mean())
        decibels.append(10.0 * np.log10(1.0 / error))
        errors.append(error)
        assert found[f"psnr@{quality:g}"] == pytest.approx(decibels[-1], rel=1e-5)
        bits = float(passage.y_bits + passage.z_bits)
        assert found[f"bpp@{quality:g}"] == pytest.approx(bits / 64**2, rel=1e-5)
    assert found["psnr"] == pytest.approx(np.mean(decibels), rel=1e-5)
    assert found["mse"] == pytest.approx(np.mean(errors), rel=1e-5)
    assert sum("@" in name for name in found) == 6


@pytest.mark.parametrize(("distortion", "sides"), [("mse", (64, 64)), ("ms-ssim", (192, 192))])
def test_a_small_picture_fills_what_its_distortion_needs(
    path: Path, distortion: str, sides: tuple[int, int]
) -> None:
    config = CONFIG.with_values({"distortion": distortion, "crop": 192})
    (crop,) = Validation(PictureFiles([path]), config).crops
    assert crop.shape == (1, 3, *sides)
