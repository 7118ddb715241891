"""Reproductions: known answers where theory gives them, and the whole way from training to page."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import shutil
import signal
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from waterfill.cli import run
from waterfill.cli.shared import out_console
from waterfill.codec.channels import (
    ChargedByPrior,
    OracleStraightThrough,
    Rounding,
    StraightThrough,
)
from waterfill.codec.config import CodecConfig
from waterfill.codec.model import Codec
from waterfill.codec.registry import load_codec, save_codec
from waterfill.errors import Interrupted, WaterfillError
from waterfill.ladder import Ladder, limits
from waterfill.ladder.result import Point
from waterfill.ladder.rungs import Coded, Status, Told
from waterfill.report.reproduction import render_reproduction
from waterfill.reproduce import (
    REPRODUCTIONS,
    Reproduction,
    Request,
    comparison,
    on_pictures,
    trained,
)
from waterfill.reproduce.architectures import layers_of
from waterfill.reproduce.result import Table, said
from waterfill.training.config import TrainConfig
from waterfill.training.objectives import GenieAided, RateDistortion, objective_of


def line(found: Reproduction, start: str) -> NDArray[np.float64]:
    (one,) = (one for one in found.lines if one.name.startswith(start))
    return np.stack([one.x, one.y], 1)


def test_figure_2_is_known_to_the_third_digit() -> None:
    found = REPRODUCTIONS["fig2"](Request())
    rows = {row[0]: row for row in found.tables[0].rows}
    # Rounding above the Gaussian rate-distortion function, and its error at v = 1/12.
    expected = {"0.05": 0.196, "0.08333": 0.497, "0.2": 0.472, "1": 0.312, "4": 0.270, "16": 0.258}
    for variance, gap in expected.items():
        assert float(rows[variance][3]) == pytest.approx(gap, abs=6e-4)
    assert float(rows["0.08333"][2]) == pytest.approx(0.0638, abs=1e-4)
    assert float(rows["0.08333"][4]) == pytest.approx(0.304, abs=6e-4)
    assert {v.verdict for v in found.verdicts} == {"reproduced"}
    rounding, shannon = line(found, "rounding"), line(found, "Gaussian test channel, D")
    assert (rounding[:, 1] > shannon[:, 1]).all()
    assert (shannon[shannon[:, 0] < 1 / 12][:, 1] == 0).all()


def test_appendix_d_has_the_known_rates() -> None:
    found = REPRODUCTIONS["appendix-d"](Request())
    (row,) = (row for row in found.tables[0].rows if row[0] == "0.9")
    assert row[1:] == ("4.392", "3.375", "3.435", "3.124")
    # Of ρ = 0 each channel is independent: log₂ 21 and log₂ 20.
    assert found.tables[0].rows[0][1:] == ("4.392", "4.322", "4.392", "4.322")
    assert "4.322 bits" in found.notes[1]


def test_tables_compare_layer_by_layer() -> None:
    one, two = REPRODUCTIONS["table1"](Request()), REPRODUCTIONS["table2"](Request())
    equal = {row[0]: row[3] for row in one.tables[0].rows}
    assert equal == {
        "encoder": "yes",
        "decoder": "yes",
        "hyper-encoder": "yes",
        "hyper-decoder": "no",
        "context prediction": "yes",
        "entropy parameters": "yes",
    }
    assert one.verdicts[0].verdict == "not reproduced"
    assert two.verdicts[0].verdict == "reproduced"
    assert "GDN" in layers_of(load_codec("tiny", pretrained=False).g_a)


def tiny(system: trained.System, distortion: str) -> TrainConfig:
    return TrainConfig(
        distortion=distortion,
        objective=system.objective,
        oracle_mean=system.mean,
        oracle_mode="paper",
        steps=2,
        batch=1,
        crop=64 if distortion == "mse" else 192,
        warmup=0,
        checkpoint_every=1,
        validate_every=2,
        codec=CodecConfig(n=4, m=8, hyper=4),
    )


@pytest.fixture
def request_(tmp_path: Path, photo: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch) -> Request:
    monkeypatch.setattr(trained, "_mini", tiny)
    (tmp_path / "photographs").mkdir()
    for k in range(3):
        Image.fromarray(photo[k * 8 :]).save(tmp_path / "photographs" / f"{k}.png")
    return Request(
        pictures=[photo[:64, :64], photo[:64, 64:128]],
        photographs=[str(tmp_path / "photographs")],
        runs=tmp_path / "runs",
    )


def test_figure_4_trains_measures_and_goes_on(request_: Request) -> None:
    steps: list[str] = []
    shares: list[float] = []

    def tell(done: int, total: int | None, what: str) -> None:
        steps.append(what)
        if what.startswith("training"):
            shares.append(done / (total or 1))

    told = replace(request_, progress=tell)
    a = REPRODUCTIONS["fig4a"](told)
    assert [one.genie for one in a.lines] == [False, True, False, True, False]
    assert all(len(one.x) == 4 for one in a.lines)
    assert "charged by a prior" in a.lines[-1].name
    # No prior asks for less than the oracle, for the same ŷ.
    oracle, prior = (np.array(one.x) for one in a.lines[-2:])
    assert (prior >= oracle - 1e-9).all()
    assert a.lines[-2].y == a.lines[-1].y
    # Which codecs were measured; an oracle and what a prior charges are of one.
    assert a.environment["weights"] == {
        f"mini-{name}": load_codec(
            str(request_.runs / f"mini-{name}" / "codec.safetensors")
        ).weights_id.hex()
        for name in ("baseline", "oracle-rounding", "test-channel", "joint")
    }
    assert [row[1] for row in a.tables[0].rows] == [
        "achieved up to coder overhead",
        "genie-aided",
        "achievable",
        "genie-aided",
        "achievable",
    ]
    assert a.verdicts[-1].verdict == "cannot be"

    # What is trained is not trained again; only the context is missing.
    steps.clear()
    b = REPRODUCTIONS["fig4b"](told)
    assert {s for s in steps if s.startswith("training")} == {"training mini-joint-context"}
    assert shares[-1] == 1  # what was trained before is done
    assert [one.name for one in b.lines[:2]] == [a.lines[0].name, a.lines[3].name]
    assert b.lines[0].x == a.lines[0].x
    without = replace(request_, photographs=[])
    # Another seed is other noise, and the same file.
    other = trained.measure(replace(without, seed=1), ["baseline", "test-channel"])
    assert tuple(p.psnr for p in other["baseline"].curve) == a.lines[0].y
    assert tuple(p.psnr for p in other["test-channel"].curve) != a.lines[2].y
    g = REPRODUCTIONS["appendix-g"](without)
    assert len(g.tables[0].rows) == 2
    assert g.tables[1].rows[0][1] == "26.16, 0.2675"


def test_what_is_measured_is_what_was_trained() -> None:
    codec = Codec(CodecConfig(n=4, m=8, hyper=4))
    names = list(trained.SYSTEMS)
    for scale in ("mini", "full"):
        for name, one in zip(names * 4, trained.experiments_of(scale, names), strict=False):
            objective, rung = objective_of(one.config, codec), trained.SYSTEMS[name].rung
            match objective:
                case GenieAided(oracle=OracleStraightThrough()):
                    assert isinstance(rung, Told)
                    assert rung.channel == Rounding()
                    assert rung.status is Status.GENIE
                case GenieAided():
                    assert rung.channel == objective.oracle
                    assert rung.status is Status.GENIE
                    charged = trained._WITNESSES[name]
                    assert charged.channel == ChargedByPrior(objective.oracle)
                    assert charged.status is Status.ACHIEVABLE
                case RateDistortion(channel=StraightThrough()):
                    assert isinstance(rung, Coded)
                    assert rung.status is Status.ACHIEVED_IDEAL
                case RateDistortion():
                    assert rung.channel == objective.channel
                    assert rung.status is Status.ACHIEVABLE


def faked(monkeypatch: pytest.MonkeyPatch, name: str, **changes: float) -> Reproduction:
    """A figure of systems whose rates differ from the baseline's by so many percent."""
    rates = {
        "baseline": 0.0,
        "oracle-rounding": -20.0,
        "test-channel": -10.0,
        "joint": -40.0,
        "joint witness": 30.0,
        "joint-context": -60.0,
        "joint-context witness": 25.0,
    } | {key.replace("_", "-"): value for key, value in changes.items()}

    def measure(request: Request, names: Sequence[str], *_: Any) -> dict[str, trained.Measured]:
        def points(rate: float) -> list[Point]:
            bpp = 0.2 * (1 + rate / 100)
            return [Point(k, bpp * 2**k, 28 + 2.5 * k, 1 - 0.1 / 2**k, 1.0, {}) for k in range(4)]

        wanted = [key for key in rates if key.split()[0] in names]
        return {
            key: trained.Measured(
                key,
                Status.GENIE if "joint" in key and "witness" not in key else Status.ACHIEVABLE,
                [points(rates[key])] * 2,
                {},
            )
            for key in wanted
        }

    monkeypatch.setattr(on_pictures, "measure", measure)
    return REPRODUCTIONS[name](Request())


