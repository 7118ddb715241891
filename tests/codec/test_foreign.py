"""Weights made elsewhere compute here what they compute there, and code."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

import waterfill as wf
from waterfill.bitstream import Container
from waterfill.bitstream.container import HEADER_BYTES
from waterfill.cli import run
from waterfill.codec.densities import Gaussian
from waterfill.codec.foreign import from_compressai, is_checkpoint
from waterfill.codec.model import Codec
from waterfill.codec.priors import MaskedContext
from waterfill.codec.registry import save_codec

PEER = Path(__file__).with_name("peer")
ARCHITECTURES = {
    "bmshj2018-factorized": ("table1", "none", "none"),
    "bmshj2018-hyperprior": ("table1", "scale", "none"),
    "mbt2018-mean": ("table1", "mean-scale-wide", "none"),
    "mbt2018": ("table1", "mean-scale-wide", "masked"),
    "cheng2020-anchor": ("residual", "residual", "masked"),
    "cheng2020-attn": ("attention", "residual", "masked"),
}
State = dict[str, Tensor]


def parts(name: str) -> tuple[State, State, Tensor]:
    """The state dict of an architecture, CompressAI's outputs, and the picture (1, 3, H, W)."""
    tensors = safetensors.torch.load_file(PEER / f"{name}.safetensors")
    state, expected = (
        {k.removeprefix(part): v for k, v in tensors.items() if k.startswith(part)}
        for part in ("state.", "expected.")
    )
    state = {k: v.float() if v.is_floating_point() else v for k, v in state.items()}
    return state, expected, tensors["picture"].permute(2, 0, 1)[None] / 255


def state_of(name: str = "mbt2018") -> State:
    return parts(name)[0]


@torch.no_grad()
def outputs(codec: Codec, x: Tensor) -> State:
    """Likelihoods and x̂ as CompressAI's forward pass has them in evaluation mode."""
    assert not codec.config.centred  # pixels in [0, 1], and black beyond their edges
    y = codec.g_a(x)
    prior, found = codec.prior, {}
    if prior.side is None:
        assert prior.factorized is not None
        centre = prior.factorized.centre[:, None, None]
        y_hat = torch.round(y - centre) + centre
        bits = prior.factorized.bits(y_hat, torch.ones(1))
    else:
        z, centre = prior.side.analysis(y), prior.side.density.centre[:, None, None]
        z_hat = torch.round(z - centre) + centre
        found["z"] = torch.exp2(-prior.side.density.bits(z_hat, torch.ones(1)))
        parameters = prior.side.h_s(z_hat)
        if isinstance(prior.context, MaskedContext):
            # There, the context and the synthesis meet what is rounded without its mean.
            parameters = prior.context.parameters_given(parameters, torch.round(y))
        if codec.config.side == "scale":
            mu, sigma = torch.zeros_like(parameters), parameters
        else:
            mu, sigma = parameters.chunk(2, 1)
        density = Gaussian(mu, sigma.clamp_min(0.11))
        symbols = torch.round(y - mu)
        bits = density.bits(symbols)
        y_hat = torch.round(y) if isinstance(prior.context, MaskedContext) else symbols + mu
    found["y"] = torch.exp2(-bits).clamp_min(1e-9)
    found["x_hat"] = codec.g_s(y_hat)[:, :, ::3, ::3]
    return found


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_outputs_are_compressais(tmp_path: Path, name: str) -> None:
    state, expected, x = parts(name)
    path = tmp_path / "weights.safetensors"
    safetensors.torch.save_file(state, path)
    codec = wf.load_codec(path)
    config = codec.config
    assert (config.transform, config.side, config.context) == ARCHITECTURES[name]
    assert config.qualities == (4.0, 4.0)
    assert not codec.training
    found = outputs(codec, x)
    assert found.keys() == expected.keys()
    for part, values in expected.items():
        assert (found[part] - values).abs().max() < 1e-4, part
    # Bits too, where CompressAI's differences of single precision leave some digits.
    there = expected["y"] > 1e-4
    assert (found["y"][there] / expected["y"][there]).log2().abs().max() < 0.01


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_files_decode_to_the_encoders_pixels(name: str, photo: NDArray[np.uint8]) -> None:
    codec = from_compressai(state_of(name), name)
    pixels = np.ascontiguousarray(photo[:90, :140])
    latents = codec.latents(pixels)
    data = codec.compress(pixels)
    other = from_compressai(state_of(name), "the same elsewhere")
    found = np.asarray(wf.decompress(data, codec=other))
    assert np.array_equal(found, codec.synthesise(latents.quantised.y_hat, 4.0, 90, 140))
    assert np.ptp(latents.quantised.symbols) > 4
    ideal = (latents.quantised.bits.sum() + latents.side_bits) / 8
    assert ideal <= len(data) <= 1.001 * ideal + 64 + HEADER_BYTES


