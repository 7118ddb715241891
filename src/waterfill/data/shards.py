"""Tar shards of pictures: read whole and in sequence, never unpacked, never trusted."""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import tarfile
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from waterfill.data.images import IMAGE_SUFFIXES, decode_picture
from waterfill.errors import ImageError
from waterfill.files import unread

__all__ = [
    "FORMAT",
    "INDEX",
    "MAX_SHARD_BYTES",
    "WINDOW",
    "PictureShards",
    "Shard",
    "find_shards",
    "joint_fingerprint",
    "load_json",
    "open_shard",
    "printable",
    "record_of",
]

#: Written last by ``pack``: a folder with records but without it was left unfinished.
INDEX = "index.json"
#: Format of the index and of a shard's record.
FORMAT = "waterfill shards 1"
#: Shards that are read together: their pictures come in one random order.
WINDOW = 4
#: Larger shards are refused: two windows of them are held in memory.
MAX_SHARD_BYTES = 1 << 30

_T = TypeVar("_T")


@dataclass(frozen=True)
class Shard:
    """Where the pictures of one tar file lie.

    Attributes
    ----------
    path
        The file.
    length
        Its size in bytes.
    digest
        Hex, of its content if a record of it exists, else of its members' names and sizes.
    checked
        The digest is the content's SHA-256.
    names
        Members' names, one after the other. Ten million strings would take a gigabyte.
    name_ends, offsets, sizes
        int64 (pictures,), in bytes: where each name ends, where each member begins, how long it is.
    """

    path: Path
    length: int
    digest: str
    checked: bool
    names: bytes
    name_ends: NDArray[np.int64]
    offsets: NDArray[np.int64]
    sizes: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.sizes)

    def name(self, index: int) -> str:
        """The name of a member: a label, which no path is ever made of."""
        begin = int(self.name_ends[index - 1]) if index else 0
        return os.fsdecode(self.names[begin : int(self.name_ends[index])])


def record_of(path: Path) -> Path:
    """Where ``pack`` notes what a shard holds."""
    return path.with_suffix(".json")


def joint_fingerprint(digests: Iterable[str]) -> str:
    """The fingerprint of a sequence of shards, from their digests."""
    return hashlib.sha256("\n".join(["shards", *digests]).encode()).hexdigest()


def load_json(path: Path) -> Any:
    """The content of an index or a record; ``None`` if the file isn't one of this toolkit's.

    Raises
    ------
    ImageError
        If another version of this toolkit wrote it.
    """
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    ours = isinstance(content, dict) and str(content.get("format", "")).startswith(FORMAT[:-1])
    if ours and content["format"] != FORMAT:
        raise ImageError(f"{path}: was written by another version; pack the pictures anew")
    return content if ours else None


def find_shards(folder: Path) -> list[Path]:
    """The shards of a folder in order; none if it isn't a folder of shards.

    Raises
    ------
    ImageError
        If packing wasn't finished, a shard is missing, or pictures lie beside the shards.
    """
    index = load_json(folder / INDEX)
    if index is not None:
        try:
            names = [str(entry["file"]) for entry in index["shards"]]
        except (KeyError, TypeError):
            raise ImageError(f"{folder / INDEX}: is damaged; pack the pictures anew") from None
        for name in names:
            if Path(name).name != name or not (folder / name).is_file():
                raise ImageError(f"{folder}: the shard {printable(name)} is missing")
        return [folder / name for name in names]
    try:
        files = [folder / name for name in sorted(os.listdir(folder))]
    except OSError as error:
        raise ImageError(unread(folder, error)) from None
    shards = [p for p in files if p.suffix.lower() == ".tar" and p.is_file()]
    if any(load_json(record_of(p)) is not None for p in shards):
        raise ImageError(f"{folder}: packing was interrupted; run it again to finish it")
    if shards and any(p.suffix.lower() in IMAGE_SUFFIXES for p in files):
        raise ImageError(f"{folder}: holds both pictures and shards; name those that are meant")
    return shards


def printable(text: str) -> str:
    """``text`` on one line, whatever a stranger put into it."""
    return "".join(c if c.isprintable() else "�" for c in text)


def open_shard(path: Path) -> Shard:
    """Read what a shard holds: from the record beside it, else from the tar's own headers.

    Raises
    ------
    ImageError
        If the file is no tar, is cut, is too large, or doesn't match its record.
    """
    try:
        length = path.stat().st_size
    except OSError as error:
        raise ImageError(unread(path, error)) from None
    if length > MAX_SHARD_BYTES:
        raise ImageError(
            f"{path}: shards may have {MAX_SHARD_BYTES >> 20} MiB at most; pack the pictures anew"
        )
    record = load_json(record_of(path))
    if record is None:
        names, offsets, sizes = _scan(path, length)
        digest = hashlib.sha256()
        for name, size in zip(names, sizes, strict=True):
            digest.update(b"%d %d " % (len(name), size) + name)
        return _shard(path, length, digest.hexdigest(), False, names, offsets, sizes)
    try:
        names = [os.fsencode(name) for name in record["names"]]
        shard = _shard(
            path, length, str(record["sha256"]), True, names, record["offsets"], record["sizes"]
        )
        counts = {len(shard.name_ends), len(shard.offsets), len(shard.sizes)}
        inside = (shard.offsets >= 0) & (shard.sizes >= 0) & (shard.sizes <= length - shard.offsets)
        fits = record["bytes"] == length and len(counts) == 1 and bool(inside.all())
    except (KeyError, TypeError, ValueError, OverflowError):
        fits = False
    if not fits:
        raise ImageError(f"{path}: doesn't match {record_of(path).name}; it was cut or altered")
    return shard


