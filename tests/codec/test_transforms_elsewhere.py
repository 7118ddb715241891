"""Transforms compute where a codec's weights are; what decides a symbol's probability does not."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np
import pytest
import torch
from family import FAMILY, member
from numpy.typing import NDArray
from other_device import Away, other_device

import waterfill as wf
from waterfill.codec import complexity
from waterfill.codec.config import CodecConfig
from waterfill.codec.model import Codec
from waterfill.codec.noise import Noise
from waterfill.codec.registry import codec_at, save_codec
from waterfill.devices import full_precision
from waterfill.errors import WaterfillError
from waterfill.evaluation import measure as evaluation
from waterfill.ladder import measure as ladder_measure
from waterfill.ladder import subjects as ladder


@pytest.fixture
def away(monkeypatch: pytest.MonkeyPatch) -> Iterator[torch.device]:
    with other_device(monkeypatch, alone=False) as device:
        yield device


@pytest.mark.parametrize("name", FAMILY)
def test_streams_and_pictures_are_the_same_anywhere(
    name: str, photo: NDArray[np.uint8], request: pytest.FixtureRequest
) -> None:
    codec, picture = member(name), photo[:70, :90]
    if codec.config.planes == 1:
        picture = picture[..., 0]
    data = codec.compress(picture, effort=1)
    decoded = codec.decompress(data).pixels
    device = request.getfixturevalue("away")
    codec.to(device)
    assert codec.device == device
    assert isinstance(next(codec.parameters()), Away)
    assert codec.compress(picture, effort=1) == data
    assert np.array_equal(codec.decompress(data).pixels, decoded)


def test_a_ladder_is_the_same_and_says_where(
    tiny: Codec, photo: NDArray[np.uint8], request: pytest.FixtureRequest, tmp_path: Any
) -> None:
    save_codec(tiny, tmp_path / "codec.safetensors", {})
    codec = wf.load_codec(str(tmp_path / "codec.safetensors"))
    here = wf.limits(codec, [photo[:64, :64]], 4.0)
    assert here.environment["device"] == "cpu"
    codec.to(request.getfixturevalue("away"))
    there = wf.limits(codec, [photo[:64, :64]], 4.0)
    assert there.environment["device"] == "meta"
    figures = ["bpp", "psnr", "ms_ssim"]
    assert here.to_frame()[figures].equals(there.to_frame()[figures])


def test_what_a_ladder_takes_gradients_of_is_in_full_precision(
    tiny: Codec, photo: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
) -> None:
    inside: list[torch.device] = []
    taken: list[bool] = []

    @contextmanager
    def full(device: torch.device) -> Iterator[None]:
        inside.append(device)
        yield
        inside.pop()

    def sensitivity(*given: Any, **more: Any) -> torch.Tensor:
        taken.append(inside == [tiny.device])
        return measured(*given, **more)

    measured = ladder_measure.sensitivity
    monkeypatch.setattr(ladder_measure, "full_precision", full)
    monkeypatch.setattr(ladder_measure, "sensitivity", sensitivity)
    ladder_measure._levels(ladder.OwnCodec(tiny), ladder.Setting(4.0, price=0.01), 8, 0)
    assert taken == [True]


def test_what_is_kept_of_one_kind_of_device_is_not_found_for_another(
    request: pytest.FixtureRequest,
) -> None:
    codec = wf.load_codec()
    rows, files = ladder.OwnCodec(codec).identity(), evaluation.OwnCodec(codec).version()
    codec.to(request.getfixturevalue("away"))
    assert ladder.OwnCodec(codec).identity() == rows | {"device": "meta"}
    assert evaluation.OwnCodec(codec).version() == f"{files}, on meta"


def test_reach_is_found_on_the_processor(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A GPU's convolutions by Fourier transforms would spread a NaN over all of a picture."""
    codec = Codec(CodecConfig(8, 12, 8))
    codec.to(request.getfixturevalue("away"))
    analysis, places = Codec._analysis, []

    def told(self: Codec, x: torch.Tensor, quality: torch.Tensor) -> torch.Tensor:
        places.append(next(self.parameters()).device.type)
        return analysis(self, x, quality)

    monkeypatch.setattr(Codec, "_analysis", told)
    drawn = torch.random.get_rng_state()
    found = codec.reach
    assert torch.equal(torch.random.get_rng_state(), drawn)
    assert found == Codec(CodecConfig(8, 12, 8)).reach
    assert set(places) == {"cpu"}


def test_complexity_is_counted_where_a_codec_is(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    codec = Codec(CodecConfig(8, 12, 8))
    here, places = codec.complexity(), []

    def noise(seed: int, device: torch.device | str = "cpu") -> Noise:
        places.append(device)  # a generator draws on its own device alone
        return Noise(seed)

    monkeypatch.setattr(complexity, "Noise", noise)
    # The stand-in for a GPU has no mixed precision to leave.
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())
    codec.to(request.getfixturevalue("away"))
    assert codec.complexity() == here
    assert places == [codec.device]


def test_a_codec_is_loaded_to_where_it_is_asked_for() -> None:
    assert codec_at("default", None, "cpu:0").device.type == "cpu"
    with pytest.raises(WaterfillError, match="can't compute on device 'cuda:99' here"):
        codec_at("default", None, "cuda:99")


def test_convolutions_are_exact_as_long_as_one_thread_needs_it() -> None:
    cudnn: Any = torch.backends.cudnn

    def settings() -> tuple[bool, bool]:
        return cudnn.deterministic, cudnn.allow_tf32

    before = settings()
    entered, leave = threading.Event(), threading.Event()

    def work() -> None:
        with full_precision(torch.device("cuda")):
            entered.set()
            leave.wait(10)

    thread = threading.Thread(target=work)
    with full_precision(torch.device("cuda")):
        thread.start()
        entered.wait(10)
        assert settings() == (True, False)
    assert settings() == (True, False)
    leave.set()
    thread.join()
    assert settings() == before == (False, True)
    with full_precision(torch.device("cpu")):
        assert settings() == before


@pytest.mark.skipif(not hasattr(torch.backends.cudnn, "conv"), reason="torch before 2.9")
@pytest.mark.parametrize(("kind", "own"), [("conv", "ieee"), ("matmul", "tf32"), ("all", "tf32")])
def test_precisions_that_a_program_has_set_are_set_aside(kind: str, own: str) -> None:
    cudnn: Any = torch.backends.cudnn
    matmul: Any = torch.backends.cuda.matmul
    place: Any = {"conv": cudnn.conv, "matmul": matmul, "all": torch.backends}[kind]

    def settings() -> list[str]:
        return [one.fp32_precision for one in (cudnn.conv, cudnn.rnn, matmul)]

    at_first = place.fp32_precision
    try:
        place.fp32_precision = own
        before = settings()
        with full_precision(torch.device("cuda")):
            assert "tf32" not in settings()
            assert cudnn.deterministic
        assert settings() == before
        assert not cudnn.deterministic
    finally:
        place.fp32_precision = at_first


@pytest.mark.parametrize("own", ["high", "medium"])
def test_matrix_products_are_exact_where_a_program_wants_them_fast(own: str) -> None:
    at_first = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision(own)
        with full_precision(torch.device("cuda")):
            assert not torch.backends.cuda.matmul.allow_tf32
            assert torch.get_float32_matmul_precision() == "highest"
        assert torch.backends.cuda.matmul.allow_tf32
        assert torch.get_float32_matmul_precision() == own
    finally:
        torch.set_float32_matmul_precision(at_first)
