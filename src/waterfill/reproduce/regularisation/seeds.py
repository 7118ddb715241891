"""What a difference between trainings is worth: its spread over seeds."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy import stats

__all__ = ["Effect"]

#: Of intervals, and of tests for which seeds are counted.
_CONFIDENCE, _POWER = 0.95, 0.8
_MOST_SEEDS = 100_000


@dataclass(frozen=True)
class Effect:
    """A difference that was measured once with each seed.

    Attributes
    ----------
    values
        One for each seed, in percent; those that are not finite couldn't be measured.
    """

    values: tuple[float, ...]

    @property
    def finite(self) -> tuple[float, ...]:
        """Those that could be measured."""
        return tuple(value for value in self.values if math.isfinite(value))

    @property
    def mean(self) -> float:
        """Over the seeds; NaN without any."""
        return float(np.mean(self.finite)) if self.finite else math.nan

    @property
    def deviation(self) -> float:
        """Between seeds; NaN below two."""
        return float(np.std(self.finite, ddof=1)) if len(self.finite) > 1 else math.nan

    @property
    def spread(self) -> str:
        """The deviation between seeds in percent; a dash where there is none."""
        return f"{self.deviation:.2f}" if math.isfinite(self.deviation) else "—"

    @property
    def half_width(self) -> float:
        """Of the interval that holds the true mean in 95 % of cases (Student's t)."""
        return self._half_width(1.0 - _CONFIDENCE)

    def _half_width(self, outside: float) -> float:
        n = len(self.finite)
        if n < 2:
            return math.nan
        return float(stats.t.ppf(1.0 - 0.5 * outside, n - 1)) * self.deviation / math.sqrt(n)

    @property
    def verdict(self) -> str:
        """Of the claim that the mean is below zero; nothing without all of the seeds."""
        return self.verdict_among(1)

    def verdict_among(self, count: int) -> str:
        """The same where so many effects are looked at together (Bonferroni).

        One of ten is beyond its own 95 % interval in four cases of ten, with nothing to be found.
        """
        half = self._half_width((1.0 - _CONFIDENCE) / count)
        if len(self.finite) < len(self.values) or not math.isfinite(half):
            return "not resolved"
        if self.mean + half < 0:
            return "reproduced"
        return "not reproduced" if self.mean - half > 0 else "not resolved"

    def seeds_for(self, size: float) -> float:
        """Seeds with which an effect of a size would be told from zero, four times in five.

        The smallest n with (t₀.₉₇₅ + t₀.₈)·s/√n ≤ size for the deviation s between these seeds,
        t of n − 1 degrees of freedom.

        Parameters
        ----------
        size
            Of the effect, in percent.

        Returns
        -------
        float
            Their number; NaN where the deviation is not known.
        """
        if not math.isfinite(self.deviation):
            return math.nan
        for n in range(2, _MOST_SEEDS):
            reach = stats.t.ppf(0.5 + 0.5 * _CONFIDENCE, n - 1) + stats.t.ppf(_POWER, n - 1)
            if reach * self.deviation / math.sqrt(n) <= size:
                return float(n)
        return math.inf

    def __str__(self) -> str:
        if not self.finite:
            return "—"
        spread = f" ± {self.half_width:.2f}" if math.isfinite(self.half_width) else ""
        missing = len(self.finite) < len(self.values)
        count = f" ({len(self.finite)} of {len(self.values)} seeds)" if missing else ""
        return f"{self.mean:+.2f}{spread} %{count}".replace("-", "−")
