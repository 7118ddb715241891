"""A set may be larger than memory: pictures are held as many as are at work, and those shown."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

import waterfill as wf
from waterfill.codec.model import Codec
from waterfill.data.images import Picture, load_picture
from waterfill.evaluation import measure as evaluation
from waterfill.ladder import measure as ladder

THREADS, COUNT, SHOWN = 2, 10, 4


@pytest.fixture(autouse=True)
def _two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(THREADS)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def paths(photo: NDArray[np.uint8], tmp_path: Path) -> list[Path]:
    found = [tmp_path / f"{k:02}.png" for k in range(COUNT)]
    for k, path in enumerate(found):
        Image.fromarray(photo[k : k + 32, 3 * k : 3 * k + 32]).save(path)
    return found


class Held:
    """Reads pictures, and knows how many of them were in memory at a time."""

    def __init__(self) -> None:
        self.pixels: list[weakref.ref[NDArray[np.uint8]]] = []
        self.most = 0

    def __call__(self, path: Path, name: str = "") -> Picture:
        picture = load_picture(path)
        self.pixels.append(weakref.ref(picture.pixels))
        self.most = max(self.most, sum(pixels() is not None for pixels in list(self.pixels)))
        return picture


def check_limits(codec: Codec, paths: list[Path], held: Held, shards: Path | None) -> None:
    found = wf.limits(codec, paths, 4, shards=shards)
    assert len(found.exhibits) == SHOWN
    assert len(held.pixels) >= 2 * COUNT  # the survey, and the rungs


def check_evaluate(codec: Codec, paths: list[Path], held: Held, shards: Path | None) -> None:
    found = evaluation.evaluate(paths, ["jpeg"], shards=shards)
    assert len({row.image for row in found.rows}) == COUNT


@pytest.mark.parametrize(
    ("check", "kept"), [(check_limits, True), (check_evaluate, False), (check_evaluate, True)]
)
def test_pictures_come_and_go(
    check: Callable[[Codec, list[Path], Held, Path | None], None],
    kept: bool,
    paths: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if kept:
        pytest.importorskip("pyarrow")
    codec = wf.load_codec(Path(__file__).parent / "codec" / "golden" / "mean-scale.safetensors")
    held = Held()
    monkeypatch.setattr(ladder, "as_picture", held)
    monkeypatch.setattr(evaluation, "load_picture", held)
    check(codec, paths, held, tmp_path / "shards" if kept else None)
    assert 0 < held.most <= 2 * THREADS + 1 + SHOWN < COUNT
