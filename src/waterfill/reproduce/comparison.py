"""What paper 1 compares its limit with: practical codecs and other estimates (figure 5a)."""

from __future__ import annotations

import math

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
from waterfill.reproduce.result import Line, Reproduction, Request, Table, Verdict, percent

__all__ = ["fig5a"]

_QUALITIES = (1.0, 3.0, 5.0, 7.0)
_ORACLES = ("oracle, test channel", "oracle, test channel, context")
_RUNGS = (BITSTREAM, TRELLIS, POSTERIOR, CONTEXT, *_ORACLES)
#: Published curves beside it, and the anchor of all comparisons.
_ANCHOR = "vtm"
_PUBLISHED = (_ANCHOR, "bpg", "hyperprior", "mbt2018", "elic", "LALIC", "HPCM-Large", "yang-mandt")
#: Atoms of the estimators that the paper compares with, as their authors have them.
_ATOMS = 40_000


def fig5a(request: Request) -> Reproduction:
    """The ladder of a codec over published codecs and an upper bound on R(D), on photographs."""
    pictures = [as_picture(item) for item in list(request.pictures) or sample_pictures()]
    kodak = is_kodak([fingerprint(picture) for picture in pictures])
    ladder = limits(
        load_codec(),
        pictures,
        _QUALITIES,
        seed=request.seed,
        progress=lambda done, total, what: request.progress(done, total, f"measuring {what}"),
    )
    lines, rows = [], []
    anchor = published_curve(_ANCHOR).array()
    rates: dict[str, float] = {}
    for name in _RUNGS:
        (rung,) = (one for one in ladder.rungs if one.name == name)
        points = np.array([(p.bpp, p.psnr) for p in efficient(rung.curve)])
        genie = rung.status == Status.GENIE
        lines.append(_line(f"bundled codec: {name}", points, genie=genie))
        rates[name] = _rate(anchor, points)
        rows.append((f"bundled codec: {name}", str(rung.status), percent(rates[name])))
    for name in _PUBLISHED:
        curve = published_curve(name)
        lines.append(_line(f"published: {curve.name}", curve.array()))
        rates[name] = _rate(anchor, curve.array())
        status = "upper bound on R(D)" if curve.kind == "bound" else "achieved"
        rows.append((f"published: {curve.name}", status, percent(rates[name])))
    ceilings = tuple(
        (text, f"{math.log2(_ATOMS) / count:.2g}")
        for text, count in (
            ("a picture of 768×512", 768 * 512),
            ("8×8 patches", 64),
            ("4×4 patches", 16),
        )
    )
    best = min(rates[name] for name in _PUBLISHED)
    genies = ", ".join(f"{name} {percent(rates[name])}" for name in _ORACLES)
    honest = min((POSTERIOR, CONTEXT), key=lambda name: rates[name])
    return Reproduction(
        "fig5a",
        "The limit beside practical codecs and other estimates (paper 1, figure 5a)",
        request.scale,
        ("rate (bpp)", "PSNR (dB)"),
        tuple(lines),
        (
            Table("BD-rate against VTM-9.1, by PSNR", ("curve", "status", "BD-rate"), tuple(rows)),
            Table(
                f"The most that an estimator with {_ATOMS:,} atoms can say, log₂ of their number",
                ("of", "ceiling (bpp)"),
                ceilings,
            ),
        ),
        (
            Verdict(
                "the limit lies beyond all practical codecs",
                "reproduced" if min(rates[n] for n in _ORACLES) < best else "not reproduced",
                f"against VTM-9.1: {genies} (genie-aided); best published {percent(best)}",
            ),
            Verdict(
                "the distance from codecs to the limit is what they could still gain",
                "cannot be",
                f"the limit is genie-aided; the best achievable rung of this codec, {honest}, lies "
                f"at {percent(rates[honest])}, its files at {percent(rates[BITSTREAM])}",
            ),
            Verdict(
                "it is tighter than sandwich bounds, NERD and WGD",
                "cannot be",
                "a genie-aided number bounds R(D) in neither direction, and of whole pictures an "
                f"estimator with {_ATOMS:,} atoms can't say more than its ceiling",
            ),
        ),
        (
            "Rungs are of the bundled codec as it stands, without fine-tuning: trained limits are "
            "in figure 4. Published curves are means over the 24 Kodak photographs.",
            f"{len(pictures)} pictures"
            + (", those 24." if kodak else ", which are others: compare with care."),
        ),
        environment(request.seed),
    )


def _line(name: str, points: NDArray[np.float64], *, genie: bool = False) -> Line:
    return Line(name, tuple(points[:, 0].tolist()), tuple(points[:, 1].tolist()), genie)


def _rate(anchor: NDArray[np.float64], points: NDArray[np.float64]) -> float:
    try:
        return compare(anchor, points).rate_percent
    except WaterfillError:
        return math.nan
