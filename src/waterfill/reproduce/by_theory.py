"""What paper 1 shows by mathematics alone: figure 2 and appendix D."""

from __future__ import annotations

import numpy as np

from waterfill import theory
from waterfill.codec.channels import WATER_LEVEL
from waterfill.provenance import environment
from waterfill.reproduce.result import Line, Reproduction, Request, Table, Verdict, said

__all__ = ["appendix_d", "fig2"]


def fig2(request: Request) -> Reproduction:
    """Rate against variance: unit-step rounding, and the Gaussian test channel at D = 1/12."""
    variances = np.geomspace(0.01, 100.0, 161)
    rounding = np.asarray(theory.quantiser_entropy(variances))
    shannon = np.asarray(theory.gaussian_rate(variances, WATER_LEVEL))
    error = np.asarray(theory.quantiser_mse(variances))
    equal = np.asarray(theory.gaussian_rate(variances, np.minimum(error, variances)))
    rows = []
    for variance in (0.05, WATER_LEVEL, 0.2, 1.0, 4.0, 16.0, 100.0):
        figures = (
            theory.quantiser_entropy(variance),
            theory.quantiser_mse(variance),
            theory.rate_gap(variance, distortion=WATER_LEVEL),
            theory.rate_gap(variance, match="mse"),
        )
        rows.append((f"{variance:.4g}", *(f"{figure:.4f}" for figure in figures)))
    gap = np.asarray(theory.rate_gap(variances, distortion=WATER_LEVEL))
    fair = np.asarray(theory.rate_gap(variances, match="mse"))
    widest = float(variances[gap.argmax()])
    below = shannon[variances < WATER_LEVEL * 0.999]
    return Reproduction(
        "fig2",
        "Rate of one Gaussian latent against its variance (paper 1, figure 2)",
        request.scale,
        ("variance (squared steps)", "rate (bits)"),
        (
            Line("rounding, step 1", tuple(variances), tuple(rounding)),
            Line("Gaussian test channel, D = 1/12", tuple(variances), tuple(shannon)),
            Line("Gaussian test channel at rounding's own error", tuple(variances), tuple(equal)),
        ),
        (
            Table(
                "Rounding above the Gaussian rate-distortion function",
                (
                    "variance",
                    "rounding (bits)",
                    "its error",
                    "above D = 1/12 (bits)",
                    "above equal error (bits)",
                ),
                tuple(rows),
            ),
        ),
        (
            _verdict(
                "rounding costs something at any variance, the test channel nothing below D",
                bool((rounding > 0).all() and (below == 0).all()),
                f"rounding at variance .01: {rounding[0]:.1e} bits; test channel below 1/12: "
                f"{below.max():g}",
            ),
            _verdict(
                "the gap is largest near the threshold D",
                bool(abs(np.log2(widest / WATER_LEVEL)) < 1),
                f"largest, {gap.max():.3f} bits, at variance {widest:.3f}; D is {WATER_LEVEL:.3f}",
            ),
            _verdict(
                "it falls to .254 bits at high rate",
                bool(abs(float(gap[-1]) - theory.HIGH_RATE_GAP) < 2e-3),
                f"{gap[-1]:.4f} bits at variance 100; ½log₂(2πe/12) = {theory.HIGH_RATE_GAP:.4f}",
            ),
        ),
        (
            "At a fixed D = 1/12 part of the gap is unfair to rounding, whose own error is smaller "
            f"at low variance. At equal error it is at most {fair.max():.3f} bits.",
        ),
        environment(request.seed),
    )


def appendix_d(request: Request) -> Reproduction:
    """What two correlated latents cost, and what is charged if they are taken for independent."""
    rows, totals = [], {}
    correlations = np.linspace(0.0, 0.99, 100)
    for rho in (0.0, 0.5, 0.9, 0.99):
        found = theory.correlated_rates(1.0, rho, 0.05)
        totals[rho] = found
        rows.append(
            (
                f"{rho:g}",
                f"{found.independent:.3f}",
                f"{found.scaled:.3f}",
                f"{found.additive:.3f}",
                f"{found.joint:.3f}",
            )
        )
    curves = [theory.correlated_rates(1.0, float(rho), 0.05) for rho in correlations]
    lines = tuple(
        Line(name, tuple(correlations), tuple(float(getattr(c, key)) for c in curves))
        for name, key in (
            ("taken for independent", "independent"),
            ("α-scaled channel, jointly", "scaled"),
            ("additive channel, jointly", "additive"),
            ("joint rate-distortion function", "joint"),
        )
    )
    at = totals[0.9]
    return Reproduction(
        "appendix-d",
        "Two correlated Gaussian latents, σ = 1, D = .05 (paper 1, appendix D)",
        request.scale,
        ("correlation", "rate of both (bits)"),
        lines,
        (
            Table(
                "Rates of both, bits",
                ("correlation", "independent", "α-scaled", "additive", "joint R(D)"),
                tuple(rows),
            ),
        ),
        (
            _verdict(
                "taking correlated latents for independent overestimates the rate",
                all(t.independent >= t.additive - 1e-12 for t in totals.values()),
                f"at ρ = .9: {at.independent:.3f} bits, jointly {at.additive:.3f}",
            ),
        ),
        (
            "Neither channel reaches the joint rate-distortion function: with noise of its own on "
            f"each latent the rates at ρ = .9 are {at.additive:.3f} and {at.scaled:.3f} bits, and "
            f"the least is {at.joint:.3f}.",
            "Taken for independent, the additive channel's rates add up to what stands there; the "
            f"α-scaled one's to {2.0 * float(theory.gaussian_rate(1.0, 0.05)):.3f} bits.",
        ),
        environment(request.seed),
    )


def _verdict(claim: str, holds: bool, measured: str) -> Verdict:
    return Verdict(claim, said(holds), measured)
