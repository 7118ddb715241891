"""Training: stopping and going on is no event, and nothing broken is fatal or silent."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image

import waterfill as wf
from waterfill.codec.config import CodecConfig
from waterfill.errors import Interrupted, TrainingError, WaterfillError
from waterfill.files import held
from waterfill.training import learner, loop
from waterfill.training.config import TrainConfig
from waterfill.training.folder import _COLUMNS, RunFolder
from waterfill.training.loop import train
from waterfill.training.objectives import RateDistortion
from waterfill.training.schedules import Schedule

TINY = CodecConfig(n=4, m=6, hyper=4)
CONFIG = TrainConfig(
    codec=TINY,
    steps=6,
    batch=2,
    crop=64,
    warmup=2,
    precision="32-true",
    checkpoint_every=2,
    validate_every=3,
)
CHECKPOINT, WEIGHTS = "checkpoint.safetensors", "codec.safetensors"


def run(photographs: str, out: Path, config: TrainConfig = CONFIG, **options) -> Path:
    """Train with options of ``train`` and fields of the config, mixed."""
    fields = {f.name for f in dataclasses.fields(TrainConfig)}
    changed = {name: options.pop(name) for name in list(options) if name in fields}
    return train(dataclasses.replace(config, data=(photographs,), **changed), out, **options)


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
    return safetensors.torch.load_file(out / CHECKPOINT)


def facts(out: Path) -> dict:
    with safetensors.safe_open(out / CHECKPOINT, "pt") as file:
        return json.loads(file.metadata()["waterfill.training"])


def rows(out: Path) -> list[list[str]]:
    """Rows of metrics.csv, without the times."""
    lines = (out / "metrics.csv").read_text().splitlines()
    assert lines[0].split(",") == list(_COLUMNS)
    fields = [line.split(",") for line in lines[1:]]
    assert all(len(row) == len(lines[0].split(",")) for row in fields)
    return [row[:1] + row[3:] for row in fields]


def assert_same_run(one: Path, other: Path) -> None:
    a, b = state(one), state(other)
    assert a.keys() == b.keys()
    for name in a:
        assert torch.equal(a[name], b[name]), name
    assert rows(one) == rows(other)
    mine, theirs = facts(one), facts(other)
    for known in (mine, theirs):
        assert 0 <= known.pop("waited_seconds") < known.pop("seconds")
    assert mine == theirs
    left, right = (safetensors.torch.load_file(o / WEIGHTS) for o in (one, other))
    assert all(torch.equal(left[name], right[name]) for name in left)


@pytest.fixture(scope="module")
def whole(photographs, tmp_path_factory) -> Path:
    """The run that nothing interrupted."""
    out = tmp_path_factory.mktemp("runs") / "whole"
    run(photographs, out)
    return out


def killed_at(step: int, photographs: str, out: Path, config: TrainConfig = CONFIG, **options):
    """Run until ``step``'s report; what is on disk then is all that is left."""

    def die(report):
        if report.step == step:
            raise KilledError

    with pytest.raises(KilledError):
        run(photographs, out, config, progress=die, **options)


def test_a_run_leaves_weights_that_load_and_what_they_came_from(whole):
    codec = wf.load_codec(whole / WEIGHTS)
    with safetensors.safe_open(whole / WEIGHTS, "pt") as file:
        told = json.loads(file.metadata()["training"])
    assert told["steps"] == 6
    assert not {"data", "start"} & set(told)  # weights are given away, paths are not
    assert codec.config == TINY
    assert codec.weights_id != bytes(8)
    data = codec.compress(np.zeros((9, 9, 3), np.uint8))
    assert wf.decompress(data, codec=codec).size == (9, 9)
    assert facts(whole)["step"] == 6
    assert [int(row[0]) for row in rows(whole)] == [3, 6]
    kept = TrainConfig.from_toml((whole / "run.toml").read_text())
    assert dataclasses.replace(kept, data=()) == CONFIG
    (start,) = json.loads((whole / "provenance.json").read_text())["starts"]
    assert {"step", "seed", "command", "revision", "versions", "data", "precision"} <= set(start)
    assert start["data"]["pictures"] == 3
    assert len(start["data"]["fingerprint"]) >= 16
    assert {p.name for p in whole.iterdir()} == {
        CHECKPOINT, WEIGHTS, "metrics.csv", "run.toml", "provenance.json", "tensorboard",
        "lock",
    }  # fmt: skip
    assert list((whole / "tensorboard").glob("events.out.tfevents.*"))


