"""What a ladder is once it is measured."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from waterfill.files import as_json, without_nan, write_whole
from waterfill.ladder.rungs import BITSTREAM

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["TERMS", "Decomposition", "Exhibit", "Ladder", "Point", "RungResult"]

#: What lies between the rate that is achieved and the limit, in this order: fields of the
#: decomposition without their ``_bpp``, and how they are called.
TERMS = {
    "coder_overhead": "coder overhead",
    "quantisation": "quantisation",
    "context": "unused context",
    "side_information": "side information",
    "variance": "variance",
}


@dataclass(frozen=True)
class Point:
    """One rung, one picture (or a mean over pictures), one setting.

    Attributes
    ----------
    quality
        1 … 8; NaN for a codec of one rate.
    bpp
        Bits per pixel of the picture, all that the rung charges.
    psnr
        Of 8-bit pixels, dB.
    ms_ssim
        Up to 1; NaN where pictures are too small for it, and at settings that only serve
        comparisons at equal PSNR.
    mse
        In squared 8-bit steps.
    parts
        ``bpp`` by what the bits buy; its values add up to it.
    step
        Quantisation step relative to the codec's own.
    price
        The codec's λ at that step, in bpp + λ·255²·MSE; NaN where unknown.
    """

    quality: float
    bpp: float
    psnr: float
    ms_ssim: float
    mse: float
    parts: dict[str, float]
    step: float = 1.0
    price: float = math.nan

    @property
    def label(self) -> str:
        """The setting, for tables and figures."""
        return setting_label(self.quality, self.step)


def setting_label(quality: float, step: float = 1.0) -> str:
    """A setting in words: a quality, a step relative to the codec's own, or its only rate."""
    if step != 1.0:
        return f"step × {step:.3g}"
    return f"quality {quality:g}" if math.isfinite(quality) else "its own rate"


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
        Means over the pictures at every setting measured, ascending in rate.
    bpp_at_equal_psnr
        Rate of this rung at the PSNR of what the codec itself shows, read off the curve; NaN where
        that comes nowhere near.
    saved_bpp
        Bits per pixel saved there against what the codec itself does, the first rung; negative
        where it costs more, None of the first.
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
    """Where the bits between the codec and a genie-aided limit go, at equal PSNR, in bpp.

    ``coder_overhead + quantisation + context + side_information + variance`` is
    ``achieved − limit``, with the signs as measured.

    Attributes
    ----------
    psnr
        PSNR of the codec's reconstructions, dB.
    achieved_bpp
        Rate of its files, or of the ideal coder where it makes none.
    coder_overhead_bpp
        Rate of the file in excess of its ideal code length.
    quantisation_bpp
        Rounding's rate over that of Gaussian noise, by the same prior.
    trellis_bpp
        How much of that trellis-coded quantisation gets back, at its simplest.
    context_bpp
        What could still be predicted from latents that have arrived, with little effort.
    side_information_bpp
        z, and the few bits of that context.
    variance_bpp
        What not knowing each latent's variance costs, half the Itakura–Saito divergence:
        genie-aided.
    limit_bpp
        What is left: every variance told for free about the predicted mean, genie-aided.
    best_achievable_rung, best_achievable_bpp
        The rung of lowest rate that is not genie-aided.
    tightest_group, tightest_group_bpp
        The same of those that group variances and pay for them; None and NaN where not all of them
        come near that PSNR.
    method
        How rates came to equal PSNR.
    bd_rates
        BD-rate against what the codec does, percent, of its ideal coder, a trellis and noise in
        place of rounding, the context, and (genie-aided) variances told; what could be computed.
    intervals
        95 % intervals by bootstrap over pictures, (low, high) in bpp by term; none below
        :data:`~waterfill.evaluation.bd.LEAST_PICTURES`, nor for a term that some resample doesn't
        have.
    """

    psnr: float
    achieved_bpp: float
    coder_overhead_bpp: float
    quantisation_bpp: float
    trellis_bpp: float
    context_bpp: float
    side_information_bpp: float
    variance_bpp: float
    limit_bpp: float
    best_achievable_rung: str
    best_achievable_bpp: float
    tightest_group: str | None
    tightest_group_bpp: float
    method: str
    bd_rates: dict[str, float] = field(default_factory=dict)
    intervals: dict[str, tuple[float, float]] = field(default_factory=dict)

    @property
    def sentence(self) -> str:
        """What holds the codec back, in one sentence."""
        if not math.isfinite(self.limit_bpp):
            return (
                f"At {self.psnr:.2f} dB this codec spends {self.achieved_bpp:.3f} bpp; the "
                "Gaussian channels come nowhere near that PSNR, so there is nothing to compare."
            )
        losses = {
            "not knowing each latent's variance": self.variance_bpp,
            "side information": self.side_information_bpp,
            "scalar quantisation": self.quantisation_bpp,
            "context that goes unused": self.context_bpp,
            "the entropy coder": self.coder_overhead_bpp,
        }
        gap = self.achieved_bpp - self.limit_bpp
        losses = {name: bpp for name, bpp in losses.items() if math.isfinite(bpp)}
        if not math.isfinite(self.quantisation_bpp):  # nor the context, but both together
            rest = gap - sum(losses.values())
            losses["scalar quantisation and unused context together"] = rest
        largest = max(losses, key=lambda name: losses[name])
        gain = self.achieved_bpp - self.best_achievable_bpp
        text = (
            f"At {self.psnr:.2f} dB this codec spends {self.achieved_bpp:.3f} bpp, "
            f"{gap:+.3f} against the genie-aided limit of {self.limit_bpp:.3f}; what holds it back "
            f"most is {largest} ({losses[largest]:.3f} bpp"
        )
        if largest.startswith("not knowing"):
            text += ", genie-aided: no real codec can have all of it"
        if gain > 1e-3 and self.best_achievable_rung not in (BITSTREAM, "ideal coder"):
            text += (
                f"), while the best achievable rung, {self.best_achievable_rung}, "
                f"saves {gain:.3f} bpp ({100 * gain / self.achieved_bpp:.0f} %)."
            )
        else:
            text += "), and no achievable rung of this ladder does better than its own coder."
        return text


