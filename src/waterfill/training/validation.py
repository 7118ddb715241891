"""Held-back pictures, measured as the bitstream would code them."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from waterfill.codec.model import Codec
from waterfill.data.crops import grown
from waterfill.data.sets import PictureSet, none_readable, split_validation
from waterfill.errors import ImageError, TrainingError
from waterfill.training.config import MS_SSIM_MIN_SIDE, TrainConfig
from waterfill.training.objectives import Batch, Objective

__all__ = ["LEAST_MSE", "Validation", "split", "to_pixels"]

_PICTURES, _SIDE = 16, 256
#: Least MSE that a PSNR is taken of: that of an exact reconstruction is infinite.
LEAST_MSE = 1e-12


def to_pixels(pixels: NDArray[np.uint8]) -> Tensor:
    """uint8 (B, H, W, 3) as a uint8 tensor (B, 3, H, W), channels last in memory."""
    return torch.from_numpy(np.ascontiguousarray(pixels)).permute(0, 3, 1, 2)


def _psnr(mse: float) -> float:
    return -10.0 * math.log10(max(mse, LEAST_MSE))


class Validation:
    """Held-back centre crops, measured at three qualities.

    Parameters
    ----------
    pictures
        Candidates; the first readable ones are taken.
    config
        Settings of the run.
    count
        How many to take.

    Attributes
    ----------
    longest_side
        Longest side of the pictures taken, in pixels.
    unreadable
        Names of pictures that could not be read.
    reason
        Why the first of them could not; empty without any.
    """

    def __init__(self, pictures: PictureSet, config: TrainConfig, count: int = _PICTURES) -> None:
        low, high = config.codec.qualities
        cell = smallest = config.codec.alignment
        if config.distortion == "ms-ssim":
            smallest = -(-MS_SSIM_MIN_SIDE // cell) * cell
        self.qualities = sorted({low, 0.5 * (low + high), high})
        self.crops: list[Tensor] = []
        self.longest_side = 0
        self.unreadable: set[str] = set()
        self.reason = ""
        for index in range(len(pictures)):
            if len(self.crops) == count:
                break
            try:
                whole = pictures.pixels(index)
            except ImageError as error:
                self.unreadable.add(pictures.name(index))
                self.reason = self.reason or str(error)
                continue
            self.longest_side = max(self.longest_side, *whole.shape[:2])
            pixels = grown(whole, smallest)
            height, width = (min(_SIDE, s // cell * cell) for s in pixels.shape[:2])
            top, left = (pixels.shape[0] - height) // 2, (pixels.shape[1] - width) // 2
            self.crops.append(to_pixels(pixels[None, top : top + height, left : left + width]))

    @torch.no_grad()
    def __call__(
        self, objective: Objective, codec: Codec, device: torch.device
    ) -> dict[str, float]:
        """Means over pictures: bpp and psnr at each quality; over all, mse and what is recorded."""
        result: dict[str, float] = {}
        measured = objective.for_validation(codec)
        totals = np.zeros(5)
        for quality in self.qualities:
            rows = []
            for index, crop in enumerate(self.crops):
                at = torch.full((1,), quality, device=device)
                losses = measured(Batch(crop.to(device), at, [index]))
                values = (losses.loss, losses.bpp, losses.mse, losses.prior_bpp)
                loss, bpp, mse, prior_bpp = (float(value) for value in values)
                rows.append((loss, bpp, _psnr(mse), prior_bpp, mse))
            mean = np.mean(rows, axis=0)
            result[f"bpp@{quality:g}"], result[f"psnr@{quality:g}"] = mean[1], mean[2]
            totals += mean / len(self.qualities)
        result |= dict(zip(("loss", "bpp", "psnr", "prior_bpp", "mse"), totals, strict=True))
        return {name: float(value) for name, value in result.items()}


def split(pictures: PictureSet, config: TrainConfig) -> tuple[PictureSet, Validation]:
    """Training pictures, and the validation of the others.

    If none of the others can be read, one is on both sides.

    Raises
    ------
    TrainingError
        If no picture can be read.
    """
    training, held_back = split_validation(pictures)
    validation = Validation(held_back, config)
    if not validation.crops:  # all that were held back are broken
        broken = validation.unreadable
        validation = Validation(training, config, count=1)
        validation.unreadable |= broken
    if not validation.crops:
        raise TrainingError(none_readable(len(pictures), validation.reason))
    return training, validation
