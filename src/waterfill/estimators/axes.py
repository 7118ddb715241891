"""Principal axes of samples: where every Gaussian start of an estimator comes from."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from waterfill.eigen import symmetric_eigen

__all__ = ["MOST_DIMENSIONS", "PrincipalAxes", "principal_axes"]

#: Dimensions of which principal axes are found: matrices of a gigabyte, in single precision.
MOST_DIMENSIONS = 16_384
#: Correlations below so many of their own standard errors are taken for none.
_SIGNIFICANT = 5.0


class PrincipalAxes(NamedTuple):
    """Mean of samples, and the eigenvectors of their covariance.

    Attributes
    ----------
    centre
        Mean, (d).
    variances
        Along the axes, (d), rising. Rounding may leave the smallest just below zero.
    vectors
        The axes, (d, d) in columns.
    """

    centre: Tensor
    variances: Tensor
    vectors: Tensor


def principal_axes(samples: Tensor, significant: bool = False) -> PrincipalAxes:
    """Principal axes of samples, in the samples' precision.

    Parameters
    ----------
    samples
        (m, d), m ≥ 2.
    significant
        Take correlations that so many samples can't tell from none for none: independent
        components then keep their own axes, also where their variances are equal.

    Returns
    -------
    axes
        Its matrices take d² numbers and d³ products; :data:`MOST_DIMENSIONS` is what methods
        allow.
    """
    centre = samples.mean(0)
    centred = samples - centre
    covariance = _significant(centred) if significant else torch.cov(centred.T)
    d = samples.shape[1]
    return PrincipalAxes(centre, *symmetric_eigen(covariance.reshape(d, d)))


def _significant(centred: Tensor) -> Tensor:
    """Covariance (d, d) without the correlations that are noise."""
    covariance = centred.T @ centred / len(centred)
    deviation = covariance.diagonal().clamp_min(1e-12).sqrt()
    noise = _SIGNIFICANT / len(centred) ** 0.5
    correlated = (covariance / deviation[:, None] / deviation).abs() > noise
    own = torch.eye(len(covariance), dtype=torch.bool, device=covariance.device)
    kept: Tensor = covariance * (correlated | own)
    return kept