def test_tensorboard_is_dispensable(photographs, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    run(photographs, tmp_path / "run")
    assert not (tmp_path / "run" / "tensorboard").exists()
    assert len(rows(tmp_path / "run")) == 2


def test_the_codec_learns(photographs, tmp_path):
    config = dataclasses.replace(CONFIG, steps=60, learning_rate=3e-2, ema=0.5)
    run(photographs, tmp_path / "run", config, validate_every=5, checkpoint_every=60)
    losses = [float(row[-4]) for row in rows(tmp_path / "run")]
    assert losses[-1] < 0.9 * losses[0]


@pytest.mark.parametrize("step", [3, 4, 5])
def test_killed_and_resumed_equals_uninterrupted(whole, photographs, tmp_path, step):
    # Step 3 lies between a validation and the next checkpoint: its row is in the file already.
    out = tmp_path / "run"
    killed_at(step, photographs, out)
    assert facts(out)["step"] == step // 2 * 2
    run(photographs, out, resume=True)
    assert_same_run(whole, out)


def test_the_same_in_bfloat16(photographs, tmp_path):
    config = dataclasses.replace(CONFIG, precision="bf16-mixed", steps=4)
    run(photographs, tmp_path / "one", config)
    killed_at(3, photographs, tmp_path / "two", config)
    run(photographs, tmp_path / "two", config, resume=True)
    assert_same_run(tmp_path / "one", tmp_path / "two")


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_the_same_with_bases_that_turn(photographs, tmp_path, precision):
    config = dataclasses.replace(CONFIG, optimiser="soap", precision=precision, steps=24)
    run(photographs, tmp_path / "whole", config)
    killed_at(21, photographs, tmp_path / "run", config)  # bases turned at 20, none at 22
    run(photographs, tmp_path / "run", config, resume=True)
    assert_same_run(tmp_path / "whole", tmp_path / "run")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_finishes_the_step_and_checkpoints(whole, photographs, tmp_path, number):
    out, before = tmp_path / "run", signal.getsignal(number)

    def ask(report):
        if report.step == 3:
            os.kill(os.getpid(), number)

    with pytest.raises(Interrupted) as caught:
        run(photographs, out, CONFIG, progress=ask)
    assert (caught.value.number, caught.value.finished) == (number, False)
    assert caught.value.exit_code == {signal.SIGINT: 130, signal.SIGTERM: 143}[number]
    assert facts(out)["step"] == 3
    assert wf.load_codec(out / WEIGHTS).config == TINY
    assert signal.getsignal(number) == before
    run(photographs, out, resume=True)
    assert_same_run(whole, out)


def test_a_signal_at_the_last_step_finds_the_run_finished(photographs, tmp_path):
    def ask(report):
        if report.step == CONFIG.steps:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Interrupted) as caught:
        run(photographs, tmp_path / "run", CONFIG, progress=ask)
    assert caught.value.finished
    assert facts(tmp_path / "run")["step"] == CONFIG.steps


def test_a_second_interrupt_does_not_wait(photographs, tmp_path):
    def insist(report):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        run(photographs, tmp_path / "run", CONFIG, progress=insist)


def test_stopped_before_the_first_step_it_still_can_be_resumed(whole, photographs, tmp_path):
    out = tmp_path / "run"
    path = run(photographs, out, CONFIG, max_minutes=-1.0)
    assert facts(out)["step"] == 0
    assert wf.load_codec(path).config == TINY
    run(photographs, out, resume=True)
    assert_same_run(whole, out)


