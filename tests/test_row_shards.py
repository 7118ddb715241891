"""Rows in a folder: what comes back is what went in, and nothing is measured twice."""

from __future__ import annotations

import hashlib
import math
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from waterfill import row_shards
from waterfill.errors import WaterfillError
from waterfill.processes import Processes
from waterfill.row_shards import InMemory, Record, RowShards, open_rows

pytest.importorskip("pyarrow")

ABOUT = {"quality": 4.0, "seed": 0}


def record(index: int) -> Record:
    """Whatever a record may hold."""
    rows = (
        {"image": f"ä{index}", "bpp": 0.1 * index + 1 / 3, "psnr": math.inf, "bytes": index},
        {"image": "β", "bpp": math.nan, "psnr": None, "bytes": 2**40, "parts": {"z": 1e-300 / 3}},
    )
    arrays = {
        "y/a, b": np.arange(6, dtype=np.float32).reshape(2, 3) + index,
        "pixels": np.zeros((0, 4), np.uint8),
        "channel": np.array(index),
    }
    return Record(rows[: index % 3], arrays if index % 2 else {})


class Counted:
    """Work that remembers what it was called for."""

    def __init__(self, stop_at: int | None = None) -> None:
        self.calls: list[int] = []
        self.stop_at = stop_at

    def __call__(self, index: int, check: Callable[[], None]) -> Record:
        check()
        if index == self.stop_at:
            raise WaterfillError("stop")
        self.calls.append(index)
        return record(index)


def measured(
    folder: Path,
    work: Counted,
    count: int = 8,
    about: Mapping[str, Any] = ABOUT,
    processes: Processes | None = None,
    **options: Any,
) -> list[Record]:
    rows = RowShards(folder, processes or Processes())
    items = rows.identify(count, lambda index: f"picture {index}")
    return list(rows.each("ladder", about, items, work, **options))


def same(one: Record, other: Record) -> bool:
    """By every bit; a name that a row lacks is None."""
    assert len(one.rows) == len(other.rows)
    for mine, theirs in zip(one.rows, other.rows, strict=True):
        for name in mine | theirs:
            assert repr(mine.get(name)) == repr(theirs.get(name)), name
    assert one.arrays.keys() == other.arrays.keys()
    for name, array in one.arrays.items():
        assert array.dtype == other.arrays[name].dtype
        np.testing.assert_array_equal(array, other.arrays[name])
    return True


def test_what_comes_back_is_what_went_in(tmp_path: Path) -> None:
    found = measured(tmp_path, Counted())
    again = measured(tmp_path, Counted())
    assert all(same(record(k), one) for k, one in enumerate(found))
    assert all(same(record(k), one) for k, one in enumerate(again))


def test_text_that_is_no_unicode_is_kept_escaped() -> None:
    pa = row_shards._pyarrow()[0]
    assert row_shards._column(pa, ["a", None, "\udcff"], None).to_pylist() == ["a", None, "\\udcff"]


def test_memory_gives_the_same_and_keeps_nothing() -> None:
    rows = open_rows(None)
    assert isinstance(rows, InMemory)
    found = list(rows.each("ladder", ABOUT, rows.identify(8, lambda index: index), Counted()))
    assert all(same(record(k), one) for k, one in enumerate(found))


def test_what_has_been_measured_is_not_measured_again(tmp_path: Path) -> None:
    first, second, third, told = Counted(), Counted(), Counted(), [0]
    measured(tmp_path, first, 5)
    assert first.calls == [0, 1, 2, 3, 4]
    measured(tmp_path, second, 7, begin=told.append)  # two more pictures
    assert second.calls == [5, 6]
    assert told == [0, 2]
    measured(tmp_path, third, 7, ABOUT | {"seed": 1})  # everything that decides a row counts
    assert len(third.calls) == 7


def test_another_program_finds_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measured(tmp_path, Counted())
    monkeypatch.setattr(row_shards, "identity", lambda: {"waterfill": "of tomorrow"})
    work = Counted()
    measured(tmp_path, work)
    assert len(work.calls) == 8


def test_what_is_the_same_is_measured_once(tmp_path: Path) -> None:
    rows, work = RowShards(tmp_path, Processes()), Counted()
    names = rows.identify(4, lambda index: index % 2)
    found = list(rows.each("ladder", ABOUT, names, work))
    assert work.calls == [0, 1]
    assert same(found[1], found[3])


def test_a_failure_keeps_what_came_before_it(tmp_path: Path) -> None:
    with pytest.raises(WaterfillError, match="stop"):
        measured(tmp_path, Counted(stop_at=5), in_turn=True)
    work = Counted()
    assert len(measured(tmp_path, work)) == 8
    assert work.calls == [5, 6, 7]


PROGRAM = """
import sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from test_row_shards import ABOUT, Counted, measured, record, row_shards

class Slow(Counted):
    def __call__(self, index, check):
        if index == 6:
            print(flush=True)
            time.sleep(600)
        return super().__call__(index, check)

row_shards._ITEMS = 2
measured(Path(sys.argv[2]), Slow(), in_turn=True)
"""


def test_a_program_that_is_killed_goes_on(tmp_path: Path) -> None:
    command = [sys.executable, "-c", PROGRAM, str(Path(__file__).parent), str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as program:
        assert program.stdout is not None
        assert program.stdout.readline() == b"\n"
        program.send_signal(signal.SIGKILL)
        assert program.wait() == -signal.SIGKILL
    work = Counted()
    found = measured(tmp_path, work)
    assert work.calls == [6, 7]
    assert all(same(record(k), one) for k, one in enumerate(found))


def files(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.parquet"))


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-20])


