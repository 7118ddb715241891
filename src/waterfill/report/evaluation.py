"""The page of an evaluation: curves, the BD-rate matrix, times, picture by picture."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from waterfill.errors import WaterfillError
from waterfill.evaluation.bd import LEAST_PICTURES
from waterfill.evaluation.published import PublishedCurve
from waterfill.evaluation.result import Comparison, Evaluation
from waterfill.evaluation.rows import Metric, Row
from waterfill.ladder.result import Ladder, Point
from waterfill.report import figures
from waterfill.report.figures import GENIE, plain
from waterfill.report.maps import SMALLEST_WIDTH, crop_for_show, data_uri
from waterfill.report.page import fill
from waterfill.report.text import number, provenance, setting

__all__ = ["DRAWN_RUNGS", "Shown", "render_evaluation"]

#: Rungs of a ladder that are drawn over the codecs.
DRAWN_RUNGS = (
    "learned posterior",
    "+ context",
    "oracle, test channel",
    "oracle, test channel, context",
)
#: Pictures that can be looked at one by one.
_MOST_PICTURES = 200

_UNITS: Mapping[Metric, str] = {"psnr": "PSNR (dB)", "ms_ssim": "MS-SSIM (dB)"}


@dataclass(frozen=True)
class Shown:
    """A picture before and after a codec, uint8 (H, W, 3)."""

    name: str
    codec: str
    bpp: float
    psnr: float
    original: NDArray[np.uint8]
    decoded: NDArray[np.uint8]


def render_evaluation(
    found: Evaluation,
    anchors: Sequence[str],
    *,
    ladders: Mapping[str, Ladder] | None = None,
    shown: Sequence[Shown] = (),
) -> str:
    """An evaluation as the text of one self-contained HTML file.

    Parameters
    ----------
    found
        What was measured.
    anchors
        Measured codecs and published curves that the others are compared with.
    ladders
        Limits to draw over the codecs, by the name of the codec that they are of.
    shown
        Pictures for the slider.
    """
    metrics: list[Metric] = ["psnr"]
    if any(math.isfinite(row.ms_ssim) for row in found.rows):
        metrics.append("ms_ssim")
    published = [curve for name in anchors if (curve := _published(found, name)) is not None]
    matrices = {metric: found.bd_rates(anchors, metric=metric) for metric in metrics}
    limits = _limits(ladders or {})
    return fill(
        "evaluation.html.j2",
        found=found,
        metrics={metric: _UNITS[metric] for metric in metrics},
        sentences=_sentences(found, matrices["psnr"]),
        figures={
            metric: plain(_figure(found, metric, published, limits if metric == "psnr" else []))
            for metric in metrics
        },
        genies=bool(limits),
        limits=limits,
        pictures=_pictures(found, metrics),
        most_pictures=_MOST_PICTURES,
        LEAST_PICTURES=LEAST_PICTURES,
        matrices={metric: _matrix(cells) for metric, cells in matrices.items()},
        caveats=_caveats([cell for cells in matrices.values() for cell in cells]),
        doubts=_doubts(matrices["psnr"]),
        curves=[(codec, found.curve(codec.name)) for codec in found.codecs],
        without_ms_ssim=_without_ms_ssim(found) if "ms_ssim" in metrics else 0,
        published=published,
        shown=[_Slide.of(one) for one in shown],
        provenance=provenance(found.environment),
    )


@dataclass(frozen=True)
class _Limit:
    """A rung of a codec's ladder as the page shows it."""

    name: str
    status: str
    points: Sequence[Point]


def _limits(ladders: Mapping[str, Ladder]) -> list[_Limit]:
    return [
        _Limit(f"{name}: {rung.name}", rung.status, rung.curve)
        for name, ladder in ladders.items()
        for rung in ladder.rungs
        if rung.name in DRAWN_RUNGS
    ]


def _published(found: Evaluation, name: str) -> PublishedCurve | None:
    anchor = found.anchor(name)
    return anchor if isinstance(anchor, PublishedCurve) else None


def _sentences(found: Evaluation, cells: Sequence[Comparison]) -> list[str]:
    """What the matrix says of own codecs, one sentence each, where the pictures are the same."""
    sentences = []
    for codec in found.codecs:
        if codec.kind != "own":
            continue
        parts = []
        for cell in cells:
            if cell.test != codec.name or cell.domain is not None or cell.result is None:
                continue
            if cell.other_pictures:
                continue
            rate = cell.result.rate_percent
            parts.append(
                f"{number(abs(rate), 1)} % {'less' if rate < 0 else 'more'} than {cell.anchor}"
            )
        if parts:
            sentences.append(f"At equal PSNR {codec.name} spends {', '.join(parts)} (BD-rate).")
    return sentences


