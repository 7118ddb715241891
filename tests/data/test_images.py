"""Pictures in: what is supported is read exactly, the rest refused in one line."""

from __future__ import annotations

import os
import struct
import tracemalloc
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO, StringIO
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from waterfill.data.images import (
    MAX_PIXELS,
    MAX_SIDE,
    Picture,
    as_picture,
    decode_picture,
    find_images,
    load_picture,
    pictures_in,
    sample_pictures,
    to_picture,
)
from waterfill.errors import ImageError


def noise(height: int, width: int, planes: int = 3, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    shape = (height, width, planes) if planes > 1 else (height, width)
    return rng.integers(0, 256, shape, dtype=np.uint8)


def png(kind: int, depth: int, width: int, height: int, rows: bytes) -> bytes:
    def chunk(name: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    head = struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0)
    body = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def png16(kind: int, planes: int) -> bytes:
    """A 16-bit PNG: PNG colour type 0 grey, 2 RGB, 4 grey and alpha, 6 RGB and alpha."""
    row = b"\0" + b"\xff\xfe" * (planes * 4)
    return png(kind, 16, 4, 3, row * 3)


def tiff16() -> bytes:
    """A 2×2 RGB TIFF of 16 bits per sample."""
    bits, pixels = struct.pack("<3H", 16, 16, 16), bytes(range(24))
    place = 8 + 2 + 12 * 9 + 4
    entries = [
        (256, 3, 1, 2), (257, 3, 1, 2), (258, 3, 3, place), (259, 3, 1, 1), (262, 3, 1, 2),
        (273, 4, 1, place + len(bits)), (277, 3, 1, 3), (278, 3, 1, 2), (279, 4, 1, len(pixels)),
    ]  # fmt: skip
    directory = b"".join(struct.pack("<HHII", *entry) for entry in entries)
    return b"II*\0" + struct.pack("<IH", 8, 9) + directory + bytes(4) + bits + pixels


def jp2_deep(planes: int, bits: int) -> bytes:
    """A JPEG 2000 file that says its samples have so many bits, as its codestream says it."""
    buffer = BytesIO()
    Image.fromarray(noise(8, 8, planes)).save(buffer, "JPEG2000")
    content = bytearray(buffer.getvalue())
    sizes = content.index(b"\xff\x4f\xff\x51") + 4
    content[sizes + 38 : sizes + 38 + 3 * planes : 3] = bytes([bits - 1]) * planes
    return bytes(content)


def refused(path: Path) -> str:
    with pytest.raises(ImageError) as caught:
        load_picture(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return message


@pytest.mark.parametrize("suffix", ["png", "bmp", "ppm", "tif", "webp", "jp2"])
@pytest.mark.parametrize("planes", [1, 3])
def test_lossless_files_come_back_exactly(tmp_path, suffix, planes):
    pixels = noise(13, 9, planes)
    path = tmp_path / f"a.{suffix}"
    options = {"lossless": True} if suffix == "webp" else {}
    Image.fromarray(pixels).save(path, **options)
    picture = load_picture(path)
    assert picture.grey == (planes == 1 and suffix != "webp")  # WebP knows no grey
    assert (picture.height, picture.width, picture.pixel_count) == (13, 9, 117)
    expected = pixels if planes == 3 else np.repeat(pixels[..., None], 3, axis=2)
    np.testing.assert_array_equal(picture.pixels, expected)


def test_a_picture_is_read_in_bands_not_copied_whole(tmp_path):
    pixels = noise(3000, 100)
    Image.fromarray(pixels).save(tmp_path / "a.bmp")
    load_picture(tmp_path / "a.bmp")
    tracemalloc.start()
    picture = load_picture(tmp_path / "a.bmp")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    np.testing.assert_array_equal(picture.pixels, pixels)
    assert peak < 1.5 * pixels.nbytes


def test_a_picture_of_one_pixel_and_of_one_bit(tmp_path):
    Image.new("RGB", (1, 1), (1, 2, 3)).save(tmp_path / "a.png")
    assert load_picture(tmp_path / "a.png").pixels.tolist() == [[[1, 2, 3]]]
    Image.new("1", (3, 2), 1).save(tmp_path / "b.png")
    picture = load_picture(tmp_path / "b.png")
    assert picture.grey
    assert (picture.pixels == 255).all()


@pytest.mark.parametrize("mode", ["LA", "RGBA", "P"])
def test_opaque_alpha_and_palettes_are_read_and_transparency_refused(tmp_path, mode):
    base = noise(6, 5, 1) if mode == "LA" else noise(6, 5)
    image = Image.fromarray(base)
    if mode == "P":
        opaque, image = image.quantize(8), image.quantize(8)
        expected = np.asarray(opaque.convert("RGB"))
        opaque.save(tmp_path / "opaque.png")
        image.save(tmp_path / "clear.png", transparency=0)
    else:
        image.putalpha(255)
        expected = base if mode == "RGBA" else np.repeat(base[..., None], 3, axis=2)
        image.save(tmp_path / "opaque.png")
        image.putalpha(Image.fromarray(np.where(np.eye(6, 5) > 0, 254, 255).astype(np.uint8)))
        image.save(tmp_path / "clear.png")
    picture = load_picture(tmp_path / "opaque.png")
    np.testing.assert_array_equal(picture.pixels, expected)
    assert picture.grey == (mode == "LA")
    assert "transparency" in refused(tmp_path / "clear.png")


def test_pictures_are_turned_upright(tmp_path):
    pixels = noise(4, 7)
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held sideways
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(load_picture(tmp_path / "a.png").pixels, np.rot90(pixels, -1))


DEEP = {
    "grey.png": png16(0, 1),
    "rgb.png": png16(2, 3),
    "grey-alpha.png": png16(4, 2),
    "rgba.png": png16(6, 4),
    "rgb.tif": tiff16(),
    "rgb.ppm": b"P6 2 2 65535\n" + bytes(range(24)),
    "grey.pgm": b"P5 2 2 65535\n" + bytes(range(8)),
    "grey.jp2": jp2_deep(1, 9),
    "rgb.jp2": jp2_deep(3, 16),
}


@pytest.mark.parametrize("name", DEEP)
def test_more_than_eight_bits_are_refused_not_cut(tmp_path, name):
    (tmp_path / name).write_bytes(DEEP[name])
    assert "8 bits" in refused(tmp_path / name)


def test_the_same_files_of_eight_bits_are_read(tmp_path):
    # The refusals above are about depth, not about what the tests write.
    (tmp_path / "a.png").write_bytes(png(2, 8, 4, 3, (b"\0" + bytes(range(12))) * 3))
    assert load_picture(tmp_path / "a.png").pixels[0, 0].tolist() == [0, 1, 2]
    (tmp_path / "a.ppm").write_bytes(b"P6 2 2 255\n" + bytes(range(12)))
    assert load_picture(tmp_path / "a.ppm").pixels[0, 0].tolist() == [0, 1, 2]


def test_sixteen_bits_for_a_whole_pixel_are_no_depth_to_refuse(tmp_path):
    # A BMP with 5, 6 and 5 bits for red, green and blue.
    masks = struct.pack("<III", 0xF800, 0x07E0, 0x001F)
    head = struct.pack("<IiiHHIIiiII", 40, 2, 1, 1, 16, 3, 4, 0, 0, 0, 0) + masks
    pixels = struct.pack("<HH", 0xF800, 0x001F)
    path = tmp_path / "a.bmp"
    path.write_bytes(b"BM" + struct.pack("<IHHI", 70, 0, 0, 66) + head + pixels)
    assert load_picture(path).pixels.tolist() == [[[255, 0, 0], [0, 0, 255]]]


@pytest.mark.parametrize("suffix", ["gif", "png", "webp", "tif"])
def test_animations_and_pages_are_refused(tmp_path, suffix):
    frames = [Image.fromarray(noise(8, 8, seed=k)) for k in range(3)]
    frames[0].save(tmp_path / f"a.{suffix}", save_all=True, append_images=frames[1:])
    assert "animated" in refused(tmp_path / f"a.{suffix}")


@pytest.mark.parametrize(
    ("mode", "suffix"),
    [("CMYK", "jpg"), ("CMYK", "tif"), ("F", "tif"), ("I", "tif"), ("LAB", "tif")],
)
def test_other_colour_spaces_are_refused(tmp_path, mode, suffix):
    Image.new(mode, (8, 8)).save(tmp_path / f"a.{suffix}")
    refused(tmp_path / f"a.{suffix}")


def test_what_is_no_picture_is_refused(tmp_path):
    for name, content in {
        "empty.png": b"",
        "text.png": b"hello\n" * 50,
        "zeros.png": bytes(5000),
        "stream.png": b"WFL\x01" + bytes(100),
        "header.png": b"\x89PNG\r\n\x1a\n",
    }.items():
        (tmp_path / name).write_bytes(content)
        refused(tmp_path / name)
    (tmp_path / "folder.png").mkdir()
    assert "not a file" in refused(tmp_path / "folder.png")
    assert "no such file" in refused(tmp_path / "missing.png")
    refused(tmp_path / "text.png" / "below.png")
    refused(tmp_path / ("long" * 100 + ".png"))


@pytest.mark.parametrize("kind", ["EPS", "PCX", "TGA", "ICO"])
def test_readers_of_other_formats_stay_shut(tmp_path, kind):
    # Whatever the suffix says: one of Pillow's readers runs Ghostscript on its input.
    Image.fromarray(noise(16, 16)).save(tmp_path / "a.png", kind)
    assert "supported format" in refused(tmp_path / "a.png")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
def test_a_pipe_nobody_writes_to_does_not_hang(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    assert "not a file" in refused(tmp_path / "pipe.png")


@pytest.mark.parametrize(
    "size", [(MAX_SIDE + 1, 1), (1, MAX_SIDE + 1), (60_000, 60_000), (2**31 - 1, 2**31 - 1)]
)
def test_claims_of_huge_size_are_refused_before_decoding(tmp_path, size):
    (tmp_path / "a.png").write_bytes(png(2, 8, *size, b""))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        refused(tmp_path / "a.png")
    (tmp_path / "a.bmp").write_bytes(
        b"BM" + struct.pack("<IIIIiiHHIIIIII", 54, 0, 54, 40, *size, 1, 24, 0, 0, 0, 0, 0, 0)
    )
    refused(tmp_path / "a.bmp")


FILES = {}
for _suffix in ("png", "jpg", "gif", "bmp", "tif", "webp", "ppm", "jp2"):
    _buffer = BytesIO()
    Image.fromarray(noise(24, 20)).save(_buffer, Image.registered_extensions()["." + _suffix])
    FILES[_suffix] = _buffer.getvalue()


@pytest.mark.parametrize("suffix", FILES)
@settings(deadline=None, max_examples=40)
@given(data=st.data())
def test_damaged_files_give_a_picture_or_one_line(tmp_path_factory, suffix, data):
    content = bytearray(FILES[suffix])
    place = st.integers(0, min(len(content) - 1, 400))
    for where, value in data.draw(st.lists(st.tuples(place, st.integers(0, 255)), max_size=6)):
        content[where] = value
    cut = data.draw(st.one_of(st.none(), st.integers(0, len(content))))
    path = tmp_path_factory.getbasetemp() / f"damaged.{suffix}"
    path.write_bytes(content[:cut])
    try:
        picture = load_picture(path)
    except ImageError:
        refused(path)
    else:
        assert picture.pixels.dtype == np.uint8
        assert picture.pixels.shape[2] == 3


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((4, 4, 3), np.float32),
        np.zeros((4, 4, 3), np.uint16),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((4, 4, 2), np.uint8),
        np.zeros((1, 4, 4, 3), np.uint8),
        np.zeros(4, np.uint8),
        np.zeros((), np.uint8),
        np.zeros((0, 4, 3), np.uint8),
        np.zeros((4, 0), np.uint8),
        np.broadcast_to(np.uint8(0), (MAX_PIXELS // 1000 + 1, 1000)),
        np.broadcast_to(np.uint8(0), (1, MAX_SIDE + 1, 3)),
    ],
    ids=lambda a: f"{a.shape}{a.dtype}",
)
def test_arrays_of_other_shapes_are_refused(array):
    with pytest.raises(ImageError):
        to_picture(array)


def test_arrays_may_lie_in_memory_as_they_like():
    pixels = noise(8, 6)
    for view in (pixels[::-1, ::-1], pixels[::2], np.asfortranarray(pixels), pixels[..., ::-1]):
        picture = to_picture(view)
        np.testing.assert_array_equal(picture.pixels, view)
        assert picture.pixels.flags.c_contiguous


@pytest.mark.parametrize("planes", [1, 3])
def test_a_picture_may_be_handed_over_as_tensor_bytes_or_stream(tmp_path, planes):
    pixels = noise(13, 9, planes)
    expected = to_picture(pixels)
    standing = torch.from_numpy(pixels.reshape(13, 9, planes).copy())
    path = tmp_path / "a.png"
    Image.fromarray(pixels).save(path)
    data = path.read_bytes()
    with path.open("rb") as stream:
        items = [standing, standing.permute(2, 0, 1), data, bytearray(data), memoryview(data)]
        items += [BytesIO(data), stream, path, str(path), Image.open(path)]
        items += [standing[..., 0]] if planes == 1 else []
        for item in items:
            found = as_picture(item)
            np.testing.assert_array_equal(found.pixels, expected.pixels)
            assert found.grey == (planes == 1)


@pytest.mark.parametrize(
    ("item", "reason"),
    [
        (torch.rand(3, 8, 8), r"dtype uint8, not float32; .*x \* 255"),
        (torch.zeros(3, 8, 3, dtype=torch.uint8), r"\(3, 8, 3\) may lie either way"),
        (torch.zeros(1, 3, 8, 8, dtype=torch.uint8), r"not \(1, 3, 8, 8\)"),
        (torch.zeros(2, 8, 8, dtype=torch.uint8), "must be"),
        (None, "NoneType is no picture"),
        ([[1, 2]], "list is no picture"),
        (4, "int is no picture"),
        (StringIO("text"), "StringIO is no picture"),
        (b"text", "supported format"),
        (BytesIO(), "supported format"),
    ],
    ids=str,
)
def test_what_else_is_handed_over_is_named_in_one_line(item, reason):
    with pytest.raises(ImageError, match=f"^image: .*{reason}") as caught:
        as_picture(item)
    assert "\n" not in str(caught.value)
    closed = BytesIO()
    closed.close()
    with pytest.raises(ImageError, match="BytesIO: can't be read"):
        as_picture(closed)


def test_an_image_whose_file_is_cut_or_closed_is_named_in_one_line():
    image = Image.open(BytesIO(FILES["png"][:300]))
    with pytest.raises(ImageError, match=r"^image: can't be read \(.*truncated"):
        as_picture(image)
    image.close()
    with pytest.raises(ImageError, match=r"^image: can't be read"):
        as_picture(image)


def test_pictures_in_are_one_or_many_files_of_folders_and_bytes_of_streams(tmp_path):
    paths = [tmp_path / name for name in ("a.png", "b.png")]
    for path in paths:
        Image.fromarray(noise(4, 4)).save(path)
    array, tensor = noise(4, 4), torch.from_numpy(noise(4, 5))
    assert pictures_in(tmp_path) == pictures_in(f"{tmp_path}/*.png") == paths
    rest = [path for path in paths if path != paths[1]]
    assert pictures_in([str(paths[1]), tmp_path]) == [paths[1], *rest]  # each file once
    data = paths[0].read_bytes()
    assert pictures_in(BytesIO(data)) == pictures_in([BytesIO(data)]) == pictures_in(data) == [data]
    for alone in (array, tensor, to_picture(array), Image.fromarray(array), None):
        (found,) = pictures_in(alone)
        assert found is alone
    assert len(pictures_in(item for item in (array, tensor))) == 2
    assert pictures_in([]) == []


@pytest.mark.parametrize("planes", [1, 3])
def test_to_pil_is_the_inverse(planes):
    image = Image.fromarray(noise(5, 4, planes))
    again = to_picture(image).to_pil()
    assert again.mode == image.mode
    assert again.tobytes() == image.tobytes()


def test_find_images_takes_files_folders_and_globs_once_each_and_sorted(tmp_path):
    for name in ("b.png", "a.JPG", "sub/deep/c.tiff", "note.txt", "[odd] näme é.png"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    (tmp_path / "trap.png").mkdir()
    everything = find_images([tmp_path])
    names = [str(p.relative_to(tmp_path)) for p in everything]
    assert names == ["[odd] näme é.png", "a.JPG", "b.png", "sub/deep/c.tiff"]
    assert find_images([tmp_path / "b.png", tmp_path, str(tmp_path / "*.png")]) == [
        tmp_path / "b.png", everything[0], everything[1], everything[3],
    ]  # fmt: skip
    assert find_images([str(tmp_path / "**" / "*.tiff")]) == [everything[3]]
    # A file named outright is taken at its word, whatever its suffix.
    assert find_images([tmp_path / "note.txt"]) == [tmp_path / "note.txt"]


def test_globs_take_pictures_and_look_into_folders(tmp_path):
    for name in ("a.png", "note.txt", "sub/b.png", "sub/more.txt"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"x")
    pictures = [tmp_path / "a.png", tmp_path / "sub" / "b.png"]
    assert find_images([str(tmp_path / "*")]) == pictures
    assert find_images([str(tmp_path / "s*")]) == pictures[1:]
    with pytest.raises(ImageError, match="no pictures there"):
        find_images([str(tmp_path / "*.txt")])


def test_find_images_says_what_is_missing(tmp_path):
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(ImageError, match="no pictures in this folder"):
        find_images([tmp_path])
    for missing in ("nowhere", "*.png", "a.txt/b.png", "[", "x" * 400):
        with pytest.raises(ImageError, match="no such file"):
            find_images([tmp_path / missing])


def test_the_samples_are_pictures():
    for picture in sample_pictures():
        assert isinstance(picture, Picture)
        assert picture.pixels.dtype == np.uint8
        assert min(picture.height, picture.width) >= 256


def test_a_picture_in_memory_is_read_as_its_file(tmp_path):
    Image.fromarray(noise(9, 7)).save(tmp_path / "a.png")
    data = (tmp_path / "a.png").read_bytes()
    picture = decode_picture(data, "a")
    assert picture.name == "a"
    np.testing.assert_array_equal(picture.pixels, load_picture(tmp_path / "a.png").pixels)
    for cut in (0, 8, len(data) // 2):
        with pytest.raises(ImageError, match=r"^a: "):
            decode_picture(data[:cut], "a")


def test_pillow_warns_nobody_from_any_thread_and_the_filters_come_back():
    image = Image.fromarray(noise(40, 40)).quantize(8)
    stream = BytesIO()
    image.save(stream, "PNG", transparency=b"\xff" * 8)
    data = stream.getvalue()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UserWarning):  # what these tests are about still exists
            Image.open(BytesIO(data)).convert("RGB")
        before = list(warnings.filters)
        with ThreadPoolExecutor(8) as pool:
            sizes = {p.width for p in pool.map(lambda _: decode_picture(data, "a"), range(200))}
        assert sizes == {40}
        assert warnings.filters == before
