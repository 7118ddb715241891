"""The command line: thin. Each command reads its arguments, calls one function, and prints."""

from __future__ import annotations

import json
import math
import os
import stat
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
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
from waterfill.files import check_writable, write_all, write_whole

if TYPE_CHECKING:
    from waterfill.ladder import Ladder
    from waterfill.training.loop import Report

__all__ = ["app", "main"]

# OpenMP threads that wait by spinning take the processor from those they wait for; on a machine
# that others use too, a step then takes five times as long. To be set before torch is loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

_err = Console(stderr=True)
_out = Console()

#: Larger files are neither streams nor weights, and are not read.
_MAX_BYTES = 1 << 30

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


_NO_MEMORY = "not enough memory"


def main() -> None:
    """Entry point: turns every expected failure into one line and exit code 2."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # file names hold what the terminal may not know
            stream.reconfigure(errors="backslashreplace")
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Run a command line and return its exit code."""
    try:
        code = app.main(arguments or ["--help"], prog_name="waterfill", standalone_mode=False)
        return code if isinstance(code, int) else 0
    except click.ClickException as error:
        message = error.format_message()
    except WaterfillError as error:
        message = str(error)
    except MemoryError:
        message = _NO_MEMORY
    except OSError as error:
        where = (
            f"{os.fsdecode(error.filename)}: " if isinstance(error.filename, str | bytes) else ""
        )
        message = where + (error.strerror or str(error))
    except (KeyboardInterrupt, click.Abort):
        print("interrupted", file=sys.stderr)
        return 130
    except RuntimeError as error:
        if "allocate memory" not in str(error) and "out of memory" not in str(error):
            raise
        message = _NO_MEMORY
    print("error: " + " ".join(message.split()), file=sys.stderr)
    return 2


@contextmanager
def _progress(*columns: Any) -> Iterator[Progress]:
    with Progress(
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        *columns,
        console=_err,
        transient=True,
        disable=not _err.is_terminal,  # in a file it would leave empty lines
    ) as bar:
        yield bar


def _writable_folder(path: Path) -> None:
    """Fail before the work, not after it, if results can't be written."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise WaterfillError(f"{path}: can't be created ({error.strerror})") from None
    check_writable(path / "report.html")


def _outputs(source: Path, *targets: Path | None) -> None:
    """Fail before the work if an output can't be written, is the input, or is named twice."""
    seen = {os.path.realpath(source)}
    for target in targets:
        if target is None:
            continue
        name = os.path.realpath(target)
        same = target.exists() and source.exists() and target.samefile(source)
        if same or name in seen:
            raise WaterfillError(f"{target}: is another file of this command; choose another name")
        seen.add(name)
        check_writable(target)


def _json(data: dict[str, Any]) -> str:
    return json.dumps(data, indent=1, ensure_ascii=False) + "\n"


def _write_json(path: Path | None, data: dict[str, Any]) -> None:
    if path is not None:
        write_whole(path, _json(data))


def _say(text: str) -> None:
    """Print as it is: a file name may look like markup, and must not be broken into lines."""
    _out.print(text, markup=False, emoji=False, highlight=False, soft_wrap=True)


def _number(value: float, digits: int) -> str:
    return f"{value:.{digits}f}" if math.isfinite(value) else "—"


def _ladder_table(ladder: Ladder) -> Table:
    pictures = "1 picture" if len(ladder.images) == 1 else f"{len(ladder.images)} pictures"
    table = Table(
        title=f"{escape(ladder.codec)}, quality {ladder.quality:g}, {pictures}",
        title_justify="left",
        title_style="bold",
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
        show_edge=False,
    )
    table.add_column("rung", no_wrap=True)
    table.add_column("status", min_width=11, max_width=13)
    for column in ("bpp", "PSNR dB", "MS-SSIM", "saved*", "in %*"):
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
            f"{100 * saved / above:+.1f}" if math.isfinite(saved) and above else "",
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

    chosen = _checked_qualities(quality)
    images = list[Any](find_images(paths) if paths else sample_pictures())
    model = load_codec(codec)
    if json_file is not None:
        check_writable(json_file)
    _writable_folder(out)
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
        f"* bpp against the rung above, at the file's PSNR; {ladder.decomposition.method}.",
        "genie-aided: told each latent's variance for free, which no decoder can be.",
        sep="\n",
        style="dim",
        highlight=False,
    )
    _out.print()
    _out.print(ladder.decomposition.sentence, highlight=False)
    _say(f"\n{out / 'report.html'}\n{out / 'ladder.json'}")


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
    _outputs(source, target, json_file)
    picture = load_picture(source)
    data = load_codec(codec).compress(picture, chosen)
    bpp = 8 * len(data) / picture.pixel_count
    facts = {
        "source": str(source),
        "width": picture.width,
        "height": picture.height,
        "quality": chosen,
        "bytes": len(data),
        "bpp": bpp,
    }
    write_all({target: data} | ({json_file: _json(facts)} if json_file else {}))
    _say(f"{target}: {len(data)} bytes, {bpp:.4f} bpp")


