"""Memory of `limits` and `evaluate` on few and on many pictures, and what the numbers kept take.

    python benchmarks/streaming.py --json benchmarks/results/streaming.json

Pictures of one size are cut from a built-in photograph into a folder, and coded by the codec `tiny`
with seeded random weights: the work of a trained one, not its skill. Every run is a process of its
own, whose peak resident memory the operating system tells. If pictures were held, memory would grow
by a picture's worth for each at least; what grows is rows, of which a report is made.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from waterfill.codec.registry import load_codec, save_codec
from waterfill.data.images import sample_pictures
from waterfill.files import as_json, write_whole
from waterfill.provenance import environment

MODES = {
    "limits": ["limits", "-q", "4"],
    "limits --shards": ["limits", "-q", "4", "--shards", "SHARDS"],
    "evaluate": ["evaluate", "-q", "4", "--against", "jpeg", "--no-cache"],
    "evaluate --shards": [
        *("evaluate", "-q", "4", "--against", "jpeg", "--no-cache"),
        *("--shards", "SHARDS"),
    ],
}

#: Asked by a process of its own: the largest of one's children includes all earlier ones.
_ASK = """
import resource, subprocess, sys
subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--counts", type=int, nargs="+", default=[10, 100])
    parser.add_argument("--side", type=int, default=480)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    rows = []
    for mode, words in MODES.items():
        for count in arguments.counts:
            peak = peak_of(words, count, arguments.side, arguments.seed)
            rows.append({"mode": mode, "pictures": count, "peak_mib": round(peak, 1)})
            print(f"{mode:18} {count:5} pictures: {peak:7.1f} MiB", flush=True)
    few, many = min(arguments.counts), max(arguments.counts)
    growth = {}
    for mode in MODES:
        at = {row["pictures"]: row["peak_mib"] for row in rows if row["mode"] == mode}
        growth[mode] = round((at[many] - at[few]) / (many - few) * 1024, 1)
        print(f"{mode:18} grows by {growth[mode]:.0f} KiB for each picture")
    print(f"a picture is {3 * arguments.side**2 / 1024:.0f} KiB")
    if arguments.json is not None:
        facts = {
            "side": arguments.side,
            "rows": rows,
            "kib_for_each_picture": growth,
            "environment": environment(arguments.seed),
        }
        write_whole(arguments.json, as_json(facts))


def peak_of(words: list[str], count: int, side: int, seed: int) -> float:
    """Peak resident memory of one command on so many pictures, MiB."""
    with tempfile.TemporaryDirectory() as folder:
        pictures = Path(folder) / "pictures"
        pictures.mkdir()
        rng = np.random.default_rng(seed)
        (photograph,) = sample_pictures(["astronaut"])
        for number in range(count):
            top, left = rng.integers(0, 512 - side, 2)
            piece = photograph.pixels[top : top + side, left : left + side]
            Image.fromarray(piece).save(pictures / f"{number:04}.png")
        weights = f"{folder}/tiny.safetensors"
        save_codec(load_codec("tiny", pretrained=False), weights, {})
        command = [word.replace("SHARDS", f"{folder}/shards") for word in words]
        command += [
            str(pictures),
            "--out",
            f"{folder}/out",
            "--seed",
            str(seed),
            "--codec",
            weights,
        ]
        line = [sys.executable, "-m", "waterfill", *command]
        done = subprocess.run([sys.executable, "-c", _ASK, *line], check=True, capture_output=True)
    return int(done.stdout) / 1024


if __name__ == "__main__":
    main()