def test_resuming_a_finished_run_changes_nothing_but_can_make_it_longer(
    whole, photographs, tmp_path
):
    out = tmp_path / "run"
    run(photographs, out, dataclasses.replace(CONFIG, steps=4))
    before = state(out)
    run(photographs, out, dataclasses.replace(CONFIG, steps=4), resume=True)
    assert all(torch.equal(value, before[name]) for name, value in state(out).items())
    steps = []
    longer = dataclasses.replace(CONFIG, steps=5)
    run(photographs, out, longer, resume=True, progress=lambda r: steps.append(r.step))
    assert steps == [4, 5]


def test_resuming_without_a_step_leaves_the_weights_alone(photographs, tmp_path):
    out = tmp_path / "run"
    run(photographs, out, CONFIG, steps=2)
    written = (out / WEIGHTS).read_bytes()
    (out / WEIGHTS).write_bytes(b"whose they are")
    for options in ({}, {"max_minutes": 0.0}):
        run(photographs, out, dataclasses.replace(CONFIG, steps=2), resume=True, **options)
        assert (out / WEIGHTS).read_bytes() == b"whose they are"
    (out / WEIGHTS).unlink()
    run(photographs, out, CONFIG, steps=2, resume=True)
    tensors, again = (safetensors.torch.load(b) for b in (written, (out / WEIGHTS).read_bytes()))
    assert all(torch.equal(tensors[name], again[name]) for name in tensors)


def test_fewer_steps_than_are_done_are_refused(photographs, tmp_path):
    out = tmp_path / "run"
    run(photographs, out, CONFIG, steps=3)
    before = {path: path.read_bytes() for path in out.iterdir() if path.is_file()}
    with pytest.raises(TrainingError, match="has done 3 steps; 2 are fewer") as caught:
        run(photographs, out, CONFIG, steps=2, resume=True)
    assert "\n" not in str(caught.value)
    assert all(path.read_bytes() == content for path, content in before.items())


def test_an_oracle_that_needs_no_bit_is_no_division_by_zero(photographs, tmp_path):
    notes = []
    run(
        photographs, tmp_path / "run", CONFIG, objective="oracle-test-channel",
        oracle_mode="paper", budget=1e9, steps=2, validate_every=1,
        progress=lambda report: notes.append(report.note),
    )  # fmt: skip
    rate = _COLUMNS.index("validation_bpp") - 2  # of the columns, rows() leaves out two
    assert [float(row[rate]) for row in rows(tmp_path / "run")] == [0.0, 0.0]
    assert not any(note and "drifts" in note for note in notes)


def test_metrics_keep_what_the_checkpoint_has_behind_it(photographs, tmp_path):
    out = tmp_path / "run"
    killed_at(5, photographs, out)  # rows: 3; checkpoint: 4
    with open(out / "metrics.csv", "a") as stream:
        ones = ",1" * (len(_COLUMNS) - 1)
        stream.write(f"4{ones}\n5{ones}\nnonsense\n\n6,0.1,0.0")
    run(photographs, out, resume=True)
    assert [row[0] for row in rows(out)] == ["3", "4", "6"]
    # A file that is gone is begun anew.
    (out / "metrics.csv").unlink()
    run(photographs, out, dataclasses.replace(CONFIG, steps=7), resume=True)
    assert [row[0] for row in rows(out)] == ["7"]


@pytest.mark.parametrize("text", ["[" * 100_000, '{"step": Infinity}'])
def test_facts_made_to_do_harm_are_refused(whole, photographs, tmp_path, text):
    (tmp_path / "run").mkdir()
    told = facts(whole) | json.loads(text) if text.startswith("{") else None
    metadata = {"waterfill.training": text if told is None else json.dumps(told)}
    data = safetensors.torch.save(state(whole), metadata)
    (tmp_path / "run" / CHECKPOINT).write_bytes(data)
    with pytest.raises(TrainingError, match="not a training checkpoint"):
        run(photographs, tmp_path / "run", resume=True)


