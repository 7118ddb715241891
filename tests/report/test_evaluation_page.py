"""The page of an evaluation: what it shows is what was measured, and it works in a browser."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import drawn
from plotly.offline import get_plotlyjs

from waterfill.evaluation.result import Contender, Evaluation
from waterfill.evaluation.rows import Row
from waterfill.report.evaluation import Shown, render_evaluation

HOSTILE = "</script><img src=x onerror=alert(1)>"


def made_up(*others: str) -> Evaluation:
    rows = []
    settings = tuple(json.dumps({"quality": q}) for q in (2, 4, 6, 8))
    for number, image in enumerate(("a.png", *(others or ("b.png",)))):
        for codec, factor in (("ours", 1.0), ("jpeg", 1.5)):
            for k, setting in enumerate(settings):
                psnr = 30.0 + 3 * k + number
                bpp = factor * 0.2 * 2**k * (1 + 0.1 * number)
                similar = 0.9 + 0.02 * k
                rows.append(
                    Row(
                        image,
                        "here",
                        f"{number:064d}",
                        codec,
                        "1",
                        setting,
                        1000,
                        bpp,
                        255**2 / 10 ** (psnr / 10),
                        psnr,
                        similar,
                        0.1,
                        0.2,
                    )
                )
    codecs = (
        Contender("ours", "own", "ours", "weights 0", settings, ""),
        Contender("jpeg", "conventional", "JPEG 4:2:0", "Pillow", settings, "a caveat & more"),
    )
    return Evaluation(tuple(rows), codecs, environment={"command": "made up", "seed": 0})


def page_of(found: Evaluation) -> str:
    pixels = np.random.default_rng(0).integers(0, 256, (32, 48, 3), dtype=np.uint8)
    shown = [Shown("a.png", "ours", 0.5, 33.0, pixels, 255 - pixels)]
    return render_evaluation(found, ["jpeg", "vtm"], shown=shown)


def data_of(html: str, name: str) -> Any:
    match = re.search(rf'<script type="application/json" id="{name}">(.*?)</script>', html, re.S)
    assert match
    return json.loads(match[1])


def test_numbers_are_those_measured() -> None:
    html = page_of(made_up())
    text = unescape(re.sub(r"<[^>]+>", " ", html.replace(get_plotlyjs(), "")))
    # Two thirds of the rate at every PSNR.
    assert "ours spends 33.3 % less than jpeg" in text
    assert "vtm" not in html.partition('class="verdict"')[2].partition("</p>")[0]
    assert "a caveat & more" in text
    (ours, jpeg, published) = data_of(html, "psnr")["data"]
    assert ours["x"] == pytest.approx([0.21, 0.42, 0.84, 1.68])
    assert ours["y"] == pytest.approx([30.5, 33.5, 36.5, 39.5])
    assert jpeg["x"] == pytest.approx([1.5 * x for x in ours["x"]])
    assert published["line"]["dash"] == "dot"
    of_picture = data_of(html, "pictures")["b.png"]["psnr"]["ours"]
    assert of_picture["x"] == pytest.approx([0.22, 0.44, 0.88, 1.76])
    assert of_picture["y"] == pytest.approx([31, 34, 37, 40])


def test_every_curve_says_what_it_is() -> None:
    summaries = re.findall(r"<summary>(.*?)</summary>", page_of(made_up()))
    assert len(summaries) == 2
    assert all(">achieved</span>" in one for one in summaries)
    bound = render_evaluation(made_up(), ["yang-mandt"])
    assert 'badge-upper-bound-on-r-d">upper bound on R(D)</span>' in bound


def test_intervals_begin_with_eight_pictures() -> None:
    for count, shown in ((7, False), (8, True)):
        html = page_of(made_up(*(f"{k}.png" for k in range(1, count))))
        matrix = html.partition('id="matrix-psnr"')[2].partition("</table>")[0]
        assert "from 8 pictures on" in matrix
        assert ("<small> −33.3 … −33.3</small>" in matrix) == shown


def test_page_asks_for_nothing_from_outside_and_names_stay_text() -> None:
    html = page_of(made_up(HOSTILE)).replace(get_plotlyjs(), "")
    assert not re.search(r'(?:src|href)="(?!data:)', html)
    assert "<img src=x" not in html
    assert "alert(1)>" not in html


@pytest.mark.parametrize(("small", "said"), [((), 0), (("b.png",), 1), (("a.png", "b.png"), 0)])
def test_means_that_leave_out_small_pictures_say_so(small: tuple[str, ...], said: int) -> None:
    found = made_up()
    rows = tuple(replace(r, ms_ssim=math.nan) if r.image in small else r for r in found.rows)
    html = page_of(replace(found, rows=rows))
    assert html.count("MS-SSIM leaves out 1 of 2 pictures") == said
    assert html.count("MS-SSIM leaves out") == said


def test_pictures_of_one_name_have_curves_of_their_own() -> None:
    found = made_up("a.png")
    # Their pixels differ early on, as those of any two pictures.
    rows = (replace(r, pixels=r.pixels[::-1]) for r in found.rows)
    first, second = data_of(page_of(replace(found, rows=tuple(rows))), "pictures").values()
    assert first["psnr"]["ours"]["x"] == pytest.approx([0.2, 0.4, 0.8, 1.6])
    assert second["psnr"]["ours"]["x"] == pytest.approx([0.22, 0.44, 0.88, 1.76])


@pytest.mark.parametrize("name", [" two  spaces.png", "no\udcfftext.png"])
def test_the_choice_of_a_picture_is_its_name_to_the_letter(name: str) -> None:
    """Without a value of its own an option is its text, of which spaces are taken away."""
    html = page_of(made_up(name)).encode(errors="backslashreplace").decode()  # as it is written
    values = [unescape(value) for value in re.findall(r'<option value="([^"]*)"', html)]
    assert values == ["", "a.png", name.replace("\udcff", "\\udcff")]
    assert set(data_of(html, "pictures")) == set(values[1:])


@pytest.mark.slow
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_browser_switches_pictures_and_shows_what_lies_under_the_pointer(
    tmp_path: Path, theme: str
) -> None:
    page = tmp_path / "evaluation.html"
    page.write_text(page_of(made_up(HOSTILE)))
    script = """
      const choice = document.getElementById("picture-choice");
      const host = document.querySelector('[data-figure="psnr"]');
      choice.selectedIndex = 2;
      choice.dispatchEvent(new Event("change"));
      setTimeout(() => {
        document.body.dataset.x = host.data[0].x.join(" ");
        document.body.dataset.shown = host.data.map((t) => t.visible !== false).join(" ");
        Plotly.Fx.hover(host, [{ curveNumber: 0, pointNumber: 1 }]);
        setTimeout(() => {
          document.body.dataset.hover = host.querySelector(".hoverlayer").textContent;
        }, 500);
      }, 500);
    """
    elements = drawn(page, tmp_path / "profile", theme=theme, then=script)
    found = dict(
        re.findall(r'data-(x|shown|hover)="([^"]*)"', elements.partition("<body")[2][:2000])
    )
    assert found["x"] == "0.22 0.44 0.88 1.76"
    assert found["shown"] == "true true false"
    assert "0.4400 bpp, 34.00 dB" in found["hover"]
    assert "quality 4" in found["hover"]
    plain = elements.replace(get_plotlyjs(), "")
    assert plain.count('class="legend"') == 2
