"""A queue runs what is unfinished, the most urgent first, and stops in time."""

from __future__ import annotations

import dataclasses
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from waterfill.codec.registry import read_codec
from waterfill.errors import TrainingError
from waterfill.training import experiments, loop
from waterfill.training.config import TrainConfig
from waterfill.training.experiments import (
    hand_back,
    load_experiments,
    work_through,
)
from waterfill.training.folder import RunFolder
from waterfill.training.loop import Report
from waterfill.training.presets import PRESETS

SMALL = """
steps = 2
batch = 1
crop = 64
warmup = 0
precision = "32-true"
[codec]
n = 4
m = 6
hyper = 4
"""


@pytest.fixture
def photographs(tmp_path: Path) -> str:
    rng = np.random.default_rng(0)
    folder = tmp_path / "photographs"
    folder.mkdir()
    for k in range(3):
        Image.fromarray(rng.integers(0, 256, (70, 80, 3), dtype=np.uint8)).save(folder / f"{k}.png")
    return str(folder)


def queue(tmp_path: Path, **files: str) -> Path:
    folder = tmp_path / "experiments"
    folder.mkdir()
    for name, head in files.items():
        (folder / f"{name}.toml").write_text(head + SMALL)
    return folder


def names(outcomes: list[experiments.Outcome]) -> list[tuple[str, int, str]]:
    return [(o.name, o.step, o.note) for o in outcomes]


def test_order_is_priority_then_name(tmp_path: Path) -> None:
    folder = queue(tmp_path, b="", a="", urgent="priority = 3", late="priority = -1.5")
    assert [e.name for e in load_experiments(folder)] == ["urgent", "a", "b", "late"]


def test_a_preset_is_changed_by_the_fields_beside_it(tmp_path: Path) -> None:
    (folder := tmp_path / "q").mkdir()
    (folder / "one.toml").write_text('preset = "paper1-hyperprior-q3"\nbatch = 10\n[codec]\nn = 8')
    (experiment,) = load_experiments(folder)
    assert experiment.config.batch == 10
    assert experiment.config.codec.n == 8
    assert experiment.config.codec.m == PRESETS["paper1-hyperprior-q3"].codec.m
    assert experiment.config.steps == 2_000_000


def test_a_queue_is_worked_through_once(tmp_path: Path, photographs: str) -> None:
    folder, out = queue(tmp_path, one="", two="priority = 1"), tmp_path / "runs"
    seen: list[str] = []
    found = load_experiments(folder)
    first = work_through(
        found, out, data=[photographs], progress=lambda name, report: seen.append(name)
    )
    assert names(first) == [("two", 2, ""), ("one", 2, "")]
    assert seen == ["two"] * 2 + ["one"] * 2
    again = work_through(found, out, data=[photographs])
    assert names(again) == [("two", 2, "finished before"), ("one", 2, "finished before")]


def test_one_waits_for_another_and_starts_from_its_weights(
    tmp_path: Path, photographs: str
) -> None:
    folder = queue(tmp_path, fine='after = "base"\npriority = 9\nlearning_rate = 1e-12', base="")
    out = tmp_path / "runs"
    outcomes = work_through(load_experiments(folder), out, data=[photographs])
    assert [o.finished for o in outcomes] == [True, True]
    base, fine = (RunFolder(out / name) for name in ("base", "fine"))
    assert str(base.weights) in fine.config.read_text()
    one, other = (read_codec(f.weights.read_bytes(), "")[0].state_dict() for f in (base, fine))
    assert all(np.allclose(one[name], other[name], atol=1e-6) for name in one)


