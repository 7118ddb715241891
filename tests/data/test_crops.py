"""Crops: a function of (pictures, seed, position) alone, whatever is broken, small or odd."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from waterfill.data.crops import CropSource, grown
from waterfill.data.order import EpochOrder
from waterfill.data.sets import PictureFiles, open_pictures, split_validation
from waterfill.data.shards import WINDOW, PictureShards
from waterfill.errors import ImageError, TrainingError


@pytest.fixture
def files(tmp_path, save) -> PictureFiles:
    return PictureFiles([save(tmp_path / f"{k}.png", 90 + 10 * k, 80, k) for k in range(5)])


class Plain:
    """Twelve pictures of one colour each, that count how often they are read."""

    def __init__(self, broken=(), groups=(12,)) -> None:
        self.groups = list(groups)
        self.broken = set(broken)
        self.reads: Counter[int] = Counter()
        self.delay = 0.0

    def __len__(self) -> int:
        return sum(self.groups)

    def name(self, index: int) -> str:
        return f"{index}.png"

    def pixels(self, index: int) -> np.ndarray:
        time.sleep(self.delay)
        self.reads[index] += 1
        if index in self.broken:
            raise ImageError(f"{index}.png: is broken")
        return np.full((9, 9, 3), index, dtype=np.uint8)

    def prepare(self, group: int) -> None: ...

    def fingerprint(self) -> str:
        return ""


def drawn(source: CropSource, step: int, count: int, rows: range | None = None) -> list[int]:
    """Which pictures of a `Plain` set the crops of a batch come from."""
    return source.batch(step, count, rows)[:, 0, 0, 0].tolist()


def test_a_batch_depends_on_seed_and_step_alone(files):
    one, other = CropSource(files, size=64, seed=3), CropSource(files, size=64, seed=3)
    later = [other.batch(step, 4) for step in (9, 2, 5)]
    for step, batch in zip((9, 2, 5), later, strict=True):
        np.testing.assert_array_equal(one.batch(step, 4), batch)
    assert batch.shape == (4, 64, 64, 3)
    assert not np.array_equal(one.batch(5, 4), one.batch(6, 4))
    assert not np.array_equal(one.batch(5, 4), CropSource(files, size=64, seed=4).batch(5, 4))


def test_the_cache_changes_nothing(files):
    cached = CropSource(files, size=64, seed=1)
    bare = CropSource(files, size=64, seed=1, cache_bytes=0)
    for step in range(6):
        np.testing.assert_array_equal(cached.batch(step, 3), bare.batch(step, 3))


def test_prepared_batches_are_the_same_in_the_same_order(files):
    source = CropSource(files, size=64, seed=1)
    stream = source.batches(7, 2)
    for step in range(7, 12):
        np.testing.assert_array_equal(next(stream), source.batch(step, 2))
    stream.close()


def test_without_reduction_a_crop_is_a_window_or_its_mirror_image(files):
    pixels = np.asarray(Image.open(files.paths[0]))
    source = CropSource(PictureFiles(files.paths[:1]), size=64, seed=0, reduction=1.0)
    windows = np.lib.stride_tricks.sliding_window_view(pixels, (64, 64), axis=(0, 1))
    seen = set()
    for crop in source.batch(0, 20):
        as_is = (windows == crop.transpose(2, 0, 1)).all(axis=(2, 3, 4)).any()
        mirrored = (windows == crop[:, ::-1].transpose(2, 0, 1)).all(axis=(2, 3, 4)).any()
        assert as_is != mirrored
        seen.add(bool(as_is))
    assert seen == {True, False}


def test_half_of_the_crops_are_reduced_and_half_mirrored(tmp_path):
    rows, columns = np.indices((120, 120), np.uint8)
    Image.fromarray(np.dstack([rows, columns, rows ^ columns])).save(tmp_path / "a.png")
    source = CropSource(PictureFiles([tmp_path / "a.png"]), size=64, seed=0)
    crops = source.batch(0, 400).astype(int)
    # A reduced crop has a larger window in it, whose rows and columns are further apart.
    reach = crops[:, -1, 0, 0] - crops[:, 0, 0, 0]
    mirrored = crops[:, 0, 0, 1] > crops[:, 0, -1, 1]
    assert abs(np.mean(reach > 66) - 0.5) < 0.1
    assert abs(np.mean(mirrored) - 0.5) < 0.1
    assert 95 < reach.max() < 64 / 0.6 + 1


@pytest.mark.parametrize("size", [(1, 1), (1, 500), (500, 1), (63, 64), (64, 63), (64, 64)])
def test_pictures_smaller_than_a_crop_still_give_crops(tmp_path, save, size):
    path = save(tmp_path / "a.png", *size)
    batch = CropSource(PictureFiles([path]), size=64, seed=0).batch(0, 8)
    assert batch.shape == (8, 64, 64, 3)
    colours = {tuple(p) for p in np.asarray(Image.open(path)).reshape(-1, 3).tolist()}
    if max(size) <= 64:  # no room for a reduction: every pixel is one of the picture's
        assert {tuple(p) for p in batch.reshape(-1, 3).tolist()} <= colours


def test_growing_keeps_the_picture_and_adds_nothing_new():
    pixels = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
    big = grown(pixels, 7)
    assert big.shape == (7, 7, 3)
    np.testing.assert_array_equal(big[:2, :3], pixels)
    assert set(big[..., 0].ravel().tolist()) == set(pixels[..., 0].ravel().tolist())
    assert grown(pixels, 2) is pixels


def test_one_good_file_among_hundreds_of_broken_ones_is_enough(tmp_path, save):
    broken = []
    for k in range(400):
        path = tmp_path / f"broken{k}.png"
        path.write_bytes(b"not a picture")
        broken.append(path)
    good = save(tmp_path / "good.png", 70, 70)
    pictures = PictureFiles([*broken[:200], good, *broken[200:]])
    source = CropSource(pictures, size=64, seed=0)
    assert source.batch(0, 6).shape == (6, 64, 64, 3)
    assert source.unreadable
    assert source.unreadable <= {path.name for path in broken}
    # What earlier draws found broken must not change later ones: resuming knows nothing of them.
    again = CropSource(pictures, size=64, seed=0)
    np.testing.assert_array_equal(source.batch(1, 3), again.batch(1, 3))


def test_nothing_but_broken_files_is_an_error(tmp_path):
    for k in range(3):
        (tmp_path / f"{k}.png").write_bytes(b"")
    source = CropSource(open_pictures([tmp_path]), size=64, seed=0)
    with pytest.raises(TrainingError, match="none of the 3"):
        source.batch(0, 1)


@pytest.mark.skipif(sys.platform != "linux", reason="file names are bytes on Linux alone")
def test_names_that_are_not_utf8_are_files_like_others(tmp_path, save):
    names = [os.fsdecode(b"\xff\xfe%d.png" % k) for k in range(2)]
    for name in names:
        save(tmp_path / name, 64, 64)
    pictures = open_pictures([tmp_path])
    sides = split_validation(pictures)
    assert sorted(side.name(k) for side in sides for k in range(len(side))) == sorted(names)
    assert CropSource(pictures, size=64, seed=0).batch(0, 2).shape == (2, 64, 64, 3)


@pytest.mark.parametrize("processes", [2, 3])
def test_the_rows_of_several_processes_are_the_batch_of_one(files, processes):
    whole = CropSource(files, size=32, seed=3)
    parts = [CropSource(files, size=32, seed=3) for _ in range(processes)]
    for step in (0, 7, 10**9):
        rows = [range(k, 8, processes) for k in range(processes)]
        batch = np.empty((8, 32, 32, 3), dtype=np.uint8)
        for source, mine in zip(parts, rows, strict=True):
            batch[list(mine)] = source.batch(step, 8, mine)
        np.testing.assert_array_equal(batch, whole.batch(step, 8))
    halves = [next(whole.batches(4, 8, rows)) for rows in (range(4), range(4, 8))]
    np.testing.assert_array_equal(np.concatenate(halves), whole.batch(4, 8))
    assert whole.batch(0, 8, range(0)).shape == (0, 32, 32, 3)
    with pytest.raises(ValueError, match="outside a batch of 8"):
        whole.batch(0, 8, range(4, 9))


def test_each_picture_comes_once_per_epoch():
    source = CropSource(Plain(), size=8, seed=0)
    epochs = [drawn(source, 2 * epoch, 6) + drawn(source, 2 * epoch + 1, 6) for epoch in range(3)]
    for epoch in epochs:
        assert sorted(epoch) == list(range(12))
    assert epochs[0] != epochs[1] != epochs[2]


def test_crops_do_not_depend_on_the_size_of_batches(files):
    source = CropSource(files, size=32, seed=0)
    few = np.concatenate([source.batch(k, 2) for k in range(6)])
    np.testing.assert_array_equal(few, source.batch(0, 12))


def test_a_broken_picture_is_replaced_alike_by_everyone():
    broken = [0, 3, 4, 5, 11]
    one = CropSource(Plain(broken), size=8, seed=5)
    straight = [drawn(one, step, 4) for step in range(9)]
    other = CropSource(Plain(broken), size=8, seed=5, cache_bytes=0)
    assert [drawn(other, step, 4) for step in reversed(range(9))] == straight[::-1]
    threads = CropSource(Plain(broken), size=8, seed=5).batches(0, 4, workers=4)
    assert [next(threads)[:, 0, 0, 0].tolist() for _ in range(9)] == straight
    threads.close()
    good = CropSource(Plain(), size=8, seed=5)
    for step, seen in enumerate(straight):
        for mine, theirs in zip(seen, drawn(good, step, 4), strict=True):
            assert mine not in broken
            assert mine == theirs or theirs in broken
    assert one.unreadable == {f"{k}.png" for k in broken}
    assert all(one.pictures.reads[k] == 1 for k in broken)


def test_the_only_good_picture_is_found_from_anywhere():
    source = CropSource(Plain(set(range(12)) - {7}, [5, 4, 3]), size=8, seed=0)
    assert drawn(source, 0, 120) == [7] * 120


def test_the_cache_keeps_to_its_limit():
    room = 3 * 9 * 9 * 3
    source = CropSource(Plain(), size=8, seed=0, cache_bytes=room + 1)
    for step in range(6):
        source.batch(step, 6)
    reads = sorted(source.pictures.reads.values())
    assert reads == [1] * 3 + [3] * 9


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_an_epoch_reads_each_shard_once(ten_shards, workers):
    shards = PictureShards(ten_shards)
    source = CropSource(shards, size=8, seed=2, cache_bytes=0)
    if workers:
        stream = source.batches(0, 5, workers=workers)
        batches = [next(stream) for _ in range(15)]
        stream.close()
        # Ten, and those of the next epoch's first window that were read ahead.
        assert 10 <= shards.loads <= 10 + WINDOW
    else:
        batches = [source.batch(step, 5) for step in range(15)]
        assert shards.loads == 10
    alone = CropSource(PictureShards(ten_shards, held=1), size=8, seed=2)
    np.testing.assert_array_equal(np.stack(batches[10:12]), [alone.batch(k, 5) for k in (10, 11)])


def test_a_set_of_shards_is_read_ahead(ten_shards):
    shards = PictureShards(ten_shards)
    asked: list[int] = []
    read, shards.prepare = shards.prepare, lambda group: (asked.append(group), read(group))[1]
    stream = CropSource(shards, size=8, seed=2).batches(0, 1)
    for _ in range(75):
        next(stream)
    stream.close()
    # In the order in which they are drawn from, after the first window; each once.
    order = EpochOrder(shards.groups, seed=2, together=WINDOW)
    group_of = np.repeat(np.arange(10), shards.groups)
    turns = list(dict.fromkeys(int(group_of[order.picture(k)]) for k in range(75)))
    assert set(asked[:4]) == set(turns[4:8])
    assert set(asked[4:6]) == set(turns[8:])
    assert len(asked) <= 10


def test_closing_stops_the_threads_promptly():
    before = threading.active_count()
    pictures = Plain()
    stream = CropSource(pictures, size=8, seed=0, cache_bytes=0).batches(0, 1, workers=2)
    next(stream)
    pictures.delay = 0.01
    stream.close()
    assert threading.active_count() == before
    read = pictures.reads.total()
    assert read <= 6

    slow = CropSource(pictures, size=8, seed=0, cache_bytes=0).batches(0, 300, workers=2)
    threading.Timer(0.1, setattr, (pictures, "delay", 0.0)).start()
    next(slow)
    pictures.delay = 0.01
    began = time.monotonic()
    slow.close()  # in the middle of batches that would take three seconds each
    assert time.monotonic() - began < 1.5
    assert threading.active_count() <= before + 1


def test_no_more_batches_are_prepared_than_promised():
    pictures = Plain()
    stream = CropSource(pictures, size=8, seed=0, cache_bytes=0).batches(0, 4, workers=2)
    for taken in range(1, 6):
        next(stream)
        time.sleep(0.05)
        assert pictures.reads.total() <= 4 * (taken + 2 + 2)
    stream.close()


def test_errors_reach_the_user_and_waiting_is_counted():
    with pytest.raises(TrainingError, match="none of the 12"):
        next(CropSource(Plain(range(12)), size=8, seed=0).batches(0, 2))
    with pytest.raises(TrainingError, match="none of the 0"):
        next(CropSource(PictureFiles([]), size=8, seed=0).batches(0, 2))
    pictures = Plain()
    pictures.delay = 0.05
    source = CropSource(pictures, size=8, seed=0)
    stream = source.batches(0, 2, workers=1)
    next(stream)
    assert 0.05 < source.waited_seconds < 5
    for _ in range(8):
        next(stream)
    waited = source.waited_seconds
    time.sleep(0.2)  # now all are there, and decoded
    next(stream)
    assert source.waited_seconds - waited < 0.05
    stream.close()
