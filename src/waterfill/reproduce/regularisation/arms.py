"""Codecs trained with and without the regulariser, seed by seed, and what they reach."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from waterfill.codec.config import CodecConfig
from waterfill.codec.registry import load_codec
from waterfill.data.images import Picture, as_picture, sample_pictures
from waterfill.data.sets import open_pictures
from waterfill.errors import CurveError, DivergedError, WaterfillError
from waterfill.evaluation.cache import Cache, fingerprint
from waterfill.evaluation.curves import bd_rate
from waterfill.files import write_whole
from waterfill.ladder.measure import measure_rung
from waterfill.ladder.rungs import Coded, Status
from waterfill.provenance import identity
from waterfill.reproduce.regularisation.seeds import Effect
from waterfill.reproduce.result import Request
from waterfill.reproduce.runs import check_run
from waterfill.training.config import TrainConfig
from waterfill.training.experiments import steps_done
from waterfill.training.folder import RunFolder
from waterfill.training.loop import Report, train
from waterfill.training.presets import PRESETS

__all__ = [
    "ALPHAS",
    "BUNDLED",
    "CHECKPOINTS",
    "MODELS",
    "QUALITIES",
    "SEEDS",
    "Arm",
    "Trained",
    "alpha_of",
    "checkpoints_of",
    "mean_effect",
    "models_of",
]

#: The models of paper 2, and the weight that the paper gives each.
MODELS = ("hyperprior", "autoregressive", "attention")
#: None of the paper's: the bundled codec, trained on from where it stands.
BUNDLED = "bundled"
ALPHAS = {"hyperprior": 0.1, "autoregressive": 1.0, "attention": 1.0}
#: In bits per dimension the larger one takes more than λ has, and a codec runs away: what is
#: compared at mini scale is the smaller one for all.
_MINI_ALPHA = 0.1
#: The paper's four λ.
QUALITIES = (1.0, 2.0, 3.0, 4.0)
SEEDS = (1, 2, 3)
#: Shares of all steps after which the codecs are compared.
CHECKPOINTS = (0.25, 0.5, 0.75, 1.0)
#: Of the mini scale: steps, and the side of the middle of a picture that is measured.
_MINI_STEPS, _MINI_SIDE = 400, 256
#: Steps of the bundled codec.
_MINI_FURTHER = 160
#: A fixed block transform between learned filters starts where others come after hours. There is
#: no such stand-in for transforms with attention.
_MINI_CODECS = {
    "hyperprior": CodecConfig(24, 96, 24, transform="klt"),
    "autoregressive": CodecConfig(
        24, 96, 24, transform="klt", side="mean-scale-wide", context="masked"
    ),
}


@dataclass(frozen=True)
class Arm:
    """A way to train a model.

    Attributes
    ----------
    model
        One of :data:`MODELS`, or :data:`BUNDLED`.
    alpha
        Weight of the regulariser; None for plain training.
    relation
        Of its source model to the codec's prior.
    annealed
        Whether that weight falls to zero over the run.
    """

    model: str
    alpha: float | None = None
    relation: str = "aligned"
    annealed: bool = False

    @property
    def name(self) -> str:
        """Of its folders."""
        if self.alpha is None:
            return f"{self.model}-plain"
        ends = [self.relation] * (self.relation != "aligned") + ["annealed"] * self.annealed
        return "-".join([self.model, f"{self.alpha:g}", *ends])

    def configs(self, scale: str, seed: int) -> list[TrainConfig]:
        """What is trained: one codec for all rates, or at full scale one for each of a model's."""
        changes: dict[str, Any] = {"seed": seed}
        if self.alpha is not None:
            decay = 1.0 if self.annealed else 0.0
            changes |= {
                "alpha": self.alpha, "source_model": self.relation, "alpha_decay": decay,
            }  # fmt: skip
        if self.model == BUNDLED:
            return [replace(_further(scale), **changes)]
        if scale == "mini":
            return [replace(_mini(self.model), **changes)]
        names = [f"paper2-{self.model}-q{quality:g}" for quality in QUALITIES]
        return [replace(PRESETS[name], schedule="constant", **changes) for name in names]


def models_of(scale: str) -> tuple[str, ...]:
    """Models that are trained at a scale."""
    return tuple(_MINI_CODECS) if scale == "mini" else MODELS


