"""Eigenvectors: found, also where single precision doesn't find them."""

from __future__ import annotations

import pytest
import torch

from waterfill.eigen import symmetric_eigen


def gradients(seed: int) -> torch.Tensor:
    """Second moment of small gradients of a layer that sees one channel of three."""
    rows = torch.zeros(27, 3)
    rows[::3] = 1e-5 * torch.randn(9, 3, generator=torch.Generator().manual_seed(seed))
    return rows @ rows.T


def test_eigenvectors_are_found_where_most_of_a_small_matrix_is_zero() -> None:
    for seed in range(300):
        matrix = gradients(seed)
        values, vectors = symmetric_eigen(matrix)
        assert values.dtype == vectors.dtype == matrix.dtype
        assert bool((values.diff() >= 0).all())
        torch.testing.assert_close(vectors.T @ vectors, torch.eye(27), atol=1e-5, rtol=0)
        again = (vectors * values) @ vectors.T
        torch.testing.assert_close(again / matrix.max(), matrix / matrix.max(), atol=1e-5, rtol=0)


@pytest.mark.parametrize("fails", ["raises", "gives NaN"])
def test_double_precision_takes_over(monkeypatch: pytest.MonkeyPatch, fails: str) -> None:
    plain = torch.linalg.eigh

    def broken(matrix: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        if matrix.dtype == torch.float32:
            if fails == "raises":
                raise torch.linalg.LinAlgError("did not converge")
            return matrix[0], torch.full_like(matrix, torch.nan)
        values, vectors = plain(matrix)
        return values, vectors

    monkeypatch.setattr(torch.linalg, "eigh", broken)
    values, vectors = symmetric_eigen(torch.diag(torch.tensor([2.0, 1.0])))
    assert values.tolist() == [1.0, 2.0]
    assert vectors.abs().tolist() == [[0.0, 1.0], [1.0, 0.0]]


def test_of_what_is_no_number_nothing_is_found() -> None:
    values, vectors = symmetric_eigen(torch.full((3, 3), torch.inf))
    assert bool(values.isnan().all())
    assert bool(vectors.isnan().all())
