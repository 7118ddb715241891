"""Bits that a better choice of symbols recovers, at the same decoder and equal PSNR.

    python benchmarks/rounding.py KODAK --json benchmarks/results/rounding.json

Every picture is coded with and without passes of rate–distortion-optimised rounding; every file is
decoded and measured. Prints rate, PSNR and seconds by effort, and the BD-rate against rounding.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import waterfill as wf
from waterfill.data.images import find_images, load_picture
from waterfill.evaluation.metrics import psnr
from waterfill.files import write_whole
from waterfill.parallel import side_by_side
from waterfill.provenance import environment

QUALITIES = (2.0, 4.0, 6.0, 8.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pictures", nargs="+")
    parser.add_argument("--efforts", nargs="+", type=int, default=[0, 8])
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    codec = wf.load_codec()
    paths = find_images(arguments.pictures)
    rows: list[dict[str, Any]] = []
    curves: dict[int, list[tuple[float, float]]] = {}
    for effort in arguments.efforts:
        for quality in QUALITIES:

            def one(
                index: int, check: Callable[[], None], effort: int = effort, q: float = quality
            ) -> dict[str, Any]:
                check()
                picture = load_picture(paths[index])
                began = time.perf_counter()
                data = codec.compress(picture, q, effort=effort)
                seconds = time.perf_counter() - began
                decoded = np.asarray(wf.decompress(data, codec=codec))
                return {
                    "picture": paths[index].name,
                    "effort": effort,
                    "quality": q,
                    "bpp": 8 * len(data) / picture.pixel_count,
                    "psnr": psnr(picture.pixels, decoded),
                    "seconds": seconds,
                }

            found = list(side_by_side(one, len(paths)))
            rows += found
            mean = {key: float(np.mean([r[key] for r in found])) for key in ("bpp", "psnr")}
            seconds = float(np.median([r["seconds"] for r in found]))
            curves.setdefault(effort, []).append((mean["bpp"], mean["psnr"]))
            print(
                f"effort {effort}, quality {quality:g}: {mean['bpp']:.4f} bpp, "
                f"{mean['psnr']:.3f} dB, {seconds:.1f} s a picture",
                flush=True,
            )
    first = arguments.efforts[0]
    rates = {e: wf.bd_rate(curves[first], curves[e]) for e in arguments.efforts[1:]}
    for effort, rate in rates.items():
        print(f"effort {effort} against {first}: {rate:+.2f} % BD-rate")
    if arguments.json is not None:
        result = {"bd_rate": rates, "rows": rows, "environment": environment(0)}
        write_whole(arguments.json, json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
