"""Digits: the limits of paper 1 beside estimators of R(D) (figure 5c).

All curves have one unit: bits for a digit against the squared error of its 28×28 pixels in [0, 1].
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from waterfill.codec.channels import Channel, ChargedByPrior, GaussianTest, OracleGaussian, Rounding
from waterfill.codec.gains import QUALITIES, lambda_of_quality
from waterfill.codec.model import Codec
from waterfill.codec.priors import NoSideInformation
from waterfill.codec.registry import load_codec
from waterfill.data.idx import IdxPictures
from waterfill.data.sets import open_pictures
from waterfill.data.sources import Source
from waterfill.errors import WaterfillError
from waterfill.estimators.curve import NEAR_CEILING_BITS
from waterfill.estimators.curve import Status as Bound
from waterfill.estimators.method import FitThenScore, Run, mean_interval
from waterfill.estimators.nerd import Nerd
from waterfill.estimators.sandwich import SandwichUpper
from waterfill.estimators.wgd import WassersteinDescent
from waterfill.evaluation.cache import Cache
from waterfill.ladder.rungs import Status
from waterfill.ladder.subjects import noise_of
from waterfill.provenance import environment
from waterfill.reproduce.result import Line, Reproduction, Request, Table, Verdict, percent
from waterfill.reproduce.trained import GENIE_AIDED, train_all
from waterfill.training.config import TrainConfig
from waterfill.training.experiments import Experiment
from waterfill.training.folder import RunFolder
from waterfill.training.presets import PRESETS

__all__ = ["fig5c"]

_SIDE, _PADDED = 28, 32
#: Digits of each set that every curve is read on, and how many go through a codec at once.
_READ, _AT_ONCE = 1000, 500
TRAINING, TEST = "training digits", "test digits"
_SETS = (TRAINING, TEST)
_ORACLE = OracleGaussian("paper")
_WITH_CONTEXT = OracleGaussian("paper", predicted_mean=True)


@dataclass(frozen=True)
class _System:
    """What is trained, by which preset, and the channels that it is read through.

    Of each: what it is called, what it is, the channel, and whether the codec's own prior is asked.
    All give the same ŷ.
    """

    preset: str
    curves: tuple[tuple[str, Status, Channel, bool], ...]


_WITHOUT, _WITH = "limit without context", "limit with context"
_CHARGED = "the same ŷ, charged by a prior"
_SYSTEMS: Mapping[str, _System] = {
    "baseline": _System(
        "hyperprior",
        (("hyperprior, rounding: ideal code length", Status.ACHIEVED_IDEAL, Rounding(), True),),
    ),
    "test-channel": _System(
        "test-channel",
        (
            (
                "hyperprior, test channel",
                Status.ACHIEVABLE,
                GaussianTest(mmse=False),
                True,
            ),
        ),
    ),
    "joint": _System(
        "oracle-test-channel",
        (
            (_WITHOUT, Status.GENIE, _ORACLE, False),
            (f"{_WITHOUT}: {_CHARGED}", Status.ACHIEVABLE, ChargedByPrior(_ORACLE), True),
        ),
    ),
    "joint-context": _System(
        "oracle-test-channel-context",
        (
            (_WITH, Status.GENIE, _WITH_CONTEXT, True),
            (
                f"{_WITH}: {_CHARGED}",
                Status.ACHIEVABLE,
                ChargedByPrior(_WITH_CONTEXT),
                True,
            ),
        ),
    ),
}
_LIMITS = tuple(_SYSTEMS[name].curves[0][0] for name in ("joint", "joint-context"))
_HONEST = _SYSTEMS["test-channel"].curves[0][0]
_WITNESSES = tuple(_SYSTEMS[name].curves[1][0] for name in ("joint", "joint-context"))

#: At whose λ codecs are read.
_QUALITIES = (1, 2, 3, 4, 5, 7)
#: By scale: an estimator, and the qualities at whose λ. Those with a ceiling say nothing beyond it.
_ESTIMATORS: Mapping[str, Mapping[str, tuple[FitThenScore, Sequence[int]]]] = {
    "mini": {
        "sandwich": (
            SandwichUpper(hidden=200, latent=64, steps=600, batch=128),
            (1, 2, 3, 4, 5, 7),
        ),
        "NERD": (
            Nerd(steps=80, training_atoms=2048, batch=256, hidden=128, samples=_READ),
            QUALITIES[:5],
        ),
        "WGD": (
            WassersteinDescent(particles=2048, steps=40, batch=2000, samples=_READ),
            QUALITIES[:5],
        ),
    },
    "full": {
        "sandwich": (SandwichUpper(hidden=1000, latent=128, steps=100_000), _QUALITIES),
        "NERD": (
            Nerd(steps=10_000, training_atoms=40_000, hidden=1024, samples=_READ),
            _QUALITIES,
        ),
        "WGD": (
            WassersteinDescent(particles=40_000, steps=1000, batch=60_000, samples=_READ),
            _QUALITIES,
        ),
    },
}
#: Published by Lei, Hassani & Saeedi Bidokhti 2022 with their code (leieric/NERD-RCC): bits and
#: squared error of training digits that were resized to 32×32.
_PUBLISHED_NERD = (
    (14.36, 14.60),
    (13.24, 15.13),
    (10.81, 17.58),
    (9.61, 19.49),
    (7.78, 23.14),
    (6.54, 26.19),
    (4.93, 31.25),
    (2.87, 39.67),
)
#: Squared errors at which rates are compared.
_AT = (40.0, 35.0, 30.0, 25.0, 20.0, 15.0, 10.0)
#: Rates below are too near zero to be compared by their ratio.
_LEAST_BITS = 1.0
#: On a logarithmic axis.
_LEAST_DRAWN = 0.05
#: A change of rate, in percent, that is none.
_NEXT_TO_NOTHING = 5.0


@dataclass(frozen=True)
class _Reading:
    """A point: mean squared error and bits of a digit, half the 95 % interval of R + λD in bits."""

    distortion: float
    rate: float
    half: float
    near_ceiling: bool = False


@dataclass(frozen=True)
class _Curve:
    """What one method says of both sets."""

    name: str
    status: str
    readings: Mapping[str, Sequence[_Reading]]
    ceiling: float | None = None

    @property
    def genie(self) -> bool:
        return self.status == GENIE_AIDED

    def rate_at(self, which: str, distortion: float) -> float:
        """Bits at a squared error, between the points on logarithmic axes; NaN beyond them."""
        points = sorted((p.distortion, p.rate) for p in self.readings[which] if p.rate > 0)
        errors, rates = np.log(np.array(points).T) if points else np.empty((2, 0))
        at = math.log(distortion)
        inside = len(errors) and errors[0] <= at <= errors[-1]
        return float(np.exp(np.interp(at, errors, rates))) if inside else math.nan


@dataclass(frozen=True)
class _Digits:
    """Training digits, all of them, and those of both sets that everything is read on."""

    training: NDArray[np.uint8]
    read: Mapping[str, NDArray[np.uint8]]

    @property
    def fingerprint(self) -> str:
        digest = hashlib.sha256(self.training.tobytes())
        for part in self.read.values():
            digest.update(part.tobytes())
        return digest.hexdigest()

    @staticmethod
    def of(request: Request) -> _Digits:
        """Those that a request names.

        Raises
        ------
        WaterfillError
            If it doesn't name both, or they are no digits of 28×28.
        """
        training = _stack(request.photographs, "training digits by --train")
        test = _stack(request.pictures, "test digits")
        rng = np.random.default_rng(0)
        chosen = {
            name: stack[np.sort(rng.permutation(len(stack))[:_READ])]
            for name, stack in zip(_SETS, (training, test), strict=True)
        }
        return _Digits(training, chosen)

    def source(self, which: str) -> Source:
        """The training digits to fit on, and those of a set to read on."""
        fit = self.training.reshape(len(self.training), -1)
        fresh = self.read[which].reshape(len(self.read[which]), -1)
        return Source(
            f"MNIST, {which}",
            fit.shape[1],
            lambda count, rng: fit[rng.integers(0, len(fit), count)] / 255.0,
            lambda count, rng: fresh[:count] / 255.0,
            stored=len(fit) + len(fresh),
        )


def _stack(paths: Sequence[Any], what: str) -> NDArray[np.uint8]:
    pictures = open_pictures(paths) if paths else None
    if not isinstance(pictures, IdxPictures) or pictures.stack.shape[1:] != (_SIDE, _SIDE):
        raise WaterfillError(f"fig5c needs {what}: one IDX file of 28×28, as MNIST's are")
    return pictures.stack


def _config(scale: str, name: str, quality: int) -> TrainConfig:
    preset = f"paper1-mnist-{_SYSTEMS[name].preset}"
    if scale == "full":
        return PRESETS[f"{preset}-q{quality}"]
    return replace(PRESETS[f"mini-{preset}"], steps=2200 if name == "baseline" else 400)


def experiments(scale: str) -> list[Experiment]:
    """The trainings; limits start from the baseline (algorithm 1)."""
    found = []
    for stem, quality in _stems(scale):
        for name in _SYSTEMS:
            after = None if name == "baseline" else stem.format("baseline")
            config = _config(scale, name, quality)
            found.append(Experiment(stem.format(name), 0, after, config))
    return found


def _stems(scale: str) -> list[tuple[str, int]]:
    """Names of the trainings but for the system's, each with its quality."""
    if scale == "mini":
        return [("mini-digits-{}", _QUALITIES[-1])]
    return [(f"full-digits-{{}}-q{quality}", quality) for quality in _QUALITIES]