@pytest.mark.parametrize("name", ["bmshj2018-factorized", "bmshj2018-hyperprior", "mbt2018-mean"])
def test_files_cost_what_compressai_charges(name: str) -> None:
    # With a context they don't: there, it is told what is rounded without its mean.
    state, expected, x = parts(name)
    pixels = (x[0] * 255).round().byte().permute(1, 2, 0).numpy()
    latents = from_compressai(state, name).latents(pixels)
    charged = -expected["y"][0].log2().numpy()
    common = charged < 12  # what is rarer costs what an escape costs
    assert common.mean() > 0.7
    bits = latents.quantised.bits
    # σ is rounded to a sixteenth of an octave.
    assert bits[common].sum() == pytest.approx(charged[common].sum(), rel=0.01)
    assert np.abs(bits - charged)[common].mean() < 0.05
    if latents.z is not None:
        side = -expected["z"].log2().sum().item()
        assert latents.side_bits == pytest.approx(side, rel=1e-3)


def test_limits_measure_them(photo: NDArray[np.uint8]) -> None:
    for name in ("bmshj2018-factorized", "cheng2020-anchor"):
        codec = from_compressai(state_of(name), name)
        ladder = wf.limits(codec, [np.ascontiguousarray(photo[:64, :64])])
        assert ladder.quality == 4


def test_tiles_have_no_seams() -> None:
    # What is black lies beyond the picture, not beyond a tile.
    codec = from_compressai(state_of("bmshj2018-hyperprior"), "weights")
    pixels = np.random.default_rng(0).integers(0, 256, (256, 192, 3), dtype=np.uint8)
    whole = np.asarray(wf.decompress(codec.compress(pixels), codec=codec))
    codec.tile = 64
    cut = np.asarray(wf.decompress(codec.compress(pixels), codec=codec))
    assert np.abs(whole.astype(int) - cut).max() <= 1


def test_saved_and_loaded_they_are_the_same_codec(tmp_path: Path, photo: NDArray[np.uint8]) -> None:
    first = from_compressai(state_of("mbt2018-mean"), "weights")
    path = tmp_path / "codec.safetensors"
    save_codec(first, path, {})
    second = wf.load_codec(path)
    assert second.config == first.config
    expected, found = (codec.latents(photo).quantised for codec in (first, second))
    assert (expected.symbols != found.symbols).mean() < 0.01  # of weights in float16


# What the same weights may look like.


def older(name: str) -> str:
    return re.sub(
        r"(matri|bias|factor)(?:ces|es|s)\.(\d)",
        lambda m: f"_{ {'matri': 'matrix'}.get(m[1], m[1]) }{m[2]}",
        name,
    ).replace(".skip.", ".downsample.")


def between(name: str) -> str:
    return re.sub(r"\.(matrices|biases|factors)\.", r"._\1.", name)


def parallel(name: str) -> str:
    return f"module.{name}"


