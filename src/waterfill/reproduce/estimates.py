"""Estimators of R(D), fitted once and read on several sets of samples, kept between calls."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from waterfill.data.sources import Source
from waterfill.estimators.curve import NEAR_CEILING_BITS
from waterfill.estimators.method import FitThenScore, Run
from waterfill.evaluation.cache import Cache
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
            **about,
        }
        row = cache.get(key)
        if row is None:
            read = method.on(fit, list(judges.values()), slope, run)
            row = {"findings": [dataclasses.asdict(one) for one in read]}
            cache.put(key, row)
        for which, one in zip(judges, row["findings"], strict=True):
            nats = max(0.0, one["lagrangian"] - one["slope"] * one["distortion"])
            half = 0.5 * (one["interval"][1] - one["interval"][0])
            ceiling = one["ceiling"]
            near = ceiling is not None and nats > ceiling - NEAR_CEILING_BITS * math.log(2.0)
            points[which].append(
                Reading(one["distortion"], nats / math.log(2.0), half / math.log(2.0), near)
            )
    return Estimates(points, ceiling and ceiling / math.log(2.0))
