"""``waterfill compress``, ``decompress`` and ``info``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import click

from waterfill.cli.shared import (
    PATH,
    check_apart,
    check_file,
    check_outputs,
    codec_option,
    device_option,
    json_option,
    progress_bar,
    read_file,
    say,
    write_json,
)
from waterfill.errors import ImageError, WaterfillError
from waterfill.files import as_json, check_writable, make_folder, write_all, write_whole


@click.command(short_help="Compress a picture to a stream, or a folder to a folder.")
@click.argument("source", metavar="IN", type=PATH)
@click.argument("target", metavar="OUT", type=PATH)
@codec_option
@click.option(
    "--quality",
    "-q",
    type=float,
    help="Quality, 1 … 8, fractions allowed. [4, or the codec's only one]",
)
@click.option(
    "--effort",
    type=int,
    default=0,
    show_default=True,
    help="Passes of rate-distortion optimisation over the symbols; 8 save a few per cent.",
)
@click.option(
    "--trellis",
    is_flag=True,
    help="Trellis-coded quantisation in place of rounding; saves a few per cent.",
)
@device_option
@json_option
def compress(
    source: Path,
    target: Path,
    codec: str,
    quality: float | None,
    effort: int,
    trellis: bool,
    device: str,
    json_file: Path | None,
) -> None:
    """Compress the picture IN, RGB or grey, to the stream OUT; or a folder to a folder."""
    from waterfill.codec.registry import codec_at
    from waterfill.data.images import find_images, load_picture

    folder = source.is_dir()
    sources = find_images([source]) if folder else []
    if not folder:
        check_file(source)
        check_outputs(source, target, json_file)
    model = codec_at(codec, quality, device)
    chosen = model.check_quality(quality)

    def one(path: Path, to: Path) -> _Work:
        picture = load_picture(path)
        data = model.compress(picture, chosen, effort=effort, trellis=trellis)
        facts = {
            "source": str(path),
            "width": picture.width,
            "height": picture.height,
            "quality": chosen,
            "effort": effort,
            "trellis": trellis,
            "bytes": len(data),
            "bpp": 8 * len(data) / picture.pixel_count,
            "lost": list(picture.losses),
        }
        lost = "".join(f"; without its {what}" for what in picture.losses)
        return _Work(data, facts, f"{to}: {len(data)} bytes, {facts['bpp']:.4f} bpp{lost}")

    if folder:
        _in_folder(one, source, sources, target, ".wfl", json_file)
    else:
        _alone(one, source, target, json_file)


@click.command(short_help="Decompress a stream to a picture, or a folder to a folder.")
@click.argument("source", metavar="IN", type=PATH)
@click.argument("target", metavar="OUT", type=PATH)
@codec_option
@device_option
@json_option
def decompress(source: Path, target: Path, codec: str, device: str, json_file: Path | None) -> None:
    """Decompress the stream IN to the picture OUT, in the format of its suffix.

    A folder of streams becomes a folder of PNG pictures.
    """
    from waterfill.bitstream import Container
    from waterfill.codec.registry import codec_at
    from waterfill.data.images import MAX_PIXELS

    folder = source.is_dir()
    kind = "PNG" if folder else _picture_format(target)
    streams = sorted(path for path in source.rglob("*.wfl") if path.is_file()) if folder else []
    if folder and not streams:
        raise WaterfillError(f"{source}: no streams (.wfl) in this folder")
    if not folder:
        check_file(source)
        check_outputs(source, target, json_file)
    model = codec_at(codec, None, device)
    low, high = model.config.qualities
    of_quality = cache(partial(codec_at, codec, device=device))

    def one(path: Path, to: Path) -> _Work:
        with _named(path):
            stream = Container.unpack(read_file(path), max_pixels=MAX_PIXELS)
            quality = stream.header.quality
            # Weights that don't say their quality have it from the stream.
            made_by = model if low <= quality <= high else of_quality(quality)
            image = made_by.decompress(stream).to_pil()
        buffer = BytesIO()
        try:
            image.save(buffer, kind, **({"lossless": True} if kind == "WEBP" else {}))
        except (OSError, ValueError) as error:
            raise ImageError(f"{to}: can't be written as {kind} ({error})") from None
        facts: dict[str, Any] = {"source": str(path), "target": str(to)}
        facts |= {"width": image.width, "height": image.height, "mode": image.mode}
        facts["lossless"] = kind != "JPEG"
        lossy = "" if facts["lossless"] else "; coded again by JPEG, which loses more"
        line = f"{to}: {image.width}×{image.height}, {image.mode}{lossy}"
        return _Work(buffer.getvalue(), facts, line)

    if folder:
        if target.is_dir() and target.samefile(source):  # what lies there may be the originals
            for path in streams:
                if (there := path.with_suffix(".png")).exists():
                    raise WaterfillError(f"{there}: is there already; name another folder")
        _in_folder(one, source, streams, target, ".png", json_file)
    else:
        _alone(one, source, target, json_file)


class _Work(NamedTuple):
    """What became of a file: the bytes to write, facts for programs, a line for people."""

    data: bytes
    facts: dict[str, Any]
    line: str


def _alone(
    work: Callable[[Path, Path], _Work], source: Path, target: Path, json_file: Path | None
) -> None:
    """One file to one file."""
    done = work(source, target)
    write_all({target: done.data} | ({json_file: as_json(done.facts)} if json_file else {}))
    say(done.line)


def _in_folder(
    work: Callable[[Path, Path], _Work],
    folder: Path,
    sources: list[Path],
    target: Path,
    suffix: str,
    json_file: Path | None,
) -> None:
    """All files of a folder to files of the same names in another, on all cores.

    A file that can't be used is named, and the others are done all the same.
    """
    from waterfill.parallel import side_by_side

    targets = [(target / path.relative_to(folder)).with_suffix(suffix) for path in sources]
    named: dict[Path, Path] = {}
    for path, to in zip(sources, targets, strict=True):
        if (other := named.setdefault(to, path)) != path:
            raise WaterfillError(f"{to}: {other} and {path} would get this name; rename one")
    if target.exists() and not target.is_dir():
        raise WaterfillError(f"{target}: must be a folder, since {folder} is one")
    check_apart(sources, *targets, json_file)
    for inside in dict.fromkeys(path.parent for path in targets):
        make_folder(inside)
        check_writable(inside / ".waterfill")  # any name: before the work, not after it
    if json_file is not None:
        check_writable(json_file)

    def one(index: int, check: Callable[[], None]) -> _Work | WaterfillError:
        check()
        try:
            done = work(sources[index], targets[index])
            check()
            write_whole(targets[index], done.data)
        except WaterfillError as error:
            return error
        return done._replace(data=b"")  # it may have to wait for its turn

    facts, failed = [], []
    with progress_bar() as bar:
        task = bar.add_task(folder.name, total=len(sources))
        for path, done in zip(sources, side_by_side(one, len(sources)), strict=True):
            if isinstance(done, WaterfillError):
                failed.append({"source": str(path), "error": str(done)})
                bar.console.print(f"error: {done}", markup=False, highlight=False, soft_wrap=True)
            else:
                facts.append(done.facts)
                say(done.line)
            bar.advance(task)
    write_json(json_file, {"files": facts, "failed": failed})
    if failed:
        raise WaterfillError(f"{len(failed)} of {len(sources)} files could not be used")


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


@click.command()
@click.argument("file", type=PATH)
@json_option
def info(file: Path, json_file: Path | None) -> None:
    """Say what a stream, or a file of weights, holds."""
    data = read_file(file)
    check_outputs(file, json_file)
    if file.suffix == ".safetensors":
        facts = _weights_facts(data, str(file))
    else:
        with _named(file):
            facts = _stream_facts(data)
    for name, value in facts.items():
        say(f"{name:>12}  {f'{value:.4f}' if name == 'bpp' else value}")
    write_json(json_file, facts)


def _stream_facts(data: bytes) -> dict[str, Any]:
    from waterfill.bitstream import Container
    from waterfill.bitstream.container import HEADER_BYTES, SIZES_BYTES, VERSION
    from waterfill.data.images import MAX_PIXELS

    header, sections = Container.unpack(data, max_pixels=MAX_PIXELS)
    return {
        "version": VERSION,
        "codec": header.weights_id.hex(),
        "quality": header.quality,
        "width": header.width,
        "height": header.height,
        "mode": "grey" if header.grey else "RGB",
        "quantiser": "trellis" if header.trellis else "rounding",
        "bytes": len(data),
        "tiles": header.tile_count,
        "header bytes": HEADER_BYTES + header.tile_count * SIZES_BYTES,
        "z bytes": sum(len(z) for z, _ in sections),
        "y bytes": sum(len(y) for _, y in sections),
        "bpp": 8 * len(data) / (header.width * header.height),
    }


def _weights_facts(data: bytes, name: str) -> dict[str, Any]:
    from waterfill.codec.registry import read_codec

    codec, facts = read_codec(data, name)
    parameters = sum(p.numel() for p in codec.parameters())
    widths = codec.config.to_dict()
    return {"codec": codec.weights_id.hex(), "parameters": parameters, **widths, **facts}
