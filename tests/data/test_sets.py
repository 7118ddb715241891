"""Sets of pictures: the same whatever they lie in, told apart by names, sizes and order."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from waterfill.data.images import find_images
from waterfill.data.sets import (
    PictureFiles,
    PictureSet,
    Subset,
    in_both,
    open_pictures,
    split_validation,
)
from waterfill.errors import ImageError


class Named:
    """A set of names without pictures."""

    def __init__(self, names: list[str]) -> None:
        self.names = names
        self.groups = [len(names)]

    def __len__(self) -> int:
        return len(self.names)

    def name(self, index: int) -> str:
        return self.names[index]

    def pixels(self, index: int) -> np.ndarray:
        raise ImageError(self.names[index])

    def prepare(self, group: int) -> None: ...

    def fingerprint(self) -> str:
        return " ".join(self.names)


def names(pictures: PictureSet) -> list[str]:
    return [pictures.name(k) for k in range(len(pictures))]


def split(given: list[str]) -> tuple[list[str], list[str]]:
    training, held_back = split_validation(Named(given))
    return names(training), names(held_back)


def test_files_folders_and_globs_give_each_picture_once(tmp_path, save):
    for k, name in enumerate(["b.png", "a.png", "sub/c.png"]):
        save(tmp_path / name, seed=k)
    folder = open_pictures([tmp_path])
    assert names(folder) == ["a.png", "b.png", "sub/c.png"]
    assert folder.groups == [3]
    assert folder.pixels(2).shape == (40, 40, 3)
    twice = open_pictures([str(tmp_path / "b.png"), str(tmp_path), str(tmp_path / "*" / "c.png")])
    assert names(twice) == ["b.png", "a.png", "sub/c.png"]
    assert names(open_pictures([str(tmp_path / "**" / "*.png")])) == names(folder)


def test_a_picture_is_there_once_whatever_ways_lead_to_it(tmp_path, save, write_tar, monkeypatch):
    save(tmp_path / "a.png", seed=0)
    save(tmp_path / "other" / "b.png", seed=1)
    write_tar(tmp_path / "data.tar", [("c.png", b"c")])
    (tmp_path / "linked").symlink_to(tmp_path / "other")
    monkeypatch.chdir(tmp_path / "other")
    ways = ["../a.png", tmp_path / "a.png", "b.png", tmp_path / "linked", tmp_path / "linked/b.png"]
    assert names(open_pictures(ways)) == ["a.png", "b.png"]
    assert find_images(ways[:3]) == [Path("../a.png"), Path("b.png")]
    shards = ["../data.tar", tmp_path / "data.tar"]
    assert len(open_pictures(shards)) == 1


def test_globs_take_shards_and_idx_files_too(tmp_path, save, write_tar, png):
    (tmp_path / "sets").mkdir()
    for k in range(2):
        write_tar(tmp_path / "sets" / f"{k}.tar", [(f"{k}.png", png(k))])
    (tmp_path / "sets" / "index.txt").write_text("not looked at")
    shards = open_pictures([tmp_path / "sets" / "*.tar"])
    assert shards.groups == [1, 1]
    assert shards.fingerprint() == open_pictures([tmp_path / "sets"]).fingerprint()
    digits = b"\0\0\x08\x03" + np.array([2, 3, 3], ">u4").tobytes() + bytes(18)
    (tmp_path / "sets" / "idx3-ubyte").write_bytes(digits)
    save(tmp_path / "sets" / "a.png")
    every = open_pictures([tmp_path / "sets" / "*"])
    assert names(every) == ["a.png", "0.png", "1.png", "idx3-ubyte[0]", "idx3-ubyte[1]"]


def test_the_fingerprint_tells_data_apart_and_not_places(tmp_path, save):
    for k in range(3):
        save(tmp_path / "here" / "sub" / f"{k}.png", seed=k, height=40 + k)
    shutil.copytree(tmp_path / "here", tmp_path / "there" / "deep")
    here = open_pictures([tmp_path / "here"]).fingerprint()
    assert here == open_pictures([tmp_path / "there" / "deep"]).fingerprint()
    assert len(bytes.fromhex(here)) == 32
    seen = {here}
    paths = sorted((tmp_path / "here").rglob("*.png"))
    seen.add(PictureFiles(paths[::-1]).fingerprint())
    seen.add(PictureFiles(paths[:2]).fingerprint())
    (tmp_path / "here" / "sub" / "0.png").rename(tmp_path / "here" / "sub" / "00.png")
    seen.add(open_pictures([tmp_path / "here"]).fingerprint())
    save(tmp_path / "here" / "sub" / "00.png", height=50)
    seen.add(open_pictures([tmp_path / "here"]).fingerprint())
    assert len(seen) == 5


def test_pictures_and_shards_together_are_one_set(tmp_path, save, write_tar, png):
    save(tmp_path / "loose" / "a.png", height=30)
    (tmp_path / "shards").mkdir()
    write_tar(tmp_path / "shards" / "0.tar", [("b.png", png(1)), ("c.png", png(2))])
    both = open_pictures([tmp_path / "shards", tmp_path / "loose"])
    assert names(both) == ["a.png", "b.png", "c.png"]
    assert list(both.groups) == [1, 2]
    assert [both.pixels(k).shape[0] for k in range(3)] == [30, 8, 8]
    one = open_pictures([tmp_path / "shards" / "0.tar"])
    assert one.fingerprint() == open_pictures([tmp_path / "shards"]).fingerprint()
    loose = open_pictures([tmp_path / "loose"])
    assert len({part.fingerprint() for part in (both, one, loose)}) == 3
    for group in range(2):
        both.prepare(group)
    save(tmp_path / "shards" / "stray.png")
    with pytest.raises(ImageError, match="both pictures and shards"):
        open_pictures([tmp_path / "shards"])


def test_what_holds_no_pictures_is_refused(tmp_path, write_tar):
    write_tar(tmp_path / "text.tar", [("a.txt", b"x")])
    for paths in ([], [tmp_path / "nowhere"], [tmp_path / "*.tar.gz"], [tmp_path]):
        with pytest.raises(ImageError):
            open_pictures(paths)


def test_settings_and_weights_among_pictures_are_sent_where_they_belong(tmp_path, save):
    save(tmp_path / "a.png")
    for name, option in (("run.toml", "--config"), ("codec.safetensors", "--start")):
        (tmp_path / name).write_text("steps = 1")
        with pytest.raises(ImageError, match=f"{name}: holds .* and no pictures.*{option}"):
            open_pictures([tmp_path / "a.png", tmp_path / name])
    assert names(open_pictures([tmp_path])) == ["a.png"]


def test_what_is_in_both_is_found_by_content_whatever_its_name(tmp_path, save):
    for k in range(3):
        save(tmp_path / "ours" / f"{k}.png", seed=k)
    (tmp_path / "theirs").mkdir()
    shutil.copy(tmp_path / "ours" / "1.png", tmp_path / "theirs" / "other.png")
    changed = bytearray((tmp_path / "ours" / "2.png").read_bytes())
    changed[-1] ^= 1
    (tmp_path / "theirs" / "2.png").write_bytes(changed)  # as long, and under the same name
    ours = [str(tmp_path / "ours" / "*.png")]
    assert in_both(ours, [tmp_path / "theirs"]) == [tmp_path / "ours" / "1.png"]
    assert in_both(ours, [tmp_path / "theirs" / "2.png"]) == []
    assert in_both([], [tmp_path / "theirs"]) == in_both(ours, []) == []
    with pytest.raises(ImageError, match="nowhere"):
        in_both(ours, [tmp_path / "nowhere"])


@settings(deadline=None)
@given(
    st.lists(
        st.builds("{}/{}.png".format, st.sampled_from("abc"), st.integers(0, 200)),
        min_size=1,
        unique=True,
    )
)
def test_the_split_is_a_partition_with_both_sides_taken(given):
    training, held_back = split(given)
    assert training
    assert held_back
    if len(given) == 1:
        assert training == held_back == given
    else:
        assert sorted(training + held_back) == sorted(given)
    again = split(given[::-1])
    assert (set(again[0]), set(again[1])) == (set(training), set(held_back))


def test_one_name_in_many_folders_does_not_train_on_what_is_held_back():
    # Any name: also the one in 48 that the hash holds back.
    for k in range(300):
        training, held_back = split([f"{d}/{k}.png" for d in "abc"])
        assert len(training) == 2
        assert len(held_back) == 1


def test_pictures_held_back_by_hash_stay_so_when_others_come():
    few = [f"{k}.png" for k in range(300)]
    _, before = split(few)
    _, after = split([*few, *(f"new{k}.png" for k in range(300))])
    assert set(before) <= set(after)
    assert 1 < len(before) < 20  # one in 48


def test_a_member_of_a_shard_is_on_the_side_of_a_file_of_its_name(tmp_path, write_tar, save):
    given = [f"{k}.png" for k in range(300)]
    for k in range(3):
        write_tar(tmp_path / f"{k}.tar", [(f"some/{n}", b"") for n in given[100 * k :][:100]])
    pictures = open_pictures([tmp_path])
    training, held_back = split_validation(pictures)
    assert names(held_back) == [f"some/{n}" for n in split(given)[1]]
    assert len(training.groups) == len(held_back.groups) == 3
    assert sum(training.groups) == len(training)
    assert list(np.add(training.groups, held_back.groups)) == [100, 100, 100]


def test_a_part_of_a_set_is_that_part(ten_shards):
    pictures = open_pictures([path.parent for path in ten_shards[:1]])
    some = Subset(pictures, np.array([74, 0, 3, 20]))
    assert names(some) == [pictures.name(k) for k in (0, 3, 20, 74)]
    np.testing.assert_array_equal(some.pixels(2), pictures.pixels(20))
    assert some.groups == [1, 1, 0, 0, 1, 0, 0, 0, 0, 1]
    other = Subset(pictures, np.array([74, 0, 3, 21]))
    assert len({pictures.fingerprint(), some.fingerprint(), other.fingerprint()}) == 3
