"""How far a codec is from its limits: every rung, on every picture, at every rate."""

from __future__ import annotations

import hashlib
import itertools
import math
import os
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from waterfill.codec.gains import QUALITIES
from waterfill.codec.latents import Latents
from waterfill.codec.model import Codec, finish
from waterfill.data.images import ImageLike, Picture, as_picture
from waterfill.errors import ImageError
from waterfill.evaluation.metrics import SimilarityTo, mean_squared_error
from waterfill.ladder.decompose import decompose, rates_at_equal_psnr
from waterfill.ladder.result import Exhibit, Ladder, Point, RungResult
from waterfill.ladder.rungs import BITSTREAM, LADDER, Climb, climb
from waterfill.parallel import side_by_side
from waterfill.provenance import environment

__all__ = ["limits"]

_MAX_EXHIBITS = 4
_MOST_PIXELS = 50_000_000
#: PSNR of a perfect copy, so that means stay finite: one 8-bit step in one sample of a megapixel.
_PSNR_CEILING = 110.0


@dataclass(frozen=True)
class _Measurement:
    """All rungs of one picture at all qualities, in the order of both."""

    picture: dict[str, Any]
    points: list[list[Point]]
    exhibit: Exhibit | None


class _Viewer:
    """Pixels and distortion of ŷ for one picture and quality, each computed once.

    Several rungs hand the same latents to g_s: the file and its ideal code, the oracle with and
    without its price. Synthesis and MS-SSIM are the dearest parts of a ladder.
    """

    def __init__(
        self, codec: Codec, picture: Picture, quality: float, similarity: SimilarityTo
    ) -> None:
        self.codec, self.picture, self.quality = codec, picture, quality
        self.similarity = similarity
        self._known: dict[bytes, tuple[NDArray[np.uint8], float, float]] = {}

    def __call__(self, y_hat: Tensor) -> tuple[NDArray[np.uint8], float, float]:
        """Pixels, MSE and MS-SSIM."""
        key = hashlib.sha256(y_hat.numpy().tobytes()).digest()
        if key not in self._known:
            picture = self.picture
            pixels = self.codec.synthesise(y_hat, self.quality, picture.height, picture.width)
            pixels = finish(pixels, grey=picture.grey).pixels
            mse = mean_squared_error(picture.pixels, pixels)
            self._known[key] = (pixels, mse, self.similarity(pixels))
        return self._known[key]


def _measure(
    codec: Codec,
    picture: Picture,
    qualities: Sequence[float],
    seed: int,
    exhibit_at: float | None,
    advance: Callable[[str], None],
) -> _Measurement:
    """Every rung on one picture."""
    label = Path(picture.name).name
    similarity_to = SimilarityTo(picture.pixels)
    table: list[list[Point]] = [[] for _ in LADDER]
    exhibit = None
    for quality in qualities:
        latents = codec.latents(picture, quality)
        view = _Viewer(codec, picture, quality, similarity_to)
        climbs: dict[str, Climb] = {}
        for rung, points in zip(LADDER, table, strict=True):
            reached = climb(rung, latents, seed=seed)
            _, mse, similarity = view(reached.y_hat)
            parts = {name: bits / picture.pixel_count for name, bits in reached.parts.items()}
            if rung.name == BITSTREAM:
                size = 8 * len(codec.pack(picture, latents, quality)) / picture.pixel_count
                parts["coder overhead"] = size - sum(parts.values())
            psnr = 10.0 * math.log10(255.0**2 / mse) if mse else _PSNR_CEILING
            points.append(Point(quality, sum(parts.values()), psnr, similarity, mse, parts))
            climbs[rung.name] = reached
            advance(label)
        if quality == exhibit_at:
            decoded, _, _ = view(climbs[BITSTREAM].y_hat)
            exhibit = _exhibit(picture, decoded, table[0][-1], latents, climbs)
    facts = {"name": picture.name, "width": picture.width, "height": picture.height}
    return _Measurement(facts, table, exhibit)


