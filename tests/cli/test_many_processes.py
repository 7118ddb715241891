"""Several processes measure as one: the same results, by every bit but the seconds."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

import waterfill as wf
from waterfill.cli import run
from waterfill.estimators import all_bounds
from waterfill.estimators.ais import AnnealedImportance
from waterfill.estimators.method import Method
from waterfill.estimators.wgd import WassersteinDescent
from waterfill.evaluation.measure import OwnCodec, evaluate

pytest.importorskip("pyarrow")

WEIGHTS = Path(__file__).parents[1] / "codec" / "golden" / "mean-scale.safetensors"
LAUNCHER = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]


def without_times(value: Any) -> Any:
    """All but what a second run can't repeat."""
    if isinstance(value, dict):
        times = ("environment", "seconds", "encode_seconds", "decode_seconds")
        return {key: without_times(one) for key, one in value.items() if key not in times}
    return [without_times(one) for one in value] if isinstance(value, list) else value


@pytest.fixture(scope="module")
def pictures(photo: NDArray[np.uint8], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    for k in range(4):
        Image.fromarray(photo[20 * k : 20 * k + 48, 30 * k : 30 * k + 64]).save(folder / f"{k}.png")
    return folder


def everything(pictures: Path, shards: Path | None) -> list[str]:
    """What the three commands measure, as JSON without times."""
    codec = wf.load_codec(WEIGHTS)
    ladder = wf.limits(codec, sorted(pictures.iterdir()), 4, shards=shards)
    maps = {one.name: one.losses["variance"].tolist() for one in ladder.exhibits}
    found = evaluate(pictures, [OwnCodec(codec, (4.0,)), "jpeg"], shards=shards)
    methods: list[Method] = [
        WassersteinDescent(particles=20, steps=5, samples=500),
        AnnealedImportance(samples=5, temperatures=10, chains=2, fit=500),
    ]
    curves = all_bounds("gaussian:n=2", methods, [1.0, 4.0], shards=shards)
    results = [ladder.to_dict(), maps, json.loads(found.to_json(["jpeg"]))]
    results += [curve.to_dict() for curve in curves]
    return [json.dumps(without_times(one)) for one in results]


PROGRAM = """
import os, sys
from pathlib import Path
sys.path.insert(0, {here!r})
from test_many_processes import everything
pictures, shards, out = map(Path, sys.argv[1:])
(out / os.environ["RANK"]).write_text("\\n".join(everything(pictures, shards)))
"""


def test_two_processes_find_what_one_finds(pictures: Path, tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM.format(here=str(Path(__file__).parent)))
    command = [sys.executable, *LAUNCHER, str(program), str(pictures), str(tmp_path / "shards")]
    done = subprocess.run([*command, str(tmp_path)], capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as a launcher's processes have; sums on several are others
    try:
        alone = everything(pictures, None)
    finally:
        torch.set_num_threads(threads)
    assert len(alone) == 5
    for rank in ("0", "1"):
        assert (tmp_path / rank).read_text().split("\n") == alone
    # Both took part, in all that can be shared.
    for stage in ("survey", "ladder", "evaluation", "bounds"):
        assert len(list((tmp_path / "shards" / stage).iterdir())) >= 2, stage


def limits(pictures: Path, out: Path, *options: str) -> list[str]:
    return [
        "limits",
        str(pictures),
        "--codec",
        str(WEIGHTS),
        "-q",
        "4",
        "--out",
        str(out),
        *options,
    ]


def test_rows_are_kept_where_the_option_says_and_are_a_table(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import pandas as pd

    shards = tmp_path / "kept"
    assert run(limits(pictures, tmp_path / "out", "--shards", str(shards))) == 0
    first = json.loads((tmp_path / "out" / "ladder.json").read_text())
    frame = pd.read_parquet(shards / "ladder")
    assert {"image", "rung", "bpp", "psnr", "parts"} <= set(frame.columns)
    assert len(frame) == len(first["rows"])
    assert sorted(frame["bpp"]) == sorted(row["bpp"] for row in first["rows"])
    before = {file: file.stat().st_mtime_ns for file in shards.rglob("*.parquet")}
    assert run(limits(pictures, tmp_path / "out", "--shards", str(shards))) == 0
    assert before == {file: file.stat().st_mtime_ns for file in shards.rglob("*.parquet")}
    again = json.loads((tmp_path / "out" / "ladder.json").read_text())
    assert without_times(first) == without_times(again)
    capsys.readouterr()
    (file, *_) = before
    file.write_bytes(file.read_bytes()[:-9])
    assert run(limits(pictures, tmp_path / "out", "--shards", str(shards))) == 2
    error = capsys.readouterr().err
    assert "is damaged, or holds no rows of this program; delete it" in error
    assert error.count("\n") == 1


def test_rows_are_kept_of_what_can_be_found_again(pictures: Path, tmp_path: Path) -> None:
    codec = wf.load_codec("tiny", pretrained=False)
    with pytest.raises(wf.CodecError, match="weights that no file holds"):
        wf.limits(codec, sorted(pictures.iterdir()), 4, shards=tmp_path / "shards")

    class Other(WassersteinDescent):
        pass

    with pytest.raises(wf.WaterfillError, match="a method of other make"):
        wf.bounds("gaussian", Other(), [1.0], shards=tmp_path / "shards")
    assert not list(tmp_path.rglob("*.parquet"))


@pytest.mark.slow
def test_a_launch_that_is_killed_goes_on_and_one_process_speaks(
    pictures: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    command = [sys.executable, *LAUNCHER, "-m", "waterfill", *limits(pictures, out)]
    launch = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    deadline = time.monotonic() + 120
    while not list(out.rglob("*.parquet")) and time.monotonic() < deadline:
        time.sleep(0.01)
    os.killpg(launch.pid, 9)
    launch.wait()
    kept = {file: file.stat().st_mtime_ns for file in out.rglob("*.parquet")}
    assert kept
    assert not (out / "ladder.json").exists()
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("report.html") == 1
    for file, when in kept.items():
        assert file.stat().st_mtime_ns == when
    assert run(limits(pictures, tmp_path / "one")) == 0
    one, two = (json.loads((o / "ladder.json").read_text()) for o in (tmp_path / "one", out))
    assert without_times(one) == without_times(two)
    assert (one["environment"]["processes"], two["environment"]["processes"]) == (1, 2)
