"""Tar shards: whoever wrote them, pictures come out or one line says what is wrong."""

from __future__ import annotations

import io
import os
import tarfile
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from waterfill.data.shards import PictureShards
from waterfill.errors import ImageError


def refused(path) -> str:
    with pytest.raises(ImageError) as caught:
        PictureShards([path])
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return message


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_pictures_come_out_of_any_tar_and_the_rest_is_passed_over(tmp_path, write_tar, png, form):
    data = png(1)
    # What is longer than a header holds; USTAR has room for 100 bytes behind a folder.
    long = "d" * 90 + "/" + "näme " * 9 + ".PNG"
    members = [("a.json", b"{}"), (long, data), ("a.cls", b"7"), ("b/c.png", png(2, 9, 5))]
    shards = PictureShards([write_tar(tmp_path / "a.tar", members, format=form)])
    assert [shards.name(k) for k in range(len(shards))] == [long, "b/c.png"]
    np.testing.assert_array_equal(shards.pixels(0), np.asarray(Image.open(io.BytesIO(data))))
    assert shards.pixels(1).shape == (9, 5, 3)
    with pytest.raises(IndexError):
        shards.pixels(2)


def test_names_lead_nowhere_and_links_are_no_pictures(tmp_path, write_tar, png, monkeypatch):
    inside = tmp_path / "inside"
    inside.mkdir()
    monkeypatch.chdir(inside)
    members: list = [("../up.png", png(0)), (f"{tmp_path}/absolute.png", png(1))]
    for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE):
        member = tarfile.TarInfo("link.png")
        member.type, member.linkname = kind, "/etc/passwd"
        members.append((member, b""))
    folder = tarfile.TarInfo("folder.png")
    folder.type = tarfile.DIRTYPE
    path = write_tar(tmp_path / "a.tar", [*members, (folder, b""), ("two\nlines.png", b"broken")])
    before = sorted(p for p in tmp_path.rglob("*"))
    shards = PictureShards([path])
    wanted = ["../up.png", f"{tmp_path}/absolute.png", "two\nlines.png"]
    assert [shards.name(k) for k in range(len(shards))] == wanted
    for k in range(len(shards) - 1):
        assert shards.pixels(k).shape == (8, 8, 3)
    with pytest.raises(ImageError) as caught:
        shards.pixels(len(shards) - 1)
    assert "\n" not in str(caught.value)
    assert sorted(p for p in tmp_path.rglob("*")) == before


def test_a_tar_cut_anywhere_is_refused(tmp_path, write_tar, png):
    whole = write_tar(tmp_path / "a.tar", [("a.png", png(0)), ("b.png", png(1))]).read_bytes()
    with tarfile.open(tmp_path / "a.tar") as tar:
        second = tar.getmembers()[1]
        end = tar.offset
    path = tmp_path / "cut.tar"
    for length in (0, 1, 511, 512, 600, second.offset, second.offset_data, second.offset_data + 9):
        path.write_bytes(whole[:length])
        refused(path)
    path.write_bytes(whole[:end])  # all of the pictures, but not the end
    refused(path)
    path.write_bytes(whole[: end + 1024])
    assert len(PictureShards([path])) == 2


def test_what_is_no_tar_is_refused(tmp_path, write_tar, png):
    write_tar(tmp_path / "good.tar", [("a.png", png(0))])
    with tarfile.open(tmp_path / "packed.tar", "w:gz") as tar:
        tar.add(tmp_path / "good.tar", "a.png")
    (tmp_path / "picture.tar").write_bytes(png(0, 50, 50))
    (tmp_path / "zeros.tar").write_bytes(bytes(5000))
    (tmp_path / "folder.tar").mkdir()
    for name in ("packed", "picture", "zeros", "folder", "missing"):
        refused(tmp_path / f"{name}.tar")
    (tmp_path / "huge.tar").touch()
    os.truncate(tmp_path / "huge.tar", (1 << 30) + 512)  # a hole; nothing is written
    assert "MiB at most" in refused(tmp_path / "huge.tar")


@settings(
    deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_damaged_headers_give_pictures_or_one_line(tmp_path, write_tar, data):
    content = bytearray(
        write_tar(
            tmp_path / "a.tar", [("a" * 120 + ".png", b"x" * 600), ("é.png", b"y")]
        ).read_bytes()
    )
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) // 2))] = data.draw(st.integers(0, 255))
    path = tmp_path / "b.tar"
    path.write_bytes(content)
    try:
        found = PictureShards([path]).shards
    except ImageError:
        refused(path)
        return
    for shard in found:
        assert (shard.offsets + shard.sizes <= len(content)).all()


def test_a_header_of_negative_size_does_not_go_round_in_circles(tmp_path, png):
    def member(name: str, size: int) -> bytes:
        info = tarfile.TarInfo(name)
        info.size = size
        return info.tobuf(tarfile.GNU_FORMAT)

    one = member("a.png", len(png(0))) + png(0)
    one += bytes(-len(one) % 512)
    # Back to the second picture, for ever.
    back = member("c.png", -len(one) - 512)
    (tmp_path / "a.tar").write_bytes(one + one + back + bytes(1024))
    refused(tmp_path / "a.tar")


def test_a_shard_that_changes_underneath_breaks_its_pictures_only(tmp_path, write_tar, png):
    one = write_tar(tmp_path / "1.tar", [("a.png", png(0))])
    two = write_tar(tmp_path / "2.tar", [("b.png", png(1))])
    shards = PictureShards([one, two])
    two.write_bytes(two.read_bytes()[:600])
    shards.prepare(1)
    assert shards.pixels(0).shape == (8, 8, 3)
    with pytest.raises(ImageError, match=r"2\.tar: was cut or altered"):
        shards.pixels(1)


def test_the_fingerprint_is_of_names_sizes_and_order(tmp_path, write_tar, png):
    members = [("a.png", png(0)), ("b.png", png(1, 9, 9))]

    def of(*groups) -> str:
        paths = [write_tar(tmp_path / f"{k}.tar", group) for k, group in enumerate(groups)]
        return PictureShards(paths).fingerprint()

    whole = of(members)
    assert whole == of([("a.txt", b"passed over"), *members])
    others = [of(members[::-1]), of(members[:1]), of(members[:1], members[1:])]
    others += [of([("A.png", png(0)), members[1]]), of([("a.png", png(0, 9, 8)), members[1]])]
    assert len({whole, *others}) == 6


def test_shards_are_read_once_while_they_are_held(ten_shards):
    shards = PictureShards(ten_shards, held=2)
    with ThreadPoolExecutor(8) as pool:  # all at once, and each read once
        list(pool.map(shards.pixels, [0, 1, 2, 3, 4, 5, 6] * 8))
    shards.pixels(6)  # whichever thread came last, this one is the latest now
    assert shards.loads == 2
    shards.pixels(74)
    shards.pixels(6)
    assert shards.loads == 3
    shards.prepare(0)
    shards.pixels(0)
    assert shards.loads == 4
