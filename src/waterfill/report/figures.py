"""The report's figures: rate–distortion curves, where the bits go, and by which channel."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import plotly.graph_objects as go

from waterfill.ladder.result import TERMS, Ladder
from waterfill.ladder.rungs import CONTEXT, IDEAL, UNKNOWN_VARIANCE, Status
from waterfill.report.text import number

__all__ = [
    "DARK",
    "GENIE",
    "Step",
    "blank",
    "channels",
    "colour_of",
    "decomposition",
    "plain",
    "rate_distortion",
    "steps",
    "symbol_of",
]

#: How anything that only a genie could reach is named, in every figure and table.
GENIE = Status.GENIE.value

_INK = "#1f2328"
_GRID = "#d9dce0"
_QUIET = "#767676"
_LOSS = "#0072b2"
_ACHIEVABLE = "#00795a"
_GENIE_DARK = "#c04a00"
_GENIE_LIGHT = "#f7d9c8"
#: Okabe and Ito's hues, darkened until they read on white; the markers tell lines apart as well.
_SERIES = (
    _QUIET,
    "#b97800",
    "#0072b2",
    "#00795a",
    "#2f8fc4",
    "#a8487f",
    "#7a6a00",
    "#c04a00",
    "#5b3fa0",
    "#8a4b2a",
    "#4d6d9a",
    "#b5305f",
    "#4f7f1f",
    "#3d3d8f",
    "#8f3fa0",
)
_SYMBOLS = (
    "circle",
    "circle-open",
    "square",
    "diamond",
    "triangle-up",
    "triangle-down",
    "pentagon",
    "hexagram",
    "cross",
    "x",
    "star",
    "triangle-left",
    "triangle-right",
    "diamond-open",
    "square-open",
    "hexagon",
)

#: What each colour of a figure becomes on a dark page.
DARK: dict[str, str] = {
    _INK: "#e6e6e6",
    _GRID: "#3a3f45",
    _GENIE_LIGHT: "#4a2a18",
    _QUIET: "#a8a8a8",
    "#b97800": "#e69f00",
    "#0072b2": "#56a8e0",
    "#00795a": "#2bbd93",
    "#2f8fc4": "#8ad0f7",
    "#a8487f": "#e39ac4",
    "#7a6a00": "#d9c840",
    "#c04a00": "#ff8a4a",
    "#5b3fa0": "#b6a0f0",
    "#8a4b2a": "#d79a76",
    "#4d6d9a": "#9fbbe0",
    "#b5305f": "#f283a8",
    "#4f7f1f": "#9fd066",
    "#3d3d8f": "#a3a3f2",
    "#8f3fa0": "#e29af0",
}


def blank(x_title: str, y_title: str, height: int) -> go.Figure:
    """An empty figure on a transparent page, with units on its axes."""
    figure = go.Figure()
    axis = {
        "gridcolor": _GRID,
        "zerolinecolor": _GRID,
        "linecolor": _INK,
        "showline": True,
        "ticks": "outside",
        "tickcolor": _INK,
    }
    figure.update_layout(
        template=go.layout.Template(),
        height=height,
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"family": "system-ui, sans-serif", "size": 13, "color": _INK},
        hovermode="closest",
        modebar={
            "bgcolor": "rgba(0,0,0,0)",
            "color": _QUIET,
            "activecolor": _INK,
            "remove": ["select2d", "lasso2d"],
        },
        margin={"l": 60, "r": 16, "t": 48, "b": 56},
        # At the figure's lower edge, whatever its size: a share of the plot's height would move it
        # into the axis title where many lines of names leave little of the plot.
        legend={"orientation": "h", "x": 0, "y": 0, "yref": "container", "yanchor": "bottom"},
    )
    figure.update_xaxes(title_text=x_title, automargin=True, **axis)
    figure.update_yaxes(title_text=y_title, **axis)
    return figure


#: Curves this many times above the codec's rate are hidden until asked for.
_FAR = 3.0


def plain(figure: go.Figure) -> Any:
    """A figure as plain data, for a template to write as JSON that no text can break out of."""
    return json.loads(figure.to_json())


def colour_of(index: int) -> str:
    """Colour of a line: the first is drawn in ink."""
    return _INK if index == 0 else _SERIES[(index - 1) % len(_SERIES)]


def symbol_of(index: int) -> str:
    """Marker of a line."""
    return _SYMBOLS[index % len(_SYMBOLS)]


def rate_distortion(ladder: Ladder) -> go.Figure:
    """R–D curves of all rungs: means over the pictures at every quality measured.

    Parameters
    ----------
    ladder
        What was measured. A ladder of one quality has markers and no lines.

    Returns
    -------
    go.Figure
        Rate in bpp against PSNR in dB, one trace per rung; genie-aided rungs are dashed and named
        so in the legend. Buttons switch the rate axis between linear and logarithmic.
    """
    figure = blank("rate (bpp)", "PSNR (dB)", height=620)
    highest = ladder.decomposition.achieved_bpp
    for index, rung in enumerate(ladder.rungs):
        genie = rung.status == GENIE
        colour = colour_of(index)
        name = escape(rung.name)
        # One that comes nowhere near the codec's PSNR costs what it costs where it is.
        equal = rung.bpp_at_equal_psnr
        cost = rung.bpp if math.isnan(equal) else equal
        figure.add_scatter(
            x=[point.bpp for point in rung.curve],
            y=[point.psnr for point in rung.curve],
            customdata=[[escape(point.label)] for point in rung.curve],
            name=f"{name} ({GENIE})" if genie else name,
            mode="lines+markers" if len(rung.curve) > 1 else "markers",
            # One that costs several times as much would squeeze all others into a corner.
            visible="legendonly" if cost > _FAR * highest else True,
            line={
                "color": colour,
                "width": 2 if index else 4,
                "dash": "dash" if genie else "solid",
            },
            marker={"symbol": symbol_of(index), "size": 8, "color": colour},
            hovertemplate=(
                f"<b>{name}</b> ({escape(rung.status)})<br>%{{x:.4f}} bpp, %{{y:.2f}} dB"
                "<br>%{customdata[0]}<extra></extra>"
            ),
        )
    figure.add_hline(
        y=ladder.decomposition.psnr, line={"color": _INK, "width": 1, "dash": "dot"}, layer="below"
    )
    scales = (("linear", "auto", "linear rate"), ("log", "array", "logarithmic rate"))
    # On a logarithmic axis plotly's own ticks are bare digits, which do not read as rates.
    figure.update_xaxes(
        tickmode="auto",
        tickvals=[m * 10.0**e for e in range(-4, 3) for m in (1, 2, 3, 5, 7)],
        tickformat="~r",
    )
    figure.update_layout(
        updatemenus=[
            {
                "type": "buttons",
                "direction": "right",
                "x": 0,
                "xanchor": "left",
                "y": 1.01,
                "yanchor": "bottom",
                "pad": {"t": 0, "b": 2},
                # plotly.js paints the active button nearly white whatever the page looks like, so
                # these two keep dark text on light in both themes.
                "bgcolor": "#d0d4d9",
                "font": {"color": "#111111"},
                "buttons": [
                    {
                        "label": label,
                        "method": "relayout",
                        "args": [{"xaxis.type": scale, "xaxis.tickmode": ticks}],
                    }
                    for scale, ticks, label in scales
                ],
            }
        ]
    )
    return figure


@dataclass(frozen=True)
class Step:
    """One column of the waterfall: where it starts, and by how much it changes the rate, in bpp.

    A loss has a negative change. The first and the last step start at zero: they are rates.
    """

    label: str
    base_bpp: float
    change_bpp: float
    genie: bool

    @property
    def lowest_bpp(self) -> float:
        """Where the column's lower end is."""
        return min(self.base_bpp, self.base_bpp + self.change_bpp)

    @property
    def highest_bpp(self) -> float:
        """Where its upper end is."""
        return max(self.base_bpp, self.base_bpp + self.change_bpp)


