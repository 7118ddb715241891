"""Training: stopping and going on is no event, and nothing broken is fatal or silent."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image

import waterfill as wf
from waterfill.codec.model import CodecConfig
from waterfill.errors import TrainingError, WaterfillError
from waterfill.training import loop
from waterfill.training.config import TrainConfig
from waterfill.training.loop import train

TINY = CodecConfig(n=4, m=6, hyper=4)
CONFIG = TrainConfig(codec=TINY, steps=6, batch=2, crop=64, warmup=2, precision="32-true")
OFTEN = {"checkpoint_every": 2, "validate_every": 3}


class KilledError(Exception):
    """Stands for kill -9: nothing after it runs that a dead process would not have run."""


def picture(path: Path, height: int = 80, width: int = 96, seed: int = 0) -> Path:
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (height // 8 + 1, width // 8 + 1, 3), dtype=np.uint8)
    Image.fromarray(small).resize((width, height)).save(path)
    return path


@pytest.fixture(scope="module")
def photographs(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("photographs")
    for k in range(4):
        picture(folder / f"{k}.png", seed=k)
    return str(folder)


def state(out: Path) -> dict[str, torch.Tensor]:
    return safetensors.torch.load_file(out / loop.CHECKPOINT)


def facts(out: Path) -> dict:
    with safetensors.safe_open(out / loop.CHECKPOINT, "pt") as file:
        return json.loads(file.metadata()["waterfill.training"])


def rows(out: Path) -> list[list[str]]:
    """Rows of metrics.csv, without the time that each took."""
    lines = (out / loop.METRICS).read_text().splitlines()
    assert lines[0] == loop._COLUMNS
    fields = [line.split(",") for line in lines[1:]]
    assert all(len(row) == len(lines[0].split(",")) for row in fields)
    return [row[:1] + row[2:] for row in fields]


def assert_same_run(one: Path, other: Path) -> None:
    a, b = state(one), state(other)
    assert a.keys() == b.keys()
    for name in a:
        assert torch.equal(a[name], b[name]), name
    assert rows(one) == rows(other)
    mine, theirs = facts(one), facts(other)
    assert mine.pop("seconds") > 0
    assert theirs.pop("seconds") > 0
    assert mine == theirs
    left, right = (safetensors.torch.load_file(o / loop.WEIGHTS) for o in (one, other))
    assert all(torch.equal(left[name], right[name]) for name in left)


@pytest.fixture(scope="module")
def whole(photographs, tmp_path_factory) -> Path:
    """The run that nothing interrupted."""
    out = tmp_path_factory.mktemp("runs") / "whole"
    train([photographs], out, CONFIG, **OFTEN)
    return out


def killed_at(step: int, photographs: str, out: Path, config: TrainConfig = CONFIG, **options):
    """Run until ``step``'s report; what is on disk then is all that is left."""

    def die(report):
        if report.step == step:
            raise KilledError

    with pytest.raises(KilledError):
        train([photographs], out, config, progress=die, **(OFTEN | options))


def test_a_run_leaves_weights_that_load_and_what_they_came_from(whole):
    codec = wf.load_codec(whole / loop.WEIGHTS)
    assert codec.config == TINY
    assert codec.weights_id != bytes(8)
    data = codec.compress(np.zeros((9, 9, 3), np.uint8))
    assert wf.decompress(data, codec=codec).size == (9, 9)
    assert facts(whole)["step"] == 6
    assert [int(row[0]) for row in rows(whole)] == [3, 6]
    assert json.loads((whole / "config.json").read_text())["codec"] == TINY.to_dict()
    assert {p.name for p in whole.iterdir()} == {
        loop.CHECKPOINT, loop.WEIGHTS, loop.METRICS, "config.json",
    }  # fmt: skip


def test_the_codec_learns(photographs, tmp_path):
    config = dataclasses.replace(CONFIG, steps=40, learning_rate=3e-2, ema=0.5)
    train([photographs], tmp_path / "run", config, validate_every=5)
    losses = [float(row[-3]) for row in rows(tmp_path / "run")]
    assert losses[-1] < 0.9 * losses[0]


@pytest.mark.parametrize("step", [3, 4, 5])
def test_killed_and_resumed_equals_uninterrupted(whole, photographs, tmp_path, step):
    # Step 3 lies between a validation and the next checkpoint: its row is in the file already.
    out = tmp_path / "run"
    killed_at(step, photographs, out)
    assert facts(out)["step"] == step // 2 * 2
    train([photographs], out, CONFIG, resume=True, **OFTEN)
    assert_same_run(whole, out)


