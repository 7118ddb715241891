"""Codecs trained for the limits of paper 1, and what they reach on pictures."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from waterfill.codec.channels import ChargedByPrior, GaussianTest, OracleGaussian, Rounding
from waterfill.codec.registry import load_codec
from waterfill.data.images import Picture, as_picture, sample_pictures
from waterfill.data.sets import open_pictures
from waterfill.errors import Interrupted, WaterfillError
from waterfill.evaluation.curves import bd_rate
from waterfill.evaluation.metrics import MS_SSIM_MIN_SIDE, in_decibels
from waterfill.ladder.decompose import efficient, mean_point
from waterfill.ladder.measure import measure_rung
from waterfill.ladder.result import Point
from waterfill.ladder.rungs import Coded, Predicted, Rung, Status, Told
from waterfill.ladder.variances import Oracle as OracleVariance
from waterfill.reproduce.result import Request
from waterfill.reproduce.runs import check_run
from waterfill.training.config import TrainConfig
from waterfill.training.experiments import Experiment, steps_done, work_through
from waterfill.training.folder import RunFolder
from waterfill.training.presets import PRESETS

__all__ = [
    "GENIE_AIDED",
    "MS_SSIM",
    "PSNR",
    "QUALITIES",
    "SYSTEMS",
    "Fidelity",
    "Measured",
    "System",
    "bd_rate_of",
    "experiments_of",
    "measure",
    "train_all",
]

#: Four rates.
QUALITIES = (1.0, 3.0, 5.0, 7.0)
GENIE_AIDED = "genie-aided"


@dataclass(frozen=True)
class Fidelity:
    """What codecs are trained for, and their curves are read by.

    Attributes
    ----------
    name
        With its unit always the decibel.
    distortion
        What training minimises, see :class:`~waterfill.training.config.TrainConfig`.
    of
        Of a point, in dB.
    least
        Side of a picture below which there is none.
    """

    name: str
    distortion: str
    of: Callable[[Point], float]
    least: int = 1

    @property
    def suffix(self) -> str:
        """Of presets, and of folders of trainings."""
        return "" if self.distortion == "mse" else f"-{self.distortion}"


PSNR = Fidelity("PSNR", "mse", lambda point: point.psnr)
MS_SSIM = Fidelity("MS-SSIM", "ms-ssim", lambda point: in_decibels(point.ms_ssim), MS_SSIM_MIN_SIDE)


@dataclass(frozen=True)
class System:
    """A system of figure 4: what is trained, and how it is measured."""

    label: str
    objective: str
    mean: str
    preset: str
    rung: Rung

    @property
    def genie(self) -> bool:
        """Whether it is told something for free."""
        return self.rung.status is Status.GENIE


def _as_trained(status: Status, channel: Any, variance: Any = None) -> Rung:
    if variance is None:
        return Predicted("as trained", status, "", channel)
    return Told("as trained", status, "", channel, variance)


_PAPER_ORACLE = OracleGaussian("paper")
_PAPER_CONTEXT = OracleGaussian("paper", predicted_mean=True)
SYSTEMS = {
    "baseline": System(
        "hyperprior: predicted variance, rounding",
        "rate-distortion",
        "zero",
        "paper1-hyperprior",
        Coded("as trained", Status.ACHIEVED_IDEAL, ""),
    ),
    "oracle-rounding": System(
        "oracle variance, rounding",
        "oracle-rounding",
        "zero",
        "paper1-oracle-rounding",
        _as_trained(Status.GENIE, Rounding(), OracleVariance()),
    ),
    "test-channel": System(
        "predicted variance, test channel",
        "test-channel",
        "zero",
        "paper1-test-channel",
        _as_trained(Status.ACHIEVABLE, GaussianTest(mmse=False)),
    ),
    "joint": System(
        "oracle variance, test channel",
        "oracle-test-channel",
        "zero",
        "paper1-oracle-test-channel",
        _as_trained(Status.GENIE, _PAPER_ORACLE, OracleVariance()),
    ),
    "joint-context": System(
        "oracle variance, test channel, context",
        "oracle-test-channel",
        "predicted",
        "paper1-oracle-test-channel-context",
        _as_trained(Status.GENIE, _PAPER_CONTEXT),
    ),
}


#: What the codec's own prior charges for what an oracle delivers.
_WITNESSES = {
    "joint": _as_trained(Status.ACHIEVABLE, ChargedByPrior(_PAPER_ORACLE)),
    "joint-context": _as_trained(Status.ACHIEVABLE, ChargedByPrior(_PAPER_CONTEXT)),
}


def _mini(system: System, distortion: str) -> TrainConfig:
    """The bundled codec, at all λ, fine-tuned for minutes."""
    return replace(
        PRESETS["bundled"],
        start="default",
        distortion=distortion,
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


def experiments_of(scale: str, names: Sequence[str], fidelity: Fidelity = PSNR) -> list[Experiment]:
    """Trainings by the name of the system; at full scale one for each rate, after its baseline."""
    end = fidelity.suffix
    if scale == "mini":
        configs = {name: _mini(SYSTEMS[name], fidelity.distortion) for name in names}
        return [Experiment(f"mini-{name}{end}", 0, None, configs[name]) for name in names]
    found = []
    for quality in QUALITIES:
        for name in names:
            config = PRESETS[f"{SYSTEMS[name].preset}{end}-q{quality:g}"]
            after = None if name == "baseline" else f"full-baseline{end}-q{quality:g}"
            found.append(Experiment(f"full-{name}{end}-q{quality:g}", 0, after, config))
    return found


def train_all(request: Request, experiments: Sequence[Experiment]) -> None:
    """Train what is not trained yet.

    Raises
    ------
    WaterfillError
        If there is nothing to train on, a training stops, or one that is there was made otherwise
        than it would be now.
    Interrupted
        If Ctrl-C or SIGTERM stopped it; what was trained until then is kept.
    """
    _check_runs(request, experiments)
    steps = sum(e.config.steps for e in experiments)
    before = {e.name: steps_done(RunFolder(request.runs / e.name)) for e in experiments}

    def advance(name: str, report: Any) -> None:
        before[name] = report.step
        request.progress(sum(before.values()), steps, f"training {name}")

    missing = [e for e in experiments if before[e.name] < e.config.steps]
    if missing and not request.photographs:
        raise WaterfillError(
            f"{missing[0].name} is not trained: name photographs to train on with --train"
        )
    outcomes = work_through(
        experiments, request.runs, data=list(request.photographs), progress=advance
    )
    for outcome in outcomes:
        if outcome.stopped_by is not None:
            raise Interrupted(outcome.stopped_by)
        if not outcome.finished:
            raise WaterfillError(
                f"{outcome.name}: step {outcome.step} of {outcome.steps}, {outcome.note}"
            )
    _check_runs(request, experiments)  # of what others start from, some may be new


def _check_runs(request: Request, experiments: Sequence[Experiment]) -> None:
    """Refuse trainings that are there and were made otherwise."""
    photographs = request.photographs
    data = open_pictures(photographs).fingerprint() if photographs else None
    for experiment in experiments:
        config = experiment.config
        if experiment.after is not None and not config.start:
            start = RunFolder(request.runs / experiment.after).weights
            config = replace(config, start=str(start))
        check_run(RunFolder(request.runs / experiment.name), config, data)


@dataclass(frozen=True)
class Measured:
    """A trained system on pictures, or what a prior charges for its ŷ.

    Attributes
    ----------
    label, status
        For tables and legends.
    pictures
        Points of each picture, ascending in rate.
    weights
        Of the codecs that were measured: identities by the folders of their trainings.
    """

    label: str
    status: Status
    pictures: list[list[Point]]
    weights: Mapping[str, str]

    @property
    def genie(self) -> bool:
        """Whether it is told something for free."""
        return self.status is Status.GENIE

    @property
    def curve(self) -> list[Point]:
        """Means over the pictures."""
        return [mean_point(column) for column in zip(*self.pictures, strict=True)]


def measure(
    request: Request, names: Sequence[str], fidelity: Fidelity = PSNR
) -> dict[str, Measured]:
    """Train what is not trained yet, and measure all of it.

    Returns
    -------
    dict
        By name; of an oracle also ``NAME witness``, what a prior charges for the same ŷ.

    Raises
    ------
    WaterfillError
        As :func:`train_all`, and if no picture is large enough.
    ImageError
        If a picture can't be used; nothing is trained then.
    """
    pictures = _large_enough(
        [as_picture(item) for item in request.pictures] or sample_pictures(), fidelity
    )
    train_all(request, experiments_of(request.scale, names, fidelity))
    found = {}
    for name in names:
        system = SYSTEMS[name]
        read = [(name, system.label, system.rung)]
        if name in _WITNESSES:
            charged = f"{system.label}: the same ŷ, charged by a prior"
            read.append((f"{name} witness", charged, _WITNESSES[name]))
        for key, label, rung in read:
            rows: list[list[Point]] = [[] for _ in pictures]
            weights = {}
            for stem, qualities in _weights(request, name + fidelity.suffix):
                codec = load_codec(str(RunFolder(request.runs / stem).weights))
                weights[stem] = codec.weights_id.hex()
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
            found[key] = Measured(label, rung.status, rows, weights)
    return found


def _large_enough(pictures: list[Picture], fidelity: Fidelity) -> list[Picture]:
    """Pictures that have that fidelity: rates of others would not go with it."""
    least = fidelity.least
    kept = [picture for picture in pictures if min(picture.height, picture.width) >= least]
    if not kept:
        raise WaterfillError(f"{fidelity.name} needs pictures of at least {least}×{least}")
    return kept


def _told(request: Request, name: str, done: int, total: int, what: str) -> None:
    request.progress(done, total, f"measuring {name} on {what}")


def _weights(request: Request, name: str) -> list[tuple[str, tuple[float, ...]]]:
    """Folders of trainings of a name, and the qualities that each covers."""
    if request.scale == "mini":
        return [(f"mini-{name}", QUALITIES)]
    return [(f"full-{name}-q{q:g}", (q,)) for q in QUALITIES]


def bd_rate_of(anchor: Sequence[Point], test: Sequence[Point], fidelity: Fidelity = PSNR) -> float:
    """BD-rate in percent; NaN where the curves don't allow one."""
    kept = (efficient(curve, fidelity.of) for curve in (anchor, test))
    try:
        return bd_rate(*([(p.bpp, fidelity.of(p)) for p in curve] for curve in kept))
    except ValueError:
        return math.nan