def _figure(
    found: Evaluation,
    metric: Metric,
    published: Sequence[PublishedCurve],
    limits: Sequence[_Limit],
) -> go.Figure:
    """R–D curves: measured, published (thin), and limits (dashed where genie-aided)."""
    figure = figures.blank("rate (bpp)", _UNITS[metric], height=620)
    lines, every = 0, len(found.rows) // sum(len(codec.settings) for codec in found.codecs)

    def line(
        name: str, points: NDArray[np.float64], notes: Sequence[str], kind: str, key: str = ""
    ) -> None:
        nonlocal lines
        colour, genie = figures.colour_of(lines), kind == GENIE
        figure.add_scatter(
            x=points[:, 0].tolist(),
            y=points[:, 1].tolist(),
            customdata=[[escape(note)] for note in notes],
            name=escape(f"{name} ({GENIE})" if genie else name),
            meta=key,
            mode="lines+markers" if len(points) > 1 else "markers",
            line={
                "color": colour,
                "width": {"own": 4, "conventional": 2}.get(kind, 1.5),
                "dash": "dash" if genie else "dot" if kind == "published" else "solid",
            },
            marker={"symbol": figures.symbol_of(lines), "size": 7, "color": colour},
            hovertemplate=(
                f"<b>{escape(name)}</b> ({escape(kind)})<br>%{{x:.4f}} bpp, %{{y:.2f}} dB"
                "<br>%{customdata[0]}<extra></extra>"
            ),
        )
        lines += 1

    for codec in found.codecs:
        means = found.curve(codec.name, metric=metric)
        summaries = [s for s in means if math.isfinite(s.quality(metric))]
        points = np.array([(s.bpp, s.quality(metric)) for s in summaries]).reshape(-1, 2)
        notes = [f"{setting(s.setting)}, {_which(s.pictures, every)}" for s in summaries]
        line(codec.title, points, notes, codec.kind, codec.name)
    for limit in limits:
        points = np.array([(p.bpp, p.psnr) for p in limit.points])
        line(limit.name, points, [p.label for p in limit.points], limit.status)
    for curve in published:
        try:
            points = curve.array(metric)
        except WaterfillError:  # without MS-SSIM
            continue
        line(curve.name, points, [curve.source] * len(points), "published")
    return figure


def _which(count: int, every: int) -> str:
    """Over which pictures a mean is: those too small have no MS-SSIM."""
    return "all pictures" if count == every else f"{count} of {every} pictures"


def _without_ms_ssim(found: Evaluation) -> int:
    """Number of pictures that are too small for MS-SSIM, where others are not."""
    name = found.codecs[0].name
    return found.curve(name)[0].pictures - found.curve(name, metric="ms_ssim")[0].pictures


def _pictures(found: Evaluation, metrics: Sequence[Metric]) -> dict[str, Any]:
    """Curves of single pictures, for the page's script: by picture, metric and codec."""
    by_picture: dict[tuple[str, str, str], list[Row]] = {}
    for row in found.rows:
        by_picture.setdefault((row.domain, row.image, row.pixels), []).append(row)
    result: dict[str, Any] = {}
    for (domain, image, pixels), rows in list(by_picture.items())[:_MOST_PICTURES]:
        label = f"{domain}/{image}" if len(found.domains) > 1 else image
        # A name that is no text is written so; the page's script has to find it again.
        label = label.encode(errors="backslashreplace").decode()
        if label in result:  # pictures in memory may share a name
            label = f"{label}, {pixels[:8]}"
        curves: dict[str, dict[str, Any]] = {metric: {} for metric in metrics}
        for row in rows:
            for metric in metrics:
                if math.isfinite(row.quality(metric)):
                    points = curves[metric].setdefault(row.codec, {"x": [], "y": [], "text": []})
                    points["x"].append(round(row.bpp, 5))
                    points["y"].append(round(row.quality(metric), 4))
                    points["text"].append([escape(f"{setting(row.setting)}, {image}")])
        result[label] = curves
    return result


@dataclass(frozen=True)
class _Cell:
    """A cell of the matrix as the page shows it."""

    rate: float
    interval: tuple[float, float] | None
    quality_db: float
    share: float
    doubts: str


def _matrix(cells: Sequence[Comparison]) -> dict[str | None, dict[str, dict[str, _Cell]]]:
    """By domain (None for all pictures), anchor and codec."""
    result: dict[str | None, dict[str, dict[str, _Cell]]] = {}
    for cell in cells:
        row = result.setdefault(cell.domain, {}).setdefault(cell.anchor, {})
        if cell.result is None:
            row[cell.test] = _Cell(math.nan, None, math.nan, 0.0, cell.reason)
            continue
        row[cell.test] = _Cell(
            cell.result.rate_percent,
            cell.result.interval,
            cell.result.quality_db,
            cell.result.share,
            "; ".join(cell.result.warnings),
        )
    return result


def _doubts(cells: Sequence[Comparison]) -> list[str]:
    """What to know of single cells, of all pictures."""
    found = []
    for cell in cells:
        reasons = cell.result.warnings if cell.result is not None else (cell.reason,)
        if cell.domain is None and reasons:
            found.append(f"{cell.test} against {cell.anchor}: {'; '.join(reasons)}")
    return list(dict.fromkeys(found))


def _caveats(cells: Sequence[Comparison]) -> list[str]:
    return list(dict.fromkeys(text for cell in cells for text in cell.caveats))


@dataclass(frozen=True)
class _Slide:
    """A picture as the page shows it."""

    shown: Shown
    width: int
    height: int
    shown_width: int
    cropped: bool
    original: str
    decoded: str

    @classmethod
    def of(cls, one: Shown) -> _Slide:
        original, decoded = crop_for_show(one.original), crop_for_show(one.decoded)
        height, width = original.shape[:2]
        return cls(
            one,
            width,
            height,
            max(width, SMALLEST_WIDTH),
            original.shape != one.original.shape,
            data_uri(original),
            data_uri(decoded),
        )
