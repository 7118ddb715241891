"""What is measured of a picture as rows and arrays, and back without a bit's difference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from waterfill.ladder.picture import Measurement
from waterfill.ladder.result import Exhibit, Point
from waterfill.ladder.rungs import Rung
from waterfill.ladder.variances import Moments
from waterfill.row_shards import Record

__all__ = ["measurement_of", "moments_of", "record_of_measurement", "record_of_moments"]

_POINT = ("quality", "bpp", "psnr", "ms_ssim", "mse", "parts", "step", "price")
#: Of a picture, by what rows call it.
_PICTURE = {"image": "name", "width": "width", "height": "height"}
#: Maps of an exhibit, by rung or term.
_MAPS = ("y_hat", "bits", "losses")


def record_of_moments(picture: str, moments: Sequence[Moments]) -> Record:
    """Moments of one picture, by setting."""
    rows = [
        {"image": picture, "setting": number, "count": one.count}
        for number, one in enumerate(moments)
    ]
    return Record(tuple(rows), {"power": np.stack([one.power for one in moments])})


def moments_of(record: Record) -> list[Moments]:
    """The same back."""
    return [
        Moments(power, row["count"], 1)
        for power, row in zip(record.arrays["power"], record.rows, strict=True)
    ]


def record_of_measurement(measured: Measurement, rungs: Sequence[Rung]) -> Record:
    """All rungs of one picture: a row for each point."""
    facts = {name: measured.picture[fact] for name, fact in _PICTURE.items()}
    rows = [
        facts
        | {"rung": rung.name, "status": rung.status.value, "setting": number}
        | {name: getattr(point, name) for name in _POINT}
        for rung, points in zip(rungs, measured.points, strict=True)
        for number, point in enumerate(points)
        if point is not None
    ]
    arrays: dict[str, NDArray[Any]] = {
        f"channels/{name}": bpp for name, bpp in measured.channels.items()
    }
    return Record(tuple(rows), arrays | _arrays_of(measured.exhibit))


def measurement_of(record: Record, rungs: Sequence[Rung], settings: int) -> Measurement:
    """The measurement that a record stores, with this number of settings."""
    points: dict[str, list[Point | None]] = {rung.name: [None] * settings for rung in rungs}
    for row in record.rows:
        points[row["rung"]][row["setting"]] = Point(**{name: row[name] for name in _POINT})
    facts = {fact: record.rows[0][name] for name, fact in _PICTURE.items()}
    channels = _below("channels", record.arrays)
    exhibit = _exhibit_of(facts["name"], record.arrays)
    return Measurement(facts, [points[rung.name] for rung in rungs], channels, exhibit)


def _arrays_of(exhibit: Exhibit | None) -> dict[str, NDArray[Any]]:
    if exhibit is None:
        return {}
    found: dict[str, NDArray[Any]] = {
        "original": exhibit.original,
        "decoded": exhibit.decoded,
        "y": exhibit.y,
        "channel": np.array(exhibit.channel),
        "shown": np.array([exhibit.bpp, exhibit.psnr]),
    }
    for name in _MAPS:
        found |= {f"{name}/{key}": array for key, array in getattr(exhibit, name).items()}
    return found


def _exhibit_of(name: str, arrays: Mapping[str, NDArray[Any]]) -> Exhibit | None:
    if "original" not in arrays:
        return None
    bpp, psnr = arrays["shown"].tolist()
    y_hat, bits, losses = (_below(kind, arrays) for kind in _MAPS)
    channel = int(arrays["channel"])
    original, decoded, y = (arrays[kind] for kind in ("original", "decoded", "y"))
    return Exhibit(name, original, decoded, bpp, psnr, channel, y, y_hat, bits, losses)


def _below(prefix: str, arrays: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    start = f"{prefix}/"
    return {n.removeprefix(start): a for n, a in arrays.items() if n.startswith(start)}
