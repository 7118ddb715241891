"""Work side by side: in order, on all threads, and given up as one."""

from __future__ import annotations

import gc
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError

import pytest
import torch

from waterfill.parallel import side_by_side


@pytest.fixture(autouse=True)
def _two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    assert torch.get_num_threads() == 2
    torch.set_num_threads(before)


def test_results_come_in_order_from_threads_with_one_core_each() -> None:
    def work(index: int, check: Callable[[], None]) -> tuple[int, int]:
        time.sleep(0.01 * (5 - index))
        check()
        return index, torch.get_num_threads()

    assert list(side_by_side(work, 5)) == [(index, 1) for index in range(5)]
    assert list(side_by_side(work, 0)) == []
    assert list(side_by_side(work, 1)) == [(0, 2)]
    assert list(side_by_side(work, 1, of=2)) == [(0, 1)]  # as it would among others
    assert list(side_by_side(work, 3, in_turn=True)) == [(index, 2) for index in range(3)]


def test_what_has_been_handed_out_is_not_held() -> None:
    class Result:
        pass

    results = side_by_side(lambda index, check: Result(), 9)
    seen = [weakref.ref(next(results)) for _ in range(5)]
    gc.collect()
    assert [one() for one in seen] == [None] * 5
    assert len(list(results)) == 4


def test_one_failure_ends_the_others() -> None:
    begun, ended = threading.Event(), threading.Event()

    def work(index: int, check: Callable[[], None]) -> None:
        if index == 0:
            begun.wait(30)
            raise ValueError("no")
        begun.set()
        try:
            while True:
                check()
                time.sleep(0.001)
        except CancelledError:
            ended.set()
            raise

    with pytest.raises(ValueError, match="no"):
        list(side_by_side(work, 2))
    assert ended.is_set()


def test_who_stops_listening_stops_the_work() -> None:
    def work(index: int, check: Callable[[], None]) -> int:
        if index:
            while True:
                check()
                time.sleep(0.001)
        return index

    results = side_by_side(work, 40)
    assert next(results) == 0
    results.close()  # type: ignore[attr-defined]
