"""What every estimator gives: points that say what they are, in units that they name."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from numbers import Real
from typing import Any, cast

import pandas as pd

from waterfill.errors import WaterfillError

__all__ = ["NEAR_CEILING_BITS", "RDCurve", "RDPoint", "Status", "Units"]

#: A point this close to its ceiling says more about the ceiling than about the source.
NEAR_CEILING_BITS = 0.5

#: Squares of vectors times these, or over them, fit into single precision.
_LARGEST_SLOPE = 1e30

_RATES = ("bits", "nats", "bits/dim", "nats/dim")
_DISTORTIONS = ("mse", "sse", "half-sse", "hamming")
#: What of a point is two numbers, or none.
_PAIRS = ("interval", "certificate")


class Status(StrEnum):
    """What a point is to the true R(D)."""

    UPPER = "upper bound"
    LOWER = "lower bound"
    ESTIMATE = "estimate"
    GENIE = "genie-aided"


@dataclass(frozen=True)
class Units:
    """Of rates, distortions and slopes.

    Attributes
    ----------
    rate
        ``bits``, ``nats``, ``bits/dim`` or ``nats/dim``; the first two are for a whole sample.
    distortion
        ``mse`` (mean over the dimensions), ``sse``, ``half-sse``, or ``hamming`` for a discrete
        source.
    dimension
        n of the source.

    Raises
    ------
    WaterfillError
        For units that don't exist, or a rate for each dimension of something that has none.
    """

    rate: str
    distortion: str
    dimension: int

    def __post_init__(self) -> None:
        if self.rate not in _RATES:
            raise WaterfillError(f"rate unit must be one of {', '.join(_RATES)}, not {self.rate!r}")
        if self.distortion not in _DISTORTIONS:
            raise WaterfillError(
                f"distortion must be one of {', '.join(_DISTORTIONS)}, not {self.distortion!r}"
            )
        if self.distortion == "hamming" and "dim" in self.rate:
            raise WaterfillError("a letter has no dimensions: use bits or nats")

    @property
    def nats(self) -> float:
        """Nats for a sample in one unit of rate."""
        per = self.dimension if self.rate.endswith("/dim") else 1
        return per * (math.log(2.0) if self.rate.startswith("bits") else 1.0)

    @property
    def squared_error(self) -> float:
        """Squared error of a sample in one unit of distortion."""
        table = {"mse": float(self.dimension), "sse": 1.0, "half-sse": 2.0, "hamming": 2.0}
        return table[self.distortion]

    def inner_slope(self, slope: float) -> float:
        """A slope in these units as nats per squared error."""
        return slope * self.nats / self.squared_error

    def outer_slope(self, slope: float) -> float:
        """The same back."""
        return slope * self.squared_error / self.nats


@dataclass(frozen=True)
class RDPoint:
    """A point (D, R), what it is, and how well it is known.

    Attributes
    ----------
    method
        Which estimator gave it.
    status
        A value of :class:`Status`: upper bound, lower bound, estimate, or genie-aided.
    slope
        λ: R + λD was minimised, or bounded from below.
    distortion, rate
        D and R. A lower bound is a line R ≥ intercept − λD, read at a D of its own.
    lagrangian
        R + λD; of a lower bound the intercept of its line.
    interval
        95 % interval of the rate at this D: that of R + λD, less λD. The bound is a bound up to it.
    ceiling
        Largest rate (for a lower bound: intercept) that the method can give, None if there is none.
    near_ceiling
        Within half a bit of it, unless a finite source was solved exactly.
    certificate
        Lower and upper bound on R + λD that hold exactly for the finite problem that was solved.
    samples
        Fresh samples that it was read on; 0 where expectations are exact.
    seed, seconds
        Of its computation.
    note
        What else a reader must know.
    """

    method: str
    status: str
    slope: float
    distortion: float
    rate: float
    lagrangian: float
    interval: tuple[float, float] | None
    ceiling: float | None
    near_ceiling: bool
    certificate: tuple[float, float] | None
    samples: int
    seed: int
    seconds: float
    note: str = ""


@dataclass(frozen=True)
class RDCurve:
    """What one method says of one source.

    Attributes
    ----------
    source, method
        Their names.
    units
        Of everything below.
    points
        In the order of the slopes asked for.
    truth
        Points (D, R) of the true curve where theory knows them.
    shannon
        Points of Shannon's lower bound, where h(X) is known.
    environment
        Command, seed, versions, machine, date.
    """

    source: str
    method: str
    units: Units
    points: tuple[RDPoint, ...]
    truth: tuple[tuple[float, float], ...]
    shannon: tuple[tuple[float, float], ...]
    environment: Mapping[str, Any]

    def of(self, status: Status | str) -> tuple[RDPoint, ...]:
        """The points of one status.

        Raises
        ------
        ValueError
            If there is no such status.
        """
        return tuple(p for p in self.points if p.status == Status(status).value)

    def lower_rate(self, distortion: float) -> float:
        """Highest of the lower bound's lines at a distortion; 0 where they say nothing."""
        lines = [p.lagrangian - p.slope * distortion for p in self.of(Status.LOWER)]
        return max([0.0, *lines])

    def to_frame(self) -> pd.DataFrame:
        """One row for each point, with what it is of and in which units.

        Pairs are two columns each, ``interval_low`` and ``interval_high``.
        """
        units = {"rate_unit": self.units.rate, "distortion_unit": self.units.distortion}
        rows = []
        for point in self.points:
            row: dict[str, Any] = {"source": self.source, **units}
            for name, value in asdict(point).items():
                if name in _PAIRS:
                    row[f"{name}_low"], row[f"{name}_high"] = value or (None, None)
                else:
                    row[name] = value
            rows.append(row)
        return pd.DataFrame(rows)

    def to_dict(self) -> dict[str, Any]:
        """As JSON-able data."""
        return {
            "source": self.source,
            "method": self.method,
            "units": asdict(self.units),
            "points": [asdict(p) for p in self.points],
            "truth": [list(p) for p in self.truth],
            "shannon_lower_bound": [list(p) for p in self.shannon],
            "environment": dict(self.environment),
        }


def check_slopes(slopes: float | Sequence[float]) -> tuple[float, ...]:
    """One slope or several as a tuple.

    Raises
    ------
    WaterfillError
        If there are none, or one is not above zero or too far from one to compute with.
    """
    several = cast("Sequence[float]", [slopes] if isinstance(slopes, Real) else slopes)
    try:
        found = tuple(float(s) for s in several)
    except (TypeError, ValueError):
        found = ()
    if not found or not all(s > 0 for s in found):
        raise WaterfillError("slopes must be numbers above zero, one at least")
    if not all(1.0 / _LARGEST_SLOPE <= s <= _LARGEST_SLOPE for s in found):
        raise WaterfillError(
            f"slopes must lie in {1.0 / _LARGEST_SLOPE:g} … {_LARGEST_SLOPE:g}, in which there is "
            "something to compute"
        )
    return found
