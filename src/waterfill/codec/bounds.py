"""Clamping a parameter or an activation without trapping it outside."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor

__all__ = ["bounded"]


class _Bounded(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, low: float, high: float) -> Tensor:
        ctx.save_for_backward(x)
        ctx.limits = (low, high)
        return x.clamp(low, high)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (x,) = ctx.saved_tensors
        low, high = ctx.limits
        # Descent moves against the gradient, so below the floor only a negative one leads up.
        inside = ((x >= low) | (grad < 0)) & ((x <= high) | (grad > 0))
        return grad * inside, None, None


def bounded(x: Tensor, low: float, high: float) -> Tensor:
    """Clamp ``x`` to [low, high]; its gradient survives wherever a step along it leads back in."""
    return cast(Tensor, _Bounded.apply(x, low, high))  # type: ignore[no-untyped-call]