def test_the_same_in_bfloat16(photographs, tmp_path):
    config = dataclasses.replace(CONFIG, precision="bf16-mixed", steps=4)
    train([photographs], tmp_path / "one", config, **OFTEN)
    killed_at(3, photographs, tmp_path / "two", config)
    train([photographs], tmp_path / "two", config, resume=True, **OFTEN)
    assert_same_run(tmp_path / "one", tmp_path / "two")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_finishes_the_step_and_checkpoints(whole, photographs, tmp_path, number):
    out, before = tmp_path / "run", signal.getsignal(number)

    def ask(report):
        if report.step == 3:
            os.kill(os.getpid(), number)

    path = train([photographs], out, CONFIG, progress=ask, **OFTEN)
    assert path == out / loop.WEIGHTS
    assert facts(out)["step"] == 3
    assert signal.getsignal(number) == before
    train([photographs], out, CONFIG, resume=True, **OFTEN)
    assert_same_run(whole, out)


def test_a_second_interrupt_does_not_wait(photographs, tmp_path):
    def insist(report):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        train([photographs], tmp_path / "run", CONFIG, progress=insist)


def test_stopped_before_the_first_step_it_still_can_be_resumed(whole, photographs, tmp_path):
    out = tmp_path / "run"
    path = train([photographs], out, CONFIG, max_minutes=-1.0, **OFTEN)
    assert facts(out)["step"] == 0
    assert wf.load_codec(path).config == TINY
    train([photographs], out, CONFIG, resume=True, **OFTEN)
    assert_same_run(whole, out)


def test_resuming_a_finished_run_changes_nothing_but_can_make_it_longer(
    whole, photographs, tmp_path
):
    out = tmp_path / "run"
    train([photographs], out, dataclasses.replace(CONFIG, steps=4), **OFTEN)
    before = state(out)
    train([photographs], out, dataclasses.replace(CONFIG, steps=4), resume=True, **OFTEN)
    assert all(torch.equal(value, before[name]) for name, value in state(out).items())
    steps = []
    longer = dataclasses.replace(CONFIG, steps=5)
    train([photographs], out, longer, resume=True, progress=lambda r: steps.append(r.step))
    assert steps == [4, 5]


def test_metrics_keep_what_the_checkpoint_has_behind_it(photographs, tmp_path):
    out = tmp_path / "run"
    killed_at(5, photographs, out)  # rows: 3; checkpoint: 4
    with open(out / loop.METRICS, "a") as stream:
        stream.write("4,1,1,1,1,1,1,1,1\n5,1,1,1,1,1,1,1,1\nnonsense\n\n6,0.1,0.0")
    train([photographs], out, CONFIG, resume=True, **OFTEN)
    assert [row[0] for row in rows(out)] == ["3", "4", "6"]
    # A file that is gone is begun anew.
    (out / loop.METRICS).unlink()
    train([photographs], out, dataclasses.replace(CONFIG, steps=7), resume=True)
    assert [row[0] for row in rows(out)] == ["7"]


