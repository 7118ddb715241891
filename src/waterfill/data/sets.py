"""Sets of pictures, wherever they lie: files, tar shards, IDX files, or parts of them."""

from __future__ import annotations

import glob
import hashlib
import os
import zlib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from waterfill.data.idx import IdxPictures, is_idx
from waterfill.data.images import find_images, load_picture
from waterfill.data.shards import PictureShards, find_shards
from waterfill.errors import ImageError

__all__ = [
    "PictureFiles",
    "PictureSet",
    "Subset",
    "in_both",
    "none_readable",
    "open_pictures",
    "split_validation",
]

_ONE_IN = 48  # one picture in so many is held back for validation


class PictureSet(Protocol):
    """Pictures by number, in an order that never changes. Any number of threads may read."""

    @property
    def groups(self) -> Sequence[int]:
        """Sizes of consecutive runs of pictures that are cheap to read together."""

    def __len__(self) -> int: ...

    def name(self, index: int) -> str:
        """The picture's name, which doesn't tell where the data lie."""

    def pixels(self, index: int) -> NDArray[np.uint8]:
        """Decode a picture, uint8 (H, W, 3).

        Raises
        ------
        ImageError
            If it can't be read.
        """

    def prepare(self, group: int) -> None:
        """Read a group ahead, where that helps. Never raises for what can't be read."""

    def fingerprint(self) -> str:
        """Hex that changes with names, sizes or order of the data, but not with their place."""


class PictureFiles:
    """Pictures in files of their own.

    Parameters
    ----------
    paths
        The files.
    names
        Their names in tables and messages, by default those of the files without their folders.

    Raises
    ------
    ValueError
        If there are not as many names as files.
    """

    def __init__(self, paths: Sequence[Path], names: Sequence[str] | None = None) -> None:
        self.paths = list(paths)
        self._names = [path.name for path in paths] if names is None else list(names)
        if len(self._names) != len(self.paths):
            raise ValueError(f"{len(self.paths)} files and {len(self._names)} names")

    @property
    def groups(self) -> Sequence[int]:
        """One group: any file is as cheap to read as any other."""
        return [len(self.paths)]

    def __len__(self) -> int:
        return len(self.paths)

    def name(self, index: int) -> str:
        """The name given; by default the file's, without its folders."""
        return self._names[index]

    def pixels(self, index: int) -> NDArray[np.uint8]:
        """Decode a picture, uint8 (H, W, 3).

        Raises
        ------
        ImageError
            If it can't be read.
        """
        return load_picture(self.paths[index]).pixels

    def prepare(self, group: int) -> None:
        """Do nothing: the system reads files ahead."""

    def fingerprint(self) -> str:
        """Hex, of names and sizes in order; a file that is missing has none."""
        digest = hashlib.sha256(b"files")
        for path, name in zip(self.paths, self._names, strict=True):
            try:
                size = path.stat().st_size
            except OSError:
                size = -1
            label = os.fsencode(name)
            digest.update(b"%d %d " % (len(label), size) + label)
        return digest.hexdigest()


class Subset:
    """Some pictures of a set, in its order.

    Parameters
    ----------
    whole
        The set. Its groups stay what they are, without the pictures left out.
    indices
        int64 (pictures,), which of its pictures.
    """

    def __init__(self, whole: PictureSet, indices: NDArray[np.int64]) -> None:
        self._whole = whole
        self._indices = np.sort(indices)
        ends = np.searchsorted(self._indices, np.cumsum(whole.groups, dtype=np.int64))
        self.groups: Sequence[int] = np.diff(ends, prepend=0).tolist()

    def __len__(self) -> int:
        return len(self._indices)

    def name(self, index: int) -> str:
        """The picture's name in the whole set."""
        return self._whole.name(int(self._indices[index]))

    def pixels(self, index: int) -> NDArray[np.uint8]:
        """Decode a picture, uint8 (H, W, 3).

        Raises
        ------
        ImageError
            If it can't be read.
        """
        return self._whole.pixels(int(self._indices[index]))

    def prepare(self, group: int) -> None:
        """Read a group of the whole set ahead."""
        self._whole.prepare(group)

    def fingerprint(self) -> str:
        """Hex, of the whole set's and the choice."""
        chosen = self._indices.astype("<i8").tobytes()
        return hashlib.sha256(self._whole.fingerprint().encode() + chosen).hexdigest()


class _Joined:
    """Sets, one after the other."""

    def __init__(self, sets: Sequence[PictureSet]) -> None:
        self._sets = sets
        self.groups: Sequence[int] = [size for part in sets for size in part.groups]

    def _of(self, index: int) -> tuple[PictureSet, int]:
        for part in self._sets:
            if index < len(part):
                return part, index
            index -= len(part)
        raise IndexError("no such picture")

    def __len__(self) -> int:
        return sum(len(part) for part in self._sets)

    def name(self, index: int) -> str:
        part, place = self._of(index)
        return part.name(place)

    def pixels(self, index: int) -> NDArray[np.uint8]:
        part, place = self._of(index)
        return part.pixels(place)

    def prepare(self, group: int) -> None:
        for part in self._sets:
            if group < len(part.groups):
                part.prepare(group)
                return
            group -= len(part.groups)

    def fingerprint(self) -> str:
        each = " ".join(part.fingerprint() for part in self._sets)
        return hashlib.sha256(each.encode()).hexdigest()


