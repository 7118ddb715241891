"""The sandwich: an upper bound from a β-VAE, and the lower one of its dual."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any, cast

import torch
from torch import Tensor, nn

from waterfill.data.sources import Source
from waterfill.errors import WaterfillError
from waterfill.estimators.axes import principal_axes
from waterfill.estimators.curve import Status
from waterfill.estimators.dual import SandwichLower
from waterfill.estimators.method import (
    FRESH,
    Finding,
    FitThenScore,
    Run,
    Scorer,
    SlopeBySlope,
    fresh_interval,
    unit_of,
)
from waterfill.estimators.priors import PRIORS, Factorised, Posterior, Prior, network

__all__ = ["Autoencoder", "Sandwich", "SandwichUpper", "train_autoencoder"]

#: Fresh samples at once.
_CHUNK = 4096
#: Components are standardised by no smaller variance than this share of the level.
_LEAST_SHARE = 1e-6


class Autoencoder(nn.Module):
    """q(z|x), p(z) and g(z) in the coordinates of the source's principal components.

    Encoder and decoder are a gain for each component plus, where asked for, a perceptron that
    starts at zero. Training starts at the best code of a Gaussian with the source's covariance: a
    component of variance v above the level θ = 1/2λ is coded with the gain √(1 − θ/v), others not.
    All that is learned is in units of the source's deviation.

    Parameters
    ----------
    samples
        Of the source, (m, d).
    slope
        Nats per squared error.
    prior
        A name of :data:`~.priors.PRIORS`.
    hidden
        Units of the perceptrons; 0 for none.
    latent
        Length of z: the components with the largest variance.
    """

    white: Tensor
    coloured: Tensor

    def __init__(self, samples: Tensor, slope: float, prior: str, hidden: int, latent: int) -> None:
        super().__init__()
        d = samples.shape[1]
        kept = min(latent, d)
        self.unit = unit_of(samples)
        samples = samples / self.unit
        centre, values, vectors = principal_axes(samples, significant=True)
        level = 0.5 / slope / self.unit**2
        # Of what is so far below the level nothing is coded; magnified, it would undo the rest.
        values = values.flip(0)[:kept].clamp_min(_LEAST_SHARE * level)
        vectors = vectors.flip(1)[:, :kept]
        share = (level / values).clamp(max=1.0 - 1e-6)
        deviation = values.sqrt()
        self.register_buffer("white", (vectors / deviation).float())
        self.register_buffer("coloured", (vectors * deviation).T.contiguous().float())
        # Unit-variance z: z = √(1−s) x/σ + √s n, and E[x|z] = σ √(1−s) z.
        gain = (1.0 - share).sqrt().float()
        self.gain = nn.Parameter(gain.clone())
        self.gain_back = nn.Parameter(gain.clone())
        self.log_deviation = nn.Parameter((0.5 * share.log()).float())
        self.centre = nn.Parameter(centre.float())
        self.bend_in = network(kept, hidden, 2 * kept) if hidden else None
        self.bend_out = network(kept, hidden, d) if hidden else None
        self.prior = PRIORS[prior](kept, hidden or 64)

    def posterior(self, x: Tensor) -> Posterior:
        """q(z | x)."""
        white = (x / self.unit - self.centre) @ self.white
        mean, log_deviation = self.gain * white, self.log_deviation.expand_as(white)
        if self.bend_in is not None:
            more, wider = self.bend_in(white).chunk(2, 1)
            mean, log_deviation = mean + more, log_deviation + wider
        return Posterior(mean, log_deviation.clamp(-12.0, 6.0))

    def decode(self, z: Tensor) -> Tensor:
        """g(z), (m, d)."""
        out: Tensor = (self.gain_back * z) @ self.coloured + self.centre
        if self.bend_out is not None:
            out = out + self.bend_out(z)
        return self.unit * out

    def decoder_of_noise(self, precision: torch.dtype) -> Callable[[Tensor], Tensor]:
        """The decoder as a function of independent standard Gaussians, (…, latent) → (…, d).

        Raises
        ------
        TypeError
            If the prior is none of independent Gaussians.
        """
        if not isinstance(self.prior, Factorised):
            raise TypeError("the prior is none of independent Gaussians")
        model = self.to(precision).requires_grad_(False)
        mean, deviation = self.prior.mean, self.prior.log_deviation.exp()
        return lambda z: model.decode(mean + deviation * z)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """KL in nats and squared error of each sample, (m) each.

        Networks work in single precision. The error is that of the samples as they are: rounded
        together, far from the origin, both could be the same.
        """
        q = self.posterior(x.float())
        z = q.sample()
        kl = cast(Prior, self.prior).divergence(q, z)
        return kl, (self.decode(z).to(x.dtype) - x).square().sum(1)


def train_autoencoder(
    source: Source, slope: float, settings: SandwichUpper, run: Run, what: str
) -> Autoencoder:
    """Minimise E KL + λ E ‖x − g(z)‖² over encoder, prior and decoder.

    Raises
    ------
    WaterfillError
        If the loss becomes infinite or not a number.
    """
    rng = run.rng(7)
    start = run.tensor(source.sample(max(20_000, 4 * source.dimension), rng))
    with run.device:
        model = Autoencoder(start, slope, settings.prior, settings.hidden, settings.latent)
    optimiser = torch.optim.Adam(model.parameters(), settings.learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, settings.steps)
    for step in range(settings.steps):
        x = run.tensor(source.sample(settings.batch, rng)).float()
        kl, error = model(x)
        loss = kl.mean() + slope * error.mean()
        if not bool(torch.isfinite(loss)):
            raise WaterfillError("sandwich: the loss is not finite; try a smaller learning_rate")
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1e3)
        optimiser.step()
        schedule.step()
        run.progress(step + 1, settings.steps, f"{what}, λ = {slope:.4g}")
    return model


@dataclass(frozen=True)
class SandwichUpper(FitThenScore):
    """Upper bound by a β-VAE (Yang & Mandt 2022): E KL(q(z|X) ‖ p(z)) ≥ I(X; g(Z)).

    Any encoder, prior and decoder give a point on or above R(D); it is read on fresh samples, with
    one draw of z each, which leaves it unbiased.

    Attributes
    ----------
    prior
        ``factorised``, ``flow`` (masked autoregressive) or ``hierarchical`` (two levels).
    hidden
        Units of encoder and decoder beside their gains; 0 for none.
    latent
        Longest z.
    steps, batch, learning_rate
        Of Adam, with a cosine schedule.
    samples
        Fresh samples to score on.

    Raises
    ------
    WaterfillError
        For an unknown ``prior``; when run, for a discrete source, or if training diverges.
    """

    prior: str = "flow"
    hidden: int = 100
    latent: int = 1024
    steps: int = 1000
    batch: int = 512
    learning_rate: float = 1e-3
    samples: int = 100_000

    name = "sandwich-upper"
    takes_axes = True
    may_be_zero = ("hidden",)

    def __post_init__(self) -> None:
        if self.prior not in PRIORS:
            raise WaterfillError(f"sandwich: prior must be one of {', '.join(PRIORS)}")

    def fit(self, source: Source, slope: float, run: Run) -> Scorer:
        """A trained autoencoder."""
        model = train_autoencoder(source, slope, self, run, "sandwich, upper")
        # As many numbers in all for long vectors as for short ones.
        count = min(self.samples, max(2000, 20_000_000 // source.dimension))

        def scorer(judge: Source) -> Finding:
            with torch.no_grad():
                x = run.tensor(judge.fresh(count, run.rng(FRESH)))
                read = [model(part) for part in torch.split(x, _CHUNK)]
            kl, error = (torch.cat(part).double() for part in zip(*read, strict=True))
            lagrangian, interval, pictures = fresh_interval(kl + slope * error, judge, run)
            return Finding(
                Status.UPPER,
                slope,
                float(error.mean()),
                lagrangian,
                interval,
                samples=len(kl),
                pictures=pictures,
            )

        return scorer


@dataclass(frozen=True)
class Sandwich(SlopeBySlope):
    """Both slices of the sandwich, an upper and a lower bound at each slope.

    Attributes
    ----------
    prior, hidden, latent, steps, batch, learning_rate, samples
        As of :class:`SandwichUpper`.
    k, lower_steps, lower_hidden, repeats
        ``k``, ``steps``, ``hidden`` and ``repeats`` of
        :class:`~waterfill.estimators.dual.SandwichLower`.

    Raises
    ------
    WaterfillError
        When run, as both do.
    """

    prior: str = SandwichUpper.prior
    hidden: int = SandwichUpper.hidden
    latent: int = SandwichUpper.latent
    steps: int = SandwichUpper.steps
    batch: int = SandwichUpper.batch
    learning_rate: float = SandwichUpper.learning_rate
    samples: int = SandwichUpper.samples
    k: int = SandwichLower.k
    lower_steps: int = SandwichLower.steps
    lower_hidden: int = SandwichLower.hidden
    repeats: int = SandwichLower.repeats

    name = "sandwich"
    may_be_zero = ("hidden",)

    def check(self, source: Source, slopes: Sequence[float]) -> None:
        """Refuse what either slice does."""
        for part in self._parts():
            part.check(source, slopes)

    def at(self, source: Source, slope: float, run: Run) -> Sequence[Finding]:
        """An upper bound, then a lower one."""
        return [one for part in self._parts() for one in part.at(source, slope, run)]

    def _parts(self) -> tuple[SandwichUpper, SandwichLower]:
        upper: dict[str, Any] = {f.name: getattr(self, f.name) for f in fields(SandwichUpper)}
        lower = SandwichLower(
            k=self.k, steps=self.lower_steps, hidden=self.lower_hidden, repeats=self.repeats
        )
        return SandwichUpper(**upper), lower
