"""The protocol: a method takes a source and slopes, and gives points in nats and squared errors."""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import ClassVar

import numpy as np
import torch
from scipy.special import stdtrit
from torch import Tensor

from waterfill.data.sources import Source
from waterfill.errors import WaterfillError
from waterfill.estimators.axes import MOST_DIMENSIONS
from waterfill.estimators.curve import NEAR_CEILING_BITS, Status

__all__ = [
    "FRESH",
    "Finding",
    "FitThenScore",
    "Interval",
    "Method",
    "Run",
    "Scorer",
    "SlopeBySlope",
    "check_single",
    "fresh_interval",
    "mean_interval",
    "precision_for",
    "unit_of",
]

Interval = tuple[float, float]
_NEAR = NEAR_CEILING_BITS * math.log(2.0)
_PROCESSOR = torch.device("cpu")
#: Longest vectors that are computed with in double precision.
_DOUBLE = 64
#: Share of their variance that samples may lose in single precision, and how many are looked at.
_MOST_LOST, _LOOKED_AT = 1e-6, 1000
#: Stream of a seed that upper bounds are scored on: the same samples for every method.
FRESH = 99


@dataclass(frozen=True)
class Finding:
    """A point in nats and squared errors; fields as in :class:`~.curve.RDPoint`.

    ``most`` is what no mean over samples can exceed, where that is more than the ceiling: atoms
    with unequal weights. ``pictures`` is how many the interval is over; 0 where it is over samples.
    """

    status: Status
    slope: float
    distortion: float
    lagrangian: float
    interval: Interval | None = None
    ceiling: float | None = None
    certificate: Interval | None = None
    samples: int = 0
    note: str = ""
    seconds: float = 0.0
    most: float | None = None
    pictures: int = 0

    @property
    def rate(self) -> float:
        """R = F − λD, but not below 0."""
        return max(0.0, self.lagrangian - self.slope * self.distortion)

    @property
    def near_ceiling(self) -> bool:
        """Within half a bit of what the method can give at all.

        Never where a finite source was solved exactly: its ceiling is then the source's own.
        """
        exact = self.certificate is not None and self.interval is None
        return not exact and self._room(self.ceiling) < _NEAR

    def _room(self, limit: float | None) -> float:
        """What is left up to a limit."""
        read = self.lagrangian if self.status is Status.LOWER else self.rate
        return math.inf if limit is None else limit - read

    def is_sound(self, precision: float) -> bool:
        """Whether F and λD are finite, and F − λD not rounding error.

        Parameters
        ----------
        precision
            Relative, of what F and D were computed with.
        """
        cost = self.slope * self.distortion
        numbers = math.isfinite(self.lagrangian) and math.isfinite(cost)
        limit = self.ceiling if self.most is None else self.most
        return numbers and abs(cost) * precision < 1.0 and self._room(limit) > -_NEAR