@torch.no_grad()
def _through(
    codec: Codec, system: _System, digits: NDArray[np.uint8], quality: int, seed: int
) -> tuple[Tensor, Tensor]:
    """Bits (curves, N) of each of a system's curves, and squared error (N), of each digit.

    As a decoder has it. Digits are padded as streams pad them, and the padding's error does not
    count. A system's curves share their ŷ, and with it the error.
    """
    (_, _, channel, own_prior), *others = system.curves
    prior = partial(codec.prior, coded=True) if own_prior else NoSideInformation()
    bits, errors = [], []
    for number, start in enumerate(range(0, len(digits), _AT_ONCE)):
        part = digits[start : start + _AT_ONCE]
        x = torch.from_numpy(part.astype(np.float32))[:, None] / 255.0
        margin = _PADDED - _SIDE
        padded = F.pad(x, (0, margin, 0, margin), mode="replicate")
        padded = padded.contiguous(memory_format=torch.channels_last)
        at = torch.full((len(part),), float(quality))
        passage = codec(padded, at, channel, noise_of(seed, number), prior=prior)
        charged = [passage.y_bits + passage.z_bits]
        log2_gain, _ = codec.gains(at)
        for _, _, other, _ in others:
            sent = codec.prior(passage.y, at, log2_gain, other, noise_of(seed, number), coded=True)
            charged.append(sent.y_bits.sum((1, 2, 3)) + sent.z_bits.sum((1, 2, 3)))
        x_hat = passage.x_hat[..., :_SIDE, :_SIDE].clamp(0.0, 1.0)
        bits.append(torch.stack(charged))
        errors.append((x_hat - x).square().sum((1, 2, 3)))
    return torch.cat(bits, 1), torch.cat(errors)


