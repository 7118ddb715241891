"""The learning rate of a step, and the weight of a regulariser."""

from __future__ import annotations

import math
from typing import Any

from waterfill.training.config import TrainConfig

__all__ = ["Schedule"]


class Schedule:
    """Linear warm-up, then what the config asks for.

    Parameters
    ----------
    config
        Its ``schedule``, ``warmup``, ``decay``, ``patience``, ``learning_rate`` and ``steps``;
        ``alpha`` and ``alpha_decay``.
    """

    def __init__(self, config: TrainConfig) -> None:
        self._config = config
        self._best = math.inf
        self._waited = 0
        self._halvings = 0

    def rate_at(self, step: int) -> float:
        """Learning rate of a step, counted from 0."""
        config = self._config
        up = min(1.0, (step + 1) / max(1, config.warmup))
        return config.learning_rate * min(up, self._down(step))

    def alpha_at(self, step: int) -> float:
        """Weight of the regulariser in a step, counted from 0."""
        config = self._config
        if not config.alpha_decay:
            return config.alpha
        left = (config.steps - step) / (config.alpha_decay * config.steps)
        return config.alpha * min(1.0, left)

    def _down(self, step: int) -> float:
        config = self._config
        if config.schedule == "plateau":
            return 0.5**self._halvings
        if config.schedule == "constant":
            return 1.0
        left = (config.steps - step) / max(1.0, config.decay * config.steps)
        if left >= 1.0:
            return 1.0
        if config.schedule == "cosine":
            return 0.5 - 0.5 * math.cos(math.pi * left)
        return left

    def observe(self, loss: float) -> None:
        """Take note of a held-back loss."""
        if self._config.schedule != "plateau":
            return
        if loss < self._best:
            self._best, self._waited = loss, 0
            return
        self._waited += 1
        if self._waited >= self._config.patience:
            self._halvings, self._waited = self._halvings + 1, 0

    def state(self) -> dict[str, Any]:
        """What a checkpoint has to remember."""
        best = None if math.isinf(self._best) else self._best
        return {"best": best, "waited": self._waited, "halvings": self._halvings}

    def restore(self, state: dict[str, Any]) -> None:
        """Put back what :meth:`state` gave."""
        self._best = math.inf if state["best"] is None else float(state["best"])
        self._waited, self._halvings = int(state["waited"]), int(state["halvings"])