def alpha_of(model: str, scale: str) -> float:
    """Weight that a model is compared with."""
    return _MINI_ALPHA if scale == "mini" else ALPHAS[model]


def _mini(model: str) -> TrainConfig:
    """Thin networks, one codec for the paper's four rates, a minute on two cores."""
    return TrainConfig(
        steps=_MINI_STEPS,
        batch=4,
        crop=128,
        learning_rate=1e-3,
        warmup=50,
        schedule="constant",
        ema=0.99,
        checkpoint_every=100,
        validate_every=200,
        codec=replace(_MINI_CODECS[model], qualities=(QUALITIES[0], QUALITIES[-1])),
    )


def _further(scale: str) -> TrainConfig:
    """The bundled codec at the paper's four rates, with a rate of learning that falls."""
    bundled = PRESETS["bundled"]
    whole = replace(
        bundled,
        start="default",
        steps=20_000,
        batch=16,
        linear_steps=0,
        learning_rate=3e-4,
        schedule="cosine",
        decay=0.9,
        codec=replace(bundled.codec, qualities=(QUALITIES[0], QUALITIES[-1])),
    )
    if scale == "full":
        return whole
    return replace(
        whole,
        steps=_MINI_FURTHER,
        batch=4,
        crop=192,
        warmup=20,
        ema=0.98,
        checkpoint_every=50,
        validate_every=_MINI_FURTHER,
    )


def checkpoints_of(arm: Arm, scale: str) -> list[int]:
    """Steps after which an arm is looked at; the last alone where a weight or a rate falls."""
    config = arm.configs(scale, SEEDS[0])[0]
    last_alone = arm.annealed or config.schedule != "constant"
    return [round(config.steps * share) for share in CHECKPOINTS if share == 1 or not last_alone]


@dataclass(frozen=True)
class _Set:
    """Pictures of one folder."""

    name: str
    pictures: tuple[Picture, ...]

    @cached_property
    def key(self) -> str:
        """Of what is in them."""
        joined = "".join(fingerprint(picture) for picture in self.pictures)
        return hashlib.sha256(joined.encode()).hexdigest()[:16]