def test_a_plateau_is_the_same_in_a_run_that_is_made_longer(photographs, tmp_path):
    config = dataclasses.replace(
        CONFIG, schedule="plateau", patience=1, validate_every=2, warmup=0, ema=0.0
    )
    config = dataclasses.replace(config, learning_rate=1e-9)  # no better loss, ever
    run(photographs, tmp_path / "one", config)
    run(photographs, tmp_path / "two", config, steps=3)
    run(photographs, tmp_path / "two", config, resume=True)
    one, two = (facts(tmp_path / name)["schedule"] for name in ("one", "two"))
    assert one == two


def test_another_run_is_not_overwritten_and_nothing_is_not_resumed(whole, photographs, tmp_path):
    before = (whole / CHECKPOINT).read_bytes()
    with pytest.raises(TrainingError, match="holds a run already"):
        run(photographs, whole, CONFIG)
    assert (whole / CHECKPOINT).read_bytes() == before
    with pytest.raises(TrainingError, match="nothing to resume"):
        run(photographs, tmp_path / "none", CONFIG, resume=True)
    assert not (tmp_path / "none").exists()


def test_a_run_removes_what_killed_ones_have_left(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    left, written, other = (
        tmp_path / name for name in (f".waterfill-{0:016x}", f".waterfill-{1:016x}", "notes")
    )
    for path in (left, written, other):
        path.write_text("half")
    for path in (left, other):
        os.utime(path, (0, 0))
    with run.claimed(resume=False):
        pass
    assert sorted(tmp_path.iterdir()) == sorted([written, other, run.lock])


@pytest.mark.skipif(sys.platform == "win32", reason="locks of Unix")
@pytest.mark.parametrize("step", [1, 3])
def test_a_run_has_its_folder_for_itself(photographs, tmp_path, step):
    said = []

    def meanwhile(report) -> None:
        if report.step == step:  # before the first checkpoint, and after it
            for resume in (False, (tmp_path / CHECKPOINT).exists()):
                with pytest.raises(TrainingError, match="another process trains") as caught:
                    run(photographs, tmp_path, CONFIG, resume=resume)
                said.append(str(caught.value))

    run(photographs, tmp_path, CONFIG, progress=meanwhile)
    assert len(said) == 2
    assert not any("\n" in line for line in said)
    run(photographs, tmp_path, CONFIG, steps=7, resume=True)


@pytest.mark.skipif(sys.platform == "win32", reason="locks of Unix")
def test_a_killed_process_holds_nothing(tmp_path):
    path = tmp_path / "lock"
    code = """if True:
        import sys
        from pathlib import Path
        from waterfill.files import held
        with held(Path(sys.argv[1])) as free:
            print(free, flush=True)
            sys.stdin.read()
    """
    child = subprocess.Popen(
        [sys.executable, "-c", code, str(path)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    with child:
        assert child.stdout.readline() == "True\n"
        with held(path) as free:
            assert not free
        child.kill()
    with held(path) as free:
        assert free


@pytest.mark.parametrize(
    "change",
    [
        {"codec": CodecConfig(n=5, m=6, hyper=4)},
        {"seed": 2},
        {"batch": 3},
        {"crop": 128},
        {"learning_rate": 2e-3},
        {"codec": dataclasses.replace(TINY, qualities=(1.0, 7.0))},
        {"decay": 0.5},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_run_is_resumed_with_its_own_options_alone(whole, photographs, change):
    before = {p.name: p.read_bytes() for p in whole.iterdir() if p.is_file()}
    with pytest.raises(TrainingError, match=next(iter(change))):
        run(photographs, whole, dataclasses.replace(CONFIG, **change), resume=True)
    assert {p.name: p.read_bytes() for p in whole.iterdir() if p.is_file()} == before


def rewritten(whole: Path, out: Path, change) -> Path:
    """A copy of a checkpoint after ``change(tensors, facts)``."""
    out.mkdir()
    tensors, known = state(whole), facts(whole)
    change(tensors, known)
    metadata = {"waterfill.training": json.dumps(known)}
    (out / CHECKPOINT).write_bytes(safetensors.torch.save(tensors, metadata))
    return out


BROKEN = {
    "NaN weight": lambda t, f: t["model.codec.g_a.0.bias"].fill_(math.nan),
    "infinite moment": lambda t, f: t["optimiser.0.exp_avg_sq"].fill_(math.inf),
    "missing tensor": lambda t, f: t.pop("average.g_a.0.bias"),
    "missing moment": lambda t, f: t.pop("optimiser.3.exp_avg"),
    "foreign tensor": lambda t, f: t.update(other=torch.zeros(1)),
    "foreign slot": lambda t, f: t.update({"optimiser.x.y": torch.zeros(1)}),
    "other shape": lambda t, f: t.update({"optimiser.0.exp_avg": torch.zeros(1)}),
    "other type": lambda t, f: t.update({"model.codec.g_a.0.bias": torch.zeros(4).half()}),
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
    before = (out / CHECKPOINT).read_bytes()
    with pytest.raises(TrainingError) as caught:
        run(photographs, out, dataclasses.replace(CONFIG, steps=8), resume=True)
    assert CHECKPOINT in str(caught.value)
    assert (out / CHECKPOINT).read_bytes() == before


def test_unbroken_the_copy_is_accepted(whole, photographs, tmp_path):
    out = rewritten(whole, tmp_path / "run", lambda t, f: None)
    run(photographs, out, resume=True)


def test_files_that_are_no_checkpoints_are_refused(whole, photographs, tmp_path):
    good = (whole / CHECKPOINT).read_bytes()
    for k, content in enumerate(
        (b"", b"text", good[:-1], good[: len(good) // 2], b"\xff" * 64,
         (whole / WEIGHTS).read_bytes(), (2**62).to_bytes(8, "little") + b"{}")
    ):  # fmt: skip
        out = tmp_path / str(k)
        out.mkdir()
        (out / CHECKPOINT).write_bytes(content)
        with pytest.raises(TrainingError, match=str(out / CHECKPOINT)):
            run(photographs, out, resume=True)


def test_nothing_is_unpickled(photographs, tmp_path):
    class Bomb:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "exploded",))

    torch.save({"model": Bomb()}, tmp_path / CHECKPOINT)
    with pytest.raises(TrainingError):
        run(photographs, tmp_path, CONFIG, resume=True)
    with pytest.raises(wf.CodecError):
        wf.load_codec(tmp_path / CHECKPOINT)
    assert not (tmp_path / "exploded").exists()


class _Poison(RateDistortion):
    """In some training steps, a loss or its gradient is not finite."""

    def __init__(self, codec, kind: str, at) -> None:
        super().__init__(codec)
        self.kind, self.at, self.step = kind, at, 0

    def forward(self, batch):
        parts = super().forward(batch)
        self.step += 1
        if self.step - 1 not in self.at:
            return parts
        if self.kind == "loss":
            return parts._replace(loss=parts.loss * math.nan)
        if self.kind == "huge":
            return parts._replace(loss=parts.loss * 1e9)
        zero = parts.mse.sum() * 0.0
        return parts._replace(loss=parts.loss + torch.sqrt(zero) - torch.sqrt(zero).detach())


@pytest.mark.parametrize("kind", ["loss", "gradient"])
@pytest.mark.parametrize("at", [1, 5])
def test_a_loss_or_gradient_that_is_not_finite_stops_with_the_last_good_checkpoint(
    photographs, tmp_path, monkeypatch, kind, at
):
    out = tmp_path / "run"
    poison = range(at, 99)
    monkeypatch.setattr(learner, "objective_of", lambda config, codec: _Poison(codec, kind, poison))
    with pytest.raises(TrainingError, match=f"the {kind} is .* at step {at}") as caught:
        run(photographs, out)
    if at == 1:
        assert "no checkpoint yet" in str(caught.value)
        assert not (out / CHECKPOINT).exists()
    else:
        assert str(out / CHECKPOINT) in str(caught.value)
        assert facts(out)["step"] == 4
        assert all(bool(t.isfinite().all()) for t in state(out).values())


def test_a_loss_that_runs_away_stops_before_its_checkpoint(photographs, tmp_path, monkeypatch):
    out = tmp_path / "run"
    poison = range(4, 99)
    monkeypatch.setattr(
        learner, "objective_of", lambda config, codec: _Poison(codec, "huge", poison)
    )
    with pytest.raises(TrainingError, match=r"run away from .* at step 4; the last"):
        run(photographs, out, checkpoint_every=1)
    assert facts(out)["step"] == 4


def test_an_exact_reconstruction_leaves_the_recorded_psnr_finite(
    photographs, tmp_path, monkeypatch
):
    class Exact(RateDistortion):
        def forward(self, batch):
            losses = super().forward(batch)
            return losses._replace(mse=torch.zeros_like(losses.mse))

    monkeypatch.setattr(learner, "objective_of", lambda config, codec: Exact(codec))
    run(photographs, tmp_path / "run", steps=2, checkpoint_every=2)
    assert np.isfinite(facts(tmp_path / "run")["recent"][:4]).all()


@pytest.mark.parametrize("kind", ["loss", "gradient"])
def test_steps_that_go_wrong_can_be_left_out(photographs, tmp_path, monkeypatch, kind):
    out, notes = tmp_path / "run", []
    monkeypatch.setattr(learner, "objective_of", lambda config, codec: _Poison(codec, kind, [1, 4]))
    run(photographs, out, skip_nonfinite=True, progress=lambda report: notes.append(report.note))
    assert facts(out)["step"] == 6
    assert facts(out)["skipped"] == 2
    assert "2 steps were skipped" in notes[-1]
    assert all(bool(t.isfinite().all()) for t in state(out).values())


def test_leaving_out_steps_ends_some_time(photographs, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "_MAX_SKIPPED_IN_A_ROW", 3)
    always = range(99)
    monkeypatch.setattr(
        learner, "objective_of", lambda config, codec: _Poison(codec, "loss", always)
    )
    with pytest.raises(TrainingError, match="as in 3 steps before"):
        run(photographs, tmp_path / "run", skip_nonfinite=True)


def test_steps_left_out_in_a_row_are_counted_across_starts(photographs, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "_MAX_SKIPPED_IN_A_ROW", 3)
    monkeypatch.setattr(
        learner, "objective_of", lambda config, codec: _Poison(codec, "loss", range(99))
    )
    out = tmp_path / "run"
    run(photographs, out, steps=2, skip_nonfinite=True)
    assert facts(out)["skipped_in_a_row"] == 2
    with pytest.raises(TrainingError, match="as in 3 steps before, at step 3"):
        run(photographs, out, steps=6, skip_nonfinite=True, resume=True)


def test_weights_that_are_not_finite_never_reach_the_disk(photographs, tmp_path):
    # A step so long that the weights overflow, with a checkpoint due before the next loss.
    config = dataclasses.replace(CONFIG, learning_rate=1e39, warmup=0)
    with pytest.raises(TrainingError, match="stopped being finite"):
        run(photographs, tmp_path / "run", config, checkpoint_every=1)
    assert not (tmp_path / "run" / CHECKPOINT).exists()


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
            run(photographs, out)
    monkeypatch.undo()
    assert saves == [2, 4]
    assert facts(out)["step"] == 2
    assert not [p for p in out.iterdir() if p.name.startswith(".")]
    run(photographs, out, resume=True)
    assert_same_run(whole, out)


@pytest.mark.parametrize("size", [(96, 80), (64, 64), (1, 1), (10, 300), (300, 10)])
def test_one_picture_of_any_size_is_enough(tmp_path, size):
    folder = tmp_path / "one"
    folder.mkdir()
    picture(folder / "a.png", *size)
    config = dataclasses.replace(CONFIG, steps=2)
    run(str(folder), tmp_path / "run", config, validate_every=1)
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
    run(
        broken_folder(tmp_path / "photographs", good, bad),
        tmp_path / "run",
        dataclasses.replace(CONFIG, steps=3),
        validate_every=1,
        progress=lambda report: notes.append(report.note),
    )
    assert len(rows(tmp_path / "run")) == 3
    found = re.fullmatch(
        r"(\d+) unreadable pictures? (was|were) skipped: (bad\d+.jpg|empty.png)( …)?", notes[-1]
    )
    assert found
    assert 1 <= int(found[1]) <= bad + 1
    assert (found[1] == "1") == (found[2] == "was") == (found[4] is None)


@pytest.mark.parametrize(("crop", "told"), [(64, False), (128, True)])
def test_crops_larger_than_all_pictures_are_told_at_the_start(photographs, tmp_path, crop, told):
    reports = []
    run(photographs, tmp_path / "run", crop=crop, batch=1, steps=1, progress=reports.append)
    assert ("larger than the pictures" in (reports[0].note or "")) == told
    assert reports[0].step == (0 if told else 1)


def test_nothing_readable_is_an_error(tmp_path):
    folder = broken_folder(tmp_path / "photographs", 0, 3)
    reason = r"none of the 4 pictures can be read; one: .*(bad\d.jpg|empty.png): "
    with pytest.raises(TrainingError, match=reason):
        run(folder, tmp_path / "run", CONFIG)


@pytest.mark.parametrize("target", ["file", "file/below", "/dev/null", "/proc/run"])
def test_a_folder_that_cannot_be_is_refused(photographs, tmp_path, target):
    (tmp_path / "file").write_text("x")
    with pytest.raises(WaterfillError):
        run(photographs, tmp_path / target, CONFIG)
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
        {"precision": "16-true"},
        {"accumulate": 0},
        {"batch": 10**11},
        {"crop": 64 << 10},
        {"accumulate": 3, "batch": 4},
        {"schedule": "sawtooth"},
        {"objective": "beauty"},
        {"alpha": -1.0},
        {"checkpoint_every": 0},
    ],
    ids=str,
)
def test_configs_out_of_range_are_refused(change):
    with pytest.raises(TrainingError):
        dataclasses.replace(CONFIG, **change)


def test_the_learning_rate_rises_stays_and_falls_to_zero():
    config = TrainConfig(steps=1000, warmup=100, decay=0.25, learning_rate=2.0)
    rates = [Schedule(config).rate_at(step) for step in range(1001)]
    assert rates[99:751] == [2.0] * 652
    assert (np.diff(rates[:100]) > 0).all()
    assert (np.diff(rates[750:]) < 0).all()
    assert rates[0] == pytest.approx(0.02)
    assert rates[1000] == 0.0


def test_validation_does_not_disturb_the_noise_of_training(whole, photographs, tmp_path):
    run(photographs, tmp_path / "run", CONFIG, checkpoint_every=2, validate_every=1)
    one, other = state(whole), state(tmp_path / "run")
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_cosine_falls_to_zero_and_a_plateau_halves():
    config = TrainConfig(steps=100, warmup=0, decay=1.0, schedule="cosine", learning_rate=1.0)
    schedule = Schedule(config)
    assert [schedule.rate_at(s) for s in (0, 50, 100)] == pytest.approx([1.0, 0.5, 0.0])
    plateau = Schedule(dataclasses.replace(config, schedule="plateau", patience=2))
    for loss in (3.0, 2.0, 2.5, 2.5, 2.1, 1.9, 1.9):
        plateau.observe(loss)
    assert plateau.rate_at(99) == 0.5
    again = Schedule(dataclasses.replace(config, schedule="plateau", patience=2))
    again.restore(json.loads(json.dumps(plateau.state())))
    again.observe(5.0)
    assert again.rate_at(0) == 0.25


def test_a_batch_in_pieces_gives_the_step_of_the_whole(photographs, tmp_path):
    config = dataclasses.replace(CONFIG, batch=4, steps=3)
    run(photographs, tmp_path / "whole", config)
    run(photographs, tmp_path / "pieces", config, accumulate=4)
    one, other = state(tmp_path / "whole"), state(tmp_path / "pieces")
    for name, tensor in one.items():
        # Adam's first steps are as long as the rate, whatever the gradient: sums in another order
        # move a weight by that at most where the gradient is next to nothing.
        assert torch.allclose(tensor, other[name], atol=1e-4), name
    losses = [[float(row[2]) for row in rows(tmp_path / name)] for name in ("whole", "pieces")]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_resuming_with_other_pictures_is_refused(whole, tmp_path):
    picture(tmp_path / "a.png", seed=9)
    before = {p.name: p.read_bytes() for p in whole.iterdir() if p.is_file()}
    with pytest.raises(TrainingError, match="other pictures"):
        run(str(tmp_path), whole, resume=True)
    assert {p.name: p.read_bytes() for p in whole.iterdir() if p.is_file()} == before


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.skipif(sys.platform != "linux", reason="reads memory from /proc")
def test_memory_stays_flat_over_ten_thousand_steps(photographs, tmp_path):
    resident = {}

    def look(report):
        if report.step in (2_000, 10_000) and report.step not in resident:
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            resident[report.step] = pages * os.sysconf("SC_PAGE_SIZE")

    run(
        photographs,
        tmp_path / "run",
        dataclasses.replace(CONFIG, steps=10_000, batch=1),
        checkpoint_every=1000,
        validate_every=1000,
        progress=look,
    )
    assert resident[10_000] < 1.02 * resident[2_000] + (4 << 20)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a compiler here")
@pytest.mark.filterwarnings("default")  # those of the compiler itself
def test_compiled_transforms_train_to_the_same_losses(photographs, tmp_path):
    run(photographs, tmp_path / "plain")
    run(photographs, tmp_path / "compiled", compile=True)
    for plain, compiled in zip(rows(tmp_path / "plain"), rows(tmp_path / "compiled"), strict=True):
        expected = pytest.approx([float(v) for v in plain], rel=1e-4, nan_ok=True)
        assert [float(v) for v in compiled] == expected  # what isn't measured is NaN in both


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # those of the compiler itself
def test_compiling_without_a_compiler_is_one_line(photographs, tmp_path, monkeypatch):
    from torch._inductor import config as inductor

    monkeypatch.setattr(inductor.cpp, "cxx", ("/nowhere/g++",))
    with pytest.raises(TrainingError, match=r"torch\.compile") as caught:
        run(photographs, tmp_path / "run", dataclasses.replace(CONFIG, crop=128), compile=True)
    assert "\n" not in str(caught.value)


def test_going_on_needs_no_codec_to_start_from_and_keeps_its_record(photographs, tmp_path):
    first = run(photographs, tmp_path / "first")
    start = tmp_path / "start.safetensors"
    start.write_bytes(first.read_bytes())
    config = dataclasses.replace(CONFIG, start=str(start))
    run(photographs, tmp_path / "run", config, steps=2)
    start.unlink()
    run(photographs, tmp_path / "run", config, resume=True)
    starts = json.loads((tmp_path / "run" / "provenance.json").read_text())["starts"]
    assert [one["step"] for one in starts] == [0, 2]
    weights = wf.load_codec(first).weights_id.hex()
    assert starts[0]["start"] == {"name": str(start), "weights": weights}
    assert "start" not in starts[1]


def test_time_to_get_ready_counts(photographs, tmp_path):
    run(photographs, tmp_path / "run", max_minutes=0.0)
    assert facts(tmp_path / "run")["step"] == 0


def test_a_finished_checkpoint_has_its_weights(photographs, tmp_path, monkeypatch):
    # Killed between the two files: the weights must not be the older ones.
    real = loop.save_codec

    def die(codec, path, provenance):
        if provenance["steps"] == "6":
            raise KilledError
        real(codec, path, provenance)

    monkeypatch.setattr(loop, "save_codec", die)
    with pytest.raises(KilledError):
        run(photographs, tmp_path / "run")
    assert facts(tmp_path / "run")["step"] == 4


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")
def test_a_name_that_toml_can_not_hold_is_refused(tmp_path):
    folder = os.fsdecode(os.fsencode(tmp_path) + b"/ph\xff")
    os.mkdir(folder)
    picture(Path(folder) / "a.png")
    with pytest.raises(TrainingError, match="UTF-8"):
        run(folder, tmp_path / "run")
    assert not (tmp_path / "run").exists()
