"""Packing pictures into tar shards: reduced, without loss, the same bytes every time."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import tarfile
import zlib
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from waterfill.data.sets import none_readable, open_pictures
from waterfill.data.shards import FORMAT, INDEX, joint_fingerprint, load_json, record_of
from waterfill.errors import ImageError, WaterfillError
from waterfill.files import make_folder, unread, write_all, write_whole
from waterfill.seeds import check_seed

__all__ = ["PackReport", "is_of_shards", "pack"]

#: A shard is built in memory, and readers hold several.
LARGEST_SHARD = 256 << 20
_WEBP_SIDE = 16_383  # WebP's longest side
_END = 2 * tarfile.BLOCKSIZE


@dataclass(frozen=True)
class PackReport:
    """What was packed.

    Attributes
    ----------
    sources
        Pictures found.
    skipped
        Names of those that couldn't be read.
    smaller
        Pictures with a side below a crop's once reduced; that side is stored whole.
    members
        Pictures stored.
    shards, stored_bytes
        Files written, and their size in all.
    resumed
        How many of the files an earlier, interrupted run had written.
    fingerprint
        Fingerprint of the shards, as ``open_pictures`` gives it.
    """

    sources: int
    skipped: tuple[str, ...]
    smaller: int
    members: int
    shards: int
    stored_bytes: int
    resumed: int
    fingerprint: str


@dataclass(frozen=True)
class _Settings:
    """What decides the bytes of the shards beside the pictures, as :func:`pack` takes it."""

    shard_bytes: int
    crop: int | None
    crops: int
    max_side: int | None
    reduction: float
    seed: int

    def __post_init__(self) -> None:
        if not 1 <= self.shard_bytes <= LARGEST_SHARD:
            raise ValueError(f"a shard may have 1 to {LARGEST_SHARD} bytes, not {self.shard_bytes}")
        if not 0 < self.reduction <= 1:
            raise ValueError(f"the reduction must lie in (0, 1], not {self.reduction}")
        for name in ("crop", "crops", "max_side"):
            _check_positive(name, getattr(self, name))
        if self.crops > 1 and self.crop is None:
            raise ValueError("several crops of a picture need the side of a crop")


def _check_positive(name: str, value: int | None) -> None:
    if value is not None and value < 1:
        raise ValueError(f"{name} must be positive, not {value}")


class _Members(NamedTuple):
    """Names and bytes that a picture adds to a shard; whether it is smaller than asked."""

    encoded: list[tuple[str, bytes]]
    smaller: bool


@dataclass
class _Building:
    """A shard in the making."""

    tar: bytearray = field(default_factory=bytearray)
    names: list[str] = field(default_factory=list)
    offsets: list[int] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    smaller: int = 0

    def add(self, header: bytes, name: str, data: bytes) -> None:
        self.names.append(name)
        self.offsets.append(len(self.tar) + len(header))
        self.sizes.append(len(data))
        self.tar += header
        self.tar += data
        self.tar += bytes(-len(data) % tarfile.BLOCKSIZE)

    def finished(self) -> bytes:
        """The shard, with its end."""
        self.tar += bytes(_END)
        self.tar += bytes(-len(self.tar) % tarfile.RECORDSIZE)
        return bytes(self.tar)


class _Shards:
    """Shards written one after the other into a folder, each with its record.

    Parameters
    ----------
    folder
        Where they go.
    shard_bytes
        Largest size of one.
    told
        Pictures' fingerprint and settings, which every record repeats.
    """

    def __init__(self, folder: Path, shard_bytes: int, told: dict[str, Any]) -> None:
        self._folder, self._largest, self._told = folder, shard_bytes, told
        self.records = _finished(folder, told)
        self._building = _Building()

    @property
    def position(self) -> int:
        """Number of the picture that comes next."""
        return int(self.records[-1]["next"]) if self.records else 0

    def skip(self, name: str) -> None:
        """Note that a picture can't be read."""
        self._building.skipped.append(name)

    def add(self, index: int, members: _Members) -> None:
        """Add what a picture gives, to a new shard if this one has no room."""
        # A picture's windows never part: the next shard of a resumed run starts at a picture.
        entries = [(_header(name, len(data)), name, data) for name, data in members.encoded]
        size = sum(len(h) + len(d) + -len(d) % tarfile.BLOCKSIZE for h, _, d in entries)
        total = len(self._building.tar) + size + _END
        if self._building.names and total + -total % tarfile.RECORDSIZE > self._largest:
            self._flush(index)
        for entry in entries:
            self._building.add(*entry)
        self._building.smaller += members.smaller

    def close(self, position: int) -> None:
        """Write what is left, with the number of the picture that would come next."""
        if self._building.names:
            self._flush(position)
        elif self._building.skipped and self.records:  # behind the last one of an interrupted run
            self.records[-1]["skipped"] += self._building.skipped

    def _flush(self, position: int) -> None:
        data = self._building.finished()
        record = {
            "format": FORMAT,
            "bytes": len(data),
            "sha256": hashlib.sha256(data).hexdigest(),
            "names": self._building.names,
            "offsets": self._building.offsets,
            "sizes": self._building.sizes,
            "skipped": self._building.skipped,
            "smaller": self._building.smaller,
            "next": position,
            "settings": self._told,
        }
        shard = _shard_path(self._folder, len(self.records))
        # The record takes its name last: a shard with one is complete.
        write_all({shard: data, record_of(shard): json.dumps(record) + "\n"})
        self.records.append(_summary(record))
        self._building = _Building()


