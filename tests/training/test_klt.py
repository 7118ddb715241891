"""The closed-form start: a Karhunen–Loève transform is orthonormal, decorrelates, and codes."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image

import waterfill as wf
from waterfill.codec.channels import Rounding, StraightThrough
from waterfill.codec.config import CodecConfig
from waterfill.codec.gains import LAMBDAS
from waterfill.codec.model import Codec
from waterfill.codec.noise import Noise
from waterfill.codec.registry import PRESETS, save_codec
from waterfill.codec.transforms import FilteredSynthesis
from waterfill.data.images import sample_pictures
from waterfill.data.sets import open_pictures
from waterfill.errors import TrainingError
from waterfill.training import klt
from waterfill.training.checkpoint import load_checkpoint, trained
from waterfill.training.config import TrainConfig
from waterfill.training.klt import BLOCK_DEVIATIONS, grow_from, klt_of_blocks, start_from_klt
from waterfill.training.loop import train
from waterfill.training.objectives import RateDistortion
from waterfill.training.start import load_start, start_from


@pytest.fixture(scope="module", autouse=True)
def _few_crops() -> Iterator[None]:
    """A transform from fewer blocks is a worse one, but no less a Karhunen–Loève transform."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(klt, "_CROPS", 48)
        yield


CHECKPOINT = "checkpoint.safetensors"
SMALL = CodecConfig(n=4, m=768, hyper=4, transform="klt")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("photographs")
    for picture in sample_pictures():
        Image.fromarray(picture.pixels[:256, :256]).save(path / f"{picture.name[7:]}.png")
    return path


@pytest.fixture(scope="module")
def started(folder: Path) -> Codec:
    torch.manual_seed(0)
    codec = Codec(SMALL)
    start_from_klt(codec, open_pictures([str(folder)]), seed=0)
    return codec


def test_basis_is_orthonormal_and_decorrelates() -> None:
    (picture,) = sample_pictures(["coffee"])
    crops = picture.pixels[None, :384, :592]
    mean, variances, basis = klt_of_blocks(crops)
    flat = basis.reshape(768, 768)
    np.testing.assert_allclose(flat @ flat.T, np.eye(768), atol=1e-9)
    assert (np.diff(variances) <= 1e-12).all()
    blocks = crops.reshape(24, 16, 37, 16, 3).transpose(0, 2, 4, 1, 3).reshape(-1, 3, 256) / 255
    latents = (blocks - mean[:, None]).reshape(-1, 768) @ flat.T
    np.testing.assert_allclose(latents.T @ latents / len(latents), np.diag(variances), atol=1e-9)
    # The trace is the power, whatever the basis.
    assert variances.sum() == pytest.approx((blocks - mean[:, None]).var() * 768, rel=1e-3)


@torch.no_grad()
def test_with_all_latents_the_start_is_lossless_but_for_the_step(started: Codec) -> None:
    (picture,) = sample_pictures(["rocket"])
    x = torch.from_numpy(picture.pixels[:128, :192].copy()).permute(2, 0, 1)[None] / 255.0
    middle = torch.tensor([4.0])  # where gains are 1
    y = started.g_a(x - 0.5, middle)
    assert torch.allclose(started.g_s(y, middle) + 0.5, x, atol=1e-4)
    # Orthonormal up to the step: an error of one step in one latent is one step in the pixels.
    step = started.g_s.blocks.weight[0].norm()
    moved = y + torch.eye(768)[5][None, :, None, None]
    error = started.g_s(moved, middle) - started.g_s(y, middle)
    cells = y.shape[2] * y.shape[3]
    assert float(error.norm()) == pytest.approx(float(step) * cells**0.5, rel=1e-4)
    assert (255 * float(step)) ** 2 / 12 == pytest.approx(3 / (2 * np.log(2) * LAMBDAS[3]))


def test_a_higher_quality_comes_nearer_from_the_first_step(started: Codec) -> None:
    (picture,) = sample_pictures(["chelsea"])
    x = torch.from_numpy(picture.pixels[:128, :192].copy()).permute(2, 0, 1)[None] / 255.0
    with torch.no_grad():
        errors = [
            float((started(x, torch.tensor([q]), Rounding(), Noise(0)).x_hat - x).square().mean())
            for q in (1.0, 4.0, 8.0)
        ]
    assert errors[0] > 2 * errors[1] > 4 * errors[2]


def small_run(folder: Path, **others: Any) -> TrainConfig:
    """A run of a small block codec, of single crops."""
    codec = CodecConfig(4, 24, 4, transform="klt")
    return TrainConfig(data=(str(folder),), codec=codec, batch=1, crop=64, **others)


