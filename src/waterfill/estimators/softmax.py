"""Which of many atoms each sample would be coded by, in blocks: no m × n matrix lies in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["BLOCK", "Assignment", "assign", "log_partition", "means", "posteriors"]

#: Elements of a block: 64 MiB of float32. Rows enough for the matrix product to run at full speed.
BLOCK = 1 << 24


def posteriors(
    x: Tensor, y: Tensor, slope: float, log_weights: Tensor, *, block: int = BLOCK
) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """Q(j | x_i) ∝ w_j exp(−λ‖x_i − y_j‖²), a few rows at a time.

    Parameters
    ----------
    x
        Samples, (m, d).
    y
        Atoms, (n, d).
    slope
        λ > 0, in nats per squared error.
    log_weights
        ln w, (n); not necessarily normalised.
    block
        Most elements of the matrix that exist at once; one row at least does.

    Yields
    ------
    tuple
        Rows; ln Σ_j w_j exp(−λ‖x_i − y_j‖²) of each (r); and Q (r, n), whose memory the next block
        takes again.
    """
    # Distances are differences of squares: far from the origin nothing would be left of them.
    origin = y.mean(0)
    y = y - origin
    bias = log_weights - slope * y.square().sum(1)
    y_t = y.T
    rows = max(1, min(len(x), block // len(y)))
    memory = x.new_empty(rows, len(y))
    for start in range(0, len(x), rows):
        part = x[start : start + rows] - origin
        scores = memory[: len(part)]
        torch.addmm(bias, part, y_t, alpha=2.0 * slope, out=scores)
        top = scores.amax(1, keepdim=True)
        scores.sub_(top).exp_()
        total = scores.sum(1, keepdim=True)
        scores.div_(total)
        log_sum = (top + total.log()).squeeze(1) - slope * part.square().sum(1)
        yield slice(start, start + len(part)), log_sum, scores


def log_partition(
    x: Tensor, y: Tensor, slope: float, log_weights: Tensor, *, block: int = BLOCK
) -> Tensor:
    """ln Σ_j w_j exp(−λ‖x_i − y_j‖²), (m); arguments as in :func:`posteriors`."""
    return torch.cat(
        [log_sum for _, log_sum, _ in posteriors(x, y, slope, log_weights, block=block)]
    )


def means(
    x: Tensor, y: Tensor, slope: float, log_weights: Tensor, *, block: int = BLOCK
) -> tuple[Tensor, Tensor, Tensor]:
    """ln Σ as in :func:`log_partition`, with Σ_j Q y_j (m, d) and Σ_j Q ‖x_i − y_j‖² (m)."""
    origin = y.mean(0)
    y = y - origin
    squares = y.square().sum(1)
    logs, centres, errors = [], [], []
    for rows, log_sum, q in posteriors(x - origin, y, slope, log_weights, block=block):
        centre = q @ y
        spread = q @ squares - centre.square().sum(1)
        logs.append(log_sum)
        centres.append(centre + origin)
        errors.append(spread.clamp_min(0.0) + (x[rows] - origin - centre).square().sum(1))
    return torch.cat(logs), torch.cat(centres), torch.cat(errors)


@dataclass(frozen=True)
class Assignment:
    """What the atoms get of a set of samples.

    Attributes
    ----------
    log_sum
        ln Σ_j w_j exp(−λ‖x_i − y_j‖²) of each sample, (m).
    mass
        Mean of Q(j | x_i) over the samples, (n).
    moment
        Mean of Q(j | x_i) x_i, (n, d).
    """

    log_sum: Tensor
    mass: Tensor
    moment: Tensor


def assign(
    x: Tensor,
    y: Tensor,
    slope: float,
    log_weights: Tensor,
    *,
    block: int = BLOCK,
    check: Callable[[], None] = lambda: None,
) -> Assignment:
    """Sums over the samples for each atom; ``check`` is called between blocks."""
    mass, moment = torch.zeros_like(log_weights), torch.zeros_like(y)
    logs = []
    for rows, log_sum, q in posteriors(x, y, slope, log_weights, block=block):
        logs.append(log_sum)
        mass += q.sum(0)
        moment.addmm_(q.T, x[rows])
        check()
    return Assignment(torch.cat(logs), mass / len(x), moment / len(x))
