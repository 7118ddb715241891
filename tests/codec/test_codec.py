"""Files: what is estimated is what gets coded, and what is decoded is what was encoded."""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import waterfill as wf
from waterfill.bitstream import Container
from waterfill.bitstream.container import HEADER_BYTES
from waterfill.codec.config import CodecConfig
from waterfill.codec.gains import LAMBDAS, lambda_of_quality
from waterfill.codec.model import Codec, finish
from waterfill.data.images import to_picture


def decoded_by_encoder(
    codec: Codec, pixels: NDArray[np.uint8], quality: float
) -> NDArray[np.uint8]:
    latents = codec.latents(pixels, quality)
    return codec.synthesise(latents.quantised.y_hat, quality, *pixels.shape[:2])


@pytest.mark.parametrize(
    "size", [(1, 1), (1, 70), (64, 64), (65, 63), (129, 40), (3, 500), (192, 256)]
)
@pytest.mark.parametrize("quality", [1, 4.3, 8])
def test_any_size_decodes_to_the_encoders_pixels(
    tiny: Codec, photo: NDArray[np.uint8], size: tuple[int, int], quality: float
) -> None:
    pixels = np.ascontiguousarray(np.resize(photo, (*size, 3)))
    data = tiny.compress(pixels, quality)
    image = np.asarray(wf.decompress(data, codec=tiny))
    assert np.array_equal(tiny.decompress(data).pixels, image)
    assert image.shape == pixels.shape
    assert np.array_equal(image, decoded_by_encoder(tiny, pixels, round(quality * 256) / 256))


@pytest.mark.parametrize("quality", [1, 2.5, 4, 8])
def test_file_size_is_the_ideal_code_length_but_for_the_header(
    tiny: Codec, photo: NDArray[np.uint8], quality: float
) -> None:
    latents = tiny.latents(photo, quality)
    ideal = (latents.quantised.bits.sum() + latents.side_bits) / 8
    size = len(tiny.compress(photo, quality))
    assert ideal <= size <= 1.005 * ideal + 64


def test_grey_stays_grey(tiny: Codec, photo: NDArray[np.uint8]) -> None:
    image = wf.decompress(tiny.compress(photo[..., 0], 4), codec=tiny)
    assert image.mode == "L"
    assert image.size == (256, 192)


def test_grey_takes_no_memory_beyond_the_pixels() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (500, 300, 3), dtype=np.uint8)
    expected = np.rint(pixels.mean(axis=2))
    tracemalloc.start()
    picture = finish(pixels, grey=True)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert np.array_equal(picture.pixels, np.repeat(expected[..., None], 3, axis=2))
    assert peak < pixels.nbytes // 8


def test_bytes_do_not_depend_on_threads(tiny: Codec, photo: NDArray[np.uint8]) -> None:
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        data = tiny.compress(photo, 4)
        (alone,) = {y_hat.numpy().tobytes() for y_hat in tiny.unpack(_container(data))}
        torch.set_num_threads(2)
        (both,) = {y_hat.numpy().tobytes() for y_hat in tiny.unpack(_container(data))}
    finally:
        torch.set_num_threads(threads)
    assert alone == both


def _container(data: bytes) -> Container:
    return Container.unpack(data, max_pixels=10**6)


def test_padding_is_not_charged_to_the_pixel_count(photo: NDArray[np.uint8]) -> None:
    assert to_picture(photo[:65, :63]).pixel_count == 65 * 63


def test_a_higher_quality_spends_more(tiny: Codec, photo: NDArray[np.uint8]) -> None:
    sizes = [len(tiny.compress(photo, quality)) for quality in (1, 2.5, 4, 6, 8)]
    assert sizes == sorted(sizes)


def test_lambda_runs_through_the_published_values() -> None:
    assert [lambda_of_quality(q) for q in range(1, 9)] == pytest.approx(LAMBDAS)
    assert LAMBDAS[2] < lambda_of_quality(3.5) < LAMBDAS[3]


@pytest.mark.parametrize("quality", [0, 0.99, 8.01, float("nan"), float("inf")])
def test_quality_out_of_range_is_refused(
    tiny: Codec, photo: NDArray[np.uint8], quality: float
) -> None:
    with pytest.raises(ValueError, match="quality"):
        tiny.compress(photo, quality)


@pytest.mark.parametrize("quality", ["high", "4", True, np.True_, [4], object()])
def test_what_is_no_quality_is_refused_in_one_line(
    tiny: Codec, photo: NDArray[np.uint8], quality: Any
) -> None:
    with pytest.raises(wf.QualityError, match="quality must be a number"):
        tiny.compress(photo, quality)


def test_a_codec_of_a_quality_that_streams_cannot_carry_codes_at_the_nearest(
    photo: NDArray[np.uint8],
) -> None:
    pixels = photo[:64, :64]
    for ends in ((4.001, 4.001), (1.2, 6.0)):
        codec = Codec(CodecConfig(n=4, m=4, hyper=4, qualities=ends))
        assert codec.check_quality(ends[0]) == round(256 * ends[0]) / 256
        wf.decompress(codec.compress(pixels, ends[0]), codec=codec)
        with pytest.raises(wf.QualityError):
            codec.check_quality(ends[0] - 0.01)


