"""Where torch computes: one rule for what a device may be, and its name in results."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import Any

import torch

from waterfill.errors import WaterfillError
from waterfill.processes import launched, place

__all__ = ["check_device", "device_name", "exact_convolutions"]


def check_device(device: Any, precision: torch.dtype = torch.float64) -> torch.device:
    """A device by its name, with its number where it has one: ``cuda`` may become ``cuda:0``.

    The processes that a launcher has started on a machine take its GPUs in turn, unless the name
    says which.

    Raises
    ------
    WaterfillError
        If there is none of this name here, or it has no numbers of this precision.
    """
    try:
        wanted = torch.device(device)
        if str(wanted) == "cuda" and launched()[0] > 1:
            wanted = torch.device("cuda", place() % max(1, torch.cuda.device_count()))
        tried = torch.zeros(1, dtype=precision, device=wanted)
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


_exact_lock = threading.Lock()
_exact_users = 0
_exact: AbstractContextManager[None] | None = None


@contextmanager
def exact_convolutions(device: torch.device) -> Iterator[None]:
    """Convolutions of a GPU in full single precision, the same way each time, in any thread.

    Left alone it rounds what it multiplies to the ten bits of TF32, too few for latents of hundreds
    of steps, and may add up in another order each time. The settings are those of the whole
    process: the first thread makes them, and the last one takes them back.
    """
    global _exact_users, _exact
    if device.type != "cuda":
        yield
        return
    with _exact_lock:
        if _exact_users == 0:
            _exact = _exact_settings()
            _exact.__enter__()
        _exact_users += 1
    try:
        yield
    finally:
        with _exact_lock:
            _exact_users -= 1
            if _exact_users == 0 and _exact is not None:
                _exact.__exit__(None, None, None)
                _exact = None


@contextmanager
def _exact_settings() -> Iterator[None]:
    """Settings of cuDNN, and those that were before afterwards.

    From torch 2.9 on a kind of operation has a precision of its own, which goes before
    ``allow_tf32``. Where a program has set one, ``allow_tf32`` can't even be read, and
    ``torch.backends.cudnn.flags`` fails.
    """
    cudnn: Any = torch.backends.cudnn
    places: list[tuple[Any, str, bool | str]] = [
        (cudnn, "deterministic", True),
        (cudnn, "benchmark", False),
    ]
    with suppress(RuntimeError):
        bool(cudnn.allow_tf32)
        places.append((cudnn, "allow_tf32", False))
    places += [
        (getattr(cudnn, kind), "fp32_precision", "ieee")
        for kind in ("conv", "rnn")
        if hasattr(cudnn, kind)
    ]
    before = [getattr(place, name) for place, name, _ in places]
    try:
        for place, name, value in places:
            setattr(place, name, value)
        yield
    finally:
        for (place, name, _), value in zip(places, before, strict=True):
            setattr(place, name, value)