def test_another_run_is_not_overwritten_and_nothing_is_not_resumed(whole, photographs, tmp_path):
    before = (whole / loop.CHECKPOINT).read_bytes()
    with pytest.raises(TrainingError, match="holds a run already"):
        train([photographs], whole, CONFIG)
    assert (whole / loop.CHECKPOINT).read_bytes() == before
    with pytest.raises(TrainingError, match="nothing to resume"):
        train([photographs], tmp_path / "none", CONFIG, resume=True)
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    "change",
    [
        {"codec": CodecConfig(n=5, m=6, hyper=4)},
        {"seed": 2},
        {"batch": 3},
        {"crop": 128},
        {"learning_rate": 2e-3},
        {"qualities": (1.0, 7.0)},
        {"decay": 0.5},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_run_is_resumed_with_its_own_options_alone(whole, photographs, change):
    before = {p.name: p.read_bytes() for p in whole.iterdir()}
    with pytest.raises(TrainingError, match=next(iter(change))):
        train([photographs], whole, dataclasses.replace(CONFIG, **change), resume=True)
    assert {p.name: p.read_bytes() for p in whole.iterdir()} == before


def rewritten(whole: Path, out: Path, change) -> Path:
    """A copy of a checkpoint after ``change(tensors, facts)``."""
    out.mkdir()
    tensors, known = state(whole), facts(whole)
    change(tensors, known)
    metadata = {"waterfill.training": json.dumps(known)}
    (out / loop.CHECKPOINT).write_bytes(safetensors.torch.save(tensors, metadata))
    return out


BROKEN = {
    "NaN weight": lambda t, f: t["model.g_a.0.bias"].fill_(math.nan),
    "infinite moment": lambda t, f: t["optimiser.0.exp_avg_sq"].fill_(math.inf),
    "missing tensor": lambda t, f: t.pop("average.g_a.0.bias"),
    "missing moment": lambda t, f: t.pop("optimiser.3.exp_avg"),
    "foreign tensor": lambda t, f: t.update(other=torch.zeros(1)),
    "foreign slot": lambda t, f: t.update({"optimiser.x.y": torch.zeros(1)}),
    "other shape": lambda t, f: t.update({"optimiser.0.exp_avg": torch.zeros(1)}),
    "other type": lambda t, f: t.update({"model.g_a.0.bias": torch.zeros(4).half()}),
    "no step": lambda t, f: f.pop("step"),
    "no number": lambda t, f: f.update(step="many"),
    "negative step": lambda t, f: f.update(step=-1),
    "no config": lambda t, f: f.pop("config"),
    "odd config": lambda t, f: f.update(config=[1]),
    "odd averages": lambda t, f: f.update(recent=[1.0]),
}


@pytest.mark.parametrize("name", BROKEN)
def test_checkpoints_that_do_not_fit_are_refused(whole, photographs, tmp_path, name):
    out = rewritten(whole, tmp_path / "run", BROKEN[name])
    before = (out / loop.CHECKPOINT).read_bytes()
    with pytest.raises(TrainingError) as caught:
        train([photographs], out, dataclasses.replace(CONFIG, steps=8), resume=True)
    assert loop.CHECKPOINT in str(caught.value)
    assert (out / loop.CHECKPOINT).read_bytes() == before


def test_unbroken_the_copy_is_accepted(whole, photographs, tmp_path):
    out = rewritten(whole, tmp_path / "run", lambda t, f: None)
    train([photographs], out, CONFIG, resume=True)


def test_files_that_are_no_checkpoints_are_refused(whole, photographs, tmp_path):
    good = (whole / loop.CHECKPOINT).read_bytes()
    for k, content in enumerate(
        (b"", b"text", good[:-1], good[: len(good) // 2], b"\xff" * 64,
         (whole / loop.WEIGHTS).read_bytes(), (2**62).to_bytes(8, "little") + b"{}")
    ):  # fmt: skip
        out = tmp_path / str(k)
        out.mkdir()
        (out / loop.CHECKPOINT).write_bytes(content)
        with pytest.raises(TrainingError, match=str(out / loop.CHECKPOINT)):
            train([photographs], out, CONFIG, resume=True)


def test_nothing_is_unpickled(photographs, tmp_path):
    class Bomb:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "exploded",))

    torch.save({"model": Bomb()}, tmp_path / loop.CHECKPOINT)
    with pytest.raises(TrainingError):
        train([photographs], tmp_path, CONFIG, resume=True)
    with pytest.raises(wf.CodecError):
        wf.load_codec(tmp_path / loop.CHECKPOINT)
    assert not (tmp_path / "exploded").exists()


class _Poison(loop.RateDistortion):
    """From the ``at``-th training step on, a loss or its gradient is not finite."""

    def __init__(self, kind: str, at: int) -> None:
        super().__init__()
        self.kind, self.left = kind, at

    def __call__(self, codec, x, quality):
        parts = super().__call__(codec, x, quality)
        self.left -= 1
        if self.left >= 0:
            return parts
        if self.kind == "loss":
            return parts._replace(loss=parts.loss * math.nan)
        zero = parts.mse.sum() * 0.0
        return parts._replace(loss=parts.loss + torch.sqrt(zero) - torch.sqrt(zero).detach())


@pytest.mark.parametrize("kind", ["loss", "gradient"])
@pytest.mark.parametrize("at", [1, 5])
def test_a_loss_or_gradient_that_is_not_finite_stops_with_the_last_good_checkpoint(
    photographs, tmp_path, monkeypatch, kind, at
):
    out, plain = tmp_path / "run", loop.RateDistortion

    def objective(channel=None):
        return plain(channel) if channel else _Poison(kind, at)

    monkeypatch.setattr(loop, "RateDistortion", objective)
    with pytest.raises(TrainingError, match=f"the {kind} is .* at step {at}") as caught:
        train([photographs], out, CONFIG, **OFTEN)
    if at == 1:
        assert "no checkpoint yet" in str(caught.value)
        assert not (out / loop.CHECKPOINT).exists()
    else:
        assert str(out / loop.CHECKPOINT) in str(caught.value)
        assert facts(out)["step"] == 4
        assert all(bool(t.isfinite().all()) for t in state(out).values())


def test_weights_that_are_not_finite_never_reach_the_disk(photographs, tmp_path):
    # A step so long that the weights overflow, with a checkpoint due before the next loss.
    config = dataclasses.replace(CONFIG, learning_rate=1e39, warmup=0)
    with pytest.raises(TrainingError, match="stopped being finite"):
        train([photographs], tmp_path / "run", config, checkpoint_every=1)
    assert not (tmp_path / "run" / loop.CHECKPOINT).exists()


