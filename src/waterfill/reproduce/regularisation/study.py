"""What the figures of the regulariser share: pictures by their domain, gains, verdicts, notes.

Every gain is a BD-rate of a codec trained with it against one trained without, with equal seeds,
steps and crops, over several seeds. The effects are about as large as what another seed does.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from waterfill.errors import WaterfillError
from waterfill.provenance import environment
from waterfill.reproduce.regularisation.arms import SEEDS, Arm, Trained, alpha_of, mean_effect
from waterfill.reproduce.regularisation.seeds import Effect
from waterfill.reproduce.result import Line, Request

__all__ = ["Study", "joint", "mean_line", "regularised", "resolution", "seeds_needed"]

#: Effects below this are what the paper reports: seeds are counted for it, percent.
_EFFECT = 1.0
#: Words in a folder's name that tell the domain of its pictures; others are natural.
_WORDS = {
    "pixel": "pixel art",
    "screen": "screen",
    "game": "game",
    "histology": "pathology",
    "pathology": "pathology",
}


def regularised(model: str, request: Request) -> Arm:
    """A model with the weight that it is compared with."""
    return Arm(model, alpha_of(model, request.scale))


class Study(Trained):
    """Arms that are trained and measured, and what is said of them in every figure."""

    @cached_property
    def by_domain(self) -> dict[str, list[str]]:
        """Names of the sets of each domain."""
        found: dict[str, list[str]] = {}
        for group in self.sets:
            words = (domain for word, domain in _WORDS.items() if word in group.name.lower())
            found.setdefault(next(words, "natural"), []).append(group.name)
        return found

    @property
    def natural(self) -> list[str]:
        """Names of the sets of natural pictures.

        Raises
        ------
        WaterfillError
            If there are none.
        """
        names = self.by_domain.get("natural", [])
        if not names:
            raise WaterfillError("none of the pictures is of a natural scene, by its folder's name")
        return names

    def gain(self, arm: Arm, against: Arm, step: int, sets: Sequence[str]) -> Effect:
        """BD-rate by seed, a mean over sets."""
        return mean_effect([self.effect(arm, against, step, name) for name in sets])

    def environment(self) -> dict[str, Any]:
        """Under what it was computed; no other seed has a part in it."""
        return environment(self.request.seed) | {"training_seeds": list(SEEDS)}

    def notes(self, mini: str = "") -> tuple[str, ...]:
        """What holds of all figures; ``mini`` says what was trained where it is not the usual."""
        counts = ", ".join(f"{group.name} ({len(group.pictures)})" for group in self.sets)
        told = [
            f"Seeds {', '.join(map(str, SEEDS))}; with equal seeds both sides start from the same "
            "weights and see the same crops. ± is half the 95 % interval of the mean (Student's "
            "t).",
            "H_q is in bits per dimension, measured on a quarter of each crop. The paper doesn't "
            "state its unit; in either its α = 1 is beyond λ for a good source model "
            "(documentation, The regulariser).",
            f"Pictures: {counts}.",
        ]
        if self.request.scale == "mini":
            told.append(mini or _from_scratch())
        if self.ran_away:
            told.append(f"Ran away, and without a number: {'; '.join(sorted(self.ran_away))}.")
        return tuple(told)


def _from_scratch() -> str:
    """What the models of the mini scale are."""
    config = Arm("hyperprior").configs("mini", SEEDS[0])[0]
    return (
        f"Mini: N = {config.codec.n}, M = {config.codec.m}, a fixed block transform between "
        f"learned filters, one codec for all four λ, {config.steps:,} steps of {config.batch} "
        f"crops of {config.crop}²; the middle 256² of each picture; no model with attention. "
        "The paper's: 2 M steps of 16 crops, one codec for each λ."
    )


def mean_line(label: str, curves: Sequence[Sequence[tuple[float, float]]]) -> list[Line]:
    """The mean of those seeds' curves (bpp, dB) that there are; none without any."""
    known = [curve for curve in curves if curve]
    if not known:
        return []
    points = np.mean(known, axis=0)
    return [Line(label, tuple(points[:, 0].tolist()), tuple(points[:, 1].tolist()))]


def seeds_needed(effect: Effect) -> str:
    """How many seeds would tell an effect of 1 %."""
    seeds = effect.seeds_for(_EFFECT)
    return f"{seeds:.0f}" if math.isfinite(seeds) else "—"


def resolution(effects: Mapping[str, Effect]) -> str:
    """Effects by name, their spread, and how many seeds would tell one of 1 %."""
    return "; ".join(
        f"{name}: {effect}, s = {effect.spread} %, seeds for {_EFFECT:g} %: {seeds_needed(effect)}"
        for name, effect in effects.items()
    )


def joint(effects: Mapping[str, Effect]) -> str:
    """One verdict on a claim about all of them.

    All must lie below zero, each by its own interval; one above zero refutes the claim, by an
    interval that allows for how many were looked at.
    """
    if any(e.verdict_among(len(effects)) == "not reproduced" for e in effects.values()):
        return "not reproduced"
    sure = all(effect.verdict == "reproduced" for effect in effects.values())
    return "reproduced" if sure else "not resolved"