def test_verdicts_follow_the_curves(monkeypatch: pytest.MonkeyPatch) -> None:
    a = faked(monkeypatch, "fig4a")
    assert [one.verdict for one in a.verdicts] == ["reproduced", "reproduced", "cannot be"]
    assert [row[-1] for row in a.tables[0].rows] == [
        "+0.0 %",
        "−20.0 %",
        "−10.0 %",
        "−40.0 %",
        "+30.0 %",
    ]
    assert "predicted variance, test channel −10.0 %," in a.verdicts[0].measured
    assert "oracle variance, test channel −40.0 % (genie-aided)" in a.verdicts[0].measured
    assert "+30.0 % against the hyperprior" in a.verdicts[2].measured
    # One that costs more, and one that gains more than both together.
    worse = faked(monkeypatch, "fig4a", test_channel=5.0, oracle_rounding=-50.0)
    assert [one.verdict for one in worse.verdicts[:2]] == ["not reproduced"] * 2
    for name in ("fig4b", "fig4b-ms-ssim"):
        b = faked(monkeypatch, name)
        assert b.verdicts[0].verdict == "reproduced"
        # 40 % of the baseline's rate against 60 %.
        assert b.verdicts[0].measured.startswith("−33.3 % against the limit without it (genie-aid")
        other = faked(monkeypatch, name, **{"joint-context": -30.0})
        assert other.verdicts[0].verdict == "not reproduced"
    g = faked(monkeypatch, "appendix-g")
    assert [row[-2:] for row in g.tables[0].rows] == [("−40.0 %", "−60.0 %")] * 2
    assert [one.verdict for one in g.verdicts] == ["reproduced", "not reproduced"]


