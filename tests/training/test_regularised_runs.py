"""Runs with a regulariser: they stop and go on as others do, and leave an ordinary codec."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image

import waterfill as wf
from waterfill.cli import run as command_line
from waterfill.codec.config import CodecConfig
from waterfill.codec.model import Codec
from waterfill.errors import DivergedError
from waterfill.training import learner, loop
from waterfill.training.config import TrainConfig
from waterfill.training.experiments import load_experiments
from waterfill.training.loop import Report, train
from waterfill.training.objectives import Objective, objective_of
from waterfill.training.schedules import Schedule

CONFIG = TrainConfig(
    codec=CodecConfig(n=4, m=6, hyper=4),
    steps=6,
    batch=2,
    crop=64,
    warmup=2,
    precision="32-true",
    checkpoint_every=2,
    validate_every=3,
)
REGULARISED = dataclasses.replace(CONFIG, source_model="aligned", alpha=0.1)


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("photographs")
    rng = np.random.default_rng(0)
    for k in range(4):
        small = rng.integers(0, 256, (11, 13, 3), dtype=np.uint8)
        Image.fromarray(small).resize((104, 88)).save(folder / f"{k}.png")
    return str(folder)


def run(photographs: str, out: Path, config: TrainConfig, **options: object) -> Path:
    config = dataclasses.replace(config, data=(photographs,))
    return train(config, out, **options)  # type: ignore[arg-type]


def tensors(path: Path) -> dict[str, torch.Tensor]:
    return safetensors.torch.load_file(path)


@pytest.fixture(scope="module")
def whole(photographs: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "whole"
    run(photographs, out, REGULARISED)
    return out


def column(out: Path, name: str) -> list[float]:
    head, *rows = ((out / "metrics.csv").read_text()).splitlines()
    return [float(row.split(",")[head.split(",").index(name)]) for row in rows]


def test_with_alpha_0_the_weights_are_those_of_plain_training(
    photographs: str, tmp_path: Path
) -> None:
    """A clip that binds, so that norms would tell if q's gradients counted for the codec."""
    plain = dataclasses.replace(CONFIG, clip=0.01, steps=3)
    run(photographs, tmp_path / "plain", plain)
    for relation in ("weaker", "aligned", "stronger"):
        beside = dataclasses.replace(plain, source_model=relation, alpha=0.0)
        run(photographs, tmp_path / relation, beside)
        one, other = (
            tensors(tmp_path / name / "codec.safetensors") for name in ("plain", relation)
        )
        assert one.keys() == other.keys()
        assert all(torch.equal(one[name], other[name]) for name in one)


def test_what_is_saved_is_a_plain_codec(whole: Path, photographs: str, tmp_path: Path) -> None:
    run(photographs, tmp_path / "plain", CONFIG)
    plain, regularised = tmp_path / "plain" / "codec.safetensors", whole / "codec.safetensors"
    shapes = [{k: v.shape for k, v in tensors(path).items()} for path in (plain, regularised)]
    assert shapes[0] == shapes[1]
    assert any(not torch.equal(tensors(plain)[k], tensors(regularised)[k]) for k in shapes[0])
    codec = wf.load_codec(regularised)
    data = codec.compress(np.zeros((9, 9, 3), np.uint8))
    assert wf.decompress(data, codec=codec).size == (9, 9)


def test_the_entropy_and_the_share_of_lambda_are_recorded(whole: Path) -> None:
    assert all(3.0 < bits < 12.0 for bits in column(whole, "source_bits"))
    assert all(0.0 < share < 1.0 for share in column(whole, "lambda_share"))


def test_killed_and_resumed_equals_uninterrupted(
    whole: Path, photographs: str, tmp_path: Path
) -> None:
    class KilledError(Exception):
        pass

    def die(report: Report) -> None:
        if report.step == 5:
            raise KilledError

    out = tmp_path / "run"
    with pytest.raises(KilledError):
        run(photographs, out, REGULARISED, progress=die)
    run(photographs, out, REGULARISED, resume=True)
    one, other = tensors(whole / "checkpoint.safetensors"), tensors(out / "checkpoint.safetensors")
    assert one.keys() == other.keys()
    assert any(name.startswith("model.regulariser.") for name in one)
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_codec_that_is_paid_for_distortion_stops_with_the_reason(
    photographs: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "_SETTLED", 10)
    config = dataclasses.replace(
        REGULARISED, alpha=20.0, alpha_unit="pixel", steps=300, learning_rate=1e-2,
        validate_every=300,
    )  # fmt: skip
    with pytest.raises(DivergedError, match=r"the distortion runs away, to") as one:
        run(photographs, tmp_path / "run", config)
    assert re.search(
        r"takes [\d.]+ times λ with alpha 20 per pixel, take a smaller", str(one.value)
    )


