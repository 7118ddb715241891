"""The command line: thin. Each command reads its arguments, calls one function, and prints."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from waterfill.errors import ImageError, WaterfillError
from waterfill.files import write_whole

if TYPE_CHECKING:
    from waterfill.ladder import Ladder
    from waterfill.training.loop import Report

__all__ = ["app", "main"]

_err = Console(stderr=True)
_out = Console()

_PATH = click.Path(path_type=Path)
_codec_option = click.option(
    "--codec",
    default="default",
    show_default=True,
    metavar="NAME|FILE",
    help="A codec's name, or its weights.",
)
_json_option = click.option(
    "--json", "json_file", type=_PATH, metavar="FILE", help="Also write the result as JSON."
)


def main() -> None:
    """Entry point: turns every expected failure into one line and exit code 2."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Run a command line and return its exit code."""
    try:
        code = app.main(arguments, prog_name="waterfill", standalone_mode=False)
        return code if isinstance(code, int) else 0
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message())
        return 0
    except click.ClickException as error:
        message = error.format_message()
    except WaterfillError as error:
        message = str(error)
    except MemoryError:
        message = "not enough memory for this picture"
    except (KeyboardInterrupt, click.Abort):
        print("interrupted", file=sys.stderr)
        return 130
    print("error: " + " ".join(message.split()), file=sys.stderr)
    return 2


@contextmanager
def _progress(*columns: Any) -> Iterator[Progress]:
    with Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        *columns,
        console=_err,
        transient=True,
    ) as bar:
        yield bar