def test_figure_4b_has_codecs_of_its_own_for_ms_ssim(
    request_: Request, photo: NDArray[np.uint8]
) -> None:
    with pytest.raises(WaterfillError, match="MS-SSIM needs pictures of at least 161×161"):
        REPRODUCTIONS["fig4b-ms-ssim"](request_)
    assert not request_.runs.exists()
    large = np.tile(photo, (2, 2, 1))[:176, :176]
    found, mixed = (
        REPRODUCTIONS["fig4b-ms-ssim"](replace(request_, pictures=pictures))
        for pictures in ([large], [photo[:64, :64], large])
    )
    # Rates of a picture without MS-SSIM don't go with the others'.
    assert mixed.lines == found.lines
    assert mixed.notes[1].startswith("1 pictures. Too small for MS-SSIM, and left out: 1.")
    assert found.notes[1].startswith("1 pictures. An oracle")
    names = {path.name for path in request_.runs.iterdir()}
    assert names == {f"mini-{n}-ms-ssim" for n in ("baseline", "joint", "joint-context")}
    assert found.axes[1] == "MS-SSIM (dB)"
    assert all(0 < y < 20 for line in found.lines for y in line.y)
    assert "by MS-SSIM" in found.tables[0].title
    full = trained.experiments_of("full", ["joint-context"], trained.MS_SSIM)
    assert {one.config.distortion for one in full} == {"ms-ssim"}
    assert full[0].after == "full-baseline-ms-ssim-q1"


