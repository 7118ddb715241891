"""Make the golden streams anew: ``python tests/codec/golden/make.py``, after a change of version.

For each kind of codec: small random weights, a stream made with them, of some one more with a
trellis, and the CRC-32 of the symbols that each must decode to, on any machine and for as long as
the version of the bitstream stays.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from family import FAMILY, member

import waterfill as wf
from waterfill.bitstream import Container
from waterfill.codec.registry import save_codec
from waterfill.data.images import MAX_PIXELS, sample_pictures

HERE = Path(__file__).parent
#: Of these, streams with a trellis too.
TRELLISES = ("mean-scale", "masked", "klt")


def main() -> None:
    (picture,) = sample_pictures(["astronaut"])
    colours = np.ascontiguousarray(picture.pixels[40:140, 180:300])
    crcs = {}
    for name in FAMILY:
        weights = HERE / f"{name}.safetensors"
        save_codec(member(name), weights, {})
        codec = wf.load_codec(weights)
        pixels = colours[..., 1] if codec.config.planes == 1 else colours
        quality = 4.7 if codec.config.variable_rate else None
        for trellis in (False, True) if name in TRELLISES else (False,):
            stream = f"{name}+trellis" if trellis else name
            data = codec.compress(pixels, quality, trellis=trellis)
            (HERE / f"{stream}.wfl").write_bytes(data)
            crcs[stream] = Container.unpack(data, max_pixels=MAX_PIXELS).header.symbols_crc
    (HERE / "symbols.json").write_text(json.dumps(crcs, indent=1) + "\n")


if __name__ == "__main__":
    main()
