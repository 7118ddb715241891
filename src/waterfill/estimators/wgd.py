"""Atoms that move and weights that follow: Wasserstein gradient descent, its hybrid form."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from waterfill.data.sources import Source
from waterfill.estimators.atoms import score
from waterfill.estimators.method import Finding, Run, SlopeBySlope, continuous, tensor
from waterfill.estimators.softmax import assign

__all__ = ["WassersteinDescent"]


@dataclass(frozen=True)
class WassersteinDescent(SlopeBySlope):
    """Particles with weights, moved to the means of what they stand for (Yang et al. 2023).

    For squared error a particle's gradient vanishes where it is the mean of its share of the
    source: going there takes no step size. The weights take a Blahut–Arimoto step at the same time.
    Samples are drawn anew at every step, and sums over them are averaged over the steps with
    falling gains, so that particles can't settle on the samples of one draw.

    Attributes
    ----------
    particles
        n; the rate can't exceed ln n.
    steps, batch
        How many steps, and samples for each.
    samples
        Fresh samples to score on.
    """

    particles: int = 1000
    steps: int = 300
    batch: int = 4000
    samples: int = 50_000

    name = "wgd"

    def at(self, source: Source, slope: float, run: Run) -> Sequence[Finding]:
        """One upper bound."""
        continuous(source, self.name)
        rng = run.rng(1)
        y = tensor(source.sample(self.particles, rng))
        mass = torch.full((self.particles,), 1.0 / self.particles, dtype=y.dtype)
        moment = y * mass[:, None]
        for step in range(self.steps):
            x = tensor(source.sample(self.batch, rng))
            share = assign(x, y, slope, mass.log())
            # Full steps while the particles find their places, then a mean over the steps.
            gain = (1.0 + max(0.0, step - 0.1 * self.steps)) ** -0.7
            mass = torch.lerp(mass, share.mass, gain).clamp_min(1e-30)
            mass = mass / mass.sum()
            moment = torch.lerp(moment, share.moment, gain)
            y = torch.where(mass[:, None] > 1e-12, moment / mass[:, None], y)
            run.progress(step + 1, self.steps, f"wgd, λ = {slope:.4g}")
        return [score(source, y, mass.log(), slope, run, samples=self.samples)]