@dataclass(frozen=True)
class Exhibit:
    """What the report shows of one picture; maps are (h, w) at the resolution of latents.

    ``y`` and ``y_hat`` are of one channel, ``bits`` by rung and ``losses`` by term sums over all.
    """

    name: str
    original: NDArray[np.uint8]
    decoded: NDArray[np.uint8]
    bpp: float
    psnr: float
    channel: int
    y: NDArray[np.float32]
    y_hat: dict[str, NDArray[np.float32]]
    bits: dict[str, NDArray[np.float32]]
    losses: dict[str, NDArray[np.float32]]


@dataclass(frozen=True)
class Ladder:
    """The result of :func:`limits`.

    Attributes
    ----------
    codec
        Name of the codec.
    quality
        The quality of the table, NaN for codecs of other make; curves hold all that were measured.
    images
        Name, width and height of every picture.
    rungs
        One result per rung, from the file to the genie-aided limit.
    decomposition
        Where the bits between them go.
    per_image
        The same for every picture by itself.
    channels
        By rung, or term, the latents' bits of each channel, bpp (M,) at the ladder's quality, means
        over the pictures.
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
    per_image: tuple[Decomposition, ...]
    channels: dict[str, NDArray[np.float64]] = field(repr=False)
    rows: tuple[dict[str, Any], ...]
    exhibits: tuple[Exhibit, ...] = field(repr=False)
    environment: dict[str, Any] = field(repr=False)

    @property
    def setting(self) -> str:
        """Where the table is measured, in words."""
        return setting_label(self.quality)

    def to_dict(self) -> dict[str, Any]:
        """The ladder as JSON-able data; NaN becomes ``None``."""
        decomposition = {
            **self.decomposition.__dict__,
            "sentence": self.decomposition.sentence,
            "genie_aided": ["variance_bpp", "limit_bpp"],
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
            "per_image": [
                {"image": image["name"], **one.__dict__}
                for image, one in zip(self.images, self.per_image, strict=True)
            ],
            "channels": {name: bpp.round(9).tolist() for name, bpp in self.channels.items()},
            "rows": list(self.rows),
            "environment": self.environment,
        }
        cleaned: dict[str, Any] = without_nan(result)
        return cleaned

    def to_json(self) -> str:
        """The ladder as JSON text."""
        return as_json(self.to_dict())

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
