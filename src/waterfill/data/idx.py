"""Pictures in IDX files, the format of MNIST and its kin: many small grey ones in one array."""

from __future__ import annotations

import gzip
import hashlib
import os
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from waterfill.data.images import too_large
from waterfill.errors import ImageError

__all__ = ["IdxPictures", "is_idx", "read_idx"]

#: Two zero bytes, the type (8, unsigned byte), and the number of axes.
_MAGIC = b"\0\0\x08\x03"
_MOST_BYTES = 1 << 31
#: Deflate makes no more of a byte: its longest match, 258 bytes, takes two bits at least.
_MOST_RATIO = 1032


def is_idx(path: Path) -> bool:
    """Whether a file's name is that of pictures in IDX, packed by gzip or not."""
    return "idx3-ubyte" in path.name.lower()


def read_idx(path: str | os.PathLike[str]) -> NDArray[np.uint8]:
    """The pictures of an IDX file, uint8 (pictures, H, W).

    Raises
    ------
    ImageError
        If the file can't be read, or doesn't hold just the pictures that its header announces, or
        these are larger than other pictures may be.
    """
    label = os.fspath(path)
    try:
        with open(path, "rb") as raw:
            packed = raw.read(2) == b"\x1f\x8b"
        with gzip.open(path) if packed else open(path, "rb") as file:
            header = file.read(16)
            if len(header) < 16 or header[:4] != _MAGIC:
                raise ImageError(f"{label}: not an IDX file of pictures")
            count, height, width = (int(n) for n in np.frombuffer(header[4:], ">u4"))
            size = count * height * width
            if not 0 < size <= _MOST_BYTES:
                raise ImageError(f"{label}: announces {count} pictures of {height}×{width}")
            reason = too_large(width, height)
            if reason:
                raise ImageError(f"{label}: each picture {reason}")
            # To read is to take the memory first, whether or not the file holds so much.
            if size > os.path.getsize(path) * (_MOST_RATIO if packed else 1):
                raise ImageError(f"{label}: is cut short")
            data = file.read(size + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise ImageError(f"{label}: can't be read ({error})") from None
    if len(data) != size:
        problem = "is cut short" if len(data) < size else "goes on after its last picture"
        raise ImageError(f"{label}: {problem}")
    return np.frombuffer(data, np.uint8).reshape(count, height, width)


class IdxPictures:
    """The pictures of an IDX file, all in memory.

    Parameters
    ----------
    path
        The file.

    Raises
    ------
    ImageError
        As :func:`read_idx`.
    """

    def __init__(self, path: Path) -> None:
        self._name = path.name
        self.stack = read_idx(path)

    @property
    def groups(self) -> Sequence[int]:
        """One group: all is in memory."""
        return [len(self.stack)]

    def __len__(self) -> int:
        return len(self.stack)

    def name(self, index: int) -> str:
        """The file's name and the picture's number."""
        return f"{self._name}[{index}]"

    def pixels(self, index: int) -> NDArray[np.uint8]:
        """A picture with three equal planes, uint8 (H, W, 3)."""
        return np.repeat(self.stack[index][:, :, None], 3, axis=2)

    def prepare(self, group: int) -> None:
        """Do nothing."""

    def fingerprint(self) -> str:
        """Hex, of the pixels."""
        shape = np.array(self.stack.shape, "<u8").tobytes()
        return hashlib.sha256(b"idx" + shape + self.stack.tobytes()).hexdigest()
