"""Annealed importance sampling: what a decoder and its prior can do, whatever the encoder."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from waterfill.data.sources import Source
from waterfill.errors import WaterfillError
from waterfill.estimators.axes import principal_axes
from waterfill.estimators.curve import Status
from waterfill.estimators.method import (
    FRESH,
    Finding,
    Method,
    Run,
    fresh_interval,
)
from waterfill.estimators.sandwich import SandwichUpper, train_autoencoder

__all__ = ["AnnealedImportance", "Annealing", "anneal", "linear_decoder", "schedule"]

Decoder = Callable[[Tensor], Tensor]

#: Hamiltonian steps aim at this share of acceptances, at this pace, within these limits. The pace
#: must keep up with a posterior that narrows by tens of per cent from one temperature to the next.
_ACCEPTED, _PACE = 0.65, 0.4
_LEAST_STEP, _LARGEST_STEP, _FIRST_STEP = 1e-4, 0.5, 0.1


def linear_decoder(samples: Tensor, latent: int) -> Decoder:
    """z ~ N(0, I) → the Gaussian of the samples' largest principal components, z (…, latent)."""
    centre, values, vectors = principal_axes(samples)
    weight = (vectors * values.clamp_min(0.0).sqrt()).flip(1)[:, : min(latent, len(centre))]
    return lambda z: z @ weight.T + centre


def schedule(slopes: Sequence[float], temperatures: int) -> list[float]:
    """Inverse temperatures from 0 through all slopes: logistic, denser at both ends.

    The slopes themselves are among them, in rising order.
    """
    grid = 1.0 / (1.0 + np.exp(-np.linspace(-10.0, 10.0, temperatures + 1)))
    grid = max(slopes) * (grid - grid[0]) / (grid[-1] - grid[0])
    return sorted({*grid[1:-1].tolist(), *map(float, slopes)})


@dataclass(frozen=True)
class Annealing:
    """Where the chains stood at each slope.

    Attributes
    ----------
    log_weights
        Of the chains at each slope, (slopes, chains, m).
    errors
        ‖x − f(z)‖² there, of the same shape.
    step_sizes
        Of the Hamiltonian steps, at each temperature (m): a second round takes them as they are.
    """

    log_weights: Tensor
    errors: Tensor
    step_sizes: list[Tensor]

    def log_z(self) -> Tensor:
        """ln Ẑ of each sample, (slopes, m); its mean lies below ln Z."""
        return torch.logsumexp(self.log_weights, 1) - math.log(self.log_weights.shape[1])

    def distortions(self) -> Tensor:
        """Self-normalised means of the errors, (slopes, m)."""
        return (torch.softmax(self.log_weights, 1) * self.errors).sum(1)


