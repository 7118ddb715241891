"""Mixtures: every symbol has a table of its own, in integers, and costs what it should."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from waterfill.bitstream import Mixtures, SymbolReader, SymbolWriter
from waterfill.bitstream.mixtures import MEAN_BITS, WEIGHT_BITS
from waterfill.bitstream.tables import ESCAPE_BITS
from waterfill.codec.densities import GaussianMixture

INT32 = np.iinfo(np.int32)


def random_mixtures(rng: np.random.Generator, k: int, size: int, widest: int = 120) -> Mixtures:
    shares = 1 + np.floor(rng.dirichlet(np.ones(k), size).T * ((1 << WEIGHT_BITS) - k))
    weights = shares.astype(np.int64)
    weights[0] += (1 << WEIGHT_BITS) - weights.sum(0)
    means = np.rint(rng.normal(0.0, 30.0, (k, size)) * (1 << MEAN_BITS)).astype(np.int64)
    return Mixtures(weights, means, rng.integers(0, widest, (k, size)))


def drawn(rng: np.random.Generator, mixtures: Mixtures) -> np.ndarray:
    k, size = mixtures.rows.shape
    chosen = np.array([rng.choice(k, p=w / w.sum()) for w in mixtures.weights.T], dtype=int)
    at = np.arange(size)
    sigma = 2.0 ** (mixtures.rows[chosen, at] / 16 - 4)
    mean = mixtures.means[chosen, at] / (1 << MEAN_BITS)
    return np.rint(mean + sigma * rng.standard_normal(size)).astype(np.int32)


@settings(deadline=None, max_examples=30)
@given(
    seed=st.integers(0, 2**32 - 1),
    k=st.integers(1, 4),
    size=st.integers(0, 200),
    escapes=st.sampled_from([0.0, 0.1, 1.0]),
)
def test_what_goes_in_comes_out_at_its_price(seed: int, k: int, size: int, escapes: float) -> None:
    rng = np.random.default_rng(seed)
    mixtures = random_mixtures(rng, k, size, widest=193)
    symbols = drawn(rng, mixtures)
    outside = rng.random(size) < escapes
    symbols[outside] = rng.integers(INT32.min, INT32.max, outside.sum(), endpoint=True)
    writer = SymbolWriter()
    writer.write(symbols, mixtures)
    data = writer.to_bytes()
    assert np.array_equal(SymbolReader(data).read(mixtures), symbols)
    assert abs(8 * len(data) - mixtures.bits(symbols).sum()) <= 64


def test_the_price_is_that_of_the_density() -> None:
    rng = np.random.default_rng(1)
    mixtures = random_mixtures(rng, 3, 4000)
    symbols = drawn(rng, mixtures)
    density = GaussianMixture(
        torch.from_numpy(np.log(mixtures.weights / 2.0**WEIGHT_BITS)),
        torch.from_numpy(mixtures.means / 2.0**MEAN_BITS),
        torch.from_numpy(2.0 ** (mixtures.rows / 16 - 4)),
    )
    expected = density.bits(torch.from_numpy(symbols).double()).numpy()
    found = mixtures.bits(symbols)
    assert found.mean() == pytest.approx(expected.mean(), abs=1e-3)
    assert np.median(np.abs(found - expected)) < 1e-3


def test_far_out_costs_bits_and_nothing_else() -> None:
    rng = np.random.default_rng(2)
    mixtures = random_mixtures(rng, 2, 3)
    symbols = np.array([INT32.min, 0, INT32.max], dtype=np.int32)
    assert (mixtures.bits(symbols)[[0, 2]] > ESCAPE_BITS).all()


def test_extreme_means_and_scales_make_tables() -> None:
    weights = np.array([[1, (1 << WEIGHT_BITS) - 1]]).T @ np.ones((1, 4), dtype=np.int64)
    means = np.array([[0, 1 << 40, -(1 << 40), 5], [7, -(1 << 40), -(1 << 40), 5]])
    rows = np.array([[0, 192, 0, 192], [192, 192, 0, 0]])
    mixtures = Mixtures(weights, means, rows)
    symbols = np.array([0, 3, -(1 << 28), 0], dtype=np.int32)
    writer = SymbolWriter()
    writer.write(symbols, mixtures)
    assert np.array_equal(SymbolReader(writer.to_bytes()).read(mixtures), symbols)
