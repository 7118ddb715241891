"""The report shows the ladder's numbers, says what is genie-aided, and nothing can break it."""

from __future__ import annotations

import io
import json
import math
import re
from base64 import b64decode
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import drawn
from PIL import Image
from plotly.offline import get_plotlyjs
from rich.console import Console

from waterfill.cli.limits import _ladder_table
from waterfill.ladder.result import TERMS, Decomposition, Exhibit, Ladder, Point, RungResult
from waterfill.ladder.rungs import LADDER, UNKNOWN_VARIANCE, Status
from waterfill.report import figures
from waterfill.report.html import render
from waterfill.report.maps import crop_for_show, diverging, sequential
from waterfill.report.text import number

HOSTILE = "a</script><script>alert(1)</script>\"'&<img src=x onerror=alert(2)>.png"
GENIES = [rung.name for rung in LADDER if rung.status is Status.GENIE]


def make_ladder(name: str = "kite.png", qualities: tuple[float, ...] = (2.0, 4.0)) -> Ladder:
    """A ladder of made-up numbers that are all different; no codec is needed."""
    random = np.random.default_rng(3)
    results = []
    for i, rung in enumerate(LADDER):
        parts = {"latents": 0.61803 - 0.0371 * i, "side information": 0.03142 + 0.00113 * i}
        if i == 0:
            parts["coder overhead"] = 0.00577
        curve = tuple(
            Point(
                q, (q / 4) * sum(parts.values()), 27.1 + q + 0.013 * i, 0.93 + 0.001 * i, 9.0, parts
            )
            for q in qualities
        )
        last = curve[-1]
        saved = None if i == 0 else 0.02718 * (-1) ** i
        results.append(
            RungResult(
                rung.name,
                rung.status.value,
                rung.meaning,
                last.bpp,
                last.psnr,
                last.ms_ssim,
                parts,
                curve,
                0.9 - 0.0123 * i,
                saved,
            )
        )
    # As measured on a poor codec: the test channel costs more than rounding, a loss below zero.
    losses = (0.00577, -0.1234, 0.01618, 0.03142, 0.2468)
    decomposition = Decomposition(
        31.1,
        0.65522,
        *losses[:2],
        0.01357,
        *losses[2:],
        0.65522 - sum(losses),
        "test channel",
        0.50123,
        "grouped 4×4",
        0.60321,
        "made up",
        {"ideal coder": -0.2525, "variances told (genie-aided)": -31.7171},
        {term: (loss - 0.0101, loss + 0.0202) for term, loss in zip(TERMS, losses, strict=True)},
    )
    pixels = random.integers(0, 256, (32, 48, 3), dtype=np.uint8)
    maps = random.normal(size=(7, 2, 3)).astype(np.float32)
    names = ("rounding", "test channel", "oracle, test channel")
    exhibit = Exhibit(
        name,
        pixels,
        255 - pixels,
        0.71828,
        31.41,
        5,
        maps[0],
        dict(zip(names, maps[1:4], strict=True)),
        dict(zip(names, np.abs(maps[4:]), strict=True)),
        dict(zip(("quantisation", "context", "variance"), maps[:3], strict=True)),
    )
    rows = ({"rung": "ideal coder", "quality": qualities[-1], "step": 1.0, "ms_ssim": 0.93},)
    channels = {name: random.random(90) for name in ("ideal coder", "+ context", UNKNOWN_VARIANCE)}
    return Ladder(
        "toy",
        qualities[-1],
        ({"name": name, "width": 48, "height": 32}, {"name": "b.png", "width": 9, "height": 9}),
        tuple(results),
        decomposition,
        (decomposition, replace(decomposition, achieved_bpp=0.77777)),
        channels,
        rows,
        (exhibit,),
        {"command": f"waterfill limits {name}", "seed": 0, "versions": {"numpy": "2"}},
    )