def alter(file: Path, place: int = 40) -> None:
    data = bytearray(file.read_bytes())
    data[place] ^= 1
    file.write_bytes(data)


def foreign(file: Path) -> None:
    """Somebody's own table, under a name of ours."""
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.table({"key": ["a"]}), file)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()[:32]
    file.rename(file.with_name(f"rows-{digest}.parquet"))


@pytest.mark.parametrize("damage", [cut, alter, foreign])
def test_a_damaged_or_foreign_file_is_one_line_and_never_merged(
    damage: Callable[[Path], None], tmp_path: Path
) -> None:
    measured(tmp_path, Counted())
    (file,) = files(tmp_path)
    damage(file)
    with pytest.raises(WaterfillError, match=r"rows-\w+.parquet: is damaged, .* delete it"):
        measured(tmp_path, Counted())
    (file,) = files(tmp_path)
    file.unlink()
    work = Counted()
    assert len(measured(tmp_path, work)) == len(work.calls) == 8


def test_an_altered_bit_is_noticed_wherever_it_is(tmp_path: Path) -> None:
    measured(tmp_path, Counted())
    (file,) = files(tmp_path)
    for place in range(0, file.stat().st_size, 211):
        alter(file, place)
        with pytest.raises(WaterfillError, match="is damaged"):
            measured(tmp_path, Counted())
        alter(file, place)
    assert len(measured(tmp_path, Counted(stop_at=0))) == 8


def test_other_files_in_the_folder_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "ladder").mkdir()
    (tmp_path / "ladder" / "mine.parquet").write_text("mine")
    assert len(measured(tmp_path, Counted())) == 8
    assert (tmp_path / "ladder" / "mine.parquet").read_text() == "mine"


@dataclass(frozen=True)
class Threads(Processes):
    """Processes that are threads of this one."""

    barrier: threading.Barrier = field(default_factory=lambda: threading.Barrier(1))
    table: list[Any] = field(default_factory=list)

    def sum(self, values: NDArray[np.int64]) -> NDArray[np.int64]:
        self.barrier.wait(30)
        self.table[self.rank] = values
        self.barrier.wait(30)
        return np.sum(self.table, axis=0)


def together(
    folder: Path, world: int, count: int, **options: Any
) -> tuple[list[list[int]], list[list[Record]]]:
    """What each of several processes measured, and what each was given."""
    barrier, table = threading.Barrier(world), [None] * world
    works = [Counted() for _ in range(world)]

    def one(rank: int) -> list[Record]:
        processes = Threads(rank, world, None, barrier, table)
        return measured(folder, works[rank], count, processes=processes, in_turn=True, **options)

    with ThreadPoolExecutor(world) as pool:
        return [work.calls for work in works], list(pool.map(one, range(world)))


@pytest.mark.parametrize("world", [2, 3])
def test_processes_share_the_work_and_all_get_all_of_it(tmp_path: Path, world: int) -> None:
    calls, found = together(tmp_path, world, 10)
    assert sorted(index for mine in calls for index in mine) == list(range(10))
    assert max(map(len, calls)) - min(map(len, calls)) <= 1
    for records in found:
        assert all(same(record(k), one) for k, one in enumerate(records))


def test_what_one_began_others_share(tmp_path: Path) -> None:
    with pytest.raises(WaterfillError, match="stop"):
        measured(tmp_path, Counted(stop_at=4), 10, in_turn=True)
    calls, _ = together(tmp_path, 2, 10)
    assert calls == [[4, 6, 8], [5, 7, 9]]


def test_neighbours_stay_together(tmp_path: Path) -> None:
    calls, _ = together(tmp_path, 2, 12, run=3)
    assert calls == [[0, 1, 2, 6, 7, 8], [3, 4, 5, 9, 10, 11]]


def lonely(folder: Path, work: Counted, count: int) -> list[Record]:
    """The first of two processes, whose other writes elsewhere."""

    class Lonely(Processes):
        def sum(self, values: NDArray[np.int64]) -> NDArray[np.int64]:
            return values

    names = RowShards(folder, Processes()).identify(count, lambda index: f"picture {index}")
    return list(RowShards(folder, Lonely(0, 2)).each("ladder", ABOUT, names, work))


def test_every_file_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the order of items, with no more files held than processes wrote side by side."""
    monkeypatch.setattr(row_shards, "_ITEMS", 2)
    together(tmp_path, 2, 24)
    read, count = row_shards._read, []
    monkeypatch.setattr(row_shards, "_read", lambda path: count.append(path) or read(path))
    assert len(files(tmp_path)) == 12
    work = Counted()
    lonely(tmp_path, work, 24)
    assert not work.calls
    assert sorted(count) == files(tmp_path)


def test_rows_that_others_wrote_elsewhere_are_missed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(row_shards, "_LOOKS", (0.0, 0.0))
    with pytest.raises(WaterfillError, match="rows of 4 of 8 are missing; all processes must see"):
        lonely(tmp_path, Counted(), 8)


def test_without_pyarrow_it_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(WaterfillError, match=r"pip install 'waterfill\[shards\]'"):
        open_rows(tmp_path)


def test_a_folder_that_can_not_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(WaterfillError, match="can't be created"):
        open_rows(tmp_path / "file" / "shards")