def _of_codecs(request: Request, digits: _Digits) -> list[_Curve]:
    """What the trained systems reach, kept from one call to the next."""
    cache = Cache(request.runs / "readings")
    found = []
    steps, done = len(_SYSTEMS) * len(_QUALITIES), 0
    for name, system in _SYSTEMS.items():
        points: list[dict[str, list[_Reading]]] = [{s: [] for s in _SETS} for _ in system.curves]
        for stem, trained in _stems(request.scale):
            codec = load_codec(str(RunFolder(request.runs / stem.format(name)).weights))
            for quality in _QUALITIES if codec.config.variable_rate else (trained,):
                slope = _slope(request.scale, quality)
                for which in _SETS:
                    key = {
                        "system": name,
                        "weights": codec.weights_id.hex(),
                        "quality": quality,
                        "slope": slope,
                        "seed": request.seed,
                        "read": which,
                        "digits": digits.fingerprint,
                    }
                    row = cache.get(key)
                    if row is None:
                        bits, errors = _through(
                            codec, system, digits.read[which], quality, request.seed
                        )
                        row = {
                            "error": float(errors.double().mean()),
                            "bits": [
                                [float(one.double().mean()), _half(one + slope * errors)]
                                for one in bits
                            ],
                        }
                        cache.put(key, row)
                    for one, (rate, half) in zip(points, row["bits"], strict=True):
                        one[which].append(_Reading(row["error"], rate, half))
                done += 1
                request.progress(done, steps, f"measuring {name}")
        found += [
            _Curve(curve, str(status), one)
            for (curve, status, *_), one in zip(system.curves, points, strict=True)
        ]
    return found


