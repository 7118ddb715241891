"""``waterfill compress``, ``decompress`` and ``info``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import click

from waterfill.cli.shared import (
    PATH,
    as_json,
    check_outputs,
    codec_option,
    json_option,
    read_file,
    say,
    write_json,
)
from waterfill.errors import ImageError, WaterfillError
from waterfill.files import write_all


@click.command()
@click.argument("source", metavar="IN", type=PATH)
@click.argument("target", metavar="OUT", type=PATH)
@codec_option
@click.option("--quality", "-q", type=float, help="1 … 8. [4, or the codec's only one]")
@json_option
def compress(
    source: Path, target: Path, codec: str, quality: float | None, json_file: Path | None
) -> None:
    """Compress the picture IN, RGB or grey, to the stream OUT."""
    from waterfill.codec.registry import load_codec
    from waterfill.data.images import load_picture

    check_outputs(source, target, json_file)
    picture = load_picture(source)
    model = load_codec(codec)
    chosen = model.check_quality(quality)
    data = model.compress(picture, chosen)
    bpp = 8 * len(data) / picture.pixel_count
    facts = {
        "source": str(source),
        "width": picture.width,
        "height": picture.height,
        "quality": chosen,
        "bytes": len(data),
        "bpp": bpp,
    }
    write_all({target: data} | ({json_file: as_json(facts)} if json_file else {}))
    say(f"{target}: {len(data)} bytes, {bpp:.4f} bpp")


@click.command()
@click.argument("source", metavar="IN", type=PATH)
@click.argument("target", metavar="OUT", type=PATH)
@codec_option
@json_option
def decompress(source: Path, target: Path, codec: str, json_file: Path | None) -> None:
    """Decompress the stream IN to the picture OUT, in the format of its suffix."""
    from waterfill.codec.registry import decompress as decode
    from waterfill.codec.registry import load_codec

    data = read_file(source)
    kind = _picture_format(target)
    check_outputs(source, target, json_file)
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
    write_all({target: buffer.getvalue()} | ({json_file: as_json(facts)} if json_file else {}))
    say(f"{target}: {image.width}×{image.height}, {image.mode}")


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
    check_outputs(file, json_file)
    data = read_file(file)
    with _named(file):
        facts = _weights_facts(data) if file.suffix == ".safetensors" else _stream_facts(data)
    for name, value in facts.items():
        say(f"{name:>12}  {value}")
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
        "bytes": len(data),
        "tiles": header.tile_count,
        "header bytes": HEADER_BYTES + header.tile_count * SIZES_BYTES,
        "z bytes": sum(len(z) for z, _ in sections),
        "y bytes": sum(len(y) for _, y in sections),
        "bpp": 8 * len(data) / (header.width * header.height),
    }


def _weights_facts(data: bytes) -> dict[str, Any]:
    from waterfill.codec.registry import read_codec

    codec, facts = read_codec(data, "weights")
    parameters = sum(p.numel() for p in codec.parameters())
    widths = codec.config.to_dict()
    return {"codec": codec.weights_id.hex(), "parameters": parameters, **widths, **facts}
