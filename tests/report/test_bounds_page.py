"""The page of bounds: it says of each point what it is, and it works in a browser."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from html import unescape
from pathlib import Path
from typing import Any

import pytest
from browser import drawn
from plotly.offline import get_plotlyjs

from waterfill.estimators import RDCurve, RDPoint, Status, Units
from waterfill.report.bounds import render_bounds

HOSTILE = "</script><img src=x onerror=alert(1)>"
UNITS = Units("bits", "mse", 2)
SLOPES = (2.0, 4.0, 8.0, 16.0)


def gaussian(slope: float) -> tuple[float, float]:
    """(D, R) of two standard Gaussians, bits for both."""
    distortion = 1.0 / (slope * math.log(2.0))
    return distortion, -math.log2(distortion)


def made_up(method: str, status: Status, shift: float, ceiling: float | None) -> RDCurve:
    points = []
    for slope in SLOPES:
        distortion, rate = gaussian(slope)
        rate += shift
        points.append(
            RDPoint(
                method=method,
                status=status.value,
                slope=slope,
                distortion=distortion,
                rate=rate,
                lagrangian=rate + slope * distortion,
                interval=(rate - 0.05, rate + 0.05),
                ceiling=ceiling,
                near_ceiling=ceiling is not None and rate > ceiling - 0.5,
                certificate=None,
                samples=1000,
                seed=0,
                seconds=1.0,
                note=f"{method}, made up",
            )
        )
    truth = tuple(gaussian(s) for s in (1.5, *SLOPES, 20.0))
    about = {"command": "made up", "seed": 0}
    return RDCurve(f"two Gaussians {HOSTILE}", method, UNITS, tuple(points), truth, (), about)


CURVES = (
    made_up("wgd", Status.UPPER, 0.1, 4.0),
    made_up("sandwich-lower", Status.LOWER, -0.2, None),
    made_up("ais", Status.ESTIMATE, 0.2, None),
    made_up("limits", Status.GENIE, -0.4, None),
)


def figure_of(page: str) -> dict[str, Any]:
    (text,) = re.findall(
        r'<script type="application/json" id="bounds">(.*?)</script>', page, re.DOTALL
    )
    found: dict[str, Any] = json.loads(unescape(text))
    return found


def test_every_point_is_drawn_under_the_name_of_what_it_is() -> None:
    traces = {trace["name"]: trace for trace in figure_of(render_bounds(CURVES))["data"]}
    assert set(traces) == {
        "true R(D)",
        "wgd (upper bound)",
        "ceiling of wgd",
        "sandwich-lower (lower bound)",
        "sandwich-lower (lower bound), highest line",
        "ais (estimate)",
        "limits (genie-aided)",
    }
    for curve in CURVES:
        (name,) = {f"{p.method} ({p.status})" for p in curve.points}
        ordered = sorted(curve.points, key=lambda p: p.distortion)
        assert traces[name]["x"] == pytest.approx([p.distortion for p in ordered])
        assert traces[name]["y"] == pytest.approx([p.rate for p in ordered])
    assert traces["limits (genie-aided)"]["line"]["dash"] == "dash"
    open_ones = [s.endswith("-open") for s in traces["wgd (upper bound)"]["marker"]["symbol"]]
    assert open_ones == [True, False, False, False]  # within half a bit of its ceiling


def test_bars_reach_from_one_end_of_the_interval_to_the_other() -> None:
    curve = made_up("ais", Status.ESTIMATE, 0.0, None)
    clipped = replace(curve.points[0], rate=0.02, interval=(0.0, 0.12))
    outside = replace(curve.points[1], rate=0.3, interval=(0.4, 0.5))  # as quantiles may be
    exact = replace(curve.points[2], interval=None)
    points = (clipped, outside, exact, curve.points[3])
    (trace,) = (
        t
        for t in figure_of(render_bounds([replace(curve, points=points)]))["data"]
        if t["name"] == "ais (estimate)"
    )
    drawn = dict(
        zip(
            trace["y"],
            zip(trace["error_y"]["arrayminus"], trace["error_y"]["array"], strict=True),
            strict=True,
        )
    )
    assert drawn[0.02] == pytest.approx((0.02, 0.1))
    assert drawn[0.3] == pytest.approx((0.0, 0.2))
    assert drawn[exact.rate] == (0.0, 0.0)
    assert drawn[curve.points[3].rate] == pytest.approx((0.05, 0.05))


def test_rows_of_the_table_say_which_are_genie_aided() -> None:
    page = render_bounds(CURVES)
    rows = re.findall(r"<tr( class=\"genie\")?>(<td>.*?)</tr>", page, re.DOTALL)
    assert len(rows) == sum(len(curve.points) for curve in CURVES)
    assert [bool(mark) for mark, _ in rows] == ["genie-aided" in cells for _, cells in rows]


def test_page_asks_for_nothing_from_outside_and_names_stay_text() -> None:
    html = render_bounds(CURVES).replace(get_plotlyjs(), "")
    assert not re.search(r'(?:src|href)="(?!data:)', html)
    assert "<img src=x" not in html
    assert "two Gaussians &lt;/script&gt;" in html


@pytest.mark.slow
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_browser_shows_what_lies_under_the_pointer_and_hides_what_is_clicked(
    tmp_path: Path, theme: str
) -> None:
    page = tmp_path / "bounds.html"
    page.write_text(render_bounds(CURVES))
    script = """
      const host = document.querySelector('[data-figure="bounds"]');
      setTimeout(() => {
        const names = host.data.map((t) => t.name);
        document.body.dataset.drawn = names.length;
        const wgd = names.indexOf("wgd (upper bound)");
        Plotly.Fx.hover(host, [{ curveNumber: wgd, pointNumber: 0 }]);
        setTimeout(() => {
          document.body.dataset.hover = host.querySelector(".hoverlayer").textContent;
          const items = [...host.querySelectorAll(".legend .traces")];
          const item = items.find((one) => one.textContent.startsWith("ais"));
          const toggle = item.querySelector(".legendtoggle");
          for (const kind of ["mousedown", "mouseup"])
            toggle.dispatchEvent(new MouseEvent(kind, { bubbles: true }));
          setTimeout(() => {
            document.body.dataset.hidden = host.data[names.indexOf("ais (estimate)")].visible;
          }, 1500);
        }, 500);
      }, 500);
    """
    elements = drawn(page, tmp_path / "profile", theme=theme, then=script)
    found = dict(
        re.findall(r'data-(drawn|hover|hidden)="([^"]*)"', elements.partition("<body")[2][:2000])
    )
    assert found["drawn"] == "7"
    assert "wgd (upper bound)" in found["hover"]
    assert "λ = 16.00 near its ceiling" in found["hover"]
    assert found["hidden"] == "legendonly"
    body = elements.replace(get_plotlyjs(), "").split("</style>", 1)[1].split("<script", 1)[0]
    assert body.count('class="legend"') == 1
    assert ("rgb(230, 230, 230)" in body) == (theme == "dark")
    assert ("rgb(31, 35, 40)" in body) == (theme == "light")