def test_what_is_not_finite_is_laid_to_a_regulariser_that_rules(
    photographs: str, tmp_path: Path
) -> None:
    config = dataclasses.replace(
        REGULARISED, alpha=3000.0, alpha_unit="pixel", steps=60, learning_rate=1e-2
    )
    with pytest.raises(DivergedError, match=r"is (inf|nan).* the regulariser takes .* times λ"):
        run(photographs, tmp_path / "run", config)


def test_a_regulariser_that_does_nothing_is_told(photographs: str, tmp_path: Path) -> None:
    notes: list[str] = []
    config = dataclasses.replace(REGULARISED, alpha=1e-6)
    run(photographs, tmp_path / "run", config, progress=lambda r: notes.append(r.note or ""))
    assert any("does nothing" in note for note in notes)


def test_the_weight_can_fall_to_nothing() -> None:
    config = dataclasses.replace(REGULARISED, steps=100, alpha_decay=0.5)
    schedule = Schedule(config)
    assert [schedule.alpha_at(step) for step in (0, 50, 75)] == pytest.approx([0.1, 0.1, 0.05])
    assert Schedule(REGULARISED).alpha_at(5) == 0.1
    assert math.isclose(schedule.alpha_at(99), 0.002)


def test_one_switch_on_the_command_line(
    photographs: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def told(*options: str) -> dict[str, object]:
        out = tmp_path / str(len(list(tmp_path.iterdir())))
        common = ["train", photographs, "--out", str(out), "--codec", "tiny", "--steps", "1"]
        assert command_line([*common, "--batch", "2", "--crop", "64", *options]) == 0
        with safetensors.safe_open(out / "codec.safetensors", "pt") as file:
            found: dict[str, object] = json.loads(file.metadata()["training"])
        return found

    assert told("--regularize", "0.1")["source_model"] == "aligned"
    stronger = told("--regularize", "0.2", "--source-model", "stronger", "--alpha-unit", "pixel")
    assert (stronger["alpha"], stronger["source_model"]) == (0.2, "stronger")
    assert stronger["alpha_unit"] == "pixel"
    capsys.readouterr()
    assert command_line(["train", photographs, "--out", "x", "--source-model", "weaker"]) == 2
    assert "give its weight with --regularize" in capsys.readouterr().err
    wrong = ["--regularize", "1", "--source-model", "good"]
    assert command_line(["train", photographs, "--out", "x", *wrong]) == 2
    assert (
        "--source-model must be one of none, weaker, aligned, stronger" in capsys.readouterr().err
    )


def test_the_queue_holds_each_of_the_papers_models_with_and_without() -> None:
    folder = Path(__file__).parents[2] / "experiments" / "regulariser"
    configs = {experiment.name: experiment.config for experiment in load_experiments(folder)}
    assert len(configs) == 24
    for name, config in configs.items():
        plain = dataclasses.replace(config, source_model="none", alpha=0.0)
        assert plain == configs[name.replace("-regularised", "")]
        assert (config.alpha > 0) == ("regularised" in name)


def test_a_source_model_that_is_no_number_is_left_out_of_a_step(
    photographs: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The codec's norm is finite: the larger of the two must not hide the other's."""

    def poisoned(config: TrainConfig, codec: Codec) -> Objective:
        objective = objective_of(config, codec)
        assert objective.regulariser is not None
        parameter = next(objective.regulariser.parameters())
        calls = []

        def spoil(gradient: torch.Tensor) -> torch.Tensor:
            calls.append(gradient)
            return gradient * math.nan if len(calls) == 3 else gradient

        parameter.register_hook(spoil)
        return objective

    monkeypatch.setattr(learner, "objective_of", poisoned)
    config = dataclasses.replace(REGULARISED, skip_nonfinite=True)
    out = run(photographs, tmp_path / "run", config)
    assert all(bool(t.isfinite().all()) for t in tensors(out).values())
    with safetensors.safe_open(tmp_path / "run" / "checkpoint.safetensors", "pt") as file:
        assert json.loads(file.metadata()["waterfill.training"])["skipped"] == 1


def test_pieces_of_a_batch_pull_as_the_whole(photographs: str, tmp_path: Path) -> None:
    run(photographs, tmp_path / "one", REGULARISED)
    run(photographs, tmp_path / "two", dataclasses.replace(REGULARISED, accumulate=2))
    one, two = (column(tmp_path / name, "lambda_share") for name in ("one", "two"))
    assert two == pytest.approx(one, rel=1e-3)
