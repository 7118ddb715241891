"""One picture on the ladder: every rung, at every setting."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from waterfill.allocator import release_free_blocks
from waterfill.data.images import Picture
from waterfill.evaluation.cache import fingerprint
from waterfill.evaluation.metrics import SimilarityTo, mean_squared_error
from waterfill.ladder.result import Exhibit, Point
from waterfill.ladder.rungs import (
    BESIDE,
    BITSTREAM,
    CONTEXT,
    IDEAL,
    POSTERIOR,
    UNKNOWN_VARIANCE,
    Climb,
    Coded,
    Known,
    Rung,
)
from waterfill.ladder.subjects import Setting, Sitting, Subject

__all__ = ["MeasurePicture", "Measurement"]

#: PSNR of a perfect copy, so that means stay finite: one 8-bit step in one sample of a megapixel.
_PSNR_CEILING = 110.0
#: Seeds of noise are below.
_SEEDS = 0x7FFF_FFFF


@dataclass(frozen=True)
class _Traces:
    """What the report shows of a climb."""

    bits: NDArray[np.float32]
    y_hat: NDArray[np.float32]


@dataclass(frozen=True)
class Measurement:
    """All rungs of one picture at all settings, in the order of both; None where there is none."""

    picture: dict[str, Any]
    points: list[list[Point | None]]
    channels: dict[str, NDArray[np.float64]]
    exhibit: Exhibit | None


class _Viewer:
    """Distortion of ŷ for one picture and setting, computed once.

    Several rungs hand the same latents to g_s: the file and its ideal code, the oracle with and
    without its price. Synthesis and MS-SSIM are the dearest parts of a ladder.
    """

    def __init__(self, picture: Picture, sitting: Sitting, similarity: SimilarityTo | None) -> None:
        self.picture, self.sitting, self.similarity = picture, sitting, similarity
        self._known: dict[bytes, tuple[float, float]] = {}

    def __call__(self, y_hats: Sequence[Tensor]) -> tuple[float, float]:
        """MSE and MS-SSIM, NaN where nobody asks for it."""
        digest = hashlib.blake2b()  # the faster one
        for y_hat in y_hats:
            digest.update(y_hat.numpy().tobytes())
        key = digest.digest()
        if key not in self._known:
            pixels = self.sitting.pixels(y_hats)
            mse = mean_squared_error(self.picture.pixels, pixels)
            similar = math.nan if self.similarity is None else self.similarity(pixels)
            self._known[key] = (mse, similar)
        return self._known[key]


class MeasurePicture:
    """Measures pictures one by one.

    Parameters
    ----------
    subject
        The codec.
    settings, main
        Where it is measured, and which of them the table is of.
    rungs
        Rungs of the ladder.
    known
        What is known before a picture is looked at, by setting.
    seed
        Seed of the channels' noise, together with each picture's pixels.
    """

    def __init__(
        self,
        subject: Subject,
        settings: Sequence[Setting],
        main: int,
        rungs: Sequence[Rung],
        known: Sequence[Known],
        seed: int,
    ) -> None:
        self.subject, self.settings, self.main = subject, settings, main
        self.rungs, self.known, self.seed = rungs, known, seed

    def __call__(
        self, picture: Picture, *, shown: bool, advance: Callable[[str], None]
    ) -> Measurement:
        """Every rung of one picture.

        Parameters
        ----------
        picture
            The picture.
        shown
            Whether the report shows it.
        advance
            Called after every rung.
        """
        label = Path(picture.name).name
        # Each picture has noise of its own, so that a bootstrap over pictures covers the noise too.
        seed = (self.seed + int(fingerprint(picture)[:15], 16)) & _SEEDS
        similarity = SimilarityTo(picture.pixels)
        table: list[list[Point | None]] = [[] for _ in self.rungs]
        channels: dict[str, NDArray[np.float64]] = {}
        exhibit = None
        for index, (setting, known) in enumerate(zip(self.settings, self.known, strict=True)):
            sitting = self.subject.sit(picture, setting)
            # Settings other than those asked for serve to compare rates at equal PSNR.
            view = _Viewer(picture, sitting, None if setting.beside else similarity)
            at_main = index == self.main
            traces: dict[str, _Traces] = {}
            channel, coded = 0, None
            decoded: NDArray[np.uint8] | None = None
            for rung, points in zip(self.rungs, table, strict=True):
                if setting.beside and rung.name not in BESIDE:
                    points.append(None)
                    advance(label)
                    continue
                if isinstance(rung, Coded):  # the file and its ideal code are one climb
                    coded = climb = coded or rung.climb(sitting.views, known, seed=seed)
                else:
                    coded = None
                    climb = rung.climb(sitting.views, known, seed=seed)
                points.append(self._point(rung, climb, view, setting))
                if at_main:
                    self._per_channel(rung.name, climb, picture.pixel_count, channels)
                if at_main and shown:
                    if rung.name == IDEAL:
                        channel = int(channels[rung.name].argmax())
                        decoded = sitting.pixels(climb.y_hats)
                    if rung.name != BITSTREAM:
                        self._trace(rung.name, climb, channel, sitting.across, traces)
                del climb  # ŷ of a large picture takes much memory: one at a time
                if len(sitting.views) > 1:
                    release_free_blocks()
                advance(label)
            if at_main and shown:
                assert decoded is not None
                point = next(p for points in table if (p := points[index]) is not None)
                y = _joined([v.y[channel] for v in sitting.views], sitting.across)
                exhibit = _exhibit(picture, decoded, point, channel, y, traces)
            del sitting, view  # and one setting's latents
        facts = {"name": picture.name, "width": picture.width, "height": picture.height}
        return Measurement(facts, table, channels, exhibit)

    def _point(self, rung: Rung, climb: Climb, view: _Viewer, setting: Setting) -> Point | None:
        pixels = view.picture.pixel_count
        parts = {name: bits / pixels for name, bits in climb.parts.items()}
        if rung.name == BITSTREAM:
            size = view.sitting.file_bits()
            if size is None:
                return None
            parts["coder overhead"] = size / pixels - sum(parts.values())
        mse, similarity = view(climb.y_hats)
        psnr = 10.0 * math.log10(255.0**2 / mse) if mse else _PSNR_CEILING
        bpp = sum(parts.values())
        return Point(
            setting.quality, bpp, psnr, similarity, mse, parts, setting.step, setting.price
        )

    @staticmethod
    def _per_channel(
        name: str, climb: Climb, pixels: int, channels: dict[str, NDArray[np.float64]]
    ) -> None:
        for label, tiles in {name: climb.spent, **climb.lost}.items():
            channels[label] = torch.stack([t.by_channel for t in tiles]).sum(0).numpy() / pixels

    @staticmethod
    def _trace(
        name: str, climb: Climb, channel: int, across: int, traces: dict[str, _Traces]
    ) -> None:
        y_hat = _joined([tile[channel] for tile in climb.y_hats], across)
        for label, tiles in {name: climb.spent, **climb.lost}.items():
            traces[label] = _Traces(_joined([tile.by_place for tile in tiles], across), y_hat)


def _joined(tiles: Sequence[Tensor], across: int) -> NDArray[np.float32]:
    """Tiles (h, w) put together, so many in a row."""
    rows = [torch.cat(list(tiles[k : k + across]), 1) for k in range(0, len(tiles), across)]
    joined: NDArray[np.float32] = torch.cat(rows).float().numpy()
    return joined


def _exhibit(
    picture: Picture,
    decoded: NDArray[np.uint8],
    point: Point,
    channel: int,
    y: NDArray[np.float32],
    traces: dict[str, _Traces],
) -> Exhibit:
    shown = {
        "rounding": traces[IDEAL],
        "test channel": traces["test channel"],
        "oracle, test channel": traces["oracle, test channel"],
    }
    losses = {
        "quantisation": traces[IDEAL].bits - traces[POSTERIOR].bits,
        "context": traces[POSTERIOR].bits - traces[CONTEXT].bits,
        "variance": traces[UNKNOWN_VARIANCE].bits,
    }
    return Exhibit(
        picture.name,
        picture.pixels,
        decoded,
        point.bpp,
        point.psnr,
        channel,
        y,
        {name: trace.y_hat for name, trace in shown.items()},
        {name: trace.bits for name, trace in shown.items()},
        losses,
    )
