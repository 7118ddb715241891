"""A law of reproductions on finitely many atoms, scored on samples that it was not fitted to."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from waterfill.data.sources import Source
from waterfill.estimators.curve import Status
from waterfill.estimators.method import FRESH, Finding, Interval, Run, fresh_interval
from waterfill.estimators.softmax import means

__all__ = ["score"]


def score(
    source: Source,
    atoms: Tensor,
    log_weights: Tensor,
    slope: float,
    run: Run,
    *,
    samples: int,
    certificate: Interval | None = None,
) -> Finding:
    """The upper bound that fixed atoms give.

    For any law ν, E KL(Q(·|X) ‖ ν) ≥ I(X; Y), so that (D, F − λD) lies on or above R(D); with
    fixed atoms and fresh samples F and D are plain means. Of atoms with equal weights R ≤ ln n,
    whatever the source; with unequal ones that holds where ν is the law of Y, and samples that
    fall to rare atoms more often than those that were fitted cost up to −ln of the least weight.

    Parameters
    ----------
    source
        Draws what it is scored on.
    atoms, log_weights
        (n, d) and ln w (n), normalised; on the run's device.
    slope
        Nats per squared error.
    run
        Seed and device.
    samples
        How many to draw; a source that is stored may have fewer.
    certificate
        Of the finite problem that the atoms came from.

    Raises
    ------
    OverflowError
        If rounding could take a nat or more from λ‖x − y‖².
    """
    x = run.tensor(source.fresh(samples, run.rng(FRESH))).to(atoms.dtype)
    # Distances are differences of squares, whose rounding λ makes larger.
    farthest = float((x - atoms.mean(0)).square().sum(1).max())
    if slope * farthest * torch.finfo(x.dtype).eps > 1.0:
        raise OverflowError("λ‖x − y‖² is lost in rounding")
    log_sum, _, errors = means(x, atoms, slope, log_weights)
    lagrangian, interval, pictures = fresh_interval(-log_sum, source, run)
    return Finding(
        Status.UPPER,
        slope,
        float(errors.double().mean()),
        lagrangian,
        interval,
        ceiling=math.log(len(atoms)),
        certificate=certificate,
        samples=len(x),
        most=-float(log_weights.min()),
        pictures=pictures,
    )