class Page(HTMLParser):
    """A page taken apart: every element with its attributes, text outside scripts, the table."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.rows: list[dict[str, str]] = []
        self.text = ""
        self._keys: list[str | None] = []
        self._raw = False
        # The bundled script is plotly's and not ours to judge, and slow to parse.
        self.feed(html.replace(get_plotlyjs(), ""))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = dict(attrs)
        self.elements.append((tag, attributes))
        self._raw = tag in ("script", "style")
        if tag == "tr":
            self.rows.append({})
        if tag in ("td", "span", "small", "abbr", "th"):
            part = attributes.get("data-part")
            key = f"part {part}" if part else attributes.get("data-column")
            self._keys.append("name" if attributes.get("scope") == "row" else key)

    def handle_endtag(self, tag: str) -> None:
        self._raw = False
        if tag in ("td", "span", "small", "abbr", "th") and self._keys:
            self._keys.pop()

    def handle_data(self, data: str) -> None:
        if self._raw:
            return
        self.text += data
        if self._keys and self._keys[-1] and self.rows:
            row = self.rows[-1]
            row[self._keys[-1]] = row.get(self._keys[-1], "") + data.strip()

    @property
    def ladder(self) -> list[dict[str, str]]:
        return [row for row in self.rows if "bpp" in row]


def figure_of(html: str, name: str) -> Any:
    match = re.search(rf'<script type="application/json" id="{name}">(.*?)</script>', html, re.S)
    assert match
    return json.loads(match[1])


@pytest.fixture(scope="module")
def html() -> str:
    return render(make_ladder())


def test_page_asks_for_nothing_from_outside(html: str) -> None:
    own = html.replace(get_plotlyjs(), "")
    assert html.count(get_plotlyjs()) == 1
    assert not re.search(r"https?://|//[a-z]+\.|@import|url\(", own)
    for tag, attributes in Page(html).elements:
        for key in ("src", "href", "srcset", "data", "action"):
            value = attributes.get(key)
            assert value is None or value.startswith("data:"), (tag, value)


def test_every_number_of_the_table_is_the_ladders(html: str) -> None:
    ladder = make_ladder()
    rows = Page(html).ladder
    assert len(rows) == len(ladder.rungs)
    achieved = ladder.rungs[0].bpp_at_equal_psnr
    for row, rung in zip(rows, ladder.rungs, strict=True):
        assert row["name"] == rung.name
        assert row["bpp"] == f"{rung.bpp:.4f}"
        assert row["psnr"] == f"{rung.psnr:.2f}"
        assert row["ms_ssim"] == f"{rung.ms_ssim:.4f}"
        assert row["equal"] == f"{rung.bpp_at_equal_psnr:.4f}"
        shown = {k.removeprefix("part "): v for k, v in row.items() if k.startswith("part ")}
        assert shown == {name: f"{bpp:.4f}" for name, bpp in rung.parts.items()}
        if rung.saved_bpp is None:
            assert row["saved"] == row["percent"] == "—"
        else:
            assert float(row["saved"].replace("−", "-")) == pytest.approx(rung.saved_bpp, abs=5e-5)
            percent = 100 * rung.saved_bpp / achieved
            assert float(row["percent"].replace("−", "-")) == pytest.approx(percent, abs=0.05)


@pytest.mark.parametrize("factor", [1.0, 30.0, 3e4])  # a picture of one pixel has such rates
def test_terminal_gives_savings_with_the_sign_of_the_page(html: str, factor: float) -> None:
    ladder = make_ladder()
    rungs = tuple(
        replace(
            rung,
            bpp=factor * rung.bpp,
            bpp_at_equal_psnr=factor * rung.bpp_at_equal_psnr,
            saved_bpp=None if rung.saved_bpp is None else factor * rung.saved_bpp,
        )
        for rung in ladder.rungs
    )
    screen = Console(width=80, file=io.StringIO())
    screen.print(_ladder_table(replace(ladder, rungs=rungs)))
    head, _, *lines = screen.file.getvalue().splitlines()
    assert head.endswith(" saved %*")
    for line, row in zip(lines, Page(html).ladder, strict=True):
        assert line.startswith(row["name"])
        assert line.split()[-1].replace("-", "−") == row["percent"]
        assert len(line) <= 80


def test_verdict_and_provenance_are_there(html: str) -> None:
    text = Page(html).text
    ladder = make_ladder()
    assert ladder.decomposition.sentence in text
    assert "quality 4 · curves at quality 2, 4" in text
    assert "waterfill limits kite.png" in text
    assert "kite.png, 48×32" in text
    assert "it bounds R(D) in neither direction" in text
    assert "0.5012 bpp: test channel" in text
    assert "0.6032 bpp: grouped 4×4" in text


def test_genie_rungs_are_named_so_everywhere(html: str) -> None:
    badges = re.findall(
        r'<th scope="row">(.*?)<small>.*?<span class="badge badge-(.*?)">(.*?)</span>', html, re.S
    )
    assert [(name, status) for name, _, status in badges] == [
        (rung.name, rung.status.value) for rung in LADDER
    ]
    assert {style for name, style, _ in badges if name in GENIES} == {"genie-aided"}

    for trace in figure_of(html, "curves")["data"]:
        genie = any(trace["name"].startswith(name) for name in GENIES)
        assert trace["name"].endswith("(genie-aided)") == genie
        assert (trace["line"]["dash"] == "dash") == genie

    hatched = {t["name"]: "pattern" in t["marker"] for t in bars(html)}
    assert {name for name, is_hatched in hatched.items() if is_hatched} == {"genie-aided"}
    for trace in bars(html):
        for label in trace["x"]:
            assert ("genie-aided" in label) == (trace["name"] == "genie-aided")


def without_files() -> Ladder:
    """As of a codec that makes none."""
    ladder = make_ladder()
    parts = replace(ladder.decomposition, coder_overhead_bpp=0.0)
    return replace(ladder, rungs=ladder.rungs[1:], decomposition=parts)


def test_a_codec_without_files_has_none_in_its_report(html: str) -> None:
    other = render(without_files())
    for page, first in ((html, "bitstream"), (other, "ideal coder")):
        labels = figure_of(page, "waterfall")["layout"]["xaxis"]["categoryarray"]
        assert labels[0].replace("<br>", " ") == first
        assert bars(page)[0]["name"] == f"rate of the {first}"
        assert f"Waterfall in bits per pixel: {first} " in page
        assert f"From the {first} to the genie-aided limit" in page
    text = Page(other).text
    for word in ("the file", "waterfill compress", "bitstream", "every byte"):
        assert word in Page(html).text
        assert word not in text
    assert '<span class="badge badge-achieved">' in html
    assert '<span class="badge badge-achieved">' not in other
    widths = [t["line"]["width"] for t in figure_of(other, "curves")["data"]]
    assert widths[0] > max(widths[1:])


def bars(html: str) -> list[dict[str, Any]]:
    return [t for t in figure_of(html, "waterfall")["data"] if t["type"] == "bar"]


def test_waterfall_adds_up_with_signs_as_measured(html: str) -> None:
    parts = make_ladder().decomposition
    columns = {
        label.replace("<br>", " "): (base, change)
        for trace in bars(html)
        for label, base, change in zip(trace["x"], trace["base"], trace["y"], strict=True)
    }
    order = figure_of(html, "waterfall")["layout"]["xaxis"]["categoryarray"]
    level = 0.0
    for label in order[:-1]:
        base, change = columns[label.replace("<br>", " ")]
        assert base == pytest.approx(level)
        level = base + change
    assert level == pytest.approx(parts.limit_bpp)
    assert columns["limit (genie-aided)"] == (0.0, pytest.approx(parts.limit_bpp))
    assert columns["quantisation"][1] == pytest.approx(-parts.quantisation_bpp)
    assert columns["quantisation"][1] > 0  # a gain goes up and is not clipped


@pytest.mark.parametrize("achievable", [0.4, 0.77, 0.64, 0.63, 0.2])
def test_no_line_runs_through_a_figure_of_the_waterfall(achievable: float) -> None:
    ladder = make_ladder()
    parts = replace(ladder.decomposition, best_achievable_bpp=achievable)
    traces = figure_of(render(replace(ladder, decomposition=parts)), "waterfall")["data"]
    (labels,) = (trace for trace in traces if trace.get("mode") == "text")
    assert len(labels["x"]) == 7
    assert labels["text"][1] == "−0.0058"
    height = 0.05 * 0.8
    for place, side in zip(labels["y"], labels["textposition"], strict=True):
        low = place if side == "top center" else place - height
        assert not low <= achievable <= low + height


@pytest.mark.parametrize(
    "cost", [{"bpp_at_equal_psnr": 5.0}, {"bpp_at_equal_psnr": math.nan, "bpp": 5.0}]
)
def test_a_curve_far_away_is_hidden_until_asked_for(cost: dict[str, float]) -> None:
    ladder = make_ladder()
    far = replace(ladder.rungs[3], **cost)
    rungs = (*ladder.rungs[:3], far, *ladder.rungs[4:])
    traces = figure_of(render(replace(ladder, rungs=rungs)), "curves")["data"]
    assert [t["visible"] for t in traces] == [True] * 3 + ["legendonly"] + [True] * (
        len(traces) - 4
    )


def test_terms_have_their_interval_and_pictures_their_own(html: str) -> None:
    text = "".join(Page(html).text.split())
    assert "unusedcontext+0.0162+2.5+0.0061…+0.0364" in text
    assert "variance(genie-aided)+0.2468" in text
    assert "variancestold(genie-aided)−31.72%" in text
    assert "b.png31.100.7778" in text


def test_channels_are_those_that_spend_most(html: str) -> None:
    ladder = make_ladder()
    told, unknown, rounding = figure_of(html, "channels")["data"]
    order = np.argsort(ladder.channels["ideal coder"])[::-1][:64]
    assert told["x"] == [str(k) for k in order]
    assert rounding["y"] == sorted(rounding["y"], reverse=True)
    total = np.add(told["y"], unknown["y"])
    assert total == pytest.approx(ladder.channels["+ context"][order])
    for bar in (told, unknown):
        assert "genie-aided" in bar["name"]
        assert bar["marker"]["pattern"]["shape"]
    assert told["marker"]["pattern"]["shape"] != unknown["marker"]["pattern"]["shape"]


def test_curves_hold_every_point_with_units(html: str) -> None:
    figure = figure_of(html, "curves")
    assert "bpp" in figure["layout"]["xaxis"]["title"]["text"]
    assert "dB" in figure["layout"]["yaxis"]["title"]["text"]
    for trace, rung in zip(figure["data"], make_ladder().rungs, strict=True):
        assert trace["x"] == [point.bpp for point in rung.curve]
        assert trace["y"] == [point.psnr for point in rung.curve]
        assert "lines" in trace["mode"]
    assert figure["data"][0]["line"]["width"] > figure["data"][1]["line"]["width"]


def test_single_quality_has_markers_only() -> None:
    html = render(make_ladder(qualities=(4.0,)))
    assert {trace["mode"] for trace in figure_of(html, "curves")["data"]} == {"markers"}


def test_every_colour_of_a_figure_has_a_dark_one(html: str) -> None:
    used = set(re.findall(r'"(#[0-9a-fA-F]+)"', json.dumps(figure_of(html, "curves")["data"])))
    for name in ("waterfall", "channels"):
        used |= set(re.findall(r'"(#[0-9a-fA-F]+)"', json.dumps(figure_of(html, name))))
    assert used
    assert used <= set(figures.DARK)


def test_hostile_names_stay_text() -> None:
    ladder = make_ladder(HOSTILE)
    rung = replace(ladder.rungs[3], name=HOSTILE, meaning=HOSTILE)
    decomposition = replace(ladder.decomposition, best_achievable_rung=HOSTILE, method=HOSTILE)
    hostile = replace(
        ladder,
        codec=HOSTILE,
        rungs=(*ladder.rungs[:3], rung, *ladder.rungs[4:]),
        decomposition=decomposition,
    )
    html = render(hostile)
    page, tame = Page(html), Page(render(make_ladder()))
    assert [tag for tag, _ in page.elements] == [tag for tag, _ in tame.elements]
    assert not any(key.startswith("on") for _, attributes in page.elements for key in attributes)
    assert HOSTILE in page.text
    # Plotly reads a little HTML in its labels: there too a name is only text.
    assert figure_of(html, "curves")["data"][3]["name"].startswith("a&lt;/script&gt;")


def test_what_is_missing_shows_as_a_dash() -> None:
    ladder = make_ladder()
    blind = tuple(replace(rung, ms_ssim=math.nan) for rung in ladder.rungs)
    row = {**ladder.rows[0], "ms_ssim": math.nan}
    page = Page(render(replace(ladder, rungs=blind, rows=(row,))))
    assert {row["ms_ssim"] for row in page.ladder} == {"—"}
    assert not re.search(r"\bnan\b", page.text, re.I)
    assert "MS-SSIM leaves out 1 of 2" in page.text


def test_two_losses_that_are_known_together_alone_are_told_together() -> None:
    """As where one rung comes nowhere near the codec's PSNR, and those beside it do."""
    split = make_ladder().decomposition
    gap = split.achieved_bpp - split.limit_bpp
    parts = replace(split, quantisation_bpp=math.nan, context_bpp=math.nan, variance_bpp=0.02)
    together = gap - 0.00577 - 0.03142 - 0.02
    said = parts.sentence
    assert f"scalar quantisation and unused context together ({together:.3f} bpp)" in said
    assert "nan" not in said


