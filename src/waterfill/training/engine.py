"""Where training runs: processes, devices and precision, as Lightning Fabric arranges them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from lightning_fabric import Fabric

from waterfill.errors import TrainingError
from waterfill.processes import connect, launched
from waterfill.training.config import TrainConfig

__all__ = ["check_engine", "make_fabric", "resolved_precision"]


def _native_bfloat16() -> bool:
    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    read: Callable[[], dict[str, Any]] = getattr(torch.cpu, "get_capabilities", dict)
    return any(read().get(name) for name in ("avx512_bf16", "amx_bf16"))


def resolved_precision(config: TrainConfig) -> str:
    """The precision that ``auto`` means here.

    Raises
    ------
    TrainingError
        For float16 without a GPU.
    """
    if config.precision == "16-mixed" and not torch.cuda.is_available():
        raise TrainingError("16-mixed needs a GPU; a processor has bf16-mixed")
    if config.precision == "auto":
        return "bf16-mixed" if _native_bfloat16() else "32-true"
    return config.precision


def check_engine(config: TrainConfig) -> None:
    """Check that a config can be trained by the processes and devices that are here.

    Raises
    ------
    TrainingError
        If a batch can't be shared equally among the processes; for float16 without a GPU.
    """
    resolved_precision(config)
    _, world = launched()
    if config.batch % (world * config.accumulate):
        pieces = f" in {config.accumulate} pieces each" if config.accumulate > 1 else ""
        raise TrainingError(
            f"a batch of {config.batch} can't be shared equally by {world} processes{pieces}"
        )


def make_fabric(config: TrainConfig) -> Fabric:
    """The processes of a run: one, or as many as the launcher has started.

    Raises
    ------
    TrainingError
        As for :func:`check_engine`.
    """
    check_engine(config)
    # Steps on the block transform alone, and a genie in the prior's place, leave parameters
    # without a gradient.
    partial = config.linear_steps > 0 or config.objective.startswith("oracle")
    return connect(precision=resolved_precision(config), partial=partial)
