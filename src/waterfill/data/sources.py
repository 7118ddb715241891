"""Sources of vectors: those whose R(D) is known, and those that lie in files.

Distortion is the sum of squared errors of a vector and rates are in nats, at a slope λ in nats per
squared error; callers who want other units convert. A discrete source is its alphabet as unit
vectors, so that half the squared error is Hamming's distortion.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import special

from waterfill.data.idx import read_idx
from waterfill.data.images import find_images, load_picture
from waterfill.errors import WaterfillError
from waterfill.theory import reverse_waterfill

__all__ = [
    "Source",
    "banana",
    "beta",
    "cut_patches",
    "discrete",
    "from_array",
    "gaussian",
    "laplacian",
    "mnist",
    "patches",
    "sawbridge",
    "sphere",
]

Array = NDArray[np.float64]
Sampler = Callable[[int, np.random.Generator], Array]
#: (D, R) at a slope, or None where it is not known there.
Truth = Callable[[float], tuple[float, float] | None]

#: How far a sum of probabilities may be from 1: 3 × 0.333333 must pass.
_NOT_ONE = 1.01e-6
_LARGEST_ALPHABET = 4096
#: A slope of so little, in nats for a wrong letter, changes D and R in no digit that is shown.
_NO_SLOPE = 1e-9
#: Larger numbers have squares that are none.
_LARGEST_VALUE = 1e150
_BLOCK_BYTES = 1 << 22


@dataclass(frozen=True, eq=False)
class Source:
    """Random vectors of one law, for estimators of their rate–distortion function.

    Attributes
    ----------
    name
        What it is, for tables.
    dimension
        Length n of a vector.
    sample
        (count, generator) → float64 (count, n), to fit on.
    fresh
        The same from data that nothing was fitted on. A stored source gives at most
        the vectors it held back.
    entropy_nats
        Differential entropy h(X) where it is known: it gives Shannon's lower bound.
    truth
        The point of R(D) at a slope where theory knows it.
    alphabet
        Letters (K, n) and their probabilities (K) of a finite source.
    stored
        Vectors that there are, None for a law that never repeats itself.
    digest
        SHA-256 of those vectors, when asked for.
    caution
        What to know of intervals over its samples; may be empty.
    pictures
        Which picture each of the vectors comes of that ``fresh`` gives for the same arguments,
        (count); None where vectors are independent.
    """

    name: str
    dimension: int
    sample: Sampler
    fresh: Sampler
    entropy_nats: float | None = None
    truth: Truth = lambda slope: None
    alphabet: tuple[Array, Array] | None = None
    stored: int | None = None
    digest: Callable[[], str] | None = None
    caution: str = ""
    pictures: Callable[[int, np.random.Generator], NDArray[np.int64]] | None = None

    def shannon_bound(self, slope: float) -> tuple[float, float] | None:
        """Point (D, R) of Shannon's lower bound h(X) − (n/2) ln(2πe D/n) where its slope is −λ."""
        if self.entropy_nats is None:
            return None
        half = 0.5 * self.dimension
        return half / slope, self.entropy_nats - half * math.log(math.pi * math.e / slope)


def _digest(*vectors: NDArray[np.generic]) -> str:
    whole = hashlib.sha256()
    for some in vectors:
        whole.update(f"{some.dtype.str} {some.shape}\n".encode())
        for part in _blocks(some):
            whole.update(np.ascontiguousarray(part).tobytes())
    return whole.hexdigest()