def pack(
    paths: list[str],
    out: str | os.PathLike[str],
    *,
    shard_bytes: int = 64 << 20,
    crop: int | None = None,
    crops: int = 1,
    max_side: int | None = None,
    reduction: float = 0.5,
    seed: int = 0,
    workers: int = 2,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> PackReport:
    """Write pictures to tar shards, for training on sets too large for a folder.

    Each picture is reduced, so that the traces of its JPEG coding vanish, and stored without loss:
    coding it as JPEG again would leave new ones. The same pictures and settings give the same
    bytes. An interrupted run is taken up by the same call; until it is finished, the shards can't
    be opened as a set.

    Parameters
    ----------
    paths
        Picture files, folders, globs, or shards.
    out
        Folder of the shards and ``index.json``, which is written last.
    shard_bytes
        Largest size of a shard in bytes, up to 256 MiB. A picture that alone is larger gets a
        shard of its own.
    crop
        Store random windows of this side in pixels (or as much as the picture has), drawn from
        ``seed`` and the picture's name, instead of whole pictures.
    crops
        Windows of each picture.
    max_side
        Reduce pictures further, until the longer side has this many pixels.
    reduction
        Factor for the sides of every picture, at most; 1 stores it as it is.
    seed
        Seed of the windows.
    workers
        Threads that decode and encode.
    progress
        Called with the number of pictures done and in all.

    Raises
    ------
    ImageError
        If there are no pictures, or none can be read.
    WaterfillError
        If ``out`` can't be written to, or holds shards of another kind; for an invalid seed.
    ValueError
        For a setting that makes no sense.
    """
    settings = _Settings(shard_bytes, crop, crops, max_side, reduction, check_seed(seed))
    _check_positive("workers", workers)
    folder = Path(out)
    if folder.resolve() in {Path(path).resolve() for path in paths}:
        raise WaterfillError(f"{folder}: shards need a folder of their own")
    pictures = open_pictures(paths)
    told = {"source": pictures.fingerprint(), **asdict(settings)}
    shards = _Shards(folder, shard_bytes, told)
    resumed = len(shards.records)

    def members(index: int) -> _Members:
        return _members(_harmless(pictures.name(index)), pictures.pixels(index), settings)

    reason = ""
    for index, result in _in_order(members, range(shards.position, len(pictures)), workers):
        if isinstance(result, ImageError):
            reason = reason or str(result)
            shards.skip(pictures.name(index))
        else:
            shards.add(index, result)
        progress(index + 1, len(pictures))
    shards.close(len(pictures))
    if not shards.records:
        raise ImageError(none_readable(len(pictures), reason))
    return _finish(folder, told, shards.records, len(pictures), resumed)


def _members(name: str, pixels: NDArray[np.uint8], settings: _Settings) -> _Members:
    """What a picture gives: itself, reduced, or windows of that."""
    pixels = _reduced(pixels, settings.reduction, settings.max_side)
    if settings.crop is None:
        return _Members([_encoded(name, pixels)], smaller=False)
    rng = np.random.default_rng([settings.seed, zlib.crc32(os.fsencode(name))])
    windows = [_window(rng, pixels, settings.crop) for _ in range(settings.crops)]
    # In folders, the names themselves stay alike: no picture is split between training and
    # validation.
    several = settings.crops > 1
    return _Members(
        [_encoded(f"{k}/{name}" if several else name, w) for k, w in enumerate(windows)],
        smaller=min(pixels.shape[:2]) < settings.crop,
    )


def is_of_shards(path: Path, folder: Path) -> bool:
    """Whether a path is that of an index, a shard or its record in a folder of shards."""
    own = path.name == INDEX or re.fullmatch(r"shard-\d+\.(tar|json)", path.name)
    return bool(own) and path.parent.resolve() == folder.resolve()


def _shard_path(folder: Path, number: int) -> Path:
    return folder / f"shard-{number:05d}.tar"


def _summary(record: dict[str, Any]) -> dict[str, Any]:
    """A record without the lists that grow with the number of pictures."""
    kept = {key: record[key] for key in ("bytes", "sha256", "skipped", "next")}
    lists = {"skipped": list(kept["skipped"]), "count": len(record["names"])}
    return {**kept, **lists, "smaller": int(record.get("smaller", 0))}


def _finished(folder: Path, settings: dict[str, Any]) -> list[dict[str, Any]]:
    """Summaries of the shards that an interrupted run with these settings has left."""
    make_folder(folder)
    try:
        present = sorted(p for p in folder.iterdir() if p.suffix.lower() == ".tar")
    except OSError as error:
        raise WaterfillError(unread(folder, error)) from None
    if (folder / INDEX).exists():
        raise WaterfillError(f"{folder}: holds shards already; choose another folder")
    records: list[dict[str, Any]] = []
    while (record := load_json(record_of(_shard_path(folder, len(records))))) is not None:
        shard = _shard_path(folder, len(records))
        if record.get("settings") != settings:
            raise WaterfillError(
                f"{folder}: holds unfinished shards of other pictures or settings; "
                "choose another folder"
            )
        if not shard.is_file() or shard.stat().st_size != record["bytes"]:
            raise WaterfillError(f"{shard}: doesn't match its record; delete both and those after")
        records.append(_summary(record))
    # One shard more may have come to its place without its record: it is written again.
    ours = {_shard_path(folder, number) for number in range(len(records) + 1)}
    foreign = [p for p in present if p not in ours or (p == _shard_path(folder, 0) and not records)]
    if foreign:
        raise WaterfillError(f"{folder}: holds shards already ({foreign[0].name}); choose another")
    return records


def _finish(
    folder: Path,
    settings: dict[str, Any],
    records: list[dict[str, Any]],
    sources: int,
    resumed: int,
) -> PackReport:
    skipped = tuple(name for record in records for name in record["skipped"])
    report = PackReport(
        sources=sources,
        skipped=skipped,
        smaller=sum(record["smaller"] for record in records),
        members=sum(record["count"] for record in records),
        shards=len(records),
        stored_bytes=sum(record["bytes"] for record in records),
        resumed=resumed,
        fingerprint=joint_fingerprint(record["sha256"] for record in records),
    )
    facts = {key: value for key, value in asdict(report).items() if key != "resumed"}
    shards = [
        {"file": _shard_path(folder, k).name, **{f: r[f] for f in ("bytes", "count", "sha256")}}
        for k, r in enumerate(records)
    ]
    index = {"format": FORMAT, **facts, "settings": settings, "shards": shards}
    write_whole(folder / INDEX, json.dumps(index, indent=1) + "\n")
    return report


def _in_order(
    work: Callable[[int], _Members], indices: range, workers: int
) -> Iterator[tuple[int, _Members | ImageError]]:
    """Results in the order of ``indices``, a few worked on at a time."""

    def guarded(index: int) -> _Members | ImageError:
        try:
            return work(index)
        except ImageError as error:
            return error

    pool = ThreadPoolExecutor(workers, thread_name_prefix="pack")
    waiting: deque[tuple[int, Future[_Members | ImageError]]] = deque()
    try:
        for index in indices:
            waiting.append((index, pool.submit(guarded, index)))
            if len(waiting) > 2 * workers:
                first, result = waiting.popleft()
                yield first, result.result()
        while waiting:
            first, result = waiting.popleft()
            yield first, result.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _reduced(
    pixels: NDArray[np.uint8], reduction: float, max_side: int | None
) -> NDArray[np.uint8]:
    height, width = pixels.shape[:2]
    factor = reduction
    if max_side is not None:
        factor = min(factor, max_side / max(height, width))
    if factor == 1:
        return pixels
    size = max(1, round(width * factor)), max(1, round(height * factor))
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS))


def _window(rng: np.random.Generator, pixels: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    height, width = pixels.shape[:2]
    top = int(rng.integers(max(0, height - side) + 1))
    left = int(rng.integers(max(0, width - side) + 1))
    return pixels[top : top + side, left : left + side]


def _harmless(name: str) -> str:
    """A name that leads nowhere else, should someone unpack the shards: it may be a stranger's."""
    return "/".join(part for part in name.split("/") if part not in ("", ".", "..")) or "picture"


def _encoded(name: str, pixels: NDArray[np.uint8]) -> tuple[str, bytes]:
    """Name and bytes of a member.

    WebP without loss takes a quarter less room than PNG, at the same speed both ways. It ends at
    16,383 pixels.
    """
    stream = io.BytesIO()
    image = Image.fromarray(pixels)
    if max(pixels.shape) > _WEBP_SIDE:
        image.save(stream, "PNG")
        return f"{name}.png", stream.getvalue()
    image.save(stream, "WEBP", lossless=True, quality=25, method=1)
    return f"{name}.webp", stream.getvalue()


def _header(name: str, size: int) -> bytes:
    """A tar header that tells nothing of when, where and by whom it was written."""
    member = tarfile.TarInfo(name)
    member.size = size
    return member.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")
