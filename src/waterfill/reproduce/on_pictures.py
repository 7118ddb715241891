"""What paper 1 shows on pictures: trained limits (figure 4, appendix G), latent maps (figure 3)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from waterfill.codec.channels import Channel, Crossing, GaussianTest, OracleGaussian, Rounding
from waterfill.codec.densities import Gaussian
from waterfill.codec.noise import Noise
from waterfill.codec.registry import load_codec
from waterfill.data.images import as_picture, sample_pictures
from waterfill.ladder.picture import put_together
from waterfill.ladder.rungs import Status
from waterfill.ladder.subjects import OwnCodec, Setting, View, noise_of
from waterfill.provenance import environment
from waterfill.reproduce.result import Line, Reproduction, Request, Table, Verdict, percent, said
from waterfill.reproduce.trained import (
    GENIE_AIDED,
    MS_SSIM,
    PSNR,
    QUALITIES,
    SYSTEMS,
    Fidelity,
    Measured,
    bd_rate_of,
    experiments_of,
    measure,
)

__all__ = ["appendix_g", "fig3", "fig4a", "fig4b", "fig4b_ms_ssim"]


def _lines(measured: dict[str, Measured], fidelity: Fidelity = PSNR) -> tuple[Line, ...]:
    return tuple(
        Line(
            one.label,
            tuple(p.bpp for p in one.curve),
            tuple(map(fidelity.of, one.curve)),
            one.genie,
        )
        for one in measured.values()
    )


def _table(measured: dict[str, Measured], fidelity: Fidelity = PSNR) -> Table:
    baseline = measured["baseline"].curve
    rows = []
    for one in measured.values():
        points = [f"{point.bpp:.4f}, {fidelity.of(point):.2f}" for point in one.curve]
        rate = percent(bd_rate_of(baseline, one.curve, fidelity))
        rows.append((one.label, str(one.status), *points, rate))
    rates = tuple(f"rate {k + 1}: bpp, dB" for k in range(len(QUALITIES)))
    return Table(
        f"Means over the pictures; BD-rate against the hyperprior, by {fidelity.name}",
        ("system", "status", *rates, "BD-rate"),
        tuple(rows),
    )


def _notes(request: Request, pictures: int, fidelity: Fidelity = PSNR) -> tuple[str, ...]:
    steps = experiments_of(request.scale, ["baseline"])[0].config.steps
    aim = "" if fidelity is PSNR else f" for {fidelity.name}, from weights made for PSNR,"
    if request.scale == "mini":
        how = (
            f"Mini scale: the bundled variable-rate codec, which has a context of its own, is "
            f"fine-tuned{aim} for each system at all λ at once, {steps} steps of 4 crops of "
            "256²; the paper fine-tunes one hyperprior for each λ, 200,000 steps of 100 crops."
        )
    else:
        how = "Full scale: the paper's settings, one codec for each λ."
    out = max(0, len(request.pictures) - pictures)
    left_out = f" Too small for {fidelity.name}, and left out: {out}." if out else ""
    return (
        how,
        f"{pictures} pictures.{left_out} An oracle is told each latent's variance, which no "
        "decoder can be: its curve is genie-aided and bounds R(D) in neither direction. What a "
        "prior trained beside it charges for the same ŷ is drawn too; that is achievable.",
    )


def _environment(request: Request, measured: dict[str, Measured]) -> dict[str, Any]:
    """With the codecs that were measured."""
    weights = {name: each for one in measured.values() for name, each in one.weights.items()}
    return environment(request.seed) | {"weights": weights}


def fig4a(request: Request) -> Reproduction:
    """Baseline, oracle variance, test channel, and both, each with networks trained for it."""
    measured = measure(request, ("baseline", "oracle-rounding", "test-channel", "joint"))
    baseline = measured["baseline"].curve
    gains = {name: bd_rate_of(baseline, one.curve) for name, one in measured.items()}
    refined = {n: gains[n] for n in ("oracle-rounding", "test-channel", "joint")}
    text = ", ".join(
        f"{SYSTEMS[n].label} {percent(g)}" + (f" ({GENIE_AIDED})" if SYSTEMS[n].genie else "")
        for n, g in refined.items()
    )
    joint, failed = refined["joint"], any(g >= 0 for g in refined.values())
    return Reproduction(
        "fig4a",
        "Variance and quantisation, one by one and together (paper 1, figure 4a)",
        request.scale,
        ("rate (bpp)", "PSNR (dB)"),
        _lines(measured),
        (_table(measured),),
        (
            Verdict(
                "each refinement moves the curve towards the limit",
                said(not failed, *(() if failed else refined.values())),
                f"BD-rates: {text}",
            ),
            Verdict(
                "the joint configuration improves most",
                said(joint == min(refined.values()), *refined.values()),
                f"joint {percent(joint)} (genie-aided)",
            ),
            Verdict(
                "the joint curve is a rate-distortion limit",
                "cannot be",
                "it is genie-aided; what a prior charges for the same ŷ lies at "
                f"{percent(gains['joint witness'])} against the hyperprior",
            ),
        ),
        _notes(request, len(measured["baseline"].pictures)),
        _environment(request, measured),
    )


def fig4b(request: Request) -> Reproduction:
    """Baseline, the joint limit, and the joint limit with a context."""
    return _with_context(
        request, PSNR, "fig4b", "The limit without and with context (paper 1, figure 4b)"
    )


def fig4b_ms_ssim(request: Request) -> Reproduction:
    """The same for MS-SSIM, with networks trained for it."""
    title = "The limit without and with context, by MS-SSIM (paper 1, figure 4b)"
    return _with_context(request, MS_SSIM, "fig4b-ms-ssim", title)


def _with_context(request: Request, fidelity: Fidelity, name: str, title: str) -> Reproduction:
    measured = measure(request, ("baseline", "joint", "joint-context"), fidelity)
    baseline = measured["baseline"].curve
    gains = {label: bd_rate_of(baseline, one.curve, fidelity) for label, one in measured.items()}
    more = bd_rate_of(measured["joint"].curve, measured["joint-context"].curve, fidelity)
    return Reproduction(
        name,
        title,
        request.scale,
        ("rate (bpp)", f"{fidelity.name} (dB)"),
        _lines(measured, fidelity),
        (_table(measured, fidelity),),
        (
            Verdict(
                "context-based mean prediction reduces the rate further",
                said(more < 0, more),
                f"{percent(more)} against the limit without it ({GENIE_AIDED}); what a prior "
                f"charges for the same ŷ {percent(gains['joint-context witness'])}, against "
                f"{percent(gains['joint witness'])} without; against the hyperprior "
                f"{percent(gains['joint'])} and {percent(gains['joint-context'])} (genie-aided)",
            ),
        ),
        _notes(request, len(measured["baseline"].pictures), fidelity),
        _environment(request, measured),
    )


#: (PSNR in dB, bpp) of five pictures: hyperprior, limit, limit with context.
_APPENDIX_G = (
    ((26.1595, 0.2675), (27.7611, 0.22425), (29.0142, 0.1863)),
    ((31.0668, 0.10352), (32.6676, 0.08424), (33.9723, 0.05395)),
    ((30.1220, 0.1587), (31.9423, 0.1231), (33.2217, 0.0818)),
    ((30.3555, 0.12093), (31.8410, 0.10125), (33.1759, 0.06525)),
    ((26.1595, 0.22485), (27.8055, 0.18445), (29.3552, 0.16528)),
)
#: Size of the gain in rate at equal PSNR that those points amount to, percent.
_APPENDIX_G_GAIN = {"joint": -47.0, "joint-context": -73.0}
#: Points of percent within which a gain is about another.
_ABOUT = 10.0


def appendix_g(request: Request) -> Reproduction:
    """Picture by picture: how much rate the limits save."""
    measured = measure(request, ("baseline", "joint", "joint-context"))
    names = ("joint", "joint-context")
    rows = []
    for k, base in enumerate(measured["baseline"].pictures):
        gains = [bd_rate_of(base, measured[name].pictures[k]) for name in names]
        first = base[0]
        points = [measured[name].pictures[k][0] for name in names]
        rows.append(
            (
                f"{k + 1}",
                f"{first.psnr:.2f}, {first.bpp:.4f}",
                *(f"{p.psnr:.2f}, {p.bpp:.4f}" for p in points),
                *map(percent, gains),
            )
        )
    means = {name: bd_rate_of(measured["baseline"].curve, measured[name].curve) for name in names}
    paper = tuple(
        (f"{k + 1}", *(f"{psnr:.2f}, {bpp:.4f}" for psnr, bpp in row), "", "")
        for k, row in enumerate(_APPENDIX_G)
    )
    columns = (
        "picture",
        "hyperprior (dB, bpp)",
        "limit (dB, bpp)",
        "with context (dB, bpp)",
        "BD-rate of the limit",
        "BD-rate with context",
    )
    return Reproduction(
        "appendix-g",
        "What the limits save, picture by picture (paper 1, appendix G)",
        request.scale,
        (),
        (),
        (
            Table("Ours, lowest rate; BD-rates over four rates, genie-aided", columns, tuple(rows)),
            Table("The paper's five pictures", columns, paper),
        ),
        tuple(
            Verdict(
                f"the limit {words} context saves about {-_APPENDIX_G_GAIN[name]:.0f} % of rate",
                said(abs(means[name] - _APPENDIX_G_GAIN[name]) < _ABOUT, means[name]),
                f"{percent(means[name])} BD-rate over the pictures (genie-aided); about is within "
                f"{_ABOUT:g} points",
            )
            for name, words in (("joint", "without"), ("joint-context", "with"))
        ),
        (
            *_notes(request, len(rows)),
            "Two of the paper's pictures have the same hyperprior PSNR to six digits: probably a "
            "slip. Its percentages are read off its points along a hyperprior's usual slope.",
        ),
        _environment(request, measured),
    )


#: Quality of the bundled codec that figure 3 is of.
_SHOWN = 4.0


@torch.no_grad()
def fig3(request: Request) -> Reproduction:
    """Latents before the channel, after rounding, after the test channel; what costs nothing."""
    picture = as_picture(request.pictures[0]) if request.pictures else sample_pictures()[0]
    request.progress(0, 1, f"measuring {picture.name}")
    codec = load_codec()
    sitting = OwnCodec(codec).sit(picture, Setting(_SHOWN))
    crossed: dict[str, list[Crossing]] = {name: [] for name in _CHANNELS}
    for k, view in enumerate(sitting.views):
        for name, (_, cross) in _CHANNELS.items():
            crossed[name].append(cross(view, noise_of(request.seed, k)))
    silent = {
        name: torch.cat([(one.bits == 0).flatten(1) for one in crossings], 1).double().mean(1)
        for name, crossings in crossed.items()
    }
    # Half of it silent: in others there is little to see.
    channel = int((silent[_TOLD] - 0.5).abs().argmin())
    maps = {"y": put_together([view.y[channel] for view in sitting.views], sitting.across)}
    for name, crossings in crossed.items():
        maps[name] = put_together([one.y_hat[channel] for one in crossings], sitting.across)
    shares = {name: 100.0 * float(each.mean()) for name, each in silent.items()}
    rows = tuple(
        (name, str(status), f"{shares[name]:.1f}", f"{100.0 * float(silent[name][channel]):.1f}")
        for name, (status, _) in _CHANNELS.items()
    )
    said_of = ", ".join(
        f"{name} {shares[name]:.1f} %" + (f" ({GENIE_AIDED})" if status is Status.GENIE else "")
        for name, (status, _) in _CHANNELS.items()
    )
    return Reproduction(
        "fig3",
        "Latents after rounding and after the test channel (paper 1, figure 3)",
        request.scale,
        (),
        (),
        (
            Table(
                "Latents on which no bits are spent",
                ("channel", "status", "of all (%)", f"of those shown, number {channel} (%)"),
                rows,
            ),
        ),
        (
            Verdict(
                "where the variance is low the test channel sends nothing, and rounding something",
                said(shares["test channel"] > 0 and shares["rounding"] == 0),
                f"latents on which nothing is spent: {said_of}",
            ),
        ),
        (
            "The oracle's rung is genie-aided: which latents are silent is told for free.",
            f"{picture.name}, bundled codec, quality {_SHOWN:g}; of its latents those that the "
            "oracle leaves silent for about half are shown.",
            *(() if len(request.pictures) < 2 else ("Only the first picture is looked at.",)),
        ),
        environment(request.seed) | {"weights": {"default": codec.weights_id.hex()}},
        maps,
    )


def _by_prior(channel: Channel) -> Callable[[View, Noise], Crossing]:
    def cross(view: View, noise: Noise) -> Crossing:
        arrival = view.through(channel, noise)
        return Crossing(arrival.y_hat, arrival.bits)

    return cross


def _told(view: View, noise: Noise) -> Crossing:
    nothing = Gaussian(torch.zeros_like(view.y), torch.ones_like(view.y))
    return OracleGaussian("paper", mmse=True)(view.y, nothing, noise)


_TOLD = "oracle, test channel"
#: Of figure 3: what each is, and ŷ and bits of a view.
_CHANNELS: dict[str, tuple[Status, Callable[[View, Noise], Crossing]]] = {
    "rounding": (Status.ACHIEVED_IDEAL, _by_prior(Rounding())),
    "test channel": (Status.ACHIEVABLE, _by_prior(GaussianTest())),
    _TOLD: (Status.GENIE, _told),
}
