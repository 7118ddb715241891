"""Writing files whole or not at all, holding them against others, and JSON as text."""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import re
import secrets
import stat
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from waterfill.errors import WaterfillError

__all__ = [
    "as_json",
    "canonical_json",
    "check_writable",
    "descriptor_of",
    "held",
    "json_digest",
    "make_folder",
    "remove_remains",
    "unread",
    "without_nan",
    "write_all",
    "write_whole",
]

#: Names of temporary files. Not built from the file's own, which may be as long as names can be.
_TEMPORARY = re.compile(r"\.waterfill-[0-9a-f]{16}")
#: Seconds after which nobody writes to one any more.
_ABANDONED = 3600.0
#: Folders whose names are numbers of open files: of a process, and of this one.
_DESCRIPTORS = re.compile(r"/proc/(\d+)(?:/task/\d+)?/fd|/dev/fd")
#: Symbolic links that a system follows one after another.
_LINKS = 40


def write_whole(path: str | os.PathLike[str], data: bytes | str) -> None:
    """Write ``data`` to ``path`` so that the file is either complete or untouched.

    The bytes go to a temporary file beside it, reach the disk, and then take its name. A symbolic
    link stays one, and its target is written. A device, a pipe, or what a process has open
    (``/dev/stdout``) is appended to directly, even if it is a file.

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
    streams: list[tuple[Path, int | Path, bytes]] = []
    try:
        for path, data in files.items():
            # A file name that is not UTF-8 reaches JSON as a lone surrogate; escaped, it is valid.
            content = data.encode(errors="backslashreplace") if isinstance(data, str) else data
            with _named(path):
                stream = _stream_of(path)
                if stream is None:
                    _stage(path, content, staged)
                else:
                    streams.append((path, stream, content))
        for path, stream, content in streams:
            keep = isinstance(stream, int)
            with _named(path), open(stream, "ab", buffering=0, closefd=not keep) as opened:
                rest = memoryview(content)
                while rest:
                    rest = rest[opened.write(rest) :]
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
            stream = _stream_of(path)
            if isinstance(stream, int):
                os.write(stream, b"")  # fails if it is closed, or open for reading alone
            elif stream is None:
                try:
                    _stage(path, b"", staged)
                finally:
                    for _, _, temporary in staged:
                        temporary.unlink(missing_ok=True)


def make_folder(path: Path) -> None:
    """Make a folder, and those above it, where there is none.

    Raises
    ------
    WaterfillError
        If it can't be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise WaterfillError(f"{path}: can't be created ({error.strerror or error})") from None


def remove_remains(folder: Path) -> None:
    """Remove what writers that were killed have left in a folder, where that can be done."""
    with suppress(OSError):
        for path in folder.iterdir():
            if _TEMPORARY.fullmatch(path.name):
                with suppress(OSError):
                    if time.time() - path.stat().st_mtime > _ABANDONED:
                        path.unlink()


def unread(path: str | os.PathLike[str], error: OSError) -> str:
    """What to say of a file that can't be read: the same words wherever it is missing."""
    if isinstance(error, FileNotFoundError):
        return f"{os.fspath(path)}: no such file or folder"
    return f"{os.fspath(path)}: can't be read ({error.strerror or error})"


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


def descriptor_of(path: Path) -> int | Path | None:
    """What a path like ``/dev/stdout`` leads to, over links.

    Returns
    -------
    int, Path or None
        A descriptor of this process, the path of what another process has open, or None for all
        other paths.
    """
    here = path
    for _ in range(_LINKS):
        folder = os.path.realpath(here.parent)
        opened = _DESCRIPTORS.fullmatch(folder)
        if opened and here.name.isdecimal():
            return int(here.name) if opened[1] in (None, str(os.getpid())) else here
        here = Path(folder, here.name)
        if not here.is_symlink():
            break
        here = here.parent / os.readlink(here)
    return None


def _stream_of(path: Path) -> int | Path | None:
    """What must be written to as it is, since a rename would put a file in its place.

    A descriptor of this process, or the path of a device, pipe or socket, or of what another
    process has open; None for a file.
    """
    opened = descriptor_of(path)
    if opened is not None:
        return opened
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return None
    return None if stat.S_ISREG(mode) or stat.S_ISDIR(mode) else path


@contextmanager
def _named(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise WaterfillError(f"{path}: can't be written ({error.strerror or error})") from None


@contextmanager
def held(path: Path) -> Iterator[bool]:
    """Hold the lock of a file, which is made when it is missing; False if another has it.

    However the process ends, the system lets go of it; the file stays.

    Raises
    ------
    WaterfillError
        If the file can't be opened.
    """
    with _named(path):
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        yield _locked(descriptor)
    finally:
        os.close(descriptor)


def _locked(descriptor: int) -> bool:
    if sys.platform == "win32":
        return True
    import fcntl

    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):  # the latter from file servers
        return False
    except OSError as error:
        # A file system without locks is no reason not to work on it.
        if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
            raise
    return True


def as_json(data: dict[str, Any]) -> str:
    """JSON for people and programs; what is not a finite number is null there."""
    return json.dumps(without_nan(data), indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def canonical_json(value: Any) -> str:
    """JSON in a row, the same of equal values; NaN and infinities as Python spells them."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=True)


def json_digest(value: Any) -> str:
    """SHA-256 of :func:`canonical_json`, in hexadecimal."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def without_nan(value: Any) -> Any:
    """Data as JSON can hold it: tuples as lists, None for what is not a finite number."""
    if isinstance(value, dict):
        return {key: without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