def steps(ladder: Ladder) -> tuple[Step, ...]:
    """The way from the first rung to the genie-aided limit, column by column, signs as measured.

    The first rung is the file, and the ideal coder of a codec that makes none.
    """
    parts = ladder.decomposition
    columns = [Step(ladder.rungs[0].name, 0.0, parts.achieved_bpp, False)]
    level = parts.achieved_bpp
    for term, name in TERMS.items():
        loss, genie = getattr(parts, f"{term}_bpp"), term == "variance"
        columns.append(Step(f"{name} ({GENIE})" if genie else name, level, -loss, genie))
        level -= loss
    columns.append(Step(f"limit ({GENIE})", 0.0, parts.limit_bpp, True))
    return tuple(columns)


def decomposition(ladder: Ladder) -> go.Figure:
    """Waterfall from the first rung to the genie-aided limit at equal PSNR.

    Floating bars instead of plotly's own waterfall trace, which can't hatch single columns: what
    is genie-aided must not look like what is measured.

    Returns
    -------
    go.Figure
        Rate in bpp. A negative loss goes up. The line is the lowest rate that is achievable.
    """
    figure = blank("", "rate (bpp)", height=520)
    parts, columns = ladder.decomposition, steps(ladder)
    labels = [_broken(column.label) for column in columns]
    last = len(columns) - 1
    said = [number(column.change_bpp, sign=0 < i < last) for i, column in enumerate(columns)]
    groups = (
        (f"rate of the {escape(columns[0].label)}", _INK, [0]),
        ("loss of the codec", _LOSS, [i for i in range(1, last) if not columns[i].genie]),
        (GENIE, _GENIE_DARK, [i for i in range(1, last + 1) if columns[i].genie]),
    )
    for name, colour, members in groups:
        chosen = [columns[i] for i in members]
        genie = name == GENIE
        figure.add_bar(
            x=[labels[i] for i in members],
            y=[column.change_bpp for column in chosen],
            base=[column.base_bpp for column in chosen],
            name=name,
            text=[said[i] for i in members],
            textposition="none",
            marker=_hatched("/")
            if genie
            else {"color": colour, "line": {"color": colour, "width": 1.5}},
            hovertemplate="%{x}<br>%{text} bpp<extra></extra>",
        )
    level = columns[0].change_bpp
    for i in range(last):
        if i:
            level += columns[i].change_bpp
        figure.add_shape(
            type="line",
            x0=i + 0.35,
            x1=i + 0.65,
            y0=level,
            y1=level,
            line={"color": _INK, "width": 1},
        )
    figure.add_scatter(
        x=labels,
        y=[parts.best_achievable_bpp] * len(labels),
        mode="lines",
        name=f"lowest rate without a genie: {escape(parts.best_achievable_rung)}",
        line={"color": _ACHIEVABLE, "width": 2, "dash": "dot"},
        hovertemplate=f"{escape(parts.best_achievable_rung)}<br>%{{y:.4f}} bpp<extra></extra>",
    )
    placed = list(_labelled(columns, parts.best_achievable_bpp))
    figure.add_scatter(
        x=labels,
        y=[place for place, _ in placed],
        mode="text",
        text=said,
        textposition=["top center" if above else "bottom center" for _, above in placed],
        cliponaxis=False,
        hoverinfo="skip",
        showlegend=False,
    )
    figure.update_layout(barmode="overlay", bargap=0.3)
    figure.update_xaxes(categoryorder="array", categoryarray=labels, tickangle=0)
    figure.update_yaxes(rangemode="tozero")
    return figure


