"""How many steps, and how much time, SOAP saves: two runs that differ in nothing else.

    python benchmarks/optimisers.py PICTURES [--preset mini-mean-scale-q3] [--steps 2000]
        [--looks 20] [--adam-rate 1e-3] [--soap-rate 1e-3] [--json results.json]

Trains the preset's codec from nothing, once with each optimiser, one after the other, and prints
the held-back loss at so many looks: by steps, and by seconds. Each has a rate of its own, lest one
be at its best and the other not. The last line says after which share of Adam's steps and seconds
SOAP's loss was Adam's last; its rate had not fallen to zero there as Adam's had.
"""

from __future__ import annotations

import argparse
import csv
import json
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.progress import Progress

from waterfill.provenance import environment
from waterfill.training.config import TrainConfig
from waterfill.training.loop import train
from waterfill.training.optimisers import OPTIMISERS
from waterfill.training.presets import PRESETS


def curve(config: TrainConfig, out: Path, label: str) -> list[dict[str, float]]:
    """Steps, seconds and held-back loss of a run."""
    with Progress(transient=True) as bar:
        task = bar.add_task(label, total=config.steps)
        train(config, out, progress=lambda report: bar.update(task, completed=report.step))
    with (out / "metrics.csv").open() as file:
        return [
            {name: float(row[name]) for name in ("step", "seconds", "validation_loss")}
            for row in csv.DictReader(file)
        ]


def reached(rows: list[dict[str, float]], loss: float, by: str) -> float:
    """When a curve first came down to a loss, between two looks where it crosses it; else NaN."""
    losses = np.minimum.accumulate([row["validation_loss"] for row in rows])
    if losses[-1] > loss:
        return float("nan")
    return float(np.interp(-loss, -losses, [row[by] for row in rows]))


def main() -> None:
    """Run the trainings and print them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pictures", nargs="+", help="photographs, folders or shards")
    parser.add_argument("--preset", default="mini-mean-scale-q3", choices=list(PRESETS))
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--looks", type=int, default=20)
    parser.add_argument("--adam-rate", type=float, default=1e-3)
    parser.add_argument("--soap-rate", type=float, default=1e-3)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    every = max(1, arguments.steps // arguments.looks)
    rates = {"adam": arguments.adam_rate, "soap": arguments.soap_rate}
    base = replace(
        PRESETS[arguments.preset],
        data=tuple(arguments.pictures),
        steps=arguments.steps,
        validate_every=every,
        checkpoint_every=arguments.steps,
    )
    curves: dict[str, list[dict[str, float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in OPTIMISERS:
            config = replace(base, optimiser=name, learning_rate=rates[name])
            curves[name] = curve(config, Path(folder) / name, name)
    adam, soap = curves["adam"], curves["soap"]
    print(f"{arguments.preset}: held-back loss, and seconds until there")
    print(f"{'step':>8}{'Adam':>10}{'':>9}{'SOAP':>10}")
    for one, other in zip(adam, soap, strict=True):
        print(
            f"{one['step']:8.0f}{one['validation_loss']:10.4f}{one['seconds']:7.0f} s"
            f"{other['validation_loss']:10.4f}{other['seconds']:7.0f} s"
        )
    last = adam[-1]["validation_loss"]
    shares = {by: reached(soap, last, by) / adam[-1][by] for by in ("step", "seconds")}
    print(
        f"SOAP is where Adam ends after {shares['step']:.2f} of its steps, "
        f"{shares['seconds']:.2f} of its time; at the end its loss is "
        f"{100 * (soap[-1]['validation_loss'] / last - 1):+.2f} %"
    )
    result: dict[str, Any] = {
        "config": base.without_places(),
        "rates": rates,
        "curves": curves,
        "shares_of_adam": shares,
        "environment": environment(base.seed),
    }
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