def test_rates_read_off_a_bent_or_short_curve_are_marked() -> None:
    ladder = make_ladder()
    low, high = ladder.rungs[3].curve
    bent = replace(ladder.rungs[3], curve=(replace(low, psnr=high.psnr + 1), high))
    short = replace(ladder.rungs[4], curve=(replace(low, psnr=20.0), replace(high, psnr=21.0)))
    rungs = (*ladder.rungs[:3], bent, short, *ladder.rungs[5:])
    text = " ".join(Page(render(replace(ladder, rungs=rungs))).text.split())
    assert f"The PSNR does not rise with the rate along this curve: {bent.name}." in text
    assert f"Extrapolated beyond the measured curve: {short.name}" in text


def test_pictures_are_embedded_without_loss(html: str) -> None:
    exhibit = make_ladder().exhibits[0]
    sources = [attributes["src"] or "" for tag, attributes in Page(html).elements if tag == "img"]
    images = [Image.open(io.BytesIO(b64decode(source.split(",")[1]))) for source in sources]
    original, decoded = (np.asarray(image.convert("RGB")) for image in images[-2:])
    assert np.array_equal(original, exhibit.original)
    assert np.array_equal(decoded, exhibit.decoded)
    assert [image.size for image in images[:-2]] == [(3, 2)] * 10
    assert all(attributes["alt"] for tag, attributes in Page(html).elements if tag == "img")


