"""A generator of reproductions, trained by the log-mean of its atoms and scored on fixed ones."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from waterfill.data.sources import Source
from waterfill.errors import WaterfillError
from waterfill.estimators.atoms import score
from waterfill.estimators.axes import principal_axes
from waterfill.estimators.method import FitThenScore, Run, Scorer, unit_of
from waterfill.estimators.softmax import assign

__all__ = ["Generator", "Nerd"]

#: Atoms whose generator's activations are in memory at once.
_CHUNK = 8192


class Generator(nn.Module):
    """z ~ N(0, I) → a reproduction: an affine map plus a multilayer perceptron.

    The affine part starts as the Gaussian with the source's principal components, the other one
    at zero: training begins at the best Gaussian law, not at noise. Both work in units of the
    source's deviation.

    Parameters
    ----------
    samples
        Of the source, (m, d).
    latent
        Length of z.
    hidden
        Units of each of the two hidden layers.
    floor
        Variance that a component is made without: what is below would not be coded.
    """

    def __init__(self, samples: Tensor, latent: int, hidden: int, floor: float) -> None:
        super().__init__()
        d = samples.shape[1]
        self.latent, self.unit = latent, unit_of(samples)
        samples, floor = samples / self.unit, floor / self.unit**2
        centre, values, vectors = principal_axes(samples)
        kept = min(latent, d)
        scale = (values - floor).clamp_min(0.0).sqrt()
        weight = centre.new_zeros(d, latent, dtype=torch.float32)
        weight[:, :kept] = (vectors * scale).flip(1)[:, :kept].float()
        self.affine = nn.Linear(latent, d)
        self.bend = nn.Sequential(
            nn.Linear(latent, hidden), nn.SiLU(), nn.Linear(hidden, hidden), nn.SiLU()
        )
        self.last = nn.Linear(hidden, d)
        with torch.no_grad():
            self.affine.weight.copy_(weight)
            self.affine.bias.copy_(centre)
            self.last.weight.zero_()
            self.last.bias.zero_()

    def forward(self, z: Tensor) -> Tensor:
        """Reproductions (n, d) of latents (n, latent)."""
        out: Tensor = self.unit * (self.affine(z) + self.last(self.bend(z)))
        return out


@dataclass(frozen=True)
class Nerd(FitThenScore):
    """Neural estimator of the rate–distortion function (Lei, Hassani & Saeedi Bidokhti 2022).

    Minimises −E ln E_z exp(−λ‖X − G(z)‖²) with the inner mean over fresh atoms at every step. The
    gradient with respect to an atom is what its share of the samples pulls it by, so that neither
    the matrix of distances nor the activations of all atoms lie in memory. Jensen's inequality
    biases the trained loss upwards; the score of fixed atoms on fresh samples is an upper bound.

    Attributes
    ----------
    atoms
        M at scoring; the rate can't exceed ln M.
    training_atoms, batch
        Fresh atoms and samples for each step.
    steps, learning_rate
        Of Adam, with a cosine schedule.
    latent, hidden
        Length of z, but no longer than a sample; units of the hidden layers.
    samples
        Fresh samples to score on.

    Raises
    ------
    WaterfillError
        When run, for a discrete source, or if training diverges.
    """

    atoms: int = 40_000
    training_atoms: int = 4096
    batch: int = 512
    steps: int = 300
    learning_rate: float = 1e-3
    latent: int = 128
    hidden: int = 64
    samples: int = 10_000

    name = "nerd"
    takes_axes = True

    def fit(self, source: Source, slope: float, run: Run) -> Scorer:
        """Atoms of a trained generator."""
        rng = run.rng(3)
        start = run.tensor(source.sample(20_000, rng))
        latent = min(self.latent, source.dimension)
        with run.device:
            model = Generator(start, latent, self.hidden, 0.5 / slope)
        optimiser = torch.optim.Adam(model.parameters(), self.learning_rate, betas=(0.5, 0.999))
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, self.steps)
        for step in range(self.steps):
            x = run.tensor(source.sample(self.batch, rng))
            z = torch.randn(self.training_atoms, latent, device=run.device)
            optimiser.zero_grad()
            loss = self._backward(model, x, z, slope)
            if not math.isfinite(loss):
                raise WaterfillError("nerd: the loss is not finite; try a smaller learning_rate")
            optimiser.step()
            schedule.step()
            run.progress(step + 1, self.steps, f"nerd, λ = {slope:.4g}")
        with torch.no_grad():
            y = _atoms(model, torch.randn(self.atoms, latent, device=run.device)).to(start.dtype)
        uniform = y.new_full((self.atoms,), -math.log(self.atoms))
        return lambda judge: score(judge, y, uniform, slope, run, samples=self.samples)

    def _backward(self, model: Generator, x: Tensor, z: Tensor, slope: float) -> float:
        """The loss; its gradient goes into the generator's parameters."""
        with torch.no_grad():
            y = _atoms(model, z).to(x.dtype)
            log_weights = x.new_full((len(z),), -math.log(len(z)))
            share = assign(x, y, slope, log_weights)
            pull = (2.0 * slope * (share.mass[:, None] * y - share.moment)).float()
        for start in range(0, len(z), _CHUNK):
            part = slice(start, start + _CHUNK)
            model(z[part]).backward(pull[part])
        return -float(share.log_sum.mean())


def _atoms(model: Generator, z: Tensor) -> Tensor:
    return torch.cat([model(part) for part in torch.split(z, _CHUNK)])