def anneal(
    x: Tensor,
    decoder: Decoder,
    latent: int,
    slopes: Sequence[float],
    temperatures: Sequence[float],
    *,
    chains: int,
    leapfrog: int,
    generator: torch.Generator,
    step_sizes: list[Tensor] | None = None,
    start: Tensor | None = None,
    progress: Callable[[int], None] = lambda done: None,
) -> Annealing:
    """One pass of chains from the prior to the last temperature.

    Parameters
    ----------
    x
        Samples, (m, d).
    decoder
        z (…, latent) → (…, d).
    latent
        Length of z.
    slopes
        Where to look, all of them among the temperatures.
    temperatures
        Rising, in nats per squared error.
    chains, leapfrog
        For each sample; steps for each Hamiltonian move.
    generator
        Of everything that is drawn, on the samples' device.
    step_sizes
        Those of an earlier round; None to adapt them on the way, which spoils unbiasedness.
    start
        Exact draws from the posterior at the last temperature (chains, m, latent): the chains then
        go backwards, and the weights bound ln Z from above.
    progress
        Called with the temperatures done.
    """
    shape = (chains, len(x), latent)
    # A reversed chain visits the same temperatures downwards, and ends at the prior.
    steps = list(temperatures)
    visits = [0.0, *steps] if start is None else [*reversed(steps), 0.0]
    drawn: dict[str, Any] = {"generator": generator, "dtype": x.dtype, "device": x.device}
    z = torch.randn(shape, **drawn) if start is None else start
    log_w = x.new_zeros(shape[:2])
    size = x.new_full((len(x),), _FIRST_STEP)
    wanted = set(map(float, slopes))
    weights, errors, sizes = [], [], []

    def error(z: Tensor) -> Tensor:
        return (x - decoder(z)).square().sum(-1)

    def gradient(z: Tensor, t: float) -> Tensor:
        with torch.enable_grad():
            free = z.detach().requires_grad_()
            (pull,) = torch.autograd.grad(error(free).sum(), free)
        return z + t * pull

    for number, (before, t) in enumerate(pairwise(visits)):
        log_w = log_w - (t - before) * error(z)
        if step_sizes is not None:
            size = step_sizes[number]
        sizes.append(size)
        stride = size[None, :, None]
        momentum = torch.randn(shape, **drawn)
        energy = t * error(z) + 0.5 * (z.square() + momentum.square()).sum(-1)
        new, p = z, momentum - 0.5 * stride * gradient(z, t)
        for leap in range(leapfrog):
            new = new + stride * p
            p = p - (1.0 if leap < leapfrog - 1 else 0.5) * stride * gradient(new, t)
        after = t * error(new) + 0.5 * (new.square() + p.square()).sum(-1)
        chance = torch.rand(shape[:2], **drawn)
        accepted = chance.log() < energy - after
        z = torch.where(accepted[..., None], new, z)
        if step_sizes is None:
            share = accepted.to(x.dtype).mean(0)
            size = (size * (_PACE * (share - _ACCEPTED)).exp()).clamp(_LEAST_STEP, _LARGEST_STEP)
        if start is None and t in wanted:
            weights.append(log_w)
            errors.append(error(z))
        progress(number + 1)
    if start is not None:
        weights.append(log_w)
        errors.append(error(z))
    return Annealing(torch.stack(weights), torch.stack(errors), sizes)


