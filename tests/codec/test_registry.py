"""Codecs by name and file."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from io import BytesIO, StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from numpy.typing import NDArray

import waterfill as wf
from waterfill.codec import registry
from waterfill.codec.config import CodecConfig
from waterfill.codec.identity import identity
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


def test_saving_again_makes_the_same_file_and_other_facts_the_same_identity(
    tiny: Codec, tmp_path: Path, photo: NDArray[np.uint8]
) -> None:
    facts = {f"fact {k}": str(k) for k in range(8)}
    turned = dict(reversed(facts.items()))
    paths = [tmp_path / f"{k}.safetensors" for k in range(3)]
    for path, told in zip(paths, (facts, turned, {"seconds": "7 ½"}), strict=True):
        save_codec(tiny, path, told)
    one, again, other = (path.read_bytes() for path in paths)
    assert one == again != other
    assert [registry.read_codec(data, "")[1] for data in (one, other)] == [
        facts,
        {"seconds": "7 ½"},
    ]
    data = wf.load_codec(paths[0]).compress(photo[:24, :24])
    assert wf.decompress(data, codec=paths[2]) == wf.decompress(data, codec=paths[0])
    for path in paths:  # the library reads what we wrote
        assert safetensors.torch.load_file(path).keys() >= tiny.state_dict().keys()


@pytest.mark.parametrize(
    "copied",
    [
        copy.deepcopy,
        lambda codec: pickle.loads(pickle.dumps(codec)),
        lambda codec: copy.deepcopy(codec)._apply(torch.clone),  # as to another device
    ],
)
def test_a_copy_codes_by_the_tables_of_the_file(
    copied: Callable[[Codec], Codec], tiny: Codec, tmp_path: Path, photo: NDArray[np.uint8]
) -> None:
    path = tmp_path / "codec.safetensors"
    save_codec(tiny, path, {})
    tensors = safetensors.torch.load_file(path)
    for name in tensors:  # as a machine with other exponentials would have computed them
        if name.endswith("first"):
            tensors[name] += 1
    with safetensors.safe_open(path, "pt") as file:
        safetensors.torch.save_file(tensors, path, file.metadata())
    codec = wf.load_codec(path)
    copies = [copied(codec)]
    data = codec.compress(photo, 4)
    for one in (*copies, copied(codec)):
        assert one.compress(photo, 4) == data
        one.decompress(data)
    assert copied(copied(tiny)).compress(photo, 4) == tiny.compress(photo, 4)


def test_identity_is_of_the_architecture_and_of_every_tensor(tiny: Codec, tmp_path: Path) -> None:
    path = tmp_path / "codec.safetensors"
    save_codec(tiny, path, {})
    tensors = safetensors.torch.load_file(path)
    expected = identity(tiny.config, tensors)
    assert wf.load_codec(path).weights_id == expected
    assert identity(tiny.config, dict(reversed(tensors.items()))) == expected
    assert identity(CodecConfig(**tiny.config.to_dict()), tensors) == expected
    found = {expected, identity(replace(tiny.config, centred=False), tensors)}
    for name, tensor in tensors.items():  # probability tables among them
        changed = tensor.clone()
        changed.view(-1)[-1] += 1
        found.add(identity(tiny.config, tensors | {name: changed}))
    bias = tensors.pop("g_a.0.bias")
    for name, tensor in (
        ("g_a.0.bias", bias.float()),
        ("g_a.0.bias", bias.view(torch.int16)),
        ("g_a.0.bias", bias[None]),
        ("g_a.0.Bias", bias),
    ):
        found.add(identity(tiny.config, tensors | {name: tensor}))
    assert len(found) == 2 + len(tensors) + 1 + 4


def test_identity_is_the_same_on_a_machine_that_stores_high_bytes_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    values = torch.tensor([1, 2], dtype=torch.int16)
    expected = identity(CodecConfig(), {"a": values})
    monkeypatch.setattr("sys.byteorder", "big")
    assert identity(CodecConfig(), {"a": 256 * values}) == expected


def test_a_stream_is_bytes_or_a_file_and_its_codec_may_be_named(
    tiny: Codec, tmp_path: Path, photo: NDArray[np.uint8]
) -> None:
    weights, path = tmp_path / "codec.safetensors", tmp_path / "a.wfl"
    save_codec(tiny, weights, {})
    codec = wf.load_codec(weights)
    data = codec.compress(photo[:40, :50])
    path.write_bytes(data)
    expected = np.asarray(wf.decompress(data, codec=codec))
    with path.open("rb") as stream:
        for item in (bytearray(data), memoryview(data), path, str(path), BytesIO(data), stream):
            assert np.array_equal(np.asarray(wf.decompress(item, codec=codec)), expected)
    for name in (weights, str(weights)):
        assert np.array_equal(np.asarray(wf.decompress(data, codec=name)), expected)
    own = wf.load_codec().compress(photo[:16, :16])
    assert wf.decompress(own, codec="default").tobytes() == wf.decompress(own).tobytes()


@pytest.mark.parametrize(
    ("data", "codec", "reason"),
    [
        ("missing.wfl", None, "missing.wfl: no such file"),
        (Path("."), None, ".: is not a file"),
        (None, None, "NoneType is no stream"),
        (4, None, "int is no stream"),
        (StringIO("text"), None, "StringIO is no stream"),
        (memoryview(b"text"), None, "not a waterfill stream"),
        (None, "nonsense", "NoneType is no stream"),
    ],
)
def test_what_is_no_stream_is_named_in_one_line(data: Any, codec: Any, reason: str) -> None:
    with pytest.raises(wf.BitstreamError, match=reason) as caught:
        wf.decompress(data, codec=codec)
    assert "\n" not in str(caught.value)


def test_what_is_no_codec_is_named_in_one_line(tiny: Codec, photo: NDArray[np.uint8]) -> None:
    data = tiny.compress(photo[:16, :16])
    with pytest.raises(wf.CodecError, match="neither a file nor"):
        wf.decompress(data, codec="nonsense")
    with pytest.raises(wf.CodecError, match="int is no codec"):
        wf.decompress(data, codec=4)  # type: ignore[arg-type]


def test_the_bundled_codec_is_read_once_and_nobody_else_can_change_it(
    photo: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs = wf.load_codec()
    data = theirs.compress(photo[:24, :24])
    expected = wf.decompress(data).tobytes()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.zero_()
    monkeypatch.setattr(registry, "load_codec", lambda: pytest.fail("read again"))
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: wf.decompress(data).tobytes(), range(8)))
    assert set(found) == {expected}


def test_a_codec_is_loaded_in_inference_mode_as_outside_of_it(photo: NDArray[np.uint8]) -> None:
    registry._default.cache_clear()
    data = wf.load_codec().compress(photo[:24, :24])
    with torch.inference_mode():
        inside = wf.decompress(data).tobytes()
        assert wf.load_codec().compress(photo[:24, :24]) == data
    assert wf.decompress(data).tobytes() == inside


def test_inference_mode_makes_no_difference(photo: NDArray[np.uint8]) -> None:
    with torch.inference_mode():
        codec = wf.load_codec("tiny", pretrained=False)
        data = codec.compress(photo[:64, :64], 4, effort=1)
    assert codec.compress(photo[:64, :64], 4, effort=1) == data
    codec.decompress(data)


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


def test_unknown_names_and_missing_weights_say_so(tmp_path: Path) -> None:
    with pytest.raises(wf.CodecError, match=r"neither a file nor .* weights \(default\)$"):
        wf.load_codec("no-such-codec")
    with pytest.raises(wf.CodecError, match=r"neither a file nor .* name \(default, table1, "):
        wf.load_codec("no-such-codec", pretrained=False)
    with pytest.raises(wf.CodecError, match="states its own qualities"):
        wf.load_codec("tiny", pretrained=False, quality=4)
    (tmp_path / "file").write_bytes(b"some weights")
    with pytest.raises(wf.CodecError, match="is a file of weights"):
        wf.load_codec(tmp_path / "file", pretrained=False)
    with pytest.raises(wf.CodecError, match="neither a file nor"):
        wf.load_codec(tmp_path)
    (tmp_path / "codec.safetensors").touch()
    with pytest.raises(wf.CodecError, match=r"is a folder; its weights are .*codec\.safetensors"):
        wf.load_codec(tmp_path)
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


@pytest.mark.parametrize("config", ["[" * 100_000, '{"qualities": [1, 1' + "0" * 400 + "]}"])
def test_a_header_made_to_do_harm_is_refused(config: str) -> None:
    metadata = {"waterfill.codec": "2", "config": config}
    data = safetensors.torch.save({"a": torch.zeros(2)}, metadata)
    with pytest.raises(wf.CodecError, match="not the weights"):
        registry.read_codec(data, "weights")


def test_a_type_that_torch_hardly_knows_is_read_or_refused(tiny: Codec, tmp_path: Path) -> None:
    path = tmp_path / "codec.safetensors"
    save_codec(tiny, path, {})
    with safetensors.safe_open(path, "pt") as file:
        metadata = file.metadata()
    tensors = safetensors.torch.load_file(path)
    bias = tensors["g_a.0.bias"].to(torch.float8_e4m3fn)
    data = safetensors.torch.save({**tensors, "g_a.0.bias": bias}, metadata)
    codec, _ = registry.read_codec(data, "weights")
    assert torch.equal(codec.state_dict()["g_a.0.bias"], bias.float())
    for name in ("g_a.0.bias", next(name for name in tensors if name.startswith("coding."))):
        data = safetensors.torch.save({**tensors, name: tensors[name].to(torch.cfloat)}, metadata)
        with pytest.raises(wf.CodecError, match=f"weights: {name} holds complex numbers"):
            registry.read_codec(data, "weights")
    bias = torch.full((16,), torch.nan).to(torch.float8_e4m3fn)
    data = safetensors.torch.save({**tensors, "g_a.0.bias": bias}, metadata)
    with pytest.raises(wf.CodecError, match="not finite"):
        registry.read_codec(data, "weights")
