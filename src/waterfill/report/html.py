"""The report: one HTML file that holds everything it shows and works offline."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

from waterfill.ladder.result import TERMS, Decomposition, Exhibit, Ladder, RungResult
from waterfill.ladder.rungs import BITSTREAM, IDEAL, Status
from waterfill.report import figures
from waterfill.report.figures import GENIE
from waterfill.report.maps import (
    SMALLEST_WIDTH,
    ColourScale,
    crop_for_show,
    data_uri,
    diverging,
    sequential,
)
from waterfill.report.page import fill
from waterfill.report.text import number, provenance

__all__ = ["render"]


def render(ladder: Ladder) -> str:
    """The report of a ladder as the text of one HTML file.

    Parameters
    ----------
    ladder
        What was measured.

    Returns
    -------
    str
        A page without external resources: scripts, styles, pictures and figures are inside.
    """
    genies = {rung.name for rung in ladder.rungs if rung.status == GENIE}
    rows = _rows(ladder)
    return fill(
        "ladder.html.j2",
        ladder=ladder,
        part_names=_part_names(ladder),
        rows=rows,
        doubts=_by_reason(rows),
        without_ms_ssim=_without_ms_ssim(ladder),
        settings=[point.label for point in ladder.rungs[-1].curve],
        first=ladder.rungs[0].name,
        statuses=_statuses(ladder),
        terms=_terms(ladder),
        term_names=TERMS,
        steps=figures.steps(ladder),
        figures={
            "curves": figures.plain(figures.rate_distortion(ladder)),
            "waterfall": figures.plain(figures.decomposition(ladder)),
            "channels": figures.plain(figures.channels(ladder)),
        },
        exhibits=[_exhibit(exhibit, genies) for exhibit in ladder.exhibits],
        provenance=provenance(ladder.environment),
    )


def _part_names(ladder: Ladder) -> list[str]:
    """Every part of any rung's rate, in order of first appearance."""
    return list(dict.fromkeys(name for rung in ladder.rungs for name in rung.parts))


#: What a rung's number is, in words.
_STATUSES: dict[Status, str] = {
    Status.ACHIEVED: "measured on the file, every byte counted.",
    Status.ACHIEVED_IDEAL: "the symbols that the codec sends, at their ideal code length.",
    Status.ACHIEVABLE: "a rate that some real coder reaches on average, at whatever complexity.",
    Status.GENIE: "the decoder is told something for free that no real decoder can know; "
    "it bounds R(D) in neither direction.",
}


def _statuses(ladder: Ladder) -> dict[str, str]:
    """Of the rungs that there are, in the order of what they prove."""
    there = {rung.status for rung in ladder.rungs}
    return {status.value: text for status, text in _STATUSES.items() if status.value in there}


#: What gets some of a term back in a codec of this package.
_REMEDIES: dict[str, str] = {
    "coder_overhead": "nothing worth having: headers, and the last word of each tile",
    "quantisation": "better symbols for the same networks: waterfill compress --effort 8, and "
    "--trellis where the prior is Gaussian",
    "context": "a context in the codec's prior: architectures autoregressive, space-channel",
    "side_information": "a smaller hyper-latent, or a context that needs less of it",
    "variance": "a better prior, in part; what is left no decoder can know",
}
#: In one of other make, which has neither files nor this package's options.
_REMEDIES_ELSEWHERE: dict[str, str] = _REMEDIES | {
    "coder_overhead": "none is counted: the codec was measured without files",
    "quantisation": "better symbols for the same networks: a trellis, or a search by their cost",
    "context": "a context in the codec's prior",
}


@dataclass(frozen=True)
class _Term:
    """A term of the decomposition as the table shows it."""

    name: str
    remedy: str
    genie: bool
    bpp: float
    percent: float
    interval: tuple[float, float] | None


def _terms(ladder: Ladder) -> list[_Term]:
    parts = ladder.decomposition
    remedies = _REMEDIES if ladder.rungs[0].name == BITSTREAM else _REMEDIES_ELSEWHERE
    return [
        _Term(
            name,
            remedies[key] + (_by_trellis(parts) if key == "quantisation" else ""),
            key == "variance",
            bpp := getattr(parts, f"{key}_bpp"),
            100.0 * bpp / parts.achieved_bpp if parts.achieved_bpp else math.nan,
            parts.intervals.get(key),
        )
        for key, name in TERMS.items()
    ]


def _by_trellis(parts: Decomposition) -> str:
    """What the trellis alone was measured to get back."""
    return f" (the trellis alone: {number(parts.trellis_bpp, sign=True)} bpp)"


@dataclass(frozen=True)
class _Row:
    """A rung as the table shows it; ``widths`` are percentages of the longest bar."""

    rung: RungResult
    genie: bool
    ms_ssim_db: float
    saved_percent: float | None
    widths: dict[str, float]
    doubt: str


