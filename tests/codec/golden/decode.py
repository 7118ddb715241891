"""Decode the golden streams and print the CRC-32 of each one's symbols, as JSON."""

from __future__ import annotations

import json
import zlib
from pathlib import Path

import torch

import waterfill as wf
from waterfill.bitstream import Container, SymbolReader
from waterfill.codec.latents import decoded_latents
from waterfill.codec.model import Codec
from waterfill.data.images import MAX_PIXELS

HERE = Path(__file__).parent


def weights_of(stream: str) -> Path:
    """That a stream was made with, by its name."""
    return HERE / f"{stream.partition('+')[0]}.safetensors"


def symbols_crc(codec: Codec, data: bytes) -> int:
    """Of z and y, decoded without a look at the checksum that the stream claims."""
    container = Container.unpack(data, max_pixels=MAX_PIXELS)
    quality, crc = codec.check_quality(container.header.quality), 0
    prior, config = codec.coded_prior(), codec.config
    rows, columns = (
        -(-side // config.alignment) for side in (container.header.height, container.header.width)
    )
    ((side_section, main_section),) = container.sections
    z = None
    if codec.prior.side is not None:
        shape = (config.hyper, rows, columns)
        z = SymbolReader(side_section).read(prior.z_distribution(shape, quality))
        crc = zlib.crc32(z.astype("<i4").tobytes())
    shape = (config.m, 4 * rows, 4 * columns)
    reader, trellis = SymbolReader(main_section), container.header.trellis
    y, _ = decoded_latents(prior, z, quality, shape, reader, trellis=trellis)
    return zlib.crc32(y.astype("<i4").tobytes(), crc)


def decode_all() -> dict[str, int]:
    found = {}
    for stream in sorted(HERE.glob("*.wfl")):
        codec = wf.load_codec(weights_of(stream.stem))
        found[stream.stem] = symbols_crc(codec, stream.read_bytes())
    return found


if __name__ == "__main__":
    print(json.dumps({"capability": torch.backends.cpu.get_cpu_capability()} | decode_all()))
