"""A ladder from what was measured of each picture: means, rates at equal PSNR, and intervals."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from waterfill.ladder.decompose import decompose, intervals, mean_point, rates_at_equal_psnr
from waterfill.ladder.picture import Measurement
from waterfill.ladder.result import Exhibit, Ladder, Point, RungResult
from waterfill.ladder.rungs import Rung
from waterfill.ladder.subjects import Setting

__all__ = ["assemble"]


@dataclass
class _Collected:
    """What stays of the pictures, in their order.

    Attributes
    ----------
    pictures
        What is said of each.
    curves
        For each, by rung: its points at all settings where the rung has one.
    main
        For each, by rung: the point at the setting that was asked for.
    exhibits
        Exhibits of the pictures that are shown.
    channels
        bpp by channel of latents, summed over pictures, by name.
    """

    pictures: list[dict[str, Any]] = field(default_factory=list)
    curves: list[dict[str, tuple[Point, ...]]] = field(default_factory=list)
    main: list[dict[str, Point]] = field(default_factory=list)
    exhibits: list[Exhibit] = field(default_factory=list)
    channels: dict[str, NDArray[np.float64]] = field(default_factory=dict)


def _collect(measured: Iterable[Measurement], rungs: Sequence[Rung], main: int) -> _Collected:
    """Everything that is needed of the pictures, each of which is looked at once."""
    kept = _Collected()
    for one in measured:
        table = dict(zip((rung.name for rung in rungs), one.points, strict=True))
        kept.pictures.append(one.picture)
        kept.curves.append({n: tuple(p for p in ps if p is not None) for n, ps in table.items()})
        kept.main.append({n: p for n, ps in table.items() if (p := ps[main]) is not None})
        kept.exhibits += [one.exhibit] if one.exhibit is not None else []
        for name, bpp in one.channels.items():
            known = kept.channels
            known[name] = known[name] + bpp if name in known else bpp
    return kept


def _mean_curves(
    of_pictures: Sequence[Mapping[str, Sequence[Point]]], rungs: Sequence[Rung]
) -> dict[str, tuple[Point, ...]]:
    """The mean curve of every rung over pictures."""
    return {
        rung.name: tuple(
            mean_point(column)
            for column in zip(*(curves[rung.name] for curves in of_pictures), strict=True)
        )
        for rung in rungs
    }


def _results(
    rungs: Sequence[Rung],
    here: Mapping[str, Point],
    equal: Mapping[str, float],
    curves: Mapping[str, tuple[Point, ...]],
) -> tuple[RungResult, ...]:
    """Every rung, and what it saves against the first, from rates at equal PSNR."""
    first = equal[rungs[0].name]
    return tuple(
        RungResult(
            rung.name,
            rung.status.value,
            rung.meaning,
            here[rung.name].bpp,
            here[rung.name].psnr,
            here[rung.name].ms_ssim,
            here[rung.name].parts,
            curves[rung.name],
            equal[rung.name],
            first - equal[rung.name] if number else None,
        )
        for number, rung in enumerate(rungs)
    )


def _rows(kept: _Collected, rungs: Sequence[Rung]) -> tuple[dict[str, Any], ...]:
    """One for each picture, rung and setting."""
    return tuple(
        {"image": picture["name"], "rung": rung.name, "status": rung.status.value} | point.__dict__
        for picture, curves in zip(kept.pictures, kept.curves, strict=True)
        for rung in rungs
        for point in curves[rung.name]
    )


def assemble(
    name: str,
    setting: Setting,
    main: int,
    rungs: Sequence[Rung],
    measured: Iterable[Measurement],
    environment: dict[str, Any],
) -> Ladder:
    """The result, from what was measured of each picture, which is looked at once.

    Parameters
    ----------
    name
        Name of the codec.
    setting, main
        What was asked for, and which of the settings it is.
    rungs
        Rungs, in the order in which they were measured.
    measured
        Measurements, one for each picture.
    environment
        Where and when, and the seed, also of the bootstrap.
    """
    kept = _collect(measured, rungs, main)
    curves = _mean_curves(kept.curves, rungs)
    here = {name: mean_point([points[name] for points in kept.main]) for name in kept.main[0]}
    spans = intervals(kept.curves, kept.main, seed=environment["seed"])
    return Ladder(
        name,
        setting.quality,
        tuple(kept.pictures),
        _results(rungs, here, rates_at_equal_psnr(curves, here), curves),
        replace(decompose(curves, here), intervals=spans),
        tuple(decompose(c, m) for c, m in zip(kept.curves, kept.main, strict=True)),
        {name: total / len(kept.pictures) for name, total in kept.channels.items()},
        _rows(kept, rungs),
        tuple(kept.exhibits),
        environment,
    )
