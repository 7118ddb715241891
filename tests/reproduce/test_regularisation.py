"""Paper 2's figures: seeds are paired, spreads are told, and the whole way runs on tiny codecs."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from waterfill.codec.config import CodecConfig
from waterfill.errors import WaterfillError
from waterfill.report.reproduction import render_reproduction
from waterfill.reproduce import REPRODUCTIONS, Reproduction, Request, arms
from waterfill.reproduce.arms import Arm, Trained, mean_effect
from waterfill.reproduce.overhead import step_seconds
from waterfill.reproduce.seeds import Effect
from waterfill.training.config import TrainConfig
from waterfill.training.presets import PRESETS

TINY = TrainConfig(
    steps=4,
    batch=1,
    crop=64,
    warmup=0,
    ema=0.5,
    learning_rate=1e-2,
    schedule="constant",
    checkpoint_every=2,
    validate_every=4,
    codec=CodecConfig(n=4, m=8, hyper=4, qualities=(1.0, 4.0)),
)


def test_an_effect_is_told_from_its_spread() -> None:
    clear = Effect((-1.0, -1.2, -0.8))
    assert clear.mean == pytest.approx(-1.0)
    assert clear.half_width == pytest.approx(4.3027 * 0.2 / math.sqrt(3), rel=1e-4)
    assert clear.verdict == "reproduced"
    assert Effect((1.0, 1.2, 0.8)).verdict == "not reproduced"
    assert Effect((-1.0, 0.5, 0.2)).verdict == "not resolved"
    assert Effect((-1.0,)).verdict == "not resolved"
    assert Effect((math.nan, math.nan)).verdict == "not resolved"
    assert str(clear) == "−1.00 ± 0.50 %"
    assert str(Effect((math.nan,))) == "—"


def test_seeds_are_counted_by_the_spread() -> None:
    # (t₀.₉₇₅ + t₀.₈)·s/√n for s = 1: 3.195/3 at n = 9, 3.145/√10 at 10.
    ten = Effect((0.0, 1.0, 2.0))
    assert ten.deviation == pytest.approx(1.0)
    assert ten.seeds_for(1.0) == 10
    assert ten.seeds_for(10.0) < ten.seeds_for(1.0) < ten.seeds_for(0.1)
    assert math.isnan(Effect((1.0,)).seeds_for(1.0))


def test_sets_are_weighed_alike_seed_by_seed() -> None:
    both = mean_effect([Effect((1.0, 2.0)), Effect((3.0, -2.0))])
    assert both.values == (2.0, 0.0)


def test_full_scale_is_the_papers() -> None:
    configs = Arm("autoregressive", 1.0).configs("full", 1)
    presets = [PRESETS[f"paper2-autoregressive-regularised-q{q}"] for q in range(1, 5)]
    assert configs == [replace(preset, schedule="constant", seed=1) for preset in presets]


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arms, "_mini", lambda model: TINY)
    monkeypatch.setattr(arms, "SEEDS", (1, 2))
    monkeypatch.setattr(arms, "CHECKPOINTS", (0.5, 1.0))
    monkeypatch.setattr(arms, "_MINI_CODECS", {"hyperprior": TINY.codec})
    from waterfill.reproduce import regularisation

    monkeypatch.setattr(regularisation, "SEEDS", (1, 2))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for name in ("kodak", "screen_shots"):
        (root / name).mkdir()
        for k in range(2):
            small = rng.integers(0, 256, (9, 11, 3), dtype=np.uint8)
            picture = Image.fromarray(small).resize((104, 88), Image.Resampling.BICUBIC)
            picture.save(root / name / f"{k}.png")
    return root


def request_of(folder: Path, runs: Path, photographs: Sequence[str] | None = None) -> Request:
    pictures = [str(path) for path in sorted(folder.glob("*/*.png"))]
    return Request("mini", pictures, photographs or [str(folder / "kodak")], runs)


def drawn(found: Reproduction) -> str:
    json.dumps(found.to_dict(), allow_nan=True)
    assert found.verdicts
    assert any("Mini" in note or "take turns" in note for note in found.notes)
    return render_reproduction(found)


def test_the_whole_way_from_training_to_the_page(tiny: None, folder: Path, tmp_path: Path) -> None:
    request = request_of(folder, tmp_path / "runs")
    figure = REPRODUCTIONS["paper2-fig3"](request)
    (line,) = figure.lines
    assert line.x == (2.0, 4.0)
    assert "0.88" in drawn(figure)
    runs = sorted(path.name for path in request.runs.iterdir())
    assert runs == [f"mini-hyperprior-{arm}-s{seed}" for arm in ("0.1", "plain") for seed in (1, 2)]
    kept = list(request.runs.glob("*/after-*.safetensors"))
    assert len(kept) == 8

    # What is trained is not trained again, and other figures of the same arms need nothing more.
    stamps = {path: path.stat().st_mtime_ns for path in kept}
    curves = REPRODUCTIONS["paper2-fig4"](replace(request, photographs=()))
    assert [one.name for one in curves.lines] == ["hyperprior, plain", "hyperprior, α = 0.1"]
    table = REPRODUCTIONS["paper2-table1"](replace(request, photographs=()))
    assert [row[0] for row in table.tables[0].rows] == [
        "natural (kodak)", "screen (screen_shots)",
    ]  # fmt: skip
    assert stamps == {path: path.stat().st_mtime_ns for path in stamps}
    for found in (curves, table):
        drawn(found)

    with pytest.raises(WaterfillError, match="name photographs to train on"):
        REPRODUCTIONS["paper2-annealed"](replace(request, photographs=()))
    # A run that has left a step behind can't tell what it was there.
    kept[0].with_name("after-2.safetensors").unlink()
    with pytest.raises(WaterfillError, match="gone beyond step 2"):
        REPRODUCTIONS["paper2-fig3"](request)


def test_equal_seeds_start_equal_and_learn_differently(
    tiny: None, folder: Path, tmp_path: Path
) -> None:
    trained = Trained(request_of(folder, tmp_path / "runs"))
    plain, other = (Arm("hyperprior", alpha) for alpha in (None, 0.5))
    curves = [trained.curve(arm, 1, 4, "kodak") for arm in (plain, other)]
    assert np.shape(curves) == (2, 4, 2)
    assert not np.array_equal(*curves)
    for path in (tmp_path / "runs").glob("*/metrics.csv"):
        assert path.read_text().count("\n") == 2


def test_pictures_without_natural_ones_are_refused(
    tiny: None, folder: Path, tmp_path: Path
) -> None:
    pictures = [str(path) for path in folder.glob("screen*/*.png")]
    request = Request("mini", pictures, [str(folder / "kodak")], tmp_path / "runs")
    with pytest.raises(WaterfillError, match="natural"):
        REPRODUCTIONS["paper2-fig3"](request)


def test_a_regularised_step_takes_time_of_the_same_order() -> None:
    plain, regularised = step_seconds("hyperprior", 0.1, config=TINY, repeats=2)
    assert 0 < plain < 20 * regularised
    assert regularised < 20 * plain
