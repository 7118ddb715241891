"""What paper 1 shows on pictures: trained limits (figure 4, appendix G), latent maps (figure 3)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from waterfill.codec.channels import Crossing, GaussianTest, Oracle, OracleGaussian, Rounding
from waterfill.codec.densities import Density
from waterfill.codec.noise import Noise
from waterfill.codec.registry import load_codec
from waterfill.data.images import sample_pictures
from waterfill.errors import WaterfillError
from waterfill.evaluation.curves import bd_rate
from waterfill.ladder import limits
from waterfill.ladder.decompose import efficient, mean_point
from waterfill.ladder.measure import measure_rung
from waterfill.ladder.result import Point
from waterfill.ladder.rungs import Coded, Predicted, Rung, Status, Told
from waterfill.ladder.variances import Oracle as OracleVariance
from waterfill.provenance import environment
from waterfill.reproduce.result import Line, Reproduction, Request, Table, Verdict
from waterfill.training.config import TrainConfig
from waterfill.training.experiments import Experiment, work_through
from waterfill.training.folder import RunFolder
from waterfill.training.presets import PRESETS

__all__ = ["appendix_g", "fig3", "fig4a", "fig4b"]

#: Four rates.
_QUALITIES = (1.0, 3.0, 5.0, 7.0)
_GENIE = "genie-aided"


@dataclass(frozen=True)
class _System:
    """A system of figure 4: what is trained, and how it is measured."""

    label: str
    objective: str
    mean: str
    preset: str
    rung: Rung

    @property
    def genie(self) -> bool:
        return self.rung.status is Status.GENIE


def _as_trained(status: Status, channel: Any, variance: Any = None) -> Rung:
    if variance is None:
        return Predicted("as trained", status, "", channel)
    return Told("as trained", status, "", channel, variance)


_PAPER_ORACLE = OracleGaussian("paper")
_PAPER_CONTEXT = OracleGaussian("paper", predicted_mean=True)
_SYSTEMS = {
    "baseline": _System(
        "hyperprior: predicted variance, rounding",
        "rate-distortion",
        "zero",
        "paper1-hyperprior",
        Coded("as trained", Status.ACHIEVED_IDEAL, ""),
    ),
    "oracle-rounding": _System(
        "oracle variance, rounding",
        "oracle-rounding",
        "zero",
        "paper1-oracle-rounding",
        _as_trained(Status.GENIE, Rounding(), OracleVariance()),
    ),
    "test-channel": _System(
        "predicted variance, test channel",
        "test-channel",
        "zero",
        "paper1-test-channel",
        _as_trained(Status.ACHIEVABLE, GaussianTest(mmse=False)),
    ),
    "joint": _System(
        "oracle variance, test channel",
        "oracle-test-channel",
        "zero",
        "paper1-oracle-test-channel",
        _as_trained(Status.GENIE, _PAPER_ORACLE, OracleVariance()),
    ),
    "joint-context": _System(
        "oracle variance, test channel, context",
        "oracle-test-channel",
        "predicted",
        "paper1-oracle-test-channel-context",
        _as_trained(Status.GENIE, _PAPER_CONTEXT),
    ),
}


@dataclass(frozen=True)
class _Witness:
    """What the codec's own prior charges for what an oracle delivers."""

    oracle: Oracle

    def __call__(self, y: Any, density: Density, noise: Noise) -> Crossing:
        return self.oracle.charged_by_prior(y, density, noise)


_WITNESSES = {
    "joint": _as_trained(Status.ACHIEVABLE, _Witness(_PAPER_ORACLE)),
    "joint-context": _as_trained(Status.ACHIEVABLE, _Witness(_PAPER_CONTEXT)),
}


