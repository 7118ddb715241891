"""``waterfill limits``."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.box import SIMPLE_HEAD
from rich.table import Table

from waterfill.cli.shared import (
    NAME,
    PATH,
    SEED,
    codec_option,
    device_option,
    json_option,
    only,
    out_console,
    progress_bar,
    say,
    say_bold,
    say_table,
    shards_folder,
    shards_option,
    writable_folder,
)
from waterfill.files import write_all
from waterfill.processes import is_first

if TYPE_CHECKING:
    from waterfill.ladder import Ladder


@click.command(short_help="Measure and report the rate-distortion ladder of a codec.")
@click.argument("paths", nargs=-1, type=NAME, metavar="[PATH]...")
@codec_option
@click.option(
    "--quality",
    "-q",
    type=float,
    multiple=True,
    help="Quality, 1 … 8; repeatable. [all whole ones]",
)
@click.option(
    "--out",
    type=PATH,
    default=Path("waterfill-report"),
    metavar="DIR",
    show_default=True,
    help="Folder for report.html and ladder.json.",
)
@device_option
@shards_option
@json_option
@click.option(
    "--seed",
    type=SEED,
    default=0,
    show_default=True,
    help="Seed of the channels' noise and of intervals.",
)
def limits(
    paths: tuple[str, ...],
    codec: str,
    quality: tuple[float, ...],
    out: Path,
    device: str,
    shards: Path | None,
    json_file: Path | None,
    seed: int,
) -> None:
    """Measure the rate-distortion ladder of a codec on pictures, and report it.

    PATH is a picture, a folder or a glob; without any, built-in photographs are measured. Under
    torchrun, all processes share the pictures.
    """
    from waterfill.codec.registry import codec_at
    from waterfill.data.images import find_images, sample_pictures
    from waterfill.ladder import limits as measure
    from waterfill.report.html import render

    images = list[Any](find_images(paths) if paths else sample_pictures())
    model = codec_at(codec, only(quality), device)
    for one in quality:
        model.check_quality(one)
    if is_first():
        writable_folder(out, "report.html", "ladder.json", json_file=json_file)
    kept = shards_folder(shards, out)
    with progress_bar() as bar:
        task = bar.add_task("starting", total=None)

        def advance(done: int, total: int, what: str) -> None:
            bar.update(task, completed=done, total=total, description=what)

        ladder = measure(model, images, quality or None, seed=seed, shards=kept, progress=advance)
    if not is_first():
        return
    text = ladder.to_json()
    files: dict[Path, bytes | str] = {
        out / "report.html": render(ladder),
        out / "ladder.json": text,
    }
    if json_file is not None:
        files[json_file] = text
    write_all(files)

    pictures = "1 picture" if len(ladder.images) == 1 else f"{len(ladder.images)} pictures"
    say_bold(f"{ladder.codec}, {ladder.setting}, {pictures}")
    say_table(_ladder_table(ladder))
    out_console.print(
        f"* bpp at the codec's PSNR, and against the codec; {ladder.decomposition.method}.",
        "genie-aided: told each latent's variance for free, which no decoder can be.",
        sep="\n",
        style="dim",
        highlight=False,
    )
    out_console.print()
    out_console.print(ladder.decomposition.sentence, highlight=False)
    say(f"\n{out / 'report.html'}\n{out / 'ladder.json'}")


#: Statuses that would take three lines of a narrow column.
_SHORT = {"achieved up to coder overhead": "≈ achieved"}


def _number(value: float, digits: int) -> str:
    if not math.isfinite(value):
        return "—"
    # Six characters at most: the table has eighty in all.
    return f"{value:.{max(0, min(digits, 5 - len(str(int(abs(value))))))}f}"


def _percent(value: float) -> str:
    """With a digit behind the point where it says something."""
    return f"{value:+.0f}" if abs(value) >= 100 else f"{value:+.1f}"


def _ladder_table(ladder: Ladder) -> Table:
    table = Table(
        box=SIMPLE_HEAD,
        padding=(0, 0),
        pad_edge=False,
        show_edge=False,
    )
    table.add_column("rung", no_wrap=True)
    table.add_column("status", no_wrap=True)
    for column in ("bpp", "PSNR dB", "MS-SSIM", "equal*", "saved %*"):
        table.add_column(column, justify="right", no_wrap=True)
    achieved = ladder.rungs[0].bpp_at_equal_psnr
    for rung in ladder.rungs:
        genie = rung.status == "genie-aided"
        saved = math.nan if rung.saved_bpp is None else rung.saved_bpp
        table.add_row(
            rung.name,
            _SHORT.get(rung.status, rung.status),
            _number(rung.bpp, 4),
            _number(rung.psnr, 2),
            _number(rung.ms_ssim, 4),
            _number(rung.bpp_at_equal_psnr, 4),
            _percent(100 * saved / achieved) if math.isfinite(saved) and achieved else "—",
            style="magenta" if genie else None,
        )
    return table
