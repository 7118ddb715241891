"""Training crops, drawn so that a batch depends on (seed, step) alone: resuming needs no state."""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from waterfill.data.images import load_picture
from waterfill.errors import ImageError, TrainingError

__all__ = ["CropSource", "grown", "split_validation"]

_ONE_IN = 48  # one file in so many is held back for validation


def split_validation(paths: Sequence[Path]) -> tuple[list[Path], list[Path]]:
    """Training and validation files, told apart by a hash of the name.

    No file is on both sides, except the only one. A file that the hash alone holds back stays on
    its side when others are added.
    """

    def hashed(path: Path) -> int:
        return zlib.crc32(os.fsencode(path.name))

    ordered = sorted(paths, key=lambda p: (hashed(p), str(p)))
    held_back = [p for p in ordered if hashed(p) % _ONE_IN == 0]
    if len(held_back) in (0, len(ordered)):  # by chance, or all have one name in many folders
        held_back = ordered[:1]
    chosen = set(held_back)
    training = [p for p in ordered if p not in chosen] or held_back
    return sorted(training), sorted(held_back)


def grown(pixels: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """A picture (H, W, 3) too small for ``size`` mirrored at its border until it is not."""
    missing = [(0, max(0, size - side)) for side in pixels.shape[:2]]
    return np.pad(pixels, [*missing, (0, 0)], mode="symmetric") if np.any(missing) else pixels


class CropSource:
    """Random crops of a set of files.

    Each crop is a random window, at a random reduction (which blurs traces of JPEG coding) and
    mirrored half of the time. Decoded pictures are kept in memory up to a limit; unreadable files
    are skipped and counted.

    Parameters
    ----------
    paths
        Picture files.
    size
        Side of a crop in pixels.
    seed
        Seed of all draws.
    reduction
        Smallest factor by which a window is reduced; 1 switches reduction off.
    cache_bytes
        Limit of the memory that decoded pictures may take.

    Raises
    ------
    TrainingError
        When a crop is drawn, if no file can be read.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        *,
        size: int,
        seed: int,
        reduction: float = 0.6,
        cache_bytes: int = 4 << 30,
    ) -> None:
        self.paths = list(paths)
        self.size = size
        self.seed = seed
        self.reduction = reduction
        self.unreadable: set[Path] = set()
        self._cache: dict[int, NDArray[np.uint8]] = {}
        self._room = cache_bytes

    def _pixels(self, index: int) -> NDArray[np.uint8] | None:
        cached = self._cache.get(index)
        if cached is not None:
            return cached
        path = self.paths[index]
        if path in self.unreadable:
            return None
        try:
            pixels = load_picture(path).pixels
        except ImageError:
            self.unreadable.add(path)
            return None
        pixels = grown(pixels, self.size)
        if pixels.nbytes <= self._room:
            self._room -= pixels.nbytes
            self._cache[index] = pixels
        return pixels

    def _crop(self, rng: np.random.Generator) -> NDArray[np.uint8]:
        pixels = self._pixels(int(rng.integers(len(self.paths))))
        if pixels is None:
            others = (self._pixels(int(index)) for index in rng.permutation(len(self.paths)))
            pixels = next((p for p in others if p is not None), None)
        if pixels is None:
            raise TrainingError(f"none of the {len(self.paths)} training pictures can be read")
        height, width = pixels.shape[:2]
        factor = float(rng.uniform(self.reduction, 1.0)) if rng.random() < 0.5 else 1.0
        window = min(round(self.size / factor), height, width)
        top = int(rng.integers(height - window + 1))
        left = int(rng.integers(width - window + 1))
        crop = pixels[top : top + window, left : left + window]
        if window != self.size:
            image = Image.fromarray(crop).resize((self.size, self.size), Image.Resampling.LANCZOS)
            crop = np.asarray(image)
        return crop[:, ::-1] if rng.random() < 0.5 else crop

    def batch(self, step: int, count: int) -> NDArray[np.uint8]:
        """``count`` crops for training step ``step``, uint8 (count, size, size, 3)."""
        rng = np.random.default_rng([self.seed, step])
        return np.stack([self._crop(rng) for _ in range(count)])

    def batches(self, first: int, count: int) -> Iterator[NDArray[np.uint8]]:
        """Batches from step ``first`` on, without end, the next two prepared in the background."""
        with ThreadPoolExecutor(max_workers=1, thread_name_prefix="crops") as pool:
            waiting = [pool.submit(self.batch, first + k, count) for k in range(2)]
            step = first + 2
            while True:
                ready = waiting.pop(0).result()
                waiting.append(pool.submit(self.batch, step, count))
                step += 1
                yield ready
