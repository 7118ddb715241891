"""What a ladder is once it is measured."""

from __future__ import annotations

import json
import math
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from waterfill.files import write_whole
from waterfill.ladder.rungs import BITSTREAM, Status

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Decomposition", "Exhibit", "Ladder", "Point", "RungResult"]


@dataclass(frozen=True)
class Point:
    """One rung, one picture (or a mean over pictures), one quality.

    Rates are in bits per pixel of the picture, ``psnr`` in dB, ``ms_ssim`` NaN where pictures are
    too small for it. ``parts`` splits ``bpp`` by what the bits buy.
    """

    quality: float
    bpp: float
    psnr: float
    ms_ssim: float
    mse: float
    parts: dict[str, float]


@dataclass(frozen=True)
class RungResult:
    """A rung over all pictures.

    Attributes
    ----------
    name, status, meaning
        As in :class:`~waterfill.ladder.rungs.Rung`.
    bpp, psnr, ms_ssim, parts
        Means over the pictures at the ladder's quality.
    curve
        Means over the pictures at every quality measured, ascending.
    bpp_at_equal_psnr
        Rate of this rung at the PSNR of the rung ``bitstream``, read off the curve.
    saved_bpp
        Bits per pixel saved against the rung above at that PSNR; negative where it costs more.
    """

    name: str
    status: str
    meaning: str
    bpp: float
    psnr: float
    ms_ssim: float
    parts: dict[str, float]
    curve: tuple[Point, ...]
    bpp_at_equal_psnr: float
    saved_bpp: float | None


@dataclass(frozen=True)
class Decomposition:
    """Where the bits between the file and the genie-aided limit go, at equal PSNR, in bpp.

    ``coder_overhead + quantisation + side_information + variance`` is ``achieved − limit``, with
    the signs as measured. ``limit`` and ``variance`` are genie-aided; ``honest`` is the lowest
    rate of an achievable rung.
    """

    psnr: float
    achieved_bpp: float
    coder_overhead_bpp: float
    quantisation_bpp: float
    side_information_bpp: float
    variance_bpp: float
    limit_bpp: float
    honest_rung: str
    honest_bpp: float
    tightest_group: str
    tightest_group_bpp: float
    method: str

    @property
    def sentence(self) -> str:
        """What holds the codec back, in one sentence."""
        losses = {
            "not knowing each latent's variance": self.variance_bpp,
            "side information": self.side_information_bpp,
            "scalar quantisation": self.quantisation_bpp,
            "the entropy coder": self.coder_overhead_bpp,
        }
        largest = max(losses, key=lambda name: losses[name])
        gap = self.achieved_bpp - self.limit_bpp
        gain = self.achieved_bpp - self.honest_bpp
        text = (
            f"At {self.psnr:.2f} dB this codec spends {self.achieved_bpp:.3f} bpp, "
            f"{gap:+.3f} against the genie-aided limit of {self.limit_bpp:.3f}; what holds it back "
            f"most is {largest} ({losses[largest]:.3f} bpp"
        )
        if largest.startswith("not knowing"):
            text += ", genie-aided: no real codec can have all of it"
        if gain > 1e-3 and self.honest_rung not in (BITSTREAM, "ideal coder"):
            text += (
                f"), while the best achievable rung, {self.honest_rung}, "
                f"saves {gain:.3f} bpp ({100 * gain / self.achieved_bpp:.0f} %)."
            )
        else:
            text += "), and no achievable rung of this ladder does better than its own coder."
        return text


@dataclass(frozen=True)
class Exhibit:
    """What the report shows of one picture; maps are (h, w) or (M, h, w) at latent resolution."""

    name: str
    original: NDArray[np.uint8]
    decoded: NDArray[np.uint8]
    bpp: float
    psnr: float
    channel: int
    y: NDArray[np.float32]
    y_hat: dict[str, NDArray[np.float32]]
    bits: dict[str, NDArray[np.float32]]


@dataclass(frozen=True)
class Ladder:
    """The result of :func:`limits`.

    Attributes
    ----------
    codec
        Name of the codec.
    quality
        The quality of the table; curves hold all that were measured.
    images
        Name, width and height of every picture.
    rungs
        One result per rung, from the file to the genie-aided limit.
    decomposition
        Where the bits between them go.
    rows
        Every measurement: picture, rung, quality.
    exhibits
        Material for the report, of the first pictures.
    environment
        Versions, machine, seed and date.
    """

    codec: str
    quality: float
    images: tuple[dict[str, Any], ...]
    rungs: tuple[RungResult, ...]
    decomposition: Decomposition
    rows: tuple[dict[str, Any], ...]
    exhibits: tuple[Exhibit, ...] = field(repr=False)
    environment: dict[str, Any] = field(repr=False)

    def to_dict(self) -> dict[str, Any]:
        """The ladder as JSON-able data; NaN becomes ``None``."""
        decomposition = {
            **{k: v for k, v in self.decomposition.__dict__.items()},
            "sentence": self.decomposition.sentence,
        }
        rungs = []
        for rung in self.rungs:
            row = {k: v for k, v in rung.__dict__.items() if k != "curve"}
            row["curve"] = [dict(point.__dict__) for point in rung.curve]
            rungs.append(row)
        result = {
            "codec": self.codec,
            "quality": self.quality,
            "images": list(self.images),
            "rungs": rungs,
            "decomposition": decomposition,
            "rows": list(self.rows),
            "environment": self.environment,
        }
        cleaned: dict[str, Any] = _without_nan(result)
        return cleaned

    def to_json(self) -> str:
        """The ladder as JSON text."""
        return json.dumps(self.to_dict(), indent=1, ensure_ascii=False, allow_nan=False) + "\n"

    def to_frame(self) -> pd.DataFrame:
        """Every measurement as a pandas table: one row per picture, rung and quality."""
        import pandas as pd

        rows = [{k: v for k, v in row.items() if k != "parts"} for row in self.rows]
        return pd.DataFrame(rows)

    def report(self, path: str | os.PathLike[str]) -> None:
        """Write the self-contained HTML report, whole or not at all.

        Raises
        ------
        WaterfillError
            If the file can't be written.
        """
        from waterfill.report.html import render

        write_whole(path, render(self))


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _without_nan(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return str(value) if isinstance(value, Status) else value
