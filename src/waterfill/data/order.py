"""The order in which pictures are drawn: worked out from the position alone."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["EpochOrder"]

# First words of the seeds of the two kinds of draw (crops use another).
_GROUPS, _WITHIN = 1, 2


class EpochOrder:
    """Every picture once per epoch, in an order that reads few groups at a time.

    Each epoch shuffles the groups and then, among themselves, the pictures of every few consecutive
    ones: a window. One group is one plain shuffle of all.

    Parameters
    ----------
    groups
        Sizes of consecutive runs of pictures.
    seed
        Seed of all shuffles.
    together
        Groups in a window.
    """

    def __init__(self, groups: Sequence[int], *, seed: int, together: int) -> None:
        sizes = np.asarray(groups, dtype=np.int64)
        self._starts = np.cumsum(sizes) - sizes
        self._sizes = sizes
        self._filled = np.flatnonzero(sizes)
        self.count = int(sizes.sum())
        self._seed = seed
        self._together = together
        self._lock = threading.Lock()
        # Two of each: threads may stand on both sides of an end.
        self._epochs: OrderedDict[int, tuple[NDArray[np.int64], NDArray[np.int64]]] = OrderedDict()
        self._windows: OrderedDict[tuple[int, int], NDArray[np.int64]] = OrderedDict()

    def _epoch(self, epoch: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The groups in the epoch's order, and the places where its windows end."""
        if epoch not in self._epochs:
            rng = np.random.default_rng([_GROUPS, self._seed, epoch])
            order = rng.permutation(self._filled)
            firsts = np.arange(0, len(order), self._together)
            ends = np.cumsum(np.add.reduceat(self._sizes[order], firsts))
            self._epochs[epoch] = order, ends
            if len(self._epochs) > 2:
                self._epochs.popitem(last=False)
        return self._epochs[epoch]

    def _groups(self, epoch: int, window: int) -> NDArray[np.int64]:
        order, _ = self._epoch(epoch)
        return order[window * self._together : (window + 1) * self._together]

    def _window(self, epoch: int, window: int) -> NDArray[np.int64]:
        """The pictures of a window in the order in which they are drawn."""
        key = epoch, window
        if key not in self._windows:
            runs = [
                np.arange(self._starts[group], self._starts[group] + self._sizes[group])
                for group in self._groups(epoch, window)
            ]
            pictures = np.concatenate(runs)
            np.random.default_rng([_WITHIN, self._seed, epoch, window]).shuffle(pictures)
            self._windows[key] = pictures
            if len(self._windows) > 2:
                self._windows.popitem(last=False)
        return self._windows[key]

    def _locate(self, position: int) -> tuple[int, int, int, int]:
        """Epoch, window, place in the window, and size of the window."""
        epoch, place = divmod(position, self.count)
        _, ends = self._epoch(epoch)
        window = int(np.searchsorted(ends, place, side="right"))
        start = int(ends[window - 1]) if window else 0
        return epoch, window, place - start, int(ends[window]) - start

    def picture(self, position: int) -> int:
        """The picture at a position of the endless sequence."""
        with self._lock:
            epoch, window, place, _ = self._locate(position)
            return int(self._window(epoch, window)[place])

    def ahead(self, position: int) -> list[int]:
        """Groups of the next window that ought to be in memory by now.

        They come one after the other while a window is used up: no disk is asked for all at once.
        """
        with self._lock:
            epoch, window, place, size = self._locate(position)
            _, ends = self._epoch(epoch)
            following = (epoch, window + 1) if window + 1 < len(ends) else (epoch + 1, 0)
            due = place * (self._together + 1) // size
            return [int(group) for group in self._groups(*following)[:due]]
