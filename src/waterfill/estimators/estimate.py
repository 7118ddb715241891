"""One door to every estimator of R(D)."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike

from waterfill.data.source_names import open_source
from waterfill.data.sources import Source, from_array
from waterfill.devices import check_device, device_name
from waterfill.errors import WaterfillError
from waterfill.estimators.ais import AnnealedImportance
from waterfill.estimators.blahut_arimoto import BlahutArimotoGrid
from waterfill.estimators.curve import RDCurve, RDPoint, Units, check_slopes
from waterfill.estimators.dual import SandwichLower
from waterfill.estimators.limits import TransformLimits
from waterfill.estimators.method import Finding, Method, Run, SlopeBySlope, precision_for
from waterfill.estimators.nerd import Nerd
from waterfill.estimators.sandwich import Sandwich, SandwichUpper
from waterfill.estimators.stored import decides, findings_of, record_of
from waterfill.estimators.wgd import WassersteinDescent
from waterfill.provenance import environment
from waterfill.row_shards import Record, open_rows
from waterfill.seeds import check_seed

__all__ = ["METHODS", "all_bounds", "bounds", "method_of"]

METHODS: dict[str, type[Method]] = {
    "ba": BlahutArimotoGrid,
    "sandwich": Sandwich,
    "sandwich-upper": SandwichUpper,
    "sandwich-lower": SandwichLower,
    "nerd": Nerd,
    "wgd": WassersteinDescent,
    "ais": AnnealedImportance,
    "limits": TransformLimits,
}

#: Points of a curve that is drawn beside: slopes this far beyond those asked for, and how many.
_BEYOND, _DRAWN = 4.0, 41


def bounds(
    source: Source | str | os.PathLike[str] | ArrayLike,
    method: str | Method = "ba",
    slopes: float | Sequence[float] = (1.0,),
    *,
    rate_unit: str = "bits",
    distortion: str | None = None,
    seed: int = 0,
    device: str | torch.device = "cpu",
    shards: str | os.PathLike[str] | None = None,
    progress: Callable[[int, int, str], None] = lambda done, total, what: None,
    **settings: Any,
) -> RDCurve:
    """Bounds on, or estimates of, the rate–distortion function of a source.

    Parameters
    ----------
    source
        A :class:`~waterfill.data.sources.Source`, its name as on the command line
        (``"gaussian:n=2"``, ``"mnist/train-images-idx3-ubyte.gz"``, a folder), or samples
        (count, …): an array, a tensor or nested lists.
    method
        One of :data:`METHODS`, or an object with settings of its own.
    slopes
        λ > 0, one or several, in units of rate per unit of distortion: R + λD is minimised.
    rate_unit
        ``bits`` or ``nats`` for a sample, ``bits/dim`` or ``nats/dim``.
    distortion
        ``mse``, ``sse`` or ``half-sse``; ``hamming`` for discrete sources, which have no other.
        None for ``mse``, or for ``hamming`` where the source is discrete.
    seed
        Same seed, same result; a GPU draws numbers of its own.
    device
        Where it is computed: ``cpu``, ``cuda``, ``cuda:1``. Samples are drawn on the processor, and
        ``ba`` solves its convex problem there.
    shards
        As for :func:`all_bounds`.
    progress
        Called with steps done, steps in all and what is at hand.
    **settings
        Of the method: ``particles=2000``.

    Returns
    -------
    RDCurve
        Points that say what they are.

    Raises
    ------
    WaterfillError
        For anything that is unknown, out of range, missing, or beyond what a method can do.
    """
    (curve,) = all_bounds(
        source,
        [method_of(method, settings)],
        slopes,
        rate_unit=rate_unit,
        distortion=distortion,
        seed=seed,
        device=device,
        shards=shards,
        progress=progress,
    )
    return curve


def all_bounds(
    source: Source | str | os.PathLike[str] | ArrayLike,
    methods: Sequence[Method],
    slopes: float | Sequence[float],
    *,
    rate_unit: str = "bits",
    distortion: str | None = None,
    seed: int = 0,
    device: str | torch.device = "cpu",
    shards: str | os.PathLike[str] | None = None,
    progress: Callable[[int, int, str], None] = lambda done, total, what: None,
) -> tuple[RDCurve, ...]:
    """The curve of each of several methods on one source.

    Parameters
    ----------
    source, slopes, rate_unit, distortion, seed, device, progress
        As for :func:`bounds`.
    methods
        With their settings.
    shards
        A folder for what is found, as Parquet files: a run that was killed goes on from there, and
        processes that a launcher has started share the work, method by method and, where a method
        takes each slope by itself, slope by slope. All of them return the same curves, those of one
        process with as many threads.

    Raises
    ------
    WaterfillError
        As :func:`bounds`; with ``shards``, for methods that are not of this package, and if the
        folder can't be written or holds a file that is damaged.
    """
    source = _as_source(source)
    if distortion is None:
        distortion = "mse" if source.alphabet is None else "hamming"
    if (distortion == "hamming") != (source.alphabet is not None):
        raise WaterfillError("hamming goes with discrete sources, and they with nothing else")
    units = Units(rate_unit, distortion, source.dimension)
    inner = tuple(units.inner_slope(s) for s in check_slopes(slopes))
    run = Run(check_seed(seed), progress, check_device(device))
    for method in methods:
        method.check(source, inner)
    parts = [
        (number, part)
        for number, method in enumerate(methods)
        for part in ([(s,) for s in inner] if isinstance(method, SlopeBySlope) else [inner])
    ]
    found = _found(source, [(methods[number], part) for number, part in parts], units, run, shards)
    drawn = np.geomspace(min(inner) / _BEYOND, max(inner) * _BEYOND, _DRAWN)
    truth = tuple(_known([source.truth(s) for s in drawn], units))
    shannon = tuple(_known([source.shannon_bound(s) for s in drawn], units))
    about = environment(run.seed) | {"device": device_name(run.device)}
    curves = []
    for number, method in enumerate(methods):
        points = tuple(
            _point(one, units, method.name, run.seed, source.caution)
            for (of, _), findings in zip(parts, found, strict=True)
            if of == number
            for one in findings
        )
        curves.append(RDCurve(source.name, method.name, units, points, truth, shannon, about))
    return tuple(curves)


def _as_source(source: Source | str | os.PathLike[str] | ArrayLike) -> Source:
    if isinstance(source, Source):
        return source
    if isinstance(source, str | os.PathLike):
        return open_source(source)
    try:
        samples = np.asarray(source)
    except (TypeError, ValueError, RuntimeError) as error:  # ragged, or a tensor elsewhere
        reason, kind = str(error).splitlines()[0], type(source).__name__
        raise WaterfillError(f"{kind}: is no array of samples ({reason})") from None
    return from_array(samples)


def _found(
    source: Source,
    parts: Sequence[tuple[Method, tuple[float, ...]]],
    units: Units,
    run: Run,
    shards: str | os.PathLike[str] | None,
) -> list[list[Finding]]:
    """What each method finds at its slopes."""
    rows = open_rows(shards)
    if shards is not None:
        for method, _ in parts:
            if type(method) not in METHODS.values():
                raise WaterfillError(
                    f"{method.name}: findings of a method of other make can't be kept in a folder"
                )
    names = rows.identify(len(parts), lambda index: [repr(parts[index][0]), parts[index][1]])

    def one(index: int, check: Callable[[], None]) -> Record:
        method, slopes = parts[index]
        return record_of(method.name, _sound(method, source, slopes, units, run))

    about = {} if shards is None else decides(source, run)
    # One by one: a method draws from torch's own generator, and fits on all threads.
    return [findings_of(record) for record in rows.each("bounds", about, names, one, in_turn=True)]


def _sound(
    method: Method, source: Source, slopes: Sequence[float], units: Units, run: Run
) -> list[Finding]:
    """What a method finds, unless nothing of it is left beside λD."""
    precision = torch.finfo(precision_for(source.dimension)).eps
    try:
        found = list(method.curve(source, slopes, run))
        lost = next((one.slope for one in found if not one.is_sound(precision)), None)
    except OverflowError:
        found, lost = [], max(slopes)
    if lost is not None:
        raise WaterfillError(
            f"{method.name}: at a slope of {units.outer_slope(lost):g} the rate is lost in "
            "rounding beside λD; choose smaller slopes"
        )
    return found


def method_of(method: str | Method, settings: dict[str, Any]) -> Method:
    """A method by its name, with settings checked against its fields.

    Raises
    ------
    WaterfillError
        If there is no such method, or it has no such setting, or the setting is of another kind.
    """
    if isinstance(method, Method):
        if settings:
            raise WaterfillError("pass settings to the method object, not here")
        return method
    if method not in METHODS:
        raise WaterfillError(f"{method}: no such method ({', '.join(METHODS)})")
    kind = METHODS[method]
    fields = {f.name: f.default for f in dataclasses.fields(kind)}  # type: ignore[arg-type]
    checked = {}
    for key, value in settings.items():
        if key not in fields:
            raise WaterfillError(f"{method}: has no setting {key!r} ({', '.join(fields)})")
        checked[key] = _like(fields[key], value, f"{method}: {key}", key in kind.may_be_zero)
    return kind(**checked)


def _like(default: Any, value: Any, name: str, may_be_zero: bool) -> Any:
    """A value, perhaps text, as what the default is; numbers must be above zero."""
    if not isinstance(default, int | float):
        return value if not isinstance(default, str) else str(value)
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise WaterfillError(f"{name} must be a number, not {value!r}") from None
    if may_be_zero and number == 0:
        return type(default)(0)
    if not 0 < number < 1e12 or (isinstance(default, int) and number != int(number)):
        kind = "a whole number" if isinstance(default, int) else "a number"
        raise WaterfillError(f"{name} must be {kind} above zero, not {value}")
    return int(number) if isinstance(default, int) else number


def _point(found: Finding, units: Units, method: str, seed: int, caution: str) -> RDPoint:
    def rate(nats: float | None) -> Any:
        return None if nats is None else nats / units.nats

    cost = found.slope * found.distortion
    interval = found.interval
    if found.pictures:
        caution = f"the interval is over {found.pictures} pictures, whose patches are alike"
    return RDPoint(
        method=method,
        status=found.status.value,
        slope=units.outer_slope(found.slope),
        distortion=found.distortion / units.squared_error,
        rate=rate(found.rate),
        lagrangian=rate(found.lagrangian),
        interval=interval and (rate(interval[0] - cost), rate(interval[1] - cost)),
        ceiling=rate(found.ceiling),
        near_ceiling=found.near_ceiling,
        certificate=found.certificate and (rate(found.certificate[0]), rate(found.certificate[1])),
        samples=found.samples,
        seed=seed,
        seconds=round(found.seconds, 3),
        note="; ".join(filter(None, (found.note, caution if interval else ""))),
    )


def _known(points: Sequence[tuple[float, float] | None], units: Units) -> list[tuple[float, float]]:
    """Those that are known and have a rate, in units, once each."""
    found = {
        (d / units.squared_error, max(r, 0.0) / units.nats)
        for d, r in filter(None, points)
        if r > -1e-12
    }
    return sorted(found)
