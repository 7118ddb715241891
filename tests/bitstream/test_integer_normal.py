"""The normal distribution in integers is the normal distribution."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import ndtr

from waterfill.bitstream import gaussian_tables
from waterfill.bitstream.normal import (
    PHI_BITS,
    POSITION_BITS,
    ROWS,
    cumulative,
    exponentials,
    power_of_two,
    reciprocal_scale,
)

WHOLE = 1 << PHI_BITS
POSITIONS = st.integers(-(20 << POSITION_BITS), 20 << POSITION_BITS)


@given(st.lists(POSITIONS, min_size=1, max_size=50))
def test_phi_is_right_to_a_tables_precision(positions: list[int]) -> None:
    at = np.array(positions, dtype=np.int64)
    found = cumulative(at) / WHOLE
    assert np.abs(found - ndtr(at / 2.0**POSITION_BITS)).max() < 2.0**-28


@given(POSITIONS, st.integers(0, 1 << POSITION_BITS))
def test_phi_rises_and_is_symmetric(position: int, step: int) -> None:
    low, high, mirrored = cumulative(np.array([position, position + step, -position]))
    assert low <= high
    assert low + mirrored == WHOLE


@given(st.integers(-200_000, 200_000))
def test_powers_of_two(numerator: int) -> None:
    found = power_of_two(numerator, 12, 64) / 2.0**64
    assert found == pytest.approx(2.0 ** (numerator / 4096), rel=1e-12, abs=2.0**-60)


def test_scales_and_exponentials() -> None:
    for row in range(ROWS):
        assert reciprocal_scale(row, 40) / 2.0**40 == pytest.approx(2.0 ** (4 - row / 16))
    k = np.arange(4096)
    assert exponentials() / 2.0**30 == pytest.approx(np.exp(-k / 256), abs=2.0**-29)


def test_tables_hold_the_masses_of_their_gaussian() -> None:
    tables = gaussian_tables()
    assert len(tables) == ROWS
    for row, (first, frequencies) in enumerate(tables.rows()):
        sigma = 2.0 ** (row / 16 - 4)
        edges = (np.arange(len(frequencies)) + first - 0.5) / sigma
        mass = np.diff(ndtr(edges))
        assert -first >= math.floor(5.5 * sigma)
        # Each entry is raised by at most 1 and lowered by what that takes from all others; the
        # most frequent one takes what is left over.
        error = np.abs(frequencies[:-1] / 2.0**24 - mass)
        rest = error[np.arange(len(error)) != frequencies[:-1].argmax()]
        assert rest.max(initial=0.0) <= 2.0**-24 * (2 + len(mass) * mass.max())
