"""What a seed may be: one rule for every command and every function that draws."""

from __future__ import annotations

import operator
from typing import Any

from waterfill.errors import WaterfillError

__all__ = ["check_seed"]

#: The generators of NumPy and of torch both take what has so many bits.
_BITS = 32


def check_seed(seed: Any, error: type[WaterfillError] = WaterfillError) -> int:
    """A seed as an int.

    Raises
    ------
    WaterfillError
        Or the ``error`` that is given, if it is not a whole number in 0 … 2³² − 1.
    """
    try:
        found = operator.index(seed)
    except TypeError:
        found = -1
    if not 0 <= found < 1 << _BITS:
        raise error(f"seed must be a whole number in 0 … 2^{_BITS} − 1, not {seed!r}")
    return found
