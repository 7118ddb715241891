"""Entropies of a deterministic codec: X → U → X̂, with the index U a function of X and X̂ one of U.

What the regulariser rests on: for a fixed source, the rate H(U) and H(X|X̂) - H(U|X̂) add up to H(X).
Alphabets are finite and tables exact, so that identities hold to rounding.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ._arrays import FloatArray, FloatOrArray, as_floats, scalar_or_array

__all__ = [
    "CodecSearch",
    "EntropyAccount",
    "conditional_entropy",
    "entropy",
    "entropy_account",
    "search_codecs",
]

IndexArray = npt.NDArray[np.int64]

#: Codecs that a search looks at, at most.
_MOST_CODECS = 200_000
#: Entropies of small alphabets that are nearer than this are equal but for rounding.
_TIE_BITS = 1e-9


def _table(value: npt.ArrayLike, name: str, axes: int) -> FloatArray:
    """A table of probabilities, normalised over its last axes."""
    table = as_floats(value, name, minimum=0.0)
    last = tuple(range(-axes, 0))
    if table.ndim < axes or not table.size:
        raise ValueError(
            f"{name} must have at least {axes} {'axis' if axes == 1 else 'axes'} and not be empty, "
            f"got the shape {table.shape}"
        )
    total = table.sum(axis=last, keepdims=True)
    if not (total > 0.0).all():
        raise ValueError(f"{name} must not be all zero")
    return np.asarray(table / total)


def _information(p: FloatArray, given: FloatArray | None = None) -> FloatArray:
    """p log2(given/p), and 0 where p is; no ratio is formed, which could overflow."""
    positive = p > 0.0
    bits = -np.log2(p, out=np.zeros(p.shape), where=positive)
    if given is not None:
        bits += np.log2(given, out=np.zeros(p.shape), where=positive)
    return np.asarray(p * bits)


def entropy(probabilities: npt.ArrayLike) -> FloatOrArray:
    """Entropy of a discrete variable.

    Parameters
    ----------
    probabilities : array_like
        (…, K) of its letters; they are normalised.

    Returns
    -------
    float or ndarray
        H in bits, (…).

    Raises
    ------
    ValueError
        If one is NaN, negative or infinite, or there is none above zero.

    Examples
    --------
    >>> entropy([0.5, 0.25, 0.25])
    1.5
    """
    return scalar_or_array(_information(_table(probabilities, "probabilities", 1)).sum(axis=-1))


def conditional_entropy(joint: npt.ArrayLike) -> FloatOrArray:
    """Entropy of one variable once another is known.

    Parameters
    ----------
    joint : array_like
        (…, K, L) probabilities of the letters of A and of B; they are normalised.

    Returns
    -------
    float or ndarray
        H(A|B) in bits, (…): exactly 0 where each letter of B leaves one of A.

    Raises
    ------
    ValueError
        If one is NaN, negative or infinite, or there is none above zero.

    Examples
    --------
    >>> conditional_entropy([[0.25, 0.0], [0.25, 0.5]])
    0.5
    """
    p = _table(joint, "joint", 2)
    given = np.broadcast_to(p.sum(axis=-2, keepdims=True), p.shape)
    return scalar_or_array(_information(p, given).sum(axis=(-2, -1)))


@dataclass(frozen=True)
class EntropyAccount:
    """Entropies of a source X, its index U and its reproduction X̂, in bits.

    Each is summed from its own joint table and none from the others, so that what the theorems say
    of them can fail. Every field is a float, or an array with one entry for each codec.
    """

    source_bits: FloatOrArray
    """H(X)."""
    index_bits: FloatOrArray
    """H(U): the rate."""
    reproduction_bits: FloatOrArray
    """H(X̂)."""
    source_given_index_bits: FloatOrArray
    """H(X|U)."""
    source_given_reproduction_bits: FloatOrArray
    """H(X|X̂): what the regulariser raises."""
    index_given_reproduction_bits: FloatOrArray
    """H(U|X̂), from 0 to H(U): what it leaves out; 0 where no two indices look alike."""

    @property
    def regulariser_bits(self) -> FloatOrArray:
        """H(X|X̂) - H(U|X̂): to raise it is to lower H(U) (theorem 2)."""
        return self.source_given_reproduction_bits - self.index_given_reproduction_bits

    @property
    def residual_bits(self) -> FloatOrArray:
        """H(U) - H(X) + H(X|X̂) - H(U|X̂): zero but for rounding (lemma 2)."""
        return self.index_bits - (self.source_bits - self.regulariser_bits)


def _map(value: npt.ArrayLike, name: str, letters: int | None) -> IndexArray:
    """A map (…, K) to whole numbers from 0 to `letters` - 1."""
    array = np.asarray(value)
    if array.dtype.kind not in "iu" or array.ndim == 0 or not array.size:
        raise ValueError(f"{name} must be whole numbers, one for each letter")
    low, high = int(array.min()), int(array.max())
    if low < 0 or (letters is not None and high >= letters):
        end = "" if letters is None else f" to {letters - 1}"
        raise ValueError(f"{name} must map to 0{end}, got {low if low < 0 else high}")
    return array.astype(np.int64, copy=False)


def _is(letters: IndexArray, count: int) -> FloatArray:
    """One-hot (…, K, count) of letters (…, K)."""
    return np.asarray(letters[..., None] == np.arange(count), dtype=np.float64)


def entropy_account(
    probabilities: npt.ArrayLike, encoder: npt.ArrayLike, decoder: npt.ArrayLike
) -> EntropyAccount:
    """Account for the entropies of a deterministic codec, or of many.

    Parameters
    ----------
    probabilities : array_like
        p(x), (K); they are normalised.
    encoder : array_like of int
        (…, K): the index of each letter, 0 … k - 1.
    decoder : array_like of int
        (…, k): the letter of the reproduction, from 0 on, that each index is decoded to. Leading
        axes broadcast against the encoder's.

    Returns
    -------
    EntropyAccount
        Of each codec.

    Raises
    ------
    ValueError
        If shapes do not fit, a probability is NaN or out of range, or a map is not of whole numbers
        in its range.

    Notes
    -----
    "An Information-Theoretic Regularizer for Lossy Neural Image Compression". Direct coding, where
    the decoder is one to one: H(U) = H(X̂) = H(X) - H(X|X̂) (lemma 1, theorem 1). Transform coding,
    whatever the decoder: H(U) = H(X) - [H(X|X̂) - H(U|X̂)] (lemma 2, theorem 2).

    Examples
    --------
    Indices 1 and 2 look alike, and one of them is wasted:

    >>> account = entropy_account([0.5, 0.25, 0.25], encoder=[0, 1, 2], decoder=[0, 1, 1])
    >>> account.index_bits, account.reproduction_bits, account.index_given_reproduction_bits
    (1.5, 1.0, 0.5)
    """
    p = _table(probabilities, "probabilities", 1)
    shown_as = _map(decoder, "decoder", None)
    index = _map(encoder, "encoder", shown_as.shape[-1])
    if p.ndim != 1 or index.shape[-1] != p.size:
        raise ValueError(f"encoder {index.shape} does not fit {p.shape} probabilities")
    try:
        lead = np.broadcast_shapes(index.shape[:-1], shown_as.shape[:-1])
    except ValueError:
        raise ValueError(
            f"encoders {index.shape} and decoders {shown_as.shape} do not broadcast"
        ) from None
    index = np.broadcast_to(index, (*lead, p.size))
    shown_as = np.broadcast_to(shown_as, (*lead, shown_as.shape[-1]))
    shown = np.take_along_axis(shown_as, index, axis=-1)
    # Letters that nothing maps to take no part, however large their numbers are.
    _, dense = np.unique(shown, return_inverse=True)
    shown = dense.reshape(shown.shape)
    to_index, to_shown = _is(index, shown_as.shape[-1]), _is(shown, int(shown.max()) + 1)
    with_index, with_shown = p[:, None] * to_index, p[:, None] * to_shown
    index_and_shown = np.swapaxes(to_index, -1, -2) @ with_shown
    full = np.full(lead, entropy(p))
    return EntropyAccount(
        source_bits=scalar_or_array(full),
        index_bits=entropy(with_index.sum(axis=-2)),
        reproduction_bits=entropy(with_shown.sum(axis=-2)),
        source_given_index_bits=conditional_entropy(with_index),
        source_given_reproduction_bits=conditional_entropy(with_shown),
        index_given_reproduction_bits=conditional_entropy(index_and_shown),
    )


@dataclass(frozen=True)
class CodecSearch:
    """All N codecs of a source that keep a distortion.

    What is preferred is a bool array (N), with everything that ties.
    """

    encoders: IndexArray
    """(N, K): the index of each letter."""
    decoders: IndexArray
    """(N, k): the reproduction of each index."""
    distortions: FloatArray
    """E ρ(X, X̂), (N)."""
    account: EntropyAccount
    """Entropies, each (N)."""

    @property
    def least_rate(self) -> npt.NDArray[np.bool_]:
        """Where H(U) is least."""
        return _greatest(-self.account.index_bits)

    @property
    def most_regular(self) -> npt.NDArray[np.bool_]:
        """Where H(X|X̂) - H(U|X̂) is greatest: the same codecs (theorem 2)."""
        return _greatest(self.account.regulariser_bits)

    @property
    def most_uncertain(self) -> npt.NDArray[np.bool_]:
        """Where H(X|X̂) alone is greatest: those codecs, and others that waste H(U|X̂) bits."""
        return _greatest(self.account.source_given_reproduction_bits)


def _greatest(bits: FloatArray) -> npt.NDArray[np.bool_]:
    return np.asarray(bits >= bits.max() - _TIE_BITS)


def search_codecs(
    probabilities: npt.ArrayLike, distortion: npt.ArrayLike, budget: float, indices: int
) -> CodecSearch:
    """Try every deterministic codec of a small source.

    Parameters
    ----------
    probabilities : array_like
        p(x), (K); they are normalised.
    distortion : array_like
        ρ >= 0, (K, L) for L letters of the reproduction.
    budget : float
        The largest E ρ(X, X̂) allowed.
    indices : int
        k, how many indices there are: k^K encoders, each with L^k decoders.

    Returns
    -------
    CodecSearch
        Those that keep the budget, with their entropies.

    Raises
    ------
    ValueError
        If shapes do not fit, a value is NaN or out of range, there are more than 200,000 codecs, or
        none keeps the budget.

    Notes
    -----
    Two indices that are decoded alike can be merged: X̂ stays as it is and H(U) falls. So where
    H(U) is least, H(U|X̂) = 0, and H(X|X̂) = H(X) - H(X̂) is greatest. The converse fails: H(X|X̂)
    does not see how many indices show the same, and H(U) exceeds its least by H(U|X̂) there.
    """
    p = _table(probabilities, "probabilities", 1)
    rho = as_floats(distortion, "distortion", minimum=0.0)
    if p.ndim != 1 or rho.ndim != 2 or rho.shape[0] != p.size or not rho.size:
        raise ValueError(f"distortion {rho.shape} does not fit {p.shape} probabilities")
    if indices < 1:
        raise ValueError(f"indices must be at least 1, got {indices}")
    if not budget >= 0.0:
        raise ValueError(f"budget must be at least 0, got {budget:g}")
    letters = rho.shape[1]
    if (count := indices**p.size * letters**indices) > _MOST_CODECS:
        raise ValueError(f"{count} codecs are more than {_MOST_CODECS}: take a smaller alphabet")
    encoders = _words(indices, p.size)
    decoders = _words(letters, indices)
    # Every encoder with every decoder: (encoders, decoders, K).
    shown = decoders[:, encoders].swapaxes(0, 1)
    found = (p * rho[np.arange(p.size), shown]).sum(axis=-1)
    kept = np.argwhere(found <= budget * (1.0 + 1e-12))
    if not len(kept):
        raise ValueError(f"no codec keeps a distortion of {budget:g}: least is {found.min():g}")
    first, second = encoders[kept[:, 0]], decoders[kept[:, 1]]
    return CodecSearch(
        first, second, found[kept[:, 0], kept[:, 1]], entropy_account(p, first, second)
    )


def _words(letters: int, length: int) -> IndexArray:
    """All words of a length, in order, (letters ** length, length)."""
    return np.array(list(itertools.product(range(letters), repeat=length)), dtype=np.int64)
