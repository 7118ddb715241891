"""``waterfill bounds``: results whole or not at all, and one line for what can't be done."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from waterfill.cli import run

QUICK = ["--set", "wgd.particles=30", "--set", "steps=10", "--set", "samples=2000",
         "--set", "lower_steps=5", "--set", "k=64", "--set", "repeats=5"]  # fmt: skip


def test_curves_together_on_one_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, extra = tmp_path / "out", tmp_path / "extra.json"
    line = ["bounds", "gaussian:n=2", "-m", "wgd,sandwich", "--slopes", "1,400", "--unit", "nats"]
    assert run([*line, *QUICK, "--out", str(out), "--json", str(extra)]) == 0
    assert sorted(p.name for p in out.iterdir()) == ["bounds.csv", "bounds.html", "bounds.json"]
    data = json.loads((out / "bounds.json").read_text(encoding="utf-8"))
    assert extra.read_text(encoding="utf-8") == (out / "bounds.json").read_text(encoding="utf-8")
    wgd, sandwich = data["curves"]
    assert [p["status"] for p in wgd["points"]] == ["upper bound"] * 2
    assert [p["status"] for p in sandwich["points"]] == ["upper bound", "lower bound"] * 2
    assert wgd["truth"]
    assert wgd["points"][1]["near_ceiling"]
    assert wgd["units"] == {"rate": "nats", "distortion": "mse", "dimension": 2}
    page = (out / "bounds.html").read_text(encoding="utf-8")
    for word in ("true R(D)", "ceiling of wgd", "lower bound", "rate R (nats)", "Provenance"):
        assert word in page
    assert "http://" not in page.split("<script>")[0]
    with (out / "bounds.csv").open(encoding="utf-8", newline="") as table:
        rows = list(csv.DictReader(table))
    assert len(rows) == 2 + 4
    assert {(row["rate_unit"], row["distortion_unit"]) for row in rows} == {("nats", "mse")}
    low, high = wgd["points"][0]["interval"]
    assert (float(rows[0]["interval_low"]), float(rows[0]["interval_high"])) == (low, high)
    said = capsys.readouterr().out
    assert "upper bound" in said
    assert "near" in said


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_none_is_computed_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["bounds", "gaussian", "--device", "cuda", "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: can't compute on device 'cuda' here")
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_file_of_samples(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.random.default_rng(0).standard_normal((200, 3)))
    line = ["bounds", str(tmp_path / "a.npy"), "-m", "wgd", "--slopes", "5", *QUICK[:4]]
    assert run([*line, "--out", str(tmp_path / "out")]) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["cauchy"], "no source of this name"),
        (["gaussian", "-m", "magic"], "no such method"),
        (["gaussian", "-m", ","], "names no method"),
        (["gaussian", "--slopes", "1,x"], "numbers with commas"),
        (["gaussian", "--slopes", "-1"], "above zero"),
        (["gaussian", "--unit", "dB"], "rate unit"),
        (["gaussian", "--set", "cells"], "KEY=VALUE"),
        (["gaussian", "--set", "particles=3"], "none of the methods"),
        (["gaussian", "--set", "wgd.particles=3"], "not among"),
        (["missing.npy"], "no such file"),
        (["gaussian", "--device", "cuda:99"], "can't compute on device 'cuda:99' here"),
        (["gaussian", "--device", "gpu"], "can't compute on device 'gpu' here"),
    ],
)
def test_what_can_not_be_done_is_one_line_and_code_2(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["bounds", *arguments, "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not list(tmp_path.rglob("bounds.*"))
