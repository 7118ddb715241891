"""Atoms that move and weights that follow: Wasserstein gradient descent, its hybrid form."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from waterfill.data.sources import Source
from waterfill.estimators.atoms import score
from waterfill.estimators.method import FitThenScore, Run, Scorer
from waterfill.estimators.softmax import assign

__all__ = ["WassersteinDescent"]


#: Samples for each particle in a batch that may make it forget where it was.
_ENOUGH = 4


@dataclass(frozen=True)
class WassersteinDescent(FitThenScore):
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

    def fit(self, source: Source, slope: float, run: Run) -> Scorer:
        """Particles that have found their places, and their weights."""
        rng = run.rng(1)
        y = run.tensor(source.sample(self.particles, rng))
        mass = y.new_full((self.particles,), 1.0 / self.particles)
        moment = y * mass[:, None]
        # A batch that is small beside the particles says nothing of most of them.
        seen = min(1.0, self.batch / (_ENOUGH * self.particles))
        for step in range(self.steps):
            x = run.tensor(source.sample(self.batch, rng))
            share = assign(x, y, slope, mass.log())
            # Full steps while the particles find their places, then a mean over the steps.
            gain = (1.0 + max(0.0, step - 0.1 * self.steps)) ** -0.7 * seen
            mass = torch.lerp(mass, share.mass, gain).clamp_min(1e-30)
            mass = mass / mass.sum()
            moment = torch.lerp(moment, share.moment, gain)
            y = torch.where(mass[:, None] > 1e-12, moment / mass[:, None], y)
            run.progress(step + 1, self.steps, f"wgd, λ = {slope:.4g}")
        weights = mass.log()
        return lambda judge: score(judge, y, weights, slope, run, samples=self.samples)