def _blocks(vectors: NDArray[np.generic]) -> Iterator[NDArray[np.generic]]:
    """All rows, a few megabytes at a time: the array may lie in a file, and not fit into memory."""
    rows = max(1, _BLOCK_BYTES // max(1, vectors[0].nbytes))
    for start in range(0, len(vectors), rows):
        yield vectors[start : start + rows]


def _law(
    name: str,
    dimension: int,
    sample: Sampler,
    entropy_nats: float | None = None,
    truth: Truth = lambda slope: None,
) -> Source:
    return Source(name, dimension, sample, sample, entropy_nats, truth)


def gaussian(variances: Array, rotation: Array | None = None, name: str = "Gaussian") -> Source:
    """Gaussian vectors with zero mean: independent components, then an orthogonal matrix.

    Parameters
    ----------
    variances
        (n), above zero.
    rotation
        (n, n) orthogonal, or None.
    name
        For tables.

    Raises
    ------
    WaterfillError
        If a variance is not finite and above zero, or there is none.
    """
    v = np.asarray(variances, np.float64)
    if v.ndim != 1 or not v.size or not np.isfinite(v).all() or (v <= 0).any():
        raise WaterfillError("gaussian: variances must be finite and above zero")
    deviation = np.sqrt(v)

    def sample(count: int, rng: np.random.Generator) -> Array:
        x = rng.standard_normal((count, v.size)) * deviation
        return x if rotation is None else x @ rotation.T

    def truth(slope: float) -> tuple[float, float]:
        level = 0.5 / slope
        held = float(np.minimum(level, v).sum())
        if held >= v.sum():
            return float(v.sum()), 0.0
        return held, reverse_waterfill(v, distortion=held).bits * math.log(2.0)

    entropy = 0.5 * float(np.log(2 * math.pi * math.e * v).sum())
    return _law(name, v.size, sample, entropy, truth)


def laplacian(dimension: int = 1, scale: float = 1.0) -> Source:
    """Independent Laplacian components with density exp(−|x|/b)/2b."""
    return _law(
        f"Laplacian, n = {dimension}",
        dimension,
        lambda count, rng: rng.laplace(0.0, scale, (count, dimension)),
        dimension * math.log(2 * math.e * scale),
    )


def sphere(dimension: int = 2, noise: float = 0.1) -> Source:
    """Uniform on the unit sphere, plus Gaussian noise of variance ``noise``.

    Shannon's bound is attained at every slope of at least 1/(2·noise): what is left of the noise,
    added to the sphere, is then a law of reproductions.

    Raises
    ------
    WaterfillError
        If there are fewer than two dimensions.
    """
    if dimension < 2:
        raise WaterfillError("sphere: needs at least two dimensions")

    def sample(count: int, rng: np.random.Generator) -> Array:
        u = rng.standard_normal((count, dimension))
        u /= np.linalg.norm(u, axis=1, keepdims=True)
        return u + math.sqrt(noise) * rng.standard_normal((count, dimension))

    entropy = _entropy_of_noisy_sphere(dimension, noise)

    def truth(slope: float) -> tuple[float, float] | None:
        if slope * (1 + 1e-12) < 0.5 / noise:
            return None
        half = 0.5 * dimension
        return half / slope, entropy - half * math.log(math.pi * math.e / slope)

    return _law(f"noisy sphere, n = {dimension}", dimension, sample, entropy, truth)


def _entropy_of_noisy_sphere(dimension: int, noise: float) -> float:
    """By quadrature over the radius; the mean of exp(κ·u₁) on the sphere is a Bessel function."""
    half, spread = 0.5 * dimension, math.sqrt(noise)
    middle = math.sqrt(1.0 + noise * (dimension - 1))
    r = np.linspace(max(0.0, middle - 14.0 * spread), middle + 14.0 * spread, 20_001)[1:]
    kappa, order = r / noise, half - 1.0
    log_mean = special.gammaln(half) + order * np.log(2.0 / kappa) + _log_ive(order, kappa)
    log_p = -half * math.log(2 * math.pi * noise) - (r - 1.0) ** 2 / (2 * noise) + log_mean
    log_weight = log_p + (dimension - 1) * np.log(r)
    weight = np.exp(log_weight - log_weight.max())
    return -float(np.sum(weight * log_p) / np.sum(weight))


def _log_ive(order: float, x: Array) -> Array:
    """log(e^−x·I_order(x)) also where the function itself under- or overflows.

    References
    ----------
    NIST Digital Library of Mathematical Functions, 10.41.3 (Debye's expansion), 10.40.1, 10.25.2.
    """
    if order >= 60.0:
        t = x / order
        root = np.sqrt(1.0 + t * t)
        p = 1.0 / root
        first = (3.0 * p - 5.0 * p**3) / 24.0
        second = (81.0 * p**2 - 462.0 * p**4 + 385.0 * p**6) / 1152.0
        power = order * (1.0 / (root + t) - np.arcsinh(1.0 / t))
        series = np.log1p(first / order + second / order**2)
        return np.asarray(power - 0.5 * np.log(2 * math.pi * order * root) + series)
    # Each formula meets only what it is good for: neither is finite everywhere.
    near = x < 1e6 * (order**2 + 1.0)
    far = np.where(near, np.inf, x)
    asymptotic = -0.5 * np.log(2 * math.pi * far) + np.log1p((1.0 - 4.0 * order**2) / (8.0 * far))
    value = special.ive(order, np.where(near, x, 1.0))
    # Where that underflows, x is so small that the first term of its series is all there is.
    gone = value < 1e-290
    first = order * np.log(0.5 * x) - special.gammaln(order + 1.0) - x
    return np.where(near, np.where(gone, first, np.log(np.where(gone, 1.0, value))), asymptotic)


def banana() -> Source:
    """A bent Gaussian in the plane: N(0, diag(9, ¼)) sheared by a parabola and turned by 45°.

    The map keeps volumes, so that h(X) = ln(2πe) + ln 1.5 nats.
    """

    def sample(count: int, rng: np.random.Generator) -> Array:
        z = rng.standard_normal((count, 2)) * (3.0, 0.5)
        z[:, 1] += 0.2 * (z[:, 0] ** 2 - 9.0)
        turn = math.sqrt(0.5)
        return np.asarray(z @ np.array([[turn, turn], [-turn, turn]]))

    return _law("banana", 2, sample, math.log(2 * math.pi * math.e) + math.log(1.5))


def beta(a: float = 2.0, b: float = 2.0) -> Source:
    """One Beta variable on [0, 1]."""
    h = special.betaln(a, b) - (a - 1) * special.psi(a) - (b - 1) * special.psi(b)
    return _law(
        f"Beta({a:g}, {b:g})",
        1,
        lambda count, rng: rng.beta(a, b, (count, 1)),
        float(h + (a + b - 2) * special.psi(a + b)),
    )


def sawbridge(dimension: int = 1024) -> Source:
    """t − 1[t ≥ U] at n times t, with U uniform: a process with one degree of freedom."""
    t = (np.arange(dimension) + 0.5) / dimension
    return _law(
        f"sawbridge, n = {dimension}",
        dimension,
        lambda count, rng: np.asarray(t - (t >= rng.random((count, 1))), np.float64),
    )


def discrete(probabilities: Array) -> Source:
    """A finite alphabet with Hamming's distortion; letters are unit vectors.

    Raises
    ------
    WaterfillError
        If there are too few probabilities or too many, or they are not above zero with a sum of 1.
    """
    p = np.asarray(probabilities, np.float64)
    if p.ndim != 1 or not 2 <= p.size <= _LARGEST_ALPHABET:
        raise WaterfillError(f"discrete: needs from 2 to {_LARGEST_ALPHABET} probabilities")
    if not np.isfinite(p).all() or (p <= 0).any():
        raise WaterfillError("discrete: probabilities must be finite and above zero")
    if abs(p.sum() - 1.0) > _NOT_ONE:
        raise WaterfillError(f"discrete: probabilities sum to {p.sum():.7g} and not to 1")
    p = p / p.sum()
    letters = np.eye(p.size)

    def sample(count: int, rng: np.random.Generator) -> Array:
        return np.asarray(letters[rng.choice(p.size, count, p=p)])

    def truth(slope: float) -> tuple[float, float]:
        """Erokhin: letters at or below a level are never reproduced; the others share it."""
        gamma = math.exp(-2.0 * slope)  # e^{−λρ} for a wrong letter: two squared errors
        order = np.sort(p)[::-1]
        # Below, shares are differences from 1 over 1 − γ: nothing is left of them where γ is 1.
        for used in range(p.size if 1.0 - gamma > _NO_SLOPE else 1, 1, -1):
            rest = float(order[used:].sum())
            level = gamma * float(order[:used].sum()) / (1.0 + (used - 1) * gamma)
            q = (order[:used] * (1.0 + (used - 1) * gamma) / (1.0 - rest) - gamma) / (1.0 - gamma)
            if q[-1] > 0 and (used == p.size or order[used] <= level):
                mix = np.concatenate([gamma + q * (1.0 - gamma), np.full(p.size - used, gamma)])
                wrong = 1.0 - float(np.sum(order[:used] * q / mix[:used]))
                return 2.0 * wrong, -float(np.sum(order * np.log(mix))) - 2.0 * slope * wrong
        return 2.0 * float(order[1:].sum()), 0.0  # one letter alone

    name = f"discrete, {p.size} letters"
    return Source(name, p.size, sample, sample, None, truth, (letters, p))


def from_array(vectors: NDArray[np.generic], name: str = "array") -> Source:
    """Vectors of an array: five sixths to fit on, the others fresh.

    Parameters
    ----------
    vectors
        (count, …), finite numbers; axes after the first are made one. Of a memory-mapped file the
        rows that are asked for are read, when they are: it may be larger than memory.
    name
        For tables.

    Raises
    ------
    WaterfillError
        If there are fewer than twelve vectors, or values that are not finite real numbers.
    """
    raw = np.asarray(vectors)
    if raw.dtype.kind not in "iuf" or raw.ndim < 2:
        raise WaterfillError(f"{name}: needs an array of numbers with at least two axes")
    if len(raw) < 12:
        raise WaterfillError(f"{name}: holds {len(raw)} vectors; twelve are needed at least")
    if not raw[0].size:
        raise WaterfillError(f"{name}: its vectors have no numbers")
    kept = raw.reshape(len(raw), -1)
    if kept.dtype.kind == "f":
        largest = float(np.max([np.abs(part).max() for part in _blocks(kept)]))
        if not math.isfinite(largest):
            raise WaterfillError(f"{name}: holds values that are not finite")
        if largest > _LARGEST_VALUE:
            raise WaterfillError(f"{name}: holds values whose squares are beyond all numbers")
    order = np.random.default_rng(0).permutation(len(kept))
    split = len(kept) - len(kept) // 6
    fit, held = order[:split], order[split:]

    def sample(count: int, rng: np.random.Generator) -> Array:
        return np.asarray(kept[fit[rng.integers(0, len(fit), count)]], np.float64)

    def fresh(count: int, rng: np.random.Generator) -> Array:
        return np.asarray(kept[rng.permutation(held)[:count]], np.float64)

    return Source(
        name, kept.shape[1], sample, fresh, stored=len(kept), digest=lambda: _digest(kept)
    )


def mnist(path: str | os.PathLike[str]) -> Source:
    """Pictures of an IDX file as vectors of grey values in [0, 1]."""
    stack = read_idx(path)
    whole = from_array(stack, os.fspath(path))

    def scaled(draw: Sampler) -> Sampler:
        return lambda count, rng: draw(count, rng) / 255.0

    name = f"{Path(path).name}, n = {whole.dimension}"
    sample, fresh = scaled(whole.sample), scaled(whole.fresh)
    return Source(name, whole.dimension, sample, fresh, stored=whole.stored, digest=whole.digest)


def cut_patches(
    pixels: NDArray[np.uint8], size: int, count: int, rng: np.random.Generator, *, grey: bool
) -> Array:
    """Square patches of a picture at random places.

    Parameters
    ----------
    pixels
        uint8 (H, W, 3), neither side below ``size``.
    size
        Pixels along a side.
    count
        How many.
    rng
        Draws the places.
    grey
        Luma instead of three planes.

    Returns
    -------
    ndarray
        (count, planes × size × size), values in [0, 1].
    """
    values = pixels / 255.0
    if grey:
        values = values @ np.array([[0.299], [0.587], [0.114]])
    height, width, planes = values.shape
    view = np.lib.stride_tricks.sliding_window_view(values, (size, size), axis=(0, 1))
    rows, columns = (
        rng.integers(0, height - size + 1, count),
        rng.integers(0, width - size + 1, count),
    )
    return view[rows, columns].reshape(count, planes * size * size)


def patches(
    path: str | os.PathLike[str], size: int = 8, grey: bool = True, count: int = 60_000
) -> Source:
    """Square patches of a folder's pictures, values in [0, 1].

    Fresh patches come from pictures of their own, every sixth, so that no picture is on both sides.

    Parameters
    ----------
    path
        A folder, or a glob; two pictures at least.
    size
        Pixels along a side. It is part of the result: a limit on patches is not one on pictures.
    grey
        Luma instead of three planes.
    count
        Patches in memory, for both sides.

    Raises
    ------
    ImageError
        As :func:`~waterfill.data.images.find_images`, or if a picture can't be read.
    WaterfillError
        If too few pictures are large enough for a patch.
    """
    files = find_images([path])
    if len(files) < 2:
        raise WaterfillError(f"{path}: patches need two pictures, one of them to check on")
    rng = np.random.default_rng(0)
    sides: dict[bool, list[Array]] = {False: [], True: []}
    for number, file in enumerate(files):
        pixels = load_picture(file).pixels
        if min(pixels.shape[:2]) < size:
            continue
        many = -(-count // len(files))
        found = cut_patches(pixels, size, many, rng, grey=grey)
        sides[number % 6 == 1].append(found)
    if not sides[False] or not sides[True]:
        raise WaterfillError(f"{path}: too few pictures of at least {size}×{size}")
    fit, held = np.concatenate(sides[False]), np.concatenate(sides[True])

    def sample(count: int, rng: np.random.Generator) -> Array:
        return np.asarray(fit[rng.integers(0, len(fit), count)])

    sizes = [len(part) for part in sides[True]]
    origin = np.repeat(np.arange(len(sizes)), sizes)

    def fresh(count: int, rng: np.random.Generator) -> Array:
        return np.asarray(held[rng.permutation(len(held))[:count]])

    def pictures(count: int, rng: np.random.Generator) -> NDArray[np.int64]:
        return np.asarray(origin[rng.permutation(len(held))[:count]])

    name = f"{size}×{size} patches of {Path(path).name or path}"
    return Source(
        name,
        fit.shape[1],
        sample,
        fresh,
        stored=len(fit) + len(held),
        digest=lambda: _digest(fit, held),
        caution="patches of a picture are alike: for other pictures the interval is too narrow",
        pictures=pictures,
    )
