"""Checkpoints: every tensor in one safetensors file, everything else as JSON in its header."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from waterfill.errors import TrainingError
from waterfill.files import write_whole

__all__ = ["load_checkpoint", "save_checkpoint"]

_KEY = "waterfill.training"


def save_checkpoint(path: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
    """Write a checkpoint whole or not at all."""
    contiguous = {name: t.detach().cpu().contiguous() for name, t in tensors.items()}
    write_whole(path, safetensors.torch.save(contiguous, {_KEY: json.dumps(facts)}))


def load_checkpoint(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and facts of a checkpoint.

    Raises
    ------
    TrainingError
        If the file is not a checkpoint of a training run, or holds values that are not finite.
    """
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            facts = json.loads((file.metadata() or {})[_KEY])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except KeyError:
        raise TrainingError(f"{path}: holds tensors, but not those of a training run") from None
    except (safetensors.SafetensorError, ValueError, OSError) as error:
        raise TrainingError(f"{path}: not a training checkpoint ({error})") from None
    if not isinstance(facts, dict):
        raise TrainingError(f"{path}: not a training checkpoint")
    broken = [name for name, tensor in tensors.items() if not torch.isfinite(tensor).all()]
    if broken:
        raise TrainingError(f"{path}: {broken[0]} holds values that are not finite")
    return tensors, facts
