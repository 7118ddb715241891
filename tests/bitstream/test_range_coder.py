"""Range coding: what goes in comes out, at the estimated price, and garbage is an error."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from waterfill.bitstream import Rows, SymbolReader, SymbolWriter, Tables, gaussian_tables
from waterfill.bitstream.tables import ESCAPE_BITS, PRECISION, _by_row
from waterfill.errors import BitstreamError, CodecError

INT32 = np.iinfo(np.int32)


def coded(symbols, rows, tables) -> bytes:
    writer = SymbolWriter()
    writer.write(symbols, Rows(tables, rows))
    return writer.to_bytes()


def random_tables(rng: np.random.Generator, count: int) -> Tables:
    """Rows of 0 … 40 symbols anywhere in int32, with masses of any sum and many zeros."""
    sizes = rng.integers(0, 41, count)
    first = rng.integers(INT32.min // 2, INT32.max // 2, count)
    masses = []
    for size in sizes:
        mass = rng.exponential(size=size) ** rng.integers(1, 8) * (rng.random(size) < 0.8)
        masses.append(mass / max(mass.sum(), 1e-9) * rng.choice([0.0, 0.5, 1.0, 2.0]))
    return Tables.from_masses(first, masses)


def random_plane(rng: np.random.Generator, tables: Tables, size: int, escapes: float):
    rows = rng.integers(len(tables), size=size)
    lengths = np.array([len(f) for f in tables.frequencies])
    symbols = tables.first[rows] + rng.integers(0, lengths[rows])
    outside = rng.random(size) < escapes
    symbols[outside] = rng.integers(INT32.min, INT32.max, outside.sum(), endpoint=True)
    return symbols.astype(np.int32), rows.astype(np.int64)


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 2**32 - 1),
    rows=st.integers(1, 12),
    sizes=st.lists(st.integers(0, 300), max_size=4),
    escapes=st.sampled_from([0.0, 0.05, 1.0]),
)
def test_any_planes_come_back(seed, rows, sizes, escapes):
    rng = np.random.default_rng(seed)
    tables = random_tables(rng, rows)
    planes = [random_plane(rng, tables, size, escapes) for size in sizes]
    writer = SymbolWriter()
    for symbols, which in planes:
        writer.write(symbols, Rows(tables, which))
    reader = SymbolReader(writer.to_bytes())
    for symbols, which in planes:
        np.testing.assert_array_equal(reader.read(Rows(tables, which)), symbols)


@pytest.mark.parametrize("shape", [(0,), (0, 4, 4), (3, 0, 7)])
def test_an_empty_plane_costs_nothing_and_keeps_its_shape(shape):
    tables = gaussian_tables()
    empty, rows = np.zeros(shape, np.int32), np.zeros(shape, np.int64)
    assert coded(empty, rows, tables) == b""
    assert SymbolReader(b"").read(Rows(tables, rows)).shape == shape
    assert Rows(tables, rows).bits(empty).shape == shape


def test_the_ends_of_int32_escape_from_every_kind_of_table():
    tables = Tables.from_masses(
        np.array([0, 5, INT32.min]), [np.array([1.0]), np.array([]), np.array([0.1, 0.2])]
    )
    values = np.array([INT32.min, INT32.max, -1, 0, 1], np.int32)
    symbols, rows = np.tile(values, 3), np.repeat(np.arange(3), 5)
    data = coded(symbols, rows, tables)
    np.testing.assert_array_equal(SymbolReader(data).read(Rows(tables, rows)), symbols)


def test_a_table_with_nothing_but_its_escape_costs_the_escape_alone():
    tables = Tables.from_masses(np.array([0]), [np.array([])])
    symbols = np.arange(-500, 500, dtype=np.int32)
    data = coded(symbols, np.zeros(1000, np.int64), tables)
    assert Rows(tables, np.zeros(1000, np.int64)).bits(symbols).sum() == 1000 * ESCAPE_BITS
    assert abs(8 * len(data) - 1000 * ESCAPE_BITS) <= 64


def test_certainty_is_free():
    tables = Tables.from_masses(np.array([7]), [np.array([1.0])])
    symbols, rows = np.full((4000, 5), 7, np.int32), np.zeros((4000, 5), np.int64)
    data = coded(symbols, rows, tables)
    assert len(data) <= 1
    np.testing.assert_array_equal(SymbolReader(data).read(Rows(tables, rows)), symbols)


def test_a_plane_of_thousands_of_rows():
    rng = np.random.default_rng(0)
    tables = random_tables(rng, 4000)
    symbols, rows = random_plane(rng, tables, 20_000, 0.01)
    np.testing.assert_array_equal(
        SymbolReader(coded(symbols, rows, tables)).read(Rows(tables, rows)), symbols
    )


def test_frequencies_are_positive_and_fill_the_precision():
    tables = gaussian_tables()
    for row in range(0, len(tables), 7):
        assert tables.frequencies[row].min() >= 1
        assert tables.frequencies[row].sum() == 1 << PRECISION


def test_an_escape_costs_its_frequency_and_32_bits():
    tables = Tables.from_masses(np.array([0]), [np.array([0.5, 0.25])])
    bits = Rows(tables, np.zeros(4, np.int64)).bits(np.array([0, 1, 2, -9], np.int32))
    np.testing.assert_allclose(bits, [1, 2, 2 + ESCAPE_BITS, 2 + ESCAPE_BITS], atol=1e-5)


@pytest.mark.parametrize("row", [0, 20, 100, 192])
def test_the_coder_uses_the_very_integers_that_the_estimate_uses(row):
    # The first word's upper 24 bits are the quantile of the first symbol: the ends of each
    # symbol's interval must decode to it, and therefore no frequency is off by one.
    tables = gaussian_tables()
    frequencies = tables.frequencies[row]
    ends = np.cumsum(frequencies)
    where = np.array([row])
    rng = np.random.default_rng(row)
    for index in {0, len(ends) - 1, *rng.integers(len(ends), size=200).tolist()}:
        for quantile in (ends[index] - frequencies[index], ends[index] - 1):
            # The escape's value follows in the second word; any will do.
            words = np.array([(quantile << 8) | 0x80, 1 << 20, 0], dtype="<u4")
            (symbol,) = SymbolReader(words.tobytes()).read(Rows(tables, where))
            found, escaped = tables.entries(np.array([row]), np.array([symbol]))
            assert found[0] == index or (escaped[0] and index == len(ends) - 1)


@pytest.mark.parametrize("scales", [(-4.0, 7.0), (-4.0, -4.0), (0.0, 0.0), (7.0, 7.0)])
def test_a_million_gaussians_cost_what_is_estimated(scales):
    rng = np.random.default_rng(1)
    tables = gaussian_tables()
    octaves = rng.uniform(*scales, 1_000_000)
    rows = np.rint((octaves + 4.0) * 16).astype(np.int64)
    sigma = 2.0 ** (rows / 16 - 4.0)
    symbols = np.rint(rng.standard_normal(rows.size) * sigma).astype(np.int32)
    ideal = Rows(tables, rows).bits(symbols).sum()
    data = coded(symbols, rows, tables)
    # Trailing zeros are left out: a stream may end up to two words below its ideal length.
    assert ideal - 64 <= 8 * len(data) <= 1.001 * ideal + 64
    np.testing.assert_array_equal(SymbolReader(data).read(Rows(tables, rows)), symbols)


@settings(deadline=None, max_examples=150)
@given(data=st.binary(max_size=400), seed=st.integers(0, 2**32 - 1), size=st.integers(0, 500))
def test_garbage_gives_symbols_or_a_bitstream_error(data, seed, size):
    rng = np.random.default_rng(seed)
    tables = random_tables(rng, 8)
    rows = rng.integers(8, size=size)
    try:
        symbols = SymbolReader(data).read(Rows(tables, rows))
    except BitstreamError:
        return
    assert symbols.shape == rows.shape
    assert symbols.dtype == np.int32


@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(-5, 5), max_size=60))
def test_rows_are_grouped_once_each_in_order(rows):
    values = np.array(rows, dtype=np.int64)
    order, ordered, ends = _by_row(values)
    assert ordered.tolist() == sorted(rows)
    groups = [order[start:end].tolist() for start, end in pairwise([0, *ends])]
    assert len(groups) == len(set(rows))
    for row, where in zip(sorted(set(rows)), groups, strict=True):
        assert where == [i for i, value in enumerate(rows) if value == row]


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_broken_probabilities_are_refused(bad):
    with pytest.raises(CodecError):
        Tables.from_masses(np.array([0]), [np.array([0.5, bad])])
