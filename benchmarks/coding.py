"""Seconds to encode and decode a picture with each classic architecture, stage by stage.

    python benchmarks/coding.py PICTURE [--only attention,…] [--peer 'COMMAND']
        [--json results.json]

Weights are seeded and untrained: the work is that of trained ones. COMMAND
(``ENV/bin/python benchmarks/beside_compressai.py coding PICTURE``) prints one JSON object with
``encode_s`` and ``decode_s`` for each architecture of another library; it runs just before and just
after, so that both ratios come from one run of one machine. What the transforms do is set
beside the largest matrix product that the machine can do.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode
from training import matrix_peak, peer

from waterfill.allocator import keep_large_blocks
from waterfill.bitstream import Container
from waterfill.codec.config import CodecConfig
from waterfill.codec.model import Codec
from waterfill.codec.registry import decompress
from waterfill.data.images import MAX_PIXELS, load_picture
from waterfill.provenance import environment

#: The other library's models at its quality 3.
MODELS = {
    "bmshj2018-hyperprior": CodecConfig(128, 192, 128, side="scale", qualities=(3, 3)),
    "mbt2018-mean": CodecConfig(128, 192, 128, side="mean-scale-wide", qualities=(3, 3)),
    "mbt2018": CodecConfig(
        192, 192, 192, side="mean-scale-wide", context="masked", qualities=(3, 3)
    ),
    "cheng2020-attn": CodecConfig(
        128,
        128,
        128,
        transform="attention",
        side="residual",
        context="masked",
        qualities=(3, 3),
    ),
}


def median_seconds(work: Callable[[], Any], repeats: int) -> float:
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def own(config: CodecConfig, path: Path, repeats: int) -> dict[str, Any]:
    torch.manual_seed(0)
    codec = Codec(config).eval()
    picture = load_picture(path)
    data = codec.compress(picture)
    decoded = np.asarray(decompress(data, codec=codec))
    expected = codec.latents(picture).quantised
    same = codec.synthesise(expected.y_hat, 3.0, picture.height, picture.width)
    assert np.array_equal(decoded, same), "the decoder's pixels are not the encoder's"

    stages: dict[str, float] = {}
    x = torch.from_numpy(picture.pixels.astype(np.float32)).permute(2, 0, 1)[None] / 255.0 - 0.5
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        y = codec.g_a(x)
        forward = counter.get_total_flops()
        codec.g_s(y)
        both = counter.get_total_flops()
    flops = {"g_a": forward, "g_s": both - forward}
    with torch.no_grad():
        x = x.contiguous(memory_format=torch.channels_last)
        stages["g_a"] = median_seconds(lambda: codec.g_a(x), repeats)
    container = Container.unpack(data, max_pixels=MAX_PIXELS)
    stages["g_s"] = median_seconds(
        lambda: codec.synthesise(expected.y_hat, 3.0, picture.height, picture.width), repeats
    )
    stages["prior and decoder"] = median_seconds(lambda: list(codec.unpack(container)), repeats)
    return {
        "encode_s": median_seconds(lambda: codec.compress(picture), repeats),
        "decode_s": median_seconds(lambda: codec.decompress(container), repeats),
        "bytes": len(data),
        "stages_s": stages,
        "flops": flops,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("picture", type=Path)
    parser.add_argument("--only", default=",".join(MODELS))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--peer", help="command that prints the other library's figures")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    keep_large_blocks()
    names = arguments.only.split(",")
    peers = [peer(arguments.peer)] if arguments.peer else []
    before = matrix_peak(torch.device("cpu"), torch.float32)
    rows = {name: own(MODELS[name], arguments.picture, arguments.repeats) for name in names}
    # Of a machine that others share, the larger: a share above 1 says nothing.
    peak = max(before, matrix_peak(torch.device("cpu"), torch.float32))
    if arguments.peer:
        peers.append(peer(arguments.peer))
    print(f"{'':22}{'encode':>9}{'decode':>10}   share of {peak / 1e9:.0f} GFLOP/s")
    for name, row in rows.items():
        stages = row["stages_s"]
        row["share_of_peak"] = {k: row["flops"][k] / stages[k] / peak for k in ("g_a", "g_s")}
        shown = "  ".join(
            f"{k} {stages[k]:.3f} s ({100 * row['share_of_peak'][k]:.0f} %)" for k in ("g_a", "g_s")
        )
        print(f"{name:22}{row['encode_s']:8.3f}s{row['decode_s']:9.3f}s   {shown}")
        if peers:
            for way in ("encode_s", "decode_s"):
                row[f"peer_{way}"] = [figures[name][way] for figures in peers]
                row[f"ratios_{way}"] = sorted(t / row[way] for t in row[f"peer_{way}"])
            encode, decode = (
                "{:.1f}…{:.1f}".format(*row[f"ratios_{way}"]) for way in ("encode_s", "decode_s")
            )
            print(f"{'  times as long':22}{encode:>9} {decode:>9}   {peers[0]['version']}")
    if arguments.json:
        result = {
            "models": rows,
            "matrix_peak_flops_per_s": peak,
            "environment": environment(0),
        }
        arguments.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
