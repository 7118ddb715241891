"""Lemmas 1 and 2, theorems 1 and 2 of the regulariser's paper, on codecs that are tables."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from waterfill.theory import (
    CodecSearch,
    conditional_entropy,
    entropy,
    entropy_account,
    search_codecs,
)

EXACT = 1e-12


@st.composite
def codecs(draw: st.DrawFn, *, injective: bool = False) -> tuple[list[float], list[int], list[int]]:
    """A source of up to 8 letters, and its encoder and decoder."""
    letters, indices = draw(st.integers(1, 8)), draw(st.integers(1, 6))
    p = draw(st.lists(st.floats(0.0, 1.0), min_size=letters, max_size=letters).filter(any))
    encoder = draw(st.lists(st.integers(0, indices - 1), min_size=letters, max_size=letters))
    if injective:
        return p, encoder, draw(st.permutations(range(indices)))
    shown = st.lists(st.integers(0, 3), min_size=indices, max_size=indices)
    return p, encoder, draw(shown)


# --- entropies -----------------------------------------------------------------------------------


def test_entropies_of_known_tables() -> None:
    assert entropy([1, 1, 1, 1]) == 2.0
    assert entropy([1.0, 0.0]) == 0.0
    assert entropy([0.11, 0.89]) == pytest.approx(0.499916, abs=1e-6)
    # A binary symmetric channel of noise .11, and independent variables.
    assert conditional_entropy([[0.445, 0.055], [0.055, 0.445]]) == pytest.approx(
        0.499916, abs=1e-6
    )
    assert conditional_entropy(np.outer([0.5, 0.25, 0.25], [0.3, 0.7])) == pytest.approx(1.5)
    assert conditional_entropy(np.diag([0.2, 0.3, 0.5])) == 0.0


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10_000))
def test_chain_rule(seed: int) -> None:
    joint = np.random.default_rng(seed).dirichlet(np.full(12, 0.5)).reshape(3, 4)
    both = entropy(joint.reshape(-1))
    assert both == pytest.approx(conditional_entropy(joint) + entropy(joint.sum(0)), abs=EXACT)
    assert both == pytest.approx(conditional_entropy(joint.T) + entropy(joint.sum(1)), abs=EXACT)
    assert conditional_entropy(joint) <= entropy(joint.sum(1)) + EXACT


def test_many_tables_at_once_are_as_one_by_one() -> None:
    tables = np.random.default_rng(0).random((5, 3, 4))
    assert np.array_equal(conditional_entropy(tables), [conditional_entropy(t) for t in tables])
    assert np.array_equal(entropy(tables[:, 0]), [entropy(t[0]) for t in tables])


# --- the account ---------------------------------------------------------------------------------


@settings(deadline=None, max_examples=60)
@given(codecs())
def test_lemma_2_and_theorem_2(codec: tuple[list[float], list[int], list[int]]) -> None:
    p, encoder, decoder = codec
    found = entropy_account(p, encoder, decoder)
    assert abs(found.residual_bits) < EXACT
    dropped = found.index_given_reproduction_bits
    assert -EXACT < dropped < found.index_bits + EXACT
    # The index says all that is known: H(X) = H(U) + H(X|U), and X̂ says no more than it.
    told = found.index_bits + found.source_given_index_bits
    assert told == pytest.approx(found.source_bits, abs=EXACT)
    assert found.source_given_index_bits <= found.source_given_reproduction_bits + EXACT
    assert found.index_bits - dropped == pytest.approx(found.reproduction_bits, abs=EXACT)


@settings(deadline=None, max_examples=40)
@given(codecs(injective=True))
def test_lemma_1_and_theorem_1(codec: tuple[list[float], list[int], list[int]]) -> None:
    found = entropy_account(*codec)
    assert found.index_given_reproduction_bits == 0.0
    assert found.index_bits == pytest.approx(found.reproduction_bits, abs=EXACT)
    direct = found.source_bits - found.source_given_reproduction_bits
    assert found.index_bits == pytest.approx(direct, abs=EXACT)


def test_direct_coding_fails_where_the_decoder_is_not_one_to_one() -> None:
    found = entropy_account([0.5, 0.25, 0.25], [0, 1, 2], [7, 3, 3])
    assert found.source_bits - found.source_given_reproduction_bits == 1.0
    assert found.index_bits == 1.5
    assert found.source_given_index_bits == 0.0
    assert found.regulariser_bits == 0.0


def test_an_encoder_that_draws_lots_is_not_of_the_lemma() -> None:
    """H(U|X) = 0 is what it needs: with a random index the identity misses by just that."""
    x_and_u = np.array([[0.25, 0.25], [0.0, 0.5]])
    index, source = entropy(x_and_u.sum(0)), entropy(x_and_u.sum(1))
    by_identity = source - conditional_entropy(x_and_u)
    assert index - by_identity == pytest.approx(conditional_entropy(x_and_u.T))
    assert index - by_identity == pytest.approx(0.5)


# --- all codecs of a small source ----------------------------------------------------------------


def searched(p: list[float], budget: float, indices: int) -> CodecSearch:
    """Letters at 0, 1, 2, …, shown as one of themselves, absolute error."""
    place = np.arange(len(p))
    return search_codecs(p, np.abs(place[:, None] - place), budget, indices)


@pytest.mark.parametrize(
    ("p", "budget", "indices"),
    [
        ([0.5, 0.5], 0.5, 2),
        ([0.5, 0.3, 0.2], 0.3, 3),
        ([0.4, 0.3, 0.2, 0.1], 0.35, 4),
        ([0.25, 0.25, 0.25, 0.25], 0.5, 3),
    ],
)
def test_least_rate_is_most_of_the_regulariser(p: list[float], budget: float, indices: int) -> None:
    search = searched(p, budget, indices)
    account = search.account
    assert np.abs(account.residual_bits).max() < EXACT
    assert (search.distortions <= budget + EXACT).all()
    assert np.array_equal(search.least_rate, search.most_regular)
    # H(X|X̂) alone keeps those, and adds others, which waste what it drops.
    assert (search.most_uncertain >= search.least_rate).all()
    assert search.most_uncertain.sum() > search.least_rate.sum()
    excess = account.index_bits - account.index_bits.min()
    dropped = account.index_given_reproduction_bits
    assert np.allclose(excess[search.most_uncertain], dropped[search.most_uncertain], atol=EXACT)
    assert (dropped[search.least_rate] < EXACT).all()


def test_smallest_counterexample() -> None:
    """Two letters, two indices, one picture: a whole bit is spent on nothing, and H(X|X̂) is 1."""
    search = search_codecs([0.5, 0.5], [[0.0], [1.0]], 0.5, 2)
    assert search.encoders.tolist() == [[0, 0], [0, 1], [1, 0], [1, 1]]
    assert search.least_rate.tolist() == search.most_regular.tolist() == [True, False, False, True]
    assert search.most_uncertain.all()
    assert np.array_equal(search.account.index_bits, [0.0, 1.0, 1.0, 0.0])
    assert np.array_equal(search.account.index_given_reproduction_bits, [0.0, 1.0, 1.0, 0.0])
    # With one index fewer there is nothing to waste, and with one letter nothing to send.
    for fewer in (search_codecs([0.5, 0.5], [[0.0], [1.0]], 0.5, 1), searched([1.0], 0.0, 2)):
        assert np.array_equal(fewer.least_rate, fewer.most_uncertain)


def test_where_every_picture_is_needed_nothing_is_dropped() -> None:
    search = searched([0.5, 0.3, 0.2], 0.0, 3)
    assert np.array_equal(search.least_rate, search.most_uncertain)
    assert len(search.encoders) == math.factorial(3)


def test_all_codecs_are_tried() -> None:
    search = searched([0.5, 0.3, 0.2], math.inf, 2)
    assert len(search.encoders) == 2**3 * 3**2
    pairs = np.concatenate([search.encoders, search.decoders], axis=1)
    assert len(np.unique(pairs, axis=0)) == len(pairs)


# --- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("encoder", "decoder", "message"),
    [
        ([0, 2], [0, 1], "encoder must map to 0 to 1, got 2"),
        ([0, -1], [0, 1], "got -1"),
        ([0, 1, 1], [0, 1], "does not fit"),
        ([0.0, 1.0], [0, 1], "encoder must be whole numbers"),
        ([0, 1], [0, -1], "decoder must map to 0, got -1"),
        ([[0, 1], [1, 0]], [[0, 1]] * 3, "do not broadcast"),
    ],
)
def test_maps_that_are_none(encoder: object, decoder: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        entropy_account([0.5, 0.5], encoder, decoder)  # type: ignore[arg-type]


def test_tables_that_are_none() -> None:
    with pytest.raises(ValueError, match="all zero"):
        entropy([0.0, 0.0])
    with pytest.raises(ValueError, match="at least 0"):
        entropy([0.5, -0.5])
    with pytest.raises(ValueError, match="at least 2 axes"):
        conditional_entropy([0.5, 0.5])
    with pytest.raises(ValueError, match="no codec keeps"):
        searched([0.5, 0.5], 0.1, 1)
    with pytest.raises(ValueError, match="smaller alphabet"):
        searched([1.0] * 6, 0.1, 6)
    with pytest.raises(ValueError, match="budget"):
        searched([0.5, 0.5], math.nan, 1)
    with pytest.raises(ValueError, match="indices"):
        searched([0.5, 0.5], 0.1, 0)
    with pytest.raises(ValueError, match="does not fit"):
        search_codecs([0.5, 0.5], [[0.0, 1.0]], 0.1, 2)