def _mini(system: _System) -> TrainConfig:
    """The bundled codec, at all λ, fine-tuned for minutes."""
    return replace(
        PRESETS["bundled"],
        start="default",
        objective=system.objective,
        oracle_mean=system.mean,
        oracle_mode="paper",
        steps=200,
        batch=4,
        crop=256,
        linear_steps=0,
        learning_rate=3e-4,
        warmup=20,
        schedule="cosine",
        decay=0.9,
        ema=0.98,
        checkpoint_every=50,
        validate_every=100,
    )


def _experiments(scale: str, names: Sequence[str]) -> list[Experiment]:
    """Trainings by the name of the system; at full scale one for each rate, after its baseline."""
    if scale == "mini":
        return [Experiment(f"mini-{name}", 0, None, _mini(_SYSTEMS[name])) for name in names]
    found = []
    for quality in _QUALITIES:
        for name in names:
            config = PRESETS[f"{_SYSTEMS[name].preset}-q{quality:g}"]
            after = None if name == "baseline" else f"full-baseline-q{quality:g}"
            found.append(Experiment(f"full-{name}-q{quality:g}", 0, after, config))
    return found


def _train(request: Request, names: Sequence[str]) -> None:
    """Train what is not trained yet."""
    experiments = _experiments(request.scale, names)
    steps = sum(e.config.steps for e in experiments)
    before = {e.name: 0 for e in experiments}

    def advance(name: str, report: Any) -> None:
        before[name] = report.step
        request.progress(sum(before.values()), steps, f"training {name}")

    missing = [e for e in experiments if not RunFolder(request.runs / e.name).weights.exists()]
    if missing and not request.photographs:
        raise WaterfillError(
            f"{missing[0].name} is not trained: name photographs to train on with --train"
        )
    outcomes = work_through(
        experiments, request.runs, data=list(request.photographs), progress=advance
    )
    for outcome in outcomes:
        if not outcome.finished:
            raise WaterfillError(
                f"{outcome.name}: step {outcome.step} of {outcome.steps} {outcome.note}".rstrip()
                + "; the same command goes on"
            )


@dataclass(frozen=True)
class _Measured:
    """A trained system on pictures: points of each picture, ascending in rate."""

    system: _System
    pictures: list[list[Point]]

    @property
    def curve(self) -> list[Point]:
        return [mean_point(column) for column in zip(*self.pictures, strict=True)]


def _measure(request: Request, names: Sequence[str]) -> dict[str, _Measured]:
    _train(request, names)
    pictures = list(request.pictures) or sample_pictures()
    found = {}
    for name in names:
        for suffix, rung in (("", _SYSTEMS[name].rung), (" witness", _WITNESSES.get(name))):
            if rung is None:
                continue
            rows: list[list[Point]] = [[] for _ in pictures]
            for stem, qualities in _weights(request, name):
                codec = load_codec(str(RunFolder(request.runs / stem).weights))
                each = measure_rung(
                    codec,
                    rung,
                    pictures,
                    qualities,
                    seed=request.seed,
                    progress=partial(_told, request, name),
                )
                for row, points in zip(rows, each, strict=True):
                    row += points
            found[name + suffix] = _Measured(_SYSTEMS[name], rows)
    return found


def _told(request: Request, name: str, done: int, total: int, what: str) -> None:
    request.progress(done, total, f"measuring {name} on {what}")


def _weights(request: Request, name: str) -> list[tuple[str, tuple[float, ...]]]:
    """Folders of a system's trainings, and the qualities that each covers."""
    if request.scale == "mini":
        return [(f"mini-{name}", _QUALITIES)]
    return [(f"full-{name}-q{q:g}", (q,)) for q in _QUALITIES]


def _bd(anchor: Sequence[Point], test: Sequence[Point]) -> float:
    try:
        return bd_rate(*([(p.bpp, p.psnr) for p in efficient(c)] for c in (anchor, test)))
    except ValueError:
        return math.nan


def _percent(value: float) -> str:
    return f"{value:+.1f} %" if math.isfinite(value) else "—"


