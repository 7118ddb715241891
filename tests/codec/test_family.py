"""Every kind of codec: what is estimated is coded, what is coded comes back, all of it trains."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from family import FAMILY, member
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import waterfill as wf
from waterfill.bitstream.container import HEADER_BYTES, SIZES_BYTES
from waterfill.codec.channels import GaussianTest, Rounding, StraightThrough
from waterfill.codec.config import CodecConfig
from waterfill.codec.fixed_point import ACTIVATION_BITS
from waterfill.codec.model import Codec, finish
from waterfill.codec.noise import Noise
from waterfill.codec.priors.context import MaskedContext, _halves, _merged


@pytest.fixture(scope="module", params=list(FAMILY))
def codec(request: pytest.FixtureRequest) -> Codec:
    return member(request.param)


def shown_to(codec: Codec, photo: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return photo[..., 0] if codec.config.planes == 1 else photo


def test_files_cost_what_is_estimated_and_decode_to_the_encoders_pixels(
    codec: Codec, photo: NDArray[np.uint8]
) -> None:
    pixels = shown_to(codec, photo[:130, :190])
    latents = codec.latents(pixels)
    assert np.abs(latents.quantised.symbols).max() > 0, "nothing is coded: the test tests nothing"
    data = codec.compress(pixels)
    ideal = (latents.quantised.bits.sum() + latents.side_bits) / 8
    header = HEADER_BYTES + SIZES_BYTES
    assert ideal <= len(data) <= 1.001 * ideal + header + 24
    quality = codec.check_quality(None)
    expected = codec.synthesise(latents.quantised.y_hat, quality, 130, 190)
    decoded = np.asarray(wf.decompress(data, codec=codec).convert("RGB"))
    assert np.array_equal(decoded, expected)


def test_priors_look_at_parts_that_have_arrived_alone(
    codec: Codec, photo: NDArray[np.uint8]
) -> None:
    latents = codec.latents(shown_to(codec, photo[:96, :96]))
    found = latents.through(GaussianTest(), Noise(1))
    parts = int(found.part.max()) + 1
    assert (parts == 1) == (codec.config.context == "none")
    assert found.part.unique().tolist() == list(range(parts))
    for number in {0, parts // 2, parts - 1}:
        now = found.part >= number
        y = torch.where(now, latents.y + 9.0, latents.y)
        other = dataclasses.replace(latents, y=y).through(GaussianTest(), Noise(1))
        assert torch.equal(other.part, found.part)
        for before, after in ((found.mu, other.mu), (found.sigma, other.sigma)):
            assert torch.equal(before[found.part <= number], after[found.part <= number])


def test_the_pipeline_of_training_estimates_the_files_bits(
    codec: Codec, photo: NDArray[np.uint8]
) -> None:
    pixels = shown_to(codec, photo)
    x = torch.from_numpy(pixels.astype(np.float32) / 255.0)
    x = x[None, None] if x.ndim == 2 else x.permute(2, 0, 1)[None]
    quality = torch.tensor([codec.check_quality(None)])
    with torch.no_grad():
        passage = codec(x, quality, Rounding(), Noise([0]))
    # A masked context approximates in training what coding does in order.
    exact = 0.02 if codec.config.context == "masked" else 0.005
    coded = codec.latents(pixels).quantised.bits.sum()
    assert float(passage.y_bits) == pytest.approx(coded, rel=exact)


def test_every_parameter_learns(codec: Codec) -> None:
    side = codec.config.alignment
    x = torch.rand(2, codec.config.planes, 2 * side, side)
    quality = torch.full((2,), codec.check_quality(None))
    passage = codec(x, quality, StraightThrough(), Noise([1, 2]))
    (passage.y_bits.sum() + passage.z_bits.sum() + passage.x_hat.square().sum()).backward()
    silent = [
        name
        for name, parameter in codec.named_parameters()
        if parameter.requires_grad and parameter.grad is None
    ]
    codec.zero_grad(set_to_none=True)
    assert silent == []


def test_other_channels_cross_with_contexts_of_their_own(
    codec: Codec, photo: NDArray[np.uint8]
) -> None:
    latents = codec.latents(shown_to(codec, photo[:64, :64]))
    first = latents.through(GaussianTest(), Noise(1))
    again = latents.through(GaussianTest(), Noise(1))
    assert torch.equal(first.y_hat, again.y_hat)
    assert bool(torch.isfinite(first.bits).all())
    rounded = latents.through(Rounding(), Noise(1))
    if codec.config.mixtures == 1 and codec.config.side != "none":
        # Rounding as a channel is what is coded, but for the widths of tables.
        assert torch.equal(rounded.y_hat, latents.quantised.y_hat)
        coded = latents.quantised.bits.sum()
        assert float(rounded.bits.sum()) == pytest.approx(coded, rel=2e-3, abs=1e-3)


def test_threads_and_the_order_of_sums_change_no_symbol(
    codec: Codec, photo: NDArray[np.uint8]
) -> None:
    pixels = shown_to(codec, photo[:64, :128])
    data = codec.compress(pixels)
    latents, quality = codec.latents(pixels), codec.check_quality(None)
    expected = codec.synthesise(latents.quantised.y_hat, quality, 64, 128).astype(np.int16)
    threads = torch.get_num_threads()
    try:
        for count in (1, 2, 4):
            torch.set_num_threads(count)
            decoded = np.asarray(wf.decompress(data, codec=codec).convert("RGB"), np.int16)
            assert np.abs(decoded - expected).max() <= 1  # the synthesis is in floating point
    finally:
        torch.set_num_threads(threads)


CODECS = {name: member(name) for name in ("mean-scale", "masked", "attention", "space-channel")}


@settings(deadline=None, max_examples=60)
@given(
    name=st.sampled_from(list(CODECS)),
    height=st.integers(1, 90),
    width=st.integers(1, 90),
    quality=st.floats(1, 8),
    content=st.sampled_from(["noise", "flat", "ramp", "checks"]),
    grey=st.booleans(),
    seed=st.integers(0, 999),
)
def test_any_picture_comes_back(
    name: str, height: int, width: int, quality: float, content: str, grey: bool, seed: int
) -> None:
    codec, rng = CODECS[name], np.random.default_rng(seed)
    rows, columns = np.indices((height, width))
    plane = {
        "noise": rng.integers(0, 256, (height, width)),
        "flat": np.full((height, width), rng.integers(0, 256)),
        "ramp": (rows * 3 + columns * 2) % 256,
        "checks": 255 * ((rows // 3 + columns // 5) % 2),
    }[content].astype(np.uint8)
    pixels = plane if grey else np.stack([plane, plane[::-1], 255 - plane], 2)
    latents = codec.latents(pixels, quality)
    decoded = wf.decompress(codec.compress(pixels, quality), codec=codec)
    assert (decoded.size, decoded.mode) == ((width, height), "L" if grey else "RGB")
    expected = codec.synthesise(latents.quantised.y_hat, latents.quality, height, width)
    expected = finish(expected, grey=grey).pixels
    assert np.array_equal(np.asarray(decoded.convert("RGB")), expected)


@pytest.mark.parametrize("name", ["masked", "conditional"])
def test_torchs_default_type_makes_no_difference(name: str, photo: NDArray[np.uint8]) -> None:
    codec = member(name)
    codec.tile = 64
    expected = codec.compress(photo[:64, :96], 4.3, effort=1)
    codec = member(name)
    codec.tile = 64
    torch.set_default_dtype(torch.float64)
    try:
        assert codec.compress(photo[:64, :96], 4.3, effort=1) == expected
        codec.decompress(expected)
    finally:
        torch.set_default_dtype(torch.float32)


def test_a_quality_that_is_not_covered_is_refused(photo: NDArray[np.uint8]) -> None:
    codec = member("one-rate")
    assert len(codec.compress(photo)) == len(codec.compress(photo, 3))
    with pytest.raises(wf.QualityError, match="quality 3 alone, not 4"):
        codec.compress(photo, 4)


def test_a_codec_of_grey_pictures_refuses_colours(photo: NDArray[np.uint8]) -> None:
    with pytest.raises(wf.ImageError, match="grey pictures alone"):
        member("digits").compress(photo)


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"side": "none"}, "one quality"),
        ({"side": "scale", "context": "masked"}, "means"),
        ({"mixtures": 3}, "masked"),
        ({"mixtures": 0}, "mixtures"),
        ({"pairs": (1, 4)}, "of the transform 'klt', not of 'table1'"),
        ({"pairs": (0, 3), "transform": "klt"}, "pairs must be two integers"),
        ({"pairs": (True, 3), "transform": "klt"}, "pairs must be two integers"),
        ({"pairs": 3, "transform": "klt"}, "pairs must be two integers"),
        ({"transform": "attention", "n": 7}, "even"),
        ({"linear_scale": 1}, "true or false"),
        ({"conditional": 1, "transform": "klt"}, "true or false"),
        ({"conditional": True}, "'klt' and the context 'space-channel', not 'table1' and 'none'"),
        ({"conditional": True, "transform": "klt", "qualities": (3, 3)}, "one quality"),
        ({"context": "space-channel", "linear_scale": True}, "log"),
    ],
)
def test_what_does_not_compose_is_refused(changes: dict[str, object], what: str) -> None:
    with pytest.raises(ValueError, match=what):
        CodecConfig(**({"n": 8, "m": 8} | changes))  # type: ignore[arg-type]


def test_a_masked_context_sees_nothing_of_what_comes_later() -> None:
    torch.manual_seed(0)
    context = MaskedContext(3, 6).double()
    features = torch.randn(1, 6, 6, 7, dtype=torch.float64)
    y = torch.randn(1, 3, 6, 7, dtype=torch.float64)
    with torch.no_grad():
        before = context.parameters_given(features, y)
        for row, column in ((0, 0), (2, 3), (5, 6)):
            changed = y.clone()
            changed[..., row, column] += 1.0
            moved = (context.parameters_given(features, changed) != before).any(1)[0]
            later = torch.zeros(6, 7, dtype=torch.bool)
            later[row, column + 1 :] = True
            later[row + 1 :] = True
            assert not (moved & ~later).any()


def test_a_wavefront_predicts_what_a_masked_convolution_does() -> None:
    torch.manual_seed(0)
    context = MaskedContext(4, 8)
    one = 2.0**ACTIVATION_BITS
    features = torch.round(torch.randn(8, 5, 9, dtype=torch.float64) * one)
    y_hat = torch.round(4 * torch.randn(4, 5, 9, dtype=torch.float64) * one)
    known = torch.zeros_like(y_hat)
    found = torch.zeros(8, 5, 9, dtype=torch.float64)
    steps = 0
    for part, parameters in context.coded().walk(features, known):
        part.put(found, parameters)
        part.put(known, part.take(y_hat))
        steps += 1
    assert torch.equal(known, y_hat)
    assert steps == 9 + 3 * 5 - 3
    with torch.no_grad():
        whole = context.double().parameters_given(features[None] / one, y_hat[None] / one)
    assert torch.allclose(found / one, whole[0].double(), atol=2e-3)


@pytest.mark.parametrize("shape", [(2, 4), (4, 4), (3, 8, 12)])
def test_a_checkerboard_comes_apart_and_together(shape: tuple[int, ...]) -> None:
    x = torch.arange(int(np.prod(shape))).reshape(shape)
    first, second = _halves(x)
    i, j = np.indices(shape[-2:])
    even = torch.from_numpy((i + j) % 2 == 0)
    assert sorted(first.flatten().tolist()) == sorted(x[..., even].flatten().tolist())
    assert torch.equal(_merged(first, second), x)


def test_an_untrained_space_channel_context_adds_nothing(photo: NDArray[np.uint8]) -> None:
    torch.manual_seed(3)
    plain = Codec(CodecConfig(8, 40, 8)).eval()
    with_context = Codec(dataclasses.replace(plain.config, context="space-channel")).eval()
    with_context.load_state_dict(with_context.state_dict() | plain.state_dict())
    expected, found = (c.latents(photo).quantised for c in (plain, with_context))
    assert np.array_equal(expected.symbols, found.symbols)
    assert np.array_equal(expected.bits, found.bits)
