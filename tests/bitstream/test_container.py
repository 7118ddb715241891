"""The container: a stream says what it is, and says so if anything happened to it."""

from __future__ import annotations

import struct
import tracemalloc
import zlib

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import waterfill as wf
from waterfill.bitstream import Container, Header, SymbolWriter
from waterfill.bitstream.container import HEADER_BYTES, MAX_TILE, SIZES_BYTES
from waterfill.data.images import MAX_PIXELS, MAX_SIDE, Picture

LAYOUT = struct.Struct("<3sB8sBHIIHI")
FIELDS = ["magic", "version", "weights_id", "flags", "quality", "width", "height"]
FIELDS += ["tile", "symbols_crc"]


def forged(data: bytes, **changes) -> bytes:
    """``data`` with other fields in its header and a checksum that fits them."""
    fields = dict(zip(FIELDS, LAYOUT.unpack_from(data), strict=True)) | changes
    head = LAYOUT.pack(*fields.values())
    body = data[HEADER_BYTES:]
    return head + struct.pack("<I", zlib.crc32(body, zlib.crc32(head))) + body


def refused(data: bytes) -> str:
    with pytest.raises(wf.BitstreamError) as caught:
        Container.unpack(data, max_pixels=MAX_PIXELS)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture(scope="module")
def codec():
    return wf.load_codec("tiny", pretrained=False)


@pytest.fixture(scope="module")
def stream(codec) -> bytes:
    rng = np.random.default_rng(3)
    return codec.compress(rng.integers(0, 256, (45, 37, 3), dtype=np.uint8), 5.5)