@pytest.mark.parametrize("rename", [older, between, parallel])
def test_older_names_and_prefixes_make_no_difference(rename: Callable[[str], str]) -> None:
    state = state_of("cheng2020-anchor")
    renamed = {rename(name): tensor for name, tensor in state.items()}
    assert renamed.keys() != state.keys()
    assert from_compressai(renamed, "a").weights_id == from_compressai(state, "b").weights_id


def test_what_follows_from_weights_is_ignored() -> None:
    state = state_of("mbt2018")
    derived = {
        "entropy_bottleneck._quantized_cdf": torch.zeros(8, 40, dtype=torch.int32),
        "entropy_bottleneck._offset": torch.zeros(8, dtype=torch.int32),
        "gaussian_conditional._cdf_length": torch.zeros(64, dtype=torch.int32),
        "gaussian_conditional.scale_table": torch.full((64,), torch.nan),
    }
    bare = {k: v for k, v in state.items() if "lower_bound" not in k and "pedestal" not in k}
    del bare["context_prediction.mask"], bare["entropy_bottleneck.target"]
    first, second = (from_compressai(s, "w").weights_id for s in (state | derived, bare))
    assert first == second == from_compressai(state, "w").weights_id != bytes(8)
    state["g_s.0.bias"][0] += 1e-3
    assert from_compressai(state, "w").weights_id != first


def test_weights_stay_in_single_precision_and_are_the_codecs_own() -> None:
    state = state_of()
    codec = from_compressai({k: v.double() for k, v in state.items()}, "weights")
    assert all(t.dtype == torch.float32 for t in codec.state_dict().values())
    before = codec.g_a[2].bias[0].item()
    state["g_a.2.bias"].zero_()
    same = from_compressai(state, "weights")
    state["g_a.2.bias"].fill_(7.0)
    assert same.g_a[2].bias[0] == 0.0 != before


def test_quality_is_four_unless_somebody_knows_better(
    tmp_path: Path, tiny: Codec, photo: NDArray[np.uint8]
) -> None:
    path = tmp_path / "weights.safetensors"
    safetensors.torch.save_file(state_of("bmshj2018-factorized"), path)
    codec = wf.load_codec(path, quality=6.3)
    assert codec.config.qualities == (1613 / 256, 1613 / 256)
    data = codec.compress(photo[:32, :32], 6.3)
    assert data == codec.compress(photo[:32, :32])
    with pytest.raises(wf.QualityError, match="quality 6"):
        codec.compress(photo[:32, :32], 4)
    with pytest.raises(wf.QualityError):
        wf.load_codec(path, quality=9)
    save_codec(tiny, path, {})
    for own in (path, "default"):
        with pytest.raises(wf.CodecError, match="states its own qualities"):
            wf.load_codec(own, quality=4)


def test_commands_take_weights_to_be_of_the_quality_that_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path, coded = tmp_path / "weights.safetensors", tmp_path / "coded"
    safetensors.torch.save_file(state := state_of("bmshj2018-factorized"), path)
    Image.new("RGB", (16, 16), (9, 99, 199)).save(picture := tmp_path / "a.png")
    coded.mkdir()
    of = ["--codec", str(path)]
    for quality in ("2.5", "4", "7"):
        stream = coded / f"{quality}.wfl"
        assert run(["compress", str(picture), str(stream), "-q", quality, *of]) == 0
        told = Container.unpack(stream.read_bytes(), max_pixels=256)[0]
        assert told.quality == float(quality)
        expected = from_compressai(state, "w", quality=float(quality))
        assert told.weights_id == expected.weights_id
        # The stream says what the weights don't.
        decoded = expected.decompress(stream.read_bytes()).to_pil()
        assert wf.decompress(stream, codec=path).tobytes() == decoded.tobytes()
        assert run(["decompress", str(stream), str(tmp_path / "b.png"), *of]) == 0
        assert Image.open(tmp_path / "b.png").tobytes() == decoded.tobytes()
    assert run(["decompress", str(coded), str(tmp_path / "pictures"), *of]) == 0
    assert len(list((tmp_path / "pictures").iterdir())) == 3

    measured = []

    def measure(subject: Any, *_: Any, **__: Any) -> None:
        measured.append(subject)
        raise wf.WaterfillError("enough")

    monkeypatch.setattr("waterfill.ladder.limits", measure)
    monkeypatch.setattr("waterfill.evaluation.measure.OwnCodec", measure)
    out = ["--out", str(tmp_path / "out")]
    for command in ("limits", "evaluate"):
        assert run([command, str(picture), "-q", "7", *of, *out]) == 2
    assert [codec.config.qualities for codec in measured] == [(7.0, 7.0)] * 2
    capsys.readouterr()
    assert run(["limits", str(picture), "-q", "2", "-q", "7", *of, *out]) == 2
    assert "covers quality 4 alone" in capsys.readouterr().err