def _lines(measured: dict[str, _Measured]) -> tuple[Line, ...]:
    lines = []
    for name, one in measured.items():
        witness = name.endswith("witness")
        label = (
            f"{one.system.label}: the same ŷ, charged by a prior" if witness else one.system.label
        )
        curve = one.curve
        lines.append(
            Line(
                label,
                tuple(p.bpp for p in curve),
                tuple(p.psnr for p in curve),
                one.system.genie and not witness,
            )
        )
    return tuple(lines)


def _table(measured: dict[str, _Measured]) -> Table:
    baseline = measured["baseline"].curve
    rows = []
    for line, one in zip(_lines(measured), measured.values(), strict=True):
        status = _GENIE if line.genie else "achievable"
        points = [f"{p.bpp:.4f}, {p.psnr:.2f}" for p in one.curve]
        rows.append((line.name, status, *points, _percent(_bd(baseline, one.curve))))
    rates = tuple(f"rate {k + 1} (bpp, dB)" for k in range(len(_QUALITIES)))
    return Table(
        "Means over the pictures; BD-rate against the hyperprior, by PSNR",
        ("system", "status", *rates, "BD-rate"),
        tuple(rows),
    )


def _notes(request: Request, pictures: int) -> tuple[str, ...]:
    steps = _experiments(request.scale, ["baseline"])[0].config.steps
    if request.scale == "mini":
        how = (
            f"Mini scale: the bundled variable-rate codec, which has a context of its own, is "
            f"fine-tuned for each system at all λ at once, {steps} steps of 4 crops of 256²; the "
            "paper fine-tunes one hyperprior for each λ, 200,000 steps of 100 crops."
        )
    else:
        how = "Full scale: the paper's settings, one codec for each λ."
    return (
        how,
        f"{pictures} pictures. An oracle is told each latent's variance, which no decoder can be: "
        "its curve is genie-aided and bounds R(D) in neither direction. What a prior trained "
        "beside it charges for the same ŷ is drawn too; that is achievable.",
    )


def fig4a(request: Request) -> Reproduction:
    """Baseline, oracle variance, test channel, and both, each with networks trained for it."""
    measured = _measure(request, ("baseline", "oracle-rounding", "test-channel", "joint"))
    baseline = measured["baseline"].curve
    gains = {name: _bd(baseline, one.curve) for name, one in measured.items()}
    refined = {n: gains[n] for n in ("oracle-rounding", "test-channel", "joint")}
    text = ", ".join(f"{_SYSTEMS[n].label} {_percent(g)}" for n, g in refined.items())
    joint = refined["joint"]
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
                _said(all(g < 0 for g in refined.values())),
                f"BD-rates: {text}",
            ),
            Verdict(
                "the joint configuration improves most",
                _said(joint == min(refined.values())),
                f"joint {_percent(joint)} (genie-aided)",
            ),
            Verdict(
                "the joint curve is a rate-distortion limit",
                "cannot be",
                "it is genie-aided; what a prior charges for the same ŷ lies at "
                f"{_percent(gains['joint witness'])} against the hyperprior",
            ),
        ),
        _notes(request, len(measured["baseline"].pictures)),
        environment(request.seed),
    )


def fig4b(request: Request) -> Reproduction:
    """Baseline, the joint limit, and the joint limit with a context."""
    measured = _measure(request, ("baseline", "joint", "joint-context"))
    baseline = measured["baseline"].curve
    gains = {name: _bd(baseline, one.curve) for name, one in measured.items()}
    more = _bd(measured["joint"].curve, measured["joint-context"].curve)
    return Reproduction(
        "fig4b",
        "The limit without and with context (paper 1, figure 4b)",
        request.scale,
        ("rate (bpp)", "PSNR (dB)"),
        _lines(measured),
        (_table(measured),),
        (
            Verdict(
                "context-based mean prediction reduces the rate further",
                _said(more < 0),
                f"{_percent(more)} against the limit without it; against the hyperprior "
                f"{_percent(gains['joint'])} and {_percent(gains['joint-context'])} (genie-aided)",
            ),
            Verdict(
                "the same holds with MS-SSIM as distortion",
                "not reproduced",
                "not run: presets paper1-…-ms-ssim-q1 … q8 wait for a GPU",
            ),
        ),
        _notes(request, len(measured["baseline"].pictures)),
        environment(request.seed),
    )


