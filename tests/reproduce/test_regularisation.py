"""Paper 2's figures: seeds are paired, spreads are told, and the whole way runs on tiny codecs."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from PIL import Image

from waterfill.codec.config import CodecConfig
from waterfill.codec.registry import PRESETS as ARCHITECTURES
from waterfill.errors import DivergedError, WaterfillError
from waterfill.report.reproduction import render_reproduction
from waterfill.reproduce import REPRODUCTIONS, Reproduction, Request
from waterfill.reproduce.regularisation import arms, baselines, gains, overhead, study, weights
from waterfill.reproduce.regularisation.arms import Arm, Trained, mean_effect
from waterfill.reproduce.regularisation.overhead import Overhead, overhead_of
from waterfill.reproduce.regularisation.seeds import Effect
from waterfill.reproduce.regularisation.study import Study
from waterfill.reproduce.result import percent
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
    nothing = study.resolution({"x": Effect((math.nan,))})
    assert nothing == "x: —, s = — %, seeds for 1 %: —"


def test_one_of_many_needs_more_to_refute_them_all() -> None:
    above = Effect((0.8, 1.0, 1.2))
    assert above.verdict == above.verdict_among(2) == "not reproduced"
    assert above.verdict_among(20) == "not resolved"
    below = {f"{k}": Effect((-1.0, -1.2, -0.8)) for k in range(19)}
    assert study.joint(below) == "reproduced"
    assert study.joint(below | {"20": above}) == "not resolved"
    assert study.joint(below | {"20": Effect((1.0, 1.01, 0.99))}) == "not reproduced"


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


def test_the_bundled_codec_is_trained_on_as_it_is() -> None:
    for scale in ("mini", "full"):
        arm = Arm("bundled", 0.1)
        (config,) = arm.configs(scale, 2)
        assert config.start == "default"
        assert replace(config.codec, qualities=(1.0, 8.0)) == ARCHITECTURES["default"]
        assert (config.seed, config.alpha, config.source_model) == (2, 0.1, "aligned")
        assert arms.checkpoints_of(arm, scale) == [config.steps]


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arms, "_mini", lambda model: TINY)
    monkeypatch.setattr(arms, "SEEDS", (1, 2))
    monkeypatch.setattr(arms, "CHECKPOINTS", (0.5, 1.0))
    monkeypatch.setattr(arms, "_MINI_CODECS", {"hyperprior": TINY.codec})
    for module in (baselines, gains, study, weights):
        monkeypatch.setattr(module, "SEEDS", (1, 2))


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
    curves = REPRODUCTIONS["paper2-fig4"](request)
    assert [one.name for one in curves.lines] == ["hyperprior, plain", "hyperprior, α = 0.1"]
    assert curves.environment["training_seeds"] == [1, 2]
    runs = sorted(path.name for path in request.runs.glob("mini-*"))
    assert runs == [f"mini-hyperprior-{arm}-s{seed}" for arm in ("0.1", "plain") for seed in (1, 2)]
    kept = list(request.runs.glob("*/after-*.safetensors"))
    assert len(kept) == 8

    # A figure of the last step has kept what one of all steps needs, and nothing is trained again.
    stamps = {path: path.stat().st_mtime_ns for path in kept}
    figure = REPRODUCTIONS["paper2-fig3"](replace(request, photographs=()))
    (line,) = figure.lines
    assert line.x == (2.0, 4.0)
    table = REPRODUCTIONS["paper2-table1"](replace(request, photographs=()))
    assert [row[0] for row in table.tables[0].rows] == [
        "natural (kodak)", "screen (screen_shots)",
    ]  # fmt: skip
    assert stamps == {path: path.stat().st_mtime_ns for path in stamps}
    assert "0.88" in drawn(figure)
    for found in (curves, table):
        drawn(found)

    with pytest.raises(WaterfillError, match="name photographs to train on"):
        REPRODUCTIONS["paper2-annealed"](replace(request, photographs=()))
    # A run that has left a step behind can't tell what it was there.
    kept[0].with_name("after-2.safetensors").unlink()
    with pytest.raises(WaterfillError, match="gone beyond step 2"):
        REPRODUCTIONS["paper2-fig3"](request)


def test_a_run_that_was_made_otherwise_is_not_taken_for_this_one(
    tiny: None, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = request_of(folder, tmp_path / "runs")
    curve = Trained(request).curve(Arm("hyperprior"), 1, 4, "kodak")
    for changed, photographs, what in (
        (replace(TINY, learning_rate=2e-2), request.photographs, "with another learning_rate"),
        (TINY, [str(folder / "screen_shots" / "0.png")], "on other photographs than these"),
    ):
        monkeypatch.setattr(arms, "_mini", lambda model, config=changed: config)
        other = Trained(replace(request, photographs=photographs))
        with pytest.raises(WaterfillError, match=f"mini-hyperprior-plain-s1: was trained {what}"):
            other.curve(Arm("hyperprior"), 1, 4, "kodak")
    monkeypatch.setattr(arms, "_mini", lambda model: TINY)

    # Measured once, and again where what measures has changed.
    asked: list[object] = []
    measure = arms.measure_rung
    monkeypatch.setattr(
        arms, "measure_rung", lambda *a, **k: (asked.append(a), measure(*a, **k))[1]
    )
    assert Trained(request).curve(Arm("hyperprior"), 1, 4, "kodak") == curve
    assert not asked
    monkeypatch.setattr(arms, "identity", lambda: {"code": "another"})
    assert Trained(request).curve(Arm("hyperprior"), 1, 4, "kodak") == curve
    assert len(asked) == 1


def test_at_no_weight_equal_seeds_end_equal(tiny: None, folder: Path, tmp_path: Path) -> None:
    trained = Trained(request_of(folder, tmp_path / "runs"))
    plain, nothing, other = (Arm("hyperprior", alpha) for alpha in (None, 0.0, 0.5))
    curves = [trained.curve(arm, 1, 4, "kodak") for arm in (plain, nothing, other)]
    assert np.shape(curves) == (3, 4, 2)
    assert curves[0] == curves[1] != curves[2]


class Faked(Study):
    """Effects without trainings: of each arm what ``told`` says, with a spread of ± .1."""

    told: ClassVar[dict[str, float]] = {}

    def __init__(self, request: Request) -> None:
        super().__init__(request)
        self.ran_away = {}

    def curve(self, arm: Arm, seed: int, step: int, wanted: str) -> list[tuple[float, float]]:
        factor = 1.0 + (self.told.get(arm.name, 0.0) + 0.1 * (seed - 2)) / 100.0
        if arm.alpha is None:
            factor = 1.0
        if not math.isfinite(factor):
            raise DivergedError("the loss is nan at step 3; the regulariser takes 5.0 times λ; …")
        return [(0.2 * 2**k * factor, 28.0 + 2.5 * k) for k in range(4)]


def faked(monkeypatch: pytest.MonkeyPatch, folder: Path, name: str, **told: float) -> Reproduction:
    for module in (baselines, gains, weights):
        monkeypatch.setattr(module, "Study", Faked)
    monkeypatch.setattr(Faked, "told", {key.replace("_", "-"): g for key, g in told.items()})
    found = REPRODUCTIONS[f"paper2-{name}"](request_of(folder, folder))
    drawn(found)
    return found


def verdicts(found: Reproduction) -> list[str]:
    return [one.verdict for one in found.verdicts]


def test_verdicts_follow_the_intervals(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    def of(name: str, **gains: float) -> list[str]:
        return verdicts(faked(monkeypatch, folder, name, **gains))

    low = {"hyperprior-0.1": -1.0, "autoregressive-0.1": -1.0}
    assert of("fig3", **low) == ["reproduced"]
    assert of("fig3", **low | {"autoregressive-0.1": 0.05}) == ["not resolved"]
    assert of("fig3", **low | {"autoregressive-0.1": 1.0}) == ["not reproduced"]
    assert of("fig4", **low) == ["reproduced"]
    assert of("table1", **low) == ["reproduced", "reproduced"]
    # The middle weight gains most; or the smallest does.
    assert of("fig5", **low)[0] == "reproduced"
    assert of("fig5", **low | {"hyperprior-0.02": -2.0})[0] == "not reproduced"
    assert of("fig8", **low) == ["reproduced"]
    assert of("fig8", **low | {"hyperprior-0.1-stronger": -1.0}) == ["not resolved"]
    assert of("annealed", **{"hyperprior-0.5-annealed": -1.0}) == ["reproduced"]
    assert of("annealed", **{"hyperprior-0.5": -1.0}) == ["not reproduced"]
    assert of("bundled", **{"bundled-0.02": -1.0, "bundled-0.1": -1.0}) == ["reproduced"]
    assert of("bundled", **{"bundled-0.02": -1.0, "bundled-0.1": 1.0}) == ["not reproduced"]
    # Small networks are beside no published curve.
    assert of("fig6") == of("table3") == ["cannot be"]


def test_what_ran_away_is_named_and_nothing_is_said_of_the_rest(
    monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    low = {"hyperprior-0.1": -1.0, "autoregressive-0.1": -1.0, "autoregressive-1": math.nan}
    found = faked(monkeypatch, folder, "fig3", **low)
    assert verdicts(found) == ["reproduced", "not reproduced"]
    assert "3 of 3 seeds ran away" in found.verdicts[1].measured
    assert "takes 5.0 times λ" in found.verdicts[1].measured
    assert any("autoregressive-1, seed 2" in note for note in found.notes)
    # What is left of a figure of curves is drawn.
    gone = {"hyperprior-0.1": -1.0, "autoregressive-0.1": math.nan}
    found = faked(monkeypatch, folder, "fig4", **gone)
    assert verdicts(found) == ["not resolved"]
    assert [one.name for one in found.lines] == [
        "hyperprior, plain",
        "hyperprior, α = 0.1",
        "autoregressive, plain",
    ]
    assert "autoregressive, λ = 0.0018: —" in found.verdicts[0].measured
    assert Effect((-1.0, -1.01, math.nan)).verdict == "not resolved"
    assert str(Effect((-1.0, -1.0, math.nan))) == "−1.00 ± 0.00 % (2 of 3 seeds)"


def test_plain_training_is_held_against_what_was_published(
    monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    """As percent above the published rate: a better codec has reached it too."""
    monkeypatch.setattr(baselines, "Study", Faked)
    monkeypatch.setattr(baselines, "is_kodak", lambda *_: True)

    def of(**gains: float) -> list[str]:
        rates = {"hyperprior": 0.0, "autoregressive": 0.0, "attention": 0.0} | gains

        def curve(
            self: Faked, arm: Arm, seed: int, step: int, wanted: str
        ) -> list[tuple[float, float]]:
            if not math.isfinite(rates[arm.model]):
                raise DivergedError("the loss is nan")
            anchor = baselines.published_curve(baselines._BASELINES[arm.model][1]).array()
            return [(bpp * (1 + rates[arm.model] / 100), psnr) for bpp, psnr in anchor]

        monkeypatch.setattr(Faked, "curve", curve)
        found = REPRODUCTIONS["paper2-table3"](replace(request_of(folder, folder), scale="full"))
        assert [row[1] for row in found.tables[0].rows] == [percent(r) for r in rates.values()]
        return verdicts(found)

    assert of(hyperprior=2.0, attention=-8.0) == ["reproduced"]
    assert of(hyperprior=6.0) == ["not reproduced"]
    assert of(autoregressive=math.nan) == ["not resolved"]


def test_the_price_is_held_against_the_papers(monkeypatch: pytest.MonkeyPatch) -> None:
    def timed(*ratios: float) -> list[str]:
        found = Overhead((2.0,) * len(ratios), tuple(2.0 * ratio for ratio in ratios))
        monkeypatch.setattr(overhead, "overhead_of", lambda *_: found)
        table = REPRODUCTIONS["paper2-table2"](Request())
        assert table.tables[0].rows[2][3] == f"{100 * sorted(ratios)[len(ratios) // 2]:.1f} %"
        return verdicts(table)

    assert timed(*(1.01 + 1e-4 * k for k in range(9))) == ["reproduced"]
    assert timed(*(1.05 + 1e-4 * k for k in range(9))) == ["not reproduced"]
    assert timed(*(1.00 + 5e-3 * k for k in range(9))) == ["not resolved"]
    # One hiccup decides nothing.
    assert timed(3.0, *(1.01 + 1e-4 * k for k in range(8))) == ["reproduced"]


def test_the_interval_of_a_median_asks_nothing_of_the_law() -> None:
    # Of 9 turns the second from either end: 10 of 512 ways to throw at most one head.
    nine = Overhead((1.0,) * 9, tuple(1.0 + 0.01 * k for k in range(9)))
    assert nine.interval == pytest.approx((101.0, 107.0))
    six = Overhead((1.0,) * 6, tuple(1.0 + 0.01 * k for k in range(6)))
    assert six.interval == pytest.approx((100.0, 105.0))
    draws = np.random.default_rng(0).exponential(1.0, (2000, 9))
    held = 0
    for row in draws:
        low, high = Overhead((1.0,) * 9, tuple(row)).interval
        held += low <= 100 * math.log(2) <= high
    assert held / len(draws) == pytest.approx(1 - 2 * 10 / 512, abs=0.012)


def test_pictures_without_natural_ones_are_refused(
    tiny: None, folder: Path, tmp_path: Path
) -> None:
    pictures = [str(path) for path in folder.glob("screen*/*.png")]
    request = Request("mini", pictures, [str(folder / "kodak")], tmp_path / "runs")
    with pytest.raises(WaterfillError, match="natural"):
        REPRODUCTIONS["paper2-fig3"](request)
    (tmp_path / "kodak").mkdir()
    Image.new("RGB", (64, 64)).save(tmp_path / "kodak" / "a.png")
    both = [str(folder / "kodak" / "0.png"), str(tmp_path / "kodak" / "a.png")]
    with pytest.raises(WaterfillError, match="two folders of one name"):
        REPRODUCTIONS["paper2-fig3"](replace(request, pictures=both))


def test_steps_with_and_without_are_timed() -> None:
    found = overhead_of("hyperprior", 0.1, config=TINY, turns=2)
    assert len(found.plain) == len(found.regularised) == 2
    assert min(found.plain + found.regularised) > 0
