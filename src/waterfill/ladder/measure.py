"""How far a codec is from its limits: every rung, on every picture, at every setting."""

from __future__ import annotations

import hashlib
import math
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from waterfill.codec.channels import WATER_LEVEL, GaussianTest
from waterfill.codec.gains import lambda_of_quality
from waterfill.codec.model import Codec
from waterfill.codec.registry import as_codec
from waterfill.codec.sensitivity import sensitivity
from waterfill.data.images import ImageLike, Picture, as_picture, pictures_in, sample_pictures
from waterfill.devices import device_name, full_precision
from waterfill.errors import ImageError
from waterfill.evaluation.cache import fingerprint
from waterfill.evaluation.metrics import mean_squared_error
from waterfill.ladder.adapters import Adapted, TransformCodec, keeps_protocol
from waterfill.ladder.assemble import assemble
from waterfill.ladder.compressai import as_protocol, is_like_compressai
from waterfill.ladder.levels import STRENGTHS, activity_of, levels_of
from waterfill.ladder.picture import MeasurePicture
from waterfill.ladder.result import Ladder, Point
from waterfill.ladder.rungs import (
    BITSTREAM,
    LADDER,
    Known,
    Rung,
)
from waterfill.ladder.stored import (
    measurement_of,
    moments_of,
    record_of_measurement,
    record_of_moments,
)
from waterfill.ladder.subjects import OwnCodec, Setting, Sitting, Subject, noise_of
from waterfill.ladder.variances import Moments
from waterfill.parallel import side_by_side
from waterfill.provenance import environment
from waterfill.row_shards import Record, Rows, Work, open_rows
from waterfill.seeds import check_seed

__all__ = ["limits", "measure_rung"]

_MAX_EXHIBITS = 4
#: Side of the piece of a built-in photograph that says how sensitive a decoder is.
_SAMPLE_SIDE = 256


def _levels(subject: Subject, setting: Setting, channels: int, seed: int) -> Tensor:
    """Noise that each channel should bear: what costs least on a built-in photograph.

    A property of the decoder, known to both ends. Where the price of distortion is not known, all
    channels bear the same.
    """
    flat = torch.full((channels,), WATER_LEVEL)
    if not math.isfinite(setting.price):
        return flat
    picture, sitting = _sample(subject, setting, _SAMPLE_SIDE)
    (view,) = sitting.views
    with full_precision(subject.device or torch.device("cpu")):  # of gradients too
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


