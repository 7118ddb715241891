"""Seeded noise: what a channel draws is a function of a seed, and of nothing that ran before."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["Noise"]


class Noise:
    """A source of noise for one picture, or for each picture of a batch.

    With a seed for each picture, the noise that a picture meets does not depend on which others
    share its batch: a batch cut in pieces, over steps of accumulation or over processes, gives the
    gradient of the whole.

    Parameters
    ----------
    seeds
        One seed for tensors of any shape, or one for each element of their first axis.
    device
        Where the draws are made.
    """

    def __init__(self, seeds: int | Sequence[int], device: torch.device | str = "cpu") -> None:
        self._batched = not isinstance(seeds, int)
        listed = [seeds] if isinstance(seeds, int) else seeds
        self._generators = [torch.Generator(device).manual_seed(seed) for seed in listed]

    @property
    def seeds(self) -> tuple[int, ...]:
        """What the draws follow from, if none has been made yet."""
        return tuple(generator.initial_seed() for generator in self._generators)

    def uniform(self, like: Tensor) -> Tensor:
        """Uniform on [−½, ½), of the shape and type of ``like``."""
        return self._drawn(like, normal=False).sub_(0.5)

    def normal(self, like: Tensor) -> Tensor:
        """Standard normal, of the shape and type of ``like``."""
        return self._drawn(like, normal=True)

    def _drawn(self, like: Tensor, *, normal: bool) -> Tensor:
        # Channels last, whatever the layout of ``like``: the order of draws is part of the result.
        spatial = self._batched and like.ndim == 4
        shape = like.movedim(1, -1).shape if spatial else like.shape
        drawn = torch.empty(shape, dtype=like.dtype, device=like.device)
        parts = list(drawn) if self._batched else [drawn]
        for part, generator in zip(parts, self._generators, strict=True):
            if normal:
                part.normal_(generator=generator)
            else:
                part.uniform_(generator=generator)
        return drawn.movedim(-1, 1) if spatial else drawn
