"""Measurements kept on disk: what has been measured once is not measured again."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from waterfill.data.images import Picture
from waterfill.files import (
    canonical_json,
    check_writable,
    json_digest,
    make_folder,
    write_whole,
)

__all__ = ["Cache", "default_folder", "fingerprint"]

#: Changes whenever measurements mean something else.
_VERSION = 1


def default_folder() -> Path:
    """``waterfill`` in the user's cache: ``$XDG_CACHE_HOME``, or ``~/.cache``."""
    named = os.environ.get("XDG_CACHE_HOME", "")
    base = Path(named) if os.path.isabs(named) else Path.home() / ".cache"
    return base / "waterfill"


def fingerprint(picture: Picture) -> str:
    """SHA-256 of size, kind and pixels of a picture, in hexadecimal."""
    about = f"{picture.height}x{picture.width}{' grey' if picture.grey else ''}\n"
    return hashlib.sha256(about.encode() + picture.pixels.tobytes()).hexdigest()


class Cache:
    """A folder of small JSON files, one for each measurement, each written whole.

    A file names the whole key that it answers, and carries a checksum: one that is cut, altered or
    of something else is as good as none, and is written anew.

    Parameters
    ----------
    folder
        Made when it is missing; None for :func:`default_folder`.

    Raises
    ------
    WaterfillError
        If the folder can't be made or written.
    """

    def __init__(self, folder: str | os.PathLike[str] | None = None) -> None:
        self.folder = default_folder() if folder is None else Path(folder)
        make_folder(self.folder)
        check_writable(self.folder / "probe.json")

    def _path(self, key: Mapping[str, Any]) -> Path:
        name = json_digest([_VERSION, key])
        return self.folder / name[:2] / f"{name}.json"

    def get(self, key: Mapping[str, Any]) -> dict[str, Any] | None:
        """What was measured under a key, a mapping that JSON can hold; None if nothing was."""
        try:
            found = json.loads(self._path(key).read_bytes())
            row = found["row"]
            same_key = found["key"] == json.loads(canonical_json(key))
            sound = same_key and found["sha256"] == json_digest(row)
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return None
        return row if sound and isinstance(row, dict) else None

    def put(self, key: Mapping[str, Any], row: Mapping[str, Any]) -> None:
        """Keep a measurement.

        Raises
        ------
        WaterfillError
            If it can't be written.
        """
        path = self._path(key)
        make_folder(path.parent)
        kept = {"key": key, "row": row, "sha256": json_digest(row)}
        write_whole(path, canonical_json(kept) + "\n")