def _half(values: Tensor) -> float:
    """Half of the 95 % interval of a mean."""
    mean, (low, _) = mean_interval(values)
    return mean - low


def _slope(scale: str, quality: int) -> float:
    """λ in bits for a squared error of 1, as a codec of this quality is trained by."""
    config = _config(scale, "baseline", quality)
    return config.lambda_scale * lambda_of_quality(quality) * 255.0**2


def _of_estimators(request: Request, digits: _Digits) -> list[_Curve]:
    """What the estimators say, kept from one call to the next."""
    cache = Cache(request.runs / "estimates")
    judges = [digits.source(which) for which in _SETS]
    run = Run(request.seed, request.progress)
    found = []
    for name, (method, qualities) in _ESTIMATORS[request.scale].items():
        points: dict[str, list[_Reading]] = {which: [] for which in _SETS}
        ceiling = None
        for quality in qualities:
            slope = _slope(request.scale, quality) * math.log(2.0)
            key = {
                "method": name,
                "settings": vars(method),
                "slope": slope,
                "seed": request.seed,
                "digits": digits.fingerprint,
            }
            row = cache.get(key)
            if row is None:
                read = method.on(judges[0], judges, slope, run)
                row = {"findings": [dataclasses.asdict(one) for one in read]}
                cache.put(key, row)
            for which, one in zip(_SETS, row["findings"], strict=True):
                nats = max(0.0, one["lagrangian"] - one["slope"] * one["distortion"])
                half = 0.5 * (one["interval"][1] - one["interval"][0])
                ceiling = one["ceiling"]
                near = ceiling is not None and nats > ceiling - NEAR_CEILING_BITS * math.log(2.0)
                points[which].append(
                    _Reading(one["distortion"], nats / math.log(2.0), half / math.log(2.0), near)
                )
        found.append(_Curve(name, Bound.UPPER.value, points, ceiling and ceiling / math.log(2.0)))
    return found


def fig5c(request: Request) -> Reproduction:
    """Limits, estimators and what is achievable, on training digits and on test digits."""
    digits = _Digits.of(request)
    estimates = _of_estimators(request, digits)
    train_all(request, experiments(request.scale))
    codecs = _of_codecs(request, digits)
    curves = [*codecs, *estimates]
    return Reproduction(
        "fig5c",
        "The limits on digits beside estimators of R(D) (paper 1, figure 5c)",
        request.scale,
        ("rate (bits per digit)", "squared error per digit"),
        _lines(curves),
        (*(_table(curves, which) for which in _SETS), _at_equal_error(curves), _published()),
        _verdicts(curves),
        _notes(request, digits, estimates),
        environment(request.seed),
    )


