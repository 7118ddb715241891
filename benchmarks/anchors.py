"""Conventional codecs on a folder of photographs, beside published curves of the same codecs.

    python benchmarks/anchors.py FOLDER [--codec NAME]... [--json results.json]

Prints mean curves by both conventions of PSNR, what colour conversion alone leaves of the
photographs, and BD-rate and BD-PSNR against published curves, which are of the Kodak photographs.
Measurements are kept in the cache: a second run only prints.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from waterfill.data.images import find_images, load_picture
from waterfill.evaluation.cache import Cache
from waterfill.evaluation.conventional import CONVENTIONAL, missing
from waterfill.evaluation.measure import evaluate
from waterfill.evaluation.metrics import psnr

#: Published curves of the same codec, or of the nearest one.
PUBLISHED = {
    "jpeg": ("jpeg", "tfc-jpeg420"),
    "jpeg-plain": ("jpeg", "tfc-jpeg420"),
    "jpeg2000": ("jpeg2000", "tfc-j2k-opj5"),
    "jpeg2000-53": ("jpeg2000", "tfc-j2k-opj5"),
    "webp": ("webp", "tfc-webp"),
    "avif": ("av1",),
    "avif-444": ("av1",),
    "heic": ("tfc-bpg420",),
    "vvc": ("vtm",),
    "x265-444": ("bpg", "tfc-bpg444"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder")
    parser.add_argument("--codec", action="append", choices=list(CONVENTIONAL))
    # Stored results name commands that say --out.
    parser.add_argument("--json", "--out", type=Path)
    arguments = parser.parse_args()

    absent = missing()
    for name, line in absent.items():
        print(f"without {name}: {line}")
    names = arguments.codec or [name for name in CONVENTIONAL if name not in absent]
    began = time.perf_counter()
    found = evaluate([arguments.folder], names, cache=Cache())
    print(f"{len(found.rows)} measurements in {time.perf_counter() - began:.1f} s")
    pictures = [load_picture(path) for path in find_images([arguments.folder])]
    report: dict[str, Any] = {}
    for codec in found.codecs:
        print(f"\n{codec.title} ({codec.version})")
        for point in found.curve(codec.name):
            shown = f"{point.bpp:7.4f} bpp {point.psnr:7.3f} dB ({point.psnr_of_mean_mse:7.3f})"
            print(f"{shown}  MS-SSIM {point.ms_ssim:.4f}  {point.setting}")
        conventional = CONVENTIONAL[codec.name]
        ceilings = [psnr(p.pixels, conventional.ceiling(p)) for p in pictures]
        print(f"colour conversion alone: {np.mean(ceilings):.2f} dB, {conventional.colour}")
        cells = [
            found.compare(f"published:{anchor}", codec.name)
            for anchor in PUBLISHED.get(codec.name, ())
        ]
        for cell in cells:
            if cell.result is not None:
                rate, quality = cell.result.rate_percent, cell.result.quality_db
                print(f"against {cell.anchor}: {rate:+.2f} % rate, {quality:+.3f} dB")
        report[codec.name] = asdict(codec) | {
            "curve": [asdict(point) for point in found.curve(codec.name)],
            "ceiling_psnr": float(np.mean(ceilings)) if np.isfinite(ceilings).all() else None,
            "against": [asdict(cell) for cell in cells],
        }
    if arguments.json:
        result = {"codecs": report, "environment": found.environment}
        arguments.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
