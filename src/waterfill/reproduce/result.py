"""What is asked of a reproduction, and what it gives."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from waterfill.errors import WaterfillError
from waterfill.seeds import check_seed

__all__ = [
    "SCALES",
    "Line",
    "Reproduction",
    "Request",
    "Table",
    "Verdict",
    "percent",
    "percents",
    "said",
]

#: ``mini``: minutes on two cores; ``night``: hours on them; ``full``: the paper's, for a GPU.
SCALES = ("mini", "night", "full")


@dataclass(frozen=True)
class Request:
    """What a reproduction works with.

    Attributes
    ----------
    scale
        One of :data:`SCALES`.
    pictures
        To measure on: the paper's are Kodak's. Empty for built-in photographs.
    photographs
        To train on, where training is part of it.
    runs
        Folder of the trainings, which are taken up where they stand.
    seed
        Of channels' noise, of patches and of estimators; trainings have their own.
    progress
        Called with steps done, steps in all (None where unknown), and what is at hand.

    Raises
    ------
    WaterfillError
        For an unknown scale or an invalid seed.
    """

    scale: str = "mini"
    pictures: Sequence[Any] = ()
    photographs: Sequence[str] = ()
    runs: Path = Path("runs/reproduce")
    seed: int = 0
    progress: Callable[[int, int | None, str], None] = lambda done, total, what: None

    def __post_init__(self) -> None:
        if self.scale not in SCALES:
            raise WaterfillError(f"scale must be one of {', '.join(SCALES)}, not {self.scale!r}")
        check_seed(self.seed)


@dataclass(frozen=True)
class Line:
    """A line of a figure; dashed and named so if it is genie-aided.

    One ``beside`` is the line before it on other data: thin, in the same colour.
    """

    name: str
    x: tuple[float, ...]
    y: tuple[float, ...]
    genie: bool = False
    beside: bool = False


@dataclass(frozen=True)
class Table:
    """Rows of text and numbers under names of columns, with their units."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]


@dataclass(frozen=True)
class Verdict:
    """A claim of the paper, and what became of it.

    Attributes
    ----------
    claim
        In one sentence.
    verdict
        ``reproduced``, ``not reproduced``, ``not resolved`` where the measurement's own spread
        hides it or curves can't be compared, or ``cannot be``.
    measured
        The figures that say so.
    """

    claim: str
    verdict: str
    measured: str


@dataclass(frozen=True)
class Reproduction:
    """A figure or table of a paper, computed again.

    Attributes
    ----------
    name, title
        Its name on the command line, and what it shows.
    scale
        At which it was computed.
    axes
        Titles of the axes with units, x first; empty without a figure.
    lines
        Of the figure.
    tables
        Ours beside the paper's.
    verdicts
        On the paper's claims.
    notes
        What the reader must know: what is genie-aided, what was smaller than in the paper.
    environment
        Command, seed, versions, machine, date.
    pictures
        By caption: 8-bit pictures to show.
    """

    name: str
    title: str
    scale: str
    axes: tuple[str, ...]
    lines: tuple[Line, ...]
    tables: tuple[Table, ...]
    verdicts: tuple[Verdict, ...]
    notes: tuple[str, ...]
    environment: Mapping[str, Any]
    pictures: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """As JSON-able data, pictures left out."""
        return {
            "name": self.name,
            "title": self.title,
            "scale": self.scale,
            "axes": list(self.axes),
            "lines": [dict(line.__dict__) for line in self.lines],
            "tables": [dict(table.__dict__) for table in self.tables],
            "verdicts": [dict(verdict.__dict__) for verdict in self.verdicts],
            "notes": list(self.notes),
            "environment": dict(self.environment),
        }

    def to_csv(self) -> str:
        """The tables as CSV, one after the other; of a figure its points first."""
        text = io.StringIO()
        out = csv.writer(text, lineterminator="\n")
        if self.lines:
            out.writerow(["line", "genie-aided", *self.axes])
            for line in self.lines:
                for x, y in zip(line.x, line.y, strict=True):
                    out.writerow([line.name, "yes" if line.genie else "no", f"{x:.6g}", f"{y:.6g}"])
        for table in self.tables:
            if text.tell():
                out.writerow([])
            out.writerow(table.columns)
            out.writerows(table.rows)
        return text.getvalue()


def said(holds: bool, *rates: float) -> str:
    """The verdict on a claim; not resolved where one of the rates that it rests on is NaN."""
    if any(math.isnan(rate) for rate in rates):
        return "not resolved"
    return "reproduced" if holds else "not reproduced"


def percent(value: float, digits: int = 1) -> str:
    """A change in percent with a true minus sign; a dash where there is none."""
    return f"{value:+.{digits}f} %".replace("-", "−") if math.isfinite(value) else "—"


def percents(values: Sequence[float]) -> str:
    """Percentages from the lowest to the highest, one where they read alike."""
    low, high = percent(min(values)), percent(max(values))
    return low if low == high else f"{low} to {high}"
