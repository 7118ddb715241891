"""The result of an evaluation: rows, mean curves, and BD-rates against any anchor."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from waterfill.codec.complexity import Complexity
from waterfill.errors import WaterfillError
from waterfill.evaluation.bd import BDResult, Method, compare
from waterfill.evaluation.kodak import is_kodak
from waterfill.evaluation.published import PublishedCurve, published_curve
from waterfill.evaluation.rows import Metric, Row, Summary, summarise
from waterfill.files import as_json

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Comparison", "Contender", "Evaluation"]


@dataclass(frozen=True)
class Contender:
    """A codec that was measured.

    Attributes
    ----------
    name, kind, title
        For tables; ``own`` or ``conventional``; for people.
    version
        Library and version, or the identity of the weights.
    settings
        What the encoder was told, one text per point.
    caveat
        What to know before comparing.
    complexity
        Of own codecs: parameters, and multiplications for a pixel.
    """

    name: str
    kind: Literal["own", "conventional"]
    title: str
    version: str
    settings: tuple[str, ...]
    caveat: str
    complexity: Complexity | None = None


@dataclass(frozen=True)
class Comparison:
    """One cell of the BD-rate matrix.

    Attributes
    ----------
    anchor, test
        Names; a published anchor's begins with ``published:``.
    domain
        None for all pictures.
    metric
        Quality metric that rates are compared at.
    result
        None where the curves can't be compared.
    reason
        Why not; empty where they can.
    caveats
        Caveats of anchor, test and comparison, a line each.
    other_pictures
        Whether the anchor is a published curve of other pictures than those measured.
    """

    anchor: str
    test: str
    domain: str | None
    metric: Metric
    result: BDResult | None
    reason: str
    caveats: tuple[str, ...]
    other_pictures: bool = False


@dataclass(frozen=True)
class Evaluation:
    """Everything that was measured, and what follows from it.

    Attributes
    ----------
    rows
        One per picture, codec and setting.
    codecs
        In the order in which they were asked for.
    seed
        Seed of the intervals.
    environment
        What the figures come from.
    """

    rows: tuple[Row, ...] = field(repr=False)
    codecs: tuple[Contender, ...]
    seed: int = 0
    environment: dict[str, Any] = field(default_factory=dict, repr=False)

    @cached_property
    def domains(self) -> tuple[str, ...]:
        """Names of the pictures' folders, in order of appearance."""
        return tuple(dict.fromkeys(row.domain for row in self.rows))

    def codec(self, name: str) -> Contender:
        """What was measured under a name.

        Raises
        ------
        WaterfillError
            If nothing was.
        """
        for codec in self.codecs:
            if codec.name == name:
                return codec
        raise WaterfillError(
            f"no codec named {name!r} was measured; there are "
            f"{', '.join(codec.name for codec in self.codecs)}"
        )

    def _rows(self, codec: str, domain: str | None) -> dict[str, list[Row]]:
        """Rows of a codec by setting, in the order of its settings."""
        found: dict[str, list[Row]] = {setting: [] for setting in self.codec(codec).settings}
        if domain is not None and domain not in self.domains:
            raise WaterfillError(
                f"no domain is named {domain!r}; there are {', '.join(self.domains)}"
            )
        for row in self.rows:
            if row.codec == codec and domain in (None, row.domain):
                found[row.setting].append(row)
        return found

    def curve(
        self, codec: str, domain: str | None = None, metric: Metric = "psnr"
    ) -> tuple[Summary, ...]:
        """Mean curve of a codec, on all pictures or on those of a domain.

        By MS-SSIM its rates, too, are means over the pictures large enough to have one, if any is.
        """
        by_setting = list(self._rows(codec, domain).values())
        if metric == "ms_ssim":
            by_setting = [[r for r in rows if r.has_ms_ssim] or rows for rows in by_setting]
        return tuple(summarise(rows) for rows in by_setting)

    def points(
        self, codec: str, domain: str | None = None, metric: Metric = "psnr"
    ) -> NDArray[np.float64]:
        """Its (bpp, dB) as (n, 2), without settings that lose nothing or have no MS-SSIM."""
        points = self.curve(codec, domain, metric)
        pairs = [(point.bpp, point.quality(metric)) for point in points]
        return np.array([p for p in pairs if math.isfinite(p[1])], float).reshape(-1, 2)

    def _stack(self, codec: str, domain: str | None, metric: Metric) -> NDArray[np.float64]:
        """(pictures, n, 2) where every picture has every point, else the mean curve (n, 2).

        Like :meth:`points`, without settings at which a picture comes back exact.
        """
        by_setting = self._rows(codec, domain).values()
        if metric == "psnr":  # a mean of MS-SSIM in dB is not that of the mean
            found = np.array([[(r.bpp, r.psnr) for r in rows] for rows in by_setting])
            finite = found[np.isfinite(found).all((1, 2))]
            return np.ascontiguousarray(finite.transpose(1, 0, 2))
        return self.points(codec, domain, metric)

    def _left_out(self, codec: str, domain: str | None, metric: Metric) -> list[str]:
        """What to know where a curve lacks settings because a picture came back exact."""
        settings = len(self.codec(codec).settings)
        exact = sum(math.isinf(p.quality(metric)) for p in self.curve(codec, domain, metric))
        if not exact:
            return []
        return [f"{codec}: {exact} of {settings} settings left out, a picture came back exact"]

    def anchor(self, name: str) -> Contender | PublishedCurve:
        """What an anchor's name stands for: a measured codec first, then a published curve.

        Raises
        ------
        WaterfillError
            If it is neither.
        """
        for codec in self.codecs:
            if codec.name == name:
                return codec
        try:
            return published_curve(name)
        except WaterfillError as error:
            measured = ", ".join(codec.name for codec in self.codecs)
            raise WaterfillError(f"unknown anchor: {error} (measured: {measured})") from None

    def compare(
        self,
        anchor: str,
        test: str,
        *,
        domain: str | None = None,
        metric: Metric = "psnr",
        method: Method = "pchip",
        resamples: int = 500,
    ) -> Comparison:
        """BD-rate of a measured codec against an anchor.

        Parameters
        ----------
        anchor
            A measured codec or a published curve; ``published:`` before a name asks for the latter.
        test
            A measured codec.
        domain
            None for all pictures.
        metric, method, resamples
            As for :func:`~waterfill.evaluation.bd.compare`. Intervals are given for PSNR, from
            eight pictures on.

        Raises
        ------
        WaterfillError
            If a name is unknown.
        """
        against, tested = self.anchor(anchor), self.codec(test)
        caveats = [f"{tested.name}: {tested.caveat}"] if tested.caveat else []
        name, others = anchor, False
        if isinstance(against, PublishedCurve):
            name = f"published:{against.name}"
            rows = next(iter(self._rows(test, domain).values()))
            others = not is_kodak([row.pixels for row in rows])
            if others:
                these = "this one is another" if len(rows) == 1 else f"these {len(rows)} are others"
                caveats.append(f"{name}: is of the 24 Kodak photographs; {these}")
        if against.caveat:
            caveats.append(f"{name}: {against.caveat}")
        measured = [test] if isinstance(against, PublishedCurve) else [anchor, test]
        for codec in measured:
            caveats += self._left_out(codec, domain, metric)
        try:
            points = (
                against.array(metric)
                if isinstance(against, PublishedCurve)
                else self._stack(anchor, domain, metric)
            )
            found = compare(
                points,
                self._stack(test, domain, metric),
                method=method,
                resamples=resamples,
                seed=self.seed,
            )
        except WaterfillError as error:
            return Comparison(name, test, domain, metric, None, str(error), tuple(caveats), others)
        return Comparison(name, test, domain, metric, found, "", tuple(caveats), others)

    def bd_rates(
        self,
        anchors: Iterable[str],
        *,
        metric: Metric = "psnr",
        method: Method = "pchip",
        resamples: int = 500,
    ) -> tuple[Comparison, ...]:
        """The matrix: every measured codec against every anchor, on all pictures and by domain.

        Published anchors are not compared with on pictures of a domain that is not Kodak's.
        """
        places = [None, *(self.domains if len(self.domains) > 1 else ())]
        found = []
        for anchor in anchors:
            published = isinstance(self.anchor(anchor), PublishedCurve)
            for codec in self.codecs:
                if codec.name == anchor:
                    continue
                for domain in places:
                    if published and len(self.domains) > 1 and not self._of_kodak(domain):
                        continue
                    found.append(
                        self.compare(
                            anchor,
                            codec.name,
                            domain=domain,
                            metric=metric,
                            method=method,
                            resamples=resamples,
                        )
                    )
        return tuple(found)

    def _of_kodak(self, domain: str | None) -> bool:
        rows = {r.pixels: None for r in self.rows if domain in (None, r.domain)}
        return is_kodak(list(rows))

    def to_frame(self) -> pd.DataFrame:
        """The rows, one column for each attribute."""
        import pandas as pd

        return pd.DataFrame([asdict(row) for row in self.rows])

    def to_csv(self) -> str:
        """The rows as CSV; what is not a number is an empty field, infinite PSNR ``inf``."""
        text = io.StringIO()
        names = [item.name for item in fields(Row)]
        writer = csv.DictWriter(text, names, lineterminator="\n")
        writer.writeheader()
        for row in self.rows:
            values = asdict(row)
            for name, value in values.items():
                if isinstance(value, float) and math.isnan(value):
                    values[name] = ""
            writer.writerow(values)
        return text.getvalue()

    def to_json(
        self, anchors: Iterable[str] = (), *, metric: Metric = "psnr", resamples: int = 500
    ) -> str:
        """Rows, mean curves in all places, the matrix against ``anchors``, and the environment."""
        places = [None, *(self.domains if len(self.domains) > 1 else ())]
        data = {
            "codecs": [asdict(codec) for codec in self.codecs],
            "domains": list(self.domains),
            "curves": [
                {"domain": place} | asdict(point)
                for place in places
                for codec in self.codecs
                for point in self.curve(codec.name, place)
            ],
            "bd_rates": [
                asdict(cell) for cell in self.bd_rates(anchors, metric=metric, resamples=resamples)
            ],
            "rows": [asdict(row) for row in self.rows],
            "environment": self.environment,
        }
        return as_json(data)
