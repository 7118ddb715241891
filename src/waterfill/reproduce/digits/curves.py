"""Trained limits and estimators on digits, read on training and on test digits.

All curves have one unit: bits for a digit against the squared error of its 28×28 pixels in [0, 1].
"""

from __future__ import annotations

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
from waterfill.estimators.curve import Status as Bound
from waterfill.estimators.method import FitThenScore, mean_interval
from waterfill.estimators.nerd import Nerd
from waterfill.estimators.sandwich import SandwichUpper
from waterfill.estimators.wgd import WassersteinDescent
from waterfill.evaluation.cache import Cache
from waterfill.ladder.rungs import Status
from waterfill.ladder.subjects import noise_of
from waterfill.provenance import identity
from waterfill.reproduce.estimates import Reading, estimates
from waterfill.reproduce.result import Request
from waterfill.reproduce.trained import GENIE_AIDED
from waterfill.training.config import TrainConfig
from waterfill.training.experiments import Experiment
from waterfill.training.folder import RunFolder
from waterfill.training.presets import PRESETS

__all__ = [
    "ESTIMATORS",
    "LIMITS",
    "READ_AT",
    "SETS",
    "SYSTEMS",
    "TEST",
    "TEST_CHANNEL",
    "TRAINING",
    "WITNESSES",
    "Curve",
    "Digits",
    "System",
    "config_of",
    "experiments",
    "of_codecs",
    "of_estimators",
    "slope_of",
    "through",
]

_SIDE, _PADDED = 28, 32
#: Digits of each set that every curve is read on, and how many go through a codec at once.
_READ, _AT_ONCE = 1000, 500
TRAINING, TEST = "training digits", "test digits"
SETS = (TRAINING, TEST)
_ORACLE = OracleGaussian("paper")
_WITH_CONTEXT = OracleGaussian("paper", predicted_mean=True)


@dataclass(frozen=True)
class System:
    """What is trained, by which preset, and the channels that it is read through.

    Of each: what it is called, what it is, the channel, and whether the codec's own prior is asked.
    All give the same ŷ.
    """

    preset: str
    curves: tuple[tuple[str, Status, Channel, bool], ...]