def test_large_pictures_are_cropped_and_never_scaled() -> None:
    height, width = 1500, 2000
    picture = (np.arange(height * width) % 251).astype(np.uint8).reshape(height, width)
    shown = crop_for_show(picture)
    top, left = (height - shown.shape[0]) // 2, (width - shown.shape[1]) // 2
    assert shown.size < picture.size
    assert np.array_equal(shown, picture[top:, left:][: shown.shape[0], : shown.shape[1]])
    assert crop_for_show(shown) is shown


def test_maps_share_a_scale_centred_on_zero() -> None:
    maps = [np.array([[-1.0, 0.0, 3.0]], np.float32), np.array([[0.0, 2.0, -3.0]], np.float32)]
    scale = diverging(maps)
    assert scale.low == -scale.high
    first, second = (pixels(scale.paint(m)) for m in maps)
    assert first[0, 1].tolist() == second[0, 0].tolist()
    assert np.ptp(first[0, 1].astype(int)) <= 2  # zero is neutral
    red, blue = first[0, 2].astype(int), second[0, 2].astype(int)
    assert red[0] > red[2]
    assert blue[2] > blue[0]
    assert sequential([np.zeros((1, 2), np.float32)]).paint(maps[0])  # a silent map is no error


def pixels(uri: str) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.asarray(Image.open(io.BytesIO(b64decode(uri.split(",")[1]))).convert("RGB"))


