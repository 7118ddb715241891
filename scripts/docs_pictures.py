"""Draw the documentation's pictures: figures of the pages that the program writes.

    python scripts/docs_pictures.py [--work DIR]

Runs the commands of :data:`PICTURES` on the built-in photographs, unless their pages lie in DIR
already, and takes each figure as a headless Chromium shows it. Beside the pictures stands what each
came from.
"""

from __future__ import annotations

import argparse
import json
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from PIL import Image, ImageChops

from waterfill.files import write_whole

ROOT = Path(__file__).parents[1]
OUT = ROOT / "docs" / "pictures"
#: Of the browser's window, in CSS pixels, and pixels for each of them.
_WIDTH, _HEIGHT, _SCALE = 900, 700, 1.5
_MARGIN, _COLOURS = 12, 128


@dataclass(frozen=True)
class Picture:
    """A figure of a page.

    Attributes
    ----------
    name
        Of its file, without the ending.
    command
        What writes the page, but for its ``--out``.
    page
        Its name.
    figure
        Its ``data-figure`` in the page.
    """

    name: str
    command: str
    page: str
    figure: str

    @property
    def folder(self) -> str:
        """Of the command's output; commands that are equal share it."""
        return re.sub(r"\W+", "-", self.command)


_LIMITS = "waterfill limits"
_EVALUATE = "waterfill evaluate --against jpeg,webp,jpeg2000"
_BOUNDS = "waterfill bounds sphere:n=5,noise=0.1 --method wgd,sandwich --slopes 5,10,20 --unit nats"
PICTURES = (
    Picture("where-the-bits-go", _LIMITS, "report.html", "waterfall"),
    Picture("ladder", _LIMITS, "report.html", "curves"),
    Picture("codecs", _EVALUATE, "evaluation.html", "psnr"),
    Picture("bounds", _BOUNDS, "bounds.html", "bounds"),
)

#: Leaves one figure of a page, once it is drawn, without what there is to press.
_ALONE = """<style>.modebar, .updatemenu-container {{ display: none !important }}</style><script>
window.addEventListener("load", () => setTimeout(() => {{
  const figure = document.querySelector('[data-figure="{figure}"]');
  document.body.replaceChildren(figure);
  document.body.style.margin = "0";
}}, 3000));</script></head>"""


def browser() -> str:
    """Path of a Chromium."""
    names = ("chromium", "chromium-browser", "google-chrome")
    found = next((path for name in names if (path := shutil.which(name))), None)
    if found is None:
        sys.exit("error: no Chromium on this machine")
    return found


def page_of(picture: Picture, work: Path) -> Path:
    """The page, written now or before."""
    page = work / picture.folder / picture.page
    if not page.exists():
        words = shlex.split(picture.command)
        subprocess.run(
            [sys.executable, "-m", *words, "--out", str(page.parent)], check=True, cwd=work
        )
    return page


def shot(page: Path, figure: str, to: Path) -> None:
    """A figure of a page as a PNG, cropped."""
    text = page.read_text(encoding="utf-8")
    if f'data-figure="{figure}"' not in text:
        sys.exit(f"error: {page}: has no figure {figure}")
    with TemporaryDirectory() as folder:
        alone, whole = Path(folder, "page.html"), Path(folder, "page.png")
        alone.write_text(text.replace("</head>", _ALONE.format(figure=figure), 1), encoding="utf-8")
        subprocess.run(
            [
                browser(),
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                "--hide-scrollbars",
                "--blink-settings=preferredColorScheme=1",
                f"--user-data-dir={folder}/profile",
                f"--window-size={_WIDTH},{_HEIGHT}",
                f"--force-device-scale-factor={_SCALE}",
                "--virtual-time-budget=15000",
                f"--screenshot={whole}",
                alone.as_uri(),
            ],
            check=True,
            capture_output=True,
            timeout=300,
        )
        with Image.open(whole) as image:
            pixels = image.convert("RGB")
    ground = Image.new("RGB", pixels.size, pixels.getpixel((0, 0)))
    box = ImageChops.difference(pixels, ground).getbbox()
    if box is None:
        sys.exit(f"error: {page}: the figure {figure} is empty")
    left, top, right, bottom = box
    cut = (
        max(0, left - _MARGIN),
        max(0, top - _MARGIN),
        min(pixels.width, right + _MARGIN),
        min(pixels.height, bottom + _MARGIN),
    )
    small = pixels.crop(cut).quantize(_COLOURS, dither=Image.Dither.NONE)
    small.save(to, optimize=True)


def environment_of(page: Path) -> dict[str, Any]:
    """What the JSON beside a page says of where its numbers come from."""
    (data,) = page.parent.glob("*.json")
    result: dict[str, Any] = json.loads(data.read_text(encoding="utf-8"))
    found = result.get("environment") or result["curves"][0]["environment"]  # of bounds
    return {name: found[name] for name in ("date", "machine", "revision", "seed")}


def main() -> None:
    """Draw all of them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "pictures")
    work = parser.parse_args().work.absolute()
    work.mkdir(parents=True, exist_ok=True)
    OUT.mkdir(parents=True, exist_ok=True)
    sources = {}
    for picture in PICTURES:
        page = page_of(picture, work)
        shot(page, picture.figure, OUT / f"{picture.name}.png")
        sources[picture.name] = {"command": picture.command, **environment_of(page)}
        print(OUT / f"{picture.name}.png")
    write_whole(OUT / "sources.json", json.dumps(sources, indent=1) + "\n")


if __name__ == "__main__":
    main()
