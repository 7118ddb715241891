"""How far a codec is from its limits: every rung, on every picture, at every rate."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import os
import platform
import sys
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from waterfill.codec.gains import QUALITIES, check_quality, lambda_of_quality
from waterfill.codec.model import Codec, Latents, finish
from waterfill.data.images import ImageLike, Picture, as_picture
from waterfill.errors import ImageError
from waterfill.evaluation.curves import rate_at_psnr
from waterfill.evaluation.metrics import SimilarityTo, mean_squared_error
from waterfill.files import write_whole
from waterfill.ladder.rungs import BITSTREAM, LADDER, Climb, Status, climb

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Decomposition", "Exhibit", "Ladder", "Point", "RungResult", "limits"]

_MAX_EXHIBITS = 4
#: PSNR of a perfect copy, so that means stay finite: one 8-bit step in one sample of a megapixel.
_PSNR_CEILING = 110.0


@dataclass(frozen=True)
class Point:
    """One rung, one picture (or a mean over pictures), one quality.

    Rates are in bits per pixel of the picture, ``psnr`` in dB, ``ms_ssim`` NaN where pictures are
    too small for it. ``parts`` splits ``bpp`` by what the bits buy.
    """

    quality: float
    bpp: float
    psnr: float
    ms_ssim: float
    mse: float
    parts: dict[str, float]


@dataclass(frozen=True)
class RungResult:
    """A rung over all pictures.

    Attributes
    ----------
    name, status, meaning
        As in :class:`~waterfill.ladder.rungs.Rung`.
    bpp, psnr, ms_ssim, parts
        Means over the pictures at the ladder's quality.
    curve
        Means over the pictures at every quality measured, ascending.
    bpp_at_equal_psnr
        Rate of this rung at the PSNR of the rung ``bitstream``, read off the curve.
    saved_bpp
        Bits per pixel saved against the rung above at that PSNR; negative where it costs more.
    """

    name: str
    status: str
    meaning: str
    bpp: float
    psnr: float
    ms_ssim: float
    parts: dict[str, float]
    curve: tuple[Point, ...]
    bpp_at_equal_psnr: float
    saved_bpp: float | None


@dataclass(frozen=True)
class Decomposition:
    """Where the bits between the file and the genie-aided limit go, at equal PSNR, in bpp.

    ``coder_overhead + quantisation + side_information + variance`` is ``achieved − limit``, with
    the signs as measured. ``limit`` and ``variance`` are genie-aided; ``honest`` is the lowest
    rate of an achievable rung.
    """

    psnr: float
    achieved_bpp: float
    coder_overhead_bpp: float
    quantisation_bpp: float
    side_information_bpp: float
    variance_bpp: float
    limit_bpp: float
    honest_rung: str
    honest_bpp: float
    tightest_group: str
    tightest_group_bpp: float
    method: str

    @property
    def sentence(self) -> str:
        """What holds the codec back, in one sentence."""
        losses = {
            "not knowing each latent's variance": self.variance_bpp,
            "side information": self.side_information_bpp,
            "scalar quantisation": self.quantisation_bpp,
            "the entropy coder": self.coder_overhead_bpp,
        }
        largest = max(losses, key=lambda name: losses[name])
        gap = self.achieved_bpp - self.limit_bpp
        gain = self.achieved_bpp - self.honest_bpp
        text = (
            f"At {self.psnr:.2f} dB this codec spends {self.achieved_bpp:.3f} bpp, "
            f"{gap:+.3f} against the genie-aided limit of {self.limit_bpp:.3f}; what holds it back "
            f"most is {largest} ({losses[largest]:.3f} bpp"
        )
        if largest.startswith("not knowing"):
            text += ", genie-aided: no real codec can have all of it"
        if gain > 1e-3 and self.honest_rung not in (BITSTREAM, "ideal coder"):
            text += (
                f"), while the best achievable rung, {self.honest_rung}, "
                f"saves {gain:.3f} bpp ({100 * gain / self.achieved_bpp:.0f} %)."
            )
        else:
            text += "), and no achievable rung of this ladder does better than its own coder."
        return text


@dataclass(frozen=True)
class Exhibit:
    """What the report shows of one picture; maps are (h, w) or (M, h, w) at latent resolution."""

    name: str
    original: NDArray[np.uint8]
    decoded: NDArray[np.uint8]
    bpp: float
    psnr: float
    channel: int
    y: NDArray[np.float32]
    y_hat: dict[str, NDArray[np.float32]]
    bits: dict[str, NDArray[np.float32]]


@dataclass(frozen=True)
class Ladder:
    """The result of :func:`limits`.

    Attributes
    ----------
    codec
        Name of the codec.
    quality
        The quality of the table; curves hold all that were measured.
    images
        Name, width and height of every picture.
    rungs
        One result per rung, from the file to the genie-aided limit.
    decomposition
        Where the bits between them go.
    rows
        Every measurement: picture, rung, quality.
    exhibits
        Material for the report, of the first pictures.
    environment
        Versions, machine, seed and date.
    """

    codec: str
    quality: float
    images: tuple[dict[str, Any], ...]
    rungs: tuple[RungResult, ...]
    decomposition: Decomposition
    rows: tuple[dict[str, Any], ...]
    exhibits: tuple[Exhibit, ...] = field(repr=False)
    environment: dict[str, Any] = field(repr=False)

    def to_dict(self) -> dict[str, Any]:
        """The ladder as JSON-able data; NaN becomes ``None``."""
        decomposition = {
            **{k: v for k, v in self.decomposition.__dict__.items()},
            "sentence": self.decomposition.sentence,
        }
        rungs = []
        for rung in self.rungs:
            row = {k: v for k, v in rung.__dict__.items() if k != "curve"}
            row["curve"] = [dict(point.__dict__) for point in rung.curve]
            rungs.append(row)
        result = {
            "codec": self.codec,
            "quality": self.quality,
            "images": list(self.images),
            "rungs": rungs,
            "decomposition": decomposition,
            "rows": list(self.rows),
            "environment": self.environment,
        }
        cleaned: dict[str, Any] = _without_nan(result)
        return cleaned

    def to_json(self) -> str:
        """The ladder as JSON text."""
        return json.dumps(self.to_dict(), indent=1, ensure_ascii=False, allow_nan=False) + "\n"

    def to_frame(self) -> pd.DataFrame:
        """Every measurement as a pandas table: one row per picture, rung and quality."""
        import pandas as pd

        rows = [{k: v for k, v in row.items() if k != "parts"} for row in self.rows]
        return pd.DataFrame(rows)

    def report(self, path: str | os.PathLike[str]) -> None:
        """Write the self-contained HTML report, whole or not at all.

        Raises
        ------
        WaterfillError
            If the file can't be written.
        """
        from waterfill.report.html import render

        write_whole(path, render(self))


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _without_nan(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return str(value) if isinstance(value, Status) else value


def environment(seed: int) -> dict[str, Any]:
    """What a number depends on besides the codec: versions, machine class, threads, seed, date."""
    packages = ("waterfill", "torch", "numpy", "constriction", "pillow")
    return {
        "command": " ".join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "seed": seed,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()}",
        "threads": torch.get_num_threads(),
        "versions": {"python": platform.python_version()} | {p: version(p) for p in packages},
    }


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

    def __call__(self, y_hat: torch.Tensor) -> tuple[NDArray[np.uint8], float, float]:
        """Pixels, MSE and MS-SSIM."""
        key = hashlib.sha256(y_hat.numpy().tobytes()).digest()
        if key not in self._known:
            picture = self.picture
            pixels = self.codec.synthesise(y_hat, self.quality, picture.height, picture.width)
            pixels = finish(pixels, grey=picture.grey).pixels
            mse = mean_squared_error(picture.pixels, pixels)
            self._known[key] = (pixels, mse, self.similarity(pixels))
        return self._known[key]


# Channels draw from torch's global generator, which climbs side by side must not share.
_ONE_DRAW = threading.Lock()


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
            with _ONE_DRAW:
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
    """Pictures side by side, each on one core: two do more than one picture on two cores."""
    total = len(items) * len(qualities) * len(LADDER)
    done = itertools.count(1)
    progress(0, total, "")

    def one(index: int) -> _Measurement:
        shown = exhibit_at if index < _MAX_EXHIBITS else None
        picture = as_picture(items[index], f"image {index + 1}")
        return _measure(
            codec,
            picture,
            qualities,
            seed,
            shown,
            lambda what: progress(next(done), total, what),
        )

    threads = torch.get_num_threads()
    if len(items) == 1 or threads == 1:
        return [one(index) for index in range(len(items))]
    try:
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            waiting = [pool.submit(one, index) for index in range(len(items))]
            try:
                return [future.result() for future in waiting]
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
    finally:
        torch.set_num_threads(threads)


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


def _log_slope(point: Point) -> float:
    """d ln R / d PSNR of a codec that trades bpp + λ·255²·MSE: its own price of a decibel."""
    mse = 255.0**2 * 10.0 ** (-point.psnr / 10.0)
    bpp_per_db: float = lambda_of_quality(point.quality) * mse * math.log(10.0) / 10.0
    return bpp_per_db / max(point.bpp, 1e-12)


def _efficient(curve: Sequence[Point]) -> list[Point]:
    """The points that no other beats in both rate and PSNR, ascending.

    At low rates an idealised channel can stall: a higher quality that costs more and shows less.
    Nobody would work there.
    """
    kept: list[Point] = []
    for point in sorted(curve, key=lambda p: (-p.psnr, p.bpp)):
        if not kept or point.bpp < kept[-1].bpp:
            kept.append(point)
    return kept[::-1]


def _read_curve(curve: Sequence[Point], psnr: float, part: str | None = None) -> float:
    """bpp of a curve, or of one part of it, at a PSNR."""
    points = _efficient(curve)
    rates = [p.bpp if part is None else p.parts[part] for p in points]
    if min(rates) <= 0:
        return 0.0
    slopes = [_log_slope(p) for p in points]
    return rate_at_psnr(rates, [p.psnr for p in points], psnr, slopes)


def _decompose(curves: dict[str, tuple[Point, ...]], main: Point) -> Decomposition:
    at = {name: _read_curve(curve, main.psnr) for name, curve in curves.items()}
    at[BITSTREAM] = main.bpp
    overhead = main.parts["coder overhead"]
    at["ideal coder"] = main.bpp - overhead  # the same pixels: no reading of curves
    side = _read_curve(curves["test channel"], main.psnr, "side information")
    limit = at["oracle, test channel"]
    status = {rung.name: rung.status for rung in LADDER}
    honest = min((n for n in at if status[n] != Status.GENIE), key=lambda n: at[n])
    group = min((n for n in at if n.startswith("grouped")), key=lambda n: at[n])
    single = len(curves[BITSTREAM]) == 1
    return Decomposition(
        psnr=main.psnr,
        achieved_bpp=main.bpp,
        coder_overhead_bpp=overhead,
        quantisation_bpp=at["ideal coder"] - at["test channel"],
        side_information_bpp=side,
        variance_bpp=at["test channel"] - limit - side,
        limit_bpp=limit,
        honest_rung=honest,
        honest_bpp=at[honest],
        tightest_group=group,
        tightest_group_bpp=at[group],
        method=(
            "one rate: rates moved to equal PSNR along the codec's own λ, a first-order estimate"
            if single
            else "rates read off the measured curves at equal PSNR (PCHIP in log rate)"
        ),
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
        One quality from 1 to 8, several, or ``None`` for all eight. The table is at the middle
        one; with a single quality, rates at equal PSNR are first-order estimates.
    seed
        Of the noise of channels.
    progress
        Called with steps done, steps in all, and the name of the picture at hand.

    Raises
    ------
    ImageError
        If there is no picture, or one can't be used.
    ValueError
        If a quality is out of range.
    """
    if quality is None:
        chosen = [float(q) for q in QUALITIES]
    elif isinstance(quality, int | float):
        chosen = [check_quality(quality)]
    else:
        chosen = sorted({check_quality(q) for q in quality})
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
    decomposition = _decompose(curves, curves[BITSTREAM][main])
    results: list[RungResult] = []
    for rung in LADDER:
        curve = curves[rung.name]
        here = curve[main]
        if rung.name in (BITSTREAM, "ideal coder"):
            equal = here.bpp
        else:
            equal = _read_curve(curve, decomposition.psnr)
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
