"""Pictures in files and in tars, made on the spot."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


def noise_image(height: int, width: int, seed: int = 0) -> Image.Image:
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))


def _png(seed: int, height: int, width: int) -> bytes:
    stream = io.BytesIO()
    noise_image(height, width, seed).save(stream, "PNG")
    return stream.getvalue()


def _write_tar(
    path: Path, members: Sequence[tuple[str | tarfile.TarInfo, bytes]], **options: object
) -> Path:
    with tarfile.open(path, "w", **options) as tar:
        for name, data in members:
            member = name if isinstance(name, tarfile.TarInfo) else tarfile.TarInfo(name)
            if not isinstance(name, tarfile.TarInfo):
                member.size = len(data)
            tar.addfile(member, io.BytesIO(data) if data else None)
    return path


@pytest.fixture
def save() -> Callable[..., Path]:
    """``save(path, height, width, seed)`` writes a picture of noise."""

    def write(path: Path, height: int = 40, width: int = 40, seed: int = 0) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        noise_image(height, width, seed).save(path)
        return path

    return write


@pytest.fixture
def png() -> Callable[..., bytes]:
    """``png(seed)`` gives the bytes of a picture of noise."""

    def encoded(seed: int, height: int = 8, width: int = 8) -> bytes:
        return _png(seed, height, width)

    return encoded


@pytest.fixture
def write_tar() -> Callable[..., Path]:
    """``write_tar(path, [(name or TarInfo, bytes), ...])``."""
    return _write_tar


@pytest.fixture
def ten_shards(tmp_path, png) -> list[Path]:
    """Ten shards of three to twelve pictures, 75 in all."""
    paths, first = [], 0
    for k in range(10):
        members = [(f"{i}.png", png(i)) for i in range(first, first + 3 + k)]
        paths.append(_write_tar(tmp_path / f"{k:02}.tar", members))
        first += len(members)
    return paths