@dataclass(frozen=True)
class Run:
    """What an estimate is made under.

    Attributes
    ----------
    seed
        Of everything that is drawn.
    progress
        Called with steps done, steps in all and what is at hand.
    device
        Where tensors and networks live: samples are brought there by :meth:`tensor`, and what a
        method makes itself it makes there.
    """

    seed: int = 0
    progress: Callable[[int, int, str], None] = field(default=lambda done, total, what: None)
    device: torch.device = _PROCESSOR

    def rng(self, *stream: int) -> np.random.Generator:
        """An independent generator of samples for each stream, whatever the device."""
        return np.random.default_rng([self.seed, *stream])

    def generator(self) -> torch.Generator:
        """A generator of the device, at the seed."""
        return torch.Generator(self.device).manual_seed(self.seed)

    @contextmanager
    def seeded(self) -> Iterator[None]:
        """Torch's own generators at the seed, the processor's and the device's; then as before.

        Those of other devices are not touched.
        """
        others = [] if self.device.type == "cpu" else [self.device]
        with torch.random.fork_rng(others, device_type=self.device.type):
            torch.default_generator.manual_seed(self.seed)
            for device in others:
                state = self.generator().get_state()
                torch.get_device_module(device).set_rng_state(state, device)
            yield

    def tensor(self, array: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> Tensor:
        """An array on the device, in the precision for vectors of its last dimension.

        Raises
        ------
        WaterfillError
            If that is single precision, and the vectors lie too far from zero for it.
        """
        wanted = precision_for(array.shape[-1])
        if wanted == torch.float32:
            check_single(array)
        return torch.from_numpy(np.ascontiguousarray(array)).to(self.device, wanted)


class Method(ABC):
    """An estimator of R(D)."""

    #: On the command line.
    name: ClassVar[str]
    #: Settings for which 0 is a value.
    may_be_zero: ClassVar[tuple[str, ...]] = ()
    #: It begins with the principal axes of the samples: a matrix of n² numbers, n³ products.
    takes_axes: ClassVar[bool] = False

    def check(self, source: Source, slopes: Sequence[float]) -> None:
        """Refuse what it can't do, before any method has computed anything.

        Parameters
        ----------
        source, slopes
            As for :meth:`curve`.

        Raises
        ------
        WaterfillError
            If the source is discrete: reproductions would leave its alphabet; or if it has more
            dimensions than principal axes can be found of. A method that is for discrete sources,
            or that can't do other things, has a check of its own.
        """
        if source.alphabet is not None:
            raise WaterfillError(
                f"{self.name}: reproductions would leave the alphabet of a discrete source; use ba"
            )
        if self.takes_axes and source.dimension > MOST_DIMENSIONS:
            raise WaterfillError(
                f"{self.name}: finds principal axes, in {MOST_DIMENSIONS:,} dimensions at most, "
                f"not {source.dimension:,}; use wgd or smaller patches"
            )

    @abstractmethod
    def curve(self, source: Source, slopes: Sequence[float], run: Run) -> Iterator[Finding]:
        """What it finds at all slopes, in nats per squared error."""


class SlopeBySlope(Method):
    """One that takes each slope by itself, from the same seed."""

    @abstractmethod
    def at(self, source: Source, slope: float, run: Run) -> Sequence[Finding]:
        """What it finds at one slope, in nats per squared error."""

    def curve(self, source: Source, slopes: Sequence[float], run: Run) -> Iterator[Finding]:
        """What it finds at all of them."""
        for slope in slopes:
            start = time.perf_counter()
            with run.seeded():
                found = self.at(source, slope, run)
            spent = (time.perf_counter() - start) / max(1, len(found))
            for one in found:
                yield replace(one, seconds=spent)


#: Gives the point of what was fitted, on the fresh samples of a source.
Scorer = Callable[[Source], Finding]


class FitThenScore(SlopeBySlope):
    """One whose bound is fitted to samples, and read on others."""

    @abstractmethod
    def fit(self, source: Source, slope: float, run: Run) -> Scorer:
        """What reads its bound off fresh samples, in nats per squared error."""

    def at(self, source: Source, slope: float, run: Run) -> Sequence[Finding]:
        """One point, on the source's own."""
        return [self.fit(source, slope, run)(source)]

    def on(self, source: Source, judges: Sequence[Source], slope: float, run: Run) -> list[Finding]:
        """Fitted once, and read on the fresh samples of each of several sources."""
        with run.seeded():
            scorer = self.fit(source, slope, run)
            return [scorer(judge) for judge in judges]


def precision_for(dimension: int) -> torch.dtype:
    """Double precision where it costs little, single where vectors are long."""
    return torch.float64 if dimension <= _DOUBLE else torch.float32


def check_single(array: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> None:
    """Refuse vectors (…, n) of which single precision loses what tells them apart.

    What it makes of a coordinate that is the same in all of them does no harm.

    Raises
    ------
    WaterfillError
        If they do, as around a mean of more than some ten thousand deviations.
    """
    some = array.reshape(-1, array.shape[-1])[:_LOOKED_AT]
    lost = some.astype(np.float32) - some
    if lost.var(0).sum() > _MOST_LOST * some.var(0).sum():
        raise WaterfillError(
            "the samples lie so far from zero that single precision can't tell them apart; "
            "subtract their mean"
        )


def mean_interval(values: Tensor) -> tuple[float, Interval]:
    """Mean and its 95 % interval by Student's law, for values that may be few."""
    exact = values.double()
    mean, count = float(exact.mean()), len(exact)
    if count < 2:
        return mean, (-math.inf, math.inf)
    half = float(stdtrit(count - 1, 0.975)) * float(exact.std()) / math.sqrt(count)
    return mean, (mean - half, mean + half)


def unit_of(samples: Tensor) -> float:
    """The power of two next to the samples' mean deviation, to work in such units.

    Steps of a learner have a length of their own: without it, the same source would have another
    bound as 0 … 255 than as 0 … 1. Scaling by a power of two rounds nothing.

    Parameters
    ----------
    samples
        (m, d).
    """
    deviation = float(samples.std(0, correction=0).square().mean().sqrt())
    if not 0.0 < deviation < math.inf:
        return 1.0
    return 2.0 ** round(math.log2(deviation))


def fresh_interval(values: Tensor, source: Source, run: Run) -> tuple[float, Interval, int]:
    """Mean of values on a source's fresh samples, its 95 % interval, and over how many pictures.

    Patches of a picture are alike: where they come of two pictures or more, the pictures are what
    is independent, and the mean is a ratio of sums over them. Else as :func:`mean_interval`, and 0.

    Parameters
    ----------
    values
        Of the samples that ``source.fresh`` gives at the run's stream ``FRESH``, in their order.
    source
        Where they come from.
    run
        Its seed.

    References
    ----------
    W. G. Cochran, "Sampling Techniques", 3rd ed., Wiley 1977, section 9A.1: clusters of unequal
    size.
    """
    mean, interval = mean_interval(values)
    if source.pictures is None:
        return mean, interval, 0
    _, of = np.unique(source.pictures(len(values), run.rng(FRESH)), return_inverse=True)
    count = int(of.max()) + 1
    if count < 2:
        return mean, interval, 0
    sums = np.bincount(of, values.double().cpu().numpy() - mean)
    error = math.sqrt(count / (count - 1) * float(np.square(sums).sum())) / len(of)
    half = float(stdtrit(count - 1, 0.975)) * error
    return mean, (mean - half, mean + half), count