def test_ladder_without_exhibits() -> None:
    text = Page(render(replace(make_ladder(), exhibits=()))).text
    assert "Latent maps" not in text
    assert "Where the bits go" in text


@pytest.mark.parametrize(
    ("value", "text"), [(None, "—"), (math.inf, "—"), (-0.5, "−0.5000"), (1.0, "1.0000")]
)
def test_numbers(value: float | None, text: str) -> None:
    assert number(value) == text


@pytest.mark.slow
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_browser_draws_it_without_complaint(tmp_path: Path, theme: str) -> None:
    page = tmp_path / "ladder.html"
    make_ladder(HOSTILE).report(page)
    elements = drawn(page, tmp_path / "profile", theme=theme).replace(get_plotlyjs(), "")
    assert elements.count('class="legend"') == 3  # all figures are there
    body = elements.split("</style>", 1)[1].split("<script", 1)[0]
    assert ("rgb(230, 230, 230)" in body) == (theme == "dark")
    assert ("rgb(31, 35, 40)" in body) == (theme == "light")


@pytest.mark.slow
@pytest.mark.parametrize("width", [500, 1200])
def test_browser_keeps_names_and_plots_apart_in_any_width(tmp_path: Path, width: int) -> None:
    page = tmp_path / "ladder.html"
    make_ladder(HOSTILE).report(page)
    script = """
      setTimeout(() => {
        const box = (host, name) => host.querySelector(name).getBoundingClientRect();
        const hosts = [...document.querySelectorAll("[data-figure]")];
        document.body.dataset.apart = hosts.map((host) => {
          const names = box(host, ".legend"), title = host.querySelector(".g-xtitle text");
          const labels = [...host.querySelectorAll(".xtick text")];
          const above = title ? [title] : labels;
          return above.every((one) => one.getBoundingClientRect().bottom <= names.top) &&
            names.bottom <= host.getBoundingClientRect().bottom + 1 &&
            box(host, ".plotclip, .bglayer, .cartesianlayer").right <= window.innerWidth;
        }).join(" ");
        const words = [...hosts[1].querySelectorAll(".xtick text")]
          .map((one) => one.getBoundingClientRect());
        document.body.dataset.words = words.every((one, i) => !i || words[i - 1].right <= one.left);
        document.body.dataset.wide = document.documentElement.scrollWidth > window.innerWidth;
      }, 500);
    """
    elements = drawn(page, tmp_path / "profile", width=width, then=script)
    found = dict(
        re.findall(r'data-(apart|words|wide)="([^"]*)"', elements.partition("<body")[2][:2000])
    )
    assert found == {"apart": "true true true", "words": "true", "wide": "false"}
