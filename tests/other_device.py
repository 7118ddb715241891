"""A device as apart from the processor as a GPU, for tests on machines that have none."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map_only

CPU = torch.device("cpu")
#: Of shapes without numbers; here it has some.
AWAY = torch.device("meta")
#: These carry from one device to another, or nothing at all.
CARRIERS = ("aten::lift_fresh", "aten::_to_copy", "aten::copy_")


class Away(Tensor):
    """A tensor on a device of its own: its numbers are the processor's, but no other tensor may be
    computed with them.
    """

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> Away:
        return Tensor._make_wrapper_subclass(
            cls,
            held.shape,
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=AWAY,
        )

    def __init__(self, held: Tensor) -> None:
        self.held = held

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return separately(func, args, kwargs or {}, alone=False)


def separately(func: Any, args: Any, kwargs: Any, *, alone: bool) -> Any:
    """An operation of torch on one device.

    Parameters
    ----------
    alone
        The processor does nothing but carry what it has away; single numbers alone come back.
    """
    name = func._schema.name
    tensors = [item for item in tree_leaves((args, kwargs)) if isinstance(item, Tensor)]
    away = any(isinstance(item, Away) for item in tensors)
    # Single numbers of the processor's go anywhere, as on a GPU.
    here = any(not isinstance(item, Away) and item.dim() for item in tensors)
    if here and name not in CARRIERS and (away or alone):
        raise AssertionError(f"{name} {'mixes devices' if away else 'is on the processor'}")
    to = away
    if kwargs.get("device") is not None:
        to = kwargs["device"] == AWAY
        kwargs = kwargs | {"device": CPU}
    if name == "aten::copy_":
        to = isinstance(args[0], Away)
    assert to or not (away and alone), f"{name} comes back to the processor"
    held_args, held_kwargs = tree_map_only(Away, lambda item: item.held, (args, kwargs))
    out = func(*held_args, **held_kwargs)
    if not to:
        return out
    return return_and_correct_aliasing(func, args, kwargs, tree_map_only(Tensor, Away, out))


class _Separate(TorchDispatchMode):
    """What makes tensors on the device."""

    def __init__(self, alone: bool) -> None:
        super().__init__()
        self.alone = alone

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return separately(func, args, kwargs or {}, alone=self.alone)


@contextmanager
def other_device(monkeypatch: pytest.MonkeyPatch, *, alone: bool) -> Iterator[torch.device]:
    """The device, whose draws are the processor's; ``alone`` as for :func:`separately`."""
    tensor = torch.tensor
    # Python's numbers become a tensor where modes don't look.
    monkeypatch.setattr(
        torch, "tensor", lambda data, device=CPU, **to: tensor(data, **to).to(device)
    )
    # Or a network's parameters stay what they were.
    torch.__future__.set_swap_module_params_on_conversion(True)
    try:
        with _Separate(alone):
            yield AWAY
    finally:
        torch.__future__.set_swap_module_params_on_conversion(False)