def _said(holds: bool) -> str:
    return "reproduced" if holds else "not reproduced"


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


def appendix_g(request: Request) -> Reproduction:
    """Picture by picture: how much rate the limits save."""
    measured = _measure(request, ("baseline", "joint", "joint-context"))
    names = ("joint", "joint-context")
    rows = []
    for k, base in enumerate(measured["baseline"].pictures):
        gains = [_bd(base, measured[name].pictures[k]) for name in names]
        first = base[0]
        points = [measured[name].pictures[k][0] for name in names]
        rows.append(
            (
                f"{k + 1}",
                f"{first.psnr:.2f}, {first.bpp:.4f}",
                *(f"{p.psnr:.2f}, {p.bpp:.4f}" for p in points),
                *map(_percent, gains),
            )
        )
    means = {name: _bd(measured["baseline"].curve, measured[name].curve) for name in names}
    paper = tuple(
        (f"{k + 1}", *(f"{psnr:.2f}, {bpp:.4f}" for psnr, bpp in row), "", "")
        for k, row in enumerate(_APPENDIX_G)
    )
    columns = (
        "picture",
        "hyperprior (dB, bpp)",
        "limit",
        "with context",
        "BD-rate",
        "with context",
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
                _said(abs(means[name] - _APPENDIX_G_GAIN[name]) < 10),
                f"{_percent(means[name])} BD-rate over the pictures (genie-aided)",
            )
            for name, words in (("joint", "without"), ("joint-context", "with"))
        ),
        (
            *_notes(request, len(rows)),
            "Two of the paper's pictures have the same hyperprior PSNR to six digits: probably a "
            "slip. Its percentages are read off its points along a hyperprior's usual slope.",
        ),
        environment(request.seed),
    )


def fig3(request: Request) -> Reproduction:
    """One channel of latents: before the channel, after rounding, after the test channel."""
    pictures = list(request.pictures)[:1] or sample_pictures()[:1]
    ladder = limits(
        load_codec(),
        pictures,
        4.0,
        seed=request.seed,
        progress=lambda done, total, what: request.progress(done, total, f"measuring {what}"),
    )
    (exhibit,) = ladder.exhibits
    maps: dict[str, np.ndarray[Any, np.dtype[np.float32]]] = {"y": exhibit.y, **exhibit.y_hat}
    silent = {name: 100.0 * float((bits == 0).mean()) for name, bits in _silent(exhibit).items()}
    rows = tuple((name, f"{share:.1f}") for name, share in silent.items())
    return Reproduction(
        "fig3",
        "Latents after rounding and after the test channel (paper 1, figure 3)",
        request.scale,
        (),
        (),
        (
            Table(
                f"Channel {exhibit.channel}: places where ŷ is exactly the predicted mean or zero",
                ("channel", "share (%)"),
                rows,
            ),
        ),
        (
            Verdict(
                "where the variance is low the test channel sends nothing",
                _said(silent["oracle, test channel"] > 0),
                f"{silent['oracle, test channel']:.1f} % of the oracle's ŷ are exactly zero",
            ),
        ),
        (
            "The oracle's rung is genie-aided: which latents are silent is told for free.",
            f"{exhibit.name}, bundled codec, quality 4, the channel that rounding spends most on.",
        ),
        environment(request.seed),
        maps,
    )


def _silent(exhibit: Any) -> dict[str, Any]:
    return {name: y_hat for name, y_hat in exhibit.y_hat.items() if name != "test channel"}
