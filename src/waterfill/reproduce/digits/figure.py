"""Figure 5c: the curves in one figure, tables at equal error, and what became of the claims."""

from __future__ import annotations

import math
from collections.abc import Sequence

from waterfill.codec.gains import QUALITIES
from waterfill.estimators.curve import Status as Bound
from waterfill.provenance import environment
from waterfill.reproduce.digits.curves import (
    ESTIMATORS,
    LIMITS,
    READ_AT,
    SETS,
    TEST,
    TEST_CHANNEL,
    TRAINING,
    WITNESSES,
    Curve,
    Digits,
    config_of,
    experiments,
    of_codecs,
    of_estimators,
    slope_of,
)
from waterfill.reproduce.result import Line, Reproduction, Request, Table, Verdict, percents, said
from waterfill.reproduce.trained import GENIE_AIDED, train_all

__all__ = ["fig5c"]

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


def fig5c(request: Request) -> Reproduction:
    """Limits, estimators and what is achievable, on training digits and on test digits."""
    digits = Digits.of(request)
    train_all(request, experiments(request.scale))
    estimates = of_estimators(request, digits)
    codecs = of_codecs(request, digits)
    curves = [*codecs, *estimates]
    return Reproduction(
        "fig5c",
        "The limits on digits beside estimators of R(D) (paper 1, figure 5c)",
        request.scale,
        ("rate (bits per digit)", "squared error per digit"),
        _lines(curves),
        (*(_table(curves, which) for which in SETS), _at_equal_error(curves), _published()),
        _verdicts(curves),
        _notes(request, digits, estimates),
        environment(request.seed),
    )


def _lines(curves: Sequence[Curve]) -> tuple[Line, ...]:
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


def _meaning(curve: Curve, which: str) -> str:
    """What a curve is on a set of digits."""
    if curve.genie:
        return f"{GENIE_AIDED}: bounds nothing"
    return "upper bound" if which == TEST else "upper bound of these digits alone"


def _table(curves: Sequence[Curve], which: str) -> Table:
    rows = []
    for curve in curves:
        cells = [
            f"{p.rate:.1f} ± {p.half:.1f}, {p.distortion:.2f}" + (" (ceiling)" * p.near_ceiling)
            for p in curve.readings[which]
        ]
        cells += ["—"] * (len(READ_AT) - len(cells))
        rows.append((curve.name, GENIE_AIDED if curve.genie else _meaning(curve, which), *cells))
    return Table(
        f"{which.capitalize()}: bits (± half the 95 % interval of R + λD) and squared error",
        ("curve", "status", *(f"λ {quality}" for quality in READ_AT)),
        tuple(rows),
    )


def _at_equal_error(curves: Sequence[Curve]) -> Table:
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


def _beside(one: Curve, other: Curve, which: str) -> list[float]:
    """How far, in percent of rate, one curve lies from another's points, those at a ceiling not."""
    shares = [
        100.0 * (one.rate_at(which, p.distortion) / p.rate - 1.0)
        for p in other.readings[which]
        if p.rate > _LEAST_BITS and not p.near_ceiling
    ]
    return [share for share in shares if math.isfinite(share)]


def _span(shares: Sequence[float]) -> str:
    return percents(shares) if shares else "no common squared error"


def _verdicts(curves: Sequence[Curve]) -> tuple[Verdict, ...]:
    named = {curve.name: curve for curve in curves}
    estimates = [c for c in curves if c.status == Bound.UPPER]
    texts, below = [], []
    for which in (TEST, TRAINING):
        for limit in LIMITS:
            spans = {c.name: _beside(named[limit], c, which) for c in estimates}
            below += [share < 0 for shares in spans.values() for share in shares]
            text = ", ".join(f"{name} {_span(shares)}" for name, shares in spans.items())
            texts.append(f"{limit} on {which} ({GENIE_AIDED}), in rate at equal error: {text}")
    against_sandwich = [
        f"{name} against the sandwich {_span(_beside(named[name], named['sandwich'], TEST))}"
        for name in (TEST_CHANNEL, *WITNESSES)
    ]
    contexts = {
        which: _beside(named[LIMITS[1]], named[LIMITS[0]], which) for which in (TEST, TRAINING)
    }
    widest = max((abs(share) for shares in contexts.values() for share in shares), default=math.nan)
    return (
        Verdict(
            "the limits lie below sandwich bound, NERD and WGD everywhere",
            said(all(below)) if below else "not resolved",
            "; ".join(texts),
        ),
        Verdict(
            "so they are tighter bounds",
            "cannot be",
            f"both limits are {GENIE_AIDED} and bound R(D) in neither direction. Bounds, all of "
            f"them upper ones, are sandwich, NERD and WGD and what a prior is paid; on test digits "
            f"{'; '.join(against_sandwich)}; lowest there: {_lowest(curves)}",
        ),
        Verdict(
            "a context gains next to nothing on digits",
            said(widest < _NEXT_TO_NOTHING, widest),
            "rate of the limit with context against that without, at equal error "
            f"({GENIE_AIDED}): "
            + ", ".join(f"{which} {_span(shares)}" for which, shares in contexts.items()),
        ),
    )


def _lowest(curves: Sequence[Curve]) -> str:
    """The lowest of the upper bounds at each squared error, on test digits."""
    found = []
    for error in _AT:
        rates = {c.name: c.rate_at(TEST, error) for c in curves if not c.genie}
        known = {name: rate for name, rate in rates.items() if math.isfinite(rate)}
        if known:
            best = min(known, key=lambda name: known[name])
            found.append(f"{best} at {error:g} ({known[best]:.1f} bits)")
    return ", ".join(found)


def _notes(request: Request, digits: Digits, estimates: Sequence[Curve]) -> tuple[str, ...]:
    of_baseline, of_limit = (
        config_of(request.scale, name, QUALITIES[-1]) for name in ("baseline", "joint")
    )
    slopes = [slope_of(request.scale, quality) for quality in (READ_AT[0], READ_AT[-1])]
    methods = ", ".join(
        f"{name} {vars(method)['steps']:,}"
        for name, (method, _) in ESTIMATORS[request.scale].items()
    )
    count = "one codec for each λ" if request.scale == "full" else "one codec for all λ"
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