def _writable_folder(path: Path) -> None:
    """Fail before the work, not after it, if results can't be written."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise WaterfillError(f"{path}: can't be created ({error.strerror})") from None
    probe = path / ".waterfill-probe"
    write_whole(probe, b"")
    probe.unlink()


def _write_json(path: Path | None, data: dict[str, Any]) -> None:
    if path is not None:
        write_whole(path, json.dumps(data, indent=1, ensure_ascii=False) + "\n")


def _number(value: float, digits: int) -> str:
    return f"{value:.{digits}f}" if math.isfinite(value) else "—"


def _ladder_table(ladder: Ladder) -> Table:
    title = f"{ladder.codec}, quality {ladder.quality:g}, {len(ladder.images)} pictures"
    table = Table(title=title, title_justify="left", title_style="bold")
    table.add_column("rung", no_wrap=True)
    table.add_column("status")
    for column in ("bpp", "PSNR dB", "MS-SSIM", "saved bpp*", "saved %*"):
        table.add_column(column, justify="right", no_wrap=True)
    above = math.nan
    for rung in ladder.rungs:
        genie = rung.status == "genie-aided"
        saved = math.nan if rung.saved_bpp is None else rung.saved_bpp
        table.add_row(
            rung.name,
            rung.status,
            _number(rung.bpp, 4),
            _number(rung.psnr, 2),
            _number(rung.ms_ssim, 4),
            f"{saved:+.4f}" if math.isfinite(saved) else "",
            f"{100 * saved / above:+.1f}" if math.isfinite(saved) else "",
            style="magenta" if genie else None,
        )
        above = rung.bpp_at_equal_psnr
    return table


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="waterfill")
def app() -> None:
    """How far is an image codec from the rate-distortion limit, and what holds it back?"""


@app.command()
@click.argument("paths", nargs=-1, metavar="[PATH]...")
@_codec_option
@click.option("--quality", "-q", type=float, multiple=True, help="1 … 8, repeatable. [all eight]")
@click.option(
    "--out",
    type=_PATH,
    default=Path("waterfill-report"),
    metavar="DIR",
    show_default=True,
    help="Folder for report.html and ladder.json.",
)
@_json_option
@click.option("--seed", type=int, default=0, show_default=True, help="Of the channels' noise.")
def limits(
    paths: tuple[str, ...],
    codec: str,
    quality: tuple[float, ...],
    out: Path,
    json_file: Path | None,
    seed: int,
) -> None:
    """Measure the rate-distortion ladder of a codec on pictures, and report it."""
    from waterfill.codec.registry import load_codec
    from waterfill.data.images import find_images, sample_pictures
    from waterfill.ladder import limits as measure

    images: list[Any] = list(find_images(paths)) if paths else list(sample_pictures())
    model = load_codec(codec)
    _writable_folder(out)
    chosen = _checked_qualities(quality)
    with _progress() as bar:
        task = bar.add_task("starting", total=None)

        def advance(done: int, total: int, what: str) -> None:
            bar.update(task, completed=done, total=total, description=what)

        ladder = measure(model, images, chosen, seed=seed, progress=advance)
    text = ladder.to_json()
    write_whole(out / "ladder.json", text)
    if json_file is not None:
        write_whole(json_file, text)
    ladder.report(out / "report.html")

    _out.print(_ladder_table(ladder))
    _out.print(
        f"* against the rung above, at the file's PSNR; {ladder.decomposition.method}.",
        "genie-aided: told each latent's variance for free, which no decoder can be.",
        sep="\n",
        style="dim",
        highlight=False,
    )
    _out.print()
    _out.print(ladder.decomposition.sentence, highlight=False)
    _out.print(f"\n{out / 'report.html'}\n{out / 'ladder.json'}", highlight=False)


def _checked_qualities(quality: Sequence[float]) -> list[float] | None:
    from waterfill.codec.gains import check_quality

    try:
        return [check_quality(q) for q in quality] or None
    except ValueError as error:
        raise WaterfillError(str(error)) from None


@app.command()
@click.argument("source", metavar="IN", type=_PATH)
@click.argument("target", metavar="OUT", type=_PATH)
@_codec_option
@click.option("--quality", "-q", type=float, default=4.0, show_default=True, help="1 … 8.")
@_json_option
def compress(
    source: Path, target: Path, codec: str, quality: float, json_file: Path | None
) -> None:
    """Compress the picture IN, RGB or grey, to the stream OUT."""
    from waterfill.codec.registry import load_codec
    from waterfill.data.images import load_picture

    (chosen,) = _checked_qualities([quality]) or [quality]
    picture = load_picture(source)
    data = load_codec(codec).compress(picture, chosen)
    write_whole(target, data)
    bpp = 8 * len(data) / picture.pixel_count
    _out.print(f"{target}: {len(data)} bytes, {bpp:.4f} bpp", highlight=False)
    _write_json(
        json_file,
        {
            "source": str(source),
            "width": picture.width,
            "height": picture.height,
            "quality": chosen,
            "bytes": len(data),
            "bpp": bpp,
        },
    )


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise WaterfillError(f"{path}: can't be read ({error.strerror})") from None


@app.command()
@click.argument("source", metavar="IN", type=_PATH)
@click.argument("target", metavar="OUT", type=_PATH)
@_codec_option
@_json_option
def decompress(source: Path, target: Path, codec: str, json_file: Path | None) -> None:
    """Decompress the stream IN to the picture OUT, in the format of its suffix."""
    from waterfill.codec.registry import decompress as decode
    from waterfill.codec.registry import load_codec

    data = _read(source)
    kind = _picture_format(target)
    with _named(source):
        image = decode(data, codec=load_codec(codec))
    buffer = BytesIO()
    try:
        image.save(buffer, kind)
    except (OSError, ValueError) as error:
        raise ImageError(f"{target}: can't be written as {kind} ({error})") from None
    write_whole(target, buffer.getvalue())
    _out.print(f"{target}: {image.width}×{image.height}, {image.mode}", highlight=False)
    facts = {"width": image.width, "height": image.height, "mode": image.mode}
    _write_json(json_file, {"source": str(source), "target": str(target), **facts})


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Put the file's name in front of what is wrong with it."""
    try:
        yield
    except WaterfillError as error:
        raise type(error)(f"{path}: {error}") from None


def _picture_format(path: Path) -> str:
    from PIL import Image

    kind = Image.registered_extensions().get(path.suffix.lower())
    if kind is None or kind not in Image.SAVE:
        raise ImageError(f"{path}: no picture format goes by {path.suffix or 'no suffix'!r}")
    return kind


@app.command()
@click.argument("file", type=_PATH)
@_json_option
def info(file: Path, json_file: Path | None) -> None:
    """Say what a stream, or a file of weights, holds."""
    data = _read(file)
    with _named(file):
        facts = _weights_facts(data) if file.suffix == ".safetensors" else _stream_facts(data)
    for name, value in facts.items():
        _out.print(f"{name:>12}  {value}", highlight=False, soft_wrap=True)
    _write_json(json_file, facts)