@dataclass(frozen=True)
class AnnealedImportance(Method):
    """R of a fixed decoder and prior at each distortion (Huang et al. 2020).

    The best encoder of a decoder f and a prior p is q(z|x) ∝ p(z) e^{−λ‖x − f(z)‖²}, and F is then
    −E ln Z_λ(X), which lies above the source's own. Chains go through all slopes in one run; E ln Ẑ
    ≤ ln Z, so F is over-estimated, but D is self-normalised and biased, so that R is an estimate.
    Round one adapts step sizes; round two keeps them and draws anew. On simulated data a backward
    run bounds ln Z from the other side: the gap is in the note of the point at the largest slope.

    The decoder is linear, the Gaussian of the largest principal components; or, with ``hidden``
    units, that of a β-VAE with a Gaussian prior, trained at the middle of the slopes. For one of
    your own see :meth:`read`.

    Attributes
    ----------
    latent
        Length of z.
    hidden
        Units of the decoder's perceptron; 0 for a linear one.
    steps, batch, learning_rate
        Of its training, as of the sandwich's.
    temperatures, chains, leapfrog
        Steps from the prior to the largest slope; chains for each sample; Hamiltonian steps.
    samples
        Fresh samples to read on.
    fit
        Samples that a linear decoder is fitted to.

    Raises
    ------
    WaterfillError
        For fewer than two samples to fit; when run, for a discrete source or slopes that repeat.
    """

    latent: int = 10
    hidden: int = 0
    steps: int = SandwichUpper.steps
    batch: int = SandwichUpper.batch
    learning_rate: float = SandwichUpper.learning_rate
    temperatures: int = 300
    chains: int = 10
    leapfrog: int = 10
    samples: int = 100
    fit: int = 20_000

    name = "ais"
    takes_axes = True
    may_be_zero = ("hidden",)

    def __post_init__(self) -> None:
        if self.fit < 2:
            raise WaterfillError("ais: a linear decoder takes 2 samples at least to fit")

    def check(self, source: Source, slopes: Sequence[float]) -> None:
        """Refuse a discrete source, and slopes that repeat."""
        super().check(source, slopes)
        if len(set(slopes)) != len(slopes):
            raise WaterfillError("ais: slopes must differ from each other")

    def curve(self, source: Source, slopes: Sequence[float], run: Run) -> Iterator[Finding]:
        """All slopes from one run."""
        begun = time.perf_counter()
        latent = min(self.latent, source.dimension)
        x = run.tensor(source.fresh(self.samples, run.rng(FRESH)))
        decoder, kind = self._decoder(source, slopes, run, x.dtype)
        found, gap = self.read(x, decoder, latent, slopes, run)
        rising = sorted(slopes)
        spent = (time.perf_counter() - begun) / len(slopes)
        log_z, distortions = found.log_z(), found.distortions()
        for slope in slopes:
            place = rising.index(slope)
            lagrangian, interval, pictures = fresh_interval(-log_z[place], source, run)
            note = f"{kind}, {latent} latents"
            if place == len(rising) - 1:
                note += f"; BDMC gap {gap:.3f} nats at this slope"
            yield Finding(
                Status.ESTIMATE,
                slope,
                float(distortions[place].mean()),
                lagrangian,
                interval,
                samples=len(x),
                note=note,
                seconds=spent,
                pictures=pictures,
            )

    def _decoder(
        self, source: Source, slopes: Sequence[float], run: Run, precision: torch.dtype
    ) -> tuple[Decoder, str]:
        """What is annealed towards, and what it is called."""
        if not self.hidden:
            fitted = run.tensor(source.sample(self.fit, run.rng(8)))
            return linear_decoder(fitted, self.latent), "linear decoder"
        middle = math.sqrt(min(slopes) * max(slopes))
        settings = SandwichUpper(
            "factorised", self.hidden, self.latent, self.steps, self.batch, self.learning_rate
        )
        with run.seeded():
            model = train_autoencoder(source, middle, settings, run, "ais, decoder")
        return model.decoder_of_noise(precision), f"decoder of a β-VAE at λ = {middle:.4g}"

    def read(
        self, x: Tensor, decoder: Decoder, latent: int, slopes: Sequence[float], run: Run
    ) -> tuple[Annealing, float]:
        """The second round for any decoder, and the gap on simulated data at the largest slope.

        Parameters
        ----------
        x
            Fresh samples (m, d), on the run's device.
        decoder
            z (…, latent) with independent standard Gaussian components → (…, d), in the type of
            ``x`` and on its device; its gradient is taken.
        latent
            Length of z.
        slopes
            In nats per squared error, all different.
        run
            Seed, progress and device.

        Returns
        -------
        Annealing, float
            ln Ẑ and distortions at the slopes in rising order, and the gap in nats.
        """
        steps = schedule(slopes, self.temperatures)
        generator = run.generator()

        def round_of(
            x: Tensor, sizes: list[Tensor] | None, what: str, start: Tensor | None = None
        ) -> Annealing:
            return anneal(
                x,
                decoder,
                latent,
                slopes,
                steps,
                chains=self.chains,
                leapfrog=self.leapfrog,
                generator=generator,
                step_sizes=sizes,
                start=start,
                progress=lambda done: run.progress(done, len(steps), f"ais, {what}"),
            )

        with torch.no_grad():
            sizes = round_of(x, None, "adapting").step_sizes
            found = round_of(x, sizes, "frozen")
            # Simulated: z ~ p, x ~ e^{−λ‖x − f(z)‖²}; that z is an exact draw from the posterior.
            last = max(slopes)
            drawn: dict[str, Any] = {"generator": generator, "dtype": x.dtype, "device": x.device}
            z = torch.randn((1, len(x), latent), **drawn)
            noise = torch.randn(x.shape, **drawn)
            simulated = decoder(z[0]) + noise * math.sqrt(0.5 / last)
            ahead_sizes = round_of(simulated, None, "adapting, simulated").step_sizes
            ahead = round_of(simulated, ahead_sizes, "forward, simulated")
            # Backwards the move at a temperature comes before its weight: order sizes alike.
            back_sizes = [*reversed(ahead_sizes[:-1]), ahead_sizes[0]]
            exact = z.expand(self.chains, -1, -1).contiguous()
            back = round_of(simulated, back_sizes, "backward, simulated", exact)
        above = -(torch.logsumexp(back.log_weights[-1], 0) - math.log(self.chains))
        gap = float((above - ahead.log_z()[-1]).mean())
        return found, gap
