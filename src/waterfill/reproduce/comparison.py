"""What paper 1 compares its limit with: practical codecs and other estimates (figure 5a)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from waterfill.codec.registry import load_codec
from waterfill.data.images import as_picture, sample_pictures
from waterfill.errors import WaterfillError
from waterfill.evaluation.bd import compare
from waterfill.evaluation.cache import fingerprint
from waterfill.evaluation.kodak import is_kodak
from waterfill.evaluation.published import published_curve
from waterfill.ladder import limits
from waterfill.ladder.decompose import efficient
from waterfill.ladder.rungs import BITSTREAM, CONTEXT, POSTERIOR, TRELLIS, Status
from waterfill.provenance import environment
from waterfill.reproduce.patches import (
    ATOMS,
    QUALITIES_READ,
    PatchBound,
    bounds_on_patches,
    gap_at_equal_psnr,
)
from waterfill.reproduce.result import (
    Line,
    Reproduction,
    Request,
    Table,
    Verdict,
    percent,
    percents,
    said,
)

__all__ = ["fig5a"]

_QUALITIES = (1.0, 3.0, 5.0, 7.0)
_ORACLES = ("oracle, test channel", "oracle, test channel, context")
_ACHIEVABLE = (TRELLIS, POSTERIOR, CONTEXT)
_RUNGS = (BITSTREAM, *_ACHIEVABLE, *_ORACLES)
#: Of an estimator on patches.
_UPPER = "upper bound on R(D)"
#: Published curves beside it, and the anchor of all comparisons.
_ANCHOR = "vtm"
_PUBLISHED = (_ANCHOR, "bpg", "hyperprior", "mbt2018", "elic", "LALIC", "HPCM-Large", "yang-mandt")


def fig5a(request: Request) -> Reproduction:
    """The ladder of a codec beside published codecs and bounds on R(D), on photographs.

    Estimators on patches are part of it where there are photographs to fit them on.
    """
    pictures = [as_picture(item) for item in list(request.pictures) or sample_pictures()]
    bounds = bounds_on_patches(request, pictures) if request.photographs else []
    kodak = is_kodak([fingerprint(picture) for picture in pictures])
    codec = load_codec()
    ladder = limits(
        codec,
        pictures,
        _QUALITIES,
        seed=request.seed,
        progress=lambda done, total, what: request.progress(done, total, f"measuring {what}"),
    )
    lines, rows = [], []
    anchor = published_curve(_ANCHOR).array()
    rates: dict[str, float] = {}
    curves: dict[str, NDArray[np.float64]] = {}
    for name in _RUNGS:
        (rung,) = (one for one in ladder.rungs if one.name == name)
        points = curves[name] = np.array([(p.bpp, p.psnr) for p in efficient(rung.curve)])
        genie = rung.status == Status.GENIE
        lines.append(_line(f"bundled codec: {name}", points, genie=genie))
        rates[name] = _rate(anchor, points)
        rows.append((f"bundled codec: {name}", str(rung.status), percent(rates[name])))
    for name in _PUBLISHED:
        curve = published_curve(name)
        lines.append(_line(f"published: {curve.name}", curve.array()))
        rates[name] = _rate(anchor, curve.array())
        rows.append((f"published: {curve.name}", curve.status, percent(rates[name])))
    for bound in bounds:
        points = np.column_stack([bound.bpp, bound.psnr])
        lines.append(_line(bound.label, points))
        rows.append((bound.label, _UPPER, percent(_rate(anchor, points))))
    lines += _ceilings(bounds)
    return Reproduction(
        "fig5a",
        "The limit beside practical codecs and other estimates (paper 1, figure 5a)",
        request.scale,
        ("rate (bpp)", "PSNR (dB)"),
        tuple(lines),
        (
            Table("BD-rate against VTM-9.1, by PSNR", ("curve", "status", "BD-rate"), tuple(rows)),
            *_of_patches(bounds),
            _most_of_atoms(),
        ),
        _verdicts(rates, _beside(bounds, curves), kodak=kodak),
        (
            "Rungs are of the bundled codec as it stands, without fine-tuning: trained limits are "
            "in figure 4. Published curves are means over the 24 Kodak photographs.",
            f"{len(pictures)} pictures"
            + (": the Kodak photographs." if kodak else ", which are others: compare with care."),
            _of_fitting(bounds),
        ),
        environment(request.seed) | {"weights": {"default": codec.weights_id.hex()}},
    )


def _verdicts(rates: Mapping[str, float], beside: str, *, kodak: bool) -> tuple[Verdict, ...]:
    """What becomes of the paper's claims, by BD-rates against the anchor.

    On other pictures than the published curves are of, no rate can be held against them.
    """
    best = min(rates[name] for name in _PUBLISHED if published_curve(name).kind == "codec")
    oracles = [rates[name] for name in _ORACLES]
    beyond = any(rate < best for rate in oracles)
    genies = ", ".join(f"{name} {percent(rates[name])}" for name in _ORACLES)
    # A rung that lies nowhere near the anchor has no rate to compare.
    best_rung = min(_ACHIEVABLE, key=lambda name: np.nan_to_num(rates[name], nan=math.inf))
    return (
        Verdict(
            "the limit lies beyond all practical codecs",
            said(beyond, *(() if beyond else oracles)) if kodak else "not resolved",
            f"against VTM-9.1: {genies} (genie-aided); best published {percent(best)}"
            + ("" if kodak else ", on other pictures"),
        ),
        Verdict(
            "the distance from codecs to the limit is what they could still gain",
            "cannot be",
            f"the limit is genie-aided; the best achievable rung of this codec, {best_rung}, "
            f"lies at {percent(rates[best_rung])}, its files at {percent(rates[BITSTREAM])}",
        ),
        Verdict(
            "it is tighter than sandwich bounds, NERD and WGD",
            "cannot be",
            "a genie-aided number bounds R(D) in neither direction, and of whole pictures an "
            f"estimator with {ATOMS:,} atoms can't say more than its ceiling{beside}",
        ),
    )


def _most_of_atoms() -> Table:
    """What limits estimators whose reproductions are so many."""
    sizes = {"a picture of 768×512": 768 * 512, "8×8 patches": 64, "4×4 patches": 16}
    return Table(
        f"The most that an estimator with {ATOMS:,} atoms can say, log₂ of their number",
        ("of", "ceiling (bpp)"),
        tuple((text, f"{math.log2(ATOMS) / count:.2g}") for text, count in sizes.items()),
    )


def _ceilings(bounds: Sequence[PatchBound]) -> list[Line]:
    """Of each estimator that has one, between the ends of its curve."""
    return [
        Line(f"ceiling of {b.label}", (b.ceiling,) * 2, (min(b.psnr), max(b.psnr)))
        for b in bounds
        if b.ceiling is not None
    ]


def _of_patches(bounds: Sequence[PatchBound]) -> list[Table]:
    """Where each estimator lies at each λ, and how far it could go."""
    rows = [
        (
            b.label,
            _UPPER,
            *(
                f"{bpp:.3f}, {psnr:.2f}" + " (ceiling)" * full
                for bpp, psnr, full in zip(b.bpp, b.psnr, b.at_ceiling, strict=True)
            ),
            "—" if b.ceiling is None else f"{b.ceiling:.2f}",
        )
        for b in bounds
    ]
    columns = ("estimator", "status", *(f"quality {q}" for q in QUALITIES_READ), "ceiling (bpp)")
    title = "Estimators on patches, at the λ of each quality: bpp and PSNR (dB)"
    return [Table(title, columns, tuple(rows))] if rows else []


def _beside(bounds: Sequence[PatchBound], curves: Mapping[str, NDArray[np.float64]]) -> str:
    """How far the oracle and what is achievable lie from bounds on patches, at equal PSNR."""
    found = []
    for name, status in ((_ORACLES[0], " (genie-aided)"), (BITSTREAM, "")):
        spans = []
        for bound in bounds:
            shares = gap_at_equal_psnr(bound, curves[name])
            if shares:
                spans.append(f"{bound.label} {percents(shares)}")
        if spans:
            found.append(f"{name}{status} in rate at equal PSNR against {', '.join(spans)}")
    return "".join(f"; {text}" for text in found)


def _of_fitting(bounds: Sequence[PatchBound]) -> str:
    if not bounds:
        return "Estimators on patches are missing: they need photographs to be fitted to (--train)."
    return (
        "Estimators are fitted to patches of the photographs to train on, and read on patches of "
        "these pictures, each picture by itself, and averaged as codecs are. Patches are coded one "
        "by one, so that what neighbours share is paid for again: upper bounds, for pictures too, "
        "but loose. Decoded values are not rounded to 8 bits. Steps: "
        + ", ".join(dict.fromkeys(f"{b.name} {b.steps:,}" for b in bounds))
        + "."
    )


def _line(name: str, points: NDArray[np.float64], *, genie: bool = False) -> Line:
    return Line(name, tuple(points[:, 0].tolist()), tuple(points[:, 1].tolist()), genie)


def _rate(anchor: NDArray[np.float64], points: NDArray[np.float64]) -> float:
    try:
        return compare(anchor, points).rate_percent
    except WaterfillError:
        return math.nan
