"""Crops per second, time spent waiting, and memory, of the loader on folders and shards.

    python benchmarks/loader.py PATHS [--size 128] [--batch 8] [--batches 300] [--step-ms 0]

Prints one row per set of pictures and number of threads. Resident memory is read at the third
points of the run: a loader whose cache is full stays flat. ``--step-ms`` is the length of a
training step to hide the loading behind; 0 asks for crops as fast as they come.
"""

from __future__ import annotations

import argparse
import platform
import time
from pathlib import Path

import numpy as np

from waterfill.data.crops import CropSource
from waterfill.data.sets import open_pictures


def resident_mib() -> float:
    """Memory of this process that lies in RAM; NaN where the system doesn't say."""
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) / 1024
    return float("nan")


def measure(path: str, workers: int, options: argparse.Namespace) -> list[float]:
    """Crops per second, share of the time waited, and memory at the third points."""
    source = CropSource(
        open_pictures([path]), size=options.size, seed=0, cache_bytes=options.cache_mib << 20
    )
    stream = source.batches(0, options.batch, workers=workers)
    next(stream)  # opening and first reads
    waited = source.waited_seconds
    began = time.perf_counter()
    memory = []
    for k in range(options.batches):
        next(stream)
        if options.step_ms:
            time.sleep(options.step_ms / 1000)
        if (k + 1) % max(1, options.batches // 3) == 0:
            memory.append(resident_mib())
    seconds = time.perf_counter() - began
    stream.close()
    rate = options.batch * options.batches / seconds
    return [rate, (source.waited_seconds - waited) / seconds, *memory[:3]]


def main() -> None:
    """Run the measurements and print them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("paths", nargs="+", help="folders of pictures or of shards, one row each")
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--batches", type=int, default=300)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--cache-mib", type=int, default=256)
    parser.add_argument("--step-ms", type=float, default=0.0)
    options = parser.parse_args()

    print(f"{options.size}² crops, batch {options.batch}, {options.batches} batches, ", end="")
    print(f"cache {options.cache_mib} MiB, step {options.step_ms:g} ms")
    print(f"numpy {np.__version__}, Python {platform.python_version()}\n")
    print(f"{'pictures':24} {'threads':>7} {'crops/s':>8} {'waited':>7}  MiB at thirds")
    for path in options.paths:
        for workers in options.workers:
            rate, waited, *memory = measure(path, workers, options)
            shown = "  ".join(f"{m:5.0f}" for m in memory)
            name = Path(path).name[-24:]
            print(f"{name:24} {workers:7} {rate:8.0f} {waited:7.0%}  {shown}", flush=True)


if __name__ == "__main__":
    main()
