"""Writing files whole or not at all, and JSON as text."""

from __future__ import annotations

import errno
import json
import math
import os
import secrets
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from waterfill.errors import WaterfillError

__all__ = ["as_json", "check_writable", "write_all", "write_whole"]


def write_whole(path: str | os.PathLike[str], data: bytes | str) -> None:
    """Write ``data`` to ``path`` so that the file is either complete or untouched.

    The bytes go to a temporary file beside it, reach the disk, and then take its name. A symbolic
    link stays one, and its target is written. A device or a pipe is written to directly.

    Raises
    ------
    WaterfillError
        If the folder is missing or not writable, or the disk is full; the old file survives.
    """
    write_all({Path(path): data})


def write_all(files: Mapping[Path, bytes | str]) -> None:
    """Write several files, as :func:`write_whole` does: none takes its name before all are on disk.

    Raises
    ------
    WaterfillError
        As :func:`write_whole`.
    """
    staged: list[tuple[Path, Path, Path]] = []
    devices: list[tuple[Path, bytes]] = []
    try:
        for path, data in files.items():
            # A file name that is not UTF-8 reaches JSON as a lone surrogate; escaped, it is valid.
            content = data.encode(errors="backslashreplace") if isinstance(data, str) else data
            with _named(path):
                if _is_device(path):
                    devices.append((path, content))
                else:
                    _stage(path, content, staged)
        for path, content in devices:
            with _named(path), open(path, "wb", buffering=0) as stream:
                rest = memoryview(content)
                while rest:
                    rest = rest[stream.write(rest) :]
        while staged:
            path, target, temporary = staged[0]
            with _named(path):
                os.replace(temporary, target)
            staged.pop(0)
    finally:
        for _, _, temporary in staged:
            temporary.unlink(missing_ok=True)


def check_writable(*paths: Path) -> None:
    """Fail before the work, not after it, if results can't be written.

    Raises
    ------
    WaterfillError
        As :func:`write_whole`, but for a disk that will be full.
    """
    for path in paths:
        staged: list[tuple[Path, Path, Path]] = []
        with _named(path):
            if not _is_device(path):
                try:
                    _stage(path, b"", staged)
                finally:
                    for _, _, temporary in staged:
                        temporary.unlink(missing_ok=True)


def _stage(path: Path, content: bytes, staged: list[tuple[Path, Path, Path]]) -> None:
    """Put ``content`` beside ``path`` and append (path, its target, the temporary file)."""
    target = Path(os.path.realpath(path))
    mode = None
    if target.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    if target.exists():
        mode = stat.S_IMODE(target.stat().st_mode)
        if not os.access(target, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    # Not built from the file's name, which may be as long as names can be.
    temporary = target.with_name(f".waterfill-{secrets.token_hex(8)}")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
    descriptor = os.open(temporary, flags, 0o666)
    staged.append((path, target, temporary))
    with os.fdopen(descriptor, "wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
    if mode is not None:
        os.chmod(temporary, mode)


def _is_device(path: Path) -> bool:
    """A device, pipe or socket: a rename would put a file in its place."""
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


@contextmanager
def _named(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise WaterfillError(f"{path}: can't be written ({error.strerror or error})") from None


def as_json(data: dict[str, Any]) -> str:
    """JSON for people and programs; what is not a finite number is null there."""
    return json.dumps(_finite(data), indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
