"""The page of a reproduction: its figure, our numbers beside the paper's, and the verdicts."""

from __future__ import annotations

from html import escape
from typing import Any

import plotly.graph_objects as go

from waterfill.report import figures
from waterfill.report.figures import GENIE, plain
from waterfill.report.maps import diverging
from waterfill.report.page import fill
from waterfill.report.text import provenance
from waterfill.reproduce.result import Reproduction

__all__ = ["render_reproduction"]

#: Axes on which these are plotted by their logarithm.
_LOGARITHMIC = (
    "variance (squared steps)",
    "rate (bits per digit)",
    "squared error per digit",
)


#: Names that the legend has room for, and pixels for each more.
_ROOM, _ROW = 10, 20


def render_reproduction(found: Reproduction) -> str:
    """A reproduction as the text of one self-contained HTML file."""
    scale = diverging(list(found.pictures.values())) if found.pictures else None
    maps = {
        name: (scale.paint(values), f"{values.shape[1]} / {values.shape[0]}")
        for name, values in found.pictures.items()
        if scale is not None
    }
    drawn: dict[str, Any] = {"lines": plain(_figure(found))} if found.lines else {}
    return fill(
        "reproduction.html.j2",
        found=found,
        maps=maps,
        scale=scale,
        figures=drawn,
        provenance=provenance(dict(found.environment)),
    )


def _figure(found: Reproduction) -> go.Figure:
    """The lines, those of a genie dashed and named so."""
    x_title, y_title = found.axes
    named = sum(not line.beside for line in found.lines)
    figure = figures.blank(x_title, y_title, height=560 + _ROW * max(0, named - _ROOM))
    index = -1
    for line in found.lines:
        # One beside another goes with it, and has no name of its own in the legend.
        index += not line.beside
        colour = figures.colour_of(index)
        name = escape(line.name)
        figure.add_scatter(
            x=line.x,
            y=line.y,
            name=f"{name} ({GENIE})" if line.genie else name,
            legendgroup=str(index),
            showlegend=not line.beside,
            mode="lines+markers" if len(line.x) < 20 else "lines",
            line={
                "color": colour,
                "width": 1 if line.beside else 3 if index == 0 else 2,
                "dash": "dash" if line.genie else "solid",
            },
            marker={
                "symbol": figures.symbol_of(index),
                "size": 5 if line.beside else 8,
                "color": colour,
            },
        )
    if x_title in _LOGARITHMIC:
        figure.update_xaxes(type="log")
    if y_title in _LOGARITHMIC:
        figure.update_yaxes(type="log")
    return figure
