"""What a regulariser costs in training, step beside step."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import replace

import torch
from lightning_fabric import Fabric

from waterfill.allocator import keep_large_blocks
from waterfill.codec.model import Codec
from waterfill.training.config import TrainConfig
from waterfill.training.engine import make_fabric
from waterfill.training.learner import Learner
from waterfill.training.objectives import Batch
from waterfill.training.presets import PRESETS

__all__ = ["step_on_noise", "step_seconds"]

_BATCH, _REPEATS = 8, 7


def step_seconds(
    model: str, alpha: float, *, config: TrainConfig | None = None, repeats: int = _REPEATS
) -> tuple[float, float]:
    """Median seconds of a step without and with the regulariser, taking turns.

    Parameters
    ----------
    model
        Of paper 2: ``hyperprior``, ``autoregressive`` or ``attention``.
    alpha
        Weight of the regulariser.
    config
        In place of the model's preset.
    repeats
        Steps of each.
    """
    keep_large_blocks()
    plain = config or replace(PRESETS[f"paper2-{model}-q3"], batch=_BATCH)
    regularised = replace(plain, source_model="aligned", alpha=alpha)
    steps = [step_on_noise(one)[1] for one in (plain, regularised)]
    for step in steps:
        step()
    seconds: list[list[float]] = [[] for _ in steps]
    for _ in range(repeats):
        for step, own in zip(steps, seconds, strict=True):
            own.append(_seconds(step))
    first, second = (statistics.median(own) for own in seconds)
    return first, second


def step_on_noise(
    config: TrainConfig, quality: float | None = None
) -> tuple[Fabric, Callable[[], None]]:
    """A step of a config on random pixels, and the engine it runs on.

    The training loop's own: objective, backward, clipping, Adam. It returns once it is done.

    Parameters
    ----------
    config
        What is trained.
    quality
        Of all pictures; None for the lowest that the codec covers.
    """
    torch.manual_seed(config.seed)
    fabric = make_fabric(config)
    codec = Codec(config.codec).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    learner = Learner(config, fabric, codec)
    generator = torch.Generator().manual_seed(config.seed)
    shape = (config.batch, config.crop, config.crop, 3)
    pixels = torch.randint(0, 256, shape, generator=generator).to(torch.uint8)
    pixels = pixels.permute(0, 3, 1, 2).to(fabric.device)
    at = config.codec.qualities[0] if quality is None else quality
    qualities = torch.full((config.batch,), at, device=fabric.device)

    def step() -> None:
        learner.gradients(Batch(pixels, qualities, list(range(config.batch))))
        learner.clip()
        learner.step()
        learner.forget()
        if fabric.device.type == "cuda":
            torch.cuda.synchronize()

    return fabric, step


def _seconds(step: Callable[[], None]) -> float:
    began = time.perf_counter()
    step()
    return time.perf_counter() - began
