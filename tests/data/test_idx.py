"""Pictures in IDX files: read whole, or refused in one line."""

from __future__ import annotations

import gzip
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from waterfill.data.crops import CropSource
from waterfill.data.idx import read_idx
from waterfill.data.sets import open_pictures, split_validation
from waterfill.errors import ImageError

STACK = np.random.default_rng(0).integers(0, 256, (96, 28, 28), dtype=np.uint8)


def idx_bytes(stack: np.ndarray = STACK, magic: bytes = b"\0\0\x08\x03") -> bytes:
    return magic + np.array(stack.shape, ">u4").tobytes() + stack.tobytes()


@pytest.mark.parametrize("packed", [False, True])
def test_an_idx_file_is_a_set_of_grey_pictures(tmp_path: Path, packed: bool) -> None:
    path = tmp_path / ("train-images-idx3-ubyte" + (".gz" if packed else ""))
    path.write_bytes(gzip.compress(idx_bytes()) if packed else idx_bytes())
    pictures = open_pictures([path])
    assert len(pictures) == 96
    assert pictures.name(3) == f"{path.name}[3]"
    np.testing.assert_array_equal(pictures.pixels(95), np.repeat(STACK[95][..., None], 3, 2))
    training, held_back = split_validation(pictures)
    assert len(training) + len(held_back) == 96
    assert 0 < len(held_back) < 20


def test_the_fingerprint_is_that_of_the_pixels(tmp_path: Path) -> None:
    one, packed, other = (tmp_path / f"{n}-idx3-ubyte" for n in "abc")
    one.write_bytes(idx_bytes())
    packed.write_bytes(gzip.compress(idx_bytes()))
    other.write_bytes(idx_bytes(STACK ^ 1))
    prints = [open_pictures([path]).fingerprint() for path in (one, packed, other)]
    assert prints[0] == prints[1] != prints[2]


def test_it_joins_other_pictures(tmp_path: Path, save) -> None:
    save(tmp_path / "a.png", 8, 8, 0)
    (tmp_path / "x-idx3-ubyte").write_bytes(idx_bytes())
    both = open_pictures([tmp_path / "a.png", tmp_path / "x-idx3-ubyte"])
    assert len(both) == 97
    assert both.name(0) == "a.png"
    assert both.pixels(1).shape == (28, 28, 3)
    assert sum(both.groups) == 97


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"", "not an IDX file"),
        (b"\x89PNG and more than sixteen bytes", "not an IDX file"),
        (idx_bytes(magic=b"\0\0\x0d\x03"), "not an IDX file"),
        (idx_bytes()[:-1], "cut short"),
        (idx_bytes() + b"x", "goes on"),
        (idx_bytes(STACK[:0]), "announces 0 pictures"),
        (b"\0\0\x08\x03" + b"\xff" * 12, "announces"),
        (gzip.compress(idx_bytes())[:-9], "can't be read"),
        (b"\x1f\x8bnonsense", "can't be read"),
    ],
)
def test_what_is_no_whole_idx_file_is_refused(tmp_path: Path, data: bytes, problem: str) -> None:
    path = tmp_path / "bad-idx3-ubyte"
    path.write_bytes(data)
    with pytest.raises(ImageError, match=problem):
        read_idx(path)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    ("shape", "problem"),
    [
        ((1, 1, 1 << 31), "each picture has 2147483648×1 pixels; at most 268,435,456"),
        ((1, 1, 65_536), "each picture has 65536×1 pixels; a side may have 65,535"),
        ((1, 20_000, 20_000), "at most 268,435,456 are supported"),
        ((1 << 21, 28, 28), "is cut short"),
    ],
)
def test_what_a_header_announces_takes_no_memory(
    tmp_path: Path, shape: tuple[int, ...], problem: str, packed: bool
) -> None:
    data = idx_bytes()[:4] + np.array(shape, ">u4").tobytes() + bytes(1 << 16)
    path = tmp_path / "bad-idx3-ubyte"
    path.write_bytes(gzip.compress(data) if packed else data)
    tracemalloc.start()
    try:
        with pytest.raises(ImageError, match=problem):
            read_idx(path)
        assert tracemalloc.get_traced_memory()[1] < 1 << 22
    finally:
        tracemalloc.stop()


def test_crops_can_be_left_as_they_are(tmp_path: Path) -> None:
    path = tmp_path / "x-idx3-ubyte"
    path.write_bytes(idx_bytes())
    source = CropSource(open_pictures([path]), size=32, seed=1, augment=False)
    for crop in source.batch(0, 40):
        # The digit where it was, with its border mirrored: 28 → 32.
        assert (crop[:28, :28, 0] == STACK).all((1, 2)).any()
