"""Range coding of symbols by the rows of :class:`~waterfill.bitstream.tables.Tables`.

Symbols that share a row are coded together, rows ascending: both ends know all rows of a plane
before its first symbol, and the coder is called once for each row instead of once for each symbol.
"""

from __future__ import annotations

import constriction
import numpy as np
from numpy.typing import NDArray

from waterfill.bitstream.tables import Tables, group_by_row
from waterfill.errors import BitstreamError

__all__ = ["SymbolReader", "SymbolWriter"]

_HALF_WORD = constriction.stream.model.Uniform(1 << 16)


class SymbolWriter:
    """Turns planes of symbols into bytes."""

    def __init__(self) -> None:
        self._encoder = constriction.stream.queue.RangeEncoder()

    def write(self, symbols: NDArray[np.int32], rows: NDArray[np.int64], tables: Tables) -> None:
        """Append a plane: ``symbols`` and, of the same shape, the row each is coded with."""
        flat = symbols.ravel()
        escaped = np.zeros(flat.size, dtype=np.bool_)
        for row, where in group_by_row(rows.ravel()):
            index, outside = tables.entries(row, flat[where])
            model = tables.model(row)
            if model is not None:
                self._encoder.encode(index, model)
            escaped[where] = outside
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

    def read(self, rows: NDArray[np.int64], tables: Tables) -> NDArray[np.int32]:
        """The next plane, int32 of the shape of ``rows``.

        Raises
        ------
        BitstreamError
            If the bytes can't have come from these tables.
        """
        flat = np.empty(rows.size, dtype=np.int32)
        escaped = np.zeros(rows.size, dtype=np.bool_)
        try:
            for row, where in group_by_row(rows.ravel()):
                model = tables.model(row)
                index = 0 if model is None else self._decoder.decode(model, len(where))
                flat[where] = index + tables.first[row]
                escaped[where] = index == len(tables.frequencies[row]) - 1
            count = int(escaped.sum())
            if count:
                halves = self._decoder.decode(_HALF_WORD, 2 * count).astype(np.uint32)
                flat[escaped] = ((halves[0::2] << 16) | halves[1::2]).view(np.int32)
        except (AssertionError, ValueError) as error:
            raise BitstreamError(f"the coded symbols are damaged ({error})") from None
        return flat.reshape(rows.shape)
