"""Training crops, each a function of the seed and its position alone: resuming needs no state."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Generator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from waterfill.data.order import EpochOrder
from waterfill.data.sets import PictureSet
from waterfill.data.shards import WINDOW
from waterfill.errors import ImageError, TrainingError

__all__ = ["CropSource", "grown"]

_CROP = 0  # first word of a crop's seed; the order of pictures uses others


def grown(pixels: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """A picture (H, W, 3) too small for ``size`` mirrored at its border until it is not."""
    missing = [(0, max(0, size - side)) for side in pixels.shape[:2]]
    return np.pad(pixels, [*missing, (0, 0)], mode="symmetric") if np.any(missing) else pixels


class CropSource:
    """Random crops of a set of pictures.

    Each crop is a random window, half of the time reduced by a random factor (which blurs traces of
    JPEG coding) and mirrored half of the time, unless told not to. Every picture gives one crop per
    epoch. Decoded pictures are kept in memory while they fit; unreadable ones are replaced by the
    next in the order, and counted. Any number of threads may draw.

    Parameters
    ----------
    pictures
        Where the crops come from.
    size
        Side of a crop in pixels.
    seed
        Seed of all draws.
    reduction
        Smallest factor by which a window is reduced.
    augment
        Whether to reduce and mirror.
    cache_bytes
        Limit of the memory that decoded pictures may take.

    Attributes
    ----------
    unreadable
        Names of the pictures that couldn't be read so far.
    waited_seconds
        How long the users of :meth:`batches` have waited for it so far.

    Raises
    ------
    TrainingError
        When a crop is drawn, if no picture can be read.
    """

    def __init__(
        self,
        pictures: PictureSet,
        *,
        size: int,
        seed: int,
        reduction: float = 0.6,
        augment: bool = True,
        cache_bytes: int = 2 << 30,
    ) -> None:
        self.pictures = pictures
        self.size = size
        self.seed = seed
        self.reduction = reduction
        self.augment = augment
        self.unreadable: set[str] = set()
        self.waited_seconds = 0.0
        self._order = EpochOrder(pictures.groups, seed=seed, together=WINDOW)
        self._lock = threading.Lock()
        # What came first stays: in shuffled epochs, the picture seen last is not needed soonest.
        self._cache: dict[int, NDArray[np.uint8]] = {}
        self._room = cache_bytes
        self._broken: set[int] = set()

    def _pixels(self, index: int) -> NDArray[np.uint8] | None:
        cached = self._cache.get(index)
        if cached is not None:
            return cached
        if index in self._broken:
            return None
        try:
            pixels = self.pictures.pixels(index)
        except ImageError:
            with self._lock:
                self._broken.add(index)
                self.unreadable.add(self.pictures.name(index))
            return None
        pixels = grown(pixels, self.size)
        with self._lock:
            if pixels.nbytes <= self._room and index not in self._cache:
                self._room -= pixels.nbytes
                self._cache[index] = pixels
        return pixels

    def _picture(self, position: int) -> NDArray[np.uint8]:
        """The picture due at a position, or the next readable one of the epoch in its place."""
        count = self._order.count
        start = position - position % count if count else 0
        for step in range(count):
            pixels = self._pixels(self._order.picture(start + (position + step) % count))
            if pixels is not None:
                return pixels
        raise TrainingError(f"none of the {count} training pictures can be read")

    def _crop(self, position: int) -> NDArray[np.uint8]:
        pixels = self._picture(position)
        rng = np.random.default_rng([_CROP, self.seed, position])
        height, width = pixels.shape[:2]
        reduced = rng.random() < 0.5 and self.augment
        factor = float(rng.uniform(self.reduction, 1.0)) if reduced else 1.0
        window = min(round(self.size / factor), height, width)
        top = int(rng.integers(height - window + 1))
        left = int(rng.integers(width - window + 1))
        crop = pixels[top : top + window, left : left + window]
        if window != self.size:
            image = Image.fromarray(crop).resize((self.size, self.size), Image.Resampling.LANCZOS)
            crop = np.asarray(image)
        return crop[:, ::-1] if rng.random() < 0.5 and self.augment else crop

    def _batch(
        self, step: int, count: int, rows: range, stop: threading.Event | None = None
    ) -> NDArray[np.uint8]:
        crops = np.empty((len(rows), self.size, self.size, 3), dtype=np.uint8)
        for place, row in enumerate(rows):
            if stop is not None and stop.is_set():
                break
            crops[place] = self._crop(step * count + row)
        return crops

    def batch(self, step: int, count: int, rows: range | None = None) -> NDArray[np.uint8]:
        """Crops for training step ``step``.

        Parameters
        ----------
        step
            Number of the step, from 0.
        count
            Crops in the whole batch, over all processes.
        rows
            Which of them to draw, by default all.

        Returns
        -------
        NDArray
            uint8 (rows, size, size, 3).
        """
        return self._batch(step, count, _checked(rows, count))

    def batches(
        self, first: int, count: int, rows: range | None = None, *, workers: int = 2
    ) -> Generator[NDArray[np.uint8]]:
        """Batches from step ``first`` on, without end, the next few prepared in the background.

        Parameters
        ----------
        first
            Step of the first batch.
        count, rows
            As for :meth:`batch`.
        workers
            Threads that prepare batches. Two more batches than these are held at most.
        """
        rows = _checked(rows, count)
        stop = threading.Event()
        pool = ThreadPoolExecutor(workers, thread_name_prefix="crops")
        reader = ThreadPoolExecutor(1, thread_name_prefix="shards")
        waiting: deque[Future[NDArray[np.uint8]]] = deque()
        asked: list[int] = []
        step = first
        try:
            while True:
                while len(waiting) < workers + 2:
                    waiting.append(pool.submit(self._batch, step, count, rows, stop))
                    step += 1
                if self._order.count:
                    # From the user's place, not the workers': groups still needed must stay.
                    due = self._order.ahead((step - len(waiting)) * count)
                    for group in due[len(asked) :] if due[: len(asked)] == asked else due:
                        reader.submit(self.pictures.prepare, group)
                    asked = due
                began = time.perf_counter()
                ready = waiting.popleft().result()
                self.waited_seconds += time.perf_counter() - began
                yield ready
        finally:
            stop.set()
            reader.shutdown(wait=False, cancel_futures=True)
            pool.shutdown(cancel_futures=True)
            reader.shutdown()


def _checked(rows: range | None, count: int) -> range:
    if rows is None:
        return range(count)
    if rows and not (min(rows) >= 0 and max(rows) < count):
        raise ValueError(f"{rows} reaches outside a batch of {count}")
    return rows
