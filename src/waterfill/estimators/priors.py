"""Laws of a latent for the sandwich's upper bound: factorised, a flow, two levels."""

from __future__ import annotations

import math
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["PRIORS", "Factorised", "Flow", "Posterior", "Prior", "TwoLevels", "network"]


def network(inside: int, hidden: int, outside: int) -> nn.Sequential:
    """Two hidden layers; the last layer starts at zero."""
    last = nn.Linear(hidden, outside)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return nn.Sequential(
        nn.Linear(inside, hidden), nn.SiLU(), nn.Linear(hidden, hidden), nn.SiLU(), last
    )


class Posterior:
    """q(z | x): independent Gaussians with means and log-deviations, (m, d) each."""

    def __init__(self, mean: Tensor, log_deviation: Tensor) -> None:
        self.mean, self.log_deviation = mean, log_deviation

    def sample(self) -> Tensor:
        """Reparametrised."""
        return self.mean + torch.randn_like(self.mean) * self.log_deviation.exp()

    def log_density(self, z: Tensor) -> Tensor:
        """ln q(z | x), (m)."""
        return _log_normal(z, self.mean, self.log_deviation)


class Prior(Protocol):
    """What the upper bound asks of a law of z."""

    def divergence(self, q: Posterior, z: Tensor) -> Tensor:
        """KL(q ‖ p) of each sample (m), exact or unbiased from z ~ q."""
        ...


class Factorised(nn.Module):
    """Independent Gaussians with learned deviations; the divergence is exact."""

    def __init__(self, dimension: int, hidden: int) -> None:
        super().__init__()
        self.mean = nn.Parameter(torch.zeros(dimension))
        self.log_deviation = nn.Parameter(torch.zeros(dimension))

    def divergence(self, q: Posterior, z: Tensor) -> Tensor:
        """KL of Gaussians, (m)."""
        return _kl(q, Posterior(self.mean, self.log_deviation))


class Flow(nn.Module):
    """A masked autoregressive flow: each component is standardised given those before it.

    Three stacks, every other one in reversed order. At the start it is a standard Gaussian.
    """

    def __init__(self, dimension: int, hidden: int) -> None:
        super().__init__()
        self.stacks = nn.ModuleList(_Masked(dimension, hidden) for _ in range(3))

    def divergence(self, q: Posterior, z: Tensor) -> Tensor:
        """ln q(z) − ln p(z), unbiased, (m)."""
        log_p = z.new_zeros(len(z))
        noise = z
        for stack in self.stacks:
            shift, log_scale = stack(noise)
            noise = ((noise - shift) * (-log_scale).exp()).flip(1)
            log_p = log_p - log_scale.sum(1)
        zero = torch.zeros_like(noise)
        return q.log_density(z) - log_p - _log_normal(noise, zero, zero)


class _Masked(nn.Module):
    """A perceptron whose k-th outputs see the components before k alone."""

    def __init__(self, dimension: int, hidden: int) -> None:
        super().__init__()
        order = torch.arange(1, dimension + 1)
        unit = torch.arange(hidden) % max(1, dimension - 1) + 1
        self.layers = nn.ModuleList(
            [
                nn.Linear(dimension, hidden),
                nn.Linear(hidden, hidden),
                nn.Linear(hidden, 2 * dimension),
            ]
        )
        nn.init.zeros_(self.layers[2].weight)  # type: ignore[arg-type]
        nn.init.zeros_(self.layers[2].bias)  # type: ignore[arg-type]
        masks = [
            unit[:, None] >= order,
            unit[:, None] >= unit,
            (order[:, None] > unit).repeat(2, 1),
        ]
        for number, mask in enumerate(masks):
            self.register_buffer(f"mask{number}", mask.float())

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Shift and log-scale of each component, (m, d) each."""
        for number, layer in enumerate(self.layers):
            mask = self.get_buffer(f"mask{number}")
            z = F.linear(z, layer.weight * mask, layer.bias)  # type: ignore[arg-type, operator]
            if number < 2:
                z = F.silu(z)
        shift, log_scale = z.chunk(2, 1)
        return shift, 3.0 * torch.tanh(log_scale / 3.0)


class TwoLevels(nn.Module):
    """A hierarchy: p(z) = ∫ p(z | t) p(t) dt with a second latent t, inferred from z.

    E KL(q(t|z) ‖ p(t)) is paid on top, so that the sum is a divergence of the pair (z, t).
    """

    def __init__(self, dimension: int, hidden: int) -> None:
        super().__init__()
        top = max(1, dimension // 2)
        self.up = network(dimension, hidden, 2 * top)
        self.down = network(top, hidden, 2 * dimension)
        self.top = Factorised(top, hidden)

    def divergence(self, q: Posterior, z: Tensor) -> Tensor:
        """KL of z given t, plus that of t, (m)."""
        above = Posterior(*_bounded(self.up(z)))
        t = above.sample()
        below = Posterior(*_bounded(self.down(t)))
        return _kl(q, below) + self.top.divergence(above, t)


PRIORS: dict[str, type[nn.Module]] = {
    "factorised": Factorised,
    "flow": Flow,
    "hierarchical": TwoLevels,
}


def _bounded(parameters: Tensor) -> tuple[Tensor, Tensor]:
    mean, log_deviation = parameters.chunk(2, 1)
    return mean, log_deviation.clamp(-12.0, 6.0)


def _kl(q: Posterior, p: Posterior) -> Tensor:
    gap = p.log_deviation - q.log_deviation
    ratio = (-2.0 * gap).exp() + (q.mean - p.mean).square() * (-2.0 * p.log_deviation).exp()
    return (gap + 0.5 * (ratio - 1.0)).sum(1)


def _log_normal(z: Tensor, mean: Tensor, log_deviation: Tensor) -> Tensor:
    unit = (z - mean) * (-log_deviation).exp()
    return -(0.5 * unit.square() + log_deviation + 0.5 * math.log(2.0 * math.pi)).sum(1)
