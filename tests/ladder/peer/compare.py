"""Live models of CompressAI on the ladder, against CompressAI's own figures and our own codecs.

Run in an environment that has CompressAI beside this package and what it needs:

    python tests/ladder/peer/compare.py

Of every architecture with random weights it prints the rate that CompressAI's forward pass
estimates, what the ladder measures of the live model, and of the same weights loaded from the
state dict; it fails if they differ. Last run with CompressAI 1.2.8 and PyTorch 2.13.0.
"""

from __future__ import annotations

import importlib.util
import math
import sys
from pathlib import Path

import torch
from torch import nn

import waterfill as wf
from waterfill.codec.foreign import from_compressai

_GENERATE = Path(__file__).parents[2] / "codec" / "peer" / "generate.py"


@torch.no_grad()
def architectures() -> tuple[dict[str, nn.Module], torch.Tensor]:
    """Small models whose latents have a deviation of 2, as their priors say: no far tails."""
    spec = importlib.util.spec_from_file_location("generate", _GENERATE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    torch.manual_seed(1)
    picture = module.picture()
    x = picture.permute(2, 0, 1)[None] / 255
    models = {}
    for name, make in module.ARCHITECTURES.items():
        model = models[name] = make().eval()
        last = [m for m in model.g_a.modules() if isinstance(m, nn.Conv2d)][-1]
        y = model.g_a(x)
        last.weight.mul_(2 / y.std())
        last.bias.sub_(y.mean()).mul_(2 / y.std())
        if hasattr(model, "h_s"):
            head = getattr(model, "entropy_parameters", model.h_s)
            final = [m for m in head.modules() if isinstance(m, nn.Conv2d | nn.ConvTranspose2d)][-1]
            scales = slice(None) if name == "bmshj2018-hyperprior" else slice(0, model.M)
            final.bias[scales] = 2.0
    return models, picture


@torch.no_grad()
def main() -> int:
    models, picture = architectures()
    pixels = picture.numpy()
    x = picture.permute(2, 0, 1)[None].float() / 255
    worst = 0.0
    for name, model in models.items():
        out = model(x)
        bits = -sum(float(torch.log2(p.double()).sum()) for p in out["likelihoods"].values())
        own = bits / math.prod(x.shape[2:])
        loaded = wf.limits(from_compressai(model.state_dict(), name), [pixels], 4.0)
        figures = {rung.name: rung for rung in loaded.rungs}
        print(f"{name}: CompressAI {own:.5f} bpp, loaded {figures['ideal coder'].bpp:.5f}", end="")
        try:
            live = wf.limits(model, [pixels])
        except wf.CodecError as error:
            print(f", live: {error}")
            continue
        for rung in live.rungs:
            if rung.name in ("learned posterior", "+ context"):
                continue  # their levels need a price, which a live model doesn't tell
            theirs = figures[rung.name].bpp
            difference = abs(rung.bpp / theirs - 1)
            # The loaded one takes scales from integer tables, and draws its noise part by part.
            worst = max(worst, difference / 1e-2)
            if difference > 1e-2:
                print(f"\n  {rung.name}: live {rung.bpp:.5f}, loaded {theirs:.5f}", end="")
        ideal = live.rungs[0].bpp
        print(f", live {ideal:.5f}")
        worst = max(worst, abs(ideal / own - 1) / 2e-3)
    print("they agree" if worst <= 1 else f"they differ: {worst:.2f} times what is allowed")
    return 0 if worst <= 1 else 1


if __name__ == "__main__":
    sys.exit(main())