@pytest.mark.parametrize("optimiser", ["adam", "soap"])
def test_block_transforms_learn_at_a_rate_of_their_own(
    folder: Path, tmp_path: Path, optimiser: str
) -> None:
    config = small_run(folder, steps=3, warmup=0, optimiser=optimiser, decay=0.0, ema=0.0)
    trained_blocks = []
    for rate in (0.0, 1e-2, 2e-2):  # so small that gradients are the same
        out = tmp_path / f"{optimiser}{rate}"
        train(dataclasses.replace(config, blocks_rate=rate), out)
        tensors, _ = load_checkpoint(out / CHECKPOINT)
        names = (f"model.codec.{transform}.blocks.weight" for transform in ("g_a", "g_s"))
        trained_blocks.append([tensors[name].double() for name in names])
    for still, once, twice, deviation in zip(*trained_blocks, BLOCK_DEVIATIONS, strict=True):
        assert still.square().mean().sqrt() == pytest.approx(deviation, rel=1e-3)
        moved = (once - still).square().mean().sqrt()
        # Adam's first steps are about as long as its rate; rounding is the rest.
        assert 0.2 * config.learning_rate < moved / (1e-2 * deviation) < 4 * config.learning_rate
        assert (twice - still).square().mean().sqrt() == pytest.approx(float(2 * moved), rel=0.2)


def test_block_transforms_are_not_trained_and_linear_steps_leave_filters_alone(
    folder: Path, tmp_path: Path
) -> None:
    config = small_run(folder, steps=4)
    train(dataclasses.replace(config, linear_steps=4), tmp_path / "linear")
    train(dataclasses.replace(config, linear_steps=2), tmp_path / "mixed")
    first, _ = load_checkpoint(tmp_path / "linear" / CHECKPOINT)
    second, _ = load_checkpoint(tmp_path / "mixed" / CHECKPOINT)
    for name in ("model.codec.g_a.blocks.weight", "model.codec.g_s.blocks.weight"):
        assert torch.equal(first[name], second[name])
    assert not first["model.codec.g_a.filter.leave.weight"].any()
    assert second["model.codec.g_a.filter.leave.weight"].any()
    assert second["model.codec.g_s.filter.leave.weight"].any()
    assert not torch.equal(first["model.codec.prior.side.h_s.4.bias"], torch.zeros(48))
    objective = RateDistortion(Codec(config.codec))
    assert len(trained(objective)) == len(list(objective.parameters())) - 4


def test_resuming_among_linear_steps_is_exact(folder: Path, tmp_path: Path) -> None:
    config = small_run(folder, linear_steps=3, steps=5, checkpoint_every=1)
    train(config, tmp_path / "one")
    out = tmp_path / "two"

    class StopError(Exception):
        pass

    for until, resume in ((2, False), (4, True)):  # among linear steps, and behind them

        def stop(report: object, until: int = until) -> None:
            if getattr(report, "step", 0) == until:
                raise StopError

        with pytest.raises(StopError):
            train(config, out, resume=resume, progress=stop)
        assert load_checkpoint(out / CHECKPOINT)[1]["step"] == until
    train(config, out, resume=True)
    expected, _ = load_checkpoint(tmp_path / "one" / CHECKPOINT)
    found, _ = load_checkpoint(out / CHECKPOINT)
    assert expected.keys() == found.keys()
    for key, tensor in expected.items():
        assert torch.equal(tensor, found[key]), key


class Told(NamedTuple):
    mu: torch.Tensor
    log2_sigma: torch.Tensor
    bits: torch.Tensor


def _told(codec: Codec, y: torch.Tensor, quality: torch.Tensor) -> Told:
    side = codec.prior.side(y, quality, Noise(0))
    return Told(*side.features.chunk(2, 1), side.bits)


