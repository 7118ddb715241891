"""Where the bits go: rungs at equal PSNR, their differences named, and how sure that is."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from waterfill.evaluation.bd import LEAST_PICTURES, bootstrap_interval
from waterfill.evaluation.curves import bd_rate, rate_at_psnr
from waterfill.ladder.result import TERMS, Decomposition, Point
from waterfill.ladder.rungs import (
    BITSTREAM,
    CONTEXT,
    IDEAL,
    LADDER,
    POSTERIOR,
    TOLD,
    TRELLIS,
    UNKNOWN_VARIANCE,
    Status,
)

__all__ = [
    "decompose",
    "efficient",
    "intervals",
    "mean_point",
    "rates_at_equal_psnr",
    "read_curve",
]

#: Resamples of a bootstrap: of eight pictures its interval leaves out six in a thousand at an end.
_RESAMPLES = 500

#: How far beyond its ends a curve may be read, in dB and in ln R: the curve of a codec that has
#: learned nothing is nearly vertical.
_REACH, _RATE_REACH = 0.5, math.log(10.0)

Curves = Mapping[str, Sequence[Point]]


def _price_slope(point: Point) -> float:
    """d ln R / d PSNR of a codec that trades bpp + λ·255²·MSE: its own price of a decibel."""
    if not math.isfinite(point.price):
        return 0.0
    mse = 255.0**2 * 10.0 ** (-point.psnr / 10.0)
    slope: float = point.price * mse * math.log(10.0) / 10.0 / max(point.bpp, 1e-12)
    return slope


def efficient(
    curve: Sequence[Point], fidelity: Callable[[Point], float] = lambda p: p.psnr
) -> list[Point]:
    """The points that no other beats in both rate and PSNR, or another fidelity, ascending.

    At low rates an idealised channel can stall: a higher quality costs more and shows less.
    Such points are dropped.
    """
    kept: list[Point] = []
    for point in sorted(curve, key=lambda p: (-fidelity(p), p.bpp)):
        if not kept or point.bpp < kept[-1].bpp:
            kept.append(point)
    return kept[::-1]


def read_curve(curve: Sequence[Point], psnr: float) -> float:
    """bpp of a curve at a PSNR.

    A little beyond its ends along its last slope, or the codec's own λ where it is one point; NaN
    farther out, where a rung can come out on either side of the codec.
    """
    points = efficient(curve)
    free = [p for p in points if p.bpp <= 0]
    if free and psnr <= free[-1].psnr:
        return 0.0
    points = points[len(free) :]
    if not points or not points[0].psnr - _REACH <= psnr <= points[-1].psnr + _REACH:
        return math.nan
    rates, psnrs = [p.bpp for p in points], [p.psnr for p in points]
    slopes = [_price_slope(p) for p in points]
    if len(points) > 1:
        slopes = np.gradient(np.log(rates), psnrs).tolist()
    below, above = max(psnrs[0] - psnr, 0.0), max(psnr - psnrs[-1], 0.0)
    if max(abs(below * slopes[0]), abs(above * slopes[-1])) > _RATE_REACH:
        return math.nan
    return rate_at_psnr(rates, psnrs, psnr, slopes)


def _shares(curve: Sequence[Point], psnr: float) -> dict[str, float]:
    """What a curve's bits buy at a PSNR, as shares that add up to 1."""
    points = efficient(curve)
    psnrs = [p.psnr for p in points]
    return {
        name: float(np.interp(psnr, psnrs, [p.parts[name] / max(p.bpp, 1e-12) for p in points]))
        for name in points[0].parts
    }


def rates_at_equal_psnr(curves: Curves, main: Mapping[str, Point]) -> dict[str, float]:
    """bpp of every rung at the PSNR of what the codec itself shows, NaN of those nowhere near.

    Parameters
    ----------
    curves
        Curve of every rung.
    main
        The point of every rung at the setting that was asked for.
    """
    psnr = main[IDEAL].psnr
    at = {name: read_curve(curve, psnr) for name, curve in curves.items()}
    # The file and its ideal code are the same pixels: no reading of curves.
    return at | {name: main[name].bpp for name in (BITSTREAM, IDEAL) if name in main}


_METHODS = {
    True: "rates read off the measured curves at equal PSNR (PCHIP in log rate)",
    False: "one quality: Gaussian channels, measured above it too, were read at equal PSNR; "
    "other rungs were moved there along the codec's own λ where they are near",
}


def decompose(curves: Curves, main: Mapping[str, Point]) -> Decomposition:
    """Split the rate of a codec into what it loses where, down to a genie-aided limit.

    Parameters
    ----------
    curves, main
        As for :func:`rates_at_equal_psnr`.
    """
    return replace(_split(curves, main), bd_rates=_bd_rates(curves))


