"""Held-back pictures, measured as the bitstream would code them."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from waterfill.codec.channels import Rounding
from waterfill.codec.model import Codec
from waterfill.data.crops import grown, split_validation
from waterfill.data.images import load_picture
from waterfill.errors import ImageError, TrainingError
from waterfill.training.config import TrainConfig
from waterfill.training.objectives import RateDistortion

__all__ = ["Validation", "split", "to_batch"]


def to_batch(pixels: NDArray[np.uint8]) -> Tensor:
    """uint8 (B, H, W, 3) as float32 (B, 3, H, W) in [0, 1], channels last in memory."""
    nchw = torch.from_numpy(np.ascontiguousarray(pixels)).permute(0, 3, 1, 2)
    return (nchw.float() / 255.0).contiguous(memory_format=torch.channels_last)


def _psnr(mse: float) -> float:
    return -10.0 * math.log10(max(mse, 1e-12))


class Validation:
    """Held-back centre crops, measured with hard rounding at three qualities."""

    def __init__(self, paths: list[Path], config: TrainConfig, side: int = 256) -> None:
        low, high = config.qualities
        self.qualities = sorted({low, 0.5 * (low + high), high})
        self.objective = RateDistortion(Rounding())
        self.crops: list[Tensor] = []
        self.unreadable: set[Path] = set()
        for path in paths[:16]:
            try:
                pixels = grown(load_picture(path).pixels, 64)
            except ImageError:
                self.unreadable.add(path)
                continue
            height, width = (min(side, s // 64 * 64) for s in pixels.shape[:2])
            top, left = (pixels.shape[0] - height) // 2, (pixels.shape[1] - width) // 2
            self.crops.append(to_batch(pixels[None, top : top + height, left : left + width]))

    @torch.no_grad()
    def __call__(self, codec: Codec, device: torch.device) -> dict[str, float]:
        """Means over pictures: bpp and psnr at each quality, and loss, bpp, psnr over all."""
        result: dict[str, float] = {}
        # Validation draws noise (for z); the training stream must not notice.
        with torch.random.fork_rng():
            torch.manual_seed(0)
            totals = np.zeros(3)
            for quality in self.qualities:
                rows = []
                for crop in self.crops:
                    x = crop.to(device)
                    parts = self.objective(codec, x, torch.full((1,), quality, device=device))
                    rows.append((float(parts.loss), float(parts.bpp), _psnr(float(parts.mse))))
                mean = np.mean(rows, axis=0)
                result[f"bpp@{quality:g}"], result[f"psnr@{quality:g}"] = mean[1], mean[2]
                totals += mean / len(self.qualities)
        result["loss"], result["bpp"], result["psnr"] = totals
        return {name: float(value) for name, value in result.items()}


def split(paths: list[Path], config: TrainConfig) -> tuple[list[Path], Validation]:
    """Training files, and the validation of the others; broken files leave neither side empty."""
    training, held_back = split_validation(paths)
    validation = Validation(held_back, config)
    broken = validation.unreadable
    for path in training:
        if validation.crops:
            break
        validation = Validation([path], config)
        broken = validation.unreadable = broken | validation.unreadable
        training = [p for p in training if p not in broken and p != path] or [path]
    if not validation.crops:
        raise TrainingError(f"none of the {len(paths)} pictures can be read")
    return training, validation