#: Height of a line of text, and its distance from a column, of the highest column's.
_LINE_OF_TEXT, _DISTANCE = 0.06, 0.012


def _labelled(columns: Sequence[Step], line_bpp: float) -> Iterator[tuple[float, bool]]:
    """Where each column's label goes, and whether above: at its end, unless the line runs there."""
    unit = max(column.highest_bpp for column in columns)
    room, distance = _LINE_OF_TEXT * unit, _DISTANCE * unit
    for column in columns:
        low, high = column.lowest_bpp, column.highest_bpp
        crossed_above, crossed_below = (
            high <= line_bpp <= high + room,
            low - room <= line_bpp <= low,
        )
        if column.change_bpp >= 0.0:
            above = low <= 0.0 or not crossed_above or crossed_below
        else:
            above = crossed_below and not crossed_above
        yield (high + distance if above else low - distance), above


def _hatched(shape: str) -> dict[str, Any]:
    """How bars are filled that are genie-aided, in one of plotly's patterns."""
    return {
        "color": _GENIE_LIGHT,
        "line": {"color": _GENIE_DARK, "width": 1.5},
        "pattern": {
            "shape": shape,
            "fgcolor": _GENIE_DARK,
            "bgcolor": _GENIE_LIGHT,
            "solidity": 0.25,
        },
    }


#: Channels that the figure has room for, those that spend most.
_MOST_CHANNELS = 64


def channels(ladder: Ladder) -> go.Figure:
    """Bits of each channel of the latents, those that spend most first.

    Returns
    -------
    go.Figure
        In bpp: what rounding spends, and in stacked bars what the test channel with a context
        spends. Its split by whether variances are told is genie-aided, and hatched.
    """
    figure = blank("channel of the latents", "rate (bpp)", height=420)
    rounding = ladder.channels[IDEAL]
    chosen = rounding.argsort()[::-1][:_MOST_CHANNELS]
    labels = [str(channel) for channel in chosen]
    unknown = ladder.channels[UNKNOWN_VARIANCE][chosen]
    told = ladder.channels[CONTEXT][chosen] - unknown
    figure.add_bar(
        x=labels,
        y=told.tolist(),
        name="context, variances told (genie-aided)",
        marker=_hatched("/"),
        hovertemplate="channel %{x}<br>%{y:.5f} bpp<extra></extra>",
    )
    figure.add_bar(
        x=labels,
        y=unknown.tolist(),
        name=UNKNOWN_VARIANCE,
        marker=_hatched("x"),
        hovertemplate="channel %{x}<br>%{y:.5f} bpp<extra></extra>",
    )
    figure.add_scatter(
        x=labels,
        y=rounding[chosen].tolist(),
        name="rounding, as coded",
        mode="markers",
        marker={"symbol": "line-ew-open", "size": 9, "color": _INK, "line": {"width": 2}},
        hovertemplate="channel %{x}<br>%{y:.5f} bpp<extra></extra>",
    )
    figure.update_layout(barmode="stack", bargap=0.2)
    figure.update_xaxes(type="category")
    return figure


def _broken(label: str) -> str:
    """One word a line, so that columns stay narrow."""
    return escape(label).replace(" ", "<br>")