@pytest.mark.parametrize("side", [96, 100, 16, 0, -64, 2112, 8192, 1 << 22])
def test_tiles_that_no_stream_could_tell_are_refused(side: int, photo: NDArray[np.uint8]) -> None:
    codec = Codec(CodecConfig(n=4, m=4, hyper=4))
    codec.tile = side
    with pytest.raises(wf.WaterfillError, match="tile must be a multiple of 64"):
        codec.compress(photo[:32, :32])


def test_effort_is_a_whole_number(tiny: Codec, photo: NDArray[np.uint8]) -> None:
    piece = photo[:16, :16]
    wanted = tiny.compress(piece, 4, effort=2)
    assert tiny.compress(piece, 4, effort=np.int64(2)) == wanted  # type: ignore[arg-type]
    for effort in (1.5, 2.0, "2", None):
        with pytest.raises(wf.QualityError, match="effort must be a whole number, not"):
            tiny.compress(piece, 4, effort=effort)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def stream(tiny: Codec, photo: NDArray[np.uint8]) -> bytes:
    return tiny.compress(photo[:40, :60], 3)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.differing_executors])
@given(data=st.data())
def test_one_altered_byte_anywhere_is_refused(
    tiny: Codec, stream: bytes, data: st.DataObject
) -> None:
    where = data.draw(st.integers(0, len(stream) - 1))
    change = data.draw(st.integers(1, 255))
    altered = bytearray(stream)
    altered[where] ^= change
    with pytest.raises(wf.BitstreamError):
        wf.decompress(bytes(altered), codec=tiny)


def test_every_cut_is_refused(tiny: Codec, stream: bytes) -> None:
    for length in range(len(stream)):
        with pytest.raises(wf.BitstreamError):
            wf.decompress(stream[:length], codec=tiny)
    with pytest.raises(wf.BitstreamError, match="too long"):
        wf.decompress(stream + b"\0", codec=tiny)


def test_a_stream_of_other_weights_is_refused(stream: bytes) -> None:
    other = wf.load_codec("tiny", pretrained=False)
    other.weights_id = b"\1" * 8
    with pytest.raises(wf.BitstreamError, match="made by the codec"):
        wf.decompress(stream, codec=other)


def test_symbols_that_decode_to_something_else_are_refused(tiny: Codec, stream: bytes) -> None:
    container = _container(stream)
    ((z, y),) = container.sections
    swapped = container._replace(sections=[(z, y[::-1])])
    with pytest.raises(wf.BitstreamError, match=r"latents|symbols"):
        wf.decompress(swapped.pack(), codec=tiny)


def test_changed_weights_need_no_update(photo: NDArray[np.uint8]) -> None:
    codec = wf.load_codec("tiny", pretrained=False)
    codec.compress(photo, 4)  # tables of the old weights are known now
    with torch.no_grad():
        for parameter in codec.prior.parameters():
            parameter.mul_(1.05)
    data = codec.compress(photo, 4)
    fresh = wf.load_codec("tiny", pretrained=False)
    with torch.no_grad():
        for parameter in fresh.prior.parameters():
            parameter.mul_(1.05)
    assert data == fresh.compress(photo, 4)
    wf.decompress(data, codec=fresh)


def test_broken_weights_are_named(photo: NDArray[np.uint8]) -> None:
    codec = wf.load_codec("tiny", pretrained=False)
    with torch.no_grad():
        codec.g_a[0].weight[0, 0, 0, 0] = float("nan")
    with pytest.raises(wf.CodecError, match="not finite"):
        codec.compress(photo, 4)


@pytest.mark.parametrize(
    ("name", "value", "what"),
    [
        ("gains.log2_gain", 6e4, "a gain is beyond all numbers"),
        ("gains.log2_inverse", 300.0, "the decoded picture is not finite"),
        ("g_a.0.bias", float("nan"), "in tiles: the network looks further"),
    ],
)
def test_weights_that_are_numbers_may_still_be_broken(
    name: str, value: float, what: str, photo: NDArray[np.uint8]
) -> None:
    codec = wf.load_codec("tiny", pretrained=False)
    codec.tile = 64
    with torch.no_grad():
        codec.get_parameter(name).fill_(value)
    with pytest.raises(wf.CodecError, match=what):
        codec.compress(photo[:64, : 128 if "g_a" in name else 64], 4, effort=1)


def test_header_is_all_the_overhead_there_is(tiny: Codec) -> None:
    flat = np.full((1, 1, 3), 128, np.uint8)
    latents = tiny.latents(flat, 1)
    ideal = (latents.quantised.bits.sum() + latents.side_bits) / 8
    assert len(tiny.compress(flat, 1)) <= ideal + HEADER_BYTES + 16


@pytest.mark.parametrize("kind", [torch.float16, torch.float64])
def test_weights_of_another_precision_are_refused_in_one_line(
    kind: torch.dtype, photo: NDArray[np.uint8]
) -> None:
    codec = wf.load_codec("tiny", pretrained=False)
    data = codec.compress(photo[:32, :32])
    codec.to(kind)
    for use in (lambda: codec.compress(photo), lambda: wf.decompress(data, codec=codec)):
        with pytest.raises(wf.CodecError, match=r"float(16|64), not float32"):
            use()


def test_what_is_no_name_is_no_codec() -> None:
    for item in (None, 3):
        with pytest.raises(wf.CodecError, match="is neither a codec's name nor a path"):
            wf.load_codec(item)  # type: ignore[arg-type]