_WITHOUT, _WITH = "limit without context", "limit with context"
_CHARGED = "the same ŷ, charged by a prior"
SYSTEMS: Mapping[str, System] = {
    "baseline": System(
        "hyperprior",
        (("hyperprior, rounding: ideal code length", Status.ACHIEVED_IDEAL, Rounding(), True),),
    ),
    "test-channel": System(
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
    "joint": System(
        "oracle-test-channel",
        (
            (_WITHOUT, Status.GENIE, _ORACLE, False),
            (f"{_WITHOUT}: {_CHARGED}", Status.ACHIEVABLE, ChargedByPrior(_ORACLE), True),
        ),
    ),
    "joint-context": System(
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
#: Names of curves: the genie's, the test channel's, which is achievable, what a prior charges.
LIMITS = tuple(SYSTEMS[name].curves[0][0] for name in ("joint", "joint-context"))
TEST_CHANNEL = SYSTEMS["test-channel"].curves[0][0]
WITNESSES = tuple(SYSTEMS[name].curves[1][0] for name in ("joint", "joint-context"))

#: By scale: steps of the baseline, and of each system that starts from it.
_STEPS = {"mini": (2200, 400), "night": (6000, 1500)}
#: At whose λ codecs are read.
READ_AT = (1, 2, 3, 4, 5, 7)
#: By scale: an estimator, and the qualities at whose λ. Those with a ceiling say nothing beyond it.
ESTIMATORS: Mapping[str, Mapping[str, tuple[FitThenScore, Sequence[int]]]] = {
    "mini": {
        "sandwich": (
            SandwichUpper(hidden=200, latent=64, steps=600, batch=128),
            READ_AT,
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
    "night": {
        "sandwich": (
            SandwichUpper(hidden=400, latent=64, steps=4000, batch=128),
            READ_AT,
        ),
        "NERD": (
            Nerd(steps=250, training_atoms=4096, batch=256, hidden=256, samples=_READ),
            QUALITIES[:5],
        ),
        "WGD": (
            WassersteinDescent(particles=4096, steps=100, batch=2000, samples=_READ),
            QUALITIES[:5],
        ),
    },
    "full": {
        "sandwich": (SandwichUpper(hidden=1000, latent=128, steps=100_000), READ_AT),
        "NERD": (
            Nerd(steps=10_000, training_atoms=40_000, hidden=1024, samples=_READ),
            READ_AT,
        ),
        "WGD": (
            WassersteinDescent(particles=40_000, steps=1000, batch=60_000, samples=_READ),
            READ_AT,
        ),
    },
}


@dataclass(frozen=True)
class Curve:
    """What one method says of both sets."""

    name: str
    status: str
    readings: Mapping[str, Sequence[Reading]]
    ceiling: float | None = None

    @property
    def genie(self) -> bool:
        """Whether it is told something for free."""
        return self.status == GENIE_AIDED

    def rate_at(self, which: str, distortion: float) -> float:
        """Bits at a squared error, between the points on logarithmic axes; NaN beyond them."""
        points = sorted((p.distortion, p.rate) for p in self.readings[which] if p.rate > 0)
        errors, rates = np.log(np.array(points).T) if points else np.empty((2, 0))
        at = math.log(distortion)
        inside = len(errors) and errors[0] <= at <= errors[-1]
        return float(np.exp(np.interp(at, errors, rates))) if inside else math.nan


@dataclass(frozen=True)
class Digits:
    """Training digits, all of them, and those of both sets that everything is read on."""

    training: NDArray[np.uint8]
    read: Mapping[str, NDArray[np.uint8]]

    @property
    def fingerprint(self) -> str:
        """Hex, of all of them."""
        digest = hashlib.sha256(self.training.tobytes())
        for part in self.read.values():
            digest.update(part.tobytes())
        return digest.hexdigest()

    @staticmethod
    def of(request: Request) -> Digits:
        """Those that a request names.

        Raises
        ------
        WaterfillError
            If it doesn't name both, they are no digits of 28×28, or all that is to be read was
            fitted to.
        """
        training = _stack(request.photographs, "training digits by --train")
        test = _stack(request.pictures, "test digits")
        if {one.tobytes() for one in test} <= {one.tobytes() for one in training}:
            raise WaterfillError("fig5c needs test digits that are not among the training digits")
        rng = np.random.default_rng(0)
        chosen = {
            name: stack[np.sort(rng.permutation(len(stack))[:_READ])]
            for name, stack in zip(SETS, (training, test), strict=True)
        }
        return Digits(training, chosen)

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


def config_of(scale: str, name: str, quality: int) -> TrainConfig:
    """How a system is trained; but for full scale for all λ at once."""
    preset = f"paper1-mnist-{SYSTEMS[name].preset}"
    if scale == "full":
        return PRESETS[f"{preset}-q{quality}"]
    baseline, limit = _STEPS[scale]
    return replace(PRESETS[f"mini-{preset}"], steps=baseline if name == "baseline" else limit)


def experiments(scale: str) -> list[Experiment]:
    """The trainings; limits start from the baseline (algorithm 1)."""
    found = []
    for stem, quality in _stems(scale):
        for name in SYSTEMS:
            after = None if name == "baseline" else stem.format("baseline")
            config = config_of(scale, name, quality)
            found.append(Experiment(stem.format(name), 0, after, config))
    return found


def _stems(scale: str) -> list[tuple[str, int]]:
    """Names of the trainings but for the system's, each with its quality."""
    if scale == "full":
        return [(f"full-digits-{{}}-q{quality}", quality) for quality in READ_AT]
    return [(f"{scale}-digits-{{}}", READ_AT[-1])]


@torch.no_grad()
def through(
    codec: Codec, system: System, digits: NDArray[np.uint8], quality: int, seed: int
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


def of_codecs(request: Request, digits: Digits) -> list[Curve]:
    """What the trained systems reach, kept from one call to the next."""
    cache = Cache(request.runs / "readings")
    found = []
    steps, done = len(SYSTEMS) * len(READ_AT), 0
    for name, system in SYSTEMS.items():
        points: list[dict[str, list[Reading]]] = [{s: [] for s in SETS} for _ in system.curves]
        for stem, trained in _stems(request.scale):
            codec = load_codec(str(RunFolder(request.runs / stem.format(name)).weights))
            for quality in READ_AT if codec.config.variable_rate else (trained,):
                slope = slope_of(request.scale, quality)
                for which in SETS:
                    key = {
                        "system": name,
                        "weights": codec.weights_id.hex(),
                        "quality": quality,
                        "slope": slope,
                        "seed": request.seed,
                        "read": which,
                        "digits": digits.fingerprint,
                        "by": identity(),
                    }
                    row = cache.get(key)
                    if row is None:
                        bits, errors = through(
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
                        one[which].append(Reading(row["error"], rate, half))
                done += 1
                request.progress(done, steps, f"measuring {name}")
        found += [
            Curve(curve, str(status), one)
            for (curve, status, *_), one in zip(system.curves, points, strict=True)
        ]
    return found


def _half(values: Tensor) -> float:
    """Half of the 95 % interval of a mean."""
    mean, (low, _) = mean_interval(values)
    return mean - low


def slope_of(scale: str, quality: int) -> float:
    """λ in bits for a squared error of 1, as a codec of this quality is trained by."""
    config = config_of(scale, "baseline", quality)
    return config.lambda_scale * lambda_of_quality(quality) * 255.0**2


def of_estimators(request: Request, digits: Digits) -> list[Curve]:
    """What the estimators say, kept from one call to the next."""
    judges = {which: digits.source(which) for which in SETS}
    about = {"digits": digits.fingerprint}
    found = []
    for name, (method, qualities) in ESTIMATORS[request.scale].items():
        slopes = [slope_of(request.scale, quality) for quality in qualities]
        said = estimates(request, name, method, slopes, judges[TRAINING], judges, about)
        found.append(Curve(name, Bound.UPPER.value, said.readings, said.ceiling))
    return found
