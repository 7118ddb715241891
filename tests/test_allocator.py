"""What the heap holds, and what it gives back."""

from __future__ import annotations

import subprocess
import sys

import pytest

_HOLES = """
import ctypes
from waterfill.allocator import keep_large_blocks, release_free_blocks

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096 / 2**20

keep_large_blocks()
before = resident()
kept, freed = [], []
for _ in range(25):  # bytearrays of 8 MiB, as large as latents of a tile, with what is kept between
    freed.append(bytearray(b"1") * (8 << 20))
    kept.append(bytearray(b"1") * (1 << 20))
full = resident()
freed.clear()
held = resident()
release_free_blocks()
print(full - before, held - before, resident() - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="settings of glibc")
def test_holes_between_blocks_that_are_kept_are_given_back() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _HOLES], capture_output=True, check=True, text=True
    )
    full, held, released = map(float, done.stdout.split())
    assert full > 200
    assert held > 200  # that is what the setting is for
    assert 20 < released < 80


_FAULTS = """
import resource
from concurrent.futures import ThreadPoolExecutor
import torch
from waterfill.allocator import keep_large_blocks

def faults(times):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(times):
        torch.zeros(12 << 20)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

keep_large_blocks()
first = faults(16)  # small blocks get in between at first
again = faults(4)
with ThreadPoolExecutor(1) as pool:  # beyond what an arena of a thread can hold
    elsewhere = pool.submit(lambda: float(torch.ones(40 << 20).sum())).result()
print(first, again, elsewhere)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="settings of glibc")
def test_tensors_beyond_any_threshold_are_kept_too() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _FAULTS], capture_output=True, check=True, text=True
    )
    first, again, elsewhere = map(float, done.stdout.split())
    assert again < 1000 < first  # 48 MiB are 12,288 pages
    assert elsewhere == 40 << 20
