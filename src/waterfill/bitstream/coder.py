"""Range coding of planes of symbols, each by a distribution that both ends know."""

from __future__ import annotations

from typing import Any, Protocol

import constriction
import numpy as np
from numpy.typing import NDArray

from waterfill.errors import BitstreamError

__all__ = ["Distribution", "SymbolReader", "SymbolWriter"]

_HALF_WORD = constriction.stream.model.Uniform(1 << 16)


class Distribution(Protocol):
    """Of a plane of symbols; a symbol that it has no place for is an escape, and sent in full."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the plane."""
        ...

    def bits(self, symbols: NDArray[np.int32]) -> NDArray[np.float64]:
        """Ideal code length of each symbol in bits, escapes included; shape of ``symbols``."""
        ...

    def encode(self, encoder: Any, symbols: NDArray[np.int32]) -> NDArray[np.bool_]:
        """Encode flat symbols; which of them are escapes, whose values are still to be sent."""
        ...

    def decode(self, decoder: Any) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
        """Decode flat symbols, and which of them are escapes."""
        ...


class SymbolWriter:
    """Turns planes of symbols into bytes."""

    def __init__(self) -> None:
        self._encoder = constriction.stream.queue.RangeEncoder()

    def write(self, symbols: NDArray[np.int32], distribution: Distribution) -> None:
        """Append a plane of symbols of the distribution's shape."""
        flat = symbols.ravel()
        escaped = distribution.encode(self._encoder, flat)
        words = flat[escaped].view(np.uint32)
        halves = np.stack([words >> 16, words & 0xFFFF], axis=1).astype(np.int32).ravel()
        if halves.size:
            self._encoder.encode(halves, _HALF_WORD)

    def to_bytes(self) -> bytes:
        """All that was written. Trailing zeros are implied and left out."""
        words = self._encoder.get_compressed().astype("<u4")
        data: bytes = words.tobytes()
        return data.rstrip(b"\0")


class SymbolReader:
    """Gives back the planes a :class:`SymbolWriter` wrote, in the same order."""

    def __init__(self, data: bytes) -> None:
        padded = data + bytes(-len(data) % 4)
        self._decoder = constriction.stream.queue.RangeDecoder(
            np.frombuffer(padded, dtype="<u4").astype(np.uint32)
        )

    def read(self, distribution: Distribution) -> NDArray[np.int32]:
        """The next plane, int32 of the distribution's shape.

        Raises
        ------
        BitstreamError
            If the bytes can't have come from this distribution.
        """
        try:
            flat, escaped = distribution.decode(self._decoder)
            count = int(escaped.sum())
            if count:
                halves = self._decoder.decode(_HALF_WORD, 2 * count).astype(np.uint32)
                flat[escaped] = ((halves[0::2] << 16) | halves[1::2]).view(np.int32)
        except (AssertionError, ValueError) as error:
            raise BitstreamError(f"the coded symbols are damaged ({error})") from None
        return flat.reshape(distribution.shape)
