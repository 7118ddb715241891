"""What was measured of one picture at one setting, and means of that over pictures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from waterfill.errors import WaterfillError
from waterfill.evaluation.metrics import in_decibels, psnr_of

__all__ = ["Metric", "Row", "Summary", "summarise"]

#: By what curves are compared: PSNR, or MS-SSIM in dB.
Metric = Literal["psnr", "ms_ssim"]


@dataclass(frozen=True)
class Row:
    """One picture, coded by one codec at one setting.

    Attributes
    ----------
    image, domain
        File name, and the name of its folder.
    pixels
        SHA-256 of the picture, as :func:`~waterfill.evaluation.cache.fingerprint` has it.
    codec, version, setting
        Its name, library or weights, and what the encoder was told, as text.
    bytes, bpp
        Size and rate of the whole file, headers included; padding is not counted as pixels.
    mse, psnr, ms_ssim
        Of the decoded file's 8-bit pixels, over all planes: squared 8-bit units, dB, and 0 … 1 or
        NaN for pictures below 161 pixels.
    encode_seconds, decode_seconds
        On one thread, after a warm-up, while the other threads measure too.
    """

    image: str
    domain: str
    pixels: str
    codec: str
    version: str
    setting: str
    bytes: int
    bpp: float
    mse: float
    psnr: float
    ms_ssim: float
    encode_seconds: float
    decode_seconds: float

    @property
    def has_ms_ssim(self) -> bool:
        """Whether the picture is large enough for it."""
        return not math.isnan(self.ms_ssim)

    def quality(self, metric: Metric) -> float:
        """PSNR, or MS-SSIM in dB."""
        return self.psnr if metric == "psnr" else in_decibels(self.ms_ssim)


@dataclass(frozen=True)
class Summary:
    """Means over pictures of one codec at one setting.

    Attributes
    ----------
    pictures
        How many.
    psnr
        Mean of the pictures' PSNR, in dB: what most papers publish.
    psnr_of_mean_mse
        PSNR of the mean squared error of all pictures, in dB: never above ``psnr``.
    ms_ssim
        Mean over the pictures large enough to have one, 0 … 1, or NaN.
    ms_ssim_db
        That mean in dB.
    """

    codec: str
    setting: str
    pictures: int
    bpp: float
    psnr: float
    psnr_of_mean_mse: float
    ms_ssim: float
    ms_ssim_db: float
    mse: float
    encode_seconds: float
    decode_seconds: float

    def quality(self, metric: Metric) -> float:
        """PSNR as the mean over pictures, or MS-SSIM in dB."""
        return self.psnr if metric == "psnr" else self.ms_ssim_db


def summarise(rows: Sequence[Row]) -> Summary:
    """Means of rows that are of one codec at one setting.

    Raises
    ------
    WaterfillError
        If there is no row, or they are of several codecs or settings.
    """
    if len({(row.codec, row.setting) for row in rows}) != 1:
        raise WaterfillError("means are of rows of one codec at one setting")
    similar = [row.ms_ssim for row in rows if row.has_ms_ssim]
    ms_ssim = float(np.mean(similar)) if similar else math.nan
    mse = float(np.mean([row.mse for row in rows]))
    return Summary(
        rows[0].codec,
        rows[0].setting,
        len(rows),
        float(np.mean([row.bpp for row in rows])),
        float(np.mean([row.psnr for row in rows])),
        psnr_of(mse),
        ms_ssim,
        in_decibels(ms_ssim),
        mse,
        float(np.mean([row.encode_seconds for row in rows])),
        float(np.mean([row.decode_seconds for row in rows])),
    )
