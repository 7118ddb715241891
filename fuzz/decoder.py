"""Coverage-guided fuzzing of the decoder: ``python fuzz/decoder.py -runs=1000000 -timeout=30``.

Half of the inputs are taken as streams as they are; of the others, a header with fitting checksums
is made, so that damage reaches the symbols. Whatever comes, a decoder answers with a picture of the
size that the header claims or with a ``BitstreamError``: anything else is a crash. Pictures are
limited to 96 pixels a side, and memory to what the smallest codecs of each kind need for those.

Needs ``pip install atheris``.
"""

from __future__ import annotations

import sys

import atheris

with atheris.instrument_imports(include=["waterfill.bitstream", "waterfill.codec"]):
    import waterfill as wf
    from waterfill.bitstream import Container, Header
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
LARGEST = 96


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


def decoded(data: bytes, codec: Codec) -> None:
    try:
        header = Container.unpack(data, max_pixels=MAX_PIXELS).header
        if max(header.width, header.height) > LARGEST:
            return
        image = wf.decompress(data, codec=codec)
    except wf.BitstreamError:
        return
    assert image.size == (header.width, header.height)


def one_input(data: bytes) -> None:
    fuzzed = atheris.FuzzedDataProvider(data)
    codec = CODECS[fuzzed.ConsumeIntInRange(0, len(CODECS) - 1)]
    if fuzzed.ConsumeBool():
        decoded(fuzzed.ConsumeBytes(len(data)), codec)
        return
    header = Header(
        codec.weights_id if fuzzed.ConsumeProbability() < 0.95 else fuzzed.ConsumeBytes(8).ljust(8),
        fuzzed.ConsumeIntInRange(256, 2048) / 256,
        fuzzed.ConsumeIntInRange(1, LARGEST),
        fuzzed.ConsumeIntInRange(1, LARGEST),
        fuzzed.ConsumeBool(),
        fuzzed.PickValueInList([32, 64, 128, 1024, 33]),
        fuzzed.ConsumeInt(4) & 0xFFFFFFFF,
    )
    sections = []
    for _ in range(header.tile_count):
        z = fuzzed.ConsumeBytes(fuzzed.ConsumeIntInRange(0, 40))
        sections.append((z, fuzzed.ConsumeBytes(fuzzed.ConsumeIntInRange(0, 200))))
    decoded(Container(header, sections).pack(), codec)


if __name__ == "__main__":
    torch.set_num_threads(1)
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()
