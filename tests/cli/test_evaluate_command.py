"""``waterfill evaluate``: what it writes, what it says, and what it refuses."""

from __future__ import annotations

import csv
import json
import os
import re
from dataclasses import replace
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console

from waterfill.cli import run
from waterfill.cli.evaluate import _rates as rates
from waterfill.cli.evaluate import _remarks as remarks
from waterfill.evaluation.result import Contender, Evaluation
from waterfill.evaluation.rows import Row

WEIGHTS = Path(__file__).parents[1] / "codec" / "golden" / "mean-scale.safetensors"


@pytest.fixture
def folder(tmp_path: Path, photo: NDArray[np.uint8]) -> Path:
    for domain, sizes in (("one", (64, 80)), ("two", (72,))):
        (tmp_path / domain).mkdir()
        for size in sizes:
            Image.fromarray(photo[:size, : size + 8]).save(tmp_path / domain / f"{size}.png")
    return tmp_path


def evaluate(folder: Path, *arguments: str) -> int:
    common = ["--codec", str(WEIGHTS), "--out", str(folder / "out"), "--no-cache"]
    return run(["evaluate", str(folder / "one"), str(folder / "two"), *common, *arguments])


def test_it_writes_page_rows_and_json(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    again = os.path.relpath(WEIGHTS)  # the same file in another spelling
    assert evaluate(folder, "--against", "jpeg,webp", "--trellis", "--codec", again) == 0
    out = folder / "out"
    rows = list(csv.DictReader((out / "rows.csv").read_text().splitlines()))
    told = json.loads((out / "evaluation.json").read_text())
    codecs = {row["codec"] for row in rows}
    assert {"jpeg", "webp"} < codecs
    assert len(codecs) == 3
    points = {c["name"]: len(c["settings"]) for c in told["codecs"]}
    assert len(rows) == 3 * sum(points.values())
    assert {row["domain"] for row in rows} == {"one", "two"}
    for row in rows:
        assert float(row["bpp"]) > 0
        assert float(row["psnr"]) > 0
    page = (out / "evaluation.html").read_text()
    assert page.count("<option value=") == 1 + 3
    assert '<th scope="col" class="n">golden/mean-scale, trellis<' in page
    assert "http" not in page.partition("<script>")[0].replace("http-equiv", "")
    said = capsys.readouterr().out
    assert "golden/mean-scale, trellis" in said
    assert "evaluation.html" in said


def test_a_published_anchor_of_other_pictures_is_named_so(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common = ["--codec", str(WEIGHTS), "--no-cache", "--out", str(folder / "out")]
    assert run(["evaluate", str(folder / "one"), *common, "--against", "jpeg,vtm"]) == 0
    assert "published:vtm (other pictures)" in capsys.readouterr().out
    page = (folder / "out" / "evaluation.html").read_text()
    assert "is of the 24 Kodak photographs; these 2 are others" in page
    verdict = page.partition('<p class="verdict">')[2].partition("</p>")[0]
    assert "vtm" not in verdict


def measured(names: tuple[str, ...], pictures: int) -> Evaluation:
    """Own codecs that spend less than JPEG on some pictures and far less on one."""
    settings = tuple(json.dumps({"quality": q}) for q in (2, 4, 6, 8))
    rows = []
    for image in range(pictures):
        for number, codec in enumerate(("jpeg", *names)):
            factor = 1.0 if not number else 0.8 if image else 0.2 / number
            for k, setting in enumerate(settings):
                psnr = 30.0 + 3 * k
                about = (f"{image}.png", "here", f"{image:064d}", codec, "1", setting, 1000)
                rows.append(Row(*about, factor * 0.2 * 2**k, 1.0, psnr, 0.9, 0.1, 0.2))
    codecs = [Contender("jpeg", "conventional", "JPEG", "Pillow", settings, "")]
    codecs += [Contender(name, "own", name, "weights", settings, "") for name in names]
    return Evaluation(tuple(rows), tuple(codecs))


def table_of(found: Evaluation, anchors: list[str]) -> list[str]:
    screen = Console(width=80, file=StringIO())
    screen.print(rates(found, found.bd_rates(anchors)))
    assert isinstance(screen.file, StringIO)
    return screen.file.getvalue().splitlines()


def test_intervals_are_told_by_their_ends_and_fit_beside_one_another() -> None:
    names = tuple(f"runs/number-{k}, effort 8, trellis" for k in range(1, 5))
    lines = table_of(measured(names, 9), ["jpeg", "vtm"])
    assert max(map(len, lines)) <= 80
    start = next(k for k, line in enumerate(lines) if line.startswith("jpeg"))
    assert len(re.findall(r"-\d+\.\d", lines[start])) == 4
    ends = re.findall(r"(-\d+\.\d) … (-\d+\.\d)", lines[start + 1])
    assert len(ends) == 4
    for value, (low, high) in zip(lines[start].split()[1:], ends, strict=True):
        # One picture of nine pulls it down: the lower end is the further one.
        assert float(value) - float(low) > 1.2 * (float(high) - float(value)) > 0


@pytest.mark.parametrize(
    ("pictures", "said"),
    [
        (1, ["no intervals: 1 picture is too few to resample, 8 would do"]),
        (7, ["no intervals: 7 pictures are too few to resample, 8 would do"]),
        (8, []),
    ],
)
def test_few_pictures_have_figures_without_intervals(pictures: int, said: list[str]) -> None:
    found = measured(("ours", "theirs"), pictures)
    assert remarks(found, found.bd_rates(["jpeg"])) == said
    assert any("…" in line for line in table_of(found, ["jpeg"])) == (not said)


def test_a_figure_that_little_supports_says_so_on_the_terminal() -> None:
    whole = measured(("ours",), 8)
    better = [replace(row, psnr=row.psnr + 8) if row.codec == "ours" else row for row in whole.rows]
    found = replace(whole, rows=tuple(better))
    said = "ours against jpeg: the curves share 6 % of the range of quality they cover"
    assert said in remarks(found, found.bd_rates(["jpeg"]))
    assert not remarks(whole, whole.bd_rates(["jpeg"]))


def test_a_title_is_one_line_however_narrow_its_table(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate(folder, "--against", "jpeg", "-q", "4") == 0
    lines = capsys.readouterr().out.splitlines()
    assert "BD-rate in % by PSNR, 3 pictures" in lines
    assert "measured" in lines
    assert evaluate(folder, "--against", "", "-q", "4") == 0
    assert "BD-rate" not in capsys.readouterr().out


def test_limits_are_drawn_and_named_for_what_they_are(folder: Path) -> None:
    assert evaluate(folder, "--against", "jpeg", "--limits", "-q", "2", "-q", "5") == 0
    page = (folder / "out" / "evaluation.html").read_text()
    assert "oracle, test channel (genie-aided)" in page
    assert "dashed ones genie-aided" in page
    rungs = re.findall(r"<summary>[^<]*?: ([^<]*?) <span[^>]*>([^<]*)</span>", page)
    assert rungs == [
        ("learned posterior", "achievable"),
        ("+ context", "achievable"),
        ("oracle, test channel", "genie-aided"),
        ("oracle, test channel, context", "genie-aided"),
    ]


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("--against", "jpeg,nonsense"), "nonsense"),
        (("--quality", "9"), "quality"),
        (("--effort", "-1"), "effort"),
        (("--cache", "kept"), "--no-cache"),
        (("--seed", "-1"), "seed"),
        (("--codec", "missing.safetensors"), "missing.safetensors"),
    ],
)
def test_what_it_cannot_do_it_says_before_it_writes(
    folder: Path, arguments: tuple[str, ...], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate(folder, *arguments) == 2
    assert reason in capsys.readouterr().err
    assert not (folder / "out" / "evaluation.json").exists()


def test_what_is_named_twice_is_measured_once(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = ["evaluate", str(folder / "one"), "--out", str(folder / "out"), "--no-cache", "-q", "4"]
    twice = ["--codec", str(WEIGHTS)] * 2
    assert run([*line, *twice, "--against", "jpeg,vtm,JPEG,published:VTM"]) == 0
    told = json.loads((folder / "out" / "evaluation.json").read_text())
    assert [codec["name"] for codec in told["codecs"]] == ["golden/mean-scale", "jpeg"]
    assert capsys.readouterr().out.count("published:vtm (other pictures)") == 1


def test_json_takes_the_place_of_no_other_result(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate(folder, "--json", str(folder / "one" / ".." / "out" / "rows.csv")) == 2
    assert "rows.csv: is another file of this command" in capsys.readouterr().err
    assert not (folder / "out").exists()


def test_a_curve_is_meant_even_where_weights_are_called_as_it_is(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "vtm.safetensors").write_bytes(WEIGHTS.read_bytes())
    monkeypatch.chdir(folder)
    line = ["evaluate", "one/64.png", "--codec", "vtm.safetensors", "-q", "4", "--no-cache"]
    assert run([*line, "--out", "out", "--against", "vtm"]) == 0
    cells = json.loads((folder / "out" / "evaluation.json").read_text())["bd_rates"]
    assert [(cell["anchor"], cell["test"]) for cell in cells] == [("published:vtm", "vtm")]


def test_a_second_run_codes_nothing(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["evaluate", str(folder / "one"), "--codec", str(WEIGHTS), "--against", "jpeg"]
    arguments += ["--cache", str(folder / "kept"), "--out", str(folder / "out")]
    assert run(arguments) == 0
    entries = {path: path.stat().st_mtime_ns for path in (folder / "kept").rglob("*.json")}
    first = (folder / "out" / "rows.csv").read_text()
    assert run(arguments) == 0
    assert first == (folder / "out" / "rows.csv").read_text()  # the seconds of the first run, too
    assert entries == {path: path.stat().st_mtime_ns for path in (folder / "kept").rglob("*.json")}


def test_names_that_are_no_text_and_json_in_a_new_folder(
    tmp_path: Path, photo: NDArray[np.uint8]
) -> None:
    odd = os.fsdecode(os.fsencode(tmp_path / "in") + b"/\xff.png")
    (tmp_path / "in").mkdir()
    Image.fromarray(photo[:64, :64]).save(odd)
    out = tmp_path / "new"
    command = ["evaluate", str(tmp_path / "in"), "--against", "jpeg", "--codec", str(WEIGHTS)]
    assert run([*command, "--out", str(out), "--json", str(out / "all.json"), "--no-cache"]) == 0
    told = json.loads((out / "all.json").read_text())
    assert {row["image"] for row in told["rows"]} == {"\udcff.png"}


def test_results_that_can_not_be_written_are_found_before_the_work(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "out" / "rows.csv").mkdir(parents=True)
    assert evaluate(folder, "--against", "jpeg") == 2
    assert "rows.csv" in capsys.readouterr().err
    assert [path.name for path in (folder / "out").iterdir()] == ["rows.csv"]


def test_it_lists_what_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["evaluate", "--list"]) == 0
    said = capsys.readouterr().out
    assert "JPEG 2000" in said
    assert len({line.index("JPEG") for line in said.splitlines() if line.startswith("  jpeg")
                and "JPEG" in line}) == 1  # fmt: skip
    assert "VTM-18.0" in said
