"""Share of the matrix-multiply peak that assigning samples to atoms reaches, and its memory.

    python benchmarks/softmax.py [--samples M] [--atoms N] [--dimension D] [--all] [--seed S]
        [--json results.json]

The work counted is that of the one matrix product that the distances need. Peak is the best of
several square products of the same precision, taken right before and after. Without --all a part of
the samples is assigned, from which the time of all follows: blocks don't depend on how many follow.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from pathlib import Path

import torch

from waterfill.estimators.softmax import posteriors
from waterfill.provenance import environment

_SIDE = 2048


def peak() -> float:
    """Floating-point operations a second in the largest matrix product that is quick."""
    a, b = torch.randn(_SIDE, _SIDE), torch.randn(_SIDE, _SIDE)
    best = float("inf")
    for _ in range(5):
        start = time.perf_counter()
        a @ b
        best = min(best, time.perf_counter() - start)
    return 2 * _SIDE**3 / best


def main() -> None:
    """Time it and print it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, default=60_000)
    parser.add_argument("--atoms", type=int, default=40_000)
    parser.add_argument("--dimension", type=int, default=784)
    parser.add_argument("--all", action="store_true", help="assign all samples, not a part")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    m = options.samples if options.all else min(options.samples, 1680)
    x = torch.rand(m, options.dimension)
    y = torch.rand(options.atoms, options.dimension)
    log_weights = torch.zeros(options.atoms)
    work = 2.0 * m * options.atoms * options.dimension
    before, times = peak(), []
    for _ in range(1 if options.all else options.repeats):
        start = time.perf_counter()
        total = sum(float(log_sum.sum()) for _, log_sum, _ in posteriors(x, y, 1.0, log_weights))
        times.append(time.perf_counter() - start)
    after = peak()
    seconds = min(times)
    result = {
        "samples": m,
        "atoms": options.atoms,
        "dimension": options.dimension,
        "seconds": round(seconds, 3),
        "seconds_for_all": round(seconds * options.samples / m, 1),
        "gflops": round(work / seconds / 1e9, 1),
        "peak_gflops": round(max(before, after) / 1e9, 1),
        "share_of_peak": round(work / seconds / max(before, after), 3),
        "largest_resident_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        "check": round(total / m, 6),
        "environment": environment(options.seed),
    }
    print(json.dumps(result, indent=1))
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
