"""What decides a training run."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any

from waterfill.codec.gains import QUALITIES
from waterfill.codec.model import CodecConfig
from waterfill.errors import TrainingError

__all__ = ["PRECISIONS", "TrainConfig"]

PRECISIONS = ("auto", "32-true", "bf16-mixed")


@dataclass(frozen=True)
class TrainConfig:
    """All that decides a run; two runs with equal configs on one machine are equal.

    Attributes
    ----------
    codec
        Widths.
    steps, batch, crop
        Optimiser steps, crops per step, side of a crop (a multiple of 64).
    learning_rate, warmup, decay
        Peak of Adam's rate, steps of linear warm-up, and the share of the run at its end over
        which the rate falls linearly to zero. Between the two it is constant, so a run can be
        made longer later and resumed.
    linear_steps
        Of a codec with ``klt``: so many steps at the start train the prior and the gains alone,
        on the block transform. They cost a fraction of the others.
    clip
        Largest gradient norm.
    ema
        Decay of the averaged weights, which are the ones validated and kept.
    qualities
        Lowest and highest quality trained, drawn uniformly, fractions included.
    precision
        ``32-true``, ``bf16-mixed``, or ``auto``: bfloat16 where the processor multiplies it
        natively.
    seed
        Seed of weights, crops, qualities and noise.
    """

    codec: CodecConfig = field(default_factory=CodecConfig)
    steps: int = 40_000
    batch: int = 8
    crop: int = 128
    learning_rate: float = 1e-3
    warmup: int = 500
    decay: float = 0.3
    linear_steps: int = 0
    clip: float = 1.0
    ema: float = 0.999
    qualities: tuple[float, float] = (float(QUALITIES[0]), float(QUALITIES[-1]))
    precision: str = "auto"
    seed: int = 1

    def __post_init__(self) -> None:
        if self.crop < 64 or self.crop % 64:
            raise TrainingError(f"crop must be a multiple of 64, not {self.crop}")
        for name in ("steps", "batch", "learning_rate", "clip"):
            if not 0 < getattr(self, name) < math.inf:
                raise TrainingError(f"{name} must be positive, not {getattr(self, name)}")
        if self.linear_steps and not self.codec.klt:
            raise TrainingError("linear_steps need a codec with a block transform (klt)")
        if not 0 <= self.seed < 1 << 32:
            raise TrainingError(f"seed must lie in 0 … 2^32 − 1, not {self.seed}")
        if not (self.warmup >= 0 and 0 <= self.decay <= 1 and 0 <= self.ema < 1):
            raise TrainingError("warmup, decay and ema can't be negative, nor the last two above 1")
        if self.precision not in PRECISIONS:
            known = ", ".join(PRECISIONS)
            raise TrainingError(f"precision must be one of {known}, not {self.precision}")
        if not QUALITIES[0] <= self.qualities[0] <= self.qualities[1] <= QUALITIES[-1]:
            raise TrainingError(f"qualities must lie in 1 … 8, low first, not {self.qualities}")

    def rate_at(self, step: int) -> float:
        """Learning rate of a step: linear up, flat, linear down."""
        up = (step + 1) / max(1, self.warmup)
        down = (self.steps - step) / max(1.0, self.decay * self.steps)
        return self.learning_rate * min(1.0, up, down)

    def to_dict(self) -> dict[str, Any]:
        """The config as a JSON-able mapping."""
        return asdict(self)
