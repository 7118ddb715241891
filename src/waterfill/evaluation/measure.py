"""Codecs on pictures: every file written, read back, and measured once."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

import waterfill
from waterfill.codec.gains import QUALITIES
from waterfill.codec.model import Codec
from waterfill.data.images import Picture, find_images, load_picture
from waterfill.errors import ImageError, WaterfillError
from waterfill.evaluation.cache import Cache, fingerprint
from waterfill.evaluation.coders import Setting
from waterfill.evaluation.conventional import Conventional, conventional
from waterfill.evaluation.metrics import SimilarityTo, mean_squared_error, psnr_of
from waterfill.evaluation.result import Contender, Evaluation
from waterfill.evaluation.rows import Row
from waterfill.provenance import environment, identity
from waterfill.row_shards import Record, open_rows
from waterfill.seeds import check_seed

__all__ = ["OwnCodec", "evaluate"]

#: Side of the piece of a picture on which codecs warm up.
_WARM_UP = 192


class _Codec(Protocol):
    """What is asked of any codec here: its own ones and conventional ones alike."""

    @property
    def name(self) -> str: ...

    @property
    def settings(self) -> tuple[Setting, ...]: ...

    def version(self) -> str: ...

    def encode(self, picture: Picture, setting: Setting) -> bytes: ...

    def decode(self, data: bytes, height: int, width: int) -> NDArray[np.uint8]: ...


@dataclass(frozen=True)
class OwnCodec:
    """A codec of this package at several qualities.

    Attributes
    ----------
    codec
        With weights that have an identity.
    qualities
        Ascending; None for all whole ones that it covers.
    effort, trellis
        As for :meth:`~waterfill.codec.model.Codec.compress`.
    label
        Name for tables; None for the codec's own.
    """

    codec: Codec
    qualities: tuple[float, ...] | None = None
    effort: int = 0
    trellis: bool = False
    label: str | None = None

    @property
    def name(self) -> str:
        """The codec's short name, with effort and trellis if used."""
        if self.label is not None:
            return self.label
        effort = f", effort {self.effort}" if self.effort else ""
        return f"{self.codec.short_name}{effort}{', trellis' if self.trellis else ''}"

    @property
    def settings(self) -> tuple[Setting, ...]:
        """One for each quality, with all that a stream depends on."""
        low, high = self.codec.config.qualities
        chosen = self.qualities
        if chosen is None:
            chosen = tuple(float(q) for q in QUALITIES if low <= q <= high) or (float(low),)
        return tuple(
            {
                "quality": self.codec.check_quality(quality),
                "effort": self.effort,
                "trellis": self.trellis,
                "tile": self.codec.tile,
            }
            for quality in chosen
        )

    def version(self) -> str:
        """Identity of the weights, and of the program; and of a GPU, if transforms compute there.

        Raises
        ------
        WaterfillError
            If they have none, as those in training.
        """
        if not any(self.codec.weights_id):
            raise WaterfillError(f"{self.codec.name}: these weights are in training; save them")
        known = f"weights {self.codec.weights_id.hex()}, waterfill {waterfill.__version__}"
        device = self.codec.device.type
        return known if device == "cpu" else f"{known}, on {device}"

    def encode(self, picture: Picture, setting: Setting) -> bytes:
        """The stream."""
        told = {name: setting[name] for name in ("effort", "trellis")}
        return self.codec.compress(picture, setting["quality"], **told)

    def decode(self, data: bytes, height: int, width: int) -> NDArray[np.uint8]:
        """Pixels (height, width, 3)."""
        with torch.no_grad():
            return self.codec.decompress(data).pixels


class _Subject:
    """A picture, read when it is asked for."""

    def __init__(self, item: Path | Picture, domain: str) -> None:
        self._item = item
        self.domain = domain
        self.label = Path(item.name).name

    @cached_property
    def picture(self) -> Picture:
        return self._item if isinstance(self._item, Picture) else load_picture(self._item)

    @cached_property
    def pixels(self) -> str:
        return fingerprint(self.picture)

    @cached_property
    def similarity(self) -> SimilarityTo:
        return SimilarityTo(self.picture.pixels)


class _Subjects:
    """All pictures, of which the last few that were asked for stay in memory."""

    def __init__(self, items: Sequence[Path | Picture], keep: int) -> None:
        self._items = items
        self._domains = _domains(items)
        self._kept: dict[int, _Subject] = {}
        self._keep = keep
        self._lock = threading.Lock()

    def __getitem__(self, index: int) -> _Subject:
        with self._lock:
            subject = self._kept.pop(index, None)
            if subject is None:
                subject = _Subject(self._items[index], self._domains[index])
            self._kept[index] = subject
            while len(self._kept) > self._keep:
                del self._kept[next(iter(self._kept))]
        return subject

    def known_by(self, index: int) -> list[str]:
        """What identifies a picture in a table."""
        subject = self[index]
        return [subject.pixels, subject.label, subject.domain]