@given(
    weights=st.binary(min_size=8, max_size=8),
    quality=st.integers(256, 2048),
    width=st.integers(1, 5000),
    height=st.integers(1, 5000),
    grey=st.booleans(),
    crc=st.integers(0, 2**32 - 1),
    tile=st.integers(30, MAX_TILE // 32).map(lambda units: 32 * units),
    section=st.binary(max_size=50),
)
def test_what_is_packed_is_unpacked(weights, quality, width, height, grey, crc, tile, section):
    header = Header(weights, quality / 256, width, height, grey, tile, crc)
    sections = [(section[:k], section[k:]) for k in range(header.tile_count)]
    packed = Container(header, sections)
    data = packed.pack()
    assert len(data) == HEADER_BYTES + len(sections) * (SIZES_BYTES + len(section))
    assert Container.unpack(data, max_pixels=MAX_PIXELS) == packed


def test_a_stream_cut_anywhere_is_refused(stream):
    for length in range(len(stream)):
        refused(stream[:length])


def test_a_stream_with_something_after_it_is_refused(stream):
    assert "too long" in refused(stream + b"\0")
    refused(stream + stream)


def test_any_single_byte_altered_is_refused(stream):
    rng = np.random.default_rng(0)
    for where in range(len(stream)):
        for change in (1, 0x80, int(rng.integers(1, 256))):
            damaged = bytearray(stream)
            damaged[where] ^= change
            refused(bytes(damaged))


@given(st.binary(max_size=300))
def test_foreign_bytes_are_refused(data):
    refused(data)
    refused(b"WFL\x02" + data)


CLAIMS = [
    {"width": 0},
    {"height": 0},
    {"width": 0, "height": 0},
    {"width": 2**32 - 1, "height": 2**32 - 1},
    {"width": 2**16, "height": 2**16},
    {"width": MAX_PIXELS, "height": 1},
    {"width": 1, "height": MAX_PIXELS},
    {"width": MAX_SIDE + 1, "height": 1},
    {"width": 10_000, "height": 10_000},
    {"quality": 0},
    {"quality": 255},
    {"quality": 2049},
    {"quality": 65535},
    {"flags": 4},
    {"flags": 0x80},
    {"flags": 0xFF},
    {"version": 0},
    {"version": 1},
    {"version": 3},
    {"tile": 0},
    {"tile": MAX_TILE // 32 + 1},
    {"width": 2**14, "height": 2**14, "tile": 2**16 - 1},
    {"width": 7000, "height": 7000, "tile": 2},
    {"magic": b"WFM"},
]


@pytest.mark.parametrize(
    "claim", CLAIMS, ids=lambda claim: ",".join(f"{k}={v}" for k, v in claim.items())
)
def test_absurd_claims_with_a_fitting_checksum_are_refused_before_anything_is_allocated(
    stream, codec, claim
):
    data = forged(stream, **claim)
    tracemalloc.start()
    try:
        refused(data)
        with pytest.raises(wf.BitstreamError):
            wf.decompress(data, codec=codec)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 1 << 20


def test_unforged_it_is_accepted(stream):
    # Otherwise the refusals above might be refusals of the forger's mistakes.
    assert forged(stream) == stream
    Container.unpack(stream, max_pixels=MAX_PIXELS)


def test_a_tile_too_large_to_decode_is_refused_by_its_side(stream):
    # Of a picture this small it would do no harm; what a stream may say depends on nothing else.
    assert "tiles of 2080 pixels; at most 2048" in refused(forged(stream, tile=65))
    Container.unpack(forged(stream, tile=64), max_pixels=MAX_PIXELS)


@pytest.mark.parametrize(
    "claim",
    [
        {"width": 38},
        {"width": 65},
        {"height": 200},
        {"quality": 4 * 256},
        {"symbols_crc": 0},
        {"weights_id": b"someone."},
    ],
    ids=lambda claim: next(iter(claim)),
)
def test_a_header_of_another_picture_gives_an_error_or_the_same_latents(stream, codec, claim):
    # Sides within the same multiples of 64 hold the same latents: only then are there pixels.
    data = forged(stream, **claim)
    try:
        decoded = wf.decompress(data, codec=codec)
    except wf.BitstreamError:
        return
    assert claim == {"width": 38}
    assert decoded.size == (38, 45)


def test_sections_swapped_shortened_or_emptied_are_refused(stream, codec):
    header, ((z, y),) = Container.unpack(stream, max_pixels=MAX_PIXELS)
    for section in ((y, z), (z, b""), (b"", y), (z, y[:-1]), (z[:-1], y), (b"\xff" * 40, y)):
        with pytest.raises(wf.BitstreamError):
            wf.decompress(Container(header, [section]).pack(), codec=codec)


@settings(deadline=None, max_examples=25)
@given(z=st.binary(max_size=80), y=st.binary(max_size=200))
def test_garbage_in_a_well_formed_container_is_refused(stream, codec, z, y):
    header = Container.unpack(stream, max_pixels=MAX_PIXELS).header
    with pytest.raises(wf.BitstreamError):
        wf.decompress(Container(header, [(z, y)]).pack(), codec=codec)


@pytest.mark.parametrize("value", [np.iinfo(np.int32).min, np.iinfo(np.int32).max])
def test_the_most_extreme_symbols_still_decode_to_a_picture(codec, value):
    # No encoder writes these; someone who means harm can, with every checksum right.
    z_shape, y_shape = (16, 1, 1), (24, 4, 4)
    z, y = np.full(z_shape, value, np.int32), np.full(y_shape, value, np.int32)
    prior, main = codec.coded_prior(), SymbolWriter()

    def exchange(part, predicted):
        main.write(y, predicted.distribution)
        return torch.from_numpy(y).double()

    prior.walk(z, 4.0, y_shape, exchange)
    side = SymbolWriter()
    side.write(z, prior.z_distribution(z_shape, 4.0))
    crc = zlib.crc32(y.tobytes(), zlib.crc32(z.tobytes()))
    header = Header(codec.weights_id, 4.0, 60, 50, False, 1024, crc)
    section = (side.to_bytes(), main.to_bytes())
    decoded = wf.decompress(Container(header, [section]).pack(), codec=codec)
    assert (decoded.size, decoded.mode) == ((60, 50), "RGB")


@pytest.mark.parametrize(
    "size", [(1, 1), (1, 2), (2, 1), (1, 130), (130, 1), (63, 64), (64, 64), (65, 64), (17, 129)]
)
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_any_size_comes_back_as_the_encoder_saw_it(codec, size, mode):
    width, height = size
    shape = (height, width, 3) if mode == "RGB" else (height, width)
    rng = np.random.default_rng([width, height])
    image = Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8))
    data = codec.compress(image, 3.3)
    decoded = wf.decompress(data, codec=codec)
    assert (decoded.size, decoded.mode) == (size, mode)
    # Decoding is what the encoder's own latents synthesise to.
    latents = codec.latents(image, 3.3)
    pixels = codec.synthesise(latents.quantised.y_hat, 3.3, height, width)
    if mode == "L":
        pixels = np.rint(pixels.mean(axis=2, dtype=np.float64)).astype(np.uint8)
    np.testing.assert_array_equal(np.asarray(decoded), pixels)
    header = Container.unpack(data, max_pixels=MAX_PIXELS).header
    assert abs(header.quality - 3.3) <= 1 / 512


@pytest.mark.parametrize("shape", [(1, MAX_SIDE + 1), (MAX_SIDE + 1, 1)])
def test_a_side_no_stream_can_carry_is_refused_by_the_encoder(codec, shape):
    with pytest.raises(wf.ImageError, match="a side may have"):
        codec.compress(np.zeros(shape, np.uint8))


def test_picture_objects_and_arrays_compress_alike(codec):
    rng = np.random.default_rng(5)
    pixels = rng.integers(0, 256, (20, 30, 3), dtype=np.uint8)
    assert codec.compress(pixels) == codec.compress(Picture("x", pixels))
