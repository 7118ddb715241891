"""Crops: a function of (files, seed, step) alone, whatever is broken, small or odd."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from waterfill.data.crops import CropSource, grown, split_validation
from waterfill.errors import TrainingError


def save(path: Path, height: int, width: int, seed: int = 0) -> Path:
    rng = np.random.default_rng(seed)
    Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(path)
    return path


@pytest.fixture
def files(tmp_path) -> list[Path]:
    return [save(tmp_path / f"{k}.png", 90 + 10 * k, 80, k) for k in range(5)]


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
    pixels = np.asarray(Image.open(files[0]))
    source = CropSource(files[:1], size=64, seed=0, reduction=1.0)
    windows = np.lib.stride_tricks.sliding_window_view(pixels, (64, 64), axis=(0, 1))
    seen = set()
    for crop in source.batch(0, 20):
        as_is = (windows == crop.transpose(2, 0, 1)).all(axis=(2, 3, 4)).any()
        mirrored = (windows == crop[:, ::-1].transpose(2, 0, 1)).all(axis=(2, 3, 4)).any()
        assert as_is != mirrored
        seen.add(bool(as_is))
    assert seen == {True, False}


@pytest.mark.parametrize("size", [(1, 1), (1, 500), (500, 1), (63, 64), (64, 63), (64, 64)])
def test_pictures_smaller_than_a_crop_still_give_crops(tmp_path, size):
    path = save(tmp_path / "a.png", *size)
    batch = CropSource([path], size=64, seed=0).batch(0, 8)
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


def test_one_good_file_among_hundreds_of_broken_ones_is_enough(tmp_path):
    broken = []
    for k in range(400):
        path = tmp_path / f"broken{k}.png"
        path.write_bytes(b"not a picture")
        broken.append(path)
    good = save(tmp_path / "good.png", 70, 70)
    source = CropSource([*broken[:200], good, *broken[200:]], size=64, seed=0)
    assert source.batch(0, 6).shape == (6, 64, 64, 3)
    assert source.unreadable
    assert source.unreadable <= set(broken)
    # What earlier draws found broken must not change later ones: resuming knows nothing of them.
    again = CropSource(source.paths, size=64, seed=0)
    np.testing.assert_array_equal(source.batch(1, 3), again.batch(1, 3))


def test_nothing_but_broken_files_is_an_error(tmp_path):
    for k in range(3):
        (tmp_path / f"{k}.png").write_bytes(b"")
    source = CropSource(sorted(tmp_path.iterdir()), size=64, seed=0)
    with pytest.raises(TrainingError, match="none of the 3"):
        source.batch(0, 1)


@settings(deadline=None)
@given(
    st.lists(
        st.builds("{}/{}.png".format, st.sampled_from("abc"), st.integers(0, 200)),
        min_size=1,
        unique=True,
    )
)
def test_the_split_is_a_partition_with_both_sides_taken(names):
    paths = [Path(name) for name in names]
    training, held_back = split_validation(paths)
    assert training
    assert held_back
    if len(paths) == 1:
        assert training == held_back == paths
    else:
        assert sorted(training + held_back) == sorted(paths)
    assert split_validation(paths[::-1]) == (training, held_back)


def test_one_name_in_many_folders_does_not_train_on_what_is_held_back():
    # Any name: also the one in 48 that the hash holds back.
    for k in range(300):
        training, held_back = split_validation([Path(f"{d}/{k}.png") for d in "abc"])
        assert len(training) == 2
        assert len(held_back) == 1


def test_files_held_back_by_hash_stay_so_when_others_come():
    few = [Path(f"{k}.png") for k in range(300)]
    _, before = split_validation(few)
    _, after = split_validation([*few, *(Path(f"new{k}.png") for k in range(300))])
    assert set(before) <= set(after)
    assert len(before) > 1


@pytest.mark.skipif(sys.platform != "linux", reason="file names are bytes on Linux alone")
def test_names_that_are_not_utf8_are_files_like_others(tmp_path):
    names = [os.fsdecode(b"\xff\xfe%d.png" % k) for k in range(2)]
    paths = [save(tmp_path / name, 64, 64) for name in names]
    training, held_back = split_validation(paths)
    assert {*training, *held_back} == set(paths)
    assert CropSource(paths, size=64, seed=0).batch(0, 2).shape == (2, 64, 64, 3)
