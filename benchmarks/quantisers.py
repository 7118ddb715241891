"""Bits that better quantisers recover, at the same networks and equal PSNR.

    python benchmarks/quantisers.py KODAK --json benchmarks/results/quantisers.json

Every picture is coded by rounding and by a trellis, each with and without passes that choose
symbols by rate and distortion; every file is decoded and measured. Prints rate, PSNR and seconds,
the BD-rate against plain rounding, and how much that is of the quantisation gap: the BD-rate of the
Gaussian test channel by the same prior, which is achievable, on the same pictures.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import waterfill as wf
from waterfill.data.images import find_images, load_picture
from waterfill.evaluation.metrics import psnr
from waterfill.files import write_whole
from waterfill.ladder import LADDER
from waterfill.ladder.decompose import mean_point
from waterfill.ladder.measure import measure_rung
from waterfill.parallel import side_by_side
from waterfill.provenance import environment

QUALITIES = (2.0, 4.0, 6.0, 8.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pictures", nargs="+")
    parser.add_argument("--effort", type=int, default=8)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    codec = wf.load_codec()
    paths = find_images(arguments.pictures)
    rows: list[dict[str, Any]] = []
    curves: dict[str, list[tuple[float, float]]] = {}
    for trellis in (False, True):
        for effort in (0, arguments.effort):
            name = ("trellis" if trellis else "rounding") + (f", effort {effort}" if effort else "")
            for quality in QUALITIES:

                def one(
                    index: int,
                    check: Callable[[], None],
                    name: str = name,
                    q: float = quality,
                    effort: int = effort,
                    trellis: bool = trellis,
                ) -> dict[str, Any]:
                    check()
                    picture = load_picture(paths[index])
                    began = time.perf_counter()
                    data = codec.compress(picture, q, effort=effort, trellis=trellis)
                    encoded = time.perf_counter()
                    shown = np.asarray(wf.decompress(data, codec=codec))
                    decoded = time.perf_counter()
                    return {
                        "picture": paths[index].name,
                        "quantiser": name,
                        "quality": q,
                        "bpp": 8 * len(data) / picture.pixel_count,
                        "psnr": psnr(picture.pixels, shown),
                        "encode_seconds": encoded - began,
                        "decode_seconds": decoded - encoded,
                    }

                found = list(side_by_side(one, len(paths)))
                rows += found
                keys = ("bpp", "psnr", "encode_seconds", "decode_seconds")
                mean = {key: float(np.mean([r[key] for r in found])) for key in keys}
                curves.setdefault(name, []).append((mean["bpp"], mean["psnr"]))
                print(
                    f"{name}, quality {quality:g}: {mean['bpp']:.4f} bpp, {mean['psnr']:.3f} dB, "
                    f"{mean['encode_seconds']:.1f} s + {mean['decode_seconds']:.1f} s a picture",
                    flush=True,
                )
    (channel,) = (rung for rung in LADDER if rung.name == "test channel")
    points = measure_rung(codec, channel, paths, QUALITIES)
    limit = [mean_point(column) for column in zip(*points, strict=True)]
    plain = curves.pop("rounding")
    gap = wf.bd_rate(plain, [(p.bpp, p.psnr) for p in limit])
    rates = {name: wf.bd_rate(plain, curve) for name, curve in curves.items()}
    print(f"test channel, same prior (achievable): {gap:+.2f} % BD-rate")
    for name, rate in rates.items():
        print(f"{name}: {rate:+.2f} % BD-rate, {100 * rate / gap:.0f} % of that gap")
    if arguments.json is not None:
        command = " ".join(["python", *sys.argv])
        result = {
            "command": command,
            "bd_rate": rates,
            "test_channel_bd_rate": gap,
            "rows": rows,
            "environment": environment(0),
        }
        write_whole(arguments.json, json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
