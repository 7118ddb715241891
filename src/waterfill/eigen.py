"""Eigenvectors of symmetric matrices, also where a library does not find them."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["symmetric_eigen"]


def symmetric_eigen(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues of a symmetric matrix, rising, and its eigenvectors.

    In single precision LAPACK may not converge, or give what is no number, where the values are
    small and many of them zero: such a matrix is decomposed in double precision.

    Parameters
    ----------
    matrix
        (n, n), symmetric.

    Returns
    -------
    values, vectors
        (n), and (n, n) in columns, in the type of the matrix. NaN if one of its values is not
        finite.
    """
    if not bool(matrix.isfinite().all()):
        return torch.full_like(matrix[0], torch.nan), torch.full_like(matrix, torch.nan)
    try:
        values, vectors = torch.linalg.eigh(matrix)
    except torch.linalg.LinAlgError:  # type: ignore[attr-defined]
        found = False
    else:
        found = bool(vectors.isfinite().all())
    if not found:
        values, vectors = torch.linalg.eigh(matrix.double())
    return values.to(matrix.dtype), vectors.to(matrix.dtype)
