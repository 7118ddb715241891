"""Whether bfloat16 costs loss: runs that differ in nothing but their arithmetic.

    python benchmarks/precisions.py PICTURES [--preset mini-mean-scale-q3] [--steps 2000]
        [--seeds 3] [--json results.json]

Trains the preset's codec from nothing in float32 and mixed with bfloat16, from the same seed each
time, and prints the held-back loss at the end. Two runs in one arithmetic from seeds of their own
differ too: that is the scale to hold the difference against.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from dataclasses import replace
from pathlib import Path
from statistics import fmean

from optimisers import curve

from waterfill.provenance import environment
from waterfill.training.presets import PRESETS

FLOAT32, BFLOAT16 = "32-true", "bf16-mixed"


def main() -> None:
    """Run the trainings and print them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pictures", nargs="+", help="photographs, folders or shards")
    parser.add_argument("--preset", default="mini-mean-scale-q3", choices=list(PRESETS))
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    base = replace(
        PRESETS[arguments.preset],
        data=tuple(arguments.pictures),
        steps=arguments.steps,
        validate_every=arguments.steps,
        checkpoint_every=arguments.steps,
    )
    runs = []
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(1, arguments.seeds + 1):
            for precision in (FLOAT32, BFLOAT16):
                config = replace(base, seed=seed, precision=precision)
                label = f"{precision}, seed {seed}"
                last = curve(config, Path(folder) / f"{precision}-{seed}", label)[-1]
                runs.append({"precision": precision, "seed": seed, **last})
                print(f"{label:22} {last['validation_loss']:.4f} after {last['seconds']:.0f} s")
    ends = {
        precision: [run["validation_loss"] for run in runs if run["precision"] == precision]
        for precision in (FLOAT32, BFLOAT16)
    }
    changes = [
        100 * (narrow / wide - 1)
        for narrow, wide in zip(ends[BFLOAT16], ends[FLOAT32], strict=True)
    ]
    spread = 100 * (max(ends[FLOAT32]) / min(ends[FLOAT32]) - 1)
    shown = ", ".join(f"{change:+.2f}" for change in changes)
    print(f"bfloat16 against float32: {fmean(changes):+.2f} % ({shown});", end=" ")
    print(f"float32 from one seed to another: up to {spread:.2f} %")
    if arguments.json:
        result = {
            "config": base.without_places(),
            "runs": runs,
            "changes_percent": changes,
            "spread_of_float32_percent": spread,
            "environment": environment(base.seed),
        }
        arguments.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