def test_claims_that_rest_on_what_is_missing_are_not_resolved() -> None:
    assert said(True, -1.0, -2.0) == "reproduced"
    assert said(False, -1.0, 2.0) == "not reproduced"
    assert said(False, -1.0, math.nan) == "not resolved"


def test_without_photographs_nothing_is_trained(request_: Request) -> None:
    with pytest.raises(WaterfillError, match="--train"):
        REPRODUCTIONS["fig4a"](replace(request_, photographs=[]))
    with pytest.raises(WaterfillError, match="scale"):
        Request(scale="huge")


def test_a_training_that_was_made_otherwise_is_not_taken_for_this_one(
    request_: Request, monkeypatch: pytest.MonkeyPatch
) -> None:
    def begin(**changes: Any) -> None:
        usual: dict[str, Any] = {"start": str(start), "schedule": "cosine"}
        monkeypatch.setattr(trained, "_mini", lambda *of: replace(tiny(*of), **usual | changes))
        trained.train_all(request_, trained.experiments_of("mini", ["baseline"]))

    start = request_.runs.parent / "start.safetensors"
    config = tiny(trained.SYSTEMS["baseline"], "mse").codec
    for seed in (1, 2):
        torch.manual_seed(seed)
        save_codec(Codec(config), start.with_name(f"{seed}.safetensors"), {})
    shutil.copy(start.with_name("1.safetensors"), start)
    begin()
    begin()  # the very same is taken as it is
    again = r"mini-baseline: was trained {}; remove that folder, or take another --out$"
    with pytest.raises(WaterfillError, match=again.format("with another learning_rate")):
        begin(learning_rate=2e-3)
    with pytest.raises(WaterfillError, match=again.format("with steps 2, not 4")):
        begin(steps=4)
    with pytest.raises(WaterfillError, match=again.format("with steps 2, not 1")):
        begin(steps=1)
    shutil.copy(start.with_name("2.safetensors"), start)
    with pytest.raises(WaterfillError, match=again.format("from other weights than .* has now")):
        begin()
    start.unlink()  # nothing to hold it against
    begin()
    (Path(request_.photographs[0]) / "0.png").unlink()
    with pytest.raises(WaterfillError, match=again.format("on other photographs than these")):
        begin()