@torch.no_grad()
def test_a_codec_grows_by_latents_and_keeps_what_it_knew(folder: Path, started: Codec) -> None:
    pictures = open_pictures([str(folder)])
    torch.manual_seed(0)
    small, large = (Codec(dataclasses.replace(SMALL, m=m)).eval() for m in (48, 96))
    start_from_klt(small, pictures, seed=0)
    for parameter in small.prior.parameters():  # a prior that says something
        parameter.add_(0.05 * torch.randn_like(parameter))
    grow_from(large, small, pictures, seed=0)
    (picture,) = sample_pictures(["rocket"])
    x = torch.from_numpy(picture.pixels[:128, :192].copy()).permute(2, 0, 1)[None] / 255.0 - 0.5
    quality, middle = torch.tensor([6.0]), torch.tensor([4.0])
    y, more = small.g_a(x, middle), large.g_a(x, middle)
    assert torch.allclose(more[:, :48], y, atol=1e-4)
    known, now = (_told(c, v, quality) for c, v in ((small, y), (large, more)))
    assert torch.allclose(now.mu[:, :48], known.mu, atol=1e-3)
    assert torch.allclose(now.log2_sigma[:, :48], known.log2_sigma, atol=1e-3)
    assert torch.equal(now.mu[:, 48:], torch.zeros_like(now.mu[:, 48:]))
    assert torch.allclose(now.bits, known.bits, rtol=1e-3)
    # The new rows are orthonormal to the old ones: nothing is coded twice, and less is lost.
    rows = large.g_a.blocks.weight.flatten(1) / large.g_a.blocks.weight[0].norm()
    assert torch.allclose(rows @ rows.T, torch.eye(96), atol=1e-4)
    errors = [float((c.g_s(v, middle) - x).square().mean()) for c, v in ((small, y), (large, more))]
    assert errors[1] < 0.8 * errors[0]
    # Scales of the new latents fall as their deviations do.
    found = now.log2_sigma[:, 48:].mean((0, 2, 3)) - large.prior.side.h_s[-1].bias[96 + 47]
    assert found[0] > found[-1]


def test_a_codec_of_one_quality_grows_without_gains(folder: Path) -> None:
    pictures = open_pictures([str(folder)])
    config = dataclasses.replace(SMALL, m=8, qualities=(4.0, 4.0))
    small, large = Codec(config), Codec(dataclasses.replace(config, m=12))
    start_from_klt(small, pictures, seed=0)
    grow_from(large, small, pictures, seed=0)
    old, new = (codec.g_a.blocks.weight for codec in (small, large))  # type: ignore[union-attr]
    assert torch.allclose(new[:8], old, atol=1e-6)  # type: ignore[index, arg-type]
    assert bool(new[8:].any())  # type: ignore[index, union-attr]


@pytest.mark.parametrize("side", ["none", "scale"])
def test_klt_starts_with_a_prior_of_means_alone(folder: Path, side: str) -> None:
    codec = Codec(dataclasses.replace(SMALL, m=8, side=side, qualities=(4.0, 4.0)))
    with pytest.raises(TrainingError, match=f"side information of means, not '{side}'"):
        start_from_klt(codec, open_pictures([str(folder)]), seed=0)


def test_klt_needs_room_and_a_codec_that_has_it(folder: Path) -> None:
    with pytest.raises(ValueError, match="at most 768"):
        CodecConfig(4, 769, 4, transform="klt")
    with pytest.raises(TrainingError, match="klt"):
        TrainConfig(linear_steps=3)
    with pytest.raises(TrainingError, match="linear_steps must be at least 0, not -3"):
        TrainConfig(linear_steps=-3, codec=SMALL)
    # They would train without the filter that was brought, and validate with it.
    with pytest.raises(TrainingError, match="filter that a start from default brings; set linear"):
        TrainConfig(linear_steps=3, start="default", codec=SMALL)
    with pytest.raises(ValueError, match="no block transforms"):
        start_from_klt(wf.load_codec("tiny", pretrained=False), open_pictures([folder]), seed=0)


def test_a_run_starts_from_the_weights_of_another(folder: Path, tmp_path: Path) -> None:
    config = TrainConfig(
        data=(str(folder),), codec=CodecConfig(4, 24, 4), steps=2, batch=1, crop=64
    )
    first = train(config, tmp_path / "first")
    second = dataclasses.replace(config, steps=1, learning_rate=1e-12, start=str(first))
    again = train(second, tmp_path / "again")
    expected, found = wf.load_codec(first).state_dict(), wf.load_codec(again).state_dict()
    for name, tensor in expected.items():
        assert torch.allclose(tensor, found[name], atol=1e-6), name
    assert TrainConfig.from_toml((tmp_path / "again" / "run.toml").read_text()) == second
    other = dataclasses.replace(second, codec=CodecConfig(4, 25, 4))
    with pytest.raises(TrainingError, match="architecture"):
        train(other, tmp_path / "other")


def test_a_masked_context_starts_from_transforms_and_hyper_latent(
    folder: Path, tmp_path: Path
) -> None:
    config = CodecConfig(4, 24, 4)
    save_codec(Codec(config), tmp_path / "plain.safetensors", {})
    masked = Codec(dataclasses.replace(config, context="masked"))
    before = {name: tensor.clone() for name, tensor in masked.state_dict().items()}
    plain = load_start(str(tmp_path / "plain.safetensors"), masked.config)
    start_from(masked, plain, open_pictures([folder]), seed=0)
    donor = wf.load_codec(tmp_path / "plain.safetensors").state_dict()
    for name, tensor in masked.state_dict().items():
        expected = before[name] if name.startswith("prior.context.") else donor[name]
        assert torch.equal(tensor, expected), name


