"""Several processes train as one: the same batches, the same noise, the same losses."""

from __future__ import annotations

import logging
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from waterfill.codec.config import CodecConfig
from waterfill.training.config import TrainConfig
from waterfill.training.engine import make_fabric

CONFIG = TrainConfig(
    codec=CodecConfig(n=4, m=6, hyper=4),
    steps=6,
    batch=4,
    crop=64,
    warmup=2,
    precision="32-true",
    checkpoint_every=3,
    validate_every=2,
    # Beside a codec that learns by its gradients, a source model that learns by turned ones.
    source_model="aligned",
    alpha=0.1,
)


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tmp_path = tmp_path_factory.mktemp("photographs")
    rng = np.random.default_rng(0)
    for k in range(5):
        small = rng.integers(0, 256, (11, 13, 3), dtype=np.uint8)
        Image.fromarray(small).resize((104, 88)).save(tmp_path / f"{k}.png")
    file = tmp_path / "run.toml"
    file.write_text(CONFIG.with_values({"data": [str(tmp_path / "*.png")]}).to_toml())
    return file


@pytest.fixture(scope="module")
def one(settings: Path, tmp_path_factory: pytest.TempPathFactory) -> list[list[float]]:
    """The losses of a single process."""
    out = tmp_path_factory.mktemp("runs") / "one"
    train(settings, out)
    return losses(out)


def train(settings: Path, out: Path, *options: str, processes: int = 1) -> str:
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    command = [sys.executable, *(launcher if processes > 1 else []), "-m", "waterfill", "train"]
    command += ["--config", str(settings), "--out", str(out), *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def losses(out: Path) -> list[list[float]]:
    lines = (out / "metrics.csv").read_text().splitlines()[1:]
    return [[float(value) for value in line.split(",")[4:]] for line in lines]


def test_two_processes_follow_the_curve_of_one(
    settings: Path, one: list[list[float]], tmp_path: Path
) -> None:
    said = train(settings, tmp_path / "two", processes=2)
    assert said.count("step 6 of 6") == 1  # one of them speaks
    assert len(one) == 3
    for alone, shared in zip(one, losses(tmp_path / "two"), strict=True):
        assert shared == pytest.approx(alone, rel=2e-5)


def test_what_two_processes_began_one_can_finish(
    settings: Path, one: list[list[float]], tmp_path: Path
) -> None:
    train(settings, tmp_path / "two", "--steps", "3", processes=2)
    train(settings, tmp_path / "two", "--steps", "6", "--resume")
    assert losses(tmp_path / "two")[-1] == pytest.approx(one[-1], rel=1e-3)


def test_a_batch_that_can_not_be_shared_is_refused(settings: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "waterfill", "train", "--config", str(settings)]
    command += ["--out", str(tmp_path / "run"), "--batch", "3"]
    environment = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0"}
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=60, env={**os.environ, **environment}
    )
    assert done.returncode == 2
    assert done.stderr.strip() == ("error: a batch of 3 can't be shared equally by 2 processes")
    assert not (tmp_path / "run").exists()


def test_processes_train_what_leaves_a_prior_without_gradient(
    settings: Path, tmp_path: Path
) -> None:
    said = train(settings, tmp_path / "run", "--objective", "oracle-test-channel", processes=2)
    assert "step 6 of 6" in said


def test_a_signal_to_one_process_stops_all_with_its_code(settings: Path, tmp_path: Path) -> None:
    code = """if True:
        import os, signal
        from waterfill.cli import main, training
        plain = training._show
        def show(bar, task, last, report):
            plain(bar, task, last, report)
            if report.step == 2 and report.note is None:
                os.kill(os.getpid(), signal.SIGTERM)
        training._show = show  # of the first process, which alone reports
        main()
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
    command = [sys.executable, "-c", code, "train", "--config", str(settings)]
    both = [
        subprocess.Popen(
            [*command, "--out", str(tmp_path / "run")],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env={**os.environ, **environment, "MASTER_PORT": str(port), "RANK": rank,
                 "LOCAL_RANK": rank},
        )
        for rank in ("0", "1")
    ]  # fmt: skip
    said = [process.communicate(timeout=120) for process in both]
    assert [process.returncode for process in both] == [143, 143], said
    assert "step 2 of 6" in said[0][0]
    assert (tmp_path / "run" / "checkpoint.safetensors").is_file()


def test_a_queue_is_no_work_for_several_processes(settings: Path) -> None:
    command = [sys.executable, "-m", "waterfill", "train", "--queue", str(settings.parent)]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=60, env={**os.environ, "WORLD_SIZE": "2"}
    )
    assert done.returncode == 2
    assert "one process" in done.stderr


def test_what_connects_processes_tells_warnings_alone() -> None:
    logger = logging.getLogger("lightning_fabric")
    before, told = logger.level, Told()
    logger.addHandler(told)
    try:
        make_fabric(TrainConfig(precision="bf16-mixed"))
        logger.warning("still heard")
    finally:
        logger.removeHandler(told)
    assert [record.getMessage() for record in told.records] == ["still heard"]
    assert logger.level == before


class Told(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)