def test_when_time_is_up_the_rest_waits(
    tmp_path: Path, photographs: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = queue(tmp_path, base="", fine='after = "base"', other="")
    found, out = load_experiments(folder), tmp_path / "runs"
    outcomes = work_through(found, out, data=[photographs], max_minutes=0.1)
    assert names(outcomes) == [
        ("base", 0, "no time left"),
        ("fine", 0, "waits for base"),
        ("other", 0, "no time left"),
    ]
    # An unfinished run goes on where it stands.
    monkeypatch.setattr(experiments, "_LEAST_MINUTES", -1e9)
    outcomes = work_through(found, out, data=[photographs], max_minutes=-1.0)
    assert [o.step for o in outcomes] == [0, 0, 0]
    assert RunFolder(out / "base").checkpoint.exists()
    assert all(o.finished for o in work_through(found, out, data=[photographs]))


def test_one_that_fails_does_not_stop_the_others(
    tmp_path: Path, photographs: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = queue(tmp_path, bad='data = ["/nowhere"]\npriority = 1', good="")
    bad, good = work_through(load_experiments(folder), tmp_path / "runs", data=[photographs])
    assert bad.note.startswith("failed: ")
    assert "/nowhere" in bad.note
    assert good.finished


def test_a_start_that_does_not_fit_fails_alone(tmp_path: Path, photographs: str) -> None:
    folder = queue(tmp_path, base="", fine='after = "base"\nlinear_steps = 1', other="")
    with (folder / "fine.toml").open("a") as file:
        file.write('transform = "klt"')
    outcomes = work_through(load_experiments(folder), tmp_path / "runs", data=[photographs])
    found = {o.name: o for o in outcomes}
    assert found["fine"].note.startswith("failed: config: linear_steps leave out the filter")
    assert found["base"].finished
    assert found["other"].finished


@pytest.mark.parametrize("error", [MemoryError, ZeroDivisionError, AssertionError, KeyError])
def test_whatever_befalls_one_the_next_begins(
    tmp_path: Path,
    photographs: str,
    monkeypatch: pytest.MonkeyPatch,
    error: type[Exception],
) -> None:
    folder = queue(tmp_path, big="priority = 1", good="")
    real = loop.train

    def train(config: TrainConfig, out: Path, **options: Any) -> Path:
        if out.name == "big":
            raise error
        return real(config, out, **options)

    monkeypatch.setattr(experiments, "train", train)
    big, good = work_through(load_experiments(folder), tmp_path / "runs", data=[photographs])
    assert big.note == f"failed: {error.__name__}"
    assert good.finished


def test_a_signal_ends_the_queue_with_a_checkpoint(tmp_path: Path, photographs: str) -> None:
    folder, out = queue(tmp_path, a="", b=""), tmp_path / "runs"

    def ask(name: str, report: Report) -> None:
        if report.step == 1:
            os.kill(os.getpid(), signal.SIGTERM)

    a, b = work_through(load_experiments(folder), out, data=[photographs], progress=ask)
    assert (a.step, a.stopped_by) == (1, signal.SIGTERM)
    assert (b.step, b.stopped_by, b.note) == (0, None, "stopped before its turn")
    assert RunFolder(out / "a").checkpoint.exists()
    again = work_through(load_experiments(folder), out, data=[photographs])
    assert [(o.finished, o.stopped_by) for o in again] == [(True, None), (True, None)]


def test_an_interrupt_that_insists_ends_the_queue_at_once(tmp_path: Path, photographs: str) -> None:
    def insist(name: str, report: Report) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    found = load_experiments(queue(tmp_path, a="", b=""))
    with pytest.raises(KeyboardInterrupt):
        work_through(found, tmp_path / "runs", data=[photographs], progress=insist)


def test_one_that_began_with_what_is_no_more_says_so(tmp_path: Path, photographs: str) -> None:
    folder = queue(tmp_path, base="", fine='after = "base"', own='after = "base"\nstart = "START"')
    out = tmp_path / "runs"
    (folder / "own.toml").write_text(
        (folder / "own.toml").read_text().replace("START", str(tmp_path / "start.safetensors"))
    )

    def outcomes() -> list[tuple[str, int, str]]:
        return names(work_through(load_experiments(folder), out, data=[photographs]))

    shutil.copy(_trained(tmp_path, photographs), tmp_path / "start.safetensors")
    assert outcomes() == [("base", 2, ""), ("fine", 2, ""), ("own", 2, "")]
    assert {note for *_, note in outcomes()} == {"finished before"}
    weights = RunFolder(out / "fine").weights.read_bytes()
    base = folder / "base.toml"
    base.write_text(base.read_text().replace("steps = 2", "steps = 3"))
    # What somebody names to start from, they may replace.
    shutil.copy(RunFolder(out / "base").weights, tmp_path / "start.safetensors")
    stale = "began with other weights than base has now"
    for said in ("", "finished before"):
        assert outcomes() == [
            ("base", 3, said),
            ("fine", 2, f"finished before; {stale}"),
            ("own", 2, "finished before"),
        ]
    assert RunFolder(out / "fine").weights.read_bytes() == weights


def _trained(tmp_path: Path, photographs: str) -> Path:
    """Weights of the same architecture from elsewhere."""
    (folder := tmp_path / "elsewhere").mkdir()
    (folder / "other.toml").write_text("seed = 9" + SMALL)
    work_through(load_experiments(folder), tmp_path / "others", data=[photographs])
    return RunFolder(tmp_path / "others" / "other").weights


@pytest.mark.parametrize(
    ("content", "what"),
    [
        ("preset = 'none'", "no preset none"),
        ("preset = ['bundled']", "no preset"),
        ("priority = 'high'", "priority must be a number"),
        ("priority = nan", "priority must be a number"),
        ("after = 3", "after must be a name"),
        ("learning_rate = 1" + "0" * 400, "too large"),
        ("batch = 100000000000", "batch can't be above"),
        ("x = " + "[" * 4000, "not TOML"),
        ("after = 'nobody'", "waits for nobody"),
        ("steps = 0", "steps must be positive"),
        ("=", "not TOML"),
    ],
)
def test_files_that_are_no_experiments_are_named(tmp_path: Path, content: str, what: str) -> None:
    (tmp_path / "odd.toml").write_text(content)
    with pytest.raises(TrainingError, match=what) as caught:
        load_experiments(tmp_path)
    assert "odd" in str(caught.value)


def test_an_empty_queue_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="no experiments"):
        load_experiments(tmp_path)


def test_pieces_are_small_and_join_to_the_weights(tmp_path: Path, photographs: str) -> None:
    out = tmp_path / "runs"
    work_through(load_experiments(queue(tmp_path, one="")), out, data=[photographs])
    hand_back(out, tmp_path / "back", piece_bytes=2000)
    written = hand_back(out, tmp_path / "back", piece_bytes=5000)
    assert set(written) == set((tmp_path / "back").iterdir())  # nothing left of smaller pieces
    pieces = sorted(p for p in written if ".safetensors." in p.name)
    assert len(pieces) > 1
    assert all(p.stat().st_size <= 5000 for p in pieces)
    joined = b"".join(p.read_bytes() for p in pieces)
    assert joined == RunFolder(out / "one").weights.read_bytes()
    assert {"one.metrics.csv", "one.run.toml", "one.provenance.json"} <= {p.name for p in written}


def test_a_loop_of_waiting_is_no_endless_loop(tmp_path: Path, photographs: str) -> None:
    folder = queue(tmp_path, a="", b="")
    a, b = load_experiments(folder)
    circle = [dataclasses.replace(a, after="b"), dataclasses.replace(b, after="a")]
    outcomes = work_through(circle, tmp_path / "runs", data=[photographs])
    assert names(outcomes) == [("a", 0, "waits for b"), ("b", 0, "waits for a")]
    assert not (tmp_path / "runs").exists()


def test_a_queue_that_waits_in_a_circle_is_refused(tmp_path: Path) -> None:
    folder = queue(tmp_path, a='after = "b"', b='after = "c"', c='after = "a"', d="")
    with pytest.raises(TrainingError, match=r"wait in a circle \((a|b|c) after .*\)"):
        load_experiments(folder)


def test_the_repository_s_own_queue_is_one() -> None:
    folder = Path(__file__).parents[2] / "experiments"
    assert {e.name for e in load_experiments(folder)} >= {"wide", "mean-scale"}