def _lines(curves: Sequence[_Curve]) -> tuple[Line, ...]:
    """Test digits, and thin beside them training digits; ceilings; what was published."""
    lines = []
    errors = [p.distortion for c in curves for points in c.readings.values() for p in points]
    for curve in curves:
        for which in (TEST, TRAINING):
            points = [p for p in curve.readings[which] if p.rate > _LEAST_DRAWN]
            lines.append(
                Line(
                    f"{curve.name}, {which}",
                    tuple(p.rate for p in points),
                    tuple(p.distortion for p in points),
                    curve.genie,
                    beside=which == TRAINING,
                )
            )
    ends = (min(errors), max(errors))
    for curve in curves:
        if curve.ceiling is not None:
            lines.append(Line(f"ceiling of {curve.name}", (curve.ceiling,) * 2, ends))
    rates, theirs = zip(*_PUBLISHED_NERD, strict=True)
    lines.append(Line("NERD as published, digits resized to 32×32", rates, theirs))
    return tuple(lines)


def _meaning(curve: _Curve, which: str) -> str:
    """What a curve is on a set of digits."""
    if curve.genie:
        return f"{GENIE_AIDED}: bounds nothing"
    return "upper bound" if which == TEST else "upper bound of these digits alone"


def _table(curves: Sequence[_Curve], which: str) -> Table:
    rows = []
    for curve in curves:
        cells = [
            f"{p.rate:.1f} ± {p.half:.1f}, {p.distortion:.2f}" + (" (ceiling)" * p.near_ceiling)
            for p in curve.readings[which]
        ]
        cells += ["—"] * (len(_QUALITIES) - len(cells))
        rows.append((curve.name, GENIE_AIDED if curve.genie else _meaning(curve, which), *cells))
    return Table(
        f"{which.capitalize()}: bits (± half the 95 % interval of R + λD) and squared error",
        ("curve", "status", *(f"λ {quality}" for quality in _QUALITIES)),
        tuple(rows),
    )


def _at_equal_error(curves: Sequence[_Curve]) -> Table:
    rows = []
    for curve in curves:
        cells = [
            " / ".join(
                f"{rate:.1f}" if math.isfinite(rate) else "—"
                for rate in (curve.rate_at(which, error) for which in (TEST, TRAINING))
            )
            for error in _AT
        ]
        rows.append((curve.name, GENIE_AIDED if curve.genie else curve.status, *cells))
    return Table(
        "Bits at equal squared error, test digits / training digits",
        ("curve", "status", *(f"{error:g}" for error in _AT)),
        tuple(rows),
    )


def _published() -> Table:
    return Table(
        "NERD as published (Lei, Hassani & Saeedi Bidokhti 2022): training digits resized to "
        "32×32, which are other pixels",
        ("bits", "squared error"),
        tuple((f"{rate:.2f}", f"{error:.2f}") for rate, error in _PUBLISHED_NERD),
    )


def _beside(one: _Curve, other: _Curve, which: str) -> list[float]:
    """How far, in percent of rate, one curve lies from another's points, those at a ceiling not."""
    shares = [
        100.0 * (one.rate_at(which, p.distortion) / p.rate - 1.0)
        for p in other.readings[which]
        if p.rate > _LEAST_BITS and not p.near_ceiling
    ]
    return [share for share in shares if math.isfinite(share)]


def _span(shares: Sequence[float]) -> str:
    if not shares:
        return "no common squared error"
    low, high = min(shares), max(shares)
    return percent(low) if low == high else f"{percent(low)} to {percent(high)}"


