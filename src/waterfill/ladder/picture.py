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

__all__ = ["MeasurePicture", "Measurement", "put_together"]

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


class _Details:
    """What is kept of the table's setting beside its points, rung by rung.

    Attributes
    ----------
    channels
        By rung, or term, the bits of each channel, bpp (M,).
    """

    def __init__(self, picture: Picture, sitting: Sitting, *, shown: bool) -> None:
        self._picture, self._sitting, self._shown = picture, sitting, shown
        self.channels: dict[str, NDArray[np.float64]] = {}
        # What the report shows: maps of the channel on which the ideal coder spends most.
        self._channel = 0
        self._decoded: NDArray[np.uint8] | None = None
        self._traces: dict[str, _Traces] = {}

    def add(self, rung: Rung, climb: Climb) -> None:
        bits = {rung.name: climb.spent, **climb.lost}
        for label, tiles in bits.items():
            total = torch.stack([tile.by_channel for tile in tiles]).sum(0).numpy()
            self.channels[label] = total / self._picture.pixel_count
        if not self._shown:
            return
        if rung.name == IDEAL:
            self._channel = int(self.channels[rung.name].argmax())
            self._decoded = self._sitting.pixels(climb.y_hats)
        if rung.name != BITSTREAM:
            y_hat = self._whole([tile[self._channel] for tile in climb.y_hats])
            for label, tiles in bits.items():
                by_place = self._whole([tile.by_place for tile in tiles])
                self._traces[label] = _Traces(by_place, y_hat)

    def exhibit(self, point: Point) -> Exhibit:
        """Everything that the report shows; ``point`` is of the first rung."""
        assert self._decoded is not None
        traces = self._traces
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
            self._picture.name,
            self._picture.pixels,
            self._decoded,
            point.bpp,
            point.psnr,
            self._channel,
            self._whole([view.y[self._channel] for view in self._sitting.views]),
            {name: trace.y_hat for name, trace in shown.items()},
            {name: trace.bits for name, trace in shown.items()},
            losses,
        )

    def _whole(self, tiles: Sequence[Tensor]) -> NDArray[np.float32]:
        return put_together(tiles, self._sitting.across)


def put_together(tiles: Sequence[Tensor], across: int) -> NDArray[np.float32]:
    """Tiles (h, w), row by row, as one map; ``across`` of them make a row."""
    rows = [torch.cat(list(tiles[k : k + across]), 1) for k in range(0, len(tiles), across)]
    whole: NDArray[np.float32] = torch.cat(rows).float().numpy()
    return whole


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
            details = _Details(picture, sitting, shown=shown) if index == self.main else None
            column = self._column(view, setting, known, seed, details, lambda: advance(label))
            for points, point in zip(table, column, strict=True):
                points.append(point)
            if details is not None:
                channels = details.channels
                if shown:
                    exhibit = details.exhibit(next(p for p in column if p is not None))
            del sitting, view, details  # and one setting's latents
        facts = {"name": picture.name, "width": picture.width, "height": picture.height}
        return Measurement(facts, table, channels, exhibit)

    def _column(
        self,
        view: _Viewer,
        setting: Setting,
        known: Known,
        seed: int,
        details: _Details | None,
        advance: Callable[[], None],
    ) -> list[Point | None]:
        """The point of every rung at one setting; ``details`` are added to where there are any."""
        column: list[Point | None] = []
        views = view.sitting.views
        coded: Climb | None = None
        for rung in self.rungs:
            if setting.beside and rung.name not in BESIDE:
                column.append(None)
                advance()
                continue
            if isinstance(rung, Coded):  # the file and its ideal code are one climb
                coded = climb = coded or rung.climb(views, known, seed=seed)
            else:
                coded = None
                climb = rung.climb(views, known, seed=seed)
            column.append(self._point(rung, climb, view, setting))
            if details is not None:
                details.add(rung, climb)
            del climb  # ŷ of a large picture takes much memory: one at a time
            if len(views) > 1:
                release_free_blocks()
            advance()
        return column

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
