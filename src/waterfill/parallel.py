"""Pictures side by side, each on one core: two do more than one picture on two cores."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, ThreadPoolExecutor
from typing import TypeVar

import torch

__all__ = ["side_by_side"]

T = TypeVar("T")


def side_by_side(
    work: Callable[[int, Callable[[], None]], T],
    count: int,
    *,
    of: int | None = None,
    in_turn: bool = False,
) -> Iterator[T]:
    """Results of ``work`` for 0 … count − 1, in this order, on all of torch's threads.

    Parameters
    ----------
    work
        Called with a number, and with a function to call now and then: it raises when the others
        have been given up, because one of them failed or the caller was interrupted.
    count
        How many there are.
    of
        Items over all processes; None for ``count``. Only a single item gets all threads: sums
        on several may differ in their last bits from sums on one.
    in_turn
        One after the other, each with all threads: for work that must not run concurrently.

    Raises
    ------
    Exception
        Whatever ``work`` raises, as soon as its turn comes.
    """
    threads = torch.get_num_threads()
    if in_turn or threads == 1 or (count == 1 and of in (None, 1)):
        for index in range(count):
            yield work(index, lambda: None)
        return
    abandoned = threading.Event()

    def check() -> None:
        if abandoned.is_set():
            raise CancelledError

    pool = ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,))
    try:
        waiting = deque(pool.submit(work, index, check) for index in range(count))
        while waiting:  # what has been handed out isn't held here
            yield waiting.popleft().result()
    finally:
        abandoned.set()
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(threads)
