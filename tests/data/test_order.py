"""The order of pictures: all of them in every epoch, few groups at a time."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from waterfill.data.order import EpochOrder

SIZES = st.lists(st.integers(0, 9), min_size=1, max_size=30).filter(any)


@settings(deadline=None)
@given(SIZES, st.integers(1, 6), st.integers(0, 3), st.integers(0, 2**40))
def test_each_picture_comes_once_per_epoch_and_few_groups_at_a_time(sizes, together, epoch, seed):
    order = EpochOrder(sizes, seed=seed, together=together)
    drawn = [order.picture(epoch * order.count + k) for k in range(order.count)]
    assert sorted(drawn) == list(range(sum(sizes)))
    group_of = np.repeat(np.arange(len(sizes)), sizes)[drawn]
    # Groups come in runs of `together`: in the order in which they first turn up, no group is
    # left for more than those of its window.
    _, firsts = np.unique(group_of, return_index=True)
    turn = {group_of[first]: k for k, first in enumerate(np.sort(firsts))}
    windows = [turn[group] // together for group in group_of]
    assert windows == sorted(windows)


def test_positions_may_be_asked_for_in_any_order():
    sizes = [5, 0, 7, 3, 9, 1]
    straight, jumping = (EpochOrder(sizes, seed=3, together=2) for _ in range(2))
    positions = np.random.default_rng(0).permutation(200)
    drawn = {int(p): jumping.picture(int(p)) for p in positions}
    assert [straight.picture(p) for p in range(200)] == [drawn[p] for p in range(200)]
    far = 10**12
    assert straight.picture(far) == jumping.picture(far)


@pytest.mark.parametrize("groups", [[60], [30, 30], [1] * 60])
def test_epochs_and_seeds_differ(groups):
    def epoch(number: int, seed: int) -> list[int]:
        order = EpochOrder(groups, seed=seed, together=1)
        return [order.picture(60 * number + k) for k in range(60)]

    assert len({tuple(epoch(*case)) for case in [(0, 0), (1, 0), (0, 1), (1, 1)]}) == 4


def test_one_group_is_shuffled_as_a_whole():
    order = EpochOrder([1000], seed=0, together=4)
    drawn = [order.picture(k) for k in range(1000)]
    assert np.abs(np.corrcoef(drawn, range(1000))[0, 1]) < 0.15


def test_the_next_window_is_asked_for_one_group_after_the_other():
    order = EpochOrder([10] * 12, seed=1, together=4)
    due = [order.ahead(k) for k in range(40)]
    lengths = [len(groups) for groups in due]
    assert lengths == sorted(lengths)
    assert (lengths[0], lengths[-1]) == (0, 4)
    assert {order.picture(k) // 10 for k in range(40, 80)} == set(due[-1])
    assert {order.picture(k) // 10 for k in range(120, 160)} == set(order.ahead(119))


@pytest.mark.parametrize("groups", [[10**7], [2000] * 5000])
def test_ten_million_pictures_are_no_burden(groups):
    order = EpochOrder(groups, seed=0, together=4)
    assert 0 <= order.picture(3 * 10**7 + 5) < 10**7