# Checkpoints.


def pickled(content: object, *, legacy: bool = False) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, _use_new_zipfile_serialization=not legacy)
    return buffer.getvalue()


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("nested", [False, True])
def test_checkpoints_are_read_if_somebody_asks(tmp_path: Path, legacy: bool, nested: bool) -> None:
    state = state_of("bmshj2018-hyperprior")
    content = {"epoch": 3, "state_dict": state, "loss": torch.ones(())} if nested else state
    path = tmp_path / "weights.pth.tar"
    path.write_bytes(pickled(content, legacy=legacy))
    with pytest.raises(wf.CodecError, match=r"weights\.pth\.tar: .*safetensors.*unpickle=True"):
        wf.load_codec(path)
    codec = wf.load_codec(path, unpickle=True, quality=2)
    assert codec.weights_id == from_compressai(state, "weights", quality=2).weights_id
    assert codec.config.qualities == (2.0, 2.0)


def test_checkpoints_run_nothing(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[object, ...]:
            return (Path.touch, (tmp_path / "exploded",))

    path = tmp_path / "weights.pt"
    for legacy in (False, True):
        for content in (Bomb(), {"state_dict": Bomb()}, state_of() | {"g_a.0.bias": Bomb()}):
            path.write_bytes(pickled(content, legacy=legacy))
            with pytest.raises(wf.CodecError, match="more than tensors") as refused:
                wf.load_codec(path, unpickle=True)
            assert "\n" not in str(refused.value)
    assert not (tmp_path / "exploded").exists()


def test_checkpoints_of_something_else_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    whole = pickled(state_of())
    for content, reason in [
        (whole[:-100], "damaged"),
        (whole[:4], "damaged"),
        (b"\x80\x02", "damaged"),
        (pickled([torch.zeros(2)]), "no dictionary"),
        (pickled({"state_dict": {"g_a.0.weight": 3}}), "'g_a.0.weight' is not"),
        (pickled({1: torch.zeros(2)}), "1 is not"),
        (pickled({"epoch": 1}), "'epoch' is not"),
        (pickled({"conv.weight": torch.zeros(2)}), "g_a.0.weight is missing"),
    ]:
        path.write_bytes(content)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with pytest.raises(wf.CodecError, match=f"weights.pt: .*{reason}") as refused:
                wf.load_codec(path, unpickle=True)
        assert "\n" not in str(refused.value)


def test_a_safetensors_file_is_none_whatever_its_length_looks_like(tmp_path: Path) -> None:
    state = state_of("bmshj2018-factorized")
    for padding in range(0, 300, 8):
        data = safetensors.torch.save(state, {"note": "x" * padding})
        if data[0] == 0x80:
            break
    assert data[0] == 0x80
    assert not is_checkpoint(data)
    path = tmp_path / "weights.safetensors"
    path.write_bytes(data)
    wf.load_codec(path)


# What doesn't fit.


def changed(state: State, **changes: Tensor | None) -> State:
    renamed = {k.replace("__", "."): v for k, v in changes.items()}
    return {k: v for k, v in {**state, **renamed}.items() if v is not None}


@pytest.mark.parametrize(
    ("name", "changes", "reason"),
    [
        ("mbt2018", {"h_a__2__bias": None}, "h_a.2.bias is missing"),
        ("mbt2018", {"g_a__0__weight": None}, "g_a.0.weight is missing"),
        ("mbt2018", {"g_a__3__beta": None}, "g_a.3.beta is missing"),
        ("mbt2018", {"entropy_bottleneck__quantiles": None}, "quantiles is missing"),
        ("mbt2018-mean", {"h_s__4__weight": None}, "h_s.4.weight is missing"),
        ("cheng2020-attn", {"entropy_parameters__0__bias": None}, "parameters.0.bias is missing"),
        ("mbt2018", {"g_a__7__weight": torch.zeros(2)}, "g_a.7.weight is not part"),
        ("mbt2018", {"module__g_a__0__bias": torch.zeros(8)}, "g_a.0.bias is there twice"),
        ("cheng2020-anchor", {"g_a__0__conv1__weight": torch.zeros(())}, "is a single number"),
        ("mbt2018", {"h_a__2__bias": torch.zeros(9)}, "h_a.2.bias has the shape 9, not 8"),
        ("mbt2018", {"g_s__1__gamma": torch.zeros(8)}, r"g_s.1.gamma has the shape 8, not 8×8"),
        ("mbt2018-mean", {"h_s__4__weight": torch.zeros(5, 18, 3, 3)}, "shape 5×18×3×3, not 24×18"),
        ("mbt2018", {"entropy_bottleneck__quantiles": torch.zeros(8, 3)}, "shape 8×3, not 8×1×3"),
        ("mbt2018", {"h_a__2__bias": torch.full((8,), torch.nan)}, "h_a.2.bias holds .*not finite"),
        ("mbt2018", {"g_a__1__gamma": torch.full((8, 8), -torch.inf)}, "g_a.1.gamma .*not finite"),
        ("mbt2018", {"h_a__2__bias": torch.eye(8).double()[0] * 1e300}, "h_a.2.bias .*not finite"),
        ("mbt2018", {"h_a__2__bias": torch.zeros(8).int()}, "h_a.2.bias does not hold"),
        ("mbt2018", {"h_a__2__bias": torch.zeros(8).to_sparse()}, "h_a.2.bias does not hold"),
        ("mbt2018", {"h_a__2__bias": torch.zeros(8, device="meta")}, "h_a.2.bias does not hold"),
        ("mbt2018", {"g_a__0__weight": torch.zeros(5000, 0)}, "n must be"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_named(
    name: str, changes: dict[str, Tensor | None], reason: str
) -> None:
    with pytest.raises(wf.CodecError, match=f"^weights: .*{reason}") as refused:
        from_compressai(changed(state_of(name), **changes), "weights")
    assert "\n" not in str(refused.value)


def test_their_other_codecs_are_refused_by_name_of_a_tensor(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    relu = {k: v for k, v in state_of("bmshj2018-factorized").items() if ".1." not in k}
    safetensors.torch.save_file(relu, path)
    with pytest.raises(wf.CodecError, match=re.escape(f"{path}: g_a.1.beta is missing")):
        wf.load_codec(path)
    safetensors.torch.save_file({"a": torch.zeros(2)}, path)
    with pytest.raises(wf.CodecError, match="not the weights"):
        wf.load_codec(path)
    damaged = safetensors.torch.save(state_of("bmshj2018-factorized"))
    nested = b"[" * 10**5
    for content in (damaged[:-8], len(nested).to_bytes(8, "little") + nested):
        path.write_bytes(content)
        with pytest.raises(wf.CodecError, match="not the weights"):
            wf.load_codec(path)
