"""What the regulariser gains: at equal steps, along the curves, and by domain."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from waterfill.codec.gains import LAMBDAS
from waterfill.reproduce.regularisation.arms import (
    ALPHAS,
    MODELS,
    QUALITIES,
    SEEDS,
    Arm,
    checkpoints_of,
    models_of,
)
from waterfill.reproduce.regularisation.seeds import Effect
from waterfill.reproduce.regularisation.study import (
    Study,
    joint,
    mean_line,
    regularised,
    resolution,
)
from waterfill.reproduce.result import Line, Reproduction, Request, Table, Verdict, percent

__all__ = ["fig3", "fig4", "table1"]

#: BD-rates in percent that the paper states.
_NATURAL = {"hyperprior": -0.88, "autoregressive": -0.92, "attention": -0.92}
_DOMAINS = {
    "pixel art": (-2.20, -1.96, -0.47),
    "screen": (-1.15, -2.01, -0.69),
    "game": (-1.31, -0.83, -0.82),
    "pathology": (-1.11, -0.81, -2.38),
    "natural": (-0.88, -0.92, -0.92),
}


def fig3(request: Request) -> Reproduction:
    """BD-rate of regularised against plain training at equal steps, on natural pictures."""
    study = Study(request)
    sets = study.natural
    models = models_of(request.scale)
    lines, rows, last = [], [], {}
    at_steps: dict[str, Effect] = {}
    for model in models:
        arms = [regularised(model, request)]
        if ALPHAS[model] != arms[0].alpha:
            arms.append(Arm(model, ALPHAS[model]))
        for arm in arms:
            steps = checkpoints_of(arm, request.scale)
            effects = [study.gain(arm, Arm(model), step, sets) for step in steps]
            rows.append((model, f"{arm.alpha:g}", *map(str, effects), percent(_NATURAL[model], 2)))
            if arm is arms[0]:
                means = tuple(effect.mean for effect in effects)
                lines.append(Line(model, tuple(map(float, steps)), means))
                last[model] = effects[-1]
                at_steps |= {f"{model}, {k}": e for k, e in zip(steps, effects, strict=True)}
    columns = ("model", "α", *(f"step {step:,}" for step in steps), "paper, last")
    return Reproduction(
        "paper2-fig3",
        "Regularised against plain training at equal steps (paper 2, figure 3)",
        request.scale,
        ("steps", "BD-rate (%)"),
        tuple(lines),
        (Table("BD-rate, natural pictures", columns, tuple(rows)),),
        (
            Verdict(
                "the regulariser lowers the rate of all models at equal steps",
                joint(at_steps),
                f"at the last step {resolution(last)}; {_settled(at_steps)}",
            ),
            *_weights(study, models),
        ),
        study.notes(),
        study.environment(),
    )


def _settled(effects: Mapping[str, Effect]) -> str:
    """Which effects lie beyond zero by their own intervals, on either side."""
    sides = {"below": "reproduced", "above": "not reproduced"}
    found = {
        side: [name for name, effect in effects.items() if effect.verdict == verdict]
        for side, verdict in sides.items()
    }
    return ", ".join(
        f"{side} zero by their own intervals: {'; '.join(names) or 'none'}"
        for side, names in found.items()
    )


def _weights(study: Study, models: Sequence[str]) -> list[Verdict]:
    """What became of the paper's own weights, where they ran away."""
    found = []
    for model in models:
        arm = Arm(model, ALPHAS[model])
        said = [why for who, why in study.ran_away.items() if who.startswith(f"{arm.name}, ")]
        if said:
            found.append(
                Verdict(
                    f"{model}: α = {ALPHAS[model]:g} trains",
                    "not reproduced",
                    f"with H_q in bits per dimension {len(said)} of {len(SEEDS)} seeds ran away; "
                    f"the first: {'; '.join(said[0].split('; ')[:2])}",
                )
            )
    return found


def fig4(request: Request) -> Reproduction:
    """Rate–distortion curves with and without, at the last step."""
    study = Study(request)
    name = study.natural[0]
    lines, changes = [], {}
    for model in models_of(request.scale):
        rates = []
        for arm in (Arm(model), regularised(model, request)):
            step = checkpoints_of(arm, request.scale)[-1]
            curves = [study.curve_if_any(arm, seed, step, name) for seed in SEEDS]
            missing = [(math.nan, math.nan)] * len(QUALITIES)  # of seeds that ran away
            rates.append(np.array([curve or missing for curve in curves])[:, :, 0])
            label = f"{model}, " + ("plain" if arm.alpha is None else f"α = {arm.alpha:g}")
            lines += mean_line(label, curves)
        change = 100.0 * (rates[1] / rates[0] - 1.0)
        for index, quality in enumerate(QUALITIES):
            values = tuple(change[:, index].tolist())
            changes[f"{model}, λ = {LAMBDAS[int(quality) - 1]:g}"] = Effect(values)
    return Reproduction(
        "paper2-fig4",
        "Rate–distortion curves with and without the regulariser (paper 2, figure 4)",
        request.scale,
        ("rate (bpp)", "PSNR (dB)"),
        tuple(lines),
        (),
        (
            Verdict(
                "at equal λ each point's rate is lower with the regulariser",
                joint(changes),
                "; ".join(f"{label}: {effect}" for label, effect in changes.items()),
            ),
        ),
        (*study.notes(), f"Means over the pictures of {name}, and over the seeds."),
        study.environment(),
    )


def table1(request: Request) -> Reproduction:
    """The same codecs on pictures of other kinds than those they were trained on."""
    study = Study(request)
    domains, models = study.by_domain, models_of(request.scale)
    rows, verdicts = [], []
    effects: dict[str, dict[str, Effect]] = {}
    for domain, names in domains.items():
        effects[domain] = {
            model: study.gain(
                regularised(model, request),
                Arm(model),
                checkpoints_of(Arm(model), request.scale)[-1],
                names,
            )
            for model in models
        }
        paper = ", ".join(percent(value, 2) for value in _DOMAINS[domain])
        label = f"{domain} ({', '.join(names)})"
        rows.append((label, *map(str, effects[domain].values()), paper))
    for model in models:
        of_model = {domain: found[model] for domain, found in effects.items()}
        verdicts.append(
            Verdict(
                f"{model}: the regulariser gains on every domain",
                joint(of_model),
                resolution(of_model),
            )
        )
    return Reproduction(
        "paper2-table1",
        "Regularised against plain training, by domain (paper 2, table 1)",
        request.scale,
        (),
        (),
        (
            Table(
                "BD-rate after the last step",
                ("domain", *models, "paper: " + ", ".join(MODELS)),
                tuple(rows),
            ),
        ),
        tuple(verdicts),
        (
            *study.notes(),
            "Domains are told by words in the folders' names. The sets are others than the "
            "paper's, which are not free to hand on.",
        ),
        study.environment(),
    )
