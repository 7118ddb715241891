"""What every function of this package does to its arguments before it computes."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

FloatArray: TypeAlias = npt.NDArray[np.float64]

FloatOrArray: TypeAlias = Any
"""A float where every argument was a scalar, otherwise an array.

It is ``Any`` for the type checker, as the result of a NumPy ufunc is: a union would force every
caller to narrow a type that the caller already knows.
"""

LN2 = float(np.log(2.0))


def as_real(value: npt.ArrayLike, name: str) -> FloatArray:
    """Return `value` as a float64 array of any real numbers, without a copy where it is one.

    Raises
    ------
    ValueError
        If `value` is not real numbers; their values are not looked at.
    """
    try:
        raw = np.asarray(value)
    except ValueError:
        raise ValueError(f"{name} must be an array of real numbers, not a ragged list") from None
    if raw.dtype.kind not in "iuf":
        raise ValueError(f"{name} must be real numbers, not {raw.dtype.name}")
    return raw.astype(np.float64, copy=False)


def as_floats(
    value: npt.ArrayLike,
    name: str,
    *,
    minimum: float = -np.inf,
    strict: bool = False,
    finite: bool = True,
) -> FloatArray:
    """Return `value` as a float64 array, refusing what the mathematics does not define.

    Parameters
    ----------
    value : array_like
        Real numbers of any shape.
    name : str
        What the caller calls it, for the message.
    minimum : float
        The smallest value allowed.
    strict : bool
        Refuse `minimum` itself.
    finite : bool
        Refuse infinities. NaN is always refused.

    Raises
    ------
    ValueError
        If `value` is not real numbers, or one of them is NaN or out of range.
    """
    array = as_real(value, name)
    if array.size:
        low, high = float(array.min()), float(array.max())  # both are NaN if any element is
        if np.isnan(low):
            raise ValueError(f"{name} must not contain NaN")
        if low < minimum or (strict and low == minimum):
            bound = "greater than" if strict else "at least"
            raise ValueError(f"{name} must be {bound} {minimum:g}, got {low:g}")
        if finite and (np.isinf(low) or np.isinf(high)):
            raise ValueError(f"{name} must be finite")
    return array


def broadcast(**arrays: FloatArray) -> tuple[FloatArray, ...]:
    """Broadcast named arrays against each other.

    Raises
    ------
    ValueError
        If the shapes do not fit, naming the arrays.
    """
    try:
        return tuple(np.broadcast_arrays(*arrays.values()))
    except ValueError:
        shapes = ", ".join(f"{name} {array.shape}" for name, array in arrays.items())
        raise ValueError(f"shapes do not broadcast: {shapes}") from None


def scalar_or_array(value: npt.NDArray[Any]) -> FloatOrArray:
    """Return a Python float for a 0-d result and the array itself otherwise."""
    return float(value) if np.ndim(value) == 0 else value
