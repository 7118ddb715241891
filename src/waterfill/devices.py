"""Where torch computes: one rule for what a device may be, and its name in results."""

from __future__ import annotations

from typing import Any

import torch

from waterfill.errors import WaterfillError
from waterfill.processes import launched, place

__all__ = ["check_device", "device_name"]


def check_device(device: Any) -> torch.device:
    """A device by its name, with its number where it has one: ``cuda`` may become ``cuda:0``.

    The processes that a launcher has started on a machine take its GPUs in turn, unless the name
    says which.

    Raises
    ------
    WaterfillError
        If there is none of this name here, or it has no double precision.
    """
    try:
        wanted = torch.device(device)
        if str(wanted) == "cuda" and launched()[0] > 1:
            wanted = torch.device("cuda", place() % max(1, torch.cuda.device_count()))
        tried = torch.zeros(1, dtype=torch.float64, device=wanted)
        tried.item()  # fails on the meta device, which has no values
    # Each kind of device that is not there has its own way to say so.
    except (AssertionError, ImportError, RuntimeError, TypeError, ValueError) as error:
        reason = str(error).partition("\n")[0].partition(". ")[0]
        name = str(device)
        raise WaterfillError(
            f"can't compute on device {name!r} here ({reason}); use 'cpu'"
        ) from None
    return tried.device


def device_name(device: torch.device) -> str:
    """Its name, for a GPU with the maker's."""
    if device.type != "cuda":
        return str(device)
    return f"{device}, {torch.cuda.get_device_name(device)}"