def test_a_limit_is_of_the_baseline_that_is_there(
    request_: Request, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, limit = (
        replace(one, after="mini-baseline" if one.name == "mini-joint" else None)
        for one in trained.experiments_of("mini", ["baseline", "joint"])
    )
    trained.train_all(request_, [base, limit])
    shutil.rmtree(request_.runs / "mini-baseline")
    other = replace(base, config=replace(base.config, seed=5))
    with pytest.raises(WaterfillError, match="mini-joint: was trained from other weights than"):
        trained.train_all(request_, [other, limit])


def test_what_cant_be_used_is_said_before_anything_is_trained(
    request_: Request, tmp_path: Path
) -> None:
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    pictures = [*request_.pictures, str(tmp_path / "broken.png")]
    with pytest.raises(WaterfillError, match=r"broken\.png: is not a picture"):
        REPRODUCTIONS["fig4a"](replace(request_, pictures=pictures))
    (tmp_path / "empty").mkdir()
    with pytest.raises(WaterfillError) as caught:
        REPRODUCTIONS["fig4a"](replace(request_, photographs=[str(tmp_path / "empty")]))
    assert str(caught.value) == f"{tmp_path / 'empty'}: no pictures in this folder"
    assert not request_.runs.exists()


def test_a_signal_ends_the_training_and_is_passed_on(request_: Request) -> None:
    signals = [signal.SIGTERM]

    def ask(*_: object) -> None:
        if signals:
            os.kill(os.getpid(), signals.pop())

    told = replace(request_, progress=ask)
    with pytest.raises(Interrupted) as caught:
        REPRODUCTIONS["fig4a"](told)
    assert caught.value.exit_code == 143
    assert len(list(request_.runs.glob("*/checkpoint.safetensors"))) == 1
    # It has weights, but those of half a training.
    assert (request_.runs / "mini-baseline" / "codec.safetensors").exists()
    with pytest.raises(WaterfillError, match="mini-baseline is not trained: name photographs"):
        REPRODUCTIONS["fig4a"](replace(request_, photographs=[]))


def test_full_scale_is_the_papers_settings() -> None:
    experiments = {e.name: e for e in trained.experiments_of("full", ["baseline", "joint"])}
    assert len(experiments) == 8
    joint = experiments["full-joint-q3"]
    assert joint.after == "full-baseline-q3"
    assert (joint.config.steps, joint.config.batch) == (200_000, 100)
    assert joint.config.objective == "oracle-test-channel"


def test_the_command_writes_page_table_and_data(tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert run(["reproduce", "fig2", "--out", str(out), "--json", str(tmp_path / "f.json")]) == 0
    data = json.loads((out / "fig2.json").read_text())
    assert data == json.loads((tmp_path / "f.json").read_text())
    rows = list(csv.reader(io.StringIO((out / "fig2.csv").read_text())))
    assert rows[0] == ["line", "genie-aided", "variance (squared steps)", "rate (bits)"]
    page = (out / "fig2.html").read_text()
    assert "What became of the paper" in page
    assert "<script>" in page


@pytest.mark.parametrize("width", [40, 80])
def test_a_narrow_terminal_loses_neither_columns_nor_parts_of_words(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    width: int,
) -> None:
    columns = ("system", "status", *(f"rate {k}: bpp, dB" for k in range(1, 5)), "BD-rate")
    points = ("0.1324, 28.68", "0.2948, 31.88", "0.6023, 35.46", "1.1191, 39.19")
    row = ("oracle variance, test channel", "genie-aided", *points, "−46.57 %")
    table = Table("A table", columns, (row,))
    found = Reproduction("fig", "A figure", "mini", (), (), (table,), (), (), {})
    monkeypatch.setattr("waterfill.reproduce.check_request", lambda *_: None)
    monkeypatch.setattr("waterfill.reproduce.reproduce", lambda *_: found)
    monkeypatch.setattr(out_console, "width", width)
    assert run(["reproduce", "fig2", "--out", str(tmp_path)]) == 0
    said = capsys.readouterr().out.split()
    assert {"genie-aided", "BD-rate", "−46.57", "0.1324,", "39.19"} <= set(said)


def test_what_cant_be_reproduced_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["reproduce", "fig9", "--out", str(tmp_path / "out")]) == 2
    assert "fig9: no such figure or table (fig2, fig3" in capsys.readouterr().err
    assert run(["reproduce", "fig2", "--scale", "big", "--out", str(tmp_path / "out")]) == 2
    assert run(["reproduce", "fig2", "--scale", "night", "--out", str(tmp_path / "out")]) == 2
    assert "fig2: has no scale night, which is for fig5c" in capsys.readouterr().err
    assert run(["reproduce", "fig3", str(tmp_path / "no.png")]) == 2
    capsys.readouterr()
    Image.new("RGB", (8, 8)).save(picture := tmp_path / "a.png")
    out = ["--out", str(tmp_path / "out")]
    assert run(["reproduce", "fig2", str(picture), *out]) == 2
    assert capsys.readouterr().err == "error: fig2: measures no pictures; leave them out\n"
    assert run(["reproduce", "fig3", "--train", str(picture), *out]) == 2
    assert capsys.readouterr().err == "error: fig3: trains nothing; leave --train out\n"
    Image.new("RGB", (8, 8)).save(tmp_path / "b.png")
    assert run(["reproduce", "fig4a", str(tmp_path), "--train", str(picture), *out]) == 2
    told = capsys.readouterr().err
    assert "is measured and would be trained on (1 more like it)" in told
    assert told.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_page_without_a_figure_has_no_script() -> None:
    page = render_reproduction(REPRODUCTIONS["table2"](Request()))
    assert "Plotly" not in page
    assert "conv c36 s2" in page


def test_figure_3_shows_what_is_silent(photo: NDArray[np.uint8]) -> None:
    found = REPRODUCTIONS["fig3"](Request(pictures=[photo[:64, :96]]))
    assert list(found.pictures) == ["y", "rounding", "test channel", "oracle, test channel"]
    page = render_reproduction(found)
    assert page.count("<img") == 4
    assert "(genie-aided)" in page
    assert found.environment["weights"] == {"default": load_codec().weights_id.hex()}
    # Of all latents, not of the one channel that most is spent on.
    rows = {row[0]: row[1:] for row in found.tables[0].rows}
    assert rows["oracle, test channel"][0] == "genie-aided"
    assert [rows[name][0] for name in list(rows)[:2]] == [
        "achieved up to coder overhead",
        "achievable",
    ]
    shares = {name: float(row[1]) for name, row in rows.items()}
    assert shares["rounding"] == 0
    assert min(shares["test channel"], shares["oracle, test channel"]) > 50
    assert 30 < float(rows["oracle, test channel"][2]) < 70
    zeros = 100 * (found.pictures["oracle, test channel"] == 0).mean()
    assert rows["oracle, test channel"][2] == f"{zeros:.1f}"
    assert [verdict.verdict for verdict in found.verdicts] == ["reproduced"]
    assert f"oracle, test channel {shares['oracle, test channel']} % (genie-aided)" in (
        found.verdicts[0].measured
    )


def test_figure_5a_names_what_is_genie_aided_and_what_is_published(
    photo: NDArray[np.uint8],
) -> None:
    found = REPRODUCTIONS["fig5a"](Request(pictures=[photo[:64, :96]]))
    genies = [line.name for line in found.lines if line.genie]
    assert [name.partition(": ")[2] for name in genies] == [
        "oracle, test channel",
        "oracle, test channel, context",
    ]
    table, ceilings = found.tables
    assert ("published: vtm", "achieved", "+0.0 %") in table.rows
    assert any(row[1] == "upper bound on R(D)" for row in table.rows)
    # log₂ 40,000 = 15.29 bits, on 64 and on 16 pixels.
    assert [row[1] for row in ceilings.rows] == ["3.9e-05", "0.24", "0.96"]
    assert any("others" in note for note in found.notes)
    # Published curves are Kodak's: nothing on other pictures lies beyond them, or doesn't.
    assert found.verdicts[0].verdict == "not resolved"
    assert found.verdicts[0].measured.endswith("on other pictures")
    rates = dict.fromkeys((*comparison._RUNGS, *comparison._PUBLISHED), -20.0)
    for rate, verdict in ((-30.0, "reproduced"), (-10.0, "not reproduced")):
        known = rates | dict.fromkeys(comparison._ORACLES, rate)
        assert comparison._verdicts(known, "", kodak=True)[0].verdict == verdict
    assert any("--train" in note for note in found.notes)
    assert "(genie-aided)" in render_reproduction(found)
    assert found.environment["weights"] == {"default": load_codec().weights_id.hex()}


def test_figure_5a_names_the_best_of_all_achievable_rungs(
    photo: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
) -> None:
    def cheap_trellis(*given: Any, **more: Any) -> Ladder:
        assert more["seed"] == 3
        ladder = limits(*given, **more)
        rungs = [
            replace(rung, curve=tuple(replace(point, bpp=point.bpp / 2) for point in rung.curve))
            if rung.name == "trellis"
            else rung
            for rung in ladder.rungs
        ]
        return replace(ladder, rungs=tuple(rungs))

    monkeypatch.setattr("waterfill.reproduce.comparison.limits", cheap_trellis)
    found = REPRODUCTIONS["fig5a"](Request(pictures=[photo[:64, :96]], seed=3))
    rates = {name: rate for name, _, rate in found.tables[0].rows}
    (gain,) = (one.measured for one in found.verdicts if "could still gain" in one.claim)
    assert f"codec, trellis, lies at {rates['bundled codec: trellis']}" in gain