def _shard(
    path: Path,
    length: int,
    digest: str,
    checked: bool,
    names: list[bytes],
    offsets: Sequence[int],
    sizes: Sequence[int],
) -> Shard:
    ends = np.cumsum([len(name) for name in names], dtype=np.int64)
    places, lengths = np.array(offsets, dtype=np.int64), np.array(sizes, dtype=np.int64)
    return Shard(path, length, digest, checked, b"".join(names), ends, places, lengths)


def _scan(path: Path, length: int) -> tuple[list[bytes], list[int], list[int]]:
    """Names, offsets and sizes of the pictures in a tar of unknown origin."""
    names: list[bytes] = []
    offsets: list[int] = []
    sizes: list[int] = []
    try:
        with path.open("rb") as stream, tarfile.open(fileobj=stream, mode="r:") as tar:
            place = -1
            while (member := tar.next()) is not None:
                # A negative size would lead back, and round in circles.
                if member.offset <= place or member.size < 0:
                    raise tarfile.ReadError("a header makes no sense")
                if member.isreg() and member.offset_data + member.size > length:
                    raise tarfile.ReadError("it is cut")
                place = member.offset
                # Links and devices stay outside; so do sparse files, whose bytes lie scattered.
                plain = member.isreg() and not member.issparse()
                if plain and os.path.splitext(member.name)[1].lower() in IMAGE_SUFFIXES:
                    names.append(member.name.encode("utf-8", "surrogateescape"))
                    offsets.append(member.offset_data)
                    sizes.append(member.size)
            # The reader takes anything that isn't a header for the end, even nothing at all.
            stream.seek(tar.offset)
            if stream.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
                raise tarfile.ReadError("it is cut or damaged")
    except MemoryError:
        raise
    except Exception as error:  # hostile headers make the reader raise nearly anything
        detail = printable(str(error)) or type(error).__name__
        raise ImageError(f"{path}: is not a whole tar file ({detail})") from None
    return names, offsets, sizes


class PictureShards:
    """The pictures in a sequence of tar shards.

    A picture is decoded from the bytes of its whole shard, and the shards read last stay in
    memory: disks and network file systems see long sequential reads alone. Any number of threads
    may read.

    Parameters
    ----------
    paths
        Tar files: ``pack``'s, or any whose members are pictures. Other members are passed over.
    held
        How many shards stay in memory. Two windows: the current one, and the next being read.

    Raises
    ------
    ImageError
        If a shard can't be opened, or there is no picture in any.
    """

    def __init__(self, paths: Sequence[Path], *, held: int = 2 * WINDOW) -> None:
        self.shards = [open_shard(path) for path in paths]
        self.groups: Sequence[int] = [len(shard) for shard in self.shards]
        self._ends = np.cumsum(self.groups, dtype=np.int64)
        if not len(self):
            raise ImageError(f"{paths[0] if paths else 'shards'}: no pictures in the shards")
        self._contents: _Shared[mmap.mmap] = _Shared(held)

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    @property
    def loads(self) -> int:
        """Shards read so far, counting every time that one is read."""
        return self._contents.misses

    def _place(self, index: int) -> tuple[int, int]:
        if not 0 <= index < len(self):
            raise IndexError(index)
        group = int(np.searchsorted(self._ends, index, side="right"))
        return group, index - (int(self._ends[group - 1]) if group else 0)

    def name(self, index: int) -> str:
        """The member's name."""
        group, place = self._place(index)
        return self.shards[group].name(place)

    def pixels(self, index: int) -> NDArray[np.uint8]:
        """Decode a picture, uint8 (H, W, 3).

        Raises
        ------
        ImageError
            If the picture is broken, or its shard no longer what it was.
        """
        group, place = self._place(index)
        shard = self.shards[group]
        data = self._contents.get(group, lambda: self._load(shard))
        begin = int(shard.offsets[place])
        name = f"{shard.path}: {printable(shard.name(place))}"
        return decode_picture(data[begin : begin + int(shard.sizes[place])], name).pixels

    def prepare(self, group: int) -> None:
        """Read a shard ahead of its first picture."""
        shard = self.shards[group]
        try:
            self._contents.get(group, lambda: self._load(shard))
        except ImageError:  # the pictures will say so, each of them
            return

    def fingerprint(self) -> str:
        """Hex, of names, sizes and order; of the content too where ``pack`` took note of it."""
        return joint_fingerprint(shard.digest for shard in self.shards)

    def _load(self, shard: Shard) -> mmap.mmap:
        # Memory of its own, which goes back to the system at once: from the heap, shards that come
        # and go would leave holes, and the process would grow.
        data = mmap.mmap(-1, shard.length)
        try:
            with shard.path.open("rb") as stream:
                same = stream.readinto(data) == shard.length and not stream.read(1)
        except OSError as error:
            raise ImageError(unread(shard.path, error)) from None
        if same and shard.checked:  # a tenth of a second; WebP itself notices no flipped bit
            same = hashlib.sha256(data).hexdigest() == shard.digest
        if not same:
            raise ImageError(f"{shard.path}: was cut or altered")
        return data


class _Shared(Generic[_T]):
    """The last few results of slow work, each worked out once however many threads ask for it."""

    def __init__(self, limit: int) -> None:
        self.misses = 0
        self._limit = limit
        self._lock = threading.Lock()
        self._results: OrderedDict[int, Future[_T]] = OrderedDict()

    def get(self, key: int, work: Callable[[], _T]) -> _T:
        with self._lock:
            result = self._results.get(key)
            fresh = result is None
            if result is None:
                result = self._results[key] = Future()
                self.misses += 1
            self._results.move_to_end(key)
            while len(self._results) > max(1, self._limit):
                self._results.popitem(last=False)
        if fresh:
            try:
                result.set_result(work())
            except BaseException as error:
                result.set_exception(error)
        return result.result()
