"""Rows of what was measured, item by item: shared among processes, kept, and put together again.

An item is a picture, or whatever can be measured by itself. Each process measures its part and
writes what it finds as Parquet files into one folder; then every process reads all of them in the
order of the items. A row is found again by a digest of everything that decides it, so that a run
goes on where it was killed, and one with other settings finds nothing.
"""

from __future__ import annotations

import hashlib
import io
import os
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from waterfill.errors import WaterfillError
from waterfill.files import (
    canonical_json,
    check_writable,
    json_digest,
    make_folder,
    write_whole,
)
from waterfill.parallel import side_by_side
from waterfill.processes import Processes
from waterfill.provenance import identity

__all__ = ["InMemory", "Record", "RowShards", "Rows", "Work", "open_rows"]

#: Changes whenever the files mean something else.
_FORMAT = "1"
#: A kill loses at most the work of these seconds or of this share of the run so far, whichever is
#: longer, …
_SECONDS, _SHARE = 2.0, 0.02
#: … and no more items than these; they are what a reader holds of each process at a time.
_ITEMS = 64
#: Seconds after which a folder on a network is looked at again for what others have written.
_LOOKS = (0.0, 1.0, 4.0, 16.0)


@dataclass(frozen=True)
class Record:
    """What was measured of one item.

    Attributes
    ----------
    rows
        For tables: text, numbers, None, and mappings of text to numbers. What one row lacks and
        others have is None once it has been stored.
    arrays
        What belongs to the item and to none of its rows, by names other than ``file``.
    """

    rows: tuple[dict[str, Any], ...]
    arrays: dict[str, NDArray[Any]] = field(default_factory=dict)


#: Measures an item; is given its number, and a function to call now and then, as for
#: :func:`~waterfill.parallel.side_by_side`.
Work = Callable[[int, Callable[[], None]], Record]


class Rows(Protocol):
    """Where what is measured goes, and who measures."""

    @property
    def processes(self) -> Processes:
        """Who shares the work."""
        ...

    def identify(self, count: int, what: Callable[[int], Any]) -> list[str]:
        """A name for each of so many items.

        Parameters
        ----------
        count
            How many there are.
        what
            Item number to JSON-able data that identifies it: the digest of its pixels.
        """
        ...

    def each(
        self,
        stage: str,
        about: Mapping[str, Any],
        items: Sequence[str],
        work: Work,
        *,
        begin: Callable[[int], None] = lambda count: None,
        in_turn: bool = False,
        run: int = 1,
    ) -> Iterator[Record]:
        """What was measured of every item, in order.

        Parameters
        ----------
        stage
            What rows are of; those of one stage have the same names.
        about
            All else that decides a record, besides its item and the program, as JSON-able data.
        items
            Their names, of :meth:`identify`.
        work
            Measures one of them.
        begin
            Told how many of them this process is about to measure.
        in_turn
            One after the other on all threads, instead of side by side on one each.
        run
            Consecutive items given to one process, which share work.
        """
        ...


def open_rows(folder: str | os.PathLike[str] | None) -> Rows:
    """Rows in a folder, shared with the launcher's other processes; None for memory and this one.

    Raises
    ------
    WaterfillError
        As :class:`RowShards`.
    """
    return InMemory() if folder is None else RowShards(Path(folder), Processes.meet())


def _measured(work: Work, numbers: Sequence[int], of: int, in_turn: bool) -> Iterator[Record]:
    return side_by_side(
        lambda k, check: work(numbers[k], check), len(numbers), of=of, in_turn=in_turn
    )


class InMemory:
    """Everything measured here and now, and nothing kept."""

    processes = Processes()

    def identify(self, count: int, what: Callable[[int], Any]) -> list[str]:
        """Numbers: nothing is ever looked for."""
        return [str(number) for number in range(count)]

    def each(
        self,
        stage: str,
        about: Mapping[str, Any],
        items: Sequence[str],
        work: Work,
        *,
        begin: Callable[[int], None] = lambda count: None,
        in_turn: bool = False,
        run: int = 1,
    ) -> Iterator[Record]:
        """Each record as soon as it and those before it are there; it is not held here."""
        begin(len(items))
        return _measured(work, range(len(items)), len(items), in_turn)


