"""Seconds that CompressAI takes for what waterfill's benchmarks time.

    ENV/bin/python benchmarks/beside_compressai.py coding PICTURE
    ENV/bin/python benchmarks/beside_compressai.py training

Runs in an environment of its own, which holds CompressAI and not waterfill, and is handed to
``benchmarks/coding.py`` and ``benchmarks/training.py`` as their ``--peer``. Weights are seeded and
untrained. A step of training is that of CompressAI's example: float32, 8 crops of 256², Adam.
Prints one JSON object.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from compressai.losses import RateDistortionLoss
from compressai.zoo import bmshj2018_hyperprior, cheng2020_attn, mbt2018, mbt2018_mean
from PIL import Image

MODELS: dict[str, Callable[..., Any]] = {
    "bmshj2018-hyperprior": bmshj2018_hyperprior,
    "mbt2018-mean": mbt2018_mean,
    "mbt2018": mbt2018,
    "cheng2020-attn": cheng2020_attn,
}
_QUALITY, _LAMBDA, _MULTIPLE = 3, 0.0067, 64


def median_seconds(work: Callable[[], object], repeats: int) -> float:
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def coding(make: Callable[..., Any], picture: str, repeats: int) -> dict[str, float]:
    model = make(quality=_QUALITY, pretrained=False).eval()
    model.update(force=True)
    with Image.open(picture) as image:
        pixels = torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)[None]
    height, width = (side // _MULTIPLE * _MULTIPLE for side in pixels.shape[2:])
    x = pixels[..., :height, :width].float() / 255.0
    with torch.no_grad():
        told = model.compress(x)
        return {
            "encode_s": median_seconds(lambda: model.compress(x), repeats),
            "decode_s": median_seconds(lambda: model.decompress(**told), repeats),
        }


def training(make: Callable[..., Any], repeats: int) -> dict[str, float]:
    model = make(quality=_QUALITY, pretrained=False).train()
    loss_of, adam = RateDistortionLoss(_LAMBDA), torch.optim.Adam(model.parameters(), 1e-4)
    crops = torch.rand(8, 3, 256, 256)

    def step() -> None:
        adam.zero_grad()
        loss_of(model(crops), crops)["loss"].backward()
        adam.step()

    step()
    return {"train_step_s": median_seconds(step, repeats)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("coding", "training"))
    parser.add_argument("picture", nargs="?")
    parser.add_argument("--only", default=",".join(MODELS))
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    if arguments.what == "coding" and arguments.picture is None:
        parser.error("coding needs a picture")
    torch.manual_seed(0)
    found: dict[str, Any] = {"version": f"compressai {version('compressai')}"}
    for name in arguments.only.split(","):
        found[name] = (
            coding(MODELS[name], arguments.picture, arguments.repeats)
            if arguments.what == "coding"
            else training(MODELS[name], arguments.repeats)
        )
    print(json.dumps(found))


if __name__ == "__main__":
    main()
