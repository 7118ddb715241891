"""What the documentation shows is what works."""

from __future__ import annotations

import importlib.util
import json
import re
import shlex
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import click
import numpy as np
import pytest
import safetensors.torch
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

import waterfill as wf
from waterfill.cli import app
from waterfill.codec.model import Codec
from waterfill.ladder import limits

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.rglob("*.md"))]
#: Run by tests of their own.
ELSEWHERE = {"README.md", "bounds.md", "your-own-codec.md"}


def label(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


class Model(nn.Module):
    """The simplest model that the page could mean."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.down, self.up = nn.Conv2d(3, 8, 16, stride=16), nn.ConvTranspose2d(8, 3, 16, stride=16)
        with torch.no_grad():
            self.down.weight.mul_(10)

    def encode(self, x: Tensor) -> Tensor:
        return self.down(x)  # type: ignore[no-any-return]

    def decode(self, y: Tensor) -> Tensor:
        return self.up(y)  # type: ignore[no-any-return]

    def prior(self, y: Tensor) -> tuple[Tensor, Tensor, float]:
        return torch.zeros(1), torch.full((1, 8, 1, 1), 2.0), 64.0

    def prior_given(self, mean: Tensor, deviation: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        return torch.zeros_like(y), deviation.expand_as(y)


def blocks(page: Path, language: str = "python") -> list[str]:
    text = page.read_text(encoding="utf-8")
    found = re.findall(rf"^( *)```{language}\n(.*?)^ *```$", text, re.S | re.M)
    return [re.sub(rf"^{indent}", "", block, flags=re.M) for indent, block in found]


def test_a_codec_of_ones_own_takes_twenty_lines(
    photo: NDArray[np.uint8], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    first, second, _ = blocks(DOCS / "your-own-codec.md")
    lines = [line for line in first.split("\n\n\n")[1].splitlines() if line.strip()]
    assert len(lines) <= 20
    names: dict[str, Any] = {"model": Model(), "pictures": [photo[:50, :70]]}
    exec(first, names)
    assert (tmp_path / "report.html").exists()
    plain = names["ladder"]
    exec(second + "\nladder = wf.limits(MyContextCodec(model), pictures)", names)
    assert names["ladder"].rungs[0].bpp == pytest.approx(plain.rungs[0].bpp)


def test_a_model_of_another_library_is_measured_and_saved_as_the_page_says(
    photo: NDArray[np.uint8], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny: Codec
) -> None:
    """With a stand-in for the library, which is no dependency; models like its own have tests."""
    monkeypatch.chdir(tmp_path)
    zoo = ModuleType("compressai.zoo")
    monkeypatch.setattr(zoo, "mbt2018_mean", lambda quality, pretrained: tiny, raising=False)
    monkeypatch.setitem(sys.modules, "compressai", ModuleType("compressai"))
    monkeypatch.setitem(sys.modules, "compressai.zoo", zoo)
    monkeypatch.setattr(wf, "limits", lambda model, pictures: limits(model, pictures, 4))
    *_, block = blocks(DOCS / "your-own-codec.md")
    exec(block, {"wf": wf, "pictures": [photo[:64, :64]]})
    saved = safetensors.torch.load_file("mbt2018-mean-3.safetensors")
    assert saved.keys() == tiny.state_dict().keys()


def test_python_of_the_readme_runs(
    photo: NDArray[np.uint8], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny: Codec
) -> None:
    """With the ladder of a small codec at one quality: the bundled one's takes longer."""
    monkeypatch.chdir(tmp_path)
    Image.fromarray(photo[:64, :64]).save("photo.png")
    monkeypatch.setattr(wf, "limits", lambda codec, images: limits(tiny, images, 4))
    (block,) = blocks(ROOT / "README.md")
    names: dict[str, Any] = {}
    exec(block, names)
    assert names["image"].size == (64, 64)
    assert f"# {wf.theory.genie_gain():.3f} bit".replace("-0", "−") in block


def test_bounds_are_had_as_the_page_says(capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, Any] = {}
    for block in blocks(DOCS / "bounds.md"):
        exec(block, names)
    assert capsys.readouterr().out.count("upper bound") == 2


@pytest.mark.parametrize(
    "page",
    [page for page in PAGES if blocks(page) and page.name not in ELSEWHERE],
    ids=label,
)
def test_python_on_a_page_runs_from_top_to_bottom(
    page: Path, photo: NDArray[np.uint8], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photographs").mkdir()
    Image.fromarray(photo[:96, :80]).save("photo.png")
    for name, part in (("a", photo[:80, :80]), ("b", photo[80:160, 80:160])):
        Image.fromarray(part).save(f"photographs/{name}.png")
    names: dict[str, Any] = {}
    for block in blocks(page):
        exec(block, names)
    if page.name == "theory.md":
        text = page.read_text(encoding="utf-8")
        for n, *figures in names["rows"]:
            row = " | ".join(figure.replace("0.", ".").replace("-", "−") for figure in figures)
            assert f"| {n} | {row} |" in text


def command_lines(page: Path) -> list[list[str]]:
    """The words of every ``waterfill …`` in a page's bash blocks."""
    joined = "\n".join(blocks(page, "bash")).replace("\\\n", " ")
    words = (shlex.split(line, comments=True) for line in joined.splitlines())
    return [line for line in words if line and line[0] == "waterfill"]


def parsed(words: list[str]) -> dict[str, Any]:
    """What click makes of a command line, without doing it."""
    command: click.Command = app
    # Within the program's own context: a command keeps the help's names from the first it is in.
    around = click.Context(app, **app.context_settings)
    while isinstance(command, click.Group):
        command = command.commands[words[0]]
        words = words[1:]
    with command.make_context(command.name, list(words), around) as context:
        assert command.params
        return context.params


@pytest.mark.parametrize("page", [page for page in PAGES if command_lines(page)], ids=label)
def test_command_lines_name_options_that_exist(page: Path) -> None:
    from waterfill.reproduce import REPRODUCTIONS
    from waterfill.training.presets import PRESETS

    for line in command_lines(page):
        given = parsed(line[1:])
        if line[1] == "train" and given["preset"]:
            assert given["preset"] in PRESETS, line
        if line[1] == "reproduce":
            assert given["name"] in REPRODUCTIONS, line


def test_a_command_line_of_no_such_option_would_be_noticed() -> None:
    with pytest.raises(click.NoSuchOption):
        parsed(["limits", "photo.png", "--no-such-option"])


def test_every_command_has_a_page() -> None:
    shown = {line[1] for page in (DOCS / "commands").glob("*.md") for line in command_lines(page)}
    assert shown == set(app.commands)


@pytest.fixture(scope="module")
def tables() -> ModuleType:
    spec = importlib.util.spec_from_file_location("tables", ROOT / "scripts" / "docs_tables.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_pages_say_what_commands_and_stored_results_say(tables: ModuleType) -> None:
    """``python scripts/docs_tables.py`` mends it."""
    for page in tables.pages():
        text = page.read_text(encoding="utf-8")
        assert text == tables.filled(text), label(page)


def test_an_altered_figure_would_be_noticed(tables: ModuleType) -> None:
    text = (DOCS / "reproduction.md").read_text(encoding="utf-8")
    claimed = re.search(r"joint −\d+\.\d %", text)
    assert claimed
    assert tables.filled(text.replace(claimed[0], "joint −99.9 %")) == text


def test_every_figure_of_the_reproduction_status_is_stored() -> None:
    """By another way than the one that writes the page."""
    text = (DOCS / "reproduction.md").read_text(encoding="utf-8")
    stored: set[str] = set()
    number = re.compile(r"[+−-]?\d*\.?\d+(?:e[+-]?\d+)?")
    for file in (ROOT / "benchmarks" / "results" / "reproduce").glob("*.json"):
        data = json.loads(file.read_text(encoding="utf-8"))
        for part in ("name", "tables", "verdicts", "environment"):
            stored |= set(number.findall(json.dumps(data.get(part), ensure_ascii=False)))
    tabled = "\n".join(line for line in text.splitlines() if line.startswith("| "))
    figures = number.findall(tabled)
    assert len(figures) > 100
    assert set(figures) <= stored


def test_what_a_trellis_saves_is_what_is_stored() -> None:
    stored = json.loads((ROOT / "benchmarks" / "results" / "quantisers.json").read_text("utf-8"))
    text = (DOCS / "commands" / "compress.md").read_text(encoding="utf-8")
    figures = dict(re.findall(r"^\| (.+) \| −([\d.]+) % \|$", text, re.M))
    for name, rate in stored["bd_rate"].items():
        assert float(figures[name]) == pytest.approx(-rate, abs=0.005)
    assert len(figures) == len(stored["bd_rate"]) + 1


def test_memory_on_many_pictures_is_what_is_stored() -> None:
    stored = json.loads((ROOT / "benchmarks" / "results" / "streaming.json").read_text("utf-8"))
    text = (DOCS / "many-machines.md").read_text(encoding="utf-8")
    found = re.findall(r"^\| `(.+)` \| (\d+) MiB \| (\d+) MiB \|$", text, re.M)
    peaks = {(row["mode"], row["pictures"]): row["peak_mib"] for row in stored["rows"]}
    said = {
        (mode, n): int(mib) for mode, *two in found for n, mib in zip((10, 100), two, strict=True)
    }
    assert said == {key: round(mib) for key, mib in peaks.items()}


LINK = re.compile(r"\[[^\]]*\]\(([^)#\s]*)(?:#([^)\s]*))?\)")


def anchors(page: Path) -> set[str]:
    """Of headings, as the site and code hosts make them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.M)
    return {re.sub(r"[^\w\- ]", "", h.lower()).strip().replace(" ", "-") for h in headings}


@pytest.mark.parametrize("page", PAGES, ids=label)
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.S)
    for target, anchor in LINK.findall(text):
        if "://" in target:
            continue
        to = (page.parent / target).resolve() if target else page
        assert to.exists(), target
        if anchor:
            assert anchor in anchors(to), f"{target}#{anchor}"


def test_contributing_names_what_there_is() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    paths = re.findall(r"`(?:python )?((?:src|tests|docs|scripts|benchmarks)/[\w/.-]*)`", text)
    assert len(paths) > 15
    for path in paths:
        assert (ROOT / path).exists(), path
    named = re.findall(r"`(\w+)`\s+(?:of|in)\s+`((?:src|tests)/[\w/.]+\.py)`", text)
    assert len(named) >= 8
    for name, path in named:
        source = (ROOT / path).read_text(encoding="utf-8")
        assert re.search(rf"^(?:def |class )?{name}\b", source, re.M), f"{name} in {path}"


def test_floors_are_those_of_the_architecture() -> None:
    from test_architecture import FLOORS

    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    (listed,) = re.findall(r"From the ground up: (.*?);", text, re.S)
    assert re.findall(r"`(\w+)`", listed) == list(FLOORS[FLOORS.index("theory") :])


def test_the_page_of_the_ladder_has_every_rung_with_its_status() -> None:
    from waterfill.ladder.rungs import LADDER

    rows = re.findall(
        r"^\| (.+?) \| .+ \| (.+?) \|$", (DOCS / "ladder.md").read_text("utf-8"), re.M
    )
    said = dict(rows)
    for rung in LADDER:
        name = "grouped …" if rung.name.startswith("grouped") else rung.name
        assert said[name].strip("*").startswith(rung.status.value.split()[0]), name
    names = {"grouped …" if r.name.startswith("grouped") else r.name for r in LADDER}
    order = [name for name, _ in rows if name in names]
    assert order == list(dict.fromkeys(order))
    assert set(order) == names


def test_every_page_is_in_the_navigation() -> None:
    listed = re.findall(r": ([\w/-]+\.md)$", (ROOT / "mkdocs.yml").read_text("utf-8"), re.M)
    pages = {page.relative_to(DOCS).as_posix() for page in DOCS.rglob("*.md")}
    assert sorted(listed) == sorted(pages)


def test_objects_of_the_api_pages_exist() -> None:
    import importlib

    for page in (DOCS / "api").glob("*.md"):
        for path in re.findall(r"^::: ([\w.]+)$", page.read_text(encoding="utf-8"), re.M):
            module, _, name = path.rpartition(".")
            found = getattr(importlib.import_module(module), name, None)
            assert found is not None or importlib.import_module(path), path
            if path != "waterfill.errors":
                assert found.__doc__, path


def test_every_method_of_bounds_is_in_the_help_and_on_its_pages() -> None:
    from waterfill.estimators import METHODS

    option = next(one for one in app.commands["bounds"].params if one.name == "methods")
    assert isinstance(option, click.Option)
    table = (DOCS / "bounds.md").read_text(encoding="utf-8")
    page = (DOCS / "api" / "estimators.md").read_text(encoding="utf-8")
    for name, kind in METHODS.items():
        assert name in re.findall(r"[\w-]+", option.help or "")
        assert f"| `{name}` |" in table
        assert f"::: {kind.__module__}.{kind.__name__}\n" in page


def test_pictures_are_there_and_say_where_they_come_from() -> None:
    folder = DOCS / "pictures"
    stored = {path.stem for path in folder.glob("*.png")}
    sources = json.loads((folder / "sources.json").read_text(encoding="utf-8"))
    shown = set()
    for page in PAGES:
        for target in re.findall(r"!\[[^]]+\]\(([^)]+)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).is_file(), (page, target)
            shown.add(Path(target).stem)
    assert stored == shown == set(sources)
    for source in sources.values():
        assert {"command", "date", "machine", "revision", "seed"} == set(source)
        assert parsed(shlex.split(source["command"])[1:])
