"""Blocks change nothing; what comes out is what the dense formulas say."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from waterfill.estimators.softmax import assign, log_partition, means, posteriors


def data(m: int = 50, n: int = 7, d: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(0)
    x, y = (torch.randn(k, d, generator=g, dtype=torch.float64) for k in (m, n))
    w = torch.randn(n, generator=g, dtype=torch.float64)
    return x, y, torch.log_softmax(w, 0)


def dense(x: Tensor, y: Tensor, slope: float, log_w: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    rho = torch.cdist(x, y).square()
    scores = log_w - slope * rho
    return scores.logsumexp(1), scores.softmax(1), rho


@pytest.mark.parametrize("block", [1, 20, 1 << 20])
@pytest.mark.parametrize("slope", [0.1, 3.0, 1e4])
def test_against_the_dense_formulas(block: int, slope: float) -> None:
    x, y, log_w = data()
    log_sum, q, rho = dense(x, y, slope, log_w)
    found = assign(x, y, slope, log_w, block=block)
    torch.testing.assert_close(found.log_sum, log_sum, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(found.mass, q.mean(0), rtol=1e-8, atol=1e-12)
    torch.testing.assert_close(found.moment, q.T @ x / len(x), rtol=1e-8, atol=1e-10)
    log_two, centre, errors = means(x, y, slope, log_w, block=block)
    torch.testing.assert_close(log_two, log_sum)
    torch.testing.assert_close(centre, q @ y, rtol=1e-8, atol=1e-9)
    torch.testing.assert_close(errors, (q * rho).sum(1), rtol=1e-7, atol=1e-9)
    torch.testing.assert_close(log_partition(x, y, slope, log_w, block=block), log_sum)


def test_no_more_than_a_block_exists_at_once() -> None:
    x, y, log_w = data()
    for rows, _, q in posteriors(x, y, 1.0, log_w, block=20):
        assert q.numel() <= 20
        assert rows.stop - rows.start <= 2


def test_what_an_atom_gets_is_the_gradient() -> None:
    x, y, log_w = data()
    y.requires_grad_()
    (-dense(x, y, 2.0, log_w)[0].mean()).backward()
    share = assign(x, y.detach(), 2.0, log_w)
    gradient = 2.0 * 2.0 * (share.mass[:, None] * y.detach() - share.moment)
    assert y.grad is not None
    torch.testing.assert_close(gradient, y.grad, rtol=1e-7, atol=1e-9)


def test_far_away_nothing_overflows() -> None:
    x, y, log_w = data()
    found = means(x + 1e4, y, 100.0, log_w)
    assert all(torch.isfinite(part).all() for part in found)


def test_what_all_vectors_have_in_common_costs_no_digits() -> None:
    x, y, log_w = (part.float() for part in data(m=200, d=100))
    near, centre, errors = means(x, y, 5.0, log_w)
    far = means(x + 300.0, y + 300.0, 5.0, log_w)
    # What is left is the rounding of the vectors themselves, 2e-5 of each number.
    torch.testing.assert_close(far[0], near, rtol=0.0, atol=0.1)
    torch.testing.assert_close(far[1], centre + 300.0, rtol=0.0, atol=0.02)
    torch.testing.assert_close(far[2], errors, rtol=0.0, atol=0.02)
