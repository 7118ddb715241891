"""Tiles: a large picture in pieces has the latents and pixels of the whole."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from family import member
from numpy.typing import NDArray

import waterfill as wf
from waterfill.bitstream import Container
from waterfill.codec.model import Codec, finish
from waterfill.codec.tiles import Tile, reach_of, tiles_of
from waterfill.data.images import MAX_PIXELS, sample_pictures, to_picture

SIDE = 128


@pytest.fixture
def cut(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Codec]:
    """A member of the family that works in small tiles."""

    def with_small_tiles(name: str) -> Codec:
        codec = member(name)
        monkeypatch.setattr(codec, "tile", SIDE)
        return codec

    return with_small_tiles


@pytest.fixture(scope="module")
def scene() -> NDArray[np.uint8]:
    (picture,) = sample_pictures(["astronaut"])
    return np.ascontiguousarray(picture.pixels[:300, :400])


def test_tiles_cover_every_pixel_once() -> None:
    counts = np.zeros((257, 300), int)
    for tile in tiles_of(257, 300, 64):
        counts[tile.top : tile.bottom, tile.left : tile.right] += 1
    assert (counts == 1).all()
    assert tiles_of(5, 7) == [Tile(0, 0, 5, 7)]


@pytest.mark.parametrize("name", ["mean-scale", "attention", "klt", "factorized", "digits"])
@pytest.mark.parametrize("size", [(300, 400), (129, 60), (128, 256)])
def test_there_are_no_seams(
    name: str, size: tuple[int, int], scene: NDArray[np.uint8], cut: Callable[[str], Codec]
) -> None:
    codec, (height, width) = cut(name), size
    pixels = np.ascontiguousarray(scene[:height, :width])
    picture = to_picture(pixels[..., 0] if codec.config.planes == 1 else pixels)
    data = codec.compress(picture)
    container = Container.unpack(data, max_pixels=MAX_PIXELS)
    tiles = tiles_of(height, width, SIDE)
    assert container.header.tile_count == len(tiles) > 1

    whole, cell = codec.latents(picture), codec.config.stride
    y_hat = torch.zeros_like(whole.y)
    with torch.no_grad():
        for tile, received in zip(tiles, codec.unpack(container), strict=True):
            part = codec._latents_of(picture, tile, whole.quality)
            rows, columns = (
                slice(start // cell, start // cell + length)
                for start, length in zip((tile.top, tile.left), part.y.shape[1:], strict=True)
            )
            assert torch.allclose(part.y, whole.y[:, rows, columns], atol=1e-4)
            y_hat[:, rows, columns] = received
    expected = codec.synthesise(y_hat, whole.quality, height, width)
    expected = finish(expected, grey=picture.grey).pixels
    decoded = np.asarray(wf.decompress(data, codec=codec).convert("RGB"))
    # Sums may be made in another order, and end on the other side of a rounding.
    difference = np.abs(decoded.astype(int) - expected)
    assert difference.max() <= 1
    assert (difference > 0).mean() < 1e-3


def test_a_network_says_how_far_it_looks() -> None:
    three = torch.nn.Conv2d(1, 1, 3, padding=1)
    assert reach_of(three, 1, cell=1, up=True, limit=8) == 1
    dilated = torch.nn.Conv2d(1, 1, 3, padding=3, dilation=3)
    assert reach_of(dilated, 1, cell=1, up=True, limit=8) == 3
    halves = torch.nn.Conv2d(1, 1, 5, stride=2, padding=2)
    assert reach_of(halves, 1, cell=2, up=False, limit=8) == 1
    with pytest.raises(ValueError, match="further than 3"):
        reach_of(torch.nn.Conv2d(1, 1, 9, padding=4), 1, cell=1, up=True, limit=3)


def test_a_damaged_tile_is_found(scene: NDArray[np.uint8], cut: Callable[[str], Codec]) -> None:
    codec = cut("mean-scale")
    container = Container.unpack(codec.compress(scene), max_pixels=MAX_PIXELS)
    sections = list(container.sections)
    sections[0], sections[-1] = sections[-1], sections[0]
    with pytest.raises(wf.BitstreamError):
        wf.decompress(container._replace(sections=sections).pack(), codec=codec)


def test_tiles_that_are_measured_are_those_that_are_coded(
    scene: NDArray[np.uint8], cut: Callable[[str], Codec]
) -> None:
    codec = cut("scale")
    picture = to_picture(scene)
    tiles = list(codec.tiles(picture, 4.0))
    assert len(tiles) == len(tiles_of(300, 400, SIDE))
    data = codec.pack(picture, tiles, 4.0)
    assert data == codec.compress(picture, 4.0)
    shown = codec.assemble([tile.quantised.y_hat for tile in tiles], 4.0, 300, 400)
    assert np.array_equal(np.asarray(wf.decompress(data, codec=codec)), shown)


def test_a_tile_that_does_not_fit_the_codec_is_refused(scene: NDArray[np.uint8]) -> None:
    codec = member("mean-scale")
    container = Container.unpack(codec.compress(scene[:64, :64]), max_pixels=MAX_PIXELS)
    header = container.header.__class__(**{**container.header.__dict__, "tile": 96})
    with pytest.raises(wf.BitstreamError, match="tiles of 96"):
        wf.decompress(container._replace(header=header).pack(), codec=codec)
