"""The sandwich's lower slice: a line below R(D) from the dual problem, with an interval."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from waterfill.data.sources import Source
from waterfill.errors import WaterfillError
from waterfill.estimators.curve import Status
from waterfill.estimators.method import (
    Finding,
    Run,
    SlopeBySlope,
    mean_interval,
)
from waterfill.estimators.softmax import log_partition, means

__all__ = ["SandwichLower", "climb"]

#: A climb ends where a step raises no ln C by more than this.
_STILL = 1e-7
_MOST_STEPS = 400
#: In training a summit need not be sharp.
_TRAINING_STEPS = 25
#: Climbers nearer than this, in widths of the kernel, are on the same slope; few are left alone.
_TOGETHER, _FEW = 0.02, 8
#: Slopes, as shares of the one that counts, of the wider kernels that also lead to starts, and
#: the steps by each.
_WIDER, _STEPS_BY_WIDER = (0.5, 0.25), 3
_TOO_MANY = 20_000
#: The network sees no component magnified more than this makes of the mean deviation.
_LEAST_SCALE = 0.1
#: Beyond which exp(x) is no number.
_LARGEST_EXPONENT = 700.0


def climb(
    x: Tensor, log_u: Tensor, slope: float, starts: Tensor, most_steps: int = _MOST_STEPS
) -> tuple[Tensor, float]:
    """Highest summit that is found of ln (1/k) Σ_i exp(−λ‖x_i − y‖²)/u_i over y, by mean shift.

    Each step moves y to the mean of the samples as they weigh there, and can only ascend. Climbers
    that have come together go on as one. In many dimensions a sample far from all others is a
    summit of its own, however much higher the middle of all is: climbers start also from where
    wider kernels lead.

    Parameters
    ----------
    x
        Samples, (k, d).
    log_u
        ln u of them, (k).
    slope
        Nats per squared error.
    starts
        Where to begin, (s, d).
    most_steps
        After which climbers stop wherever they are.

    Returns
    -------
    tuple
        The summit (d) and the value there.
    """
    log_weights = -log_u - math.log(len(x))
    summit, height = starts[0], -math.inf
    y = torch.cat([starts, *(_led(x, log_weights, share * slope, starts) for share in _WIDER)])
    last = y.new_full((len(y),), -math.inf)
    for step in range(most_steps):
        value, centre, _ = means(y, x, slope, log_weights)
        best = int(value.argmax())
        if float(value[best]) > height:
            summit, height = y[best], float(value[best])
        moving = value > last + _STILL
        if not bool(moving.any()):
            break
        y, last = centre[moving], value[moving]
        if step % 4 == 3 and len(y) > _FEW:
            y, last = _merged(y, last, _TOGETHER / math.sqrt(slope))
    return summit, height


def _led(x: Tensor, log_weights: Tensor, slope: float, starts: Tensor) -> Tensor:
    """Where a few steps of mean shift lead from the starts, one for each cell."""
    y = starts
    for _ in range(_STEPS_BY_WIDER):
        y = means(y, x, slope, log_weights)[1]
        y, _ = _merged(y, y[:, 0], _TOGETHER / math.sqrt(slope))
    return y


def _merged(y: Tensor, value: Tensor, distance: float) -> tuple[Tensor, Tensor]:
    """One climber, the first, of those in the same cell of a fine lattice."""
    cells = (y / distance).round()
    _, group = torch.unique(cells, dim=0, return_inverse=True)
    # By sorting, not by assignment: of several for one place a GPU keeps any.
    order = group.argsort(stable=True)
    begins = group[order].diff(prepend=group.new_full((1,), -1)) > 0
    first = order[begins].sort().values
    return y[first], value[first]


@dataclass(frozen=True)
class SandwichLower(SlopeBySlope):
    """Lower bound by Csiszár's dual (Yang & Mandt 2022), R(D) ≥ intercept − λD.

    For any u > 0 the intercept E[−ln u(X)] − ln sup_y E[e^{−λ‖X−y‖²}/u(X)] lies below F(λ). The
    supremum over k samples is larger in the mean than the one over the law, and the logarithm is
    replaced by a tangent at an α that other samples chose: both err downwards. ln u is a network,
    trained for the finite k. At evaluation mean shift starts from all k points, and from where
    wider kernels lead from them; that it finds the highest summit is likely, not proven.

    Attributes
    ----------
    k
        Samples under the supremum; the intercept can't exceed ln k.
    steps, learning_rate
        Of Adam.
    starts
        Best samples to climb from while training.
    hidden
        Units of each of the three layers.
    repeats
        Sets of k samples that choose α, and again as many that give the intercept.

    Raises
    ------
    WaterfillError
        For ``k`` or ``repeats`` out of range; when run, for a discrete source, or one that holds
        back too few samples.
    """

    k: int = 1024
    steps: int = 600
    learning_rate: float = 1e-3
    starts: int = 10
    hidden: int = 128
    repeats: int = 20

    name = "sandwich-lower"

    def __post_init__(self) -> None:
        if not 2 <= self.k <= _TOO_MANY:
            raise WaterfillError(f"sandwich: k must lie between 2 and {_TOO_MANY}")
        if self.repeats < 4:
            raise WaterfillError("sandwich: an interval takes 4 repeats at least")

    def check(self, source: Source, slopes: Sequence[float]) -> None:
        """Refuse a discrete source, and one that holds back too few samples."""
        super().check(source, slopes)
        if source.stored is None:
            return
        # Two sets that choose α, and two that give the intercept with an interval.
        needed = 4 * self.k
        held = len(source.fresh(needed, np.random.default_rng(0)))
        if held < needed:
            raise WaterfillError(
                f"sandwich: k = {self.k} takes {needed} samples held back, and there are {held}; "
                "choose a smaller k"
            )

    def at(self, source: Source, slope: float, run: Run) -> Sequence[Finding]:
        """One line."""
        rng = run.rng(4)
        first = run.tensor(source.sample(self.k, rng))
        centre, deviation = first.mean(0), first.std(0)
        # A component that hardly varies in these samples, or not at all, may do so in others.
        floor = _LEAST_SCALE * float(deviation.square().mean().sqrt())
        scale = deviation.clamp_min(max(floor, 1e-12))
        with run.device:
            net = _log_u(source.dimension, self.hidden).to(first.dtype)

        def log_u(x: Tensor) -> Tensor:
            out: Tensor = net((x - centre) / scale).squeeze(1)
            return out

        self._train(source, slope, run, log_u, net)

        draws = run.rng(5)
        size = min(2 * self.repeats * self.k, source.stored or 1 << 62)
        pool = run.tensor(source.fresh(size, draws))
        repeats = len(pool) // (2 * self.k)
        values, logs, spreads = [], [], []
        with torch.no_grad():
            for number, x in enumerate(torch.split(pool[: 2 * repeats * self.k], self.k)):
                u = log_u(x)
                y, height = climb(x, u, slope, x)
                errors = (x - y).square().sum(1)
                spreads.append(float(torch.softmax(-u - slope * errors, 0) @ errors))
                values.append(height)
                logs.append(-float(u.mean()))
                run.progress(number + 1, 2 * repeats, f"sandwich, lower, λ = {slope:.4g}: checking")
        peak = max(values[:repeats])
        log_alpha = peak + math.log(sum(math.exp(v - peak) for v in values[:repeats]) / repeats)
        xi = torch.tensor(
            [
                log - math.exp(value - log_alpha) - log_alpha + 1.0
                for log, value in zip(logs[repeats:], values[repeats:], strict=True)
            ],
            dtype=torch.float64,
            device=run.device,
        )
        intercept, interval = mean_interval(xi)
        distortion = sum(spreads) / len(spreads)
        return [
            Finding(
                Status.LOWER,
                slope,
                min(distortion, intercept / slope) if intercept > 0 else distortion,
                intercept,
                interval,
                ceiling=math.log(self.k),
                samples=repeats * self.k,
                note="a line: R ≥ R + λD − λD′ at any D′; the summit is likely, not proven",
            )
        ]

    def _train(
        self,
        source: Source,
        slope: float,
        run: Run,
        log_u: Callable[[Tensor], Tensor],
        net: nn.Module,
    ) -> None:
        rng = run.rng(6)
        optimiser = torch.optim.Adam(net.parameters(), self.learning_rate)
        drops = [self.steps // 2, 3 * self.steps // 4, 7 * self.steps // 8]
        schedule = torch.optim.lr_scheduler.MultiStepLR(optimiser, drops, 0.2)
        log_alpha: float | None = None
        for step in range(self.steps):
            x = run.tensor(source.sample(self.k, rng))
            u = log_u(x)
            with torch.no_grad():
                fixed = u.detach()
                heights = log_partition(x, x, slope, -fixed - math.log(self.k))
                best = heights.topk(min(self.starts, self.k)).indices
                top, _ = climb(x, fixed, slope, x[best], _TRAINING_STEPS)
            log_c = torch.logsumexp(-u - slope * (x - top).square().sum(1), 0) - math.log(self.k)
            if log_alpha is None:
                log_alpha = float(log_c.detach())
            # The tangent's slope is kept near 1, however far ln C has moved from the last α.
            loss = u.mean() + (log_c - log_alpha).clamp(max=5.0).exp() + log_alpha - 1.0
            if not bool(torch.isfinite(loss)):
                raise WaterfillError("sandwich: ln u is not finite; try a smaller learning_rate")
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(net.parameters(), 100.0)
            optimiser.step()
            schedule.step()
            seen = float(log_c.detach())
            fallen = min(log_alpha - seen, _LARGEST_EXPONENT)
            log_alpha = math.log(0.2 * math.exp(fallen) + 0.8) + seen
            run.progress(step + 1, self.steps, f"sandwich, lower, λ = {slope:.4g}")


def _log_u(dimension: int, hidden: int) -> nn.Module:
    layers: list[nn.Module] = []
    width = dimension
    for _ in range(3):
        layers += [nn.Linear(width, hidden), nn.SELU()]
        width = hidden
    last = nn.Linear(width, 1)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return nn.Sequential(*layers, last)
