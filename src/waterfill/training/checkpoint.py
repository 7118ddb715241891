"""Checkpoints: every tensor in one safetensors file, everything else as JSON in its header."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from waterfill.errors import TrainingError
from waterfill.files import write_whole
from waterfill.training.objectives import Objective
from waterfill.training.optimisers import slots_of

__all__ = ["capture", "load_checkpoint", "load_facts", "restore", "save_checkpoint", "trained"]

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
    with _opened(path) as file:
        facts = _facts_of(file, path)
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    broken = [name for name, tensor in tensors.items() if not torch.isfinite(tensor).all()]
    if broken:
        raise TrainingError(f"{path}: {broken[0]} holds values that are not finite")
    return tensors, facts


def load_facts(path: Path) -> dict[str, Any]:
    """Facts of a checkpoint, without its tensors.

    Raises
    ------
    TrainingError
        If the file is not a checkpoint of a training run.
    """
    with _opened(path) as file:
        return _facts_of(file, path)


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            yield file
    except (safetensors.SafetensorError, ValueError, OSError, RecursionError) as error:
        raise TrainingError(f"{path}: not a training checkpoint ({error})") from None


def _facts_of(file: Any, path: Path) -> dict[str, Any]:
    text = (file.metadata() or {}).get(_KEY)
    if text is None:
        raise TrainingError(f"{path}: holds tensors, but not those of a training run")
    facts = json.loads(text)
    if not isinstance(facts, dict):
        raise TrainingError(f"{path}: not a training checkpoint")
    return facts


def trained(objective: Objective) -> list[torch.nn.Parameter]:
    """The parameters that training moves, in the order of the optimiser's."""
    return [parameter for part in objective.learners().values() for parameter in part]


def capture(
    objective: Objective, average: AveragedModel, optimiser: torch.optim.Optimizer
) -> dict[str, Tensor]:
    """Every tensor that a run goes on from."""
    tensors = {f"model.{k}": v for k, v in objective.state_dict().items()}
    tensors |= {f"average.{k}": v for k, v in average.module.state_dict().items()}
    tensors["average_count"] = average.n_averaged
    for index, slots in optimiser.state_dict()["state"].items():
        tensors |= {f"optimiser.{index}.{name}": value for name, value in slots.items()}
    return tensors


def restore(
    tensors: dict[str, Tensor],
    objective: Objective,
    average: AveragedModel,
    optimiser: torch.optim.Optimizer,
) -> None:
    """Put back what :func:`capture` took.

    Raises
    ------
    ValueError
        If a tensor is missing, unknown, or of another shape or type.
    """

    def below(prefix: str) -> dict[str, Tensor]:
        return {k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)}

    parameters = trained(objective)
    expected = capture(objective, average, optimiser)
    for index, parameter in enumerate(parameters):
        slot = f"optimiser.{index}."
        if f"{slot}step" in tensors:  # a parameter that has had no gradient yet has no slots
            kept = slots_of(optimiser, parameter)
            expected |= {f"{slot}{name}": value for name, value in kept.items()}
    for name in sorted(expected.keys() | tensors.keys()):
        if name not in tensors or name not in expected:
            raise ValueError(f"{name} is {'missing' if name in expected else 'unknown'}")
        have, want = tensors[name], expected[name]
        if (have.shape, have.dtype) != (want.shape, want.dtype):
            raise ValueError(f"{name} has the wrong shape or type")
    objective.load_state_dict(below("model."))
    average.module.load_state_dict(below("average."))
    average.n_averaged.copy_(tensors["average_count"])
    slots: dict[int, dict[str, Tensor]] = {}
    for name, value in below("optimiser.").items():
        number, slot = name.split(".", 1)
        # A file doesn't keep the memory layout of a slot.
        value = torch.empty_like(expected[f"optimiser.{name}"]).copy_(value)
        slots.setdefault(int(number), {})[slot] = value
    groups = optimiser.state_dict()["param_groups"]
    optimiser.load_state_dict({"state": slots, "param_groups": groups})
