"""How far a codec is from its limits: every rung, on every picture, at every setting."""

from __future__ import annotations

import hashlib
import itertools
import math
import os
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from waterfill.codec.channels import WATER_LEVEL, GaussianTest
from waterfill.codec.model import Codec
from waterfill.codec.sensitivity import sensitivity
from waterfill.data.images import ImageLike, Picture, as_picture, sample_pictures
from waterfill.errors import ImageError
from waterfill.evaluation.metrics import SimilarityTo, mean_squared_error
from waterfill.ladder.adapters import Adapted, TransformCodec
from waterfill.ladder.compressai import as_protocol, is_like_compressai
from waterfill.ladder.decompose import decompose, intervals, mean_point, rates_at_equal_psnr
from waterfill.ladder.levels import STRENGTHS, activity_of, levels_of
from waterfill.ladder.result import Decomposition, Exhibit, Ladder, Point, RungResult
from waterfill.ladder.rungs import (
    BITSTREAM,
    CONTEXT,
    IDEAL,
    LADDER,
    POSTERIOR,
    UNKNOWN_VARIANCE,
    Climb,
    Coded,
    Known,
    Rung,
)
from waterfill.ladder.subjects import OwnCodec, Setting, Sitting, Subject, noise_of
from waterfill.ladder.variances import Moments
from waterfill.parallel import side_by_side
from waterfill.provenance import environment

__all__ = ["limits", "measure_rung"]

_MAX_EXHIBITS = 4
#: PSNR of a perfect copy, so that means stay finite: one 8-bit step in one sample of a megapixel.
_PSNR_CEILING = 110.0
#: Side of the piece of a built-in photograph that says how sensitive a decoder is.
_SAMPLE_SIDE = 256


@dataclass(frozen=True)
class _Traces:
    """What the report shows of a climb."""

    bits: NDArray[np.float32]
    y_hat: NDArray[np.float32]


@dataclass(frozen=True)
class _Measurement:
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

    def __init__(self, picture: Picture, sitting: Sitting, similarity: SimilarityTo) -> None:
        self.picture, self.sitting, self.similarity = picture, sitting, similarity
        self._known: dict[bytes, tuple[float, float]] = {}

    def __call__(self, y_hats: Sequence[Tensor]) -> tuple[float, float]:
        """MSE and MS-SSIM."""
        digest = hashlib.sha256()
        for y_hat in y_hats:
            digest.update(y_hat.numpy().tobytes())
        key = digest.digest()
        if key not in self._known:
            pixels = self.sitting.pixels(y_hats)
            mse = mean_squared_error(self.picture.pixels, pixels)
            self._known[key] = (mse, self.similarity(pixels))
        return self._known[key]