def test_a_run_may_start_from_fewer_latents(folder: Path, tmp_path: Path) -> None:
    config = TrainConfig(
        data=(str(folder),), codec=CodecConfig(4, 40, 4, transform="klt"), steps=1, batch=1, crop=64
    )
    first = train(config, tmp_path / "first")
    wider = dataclasses.replace(
        config, codec=CodecConfig(4, 56, 4, transform="klt"), start=str(first)
    )
    assert wf.load_codec(train(wider, tmp_path / "wider")).config.m == 56
    narrower = dataclasses.replace(
        config, codec=CodecConfig(4, 36, 4, transform="klt"), start=str(first)
    )
    with pytest.raises(TrainingError, match="architecture"):
        train(narrower, tmp_path / "narrower")


def test_filters_grow_deeper_and_do_what_they_did(folder: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    shallow = Codec(CodecConfig(4, 40, 4, transform="klt"))
    with torch.no_grad():
        for parameter in shallow.parameters():  # the way out too, which starts at zero
            parameter.normal_(std=0.1)
    save_codec(shallow, tmp_path / "shallow.safetensors", {})
    deep = Codec(dataclasses.replace(shallow.config, pairs=(2, 5)))
    donor = load_start(str(tmp_path / "shallow.safetensors"), deep.config)
    start_from(deep, donor, open_pictures([folder]), seed=0)
    x, y, quality = torch.rand(1, 3, 64, 96) - 0.5, torch.randn(1, 40, 4, 6), torch.tensor([5.5])
    with torch.no_grad():
        assert torch.equal(deep.g_a(x, quality), donor.g_a(x, quality))
        assert torch.equal(deep.g_s(y, quality), donor.g_s(y, quality))
    deep.g_s(y, quality).square().mean().backward()
    assert isinstance(deep.g_s, FilteredSynthesis)
    changes = [parameter.grad for parameter in deep.g_s.filter.pairs[4].parameters()]
    assert any(change is not None and change.any() for change in changes)  # nor for ever
    with pytest.raises(TrainingError, match="architecture"):
        load_start(
            str(tmp_path / "shallow.safetensors"), CodecConfig(4, 40, 4, "klt", pairs=(1, 2))
        )


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("default", {}),  # no filters whose depth could differ
        ("space-channel", {"side": "scale"}),
        ("space-channel", {"side": "mean-scale-wide", "linear_scale": True}),
    ],
)
def test_weights_that_no_start_is_possible_from_are_refused_in_one_line(
    tmp_path: Path, ours: str, theirs: dict[str, Any]
) -> None:
    path = tmp_path / "theirs.safetensors"
    save_codec(Codec(CodecConfig(4, 8, 4, **theirs)), path, {})
    with pytest.raises(TrainingError, match="has another architecture than the run"):
        load_start(str(path), PRESETS[ours])


def test_what_is_told_the_quality_starts_as_it_was_and_goes_on_from_there(
    folder: Path, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    plain = Codec(CodecConfig(4, 40, 4, transform="klt", context="space-channel"))
    with torch.no_grad():
        for parameter in plain.parameters():
            parameter.normal_(std=0.1)
    save_codec(plain, tmp_path / "plain.safetensors", {})
    told = Codec(dataclasses.replace(plain.config, conditional=True))
    load_start(str(tmp_path / "plain.safetensors"), dataclasses.replace(told.config, pairs=(2, 4)))
    donor = load_start(str(tmp_path / "plain.safetensors"), told.config)
    start_from(told, donor, open_pictures([folder]), seed=0)
    x, quality = torch.rand(2, 3, 64, 128), torch.tensor([2.3, 7.1])
    with torch.no_grad():
        before, after = (c(x, quality, Rounding(), Noise([0, 1])) for c in (donor, told))
    assert torch.allclose(before.x_hat, after.x_hat, atol=1e-5)
    assert torch.allclose(before.y_bits, after.y_bits, rtol=1e-5)
    passage = told(x, quality, StraightThrough(), Noise([0, 1]))
    (passage.y_bits.sum() + passage.x_hat.square().sum()).backward()
    news = [p for name, p in told.named_parameters() if "modulation" in name]
    joins = [group.join[0].weight for group in told.prior.context.groups]  # type: ignore[union-attr, index]
    assert len(news) == 2 * (1 + 3 + 2)
    assert all(p.grad is not None and p.grad.any() for p in news)
    assert all(not w[:, -2:].any() and w.grad[:, -2:].any() for w in joins)  # type: ignore[index]
    save_codec(told, tmp_path / "told.safetensors", {})
    with pytest.raises(TrainingError, match="architecture"):
        load_start(str(tmp_path / "told.safetensors"), plain.config)
