"""Sources have the moments, entropies and true curves that they say; bad names get one line."""

from __future__ import annotations

import gzip
import math
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from waterfill.data import sources
from waterfill.data.source_names import open_source
from waterfill.errors import WaterfillError
from waterfill.theory import blahut_arimoto, gaussian_rate

SPECS = [
    "gaussian", "gaussian:var=1.2+0.8", "gaussian:n=6,decay=0.5", "gaussian:n=3,rho=0.9",
    "gaussian:n=4,spread=2", "laplacian:n=2,scale=0.5", "sphere:n=3,noise=0.1", "banana",
    "beta:a=2,b=3", "sawbridge:n=16", "discrete:p=0.5+0.3+0.2",
    "discrete:p=0.333333+0.333333+0.333333",
]  # fmt: skip


@pytest.mark.parametrize("spec", SPECS)
def test_same_seed_same_samples(spec: str) -> None:
    source = open_source(spec)
    a, b = (source.sample(50, np.random.default_rng(3)) for _ in range(2))
    assert a.shape == (50, source.dimension)
    np.testing.assert_array_equal(a, b)
    assert np.isfinite(a).all()


def test_truth_of_a_gaussian() -> None:
    d, nats = open_source("gaussian:var=1.20552675+1.08976637").truth(1.5)
    assert d / 2 == pytest.approx(1 / 3)
    assert nats == pytest.approx(1.23505, abs=1e-5)
    # Above all variances nothing is sent.
    assert open_source("gaussian:n=3").truth(0.1) == (3.0, 0.0)


def test_deviations_that_decay() -> None:
    powers = 4.0 * np.exp(-2.0 * 0.7 * np.arange(4))
    x = open_source("gaussian:n=4,decay=0.7").sample(100_000, np.random.default_rng(0))
    np.testing.assert_allclose(np.linalg.eigvalsh(np.cov(x.T))[::-1], powers, rtol=0.05)


def test_correlated_neighbours() -> None:
    x = open_source("gaussian:n=3,rho=0.9").sample(100_000, np.random.default_rng(0))
    np.testing.assert_allclose(np.cov(x.T), 0.9 ** np.abs(np.subtract.outer(*[np.arange(3)] * 2)),
                               atol=0.02)  # fmt: skip


@pytest.mark.parametrize("dimension", [2, 3, 121, 122, 1000, 5000])
@pytest.mark.parametrize("noise", [1e-10, 0.1, 10.0, 1000.0])
def test_the_entropy_of_a_noisy_sphere_in_any_dimension(dimension: int, noise: float) -> None:
    """Below a Gaussian's of the same power; where noise is slight, that of shell and noise."""
    entropy = open_source(f"sphere:n={dimension},noise={noise}").entropy_nats
    assert entropy is not None
    power = 1.0 / dimension + noise
    gaussian = 0.5 * dimension * math.log(2 * math.pi * math.e * power)
    assert entropy <= gaussian + 1e-6 * abs(gaussian)
    if noise >= 10.0:
        assert entropy == pytest.approx(gaussian, rel=1e-4)
    if noise * dimension < 1e-6:
        half = 0.5 * dimension
        surface = math.log(2.0) + half * math.log(math.pi) - math.lgamma(half)
        thin = surface + 0.5 * math.log(2 * math.pi * math.e * noise)
        assert entropy == pytest.approx(thin, rel=1e-6)


@pytest.mark.parametrize(
    ("n", "nats", "tolerance"), [(2, 1.5394, 0.0025), (5, 2.6807, 0.004), (10, 3.4488, 0.006)]
)
def test_truth_of_a_noisy_sphere(n: int, nats: float, tolerance: float) -> None:
    """The published values are Monte Carlo's, with an error in the fourth digit."""
    d, rate = open_source(f"sphere:n={n}").truth(5.0)
    assert d == pytest.approx(0.1 * n)
    assert rate == pytest.approx(nats, abs=tolerance)
    assert open_source(f"sphere:n={n}").truth(4.9) is None


def test_shannons_bound_of_a_gaussian_is_its_curve() -> None:
    source = open_source("gaussian:n=2")
    d, nats = source.shannon_bound(5.0)
    assert nats / math.log(2) == pytest.approx(2 * gaussian_rate(1.0, d / 2))


@pytest.mark.parametrize("spec", ["laplacian", "beta"])
def test_entropies_by_histogram(spec: str) -> None:
    source = open_source(spec)
    x = source.sample(400_000, np.random.default_rng(0))
    p, edges = np.histogram(x, 300, density=True)
    width = edges[1] - edges[0]
    p = p[p > 0]
    assert -np.sum(p * np.log(p)) * width == pytest.approx(source.entropy_nats, abs=0.01)


def test_the_banana_is_a_bent_gaussian() -> None:
    x = open_source("banana").sample(100_000, np.random.default_rng(0))
    turned = x @ np.array([[1, -1], [1, 1]]) / math.sqrt(2)
    straight = turned - 0.2 * np.stack([0 * turned[:, 0], turned[:, 0] ** 2 - 9], 1)
    np.testing.assert_allclose(np.cov(straight.T), np.diag([9.0, 0.25]), atol=0.1)


@pytest.mark.parametrize("slope", [0.3, 0.8, 1.5, 4.0])
def test_truth_of_a_discrete_source_is_blahut_arimotos(slope: float) -> None:
    p = np.array([0.5, 0.3, 0.15, 0.05])
    d, nats = sources.discrete(p).truth(slope)
    point = blahut_arimoto(p, 2.0 * (1.0 - np.eye(4)), slope, tolerance_bits=1e-9)
    assert (nats + slope * d) / math.log(2) == pytest.approx(point.lagrangian_bits[1], abs=1e-8)