def _measure_all(
    codec: Codec,
    items: Sequence[Any],
    qualities: Sequence[float],
    seed: int,
    exhibit_at: float,
    progress: Callable[[int, int, str], None],
) -> list[_Measurement]:
    total = len(items) * len(qualities) * len(LADDER)
    done = itertools.count(1)
    one_by_one = threading.Lock()
    progress(0, total, "")

    def one(index: int, check: Callable[[], None]) -> _Measurement:
        def advance(what: str) -> None:
            check()
            with one_by_one:
                progress(next(done), total, what)

        picture = as_picture(items[index], f"image {index + 1}")
        if picture.pixel_count > _MOST_PIXELS:
            raise ImageError(
                f"{picture.name}: has {picture.pixel_count:,} pixels; a ladder holds all of its "
                f"latents at once, and takes at most {_MOST_PIXELS:,}"
            )
        shown = exhibit_at if index < _MAX_EXHIBITS else None
        return _measure(codec, picture, qualities, seed, shown, advance)

    return list(side_by_side(one, len(items)))


def _exhibit(
    picture: Picture,
    decoded: NDArray[np.uint8],
    point: Point,
    latents: Latents,
    climbs: dict[str, Climb],
) -> Exhibit:
    shown = {
        "rounding": climbs["ideal coder"],
        "test channel": climbs["test channel"],
        "oracle, test channel": climbs["oracle, test channel"],
    }
    # The liveliest channel that is not flat in most places shows the difference best.
    spent = shown["rounding"].latent_bits.sum((1, 2))
    channel = int(spent.argmax())
    return Exhibit(
        picture.name,
        picture.pixels,
        decoded,
        point.bpp,
        point.psnr,
        channel,
        latents.y[channel].numpy(),
        {name: c.y_hat[channel].numpy() for name, c in shown.items()},
        {name: c.latent_bits.float().sum(0).numpy() for name, c in shown.items()},
    )


def _mean(points: Sequence[Point]) -> Point:
    similarities = [p.ms_ssim for p in points if not math.isnan(p.ms_ssim)]
    parts = {name: float(np.mean([p.parts[name] for p in points])) for name in points[0].parts}
    return Point(
        points[0].quality,
        float(np.mean([p.bpp for p in points])),
        float(np.mean([p.psnr for p in points])),
        float(np.mean(similarities)) if similarities else math.nan,
        float(np.mean([p.mse for p in points])),
        parts,
    )


def limits(
    codec: Codec,
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
        The codec; its networks stay as they are.
    images
        Paths, PIL images, uint8 arrays or :class:`~waterfill.data.images.Picture`.
    quality
        One quality from 1 to 8, several, or ``None`` for all whole ones that the codec covers. The
        table is at the middle one; with a single quality, rates at equal PSNR are first-order
        estimates.
    seed
        Of the noise of channels.
    progress
        Called with steps done, steps in all, and the name of the picture at hand.

    Raises
    ------
    ImageError
        If there is no picture, or one can't be used.
    QualityError
        If a quality is out of range.
    """
    if quality is None:
        low, high = codec.config.qualities
        chosen = [float(q) for q in QUALITIES if low <= q <= high] or [low]
    elif isinstance(quality, int | float):
        chosen = [codec.check_quality(quality)]
    else:
        chosen = sorted({codec.check_quality(q) for q in quality})
    if isinstance(images, str | os.PathLike | Image.Image | np.ndarray | Picture):
        images = [images]
    items = list(images)
    if not items or not chosen:
        raise ImageError("no pictures to measure")
    main_quality = chosen[(len(chosen) - 1) // 2]

    measured = _measure_all(codec, items, chosen, seed, main_quality, progress)
    rows = [
        {"image": one.picture["name"], "rung": rung.name, "status": rung.status.value}
        | point.__dict__
        for one in measured
        for rung, points in zip(LADDER, one.points, strict=True)
        for point in points
    ]
    curves = {
        rung.name: tuple(_mean([one.points[k][j] for one in measured]) for j in range(len(chosen)))
        for k, rung in enumerate(LADDER)
    }
    main = chosen.index(main_quality)
    file = curves[BITSTREAM][main]
    at = rates_at_equal_psnr(curves, file)
    decomposition = decompose(curves, file, at)
    results: list[RungResult] = []
    for rung in LADDER:
        curve = curves[rung.name]
        here, equal = curve[main], at[rung.name]
        above = results[-1].bpp_at_equal_psnr - equal if results else None
        results.append(
            RungResult(
                rung.name,
                rung.status.value,
                rung.meaning,
                here.bpp,
                here.psnr,
                here.ms_ssim,
                here.parts,
                curve,
                equal,
                above,
            )
        )
    return Ladder(
        codec.name,
        main_quality,
        tuple(one.picture for one in measured),
        tuple(results),
        decomposition,
        tuple(rows),
        tuple(one.exhibit for one in measured if one.exhibit is not None),
        environment(seed),
    )