class _Measure:
    """Measures pictures one by one.

    Parameters
    ----------
    subject
        The codec.
    settings, main
        Where it is measured, and which of them the table is of.
    rungs
        Of the ladder.
    known
        What is known before a picture is looked at, by setting.
    seed
        Of the channels' noise.
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
    ) -> _Measurement:
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
        similarity = SimilarityTo(picture.pixels)
        table: list[list[Point | None]] = [[] for _ in self.rungs]
        channels: dict[str, NDArray[np.float64]] = {}
        exhibit = None
        for index, (setting, known) in enumerate(zip(self.settings, self.known, strict=True)):
            sitting = self.subject.sit(picture, setting)
            view = _Viewer(picture, sitting, similarity)
            at_main = index == self.main
            traces: dict[str, _Traces] = {}
            channel, coded = 0, None
            decoded: NDArray[np.uint8] | None = None
            for rung, points in zip(self.rungs, table, strict=True):
                if isinstance(rung, Coded):  # the file and its ideal code are one climb
                    coded = climb = coded or rung.climb(sitting.views, known, seed=self.seed)
                else:
                    coded = None
                    climb = rung.climb(sitting.views, known, seed=self.seed)
                points.append(self._point(rung, climb, view, setting))
                if at_main:
                    self._per_channel(rung.name, climb, picture.pixel_count, channels)
                if at_main and shown:
                    if rung.name == IDEAL:
                        channel = int(channels[rung.name].argmax())
                        decoded = sitting.pixels(climb.y_hats)
                    if rung.name != BITSTREAM:
                        self._trace(rung.name, climb, channel, sitting.across, traces)
                advance(label)
            if at_main and shown:
                assert decoded is not None
                point = next(p for points in table if (p := points[index]) is not None)
                y = _joined([v.y[channel] for v in sitting.views], sitting.across)
                exhibit = _exhibit(picture, decoded, point, channel, y, traces)
        facts = {"name": picture.name, "width": picture.width, "height": picture.height}
        return _Measurement(facts, table, channels, exhibit)

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


def _levels(subject: Subject, setting: Setting, seed: int) -> Tensor:
    """Noise that each channel should bear: what costs least on a built-in photograph.

    A property of the decoder, known to both ends. Where the price of distortion is not known, all
    channels bear the same.
    """
    (sample,) = sample_pictures(["astronaut"])
    left = (sample.width - _SAMPLE_SIDE) // 2
    pixels = np.ascontiguousarray(sample.pixels[:_SAMPLE_SIDE, left : left + _SAMPLE_SIDE])
    picture = Picture("sample", pixels)
    try:
        sitting = subject.sit(picture, setting)
    except ImageError:  # the codec is of grey pictures alone
        picture = as_picture(pixels.mean(2).round().astype(np.uint8))
        sitting = subject.sit(picture, setting)
    (view,) = sitting.views
    flat = torch.full((len(view.y),), WATER_LEVEL)
    if not math.isfinite(setting.price):
        return flat
    weights = sensitivity(sitting.reconstruct, view.rounded().y_hat, seed=seed)
    best, least = flat, math.inf
    for strength in STRENGTHS:
        levels = levels_of(weights, activity_of([view.y]), strength)
        arrival = view.through(GaussianTest(levels), noise_of(seed, 0))
        mse = mean_squared_error(picture.pixels, sitting.pixels([arrival.y_hat]))
        cost = float(arrival.bits.sum()) / picture.pixel_count + setting.price * mse
        if cost < least:
            best, least = levels, cost
    return best


class _Progress:
    """Steps done, told one at a time from any thread."""

    def __init__(self, total: int, tell: Callable[[int, int, str], None]) -> None:
        self._total, self._tell = total, tell
        self._done = itertools.count(1)
        self._lock = threading.Lock()
        tell(0, total, "")

    def advance(self, what: str) -> None:
        with self._lock:
            self._tell(next(self._done), self._total, what)


def _picture_of(items: Sequence[Any], index: int) -> Picture:
    return as_picture(items[index], f"image {index + 1}")


def _survey(
    subject: Subject, settings: Sequence[Setting], items: Sequence[Any], progress: _Progress
) -> list[Moments]:
    """Moments of all pictures, by setting."""

    def one(index: int, check: Callable[[], None]) -> list[Moments]:
        picture = _picture_of(items, index)
        found = []
        for setting in settings:
            check()
            found.append(Moments.of([view.y for view in subject.sit(picture, setting).views]))
        progress.advance(Path(picture.name).name)
        return found

    each = list(side_by_side(one, len(items)))
    return [Moments.joined(column) for column in zip(*each, strict=True)]


def _as_subject(codec: Codec | TransformCodec | nn.Module) -> Subject:
    if isinstance(codec, Codec):
        return OwnCodec(codec)
    if not isinstance(codec, TransformCodec) and is_like_compressai(codec):
        assert isinstance(codec, nn.Module)
        return Adapted(as_protocol(codec))
    return Adapted(cast(TransformCodec, codec))


def limits(
    codec: Codec | TransformCodec | nn.Module,
    images: ImageLike | Iterable[ImageLike],
    quality: float | Sequence[float] | None = None,
    *,
    seed: int = 0,
    progress: Callable[[int, int, str], None] = lambda done, total, what: None,
) -> Ladder:
    """Measure the ladder of a codec on pictures.

    Parameters
    ----------
    codec
        The codec; a live model of CompressAI; or anything with the methods of
        :class:`~waterfill.ladder.adapters.TransformCodec`. Its networks stay as they are.
    images
        Paths, PIL images, uint8 arrays or :class:`~waterfill.data.images.Picture`.
    quality
        One quality from 1 to 8, several, or ``None`` for all whole ones that the codec covers. The
        table is at the middle one; with a single quality, rates at equal PSNR are first-order
        estimates. A codec of one rate is measured at steps around its own instead.
    seed
        Of the noise of channels, and of the bootstrap.
    progress
        Called with steps done, steps in all, and the name of the picture at hand.

    Raises
    ------
    ImageError
        If there is no picture, or one can't be used.
    QualityError
        If a quality is out of range.
    CodecError
        If a codec of other make breaks the protocol.
    """
    subject = _as_subject(codec)
    settings, main = subject.settings(quality)
    if isinstance(images, str | os.PathLike | Image.Image | np.ndarray | Picture):
        images = [images]
    items = list(images)
    if not items or not settings:
        raise ImageError("no pictures to measure")
    rungs = [rung for rung in LADDER if subject.has_files or rung.name != BITSTREAM]

    steps = _Progress(len(items) * (1 + len(settings) * len(rungs)), progress)
    moments = _survey(subject, settings, items, steps)
    known = [Known(m, _levels(subject, s, seed)) for m, s in zip(moments, settings, strict=True)]
    measure = _Measure(subject, settings, main, rungs, known, seed)

    def one(index: int, check: Callable[[], None]) -> _Measurement:
        def advance(what: str) -> None:
            check()
            steps.advance(what)

        picture = _picture_of(items, index)
        return measure(picture, shown=index < _MAX_EXHIBITS, advance=advance)

    measured = list(side_by_side(one, len(items)))
    return _ladder(subject, settings[main], main, rungs, measured, seed)


def measure_rung(
    codec: Codec,
    rung: Rung,
    images: Sequence[ImageLike],
    qualities: Sequence[float],
    *,
    seed: int = 0,
    progress: Callable[[int, int, str], None] = lambda done, total, what: None,
) -> list[list[Point]]:
    """One rung alone, which need not be of the ladder.

    Parameters
    ----------
    codec, images, seed, progress
        As for :func:`limits`.
    rung
        What is measured; no rung that asks for moments of the data set.
    qualities
        At which.

    Returns
    -------
    list of list of Point
        Of every picture, in the order of the qualities.
    """
    subject, items = OwnCodec(codec), list(images)
    settings, _ = subject.settings(list(qualities))
    m = codec.config.m
    known = Known(Moments(np.zeros(m), 1, 1), torch.full((m,), WATER_LEVEL))
    measure = _Measure(subject, settings, 0, [rung], [known] * len(settings), seed)
    steps = _Progress(len(items) * len(settings), progress)

    def one(index: int, check: Callable[[], None]) -> list[Point]:
        def advance(what: str) -> None:
            check()
            steps.advance(what)

        found = measure(_picture_of(items, index), shown=False, advance=advance)
        return [point for point in found.points[0] if point is not None]

    return list(side_by_side(one, len(items)))


def _ladder(
    subject: Subject,
    setting: Setting,
    main: int,
    rungs: Sequence[Rung],
    measured: Sequence[_Measurement],
    seed: int,
) -> Ladder:
    """The result, from what was measured of each picture."""
    curves_of = [
        {
            rung.name: tuple(p for p in points if p is not None)
            for rung, points in zip(rungs, one.points, strict=True)
        }
        for one in measured
    ]
    main_of = [
        {
            rung.name: p
            for rung, points in zip(rungs, one.points, strict=True)
            if (p := points[main]) is not None
        }
        for one in measured
    ]
    curves = {
        rung.name: tuple(
            mean_point(column) for column in zip(*(c[rung.name] for c in curves_of), strict=True)
        )
        for rung in rungs
    }
    here = {name: mean_point([points[name] for points in main_of]) for name in main_of[0]}
    at = rates_at_equal_psnr(curves, here)
    spans = intervals(curves_of, main_of, seed=seed)
    results: list[RungResult] = []
    for rung in rungs:
        point, equal = here[rung.name], at[rung.name]
        results.append(
            RungResult(
                rung.name,
                rung.status.value,
                rung.meaning,
                point.bpp,
                point.psnr,
                point.ms_ssim,
                point.parts,
                curves[rung.name],
                equal,
                results[0].bpp_at_equal_psnr - equal if results else None,
            )
        )
    rows = [
        {"image": one.picture["name"], "rung": rung.name, "status": rung.status.value}
        | point.__dict__
        for one, pictures_curves in zip(measured, curves_of, strict=True)
        for rung in rungs
        for point in pictures_curves[rung.name]
    ]
    per_image: list[Decomposition] = [
        decompose(c, m) for c, m in zip(curves_of, main_of, strict=True)
    ]
    channels = {
        name: np.mean([one.channels[name] for one in measured], axis=0)
        for name in measured[0].channels
    }
    return Ladder(
        subject.name,
        setting.quality,
        tuple(one.picture for one in measured),
        tuple(results),
        replace(decompose(curves, here), intervals=spans),
        tuple(per_image),
        channels,
        tuple(rows),
        tuple(one.exhibit for one in measured if one.exhibit is not None),
        environment(seed),
    )
