"""Seconds per training step, beside the machine's matrix peak and another library's step.

    python benchmarks/training.py [--codec medium] [--batch 8] [--crop 256] [--precision auto]
        [--peer 'COMMAND'] [--peer-key mbt2018-mean] [--rounds 1] [--json results.json]

The step is the training loop's own: objective, backward, clipping, Adam, on random pixels. COMMAND
(``ENV/bin/python benchmarks/beside_compressai.py training``) prints one JSON object in which KEY
holds ``train_step_s``; it runs before, between and after the rounds of our own, so that all ratios
come from one run of one machine.
"""

from __future__ import annotations

import argparse
import json
import shlex
import statistics
import subprocess
import time
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from waterfill.allocator import keep_large_blocks
from waterfill.codec.registry import PRESETS
from waterfill.provenance import environment
from waterfill.reproduce.regularisation.overhead import step_on_noise
from waterfill.training.config import OBJECTIVES, TrainConfig


def synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def matrix_peak(device: torch.device, dtype: torch.dtype, seconds: float = 2.0) -> float:
    """Best FLOP/s of a large matrix product."""
    side = 8192 if device.type == "cuda" else 2048
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    best, ends = 0.0, time.perf_counter() + seconds
    while time.perf_counter() < ends:
        synchronise(device)
        began = time.perf_counter()
        a @ b
        synchronise(device)
        best = max(best, 2 * side**3 / (time.perf_counter() - began))
    return best


def own_step(config: TrainConfig, repeats: int) -> dict[str, Any]:
    keep_large_blocks()
    fabric, step = step_on_noise(config, quality=4.0)

    step()
    with FlopCounterMode(display=False) as counter:
        step()
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        step()
        times.append(time.perf_counter() - began)
    seconds = statistics.median(times)
    narrow = fabric.strategy.precision.precision != "32-true"
    peak = matrix_peak(fabric.device, torch.bfloat16 if narrow else torch.float32)
    rate = counter.get_total_flops() / seconds
    return {
        "precision": fabric.strategy.precision.precision,
        "step_s": seconds,
        "images_per_s": config.batch / seconds,
        "flops_per_step": counter.get_total_flops(),
        "flops_per_s": rate,
        "matrix_peak_flops_per_s": peak,
        "share_of_peak": rate / peak,
    }


def peer(command: str) -> dict[str, Any]:
    """What another library's command prints."""
    done = subprocess.run(shlex.split(command), capture_output=True, text=True, check=True)
    figures: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--codec", default="medium", choices=list(PRESETS))
    parser.add_argument("--objective", default="rate-distortion", choices=OBJECTIVES)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--crop", type=int, default=256)
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=1, help="times that all is timed in turn")
    parser.add_argument("--peer", help="command that prints the other library's figures")
    parser.add_argument("--peer-key", default="mbt2018-mean")
    # Stored results name commands that say --out.
    parser.add_argument("--json", "--out", type=Path)
    arguments = parser.parse_args()
    config = TrainConfig(
        codec=PRESETS[arguments.codec],
        objective=arguments.objective,
        batch=arguments.batch,
        crop=arguments.crop,
        precision=arguments.precision,
        compile=arguments.compile,
    )
    figures = [peer(arguments.peer)] if arguments.peer else []
    rounds = []
    for _ in range(arguments.rounds):
        rounds.append(own_step(config, arguments.repeats))
        if arguments.peer:
            figures.append(peer(arguments.peer))
    own = sorted(rounds, key=lambda one: float(one["step_s"]))[len(rounds) // 2]
    widths = arguments.codec, config.codec.n, config.codec.m
    print("{} (N={}, M={}), {} crops of {}²".format(*widths, config.batch, config.crop))
    print(f"one step           {own['step_s']:8.3f} s   {own['images_per_s']:.1f} images/s")
    print(f"precision          {own['precision']}")
    print(
        f"arithmetic         {own['flops_per_s'] / 1e12:8.3f} TFLOP/s, "
        f"{100 * own['share_of_peak']:.0f} % of the largest matrix product's "
        f"{own['matrix_peak_flops_per_s'] / 1e12:.3f}"
    )
    times = [one["step_s"] for one in rounds]
    result = {
        "own": own,
        "rounds_s": times,
        "config": config.to_dict(),
        "environment": environment(config.seed),
    }
    if figures:
        key = arguments.peer_key
        peers = [float(one[key]["train_step_s"]) for one in figures]
        ratios = sorted(seconds / own["step_s"] for seconds in peers)
        shown = ", ".join(f"{seconds:.3f}" for seconds in peers)
        print(
            f"{key} in turn: {shown} s, {ratios[0]:.2f} … {ratios[-1]:.2f} × ours, "
            f"median {statistics.median(ratios):.2f}"
        )
        result |= {
            "peer": key,
            "peer_version": figures[0]["version"],
            "peer_step_s": peers,
            "ratios": ratios,
        }
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
