"""Blahut–Arimoto on the source's own alphabet, on a grid, or with a support that is given."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_array

from waterfill.data.sources import Source
from waterfill.errors import WaterfillError
from waterfill.estimators.atoms import score
from waterfill.estimators.curve import Status
from waterfill.estimators.method import Finding, Run, SlopeBySlope
from waterfill.theory.blahut_arimoto import BlahutArimoto, Kernel, solve_kernel

__all__ = ["BlahutArimotoGrid"]

Array = NDArray[np.float64]

_LN2 = math.log(2.0)
#: Likelihoods below e^−CUT are left out; the certificate is charged for them.
_CUT = 60.0
#: Elements of a dense block, and of a kernel altogether.
_BLOCK, _LARGEST = 1 << 22, 1 << 26
_DIMENSIONS = 3


@dataclass(frozen=True)
class BlahutArimotoGrid(SlopeBySlope):
    """The convex problem on finite alphabets, with bounds from both sides.

    A finite source is solved exactly. Of any other, samples fall into cells whose means are the
    source's letters; the law of reproductions that is best for them is then scored on fresh
    samples, which makes it an upper bound for the source itself. The certificate is the finite
    problem's.

    It is solved on the processor, whatever the run's device: kernels are sparse matrices of SciPy.
    The score alone is read on the device.

    Attributes
    ----------
    cells
        How many in all, the same along each dimension.
    support
        ``grid``: reproductions are the cells' centres. ``data``: they are ``atoms`` samples, in any
        dimension, and the source's letters are ``letters`` others.
    letters, atoms
        Sizes for ``data``.
    tolerance_bits
        At which the certificate has closed.
    iterations
        Most maps.
    histogram, samples
        Samples to fill the cells with, and fresh ones to score on.

    Raises
    ------
    WaterfillError
        For an unknown ``support``.
    """

    cells: int = 1600
    support: str = "grid"
    letters: int = 4000
    atoms: int = 1000
    tolerance_bits: float = 2e-3
    iterations: int = 600
    histogram: int = 200_000
    samples: int = 50_000

    name = "ba"

    def __post_init__(self) -> None:
        if self.support not in ("grid", "data"):
            raise WaterfillError(f"ba: support must be grid or data, not {self.support!r}")

    def check(self, source: Source, slopes: Sequence[float]) -> None:
        """Refuse a grid in many dimensions."""
        n = source.dimension
        if source.alphabet is None and self.support == "grid" and n > _DIMENSIONS:
            raise WaterfillError(
                f"ba: a grid in {n} dimensions is out of reach (at most {_DIMENSIONS}); "
                "use --set support=data"
            )

    def at(self, source: Source, slope: float, run: Run) -> Sequence[Finding]:
        """One upper bound with its certificate."""
        if source.alphabet is not None:
            letters, p = source.alphabet
            return [self._exact(self._solve(p, letters, letters, slope, run), slope)]
        rng = run.rng(2)
        if self.support == "data":
            y = source.sample(self.atoms, rng)
            x = source.sample(self.letters, rng)
            p = np.full(len(x), 1.0 / len(x))
        else:
            x, p, y = self._cells(source, rng)
        found = self._solve(p, x, y, slope, run)
        certificate = (found.lagrangian_bits[0] * _LN2, found.lagrangian_bits[1] * _LN2)
        keep = found.reproduction > 1e-12
        weights = torch.from_numpy(found.reproduction[keep] / found.reproduction[keep].sum())
        atoms = run.tensor(y[keep])
        return [
            score(
                source,
                atoms,
                weights.to(atoms).log(),
                slope,
                run,
                samples=self.samples,
                certificate=certificate,
            )
        ]

    def _exact(self, found: BlahutArimoto, slope: float) -> Finding:
        lower, upper = (_LN2 * bound for bound in found.lagrangian_bits)
        return Finding(
            Status.UPPER,
            slope,
            found.distortion,
            upper,
            ceiling=math.log(len(found.reproduction)),
            certificate=(lower, upper),
        )

    def _cells(self, source: Source, rng: np.random.Generator) -> tuple[Array, Array, Array]:
        """Means of the cells that hold samples, their shares, and centres of all cells."""
        n = source.dimension
        bins = max(2, round(self.cells ** (1.0 / n)))
        x = source.sample(self.histogram, rng)
        low, high = x.min(0), x.max(0)
        width = np.maximum((high - low) / bins, 1e-300)
        index = np.minimum(((x - low) / width).astype(np.int64), bins - 1)
        cell = np.ravel_multi_index(tuple(index.T), (bins,) * n)
        _, place, count = np.unique(cell, return_inverse=True, return_counts=True)
        mean = np.stack([np.bincount(place, x[:, k]) for k in range(n)], 1) / count[:, None]
        axes = [low[k] + (np.arange(bins) + 0.5) * width[k] for k in range(n)]
        y = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, n)
        return mean, count / count.sum(), y

    def _solve(self, p: Array, x: Array, y: Array, slope: float, run: Run) -> BlahutArimoto:
        return solve_kernel(
            p,
            sparse_kernel(x, y, slope),
            slope,
            tolerance_bits=self.tolerance_bits,
            iterations=self.iterations,
            progress=lambda done, gap: run.progress(
                done, self.iterations, f"ba, λ = {slope:.4g}, gap {gap:.2g} bit"
            ),
        )


def sparse_kernel(x: Array, y: Array, slope: float) -> Kernel:
    """e^{−λ‖x − y‖²}, as a sparse matrix if most of it would underflow.

    Raises
    ------
    WaterfillError
        If what is left would not fit in memory.
    """
    rows = max(1, _BLOCK // len(y))
    parts: list[tuple[csr_array, csr_array]] = []
    least = np.empty(len(x))
    stored = 0
    squares = (y * y).sum(1)
    for start in range(0, len(x), rows):
        some = x[start : start + rows]
        rho = np.maximum((some * some).sum(1)[:, None] - 2.0 * (some @ y.T) + squares, 0.0)
        low = rho.min(1)
        least[start : start + rows] = low
        exponent = slope * (rho - low[:, None])
        likelihood = np.where(exponent < _CUT, np.exp(-exponent), 0.0)
        parts.append((csr_array(likelihood), csr_array(likelihood * rho)))
        stored += parts[-1][0].nnz
        if stored > _LARGEST:
            raise WaterfillError("ba: too many letters for this slope; use fewer cells")
    from scipy.sparse import vstack

    likelihood = vstack([a for a, _ in parts], "csr")
    weighted = vstack([b for _, b in parts], "csr")
    if stored > 0.25 * len(x) * len(y):
        return Kernel(likelihood.toarray(), weighted.toarray(), slope * least, math.exp(-_CUT))
    return Kernel(likelihood, weighted, slope * least, math.exp(-_CUT))