def _rows(ladder: Ladder) -> list[_Row]:
    longest = max(rung.bpp for rung in ladder.rungs)
    rows = []
    achieved = ladder.rungs[0].bpp_at_equal_psnr
    for rung in ladder.rungs:
        percent = None
        if rung.saved_bpp is not None and achieved > 0:
            percent = 100.0 * rung.saved_bpp / achieved
        widths = {
            name: 100.0 * max(bpp, 0.0) / longest if longest > 0 else 0.0
            for name, bpp in rung.parts.items()
        }
        rows.append(
            _Row(
                rung,
                rung.status == GENIE,
                -10.0 * math.log10(1.0 - rung.ms_ssim) if rung.ms_ssim < 1.0 else math.nan,
                percent,
                widths,
                _doubt(rung, ladder.decomposition.psnr),
            )
        )
    return rows


def _doubt(rung: RungResult, psnr: float) -> str:
    """Why the rate at equal PSNR should be taken with care, or nothing."""
    if rung.name in (BITSTREAM, IDEAL):
        return ""  # both have the table's PSNR: no curve was read
    reached = [point.psnr for point in sorted(rung.curve, key=lambda point: point.bpp)]
    if len(reached) < 2:
        return ""
    if any(higher <= lower for lower, higher in pairwise(reached)):
        return "The PSNR does not rise with the rate along this curve"
    if not min(reached) - 1e-6 <= psnr <= max(reached) + 1e-6:
        return "Extrapolated beyond the measured curve"
    return ""


def _by_reason(rows: list[_Row]) -> dict[str, list[str]]:
    """Names of the rungs in doubt, by reason."""
    reasons: dict[str, list[str]] = {}
    for row in rows:
        if row.doubt:
            reasons.setdefault(row.doubt, []).append(row.rung.name)
    return reasons


def _without_ms_ssim(ladder: Ladder) -> int:
    """Number of pictures that are too small for MS-SSIM."""
    return sum(
        row["rung"] == IDEAL
        and row["step"] == 1.0
        and (row["quality"] == ladder.quality or math.isnan(ladder.quality))
        and not math.isfinite(row["ms_ssim"])
        for row in ladder.rows
    )


@dataclass(frozen=True)
class _Map:
    """A painted map: its name, its image, and what it spends or shares."""

    name: str
    genie: bool
    uri: str
    note: str


@dataclass(frozen=True)
class _Shown:
    """An exhibit as the page shows it."""

    exhibit: Exhibit
    height: int
    width: int
    cropped: bool
    shown_width: int
    original: str
    decoded: str
    values: list[_Map]
    value_scale: ColourScale
    bits: list[_Map]
    bit_scale: ColourScale
    losses: list[_Map]
    loss_scale: ColourScale
    map_aspect: str
    leak: str


def _exhibit(exhibit: Exhibit, genies: set[str]) -> _Shown:
    original, decoded = crop_for_show(exhibit.original), crop_for_show(exhibit.decoded)
    height, width = original.shape[:2]
    value_scale = diverging([exhibit.y, *exhibit.y_hat.values()])
    bit_scale = sequential(exhibit.bits.values())
    loss_scale = diverging(list(exhibit.losses.values()))
    pixels = exhibit.original.shape[0] * exhibit.original.shape[1]
    return _Shown(
        exhibit,
        height,
        width,
        original.shape != exhibit.original.shape,
        max(width, SMALLEST_WIDTH),
        data_uri(original),
        data_uri(decoded),
        [
            _Map("y", False, value_scale.paint(exhibit.y), "before the channel"),
            *(
                _Map(name, name in genies, value_scale.paint(y_hat), "ŷ")
                for name, y_hat in exhibit.y_hat.items()
            ),
        ],
        value_scale,
        [
            _Map(
                name,
                name in genies,
                bit_scale.paint(bits),
                f"{number(float(bits.sum(dtype='float64')) / pixels)} bpp of latents",
            )
            for name, bits in exhibit.bits.items()
        ],
        bit_scale,
        [
            _Map(
                TERMS[key],
                key == "variance",
                loss_scale.paint(bits),
                f"{number(float(bits.sum(dtype='float64')) / pixels, sign=True)} bpp",
            )
            for key, bits in exhibit.losses.items()
        ],
        loss_scale,
        f"{exhibit.y.shape[1]} / {exhibit.y.shape[0]}",
        _mask_leak(exhibit, genies),
    )


def _mask_leak(exhibit: Exhibit, genies: set[str]) -> str:
    """What exact zeros tell for free: the entropy of the significance map, per latent."""
    for name, y_hat in exhibit.y_hat.items():
        if name in genies:
            share = float((y_hat == 0).mean())
            entropy = sum(-p * math.log2(p) for p in (share, 1.0 - share) if p > 0)
            return (
                f"In this channel {100 * share:.1f} % of the oracle's ŷ are exactly 0; "
                f"which ones is worth up to {entropy:.3f} bit per latent, and is not charged."
            )
    return ""
