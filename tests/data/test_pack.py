"""Packing: the same bytes every time, nothing lost on the way, no trace of JPEG left."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import waterfill.data.pack as packing
from waterfill.cli import run
from waterfill.data.crops import CropSource
from waterfill.data.pack import pack
from waterfill.data.sets import open_pictures, split_validation
from waterfill.errors import ImageError, WaterfillError


@pytest.fixture
def folder(tmp_path, save) -> Path:
    for k in range(12):
        save(tmp_path / "in" / f"sub{k % 2}" / f"{k}.png", 60 + k, 80, k)
    (tmp_path / "in" / "broken.jpg").write_bytes(b"no picture")
    (tmp_path / "in" / "sub1" / "6.jpg").write_bytes(b"\xff\xd8\xff")
    return tmp_path / "in"


def contents(out: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted(out.iterdir())}


def test_two_packs_of_one_folder_are_the_same_bytes(tmp_path, folder):
    shutil.copytree(folder, tmp_path / "copy")
    one = pack([str(folder)], tmp_path / "a", shard_bytes=10_240, crop=16, crops=2, workers=3)
    other = pack(
        [str(tmp_path / "copy")], tmp_path / "b", shard_bytes=10_240, crop=16, crops=2, workers=1
    )
    assert one == other
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    pack([str(folder)], tmp_path / "c", shard_bytes=10_240, crop=16, crops=2, seed=1)
    assert (
        contents(tmp_path / "a")["shard-00000.tar"] != contents(tmp_path / "c")["shard-00000.tar"]
    )


def test_what_is_packed_comes_out_again(tmp_path, folder):
    report = pack([str(folder)], tmp_path / "out", shard_bytes=10_240, reduction=1.0)
    before, after = open_pictures([folder]), open_pictures([tmp_path / "out"])
    assert (report.sources, report.members, len(after)) == (14, 12, 12)
    assert report.skipped == ("broken.jpg", "sub1/6.jpg")
    assert report.fingerprint == after.fingerprint()
    good = [k for k in range(len(before)) if before.name(k) not in report.skipped]
    for k, index in enumerate(good):
        assert after.name(k) == before.name(index) + ".webp"
        np.testing.assert_array_equal(after.pixels(k), before.pixels(index))

    index = json.loads((tmp_path / "out" / "index.json").read_text())
    assert report.shards == len(index["shards"]) > 2
    assert sum(shard["count"] for shard in index["shards"]) == 12
    assert [shard["count"] for shard in index["shards"]] == list(after.groups)
    for shard in index["shards"]:
        data = (tmp_path / "out" / shard["file"]).read_bytes()
        assert len(data) == shard["bytes"] <= 10_240 or shard["count"] == 1
        assert hashlib.sha256(data).hexdigest() == shard["sha256"]
    assert index["fingerprint"] == report.fingerprint
    assert index["skipped"] == list(report.skipped)


def test_shards_are_tar_files_that_others_can_read(tmp_path, folder):
    pack([str(folder)], tmp_path / "out", max_side=40)
    with tarfile.open(tmp_path / "out" / "shard-00000.tar") as tar:
        for member in tar:
            assert (member.mtime, member.uid, member.gid, member.uname) == (0, 0, 0, "")
            stream = tar.extractfile(member)
            image = Image.open(io.BytesIO(stream.read()))
            assert (image.format, max(image.size)) == ("WEBP", 40)
    # Without its records, the same pictures: now they are a stranger's shards.
    for record in (tmp_path / "out").glob("*.json"):
        record.unlink()
    assert len(open_pictures([tmp_path / "out"])) == 12


def test_sizes_are_as_told(tmp_path, save):
    for name, size in {
        "wide": (30, 100),
        "tiny": (3, 5),
        "line": (1, 90),
        "large": (200, 400),
    }.items():
        save(tmp_path / "in" / f"{name}.png", *size)

    def sizes(out: str, **settings) -> dict[str, tuple[int, int]]:
        pack([str(tmp_path / "in")], tmp_path / out, **settings)
        packed = open_pictures([tmp_path / out])
        return {packed.name(k)[:-9]: packed.pixels(k).shape[:2] for k in range(len(packed))}

    assert sizes("a") == {"wide": (15, 50), "tiny": (2, 2), "line": (1, 45), "large": (100, 200)}
    # Never larger than the least reduction leaves them.
    assert sizes("b", max_side=60)["large"] == (30, 60)
    assert sizes("c", max_side=60)["wide"] == (15, 50)
    assert sizes("d", crop=20) == {
        "wide": (15, 20),
        "tiny": (2, 2),
        "line": (1, 20),
        "large": (20, 20),
    }
    assert sizes("e", crop=20, max_side=30)["large"] == (15, 20)


def blockiness(grey: np.ndarray, period: int) -> float:
    """Mean step across columns at multiples of ``period``, relative to the other columns."""
    steps = np.abs(np.diff(grey.astype(float), axis=1)).mean(axis=0)
    at = np.arange(1, len(steps) + 1) % period == 0
    return float(steps[at].mean() / steps[~at].mean())


def test_reduction_removes_the_traces_of_jpeg(tmp_path, photo):
    (tmp_path / "in").mkdir()
    Image.fromarray(photo).save(tmp_path / "in" / "a.jpg", quality=25)
    for out, reduction in (("as-is", 1.0), ("reduced", 0.5)):
        pack([str(tmp_path / "in")], tmp_path / out, reduction=reduction)
    as_is, reduced = (open_pictures([tmp_path / out]).pixels(0) for out in ("as-is", "reduced"))
    assert blockiness(as_is[..., 1], 8) > 1.5
    assert abs(blockiness(reduced[..., 1], 4) - 1) < 0.3 * (blockiness(as_is[..., 1], 8) - 1)


def test_pictures_smaller_than_their_windows_are_counted(tmp_path, save, capsys):
    for name, size in (("a", (40, 90)), ("b", (90, 40)), ("c", (64, 64)), ("d", (65, 70))):
        save(tmp_path / "in" / f"{name}.png", *size)
    arguments = ["data", "pack", str(tmp_path / "in"), "--reduction", "1", "--crop"]
    for crop, smaller, said in ((64, 2, "2 pictures are smaller than windows of 64"), (32, 0, "")):
        out, told = tmp_path / str(crop), tmp_path / "told.json"
        assert run([*arguments, str(crop), "--out", str(out), "--json", str(told)]) == 0
        assert json.loads(told.read_text())["smaller"] == smaller
        lines = capsys.readouterr().out.splitlines()[1:]
        assert len(lines) == bool(smaller)
        assert all(line.startswith(said) for line in lines)


@pytest.mark.parametrize("count", [120, 5])
def test_windows_of_one_picture_stay_on_one_side_of_the_split(tmp_path, save, count):
    for k in range(count):
        save(tmp_path / "in" / f"{k}.png", 8, 8, k)
    pack([str(tmp_path / "in")], tmp_path / "out", crop=4, crops=3, reduction=1.0)
    training, held_back = split_validation(open_pictures([tmp_path / "out"]))
    sides = [{Path(side.name(k)).name for k in range(len(side))} for side in (training, held_back)]
    assert not sides[0] & sides[1]
    assert len(held_back) == 3 * len(sides[1])
    assert len(sides[1]) > 1 or count == 5
    assert len(training) == 3 * (count - len(sides[1])) > 0


def interrupted(monkeypatch, after: int, *arguments, **settings) -> None:
    """Run ``pack`` until it has seen so many pictures, then press Ctrl-C."""

    def press(done: int, total: int) -> None:
        if done == after:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pack(*arguments, **settings, progress=press)


def test_an_interrupted_pack_is_taken_up_where_it_was(tmp_path, folder, monkeypatch):
    whole = pack([str(folder)], tmp_path / "whole", shard_bytes=10_240)
    assert whole.shards > 3
    out = tmp_path / "out"
    seen = []
    for after in (6, 8, 11):
        interrupted(monkeypatch, after, [str(folder)], out, shard_bytes=10_240)
        seen.append(len(list(out.glob("*.tar"))))
        for path in out.iterdir():  # complete shards and their records alone
            assert path.read_bytes() == (tmp_path / "whole" / path.name).read_bytes()
        with pytest.raises(ImageError, match="interrupted; run it again"):
            open_pictures([out])
    assert 0 < seen[0] < seen[-1]
    for changed in ({"seed": 1}, {"shard_bytes": 10_241}, {"max_side": 9}):
        with pytest.raises(WaterfillError, match="other pictures or settings"):
            pack([str(folder)], out, **{"shard_bytes": 10_240, **changed})
    # A shard whose record didn't make it is written again.
    last = sorted(out.glob("*.tar"))[-1]
    last.with_suffix(".json").unlink()
    report = pack([str(folder)], out, shard_bytes=10_240)
    assert report.resumed == seen[-1] - 1
    assert (report.fingerprint, report.skipped) == (whole.fingerprint, whole.skipped)
    assert contents(out) == contents(tmp_path / "whole")


@pytest.mark.parametrize("shard_bytes", [10_240, 15_000, 20_480])
def test_no_shard_is_larger_than_it_may_be(tmp_path, save, shard_bytes):
    for k in range(40):
        save(tmp_path / "in" / f"{k}.png", 20, 20 + k, k)
    report = pack([str(tmp_path / "in")], tmp_path / "out", shard_bytes=shard_bytes)
    sizes = [path.stat().st_size for path in (tmp_path / "out").glob("*.tar")]
    assert report.shards == len(sizes) > 3
    assert max(sizes) == shard_bytes // 10_240 * 10_240  # tar's own records


@pytest.mark.parametrize("change", ["cut", "missing"])
def test_a_shard_that_was_altered_is_not_gone_on_from(tmp_path, folder, monkeypatch, change):
    out = tmp_path / "out"
    interrupted(monkeypatch, 8, [str(folder)], out, shard_bytes=10_240)
    first = min(out.glob("*.tar"))
    first.unlink()
    if change == "cut":
        first.write_bytes(b"")
    with pytest.raises(WaterfillError, match="doesn't match its record"):
        pack([str(folder)], out, shard_bytes=10_240)


def test_windows_lie_anywhere_in_a_picture_and_wholly_in_it(tmp_path, save):
    path = save(tmp_path / "in" / "a.png", 6, 7)
    pack([str(path)], tmp_path / "out", crop=5, crops=60, reduction=1.0)
    packed = open_pictures([tmp_path / "out"])
    pixels = np.asarray(Image.open(path))
    places = {
        pixels[top : top + 5, left : left + 5].tobytes() for top in range(2) for left in range(3)
    }
    assert {packed.pixels(k).tobytes() for k in range(60)} == places


def test_a_folder_that_holds_shards_is_left_alone(tmp_path, folder, write_tar, png):
    out = tmp_path / "out"
    pack([str(folder)], out)
    before = contents(out)
    with pytest.raises(WaterfillError, match="holds shards already"):
        pack([str(folder)], out)
    assert contents(out) == before
    (tmp_path / "other").mkdir()
    path = write_tar(tmp_path / "other" / "shard-00000.tar", [("a.png", png(0))])
    with pytest.raises(WaterfillError, match="holds shards already"):
        pack([str(folder)], path.parent)
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(WaterfillError, match="can't be created"):
        pack([str(folder)], tmp_path / "file")


def test_nothing_readable_is_an_error_and_nothing_is_written(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.png").write_bytes(b"")
    with pytest.raises(ImageError, match=r"^\S*a\.png: is not"):
        pack([str(tmp_path / "in")], tmp_path / "out")
    (tmp_path / "in" / "b.png").write_bytes(b"")
    with pytest.raises(ImageError, match=r"none of the 2 pictures can be read; one: \S*a\.png: is"):
        pack([str(tmp_path / "in")], tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize(
    "settings",
    [
        {"shard_bytes": (256 << 20) + 1}, {"shard_bytes": 0}, {"reduction": 0.0},
        {"reduction": 1.5}, {"crop": 0}, {"crops": 2}, {"max_side": 0}, {"workers": 0},
    ],
)  # fmt: skip
def test_settings_that_make_no_sense_are_refused(tmp_path, folder, settings):
    with pytest.raises(ValueError, match=r"must|may|need"):
        pack([str(folder)], tmp_path / "out", **settings)
    assert not (tmp_path / "out").exists()


def test_shards_of_strangers_are_packed_under_harmless_names(tmp_path, write_tar, png):
    long = "x" * 120 + "/é\udcff.png"
    members = [("../../up.png", png(0)), ("/abs.png", png(1)), ("..", b""), (long, png(2))]
    path = write_tar(tmp_path / "a.tar", members)
    pack([str(path)], tmp_path / "out", reduction=1.0)
    packed = open_pictures([tmp_path / "out"])
    names = [packed.name(k) for k in range(len(packed))]
    assert names == ["up.png.webp", "abs.png.webp", f"{long}.webp"]
    with tarfile.open(tmp_path / "out" / "shard-00000.tar") as tar:
        assert tar.getnames() == names


def test_a_shard_or_record_that_was_altered_is_noticed(tmp_path, folder):
    out = tmp_path / "out"
    pack([str(folder)], out)
    shard, record = out / "shard-00000.tar", out / "shard-00000.json"
    good, noted = shard.read_bytes(), json.loads(record.read_text())
    wide = {**noted, "sizes": [*noted["sizes"][:-1], len(good)]}
    for altered in ({**noted, "offsets": [-1] * 12}, wide, {**noted, "names": ["a.png"]}, {
        **noted, "sha256": None, "bytes": 1}, {**noted, "names": ["\ud800"] * 12},
        {**noted, "offsets": [2**70] * 12}, {**noted, "sizes": "x"},
    ):  # fmt: skip
        record.write_text(json.dumps(altered))
        with pytest.raises(ImageError, match=r"doesn't match shard-00000\.json"):
            open_pictures([out])
    record.write_text(json.dumps(noted))
    flipped = bytearray(good)
    flipped[noted["offsets"][0] + 50] ^= 1
    shard.write_bytes(flipped)
    with pytest.raises(ImageError, match="was cut or altered"):
        open_pictures([out]).pixels(3)
    shard.unlink()
    with pytest.raises(ImageError, match=r"shard-00000\.tar is missing"):
        open_pictures([out])


def test_an_index_leads_nowhere_else(tmp_path, folder):
    out = tmp_path / "out"
    pack([str(folder)], out)
    index = json.loads((out / "index.json").read_text())
    for shards in ([{"file": "../out/shard-00000.tar"}], [{"file": str(out / "shard-00000.tar")}],
                   [{"file": ".."}], [{}], 3):  # fmt: skip
        (out / "index.json").write_text(json.dumps({**index, "shards": shards}))
        with pytest.raises(ImageError, match=r"missing|damaged"):
            open_pictures([out])
    (out / "index.json").write_text(json.dumps({**index, "format": "waterfill shards 2"}))
    with pytest.raises(ImageError, match="another version"):
        open_pictures([out])
    (out / "index.json").write_text('{"a stranger\'s": "index"}')
    (out / "shard-00000.json").unlink()
    assert len(open_pictures([out])) == 12


def test_crops_of_packed_pictures_are_those_of_the_pictures(tmp_path, folder):
    for path in (folder / "broken.jpg", folder / "sub1" / "6.jpg"):
        path.unlink()
    pack([str(folder)], tmp_path / "out", reduction=1.0)
    loose = CropSource(open_pictures([folder]), size=16, seed=0)
    packed = CropSource(open_pictures([tmp_path / "out"]), size=16, seed=0)
    for step in range(3):  # one shard, one group: even the order is the same
        np.testing.assert_array_equal(loose.batch(step, 8), packed.batch(step, 8))


def test_pictures_too_long_for_webp_are_stored_too(tmp_path, save):
    save(tmp_path / "in" / "long.png", 1, 16_500)
    pack([str(tmp_path / "in")], tmp_path / "out", reduction=1.0)
    packed = open_pictures([tmp_path / "out"])
    assert packed.name(0) == "long.png.png"
    np.testing.assert_array_equal(packed.pixels(0), open_pictures([tmp_path / "in"]).pixels(0))


def test_a_full_disk_leaves_whole_shards_alone(tmp_path, folder, monkeypatch):
    def full(files) -> None:
        raise WaterfillError("disk full")

    monkeypatch.setattr(packing, "write_all", full)
    with pytest.raises(WaterfillError, match="disk full"):
        pack([str(folder)], tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())