def _split(curves: Curves, main: Mapping[str, Point]) -> Decomposition:
    """The terms alone, which is all that a resample is asked for."""
    at = rates_at_equal_psnr(curves, main)
    psnr = main[IDEAL].psnr
    achieved = at.get(BITSTREAM, at[IDEAL])
    shares = _shares(curves[CONTEXT], psnr)
    with_context = at[CONTEXT]
    variance, limit = (with_context * shares[name] for name in (UNKNOWN_VARIANCE, TOLD))
    status = {rung.name: rung.status for rung in LADDER}

    def costs(name: str) -> float:
        return math.inf if math.isnan(at[name]) else at[name]

    best = min((n for n in at if status[n] != Status.GENIE), key=costs)
    groups = [name for name in at if name.startswith("grouped")]
    # The least of those that were read is the tightest only if all were.
    group = min(groups, key=costs) if all(math.isfinite(at[n]) for n in groups) else None
    return Decomposition(
        psnr=psnr,
        achieved_bpp=achieved,
        coder_overhead_bpp=achieved - at[IDEAL],
        quantisation_bpp=at[IDEAL] - at[POSTERIOR],
        trellis_bpp=at[IDEAL] - at.get(TRELLIS, at[IDEAL]),
        context_bpp=at[POSTERIOR] - with_context,
        side_information_bpp=with_context - variance - limit,
        variance_bpp=variance,
        limit_bpp=limit,
        best_achievable_rung=best,
        best_achievable_bpp=at[best],
        tightest_group=group,
        tightest_group_bpp=math.nan if group is None else at[group],
        method=_METHODS[len(curves[IDEAL]) > 1],
    )


def _bd_rates(curves: Curves) -> dict[str, float]:
    """BD-rate of every further stage against what the codec itself does, percent."""

    def plain(curve: Sequence[Point], *without: str) -> list[tuple[float, float]]:
        return [(p.bpp - sum(p.parts[name] for name in without), p.psnr) for p in efficient(curve)]

    first = BITSTREAM if len(curves.get(BITSTREAM, ())) > 1 else IDEAL
    stages = {
        IDEAL: plain(curves[IDEAL]),
        TRELLIS: plain(curves.get(TRELLIS, ())),
        POSTERIOR: plain(curves[POSTERIOR]),
        CONTEXT: plain(curves[CONTEXT]),
        "variances told (genie-aided)": plain(curves[CONTEXT], UNKNOWN_VARIANCE),
    }
    found = {}
    for name, stage in stages.items():
        if name == first:
            continue
        try:
            found[name] = bd_rate(plain(curves[first]), stage)
        except ValueError:  # below four points, or without overlap
            continue
    return found


def mean_point(points: Sequence[Point]) -> Point:
    """The mean of one setting over pictures; of MS-SSIM over those large enough to have one."""
    similarities = [p.ms_ssim for p in points if not math.isnan(p.ms_ssim)]
    count = len(points)
    parts = {name: sum(p.parts[name] for p in points) / count for name in points[0].parts}
    return Point(
        points[0].quality,
        sum(p.bpp for p in points) / count,
        sum(p.psnr for p in points) / count,
        sum(similarities) / len(similarities) if similarities else math.nan,
        sum(p.mse for p in points) / count,
        parts,
        points[0].step,
        points[0].price,
    )


def intervals(
    pictures: Sequence[Curves], main_of: Sequence[Mapping[str, Point]], *, seed: int
) -> dict[str, tuple[float, float]]:
    """95 % intervals of the decomposition's terms, by resampling pictures.

    Parameters
    ----------
    pictures
        Curves of every rung, of every picture.
    main_of
        The points at the setting that was asked for, likewise.
    seed
        Seed of the bootstrap.

    Returns
    -------
    dict
        (low, high) in bpp by the name of the term; empty below
        :data:`~waterfill.evaluation.bd.LEAST_PICTURES`: no mean of a resample leaves the range of
        the pictures' own values, which of so few is no 95 %.
    """
    count = len(pictures)
    if count < LEAST_PICTURES:
        return {}
    names = [name for name in pictures[0] if name in (BITSTREAM, IDEAL, POSTERIOR, CONTEXT)]
    # Of the grouped ones, only a name is asked for.
    names.append(next(name for name in pictures[0] if name.startswith("grouped")))
    rng = np.random.default_rng(seed)
    terms: list[list[float]] = []
    for _ in range(_RESAMPLES):
        chosen = rng.integers(count, size=count).tolist()
        curves = {
            name: [
                mean_point(column)
                for column in zip(*(pictures[i][name] for i in chosen), strict=True)
            ]
            for name in names
        }
        main = {
            name: mean_point([main_of[i][name] for i in chosen])
            for name in names
            if name in main_of[0]
        }
        found = _split(curves, main)
        terms.append([getattr(found, f"{term}_bpp") for term in TERMS])
    whole = {t: column for t, column in zip(TERMS, np.array(terms).T, strict=True)}
    return {
        term: bootstrap_interval(column, count)
        for term, column in whole.items()
        if np.isfinite(column).all()
    }
