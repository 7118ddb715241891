"""Where the bits go: rungs compared at equal PSNR."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from waterfill.codec.gains import lambda_of_quality
from waterfill.evaluation.curves import rate_at_psnr
from waterfill.ladder.result import Decomposition, Point
from waterfill.ladder.rungs import BITSTREAM, LADDER, Status

__all__ = ["decompose", "efficient", "rates_at_equal_psnr", "read_curve"]


def _log_slope(point: Point) -> float:
    """d ln R / d PSNR of a codec that trades bpp + λ·255²·MSE: its own price of a decibel."""
    mse = 255.0**2 * 10.0 ** (-point.psnr / 10.0)
    bpp_per_db: float = lambda_of_quality(point.quality) * mse * math.log(10.0) / 10.0
    return bpp_per_db / max(point.bpp, 1e-12)


def efficient(curve: Sequence[Point]) -> list[Point]:
    """The points that no other beats in both rate and PSNR, ascending.

    At low rates an idealised channel can stall: a higher quality that costs more and shows less.
    Nobody would work there.
    """
    kept: list[Point] = []
    for point in sorted(curve, key=lambda p: (-p.psnr, p.bpp)):
        if not kept or point.bpp < kept[-1].bpp:
            kept.append(point)
    return kept[::-1]


def read_curve(curve: Sequence[Point], psnr: float, part: str | None = None) -> float:
    """bpp of a curve, or of one part of it, at a PSNR."""
    points = efficient(curve)
    rates = [p.bpp if part is None else p.parts[part] for p in points]
    if min(rates) <= 0:
        return 0.0
    slopes = [_log_slope(p) for p in points]
    return rate_at_psnr(rates, [p.psnr for p in points], psnr, slopes)


def rates_at_equal_psnr(curves: Mapping[str, Sequence[Point]], main: Point) -> dict[str, float]:
    """bpp of every rung at the PSNR of ``main``, the file's point."""
    at = {name: read_curve(curve, main.psnr) for name, curve in curves.items()}
    # The file and its ideal code are the same pixels: no reading of curves.
    at[BITSTREAM] = main.bpp
    at["ideal coder"] = main.bpp - main.parts["coder overhead"]
    return at


def decompose(
    curves: Mapping[str, Sequence[Point]], main: Point, at: Mapping[str, float]
) -> Decomposition:
    """Split the gap between the file and the genie-aided limit.

    Parameters
    ----------
    curves
        The curve of every rung.
    main
        The file's point.
    at
        What :func:`rates_at_equal_psnr` makes of both.
    """
    side = read_curve(curves["test channel"], main.psnr, "side information")
    limit = at["oracle, test channel"]
    status = {rung.name: rung.status for rung in LADDER}
    honest = min((n for n in at if status[n] != Status.GENIE), key=lambda n: at[n])
    group = min((n for n in at if n.startswith("grouped")), key=lambda n: at[n])
    single = len(curves[BITSTREAM]) == 1
    return Decomposition(
        psnr=main.psnr,
        achieved_bpp=main.bpp,
        coder_overhead_bpp=main.parts["coder overhead"],
        quantisation_bpp=at["ideal coder"] - at["test channel"],
        side_information_bpp=side,
        variance_bpp=at["test channel"] - limit - side,
        limit_bpp=limit,
        honest_rung=honest,
        honest_bpp=at[honest],
        tightest_group=group,
        tightest_group_bpp=at[group],
        method=(
            "one rate: rates moved to equal PSNR along the codec's own λ, a first-order estimate"
            if single
            else "rates read off the measured curves at equal PSNR (PCHIP in log rate)"
        ),
    )
