"""Estimators of R(D), fitted once and read on several sets of samples, kept between calls."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from waterfill.data.sources import Source
from waterfill.estimators.curve import Status
from waterfill.estimators.method import Finding, FitThenScore, Run
from waterfill.evaluation.cache import Cache
from waterfill.provenance import identity
from waterfill.reproduce.result import Request

__all__ = ["Estimates", "Reading", "estimates"]


@dataclass(frozen=True)
class Reading:
    """Mean squared error and bits of a sample, half the 95 % interval of R + λD in bits."""

    distortion: float
    rate: float
    half: float
    near_ceiling: bool = False


@dataclass(frozen=True)
class Estimates:
    """What one estimator says of each set, slope by slope; the most bits that it can say."""

    readings: Mapping[str, Sequence[Reading]]
    ceiling: float | None


def estimates(
    request: Request,
    name: str,
    method: FitThenScore,
    slopes: Sequence[float],
    fit: Source,
    judges: Mapping[str, Source],
    about: Mapping[str, Any],
) -> Estimates:
    """Fit an estimator at each slope, and read it on each set.

    Parameters
    ----------
    request
        Seed, folder, progress.
    name, about
        What the readings are kept by, with the method's settings.
    method
        With its settings.
    slopes
        In bits per squared error.
    fit
        To fit on.
    judges
        Sets to read on, by name.
    """
    cache = Cache(request.runs / "estimates")
    run = Run(request.seed, request.progress)
    points: dict[str, list[Reading]] = {which: [] for which in judges}
    ceiling = None
    for bits in slopes:
        slope = bits * math.log(2.0)
        key = {
            "method": name,
            "settings": vars(method),
            "slope": slope,
            "seed": request.seed,
            "by": identity(),
            **about,
        }
        row = cache.get(key)
        if row is None:
            read = method.on(fit, list(judges.values()), slope, run)
            row = {"findings": [dataclasses.asdict(one) for one in read]}
            cache.put(key, row)
        for which, one in zip(judges, row["findings"], strict=True):
            found = Finding(**one | {"status": Status(one["status"])})
            low, high = found.interval or (math.nan, math.nan)
            ceiling = found.ceiling
            points[which].append(
                Reading(
                    found.distortion,
                    found.rate / math.log(2.0),
                    0.5 * (high - low) / math.log(2.0),
                    found.near_ceiling,
                )
            )
    return Estimates(points, ceiling and ceiling / math.log(2.0))