class RowShards:
    """Parquet files in a folder that all processes see; each is whole or not there at all.

    Each stage has a folder in it, and a file's name holds the digest of its bytes:
    ``ladder/rows-….parquet``. Columns are those of the rows, with ``key``, which says what was
    measured, ``row``, its number in the record, and ``arrays``, an npz in the first row of a record
    that has any. Files of other settings may lie beside; other names are not looked at.

    Parameters
    ----------
    folder
        Made when it is missing.
    processes
        Who writes into it.

    Raises
    ------
    WaterfillError
        If pyarrow is missing, or the folder can't be made or written; later, if a file in it is
        damaged or of something else.
    """

    def __init__(self, folder: Path, processes: Processes) -> None:
        _pyarrow()
        self.folder, self.processes = folder, processes
        self._seen: dict[str, Path] = {}
        self._scanned: set[Path] = set()
        _writable(folder)

    def identify(self, count: int, what: Callable[[int], Any]) -> list[str]:
        """Digests; each process looks at its part of the items, and all know all of them."""
        mine = range(self.processes.rank, count, self.processes.world)
        digests = side_by_side(lambda k, check: json_digest(what(mine[k])), len(mine))
        found = np.zeros((count, 4), np.int64)
        for number, digest in zip(mine, digests, strict=True):
            found[number] = np.frombuffer(bytes.fromhex(digest), np.int64)
        return [row.tobytes().hex() for row in self.processes.sum(found)]

    def each(
        self,
        stage: str,
        about: Mapping[str, Any],
        items: Sequence[str],
        work: Work,
        *,
        begin: Callable[[int], None] = lambda count: None,
        in_turn: bool = False,
        run: int = 1,
    ) -> Iterator[Record]:
        """Records, once those that were missing have been measured by all processes together.

        Raises
        ------
        WaterfillError
            If a file is damaged or foreign, or others' rows are not in the folder.
        """
        told = {"stage": stage, "about": about, "by": identity()}
        keys = [json_digest([_FORMAT, told, item]) for item in items]
        folder = self.folder / stage
        _writable(folder)
        mine = self._mine(self._missing(folder, keys), run)
        begin(len(mine))
        with _Writer(folder, canonical_json(told)) as writer:
            for number, record in zip(
                mine, _measured(work, mine, len(items), in_turn), strict=True
            ):
                writer.add(keys[number], record)
        self.processes.sum(np.zeros(1, np.int64))  # all have written
        return self._stored(folder, keys)

    def _mine(self, numbers: Sequence[int], run: int) -> list[int]:
        """This process's part: runs are dealt in turn."""
        runs = list(dict.fromkeys(number // run for number in numbers))
        mine = set(runs[self.processes.rank :: self.processes.world])
        return [number for number in numbers if number // run in mine]

    def _missing(self, folder: Path, keys: Sequence[str]) -> list[int]:
        """Numbers of items that have no record, as the first process finds them."""
        here = np.zeros(len(keys), np.int64)
        if self.processes.rank == 0:
            self._scan(folder)
            here[:] = [key in self._seen for key in keys]
        known = self.processes.sum(here)
        first = {key: number for number, key in reversed(list(enumerate(keys)))}
        return [n for n, key in enumerate(keys) if not known[n] and first[key] == n]

    def _scan(self, folder: Path) -> None:
        """Which file holds what, of files that were not there the last time."""
        for path in sorted(folder.glob("rows-*.parquet")):
            if path in self._scanned:
                continue
            self._seen.update(dict.fromkeys(_table_of(path, ["key"])["key"].to_pylist(), path))
            self._scanned.add(path)

    def _stored(self, folder: Path, keys: Sequence[str]) -> Iterator[Record]:
        for seconds in _LOOKS:
            time.sleep(seconds)
            self._scan(folder)
            lacking = sum(key not in self._seen for key in keys)
            if not lacking:
                break
        else:
            raise WaterfillError(
                f"{folder}: rows of {lacking} of {len(keys)} are missing; all processes must "
                "see one and the same folder, and run the same versions"
            )
        # Processes took turns: as many files as there are processes hold the next few items.
        opened: OrderedDict[Path, dict[str, Record]] = OrderedDict()
        for key in keys:
            path = self._seen[key]
            if path not in opened:
                opened[path] = _read(path)
                if len(opened) > self.processes.world + 1:
                    opened.popitem(last=False)
            opened.move_to_end(path)
            yield opened[path][key]


def _writable(folder: Path) -> None:
    make_folder(folder)
    check_writable(folder / "rows")


class _Writer:
    """Collects records, and writes them before too many would be lost."""

    def __init__(self, folder: Path, about: str) -> None:
        self._folder, self._about = folder, about
        self._records: dict[str, Record] = {}
        self._began = self._wrote = time.monotonic()

    def __enter__(self) -> _Writer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """What is there is written, whatever happened to the rest."""
        self._write()

    def add(self, key: str, record: Record) -> None:
        self._records[key] = record
        now = time.monotonic()
        due = max(_SECONDS, _SHARE * (now - self._began))
        if now - self._wrote >= due or len(self._records) >= _ITEMS:
            self._write()

    def _write(self) -> None:
        if self._records:
            data = _to_parquet(self._records, self._about)
            write_whole(self._folder / f"{_stem(data)}.parquet", data)
        self._records.clear()
        self._wrote = time.monotonic()


def _to_parquet(records: Mapping[str, Record], about: str) -> bytes:
    pa, pq = _pyarrow()
    table: list[dict[str, Any]] = []
    for key, record in records.items():
        for number, row in enumerate(record.rows or ({},)):
            arrays = None if number else _to_npz(record.arrays)
            here = number if record.rows else None
            table.append({"key": key, "row": here, "arrays": arrays, **row})
    names = dict.fromkeys(name for row in table for name in row)
    # Of one type in every file, also where nothing is in them.
    fixed = {"row": pa.int64(), "arrays": pa.binary()}
    columns = {
        name: _column(pa, [row.get(name) for row in table], fixed.get(name)) for name in names
    }
    facts = {"waterfill rows": _FORMAT, "about": about}
    sink = io.BytesIO()
    pq.write_table(pa.table(columns).replace_schema_metadata(facts), sink, compression="zstd")
    return sink.getvalue()


def _column(pa: Any, values: Sequence[Any], fixed: Any) -> Any:
    """Values of one name, of a fixed type or of the narrowest that holds them all exactly."""
    if fixed is not None:
        return pa.array(values, fixed)
    there = [value for value in values if value is not None]
    if there and isinstance(there[0], Mapping):
        pairs = [None if value is None else list(value.items()) for value in values]
        return pa.array(pairs, pa.map_(pa.string(), pa.float64()))
    if there and all(isinstance(value, str) for value in there):
        # A file name that is not UTF-8 has lone surrogates; escaped, it is text.
        escaped = [v and v.encode(errors="backslashreplace").decode() for v in values]
        return pa.array(escaped, pa.string())
    for kind, arrow in (
        (bool, pa.bool_()),
        (int, pa.int64()),
    ):
        if there and all(isinstance(value, kind) for value in there):
            return pa.array([None if v is None else kind(v) for v in values], arrow)
    return pa.array([None if v is None else float(v) for v in values], pa.float64())


def _to_npz(arrays: Mapping[str, NDArray[Any]]) -> bytes | None:
    if not arrays:
        return None
    sink = io.BytesIO()
    named: dict[str, Any] = dict(arrays)
    np.savez(sink, **named)
    return sink.getvalue()


def _table_of(path: Path, names: Sequence[str] | None = None) -> Any:
    """A file's columns, once its bytes are those that its name promises."""
    pa, pq = _pyarrow()
    try:
        data = path.read_bytes()
        if path.stem != _stem(data):
            raise ValueError("damaged")
        table = pq.read_table(io.BytesIO(data), columns=names)
        if (table.schema.metadata or {}).get(b"waterfill rows") != _FORMAT.encode():
            raise ValueError("foreign")
        return table
    except (pa.ArrowException, OSError, ValueError):
        raise WaterfillError(
            f"{path}: is damaged, or holds no rows of this program; delete it, and what it held is "
            "measured again"
        ) from None


def _stem(data: bytes) -> str:
    return f"rows-{hashlib.sha256(data).hexdigest()[:32]}"


def _read(path: Path) -> dict[str, Record]:
    """Records of a file by their keys."""
    pa, _ = _pyarrow()
    table = _table_of(path)
    maps = {item.name for item in table.schema if pa.types.is_map(item.type)}
    rows: dict[str, list[dict[str, Any]]] = {}
    arrays: dict[str, dict[str, NDArray[Any]]] = {}
    for row in table.to_pylist():
        key, number, packed = row.pop("key"), row.pop("row"), row.pop("arrays")
        found = rows.setdefault(key, [])
        if number is not None:
            found.append({n: dict(v) if n in maps and v is not None else v for n, v in row.items()})
        if packed is not None:
            with np.load(io.BytesIO(packed), allow_pickle=False) as files:
                arrays[key] = dict(files)
    return {key: Record(tuple(found), arrays.get(key, {})) for key, found in rows.items()}


def _pyarrow() -> tuple[Any, Any]:
    """pyarrow and its Parquet module, which most commands do without."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise WaterfillError(
            "shards of rows are Parquet files and need pyarrow: pip install 'waterfill[shards]'"
        ) from None
    return pyarrow, pyarrow.parquet