def _sample(subject: Subject, setting: Setting, side: int) -> tuple[Picture, Sitting]:
    """The middle of a built-in photograph, small enough for one tile."""
    (sample,) = sample_pictures(["astronaut"])
    left = (sample.width - side) // 2
    pixels = np.ascontiguousarray(sample.pixels[:side, left : left + side])
    picture = Picture("sample", pixels)
    try:
        sitting = subject.sit(picture, setting)
    except ImageError:  # the codec is of grey pictures alone
        picture = as_picture(pixels.mean(2).round().astype(np.uint8))
        sitting = subject.sit(picture, setting)
    return (picture, sitting) if len(sitting.views) == 1 else _sample(subject, setting, side // 2)


class _Progress:
    """Steps done, told one at a time from any thread."""

    def __init__(self, total: int, tell: Callable[[int, int, str], None]) -> None:
        self._done, self._total, self._tell = 0, total, tell
        self._lock = threading.Lock()
        tell(0, total, "")

    def advance(self, what: str, steps: int = 1) -> None:
        with self._lock:
            self._done += steps
            self._tell(self._done, self._total, what)


def _picture_of(items: Sequence[Any], index: int) -> Picture:
    return as_picture(items[index], f"image {index + 1}")


@dataclass(frozen=True)
class _Shared:
    """What is measured, by whom, and what decides it."""

    items: Sequence[Any]
    names: Sequence[str]
    rows: Rows
    about: Mapping[str, Any]
    steps: _Progress
    in_turn: bool

    def each(
        self, stage: str, steps_each: int, about: Any, items: Sequence[str], work: Work
    ) -> Iterator[Record]:
        """Records of all pictures; what was measured earlier is done at once."""
        processes = self.rows.processes
        share = len(range(processes.rank, len(items), processes.world))

        def begin(count: int) -> None:
            if count < share:
                self.steps.advance("measured before", (share - count) * steps_each)

        told = {**self.about, "from": about}
        return self.rows.each(stage, told, items, work, begin=begin, in_turn=self.in_turn)


def _survey(subject: Subject, settings: Sequence[Setting], shared: _Shared) -> list[Moments]:
    """Moments of all pictures, by setting."""

    def one(index: int, check: Callable[[], None]) -> Record:
        picture = _picture_of(shared.items, index)
        found = []
        for setting in settings:
            check()
            found.append(Moments.of([view.y for view in subject.sit(picture, setting).views]))
        shared.steps.advance(Path(picture.name).name)
        return record_of_moments(picture.name, found)

    joined: list[Moments] = []
    for record in shared.each("survey", 1, None, shared.names, one):
        found = moments_of(record)
        both = zip(joined, found, strict=True) if joined else ((only,) for only in found)
        joined = [Moments.joined(pair) for pair in both]
    return joined


_Codecs = Codec | TransformCodec | nn.Module | str | os.PathLike[str]


def _as_subject(codec: _Codecs) -> Subject:
    if isinstance(codec, Codec | str | os.PathLike):
        return OwnCodec(as_codec(codec))
    if not keeps_protocol(codec) and is_like_compressai(codec):
        assert isinstance(codec, nn.Module)
        return Adapted(as_protocol(codec))
    return Adapted(cast(TransformCodec, codec))


def limits(
    codec: Codec | TransformCodec | nn.Module | str | os.PathLike[str],
    images: ImageLike | Iterable[ImageLike],
    quality: float | Sequence[float] | None = None,
    *,
    seed: int = 0,
    shards: str | os.PathLike[str] | None = None,
    progress: Callable[[int, int, str], None] = lambda done, total, what: None,
) -> Ladder:
    """Measure the ladder of a codec on pictures.

    Parameters
    ----------
    codec
        The codec, its name or its file; a live model of CompressAI; or anything with the methods of
        :class:`~waterfill.ladder.adapters.TransformCodec`. Its networks stay as they are.
    images
        Files, folders, globs; PIL images, uint8 arrays or tensors, bytes of pictures' files,
        :class:`~waterfill.data.images.Picture`. One, or several.
    quality
        One quality from 1 to 8, several, or ``None`` for all whole ones that the codec covers. The
        table is at the middle one. With a single quality, Gaussian channels are measured at the
        next higher ones too, since they show less at equal quality. A codec of one rate is measured
        at steps around its own instead.
    seed
        Seed of the channels' noise, and of the bootstrap.
    shards
        A folder for what is measured of each picture, as Parquet files: a run that was killed goes
        on from there, and processes that a launcher has started share the pictures. All of them
        return the same ladder, that of one process.
    progress
        Called with steps done, steps in all, and the name of the picture at hand.

    Returns
    -------
    Ladder
        One result for each rung, with its status, and the decomposition; rates in bpp.

    Raises
    ------
    ImageError
        If there is no picture, or one can't be used.
    QualityError
        If a quality is out of range or no number, or there is none.
    CodecError
        If there is no such codec, or one of other make breaks the protocol; with ``shards``, for
        all of those, and for weights that no file holds.
    WaterfillError
        If ``shards`` can't be written, or holds a file that is damaged; for an invalid seed.
    """
    seed = check_seed(seed)
    subject = _as_subject(codec)
    settings, main = subject.settings(quality)
    items = pictures_in(images)
    if not items:
        raise ImageError("no pictures to measure")
    rungs = [rung for rung in LADDER if subject.has_files or rung.name != BITSTREAM]

    rows = open_rows(shards)
    about = {
        "codec": {} if shards is None else subject.identity(),
        "settings": [asdict(setting) for setting in settings],
        "seed": seed,
    }
    all_threads = subject.in_turn or len(items) == 1
    per_picture = len(settings) * len(rungs)
    mine = len(range(rows.processes.rank, len(items), rows.processes.world))
    shared = _Shared(
        items,
        rows.identify(len(items), lambda index: _identity_of(_picture_of(items, index))),
        rows,
        about | {"threads": torch.get_num_threads() if all_threads else 1},
        _Progress(mine * (1 + per_picture), progress),
        subject.in_turn,
    )
    moments = _survey(subject, [s for s in settings if not s.beside], shared)
    # Settings with ``beside`` come last; their rungs need no moments, only the number of channels.
    moments += moments[:1] * (len(settings) - len(moments))
    levels = side_by_side(
        lambda index, check: _levels(subject, settings[index], len(moments[index].power), seed),
        len(settings),
        of=max(2, len(settings)),  # the same levels on any number of threads
        in_turn=subject.in_turn,
    )
    known = [Known(m, level) for m, level in zip(moments, levels, strict=True)]
    measure = MeasurePicture(subject, settings, main, rungs, known, seed)

    def one(index: int, check: Callable[[], None]) -> Record:
        def advance(what: str) -> None:
            check()
            shared.steps.advance(what)

        picture = _picture_of(items, index)
        found = measure(picture, shown=index < _MAX_EXHIBITS, advance=advance)
        return record_of_measurement(found, rungs)

    # Rungs that group the data set depend on all of its pictures; the first ones are shown.
    depends = {"main": main, "moments": [_digest_of(one) for one in moments]}
    names = [
        f"{name}{' shown' if index < _MAX_EXHIBITS else ''}"
        for index, name in enumerate(shared.names)
    ]
    records = shared.each("ladder", per_picture, depends, names, one)
    measured = (measurement_of(record, rungs, len(settings)) for record in records)
    device = {} if subject.device is None else {"device": device_name(subject.device)}
    about = environment(seed) | device
    return assemble(subject.name, settings[main], main, rungs, measured, about)


def _identity_of(picture: Picture) -> list[str]:
    """Digest of its pixels, and its name in tables."""
    return [fingerprint(picture), picture.name]


def _digest_of(moments: Moments) -> str:
    return hashlib.sha256(moments.power.tobytes()).hexdigest()


def measure_rung(
    codec: Codec,
    rung: Rung,
    images: ImageLike | Iterable[ImageLike],
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
        Qualities to measure at.

    Returns
    -------
    list of list of Point
        For every picture, its points in the order of the qualities.
    """
    subject, items, seed = OwnCodec(codec), pictures_in(images), check_seed(seed)
    checked = [codec.check_quality(quality) for quality in qualities]
    settings = [Setting(quality, price=lambda_of_quality(quality)) for quality in checked]
    m = codec.config.m
    known = Known(Moments(np.zeros(m), 1, 1), torch.full((m,), WATER_LEVEL))
    measure = MeasurePicture(subject, settings, 0, [rung], [known] * len(settings), seed)
    steps = _Progress(len(items) * len(settings), progress)

    def one(index: int, check: Callable[[], None]) -> list[Point]:
        def advance(what: str) -> None:
            check()
            steps.advance(what)

        found = measure(_picture_of(items, index), shown=False, advance=advance)
        return [point for point in found.points[0] if point is not None]

    return list(side_by_side(one, len(items)))
