"""Coverage-guided fuzzing of the decoder: ``python fuzz/decoder.py -runs=1000000 -timeout=60``.

Inputs are taken as streams as they are, as streams with their checksum mended, or as the sections
of a well-formed stream, which reach the symbols. Whatever comes, a decoder answers with a picture
of the size that the header claims or with a ``BitstreamError``: anything else is a crash. To save
time, pictures of more than 40 pixels a side are not decoded, and of sections one in 32, by a hash.
How many inputs came how far is printed on the way.

Needs ``pip install atheris``.
"""

from __future__ import annotations

import struct
import sys
import zlib
from collections import Counter

import atheris

with atheris.instrument_imports(include=["waterfill.bitstream", "waterfill.codec"]):
    import waterfill as wf
    from waterfill.bitstream import Container, Header
    from waterfill.bitstream.container import _LAYOUT, VERSION
    from waterfill.codec.config import CodecConfig
    from waterfill.codec.model import Codec

import torch

from waterfill.data.images import MAX_PIXELS

ONE_RATE = (3.0, 3.0)
KINDS = (
    CodecConfig(2, 4, 2),
    CodecConfig(2, 4, 2, side="none", qualities=ONE_RATE),
    CodecConfig(2, 4, 2, side="scale"),
    CodecConfig(2, 4, 2, context="masked"),
    CodecConfig(2, 4, 2, context="masked", mixtures=2, qualities=ONE_RATE),
    CodecConfig(2, 8, 2, context="space-channel"),
    CodecConfig(2, 4, 2, transform="table2"),
)
LARGEST = 40


def codecs() -> list[Codec]:
    torch.manual_seed(0)
    made = []
    for number, config in enumerate(KINDS):
        codec = Codec(config).eval()
        codec.weights_id = bytes([number]) * 8
        codec.name = f"codec {number}"
        made.append(codec)
    return made


CODECS = codecs()
reached: Counter[str] = Counter()


def decoded(data: bytes, codec: Codec) -> None:
    try:
        header = Container.unpack(data, max_pixels=MAX_PIXELS).header
        reached["containers"] += 1
        if max(header.width, header.height) > LARGEST:
            return
        reached["decoders"] += 1
        image = wf.decompress(data, codec=codec)
    except wf.BitstreamError:
        return
    reached["pictures"] += 1
    assert image.size == (header.width, header.height)


def mended(data: bytes) -> bytes:
    """Some bytes as a stream whose magic, version and checksum are right."""
    head = _LAYOUT.size
    data = b"WFL" + bytes([VERSION]) + data
    fields, body = data[:head].ljust(head, b"\0"), data[head:]
    return fields + struct.pack("<I", zlib.crc32(body, zlib.crc32(fields))) + body


def one_input(data: bytes) -> None:
    reached["inputs"] += 1
    if reached["inputs"] % 100_000 == 0:
        print(dict(reached), file=sys.stderr)
    fuzzed = atheris.FuzzedDataProvider(data)
    codec = CODECS[fuzzed.ConsumeIntInRange(0, len(CODECS) - 1)]
    kind = fuzzed.ConsumeIntInRange(0, 19)
    if kind > 0:
        rest = fuzzed.ConsumeBytes(len(data))
        decoded(mended(rest) if kind > 7 else rest, codec)
        return
    header = Header(
        codec.weights_id,
        fuzzed.ConsumeIntInRange(256, 2048) / 256,
        fuzzed.ConsumeIntInRange(1, LARGEST),
        fuzzed.ConsumeIntInRange(1, LARGEST),
        fuzzed.ConsumeBool(),
        fuzzed.PickValueInList([32, 64, 96, 1024]),
        fuzzed.ConsumeInt(4) & 0xFFFFFFFF,
        fuzzed.ConsumeBool(),
    )
    sections = []
    for _ in range(header.tile_count):
        z = fuzzed.ConsumeBytes(fuzzed.ConsumeIntInRange(0, 40))
        sections.append((z, fuzzed.ConsumeBytes(fuzzed.ConsumeIntInRange(0, 200))))
    if zlib.crc32(data) % 32 == 0:
        decoded(Container(header, sections).pack(), codec)


if __name__ == "__main__":
    torch.set_num_threads(1)
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()