def _domains(items: Sequence[Path | Picture]) -> list[str]:
    """Names of the pictures' folders: as many of the last parts as tell them apart."""
    # A link lies in its own folder, wherever the file is that it leads to.
    folders = [
        item.parent.resolve() if isinstance(item, Path) else Path("samples") for item in items
    ]
    distinct = set(folders)
    depth = 1
    longest = max((len(folder.parts) for folder in distinct), default=1)
    while depth < longest and len({f.parts[-depth:] for f in distinct}) < len(distinct):
        depth += 1
    return ["/".join(folder.parts[-depth:]) for folder in folders]


_Images = str | os.PathLike[str] | Picture
_Codecs = Codec | OwnCodec | Conventional | str


def _items(images: _Images | Iterable[_Images]) -> list[Path | Picture]:
    if isinstance(images, str | os.PathLike | Picture):
        images = [images]
    found: list[Path | Picture] = []
    for image in images:
        found.extend([image] if isinstance(image, Picture) else find_images([image]))
    unique = list({id(i) if isinstance(i, Picture) else i.resolve(): i for i in found}.values())
    if not unique:
        raise ImageError("no pictures to measure")
    return unique


def _as_codec(item: _Codecs) -> OwnCodec | Conventional:
    if isinstance(item, Codec):
        return OwnCodec(item)
    return conventional(item) if isinstance(item, str) else item


def _contenders(codecs: _Codecs | Iterable[_Codecs]) -> list[OwnCodec | Conventional]:
    """What is measured; there is something, and names are distinct."""
    if isinstance(codecs, Codec | OwnCodec | Conventional | str):
        codecs = [codecs]
    contenders = [_as_codec(item) for item in codecs]
    if not contenders:
        raise WaterfillError("no codecs to measure")
    names = [codec.name for codec in contenders]
    for name in names:
        if names.count(name) > 1:
            raise WaterfillError(
                f"two codecs are named {name!r}; give one of them, or its file, another"
            )
    return contenders


def _text(setting: Setting) -> str:
    return json.dumps(dict(setting), sort_keys=True)


def _settings(codec: OwnCodec | Conventional) -> list[Setting]:
    """A codec's settings, each once: a stream carries near qualities as one."""
    return list({_text(setting): setting for setting in codec.settings}.values())


@dataclass(frozen=True)
class _Cell:
    """One measurement: a picture by its number, a codec with its version, a setting."""

    image: int
    codec: OwnCodec | Conventional
    version: str
    setting: Setting

    @property
    def made_of(self) -> str | None:
        """What tells a caller's codec from others of its name and version; None if unknown."""
        return "" if isinstance(self.codec, OwnCodec) else self.codec.made_of(self.setting)

    def cache_key(self, subject: _Subject) -> dict[str, Any] | None:
        """What the measurement depends on; None if that can't be said."""
        own = isinstance(self.codec, OwnCodec)
        made_of = self.made_of
        if made_of is None:
            return None
        return {
            "pixels": subject.pixels,
            # An own codec goes by its weights; its name is whatever somebody calls it.
            "codec": "own" if own else self.codec.name,
            "version": self.version,
            # What weights make of a picture is also this code's; other codecs are their libraries'.
            **({"program": identity()} if own else {}),
            # A caller's own is whatever the caller made.
            **({"made_of": made_of} if made_of else {}),
            "setting": dict(self.setting),
        }

    def shard_key(self, picture: str) -> str:
        """What was asked for; a shard's rows are of this program anyway."""
        made_of = filter(None, [self.made_of])
        return json.dumps([picture, self.codec.name, self.version, _text(self.setting), *made_of])


#: Fields of a row that a cache keeps; the others come from the request.
_KEPT = (
    "bytes",
    "bpp",
    "mse",
    "psnr",
    "ms_ssim",
    "encode_seconds",
    "decode_seconds",
)


def _measured(subject: _Subject, codec: _Codec, setting: Setting) -> dict[str, Any]:
    picture = subject.picture
    began = time.perf_counter()
    data = codec.encode(picture, setting)
    encoded = time.perf_counter()
    pixels = codec.decode(data, picture.height, picture.width)
    finished = time.perf_counter()
    mse = mean_squared_error(picture.pixels, pixels)
    return {
        "bytes": len(data),
        "bpp": 8.0 * len(data) / picture.pixel_count,
        "mse": mse,
        "psnr": psnr_of(mse),
        "ms_ssim": subject.similarity(pixels),
        "encode_seconds": encoded - began,
        "decode_seconds": finished - encoded,
    }


def _sound(row: dict[str, Any]) -> bool:
    return all(
        isinstance(row.get(name), int | float) and not isinstance(row[name], bool) for name in _KEPT
    )


