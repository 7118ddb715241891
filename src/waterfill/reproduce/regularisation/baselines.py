"""Plain training beside the published models of the same kinds."""

from __future__ import annotations

import math
from contextlib import suppress

import numpy as np

from waterfill.errors import CurveError
from waterfill.evaluation.cache import fingerprint
from waterfill.evaluation.curves import bd_rate
from waterfill.evaluation.kodak import is_kodak
from waterfill.evaluation.published import published_curve
from waterfill.reproduce.regularisation.arms import SEEDS, Arm, checkpoints_of, models_of
from waterfill.reproduce.regularisation.study import Study, mean_line
from waterfill.reproduce.result import Line, Reproduction, Request, Table, Verdict, percent, said

__all__ = ["fig6", "table3"]

#: BD-rates on Kodak of the paper's own plain models against the published ones, and those models.
_BASELINES = {
    "hyperprior": (0.52, "mbt2018-mean"),
    "autoregressive": (0.56, "mbt2018"),
    "attention": (-3.32, "cheng2020-attention"),
}
#: Percent above a published model within which a plain one is level with it.
_LEVEL = 5.0


def _against_published(study: Study) -> dict[str, tuple[list[Line], float]]:
    """Plain models beside the published ones: lines, BD-rate."""
    found = {}
    name = study.natural[0]
    for model in models_of(study.request.scale):
        published = _BASELINES[model][1]
        step = checkpoints_of(Arm(model), study.request.scale)[-1]
        curves = [study.curve_if_any(Arm(model), seed, step, name) for seed in SEEDS]
        anchor = published_curve(published)
        theirs, ours = [anchor.array().tolist()], mean_line(f"{model}, ours", curves)
        rate = math.nan
        for line in ours:
            with suppress(CurveError):
                rate = bd_rate(theirs[0], np.column_stack([line.x, line.y]))
        found[model] = [*ours, *mean_line(f"published: {anchor.name}", theirs)], rate
    return found


def _baselines(request: Request, name: str, title: str, *, drawn: bool) -> Reproduction:
    study = Study(request)
    found = _against_published(study)
    (group,) = (one for one in study.sets if one.name == study.natural[0])
    kodak = request.scale == "full" and is_kodak([fingerprint(one) for one in group.pictures])
    rows = tuple(
        (model, percent(rate), percent(_BASELINES[model][0], 2), _BASELINES[model][1])
        for model, (_, rate) in found.items()
    )
    rates = ", ".join(f"{model} {percent(rate)}" for model, (_, rate) in found.items())
    verdict = "cannot be"
    if kodak:
        above = [rate for _, rate in found.values()]
        verdict = said(all(rate < _LEVEL for rate in above), *above)
    return Reproduction(
        name,
        title,
        request.scale,
        ("rate (bpp)", "PSNR (dB)") if drawn else (),
        tuple(line for lines, _ in found.values() for line in lines) if drawn else (),
        (
            Table(
                f"BD-rate of plain training ({group.name}) against the published models (Kodak)",
                ("model", "ours", "paper's", "published as"),
                rows,
            ),
        ),
        (
            Verdict(
                "plain training reaches the published models",
                verdict,
                f"{rates}; level within {_LEVEL:g} %"
                if kodak
                else f"{rates}; of other networks, or other pictures",
            ),
        ),
        (
            *study.notes(),
            "Published curves are means over the whole 24 Kodak photographs: beside other "
            "pictures, or their middles, they say roughly where a curve lies, and no more."
            if not kodak
            else "Published curves are means over the same 24 photographs.",
        ),
        study.environment(),
    )


def fig6(request: Request) -> Reproduction:
    """Plain models beside the published ones, as curves."""
    title = "Plain training beside the published models (paper 2, figure 6)"
    return _baselines(request, "paper2-fig6", title, drawn=True)


def table3(request: Request) -> Reproduction:
    """Plain models beside the published ones, as BD-rates."""
    title = "Plain training against the published models (paper 2, table 3)"
    return _baselines(request, "paper2-table3", title, drawn=False)