def _stream_facts(data: bytes) -> dict[str, Any]:
    from waterfill.bitstream import Container
    from waterfill.bitstream.container import HEADER_BYTES, VERSION
    from waterfill.data.images import MAX_PIXELS

    header, z, y = Container.unpack(data, max_pixels=MAX_PIXELS)
    return {
        "version": VERSION,
        "codec": header.weights_id.hex(),
        "quality": header.quality,
        "width": header.width,
        "height": header.height,
        "mode": "grey" if header.grey else "RGB",
        "bytes": len(data),
        "header bytes": HEADER_BYTES,
        "z bytes": len(z),
        "y bytes": len(y),
        "bpp": 8 * len(data) / (header.width * header.height),
    }


def _weights_facts(data: bytes) -> dict[str, Any]:
    from waterfill.codec.registry import read_codec

    codec, facts = read_codec(data, "weights")
    parameters = sum(p.numel() for p in codec.parameters())
    widths = codec.config.to_dict()
    return {"codec": codec.weights_id.hex(), "parameters": parameters, **widths, **facts}


@app.command()
@click.argument("paths", nargs=-1, required=True, metavar="PATH...")
@click.option("--out", type=_PATH, required=True, metavar="DIR", help="Folder of the run.")
@click.option("--codec", default="default", show_default=True, help="A preset's architecture.")
@click.option("--steps", default=40_000, show_default=True, help="Optimiser steps in all.")
@click.option("--batch", default=8, show_default=True, help="Crops per step.")
@click.option("--crop", default=128, show_default=True, help="Side of a crop; 64, 128, …")
@click.option("--learning-rate", default=1e-3, show_default=True, help="Peak rate of Adam.")
@click.option(
    "--quality",
    type=(float, float),
    default=(1.0, 8.0),
    show_default=True,
    help="Lowest and highest quality to cover.",
)
@click.option(
    "--precision",
    type=click.Choice(["auto", "32-true", "bf16-mixed"]),
    default="auto",
    show_default=True,
    help="Arithmetic of the transforms.",
)
@click.option("--seed", default=1, show_default=True, help="Of weights, crops and noise.")
@click.option("--resume", is_flag=True, help="Go on from the checkpoint in DIR.")
@click.option("--max-minutes", type=float, default=math.inf, help="Stop with a checkpoint after.")
@_json_option
def train(
    paths: tuple[str, ...],
    out: Path,
    codec: str,
    steps: int,
    batch: int,
    crop: int,
    learning_rate: float,
    quality: tuple[float, float],
    precision: str,
    seed: int,
    resume: bool,
    max_minutes: float,
    json_file: Path | None,
) -> None:
    """Train a codec on a folder of photographs. Ctrl-C stops it with a checkpoint."""
    from waterfill.codec.registry import PRESETS
    from waterfill.errors import TrainingError
    from waterfill.training.loop import TrainConfig
    from waterfill.training.loop import train as run_training

    if codec not in PRESETS:
        raise TrainingError(f"{codec}: not an architecture ({', '.join(PRESETS)})")
    config = TrainConfig(
        codec=PRESETS[codec],
        steps=steps,
        batch=batch,
        crop=crop,
        learning_rate=learning_rate,
        qualities=quality,
        precision=precision,
        seed=seed,
    )
    last: dict[str, Any] = {}
    with _progress(TextColumn("{task.fields[state]}")) as bar:
        task = bar.add_task("training", total=steps, state="")
        weights = run_training(
            list(paths),
            out,
            config,
            resume=resume,
            max_minutes=max_minutes,
            progress=_training_line(bar, task, last),
        )
    _out.print(f"{weights}: step {last.get('step', 0)} of {steps}", highlight=False)
    _write_json(json_file, {"weights": str(weights), **last})


def _training_line(bar: Progress, task: Any, last: dict[str, Any]) -> Callable[[Report], None]:
    def show(report: Report) -> None:
        state = f"loss {report.loss:.4f}  {report.bpp:.3f} bpp  {report.psnr:.2f} dB"
        bar.update(task, completed=report.step, state=state)
        last.update(step=report.step, loss=report.loss, bpp=report.bpp, psnr=report.psnr)
        if report.validation:
            last["validation"] = report.validation
            held_back = "  ".join(f"{k} {v:.3f}" for k, v in report.validation.items())
            bar.console.print(f"step {report.step}: held back  {held_back}", highlight=False)
        if report.note:
            bar.console.print(report.note, highlight=False)

    return show