def _root(item: str) -> Path:
    """The folder that an argument names, or the part of a glob before anything is left open."""
    path = Path(item)
    if os.path.isdir(path):
        return path
    if os.path.exists(path):
        return path.parent
    fixed = []
    for part in path.parent.parts:
        if glob.has_magic(part):
            break
        fixed.append(part)
    return Path(*fixed)


def _named(item: str) -> list[Path]:
    """Files of pictures, shards and IDX files that an argument stands for."""
    if os.path.isdir(item):
        shards = find_shards(Path(item))
        if shards:
            return shards
    if os.path.exists(item):
        return find_images([item])
    matched = [Path(path) for path in sorted(glob.glob(item, recursive=True))]
    stores = [path for path in matched if path.is_file() and (_is_shard(path) or is_idx(path))]
    try:
        return find_images([item]) + stores
    except ImageError:
        if not stores:
            raise
        return stores


#: What is easily named in the place of pictures, by its suffix, and where it belongs.
_ELSEWHERE = {
    ".toml": "holds settings and no pictures; waterfill train takes them by --config",
    ".safetensors": "holds weights and no pictures; waterfill train takes them by --start",
}


def _is_shard(path: Path) -> bool:
    return path.suffix.lower() == ".tar"


def open_pictures(paths: Iterable[str | os.PathLike[str]]) -> PictureSet:
    """The pictures behind files, folders and globs, in tar shards and IDX files too.

    A folder with shards in it (``*.tar``) is a set of shards. Pictures in files come first, and
    none comes twice, whatever ways lead to it.

    Raises
    ------
    ImageError
        If nothing is found where a path points, or a file of settings or weights; if a shard can't
        be opened.
    """
    files: dict[Path, str] = {}
    shards: list[Path] = []
    stacks: list[Path] = []
    met: set[str] = set()
    for item in [os.fspath(path) for path in paths]:
        root = _root(item)
        for path in _named(item):
            place = os.path.realpath(path)
            if place in met:
                continue
            met.add(place)
            if _is_shard(path):
                shards.append(path)
            elif is_idx(path):
                stacks.append(path)
            elif (hint := _ELSEWHERE.get(path.suffix.lower())) is not None:
                raise ImageError(f"{path}: {hint}")
            else:
                files[path] = path.relative_to(root).as_posix()
    sets: list[PictureSet] = []
    if files:
        sets.append(PictureFiles(list(files), list(files.values())))
    if shards:
        sets.append(PictureShards(shards))
    sets += [IdxPictures(path) for path in stacks]
    if not sets:
        raise ImageError("no pictures were named")
    return sets[0] if len(sets) == 1 else _Joined(sets)


def in_both(
    ones: Iterable[str | os.PathLike[str]], others: Iterable[str | os.PathLike[str]]
) -> list[Path]:
    """Files behind the first paths that hold, byte for byte, what one behind the others holds.

    What is packed in shards is not looked into, and a picture stored twice in different ways isn't
    recognised.

    Raises
    ------
    ImageError
        If nothing is found where a path points.
    """
    candidates = _files_with_sizes(ones)
    sizes = {size for _, size in candidates}
    known: defaultdict[int, set[bytes]] = defaultdict(set)
    for path, size in _files_with_sizes(others):
        if size in sizes:  # few are read: photographs seldom have equally many bytes
            known[size].update(_content(path))
    return [path for path, size in candidates if size in known and _content(path) & known[size]]


def _files_with_sizes(paths: Iterable[str | os.PathLike[str]]) -> list[tuple[Path, int]]:
    found = dict.fromkeys(path for item in paths for path in _named(os.fspath(item)))
    return [(path, path.stat().st_size) for path in found if path.is_file()]


def _content(path: Path) -> set[bytes]:
    """A digest of it; nothing where it can't be read, which is for others to say."""
    try:
        with path.open("rb") as file:
            return {hashlib.file_digest(file, "sha256").digest()}
    except OSError:
        return set()


def none_readable(count: int, reason: str) -> str:
    """What to say where no picture can be read; ``reason`` is that of one, with its name."""
    return reason if count == 1 else f"none of the {count} pictures can be read; one: {reason}"


def split_validation(pictures: PictureSet) -> tuple[PictureSet, PictureSet]:
    """Training and validation pictures, told apart by a hash of the name without its folders.

    No picture is on both sides, in windows that ``pack`` made of it either, unless it is the only
    one. A picture that the hash alone holds back stays on its side when others are added.
    """
    count = len(pictures)

    def hashed(index: int) -> int:
        return zlib.crc32(os.fsencode(os.path.basename(pictures.name(index))))

    hashes = np.fromiter(map(hashed, range(count)), dtype=np.uint32, count=count)
    held_back = hashes % _ONE_IN == 0
    if count and (held_back.all() or not held_back.any()):
        held_back = hashes == hashes.min()
    if count and held_back.all():  # they have one name, in many folders
        held_back[:] = False
        held_back[min(range(count), key=pictures.name)] = True
    chosen = np.flatnonzero(held_back)
    others = np.flatnonzero(~held_back)
    return Subset(pictures, others if len(others) else chosen), Subset(pictures, chosen)
