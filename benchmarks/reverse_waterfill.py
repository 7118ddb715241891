"""Time `reverse_waterfill` against `np.sort` of the same array, the textbook's first step.

    python benchmarks/reverse_waterfill.py [--components N] [--repeats R] [--seed S]

Prints a table: each row is the median of R interleaved runs. NumPy does both in one thread.
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from waterfill.theory import reverse_waterfill

FloatArray = npt.NDArray[np.float64]


def machine_class() -> str:
    """Model of the processor, and how many of them, as far as the system says."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
    return f"{model}, {os.cpu_count()} logical cores, {platform.system()}"


def seconds(task: Callable[[], object]) -> float:
    """Wall-clock time of one call, its result kept alive until the clock has stopped."""
    start = time.perf_counter()
    result = task()
    elapsed = time.perf_counter() - start
    del result
    return elapsed


def main() -> None:
    """Run the comparison and print it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--components", type=int, default=10_000_000)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    n = options.components
    rng = np.random.default_rng(options.seed)

    print(f"{n:,} float64 variances, seed {options.seed}, median of {options.repeats}, one thread")
    print(f"numpy {np.__version__}, Python {platform.python_version()}, {machine_class()}")
    print(f"{datetime.date.today():%Y-%m-%d}\n")
    print(f"{'variances':20} {'budget':>24} {'np.sort':>9} {'waterfill':>10} {'ratio':>6}")
    for name in ("exponential", "lognormal (sigma 3)"):
        exponential = name == "exponential"
        variances = rng.exponential(size=n) if exponential else rng.lognormal(0.0, 3.0, n)
        total = float(variances.sum())
        budgets = {
            "distortion 0.1 % of power": {"distortion": 0.001 * total},
            "distortion 10 % of power": {"distortion": 0.1 * total},
            "distortion 90 % of power": {"distortion": 0.9 * total},
            "rate 0.01 bit each": {"rate": 0.01 * n},
            "rate 1 bit each": {"rate": 1.0 * n},
            "rate 5 bits each": {"rate": 5.0 * n},
        }
        for label, budget in budgets.items():

            def solve(v: FloatArray = variances, b: dict[str, float] = budget) -> object:
                return reverse_waterfill(v, **b)

            def sort(v: FloatArray = variances) -> object:
                return np.sort(v)

            solve()  # first touch of code and caches
            sorting, solving = [], []
            for _ in range(options.repeats):  # interleaved: other load hits both alike
                sorting.append(seconds(sort))
                solving.append(seconds(solve))
            a, b = statistics.median(sorting), statistics.median(solving)
            row = f"{name:20} {label:>24} {a * 1e3:6.0f} ms {b * 1e3:7.0f} ms {b / a:6.2f}"
            print(row, flush=True)


if __name__ == "__main__":
    main()
