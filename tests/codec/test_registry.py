"""Codecs by name and file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from numpy.typing import NDArray

import waterfill as wf
from waterfill.codec.model import Codec
from waterfill.codec.registry import PRESETS, save_codec


def test_a_saved_codec_codes_like_another_load_of_it(
    tiny: Codec, tmp_path: Path, photo: NDArray[np.uint8]
) -> None:
    path = tmp_path / "codec.safetensors"
    save_codec(tiny, path, {"steps": "0"})
    first, second = wf.load_codec(path), wf.load_codec(str(path))
    assert first.weights_id == second.weights_id != bytes(8)
    data = first.compress(photo, 4)
    assert data == second.compress(photo, 4)
    wf.decompress(data, codec=second)


def test_untrained_codecs_are_seeded_and_leave_the_generator_alone() -> None:
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    first = wf.load_codec("tiny", pretrained=False)
    assert torch.equal(torch.rand(3), expected)
    second = wf.load_codec("tiny", pretrained=False)
    for a, b in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b)


def test_table1_has_the_papers_widths() -> None:
    config = PRESETS["table1"]
    assert (config.n, config.m, config.hyper) == (192, 192, 192)
    codec = wf.load_codec("table1", pretrained=False)
    assert codec.g_a[0].weight.shape == (192, 3, 5, 5)
    assert codec.g_s[-1].weight.shape == (192, 3, 5, 5)


def test_unknown_names_and_missing_weights_say_so() -> None:
    with pytest.raises(wf.CodecError, match="neither a file nor"):
        wf.load_codec("no-such-codec")
    with pytest.raises(wf.CodecError, match="no weights are bundled"):
        wf.load_codec("table1")


def test_files_that_are_no_codec_are_refused(tmp_path: Path, tiny: Codec) -> None:
    path = tmp_path / "codec.safetensors"
    for content in (b"", b"text", b"\xff" * 64, safetensors.torch.save({"a": torch.zeros(2)})):
        path.write_bytes(content)
        with pytest.raises(wf.CodecError, match="not the weights"):
            wf.load_codec(path)
    save_codec(tiny, path, {})
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(wf.CodecError, match="not the weights"):
        wf.load_codec(path)


def test_wrong_shapes_and_nan_are_refused(tmp_path: Path, tiny: Codec) -> None:
    path = tmp_path / "codec.safetensors"
    state = tiny.state_dict()
    metadata = {"waterfill.codec": "2", "config": '{"n": 16, "m": 24, "hyper": 16}'}

    def write(**changes: torch.Tensor | None) -> None:
        tensors = {k: v.half() for k, v in {**state, **changes}.items() if v is not None}
        path.write_bytes(safetensors.torch.save(tensors, metadata))

    write(**{"g_a.0.bias": torch.zeros(17)})
    with pytest.raises(wf.CodecError, match="don't fit"):
        wf.load_codec(path)
    write(**{"g_a.0.bias": None})
    with pytest.raises(wf.CodecError, match="don't fit"):
        wf.load_codec(path)
    write(**{"g_a.0.bias": torch.full((16,), float("nan"))})
    with pytest.raises(wf.CodecError, match="not finite"):
        wf.load_codec(path)
    metadata["config"] = '{"n": -3, "m": 24, "hyper": 16}'
    write()
    with pytest.raises(wf.CodecError, match="n must be"):
        wf.load_codec(path)