def test_a_disk_that_fills_up_leaves_the_last_checkpoint(whole, photographs, tmp_path, monkeypatch):
    out = tmp_path / "run"
    saves = []
    real = loop.save_checkpoint

    def full(path, tensors, known):
        saves.append(known["step"])
        if len(saves) == 2:
            monkeypatch.setattr(os, "fsync", no_room)
        real(path, tensors, known)

    def no_room(descriptor):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(loop, "save_checkpoint", full)
        with pytest.raises(WaterfillError, match="No space left"):
            train([photographs], out, CONFIG, **OFTEN)
    monkeypatch.undo()
    assert saves == [2, 4]
    assert facts(out)["step"] == 2
    assert not [p for p in out.iterdir() if p.name.startswith(".")]
    train([photographs], out, CONFIG, resume=True, **OFTEN)
    assert_same_run(whole, out)


@pytest.mark.parametrize("size", [(96, 80), (64, 64), (1, 1), (10, 300), (300, 10)])
def test_one_picture_of_any_size_is_enough(tmp_path, size):
    folder = tmp_path / "one"
    folder.mkdir()
    picture(folder / "a.png", *size)
    config = dataclasses.replace(CONFIG, steps=2)
    train([str(folder)], tmp_path / "run", config, validate_every=1)
    assert [row[0] for row in rows(tmp_path / "run")] == ["1", "2"]


def broken_folder(folder: Path, good: int, bad: int) -> str:
    folder.mkdir()
    for k in range(good):
        picture(folder / f"good{k}.png", seed=k)
    for k in range(bad):
        (folder / f"bad{k}.jpg").write_bytes(b"\xff\xd8\xff" + bytes(k))
    (folder / "empty.png").write_bytes(b"")
    (folder / "note.txt").write_text("not looked at")
    return str(folder)


@pytest.mark.parametrize(("good", "bad"), [(1, 1), (2, 1), (1, 60), (3, 40)])
def test_unreadable_pictures_are_skipped_and_counted(tmp_path, good, bad):
    # Whichever file the hash holds back: broken ones must not be the whole of either side.
    notes = []
    train(
        [broken_folder(tmp_path / "photographs", good, bad)],
        tmp_path / "run",
        dataclasses.replace(CONFIG, steps=3),
        validate_every=1,
        progress=lambda report: notes.append(report.note),
    )
    assert len(rows(tmp_path / "run")) == 3
    assert "unreadable files were skipped" in notes[-1]
    assert 1 <= int(notes[-1].split()[0]) <= bad + 1


def test_nothing_readable_is_an_error(tmp_path):
    folder = broken_folder(tmp_path / "photographs", 0, 3)
    with pytest.raises(TrainingError, match="none of the 4 pictures can be read"):
        train([folder], tmp_path / "run", CONFIG)


@pytest.mark.parametrize("target", ["file", "file/below", "/dev/null", "/proc/run"])
def test_a_folder_that_cannot_be_is_refused(photographs, tmp_path, target):
    (tmp_path / "file").write_text("x")
    with pytest.raises(WaterfillError):
        train([photographs], tmp_path / target, CONFIG)
    assert (tmp_path / "file").read_text() == "x"


@pytest.mark.parametrize(
    "change",
    [
        {"steps": 0},
        {"batch": -1},
        {"crop": 0},
        {"crop": 100},
        {"learning_rate": math.nan},
        {"learning_rate": math.inf},
        {"learning_rate": 0.0},
        {"clip": math.nan},
        {"seed": -1},
        {"seed": 2**32},
        {"warmup": -1},
        {"decay": 1.5},
        {"decay": math.nan},
        {"ema": 1.0},
        {"qualities": (0.0, 8.0)},
        {"qualities": (5.0, 4.0)},
        {"qualities": (math.nan, 8.0)},
        {"precision": "16-true"},
    ],
    ids=str,
)
def test_configs_out_of_range_are_refused(change):
    with pytest.raises(TrainingError):
        dataclasses.replace(CONFIG, **change)


def test_the_learning_rate_rises_stays_and_falls_to_zero():
    config = TrainConfig(steps=1000, warmup=100, decay=0.25, learning_rate=2.0)
    rates = [config.rate_at(step) for step in range(1001)]
    assert rates[99:751] == [2.0] * 652
    assert (np.diff(rates[:100]) > 0).all()
    assert (np.diff(rates[750:]) < 0).all()
    assert rates[0] == pytest.approx(0.02)
    assert rates[1000] == 0.0


def test_validation_does_not_disturb_the_noise_of_training(whole, photographs, tmp_path):
    train([photographs], tmp_path / "run", CONFIG, checkpoint_every=2, validate_every=1)
    one, other = state(whole), state(tmp_path / "run")
    assert all(torch.equal(one[name], other[name]) for name in one)