@pytest.mark.parametrize("spec", ["discrete:p=0.5+0.3+0.2", "discrete:p=0.25+0.25+0.25+0.25"])
@pytest.mark.parametrize("slope", [1e-30, 1e-17, 1e-16, 3e-10, 1e-9])
def test_at_next_to_no_slope_one_letter_is_all_that_is_said(spec: str, slope: float) -> None:
    source = open_source(spec)
    assert source.alphabet is not None
    assert source.truth(slope) == pytest.approx((2.0 * (1.0 - source.alphabet[1].max()), 0.0))


def test_vectors_held_back_are_no_others() -> None:
    source = sources.from_array(np.arange(60.0)[:, None])
    fit = set(source.sample(5000, np.random.default_rng(0))[:, 0])
    fresh = set(source.fresh(5000, np.random.default_rng(0))[:, 0])
    assert len(fresh) == 10
    assert not fit & fresh


def test_files(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    stack = rng.integers(0, 256, (30, 4, 5), dtype=np.uint8)
    header = b"\0\0\x08\x03" + b"".join(n.to_bytes(4, "big") for n in stack.shape)
    idx = tmp_path / "some-idx3-ubyte.gz"
    idx.write_bytes(gzip.compress(header + stack.tobytes()))
    assert open_source(idx).dimension == 20
    assert open_source(idx).sample(9, rng).max() <= 1.0
    np.save(tmp_path / "a.npy", rng.standard_normal((40, 3)))
    assert open_source(tmp_path / "a.npy").dimension == 3
    for name in ("a", "b", "c"):
        Image.fromarray(rng.integers(0, 256, (20, 20, 3), dtype=np.uint8)).save(
            tmp_path / f"{name}.png"
        )
    assert open_source(f"{tmp_path},size=4").dimension == 16
    assert open_source(f"{tmp_path},size=4,grey=0").dimension == 48


def test_a_numpy_file_need_not_fit_into_memory(tmp_path: Path) -> None:
    path, rows, columns = tmp_path / "large.npy", 20_000, 400
    large = np.lib.format.open_memmap(path, "w+", np.float64, (rows, columns))
    large[:] = np.arange(rows)[:, None]
    large.flush()
    del large
    tracemalloc.start()
    source = open_source(path)
    assert source.digest is not None
    same = source.digest() == sources.from_array(np.load(path, mmap_mode="r")).digest()  # type: ignore[misc]
    drawn = source.sample(100, np.random.default_rng(0))
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert same
    assert most < path.stat().st_size / 4
    assert (drawn == drawn[:, :1]).all()
    whole = np.load(path)
    assert source.digest() == sources.from_array(whole).digest()  # type: ignore[misc]
    whole[-1, -1] = np.nan
    with pytest.raises(WaterfillError, match="not finite"):
        sources.from_array(whole)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("cauchy", "no source of this name"), ("gaussian:m=2", "no setting m"),
        ("gaussian:n=0", "from 1 to 65536, not 0"),
        ("gaussian:n=nan", "not nan"), ("gaussian:n=1.5", "whole"),
        ("gaussian:n=2,var=1+1+1", "3 var"),
        ("laplacian:scale=0", "scale=0 must be above 0"), ("beta:a=inf", "a=inf must be"),
        ("sphere:noise=-1", "noise=-1 must be above 0"),
        ("gaussian:var=nan", "above"), ("gaussian:var=x", "number"), ("gaussian:n", "key=value"),
        ("gaussian:n=1,n=2", "once"), ("gaussian:n=2,rho=1", "between"), ("sphere:n=1", "two"),
        ("gaussian:n=2,rho=0.1,decay=1", "together"), ("discrete:p=1", "2 to"),
        ("discrete:p=0.5+0.3", "sum to 0.8"), ("discrete:p=0.5+0.50001", "sum to 1.00001"),
        ("no/such/file.npy", "no such file"), ("gaussian:n=9999999", "from 1 to"),
        ("gaussian:n=4,var=3,decay=0.5", "decay and var"), ("gaussian:var=3,spread=1", "and var"),
    ],
)  # fmt: skip
def test_bad_names_get_one_line(spec: str, message: str) -> None:
    with pytest.raises(WaterfillError, match=message) as caught:
        open_source(spec)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.full((20, 2), np.nan), "finite"), (np.zeros(20), "axes"), (np.zeros((3, 2)), "twelve"),
        (np.array([["a", "b"]] * 20), "numbers"), (np.zeros((20, 0)), "have no numbers"),
        (np.full((20, 2), 1e200), "beyond all numbers"),
        (np.append(np.zeros((20, 2)), [[1.0, np.nan]], 0).astype(np.float32), "finite"),
    ],
)  # fmt: skip
def test_bad_arrays_get_one_line(array: np.ndarray, message: str) -> None:
    with pytest.raises(WaterfillError, match=message):
        sources.from_array(array)


def test_objects_in_a_numpy_file_are_not_unpacked(tmp_path: Path) -> None:
    np.save(tmp_path / "o.npy", np.array([{}] * 20, dtype=object), allow_pickle=True)
    with pytest.raises(WaterfillError, match="can't be read"):
        open_source(tmp_path / "o.npy")