class _WarmUp:
    """Each codec codes a piece of a picture once before anything is timed."""

    def __init__(self) -> None:
        self._done: set[int] = set()
        self._lock = threading.Lock()

    def __call__(self, codec: _Codec, picture: Picture) -> None:
        with self._lock:
            if id(codec) in self._done:
                return
            piece = np.ascontiguousarray(picture.pixels[:_WARM_UP, :_WARM_UP])
            data = codec.encode(Picture("piece", piece, picture.grey), codec.settings[0])
            codec.decode(data, *piece.shape[:2])
            self._done.add(id(codec))


class _MeasureCell:
    """Measures cells by their numbers, from any thread; what a cache holds is not coded again."""

    def __init__(
        self,
        cells: Sequence[_Cell],
        subjects: _Subjects,
        cache: Cache | None,
        progress: Callable[[int, int, str], None],
    ) -> None:
        self._cells, self._subjects, self._cache = cells, subjects, cache
        self._progress, self._done, self._due = progress, 0, 0
        self._warm_up, self._lock = _WarmUp(), threading.Lock()

    def begin(self, count: int) -> None:
        """So many are about to be measured."""
        self._due = count
        self._progress(0, count, "")

    def __call__(self, index: int, check: Callable[[], None]) -> Record:
        check()
        cell = self._cells[index]
        subject = self._subjects[cell.image]
        found = self._found(cell, subject, check)
        with self._lock:
            self._done += 1
            self._progress(self._done, self._due, f"{cell.codec.name}, {subject.label}")
        about = {
            "image": subject.label,
            "domain": subject.domain,
            "pixels": subject.pixels,
            "codec": cell.codec.name,
            "version": cell.version,
            "setting": _text(cell.setting),
        }
        return Record((about | {name: found[name] for name in _KEPT},))

    def _found(self, cell: _Cell, subject: _Subject, check: Callable[[], None]) -> dict[str, Any]:
        """What the cache says, or else what coding the picture does."""
        key = None if self._cache is None else cell.cache_key(subject)
        kept = None if self._cache is None or key is None else self._cache.get(key)
        if kept is not None and _sound(kept):
            return kept
        self._warm_up(cell.codec, subject.picture)
        check()
        found = _measured(subject, cell.codec, cell.setting)
        if self._cache is not None and key is not None:
            self._cache.put(key, found)
        return found


def evaluate(
    images: str | os.PathLike[str] | Picture | Iterable[str | os.PathLike[str] | Picture],
    codecs: Codec | OwnCodec | Conventional | str | Iterable[Codec | OwnCodec | Conventional | str],
    *,
    cache: Cache | None = None,
    shards: str | os.PathLike[str] | None = None,
    seed: int = 0,
    progress: Callable[[int, int, str], None] = lambda done, total, what: None,
) -> Evaluation:
    """Code every picture by every codec at every setting, and measure what comes back.

    Parameters
    ----------
    images
        Files, folders, globs, or pictures in memory. The name of a file's folder is its domain.
    codecs
        Own ones, or conventional ones by name; names are distinct.
    cache
        Where measurements are kept, so that an interrupted run goes on where it stopped; None for
        no cache. A conventional codec of the caller's own whose coder is no dataclass
        of plain values is measured anew.
    shards
        A folder for the rows, as Parquet files: processes that a launcher has started share the
        measurements, and all of them return the same evaluation. Unlike the cache it is of this
        work, and may lie where all machines see it.
    seed
        Seed of the intervals.
    progress
        Called with measurements done, in all, and what was measured last.

    Raises
    ------
    ImageError
        If there is no picture, or one can't be read.
    CodecError
        If a codec is unknown, or its library is missing.
    WaterfillError
        If two codecs have one name, the cache or ``shards`` can't be written or used, or the seed
        is invalid.
    """
    seed = check_seed(seed)
    items = _items(images)
    contenders = [(codec, codec.version()) for codec in _contenders(codecs)]
    cells = [
        _Cell(image, codec, version, setting)
        for image in range(len(items))
        for codec, version in contenders
        for setting in _settings(codec)
    ]
    subjects = _Subjects(items, keep=torch.get_num_threads() + 1)
    measure = _MeasureCell(cells, subjects, cache, progress)
    stored = open_rows(shards)
    pictures = stored.identify(len(items), subjects.known_by)
    by_picture = len(items) >= stored.processes.world
    records = stored.each(
        "evaluation",
        {},
        [cell.shard_key(pictures[cell.image]) for cell in cells],
        measure,
        begin=measure.begin,
        run=len(cells) // len(items) if by_picture else 1,
    )
    rows = tuple(Row(**record.rows[0]) for record in records)
    about = tuple(_contender(codec, version) for codec, version in contenders)
    return Evaluation(rows, about, seed, environment(seed))


def _contender(codec: OwnCodec | Conventional, version: str) -> Contender:
    """A codec as tables and pages name it."""
    settings = tuple(map(_text, _settings(codec)))
    if isinstance(codec, OwnCodec):
        takes = codec.codec.complexity()
        return Contender(codec.name, "own", codec.name, version, settings, "", takes)
    return Contender(codec.name, "conventional", codec.title, version, settings, codec.caveat)
