"""Time and memory of the whole ladder, as a user runs it: on many pictures, and on a large one.

    python benchmarks/limits.py ../shared/data/kodak --large --json benchmarks/results/limits.json

Every run is a process of its own, from its start to its report. The large picture has the 7680×4320
pixels of 8K, laid out in pictures of the folder.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from waterfill.data.images import find_images, load_picture
from waterfill.files import as_json, write_whole
from waterfill.provenance import environment

#: Asked by a process of its own: the largest of one's children includes all earlier ones.
_ASK = """
import json, resource, subprocess, sys
subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL)
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(json.dumps([used.ru_utime + used.ru_stime, used.ru_maxrss / 1024]))
"""
_WIDE, _HIGH = 7680, 4320


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pictures", type=Path)
    parser.add_argument("-q", "--quality", type=float, default=4.0)
    parser.add_argument("--large", action="store_true", help="measure an 8K picture too")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    pictures = [load_picture(path) for path in find_images([arguments.pictures])]
    megapixels = sum(p.pixel_count for p in pictures) / 1e6
    rows = {f"{len(pictures)} pictures": measured(arguments.pictures, megapixels, arguments)}
    if arguments.large:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "large.png"
            Image.fromarray(mosaic([p.pixels for p in pictures])).save(path, compress_level=1)
            rows["one of 7680×4320"] = measured(path, _WIDE * _HIGH / 1e6, arguments)
    for name, row in rows.items():
        print(
            f"{name}: {row['seconds']:.0f} s, of the processors {row['processor_seconds']:.0f} s; "
            f"{row['seconds_per_megapixel']:.1f} s for a megapixel; peak {row['peak_mib']:.0f} MiB"
        )
    if arguments.json is not None:
        facts = {
            "quality": arguments.quality,
            "rows": rows,
            "environment": environment(arguments.seed),
        }
        write_whole(arguments.json, as_json(facts))


def measured(path: Path, megapixels: float, arguments: argparse.Namespace) -> dict[str, float]:
    """Of one run of the command."""
    with tempfile.TemporaryDirectory() as out:
        command = ["limits", str(path), "-q", str(arguments.quality), "--out", out]
        command += ["--seed", str(arguments.seed)]
        line = [sys.executable, "-c", _ASK, sys.executable, "-m", "waterfill", *command]
        start = time.perf_counter()
        done = subprocess.run(line, check=True, stdout=subprocess.PIPE)
        seconds = time.perf_counter() - start
    processor, peak = json.loads(done.stdout)
    return {
        "megapixels": round(megapixels, 2),
        "seconds": round(seconds, 1),
        "processor_seconds": round(processor, 1),
        "seconds_per_megapixel": round(seconds / megapixels, 2),
        "peak_mib": round(peak, 1),
    }


def mosaic(pictures: list[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """Pictures side by side, again and again, cut where the large one ends."""
    found = np.zeros((_HIGH, _WIDE, 3), np.uint8)
    height = min(p.shape[0] for p in pictures)
    width = min(p.shape[1] for p in pictures)
    number = 0
    for top in range(0, _HIGH, height):
        for left in range(0, _WIDE, width):
            piece = pictures[number % len(pictures)]
            rows, columns = min(height, _HIGH - top), min(width, _WIDE - left)
            found[top : top + rows, left : left + columns] = piece[:rows, :columns]
            number += 1
    return found


if __name__ == "__main__":
    main()
