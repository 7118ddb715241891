"""The cache: what it gives back is what was put in, or nothing."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from waterfill.data.images import Picture
from waterfill.errors import WaterfillError
from waterfill.evaluation.cache import Cache, default_folder, fingerprint

KEY = {"pixels": "ab", "codec": "jpeg", "setting": {"quality": 5}}
ROW = {"bytes": 17, "psnr": math.inf, "ms_ssim": 0.1 + 0.2}


def file_of(cache: Cache) -> Path:
    (found,) = [path for path in cache.folder.rglob("*") if path.is_file()]
    return found


def test_a_measurement_comes_back_exactly_and_only_under_its_key(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "made" / "here")
    assert cache.get(KEY) is None
    cache.put(KEY, ROW)
    assert Cache(cache.folder).get(dict(reversed(KEY.items()))) == ROW
    assert cache.get(KEY | {"codec": "webp"}) is None
    assert cache.get(KEY | {"setting": {"quality": 6}}) is None


def test_nan_survives(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    cache.put(KEY, {"ms_ssim": math.nan})
    found = cache.get(KEY)
    assert found is not None
    assert math.isnan(found["ms_ssim"])


def test_no_damaged_entry_is_trusted(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    cache.put(KEY, ROW)
    file = file_of(cache)
    whole = file.read_bytes()
    for cut in range(len(whole) - 1):
        file.write_bytes(whole[:cut])
        assert cache.get(KEY) is None
    refused = 0
    for place in range(len(whole) - 1):
        for bit in (1, 16):
            file.write_bytes(bytes([*whole[:place], whole[place] ^ bit, *whole[place + 1 :]]))
            found = cache.get(KEY)
            assert found is None or found == ROW
            refused += found is None
    assert refused > 1.9 * (len(whole) - 1)
    cache.put(KEY, ROW)
    assert cache.get(KEY) == ROW


@pytest.mark.parametrize(
    "content", ["[]", "null", "{}", '{"key":1,"row":2,"sha256":3}', "[" * 9999]
)
def test_no_foreign_file_is_trusted(tmp_path: Path, content: str) -> None:
    cache = Cache(tmp_path)
    cache.put(KEY, ROW)
    file_of(cache).write_text(content)
    assert cache.get(KEY) is None


def test_an_entry_of_another_key_is_not_trusted(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    cache.put(KEY, ROW)
    file = file_of(cache)
    about = json.loads(file.read_text())
    about["key"]["codec"] = "webp"
    file.write_text(json.dumps(about))
    assert cache.get(KEY) is None


def test_the_folder_follows_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_folder() == tmp_path / "waterfill"
    assert Cache().folder.is_dir()
    for value in ("", "relative"):
        monkeypatch.setenv("XDG_CACHE_HOME", value)
        monkeypatch.setenv("HOME", str(tmp_path / "home"))
        assert default_folder() == tmp_path / "home/.cache/waterfill"


def test_a_cache_that_cannot_be_written_is_refused_in_one_line(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    for folder in (file, file / "below"):
        with pytest.raises(WaterfillError, match="can't be created") as refusal:
            Cache(folder)
        assert "\n" not in str(refusal.value)
    if os.geteuid():
        locked = tmp_path / "locked"
        locked.mkdir(mode=0o500)
        with pytest.raises(WaterfillError, match="can't be written"):
            Cache(locked)


def test_fingerprints_tell_pixels_sizes_and_kinds_apart() -> None:
    pixels = np.arange(36, dtype=np.uint8).reshape(2, 6, 3)
    variants: list[Any] = [
        Picture("a", pixels),
        Picture("a", np.ascontiguousarray(pixels.reshape(6, 2, 3))),
        Picture("a", pixels + 1),
        Picture("a", pixels, grey=True),
    ]
    assert len({fingerprint(one) for one in variants}) == 4
    assert fingerprint(Picture("b", pixels)) == fingerprint(variants[0])