class Trained:
    """Arms, trained when they are asked for, and measured once.

    Parameters
    ----------
    request
        What the reproduction works with. Pictures in one folder are a set of its name.

    Raises
    ------
    WaterfillError
        If two folders of pictures have one name.
    ImageError
        If a picture can't be used.
    """

    def __init__(self, request: Request) -> None:
        self.request = request
        groups: dict[str, list[Picture]] = {}
        places: dict[str, Path] = {}
        for item in request.pictures or sample_pictures():
            folder = (
                Path(item).absolute().parent if isinstance(item, str | Path) else Path("samples")
            )
            if places.setdefault(folder.name, folder) != folder:
                raise WaterfillError(f"{places[folder.name]}, {folder}: two folders of one name")
            groups.setdefault(folder.name, []).append(self._seen(as_picture(item)))
        #: What stopped those that could not be trained to the end, by arm and seed.
        self.ran_away: dict[str, str] = {}
        self.sets = [_Set(name, tuple(pictures)) for name, pictures in groups.items()]
        self._known: set[Path] = set()

    @cached_property
    def _photographs(self) -> str | None:
        """Fingerprint of what is trained on."""
        named = self.request.photographs
        return open_pictures(named).fingerprint() if named else None

    @cached_property
    def _readings(self) -> Cache:
        return Cache(self.request.runs / "readings")

    def _seen(self, picture: Picture) -> Picture:
        """What is measured of a picture."""
        if self.request.scale == "full":
            return picture
        top, left = (max(0, side - _MINI_SIDE) // 2 for side in picture.pixels.shape[:2])
        part = picture.pixels[top : top + _MINI_SIDE, left : left + _MINI_SIDE]
        return replace(picture, pixels=np.ascontiguousarray(part))

    def curve(self, arm: Arm, seed: int, step: int, wanted: str) -> list[tuple[float, float]]:
        """(bpp, dB) at each rate, means over the pictures of a set.

        Raises
        ------
        WaterfillError
            If something has to be trained and there is nothing to train on, it stops early, or a
            run that is there was made otherwise than it would be now.
        """
        (group,) = (one for one in self.sets if one.name == wanted)
        points: list[tuple[float, float]] = []
        configs = arm.configs(self.request.scale, seed)
        for index, config in enumerate(configs):
            whole = len(configs) == 1
            qualities = QUALITIES if whole else QUALITIES[index : index + 1]
            name = f"{self.request.scale}-{arm.name}-s{seed}" + (f"-r{index}" * (not whole))
            folder = RunFolder(self.request.runs / name)
            if folder.path not in self._known:
                check_run(folder, config, self._photographs)
                self._known.add(folder.path)
            # Each step on the way is kept, for the figures that will ask for it.
            for due in checkpoints_of(arm, self.request.scale):
                if due <= step:
                    weights = self._weights(folder, config, due)
            points += self._measured(weights, group, qualities)
        return points

    def _weights(self, folder: RunFolder, config: TrainConfig, step: int) -> Path:
        """The codec of a run after so many steps; trained on from where the run stands."""
        kept = folder.path / f"after-{step}.safetensors"
        if kept.exists():
            return kept
        request, ran_away = self.request, folder.path / "ran-away.txt"
        if ran_away.exists():
            raise DivergedError(ran_away.read_text(encoding="utf-8", errors="replace").strip())
        if not request.photographs:
            raise WaterfillError(
                f"{folder.path.name} is not trained: name photographs to train on with --train"
            )
        if steps_done(folder) > step:
            raise WaterfillError(
                f"{folder.path}: has gone beyond step {step}, and what it was then is lost; "
                "remove that folder"
            )
        reached = 0

        def told(report: Report) -> None:
            nonlocal reached
            reached = report.step
            request.progress(report.step, step, f"training {folder.path.name}")

        try:
            train(
                replace(config, steps=step, data=tuple(request.photographs)),
                folder.path,
                resume=folder.checkpoint.exists(),
                progress=told,
            )
        except DivergedError as error:
            write_whole(ran_away, f"{error}\n")
            raise
        if reached != step:
            raise WaterfillError(
                f"{folder.path.name}: step {reached} of {step}; the same command goes on"
            )
        write_whole(kept, folder.weights.read_bytes())
        return kept

    def _measured(
        self, weights: Path, group: _Set, qualities: Sequence[float]
    ) -> list[tuple[float, float]]:
        """Means over a set of what files would hold, by the codec's ideal code length."""
        key = {
            "weights": hashlib.sha256(weights.read_bytes()).hexdigest(),
            "pictures": group.key,
            "qualities": list(qualities),
            "by": identity(),
        }
        row = self._readings.get(key)
        if row is None:
            rows = measure_rung(
                load_codec(str(weights)),
                Coded("coded", Status.ACHIEVED_IDEAL, ""),
                group.pictures,
                qualities,
                progress=lambda done, total, what: self.request.progress(
                    done, total, f"measuring {weights.parent.name} on {group.name}"
                ),
            )
            row = {"points": [[(p.bpp, p.psnr) for p in points] for points in rows]}
            self._readings.put(key, row)
        mean = np.mean(row["points"], axis=0)
        return [(float(bpp), float(psnr)) for bpp, psnr in mean]

    def effect(self, arm: Arm, against: Arm, step: int, wanted: str) -> Effect:
        """BD-rate of an arm against another, by seed: same first weights, same crops."""
        values = []
        for seed in SEEDS:
            curves = [self.curve_if_any(one, seed, step, wanted) for one in (against, arm)]
            try:
                values.append(bd_rate(*curves) if all(curves) else math.nan)
            except CurveError:  # of young codecs, that share no range of PSNR
                values.append(math.nan)
        return Effect(tuple(values))

    def curve_if_any(
        self, arm: Arm, seed: int, step: int, wanted: str
    ) -> list[tuple[float, float]]:
        """A curve; empty, and the reason noted, of an arm that ran away."""
        try:
            return self.curve(arm, seed, step, wanted)
        except DivergedError as error:
            self.ran_away[f"{arm.name}, seed {seed}"] = str(error)
            return []


def mean_effect(effects: Sequence[Effect]) -> Effect:
    """Of several sets at once: their mean with each seed."""
    columns = zip(*(one.values for one in effects), strict=True)
    return Effect(tuple(float(np.mean(column)) for column in columns))