def _verdicts(curves: Sequence[_Curve]) -> tuple[Verdict, ...]:
    named = {curve.name: curve for curve in curves}
    estimates = [c for c in curves if c.status == Bound.UPPER]
    said, below = [], []
    for which in (TEST, TRAINING):
        for limit in _LIMITS:
            spans = {c.name: _beside(named[limit], c, which) for c in estimates}
            below += [share < 0 for shares in spans.values() for share in shares]
            text = ", ".join(f"{name} {_span(shares)}" for name, shares in spans.items())
            said.append(f"{limit} on {which} ({GENIE_AIDED}), in rate at equal error: {text}")
    honest = [
        f"{name} against the sandwich {_span(_beside(named[name], named['sandwich'], TEST))}"
        for name in (_HONEST, *_WITNESSES)
    ]
    contexts = {
        which: _beside(named[_LIMITS[1]], named[_LIMITS[0]], which) for which in (TEST, TRAINING)
    }
    widest = max((abs(share) for shares in contexts.values() for share in shares), default=math.inf)
    return (
        Verdict(
            "the limits lie below sandwich bound, NERD and WGD everywhere",
            "reproduced" if below and all(below) else "not reproduced",
            "; ".join(said),
        ),
        Verdict(
            "so they are tighter bounds",
            "cannot be",
            f"both limits are {GENIE_AIDED} and bound R(D) in neither direction. Bounds, all of "
            f"them upper ones, are sandwich, NERD and WGD and what a prior is paid; on test digits "
            f"{'; '.join(honest)}; lowest there: {_lowest(curves)}",
        ),
        Verdict(
            "a context gains next to nothing on digits",
            "reproduced" if widest < _NEXT_TO_NOTHING else "not reproduced",
            "rate of the limit with context against that without, at equal error "
            f"({GENIE_AIDED}): "
            + ", ".join(f"{which} {_span(shares)}" for which, shares in contexts.items()),
        ),
    )


def _lowest(curves: Sequence[_Curve]) -> str:
    """The lowest of the upper bounds at each squared error, on test digits."""
    found = []
    for error in _AT:
        rates = {c.name: c.rate_at(TEST, error) for c in curves if not c.genie}
        known = {name: rate for name, rate in rates.items() if math.isfinite(rate)}
        if known:
            best = min(known, key=lambda name: known[name])
            found.append(f"{best} at {error:g} ({known[best]:.1f} bits)")
    return ", ".join(found)


def _notes(request: Request, digits: _Digits, estimates: Sequence[_Curve]) -> tuple[str, ...]:
    of_baseline, of_limit = (
        _config(request.scale, name, QUALITIES[-1]) for name in ("baseline", "joint")
    )
    slopes = [_slope(request.scale, quality) for quality in (_QUALITIES[0], _QUALITIES[-1])]
    methods = ", ".join(
        f"{name} {vars(method)['steps']:,}"
        for name, (method, _) in _ESTIMATORS[request.scale].items()
    )
    count = "one codec for all λ" if request.scale == "mini" else "one codec for each λ"
    ceilings = ", ".join(
        f"{c.name} {c.ceiling:.1f} bits" for c in estimates if c.ceiling is not None
    )
    return (
        f"Networks of table II (N = 36), {count}: a baseline of {of_baseline.steps:,} steps of "
        f"{of_baseline.batch} digits, then {of_limit.steps:,} for each limit, started from it; the "
        "paper fine-tunes for 200,000 steps of 100. λ 1 … 7 are slopes from "
        f"{slopes[0]:.2g} to {slopes[1]:.3g} bits for a squared error of 1, those of photographs "
        f"divided by {1 / of_limit.lambda_scale:g}; the text of the paper lost its own.",
        f"Codecs and estimators are fitted to the {len(digits.training):,} training digits, codecs "
        "but for one in 48 that their validation holds back, and read "
        f"on the same {len(digits.read[TRAINING]):,} of them and {len(digits.read[TEST]):,} test "
        "digits. A rate on digits that were fitted to, as the paper gives it, bounds no more than "
        "the rate-distortion function of these very digits; on test digits it bounds that of their "
        f"law. Error in the padding to 32×32 does not count. Steps of the estimators: "
        f"{methods}.",
        "A limit is told each latent's variance (oracle variance, Gaussian test channel), which no "
        "decoder can be: its curve is genie-aided and bounds R(D) in neither direction. In the "
        "figure, thin lines are the same on training digits.",
        f"An estimator with n atoms can't give a rate above log₂ n: {ceilings}.",
    )