def _read(path: Path) -> bytes:
    try:
        about = path.stat()
        if not stat.S_ISREG(about.st_mode):
            raise WaterfillError(f"{path}: is not a file")
        if about.st_size > _MAX_BYTES:
            raise WaterfillError(f"{path}: too large to be a stream or a codec's weights")
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
    _outputs(source, target, json_file)
    model = load_codec(codec)
    with _named(source):
        image = decode(data, codec=model)
    buffer = BytesIO()
    try:
        image.save(buffer, kind, **({"lossless": True} if kind == "WEBP" else {}))
    except (OSError, ValueError) as error:
        raise ImageError(f"{target}: can't be written as {kind} ({error})") from None
    facts: dict[str, Any] = {"source": str(source), "target": str(target)}
    facts |= {"width": image.width, "height": image.height, "mode": image.mode}
    write_all({target: buffer.getvalue()} | ({json_file: _json(facts)} if json_file else {}))
    _say(f"{target}: {image.width}×{image.height}, {image.mode}")


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Put the file's name in front of what is wrong with it."""
    try:
        yield
    except WaterfillError as error:
        raise type(error)(f"{path}: {error}") from None


def _picture_format(path: Path) -> str:
    from PIL import Image

    from waterfill.data.images import IMAGE_SUFFIXES

    kind = Image.registered_extensions().get(path.suffix.lower())
    if kind is None or path.suffix.lower() not in IMAGE_SUFFIXES or kind == "GIF":  # 256 colours
        raise ImageError(f"{path}: no picture format goes by {path.suffix or 'no suffix'!r}")
    return kind


@app.command()
@click.argument("file", type=_PATH)
@_json_option
def info(file: Path, json_file: Path | None) -> None:
    """Say what a stream, or a file of weights, holds."""
    _outputs(file, json_file)
    data = _read(file)
    with _named(file):
        facts = _weights_facts(data) if file.suffix == ".safetensors" else _stream_facts(data)
    for name, value in facts.items():
        _say(f"{name:>12}  {value}")
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
@click.option("--warmup", default=500, show_default=True, help="Steps up to the peak rate.")
@click.option("--decay", default=0.3, show_default=True, help="Last share of steps, rate falling.")
@click.option(
    "--linear-steps", default=0, show_default=True, help="First steps on the block transform alone."
)
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
@click.option("--start", metavar="NAME|FILE", help="A codec whose weights to start from.")
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
    warmup: int,
    decay: float,
    linear_steps: int,
    quality: tuple[float, float],
    precision: str,
    seed: int,
    start: str | None,
    resume: bool,
    max_minutes: float,
    json_file: Path | None,
) -> None:
    """Train a codec on a folder of photographs. Ctrl-C stops it with a checkpoint."""
    from waterfill.codec.registry import PRESETS
    from waterfill.errors import TrainingError
    from waterfill.training.config import TrainConfig
    from waterfill.training.loop import train as run_training

    if codec not in PRESETS:
        raise TrainingError(f"{codec}: not an architecture ({', '.join(PRESETS)})")
    if json_file is not None:
        check_writable(json_file)
    config = TrainConfig(
        codec=PRESETS[codec],
        steps=steps,
        batch=batch,
        crop=crop,
        learning_rate=learning_rate,
        warmup=warmup,
        decay=decay,
        linear_steps=linear_steps,
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
            start=start,
            resume=resume,
            max_minutes=max_minutes,
            progress=_training_line(bar, task, last),
        )
    _say(f"{weights}: step {last.get('step', 0)} of {steps}")
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
            bar.console.print(report.note, markup=False, highlight=False)

    return show
