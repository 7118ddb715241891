"""The page of bounds on a source: curves together, their ceilings, the truth where it is known."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

import plotly.graph_objects as go

from waterfill.estimators import RDCurve, RDPoint, Status
from waterfill.report import figures
from waterfill.report.figures import GENIE, plain
from waterfill.report.page import fill
from waterfill.report.text import number, provenance

__all__ = ["bounds_figure", "render_bounds"]

_COLUMNS = (
    "method",
    "status",
    "λ",
    "D",
    "R",
    "95 % interval of R",
    "ceiling",
    "certificate of R + λD",
    "fresh samples",
    "seed",
    "seconds",
)


def render_bounds(curves: Sequence[RDCurve]) -> str:
    """Curves of one source, in the same units, as the text of one self-contained HTML file."""
    first = curves[0]
    return fill(
        "bounds.html.j2",
        source=first.source,
        units=first.units,
        columns=_COLUMNS,
        rows=[(p.status == GENIE, _cells(p)) for c in curves for p in c.points],
        notes=list(dict.fromkeys(p.note for c in curves for p in c.points if p.note)),
        near=any(p.near_ceiling for c in curves for p in c.points),
        figures={"bounds": plain(bounds_figure(curves))},
        provenance=provenance(dict(first.environment)),
    )


def bounds_figure(curves: Sequence[RDCurve]) -> go.Figure:
    """R over D: each method's points by status, the lower bound's envelope, ceilings, the truth."""
    units = curves[0].units
    figure = figures.blank(f"distortion D ({units.distortion})", f"rate R ({units.rate})", 600)
    for name, line, dash in (
        ("true R(D)", curves[0].truth, "solid"),
        ("Shannon's lower bound", curves[0].shannon, "dot"),
    ):
        if line:
            figure.add_scatter(
                x=[d for d, _ in line],
                y=[r for _, r in line],
                name=name,
                mode="lines",
                line={"color": figures.colour_of(0), "width": 2, "dash": dash},
            )
    index = 0
    for curve in curves:
        for status in Status:
            points = curve.of(status)
            if not points:
                continue
            index += 1
            _series(figure, curve, status, points, index)
    return figure


def _series(
    figure: go.Figure, curve: RDCurve, status: Status, points: Sequence[RDPoint], index: int
) -> None:
    colour = figures.colour_of(index)
    full = figures.symbol_of(index).removesuffix("-open")
    ordered = sorted(points, key=lambda p: p.distortion)
    name = f"{escape(curve.method)} ({status.value})"
    spans = [p.interval or (p.rate, p.rate) for p in ordered]
    figure.add_scatter(
        x=[p.distortion for p in ordered],
        y=[p.rate for p in ordered],
        error_y={
            "type": "data",
            "array": [max(0.0, high - p.rate) for p, (_, high) in zip(ordered, spans, strict=True)],
            # An interval need not be symmetric: no rate is below 0.
            "arrayminus": [
                max(0.0, p.rate - low) for p, (low, _) in zip(ordered, spans, strict=True)
            ],
            "color": colour,
        },
        name=name,
        legendgroup=name,
        mode="markers" if status is Status.LOWER or len(ordered) == 1 else "lines+markers",
        line={"color": colour, "dash": "dash" if status is Status.GENIE else "solid"},
        marker={
            "color": colour,
            "size": 9,
            # Open where the method's ceiling speaks, not the source.
            "symbol": [full + "-open" * p.near_ceiling for p in ordered],
        },
        customdata=[[p.slope, "near its ceiling" if p.near_ceiling else ""] for p in ordered],
        hovertemplate=(
            f"<b>{name}</b><br>D %{{x:.4g}}, R %{{y:.4f}}<br>λ = %{{customdata[0]:.4g}} "
            "%{customdata[1]}<extra></extra>"
        ),
    )
    if status is Status.LOWER:
        lowest = min(0.5 * p.distortion for p in ordered)
        highest = max(1.5 * p.distortion for p in ordered)
        x = [lowest + (highest - lowest) * k / 60 for k in range(61)]
        figure.add_scatter(
            x=x,
            y=[curve.lower_rate(d) for d in x],
            name=f"{name}, highest line",
            legendgroup=name,
            mode="lines",
            line={"color": colour, "width": 2},
        )
        return
    ceilings = {p.ceiling for p in ordered if p.ceiling is not None}
    if ceilings and any(p.near_ceiling for p in ordered):
        ceiling = max(ceilings)
        figure.add_scatter(
            x=[ordered[0].distortion, ordered[-1].distortion],
            y=[ceiling, ceiling],
            name=f"ceiling of {escape(curve.method)}",
            mode="lines",
            line={"color": colour, "width": 1, "dash": "dashdot"},
        )


def _cells(point: RDPoint) -> list[Any]:
    interval, certificate = point.interval, point.certificate
    ceiling = number(point.ceiling, 3)
    return [
        point.method,
        point.status,
        f"{point.slope:.4g}",
        f"{point.distortion:.5g}",
        number(point.rate),
        "exact" if interval is None else _pair(interval, 4),
        f"{ceiling} (near)" if point.near_ceiling else ceiling,
        "—"
        if certificate is None
        else f"{number(certificate[0], 5)} … {number(certificate[1], 5)}",
        point.samples or "—",
        point.seed,
        f"{point.seconds:.1f}",
    ]


def _pair(bounds: tuple[float, float], digits: int) -> str:
    return f"{number(bounds[0], digits)} … {number(bounds[1], digits)}"
