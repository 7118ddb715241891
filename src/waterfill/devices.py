"""Where torch computes: one rule for what a device may be, and its name in results."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import Any

import torch

from waterfill.errors import WaterfillError
from waterfill.processes import launched, place

__all__ = ["check_device", "device_name", "full_precision"]


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
def full_precision(device: torch.device) -> Iterator[None]:
    """Convolutions and matrix products of a GPU in full single precision, in any thread.

    Left alone it rounds what convolutions multiply to the ten bits of TF32, too few for latents of
    hundreds of steps, and may add up in another order each time; matrix products are rounded so
    where a program has asked for it. The settings are those of the whole process: the first thread
    makes them, and the last one takes them back.
    """
    global _exact_users, _exact
    if device.type != "cuda":
        yield
        return
    with _exact_lock:
        if _exact_users == 0:
            _exact = _set_to_full()
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
def _set_to_full() -> Iterator[None]:
    """Settings of the whole process, and those that were before afterwards.

    From torch 2.9 on a kind of operation has a precision of its own, which goes before
    ``allow_tf32`` and ``set_float32_matmul_precision``. Where a program has set one, these can't
    even be read, and ``torch.backends.cudnn.flags`` fails.
    """
    cudnn: Any = torch.backends.cudnn
    places: list[tuple[Any, str, bool | str]] = [
        (cudnn, "deterministic", True),
        (cudnn, "benchmark", False),
    ]
    with suppress(RuntimeError):
        bool(cudnn.allow_tf32)
        places.append((cudnn, "allow_tf32", False))
    products = None
    with suppress(RuntimeError):
        products = torch.get_float32_matmul_precision()
    kinds = (getattr(cudnn, "conv", None), getattr(cudnn, "rnn", None), torch.backends.cuda.matmul)
    places += [(kind, "fp32_precision", "ieee") for kind in kinds if _has_precision(kind)]
    before = [getattr(place, name) for place, name, _ in places]
    try:
        if products is not None:
            torch.set_float32_matmul_precision("highest")
        for place, name, value in places:
            setattr(place, name, value)
        yield
    finally:
        if products is not None:
            torch.set_float32_matmul_precision(products)
        for (place, name, _), value in zip(places, before, strict=True):
            if name != "fp32_precision":
                setattr(place, name, value)
                continue
            # It may have taken it over from a wider setting: then it is to have none of its own.
            for own in ("none", value):
                if place.fp32_precision != value:
                    place.fp32_precision = own


def _has_precision(kind: Any) -> bool:
    """Whether a kind of operation has a precision of its own in this torch."""
    try:
        return kind is not None and bool(kind.fp32_precision)
    except AttributeError:
        return False
