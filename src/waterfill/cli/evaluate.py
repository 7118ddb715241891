"""``waterfill evaluate``."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from waterfill.cli.shared import (
    NAME,
    PATH,
    SEED,
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
from waterfill.errors import WaterfillError
from waterfill.files import write_all
from waterfill.processes import is_first

if TYPE_CHECKING:
    from waterfill.data.images import Picture
    from waterfill.evaluation.measure import OwnCodec
    from waterfill.evaluation.result import Comparison, Evaluation
    from waterfill.ladder import Ladder
    from waterfill.report.evaluation import Shown

#: Pictures that the report shows.
_SHOWN = 4


@click.command(short_help="Compare codecs in rate and distortion on pictures.")
@click.argument("paths", nargs=-1, type=NAME, metavar="[PATH]...")
@click.option(
    "--codec",
    "codecs",
    type=NAME,
    multiple=True,
    metavar="NAME|FILE",
    help="A codec's name, or a file of its weights; repeatable. [default, the bundled one]",
)
@click.option(
    "--against",
    default="jpeg,webp",
    show_default=True,
    metavar="NAMES",
    help="Conventional codecs and published curves, with commas; --list names them.",
)
@click.option(
    "--quality",
    "-q",
    type=float,
    multiple=True,
    help="Quality of each --codec, 1 … 8; repeatable. [all whole ones]",
)
@click.option(
    "--effort", type=int, default=0, show_default=True, help="Of each --codec, as for compress."
)
@click.option("--trellis", is_flag=True, help="Of each --codec, as for compress.")
@click.option("--limits", is_flag=True, help="Draw the ladder of each --codec over the curves.")
@click.option(
    "--cache", type=PATH, metavar="DIR", help="Where measurements are kept. [~/.cache/waterfill]"
)
@click.option("--no-cache", is_flag=True, help="Measure everything anew, and keep nothing.")
@click.option(
    "--out",
    type=PATH,
    default=Path("waterfill-report"),
    metavar="DIR",
    show_default=True,
    help="Folder for evaluation.html, evaluation.json and rows.csv.",
)
@device_option
@shards_option
@json_option
@click.option(
    "--seed",
    type=SEED,
    default=0,
    show_default=True,
    help="Seed of intervals and of the ladder's noise.",
)
@click.option("--list", "list_names", is_flag=True, help="List what there is to compare with.")
def evaluate(
    paths: tuple[str, ...],
    codecs: tuple[str, ...],
    against: str,
    quality: tuple[float, ...],
    effort: int,
    trellis: bool,
    limits: bool,
    cache: Path | None,
    no_cache: bool,
    out: Path,
    device: str,
    shards: Path | None,
    json_file: Path | None,
    seed: int,
    list_names: bool,
) -> None:
    """Code pictures by learned and conventional codecs, and compare rate and distortion.

    PATH is a picture, a folder or a glob; without any, built-in photographs are coded. Under
    torchrun, all processes share the pictures.
    """
    if list_names:
        _list()
        return
    from waterfill.data.images import find_images, sample_pictures
    from waterfill.evaluation.cache import Cache
    from waterfill.evaluation.conventional import CONVENTIONAL
    from waterfill.evaluation.measure import evaluate as measure
    from waterfill.report.evaluation import render_evaluation

    if no_cache and cache is not None:
        raise WaterfillError("--cache and --no-cache exclude each other")
    images = list[Any](find_images(paths) if paths else sample_pictures())
    own = _own_codecs(codecs or ("default",), quality, effort, trellis, device)
    anchors = _anchors(against)
    measured = [name for name in anchors if name in CONVENTIONAL]
    if is_first():
        writable_folder(out, "evaluation.json", "rows.csv", "evaluation.html", json_file=json_file)
    kept = None if no_cache else Cache(cache)
    rows = shards_folder(shards, out)
    with progress_bar() as bar:
        task = bar.add_task("starting", total=None)

        def advance(done: int, total: int, what: str) -> None:
            bar.update(task, completed=done, total=total, description=what)

        found = measure(
            images, [*own, *measured], cache=kept, shards=rows, seed=seed, progress=advance
        )
        ladders = _ladders(own, images, seed, rows, advance) if limits else {}
    if not is_first():
        return
    shown = _shown(own[0], images[:_SHOWN])
    text = found.to_json(anchors)
    results: dict[Path, str | bytes] = {
        out / "evaluation.json": text,
        out / "rows.csv": found.to_csv(),
        out / "evaluation.html": render_evaluation(found, anchors, ladders=ladders, shown=shown),
    }
    if json_file is not None:
        results[json_file] = text
    write_all(results)
    _print(found, anchors)
    say("\n" + "\n".join(str(path) for path in results))


def _own_codecs(
    names: Sequence[str], quality: tuple[float, ...], effort: int, trellis: bool, device: str
) -> list[OwnCodec]:
    """Codecs of this package, each once, by whatever spelling of its path."""
    from waterfill.codec.registry import PRESETS, codec_at
    from waterfill.evaluation.measure import OwnCodec

    files: dict[str, str] = {}
    for name in names:
        files.setdefault(name if name in PRESETS else os.path.realpath(name), name)
    chosen = tuple(sorted(set(quality))) or None
    return [
        OwnCodec(codec_at(name, only(quality), device), chosen, effort, trellis)
        for name in files.values()
    ]


def _anchors(against: str) -> list[str]:
    """Conventional codecs and published curves, each once, by whatever names it is called."""
    from waterfill.evaluation.conventional import CONVENTIONAL
    from waterfill.evaluation.published import published_curve

    named: dict[tuple[str, str], str] = {}
    for name in filter(None, map(str.strip, against.split(","))):
        if name.lower() in CONVENTIONAL:
            named.setdefault(("measured", name.lower()), name.lower())
        else:  # or it is unknown, and says so before the work
            try:
                curve = published_curve(name)
            except WaterfillError as error:
                raise WaterfillError(f"{error} (--list names all there is)") from None
            # Weights may be called as a curve is, and would be taken for it.
            named.setdefault(("published", curve.name), f"published:{curve.name}")
    return list(named.values())


def _print(found: Evaluation, anchors: Sequence[str]) -> None:
    """BD-rates, what was measured, and what to know of both."""
    cells = found.bd_rates(anchors)
    pictures = _pictures(found)
    if cells:
        say_bold(f"BD-rate in % by PSNR, {pictures} picture{'s' if pictures > 1 else ''}")
        say_table(_rates(found, cells))
        out_console.print()
    say_bold("measured")
    say_table(_codecs(found))
    for remark in _remarks(found, cells):
        out_console.print(f"* {remark}", style="dim", highlight=False, markup=False)


def _list() -> None:
    """Conventional codecs, and published curves."""
    from waterfill.evaluation.conventional import CONVENTIONAL, missing
    from waterfill.evaluation.published import ALIASES, published_names

    absent = missing()
    width = max(map(len, CONVENTIONAL))
    say("measured here:")
    for name, codec in CONVENTIONAL.items():
        say(f"  {name:{width}} {codec.title}{f' ({absent[name]})' if name in absent else ''}")
    say("published, on the 24 Kodak photographs (published:NAME where both have a name):")
    comma = ", "
    for name in published_names():
        aliases = [alias for alias, target in ALIASES.items() if target == name]
        say(f"  {name}{f' ({comma.join(aliases)})' if aliases else ''}")


def _ladders(
    own: Sequence[OwnCodec], images: Sequence[Any], seed: int, shards: Path | None, advance: Any
) -> dict[str, Ladder]:
    from waterfill.ladder import limits

    return {
        one.name: limits(
            one.codec, images, one.qualities, seed=seed, shards=shards, progress=advance
        )
        for one in own
    }


def _shown(codec: OwnCodec, images: Sequence[Any]) -> list[Shown]:
    """The first pictures before and after, at the middle of the curve."""
    from waterfill.data.images import as_picture
    from waterfill.evaluation.metrics import psnr
    from waterfill.report.evaluation import Shown

    setting = codec.settings[(len(codec.settings) - 1) // 2]
    found = []
    for image in images:
        picture: Picture = as_picture(image)
        data = codec.encode(picture, setting)
        decoded = codec.decode(data, picture.height, picture.width)
        bpp = 8 * len(data) / picture.pixel_count
        distortion = psnr(picture.pixels, decoded)
        found.append(Shown(picture.name, codec.name, bpp, distortion, picture.pixels, decoded))
    return found


def _rates(found: Evaluation, cells: Sequence[Comparison]) -> Table:
    """Own codecs against every anchor, on all pictures."""
    own = [codec.name for codec in found.codecs if codec.kind == "own"]
    table = _plain()
    table.add_column("against")
    for name in own:
        table.add_column(escape(name), justify="right")
    by_anchor: dict[str, dict[str, Comparison]] = {}
    for cell in cells:
        if cell.domain is None:
            by_anchor.setdefault(cell.anchor, {})[cell.test] = cell
    for anchor, row in by_anchor.items():
        other = any(cell.other_pictures for cell in row.values())
        table.add_row(
            escape(anchor) + (" (other pictures)" if other else ""),
            *(_rate(row.get(name)) for name in own),
        )
    return table


def _pictures(found: Evaluation) -> int:
    return found.curve(found.codecs[0].name)[0].pictures


def _remarks(found: Evaluation, cells: Sequence[Comparison]) -> list[str]:
    """What to know of the figures of own codecs, a line each."""
    from waterfill.evaluation.bd import LEAST_PICTURES

    own = [cell for cell in cells if found.codec(cell.test).kind == "own"]
    remarks = [caveat for cell in own for caveat in cell.caveats]
    for cell in own:
        doubts = (cell.reason,) if cell.result is None else cell.result.warnings
        if cell.domain is None and doubts:
            remarks.append(f"{cell.test} against {cell.anchor}: {'; '.join(doubts)}")
    count = _pictures(found)
    if count < LEAST_PICTURES and any(cell.result is not None for cell in own):
        few = f"{count} picture{' is' if count == 1 else 's are'}"
        remarks.append(f"no intervals: {few} too few to resample, {LEAST_PICTURES} would do")
    return list(dict.fromkeys(remarks))


def _codecs(found: Evaluation) -> Table:
    """What was measured, with the times of the middle setting."""
    table = _plain()
    table.add_column("codec")
    for column in ("bpp", "PSNR dB", "encode s", "decode s", "kMAC/pixel"):
        table.add_column(column, justify="right", no_wrap=True)
    for codec in found.codecs:
        curve = found.curve(codec.name)
        middle, takes = curve[len(curve) // 2], codec.complexity
        table.add_row(
            escape(codec.name),
            f"{curve[0].bpp:.2f} … {curve[-1].bpp:.2f}",
            f"{curve[0].psnr:.1f} … {curve[-1].psnr:.1f}",
            f"{middle.encode_seconds:.2f}",
            f"{middle.decode_seconds:.2f}",
            "—" if takes is None else f"{takes.encoder:.0f} enc, {takes.decoder:.0f} dec",
        )
    return table


def _plain() -> Table:
    return Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)


def _rate(cell: Comparison | None) -> str:
    """The figure, and its interval below: half a width would hide that it leans to one side."""
    if cell is None or cell.result is None or not math.isfinite(cell.result.rate_percent):
        return "—"
    found = f"{cell.result.rate_percent:+.1f}"
    if cell.result.interval is None:
        return found
    low, high = cell.result.interval
    return f"{found}\n[dim]{low:+.1f} … {high:+.1f}[/dim]"
