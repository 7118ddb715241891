"""Make the fixtures of ``test_foreign.py``: small codecs of CompressAI, and what they compute.

For each of six architectures a file holds a state dict of random weights (``state.``, float16 where
that is exact), a picture (uint8), and the outputs of CompressAI's forward pass in evaluation mode:
likelihoods of y and z, and every third row and column of x̂ (``expected.``, float32). No parameter
is left at the value it starts with, so that one in the wrong place shows.

Run in an environment with CompressAI and safetensors:

    python tests/codec/peer/generate.py

The files here were made with Python 3.11, CompressAI 1.2.8, PyTorch 2.13.0 and safetensors 0.8.0.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from compressai import models
from compressai.entropy_models import EntropyBottleneck
from compressai.layers import GDN, MaskedConv2d
from safetensors.torch import save_file
from torch import Tensor, nn

N, M = 8, 12
HEIGHT, WIDTH = 64, 128

ARCHITECTURES: dict[str, Callable[[], nn.Module]] = {
    "bmshj2018-factorized": lambda: models.FactorizedPrior(N, M),
    "bmshj2018-hyperprior": lambda: models.ScaleHyperprior(N, M),
    "mbt2018-mean": lambda: models.MeanScaleHyperprior(N, M),
    "mbt2018": lambda: models.JointAutoregressiveHierarchicalPriors(N, M),
    "cheng2020-anchor": lambda: models.Cheng2020Anchor(N),
    "cheng2020-attn": lambda: models.Cheng2020Attention(N),
}

#: No rounded value lies nearer than this to where it would be rounded the other way: sums may
#: differ in their last bits from one machine to the next.
MARGIN = 3e-4


def picture() -> Tensor:
    """Something with structure and noise, uint8 (HEIGHT, WIDTH, 3)."""
    rows = torch.linspace(0, 3, HEIGHT)[:, None, None]
    columns = torch.linspace(0, 5, WIDTH)[None, :, None]
    phases = torch.tensor([0.0, 1.0, 2.5])
    smooth = 128 + 70 * torch.sin(2 * rows + phases) * torch.cos(3 * columns - phases)
    return (smooth + 25 * torch.randn(HEIGHT, WIDTH, 3)).clamp(0, 255).round().byte()


@torch.no_grad()
def perturb(model: nn.Module) -> None:
    """Draw all parameters at random."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            inputs = module.weight[0].numel() if isinstance(module, nn.Conv2d) else N * 25 / 4
            module.weight.normal_(0, 1.2 * inputs**-0.5)
            module.bias.normal_(0, 0.2)
        elif isinstance(module, GDN):
            # Some lie below their bounds.
            module.beta.uniform_(-0.2, 1.2)
            module.gamma.normal_(0.1, 0.15)
        elif isinstance(module, EntropyBottleneck):
            for parameter in [*module.matrices, *module.biases, *module.factors]:
                parameter += 0.4 * torch.randn_like(parameter)
            module.quantiles += torch.randn_like(module.quantiles)


def outputs_of(model: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """What each child of a model returns."""
    found: dict[str, Tensor] = {}
    hooks = [
        child.register_forward_hook(lambda _, __, out, name=name: found.update({name: out}))
        for name, child in model.named_children()
    ]
    with torch.no_grad():
        found |= model(x)
    for hook in hooks:
        hook.remove()
    return found


def last_layer(network: nn.Module) -> nn.Conv2d | nn.ConvTranspose2d:
    """The last convolution, but not of an attention module, which ends in none."""
    kinds = (nn.Conv2d, nn.ConvTranspose2d)
    own = [module for module in network.children() if isinstance(module, kinds)]
    return (own or [module for module in network.modules() if isinstance(module, kinds)])[-1]


@torch.no_grad()
def scale(model: nn.Module, x: Tensor) -> None:
    """Bring latents, predictions and pixels to where rounding and bounds matter."""
    deviations = {"g_a": 2.5, "h_a": 2.0, "h_s": 1.5, "entropy_parameters": 1.5, "g_s": 0.3}
    networks = dict(model.named_children())
    for name, deviation in deviations.items():
        if name in networks:
            factor = deviation / outputs_of(model, x)[name].std().item()
            layer = last_layer(networks[name])
            layer.weight *= factor
            layer.bias *= factor
    predicting = networks.get("entropy_parameters", networks.get("h_s"))
    if predicting is not None:
        layer = last_layer(predicting)
        m = last_layer(networks["g_a"]).out_channels
        layer.bias[:m] += 2.0  # scales, some of them below their bound
    last_layer(networks["g_s"]).bias += 0.5
    for parameter in model.parameters():
        parameter.copy_(parameter.half())  # so that they take half the room


def stored(tensor: Tensor) -> Tensor:
    """As float16 where that loses nothing."""
    half = tensor.half()
    return (half if torch.equal(half.to(tensor.dtype), tensor) else tensor).clone()


@torch.no_grad()
def unmask(model: nn.Module) -> None:
    """Put something behind masks, where nothing may look."""
    for module in model.modules():
        if isinstance(module, MaskedConv2d):
            module.weight += (1 - module.mask) * torch.randn_like(module.weight).half()


def margin(model: nn.Module, x: Tensor) -> float:
    """How near the nearest rounded value lies to a half."""
    found: list[Tensor] = []
    kept = {}
    for module in model.modules():
        if hasattr(module, "quantize"):
            kept[module] = module.quantize

            def watched(inputs, mode, means=None, own=module.quantize):
                found.append(inputs if means is None else inputs - means)
                return own(inputs, mode, means)

            module.quantize = watched
    with torch.no_grad():
        model(x)
    for module, own in kept.items():
        module.quantize = own
    return min(float((r - r.floor() - 0.5).abs().min()) for r in found)


def main() -> None:
    """Write the files beside this one."""
    torch.use_deterministic_algorithms(True)
    for name, build in ARCHITECTURES.items():
        for seed in range(1000):
            torch.manual_seed(seed)
            pixels = picture()
            x = pixels.permute(2, 0, 1)[None] / 255
            model = build().eval()
            perturb(model)
            scale(model, x)
            unmask(model)
            # Ahead of the forward pass, which sets what a mask hides to zero.
            state = {k: stored(v) for k, v in model.state_dict().items()}
            least = margin(model, x)
            if least > MARGIN:
                break
        else:
            raise SystemExit(f"{name}: no seed will do")
        with torch.no_grad():
            found = model(x)
        tensors = {f"state.{k}": v for k, v in state.items()}
        tensors |= {f"expected.{k}": v for k, v in found["likelihoods"].items()}
        tensors["expected.x_hat"] = found["x_hat"][:, :, ::3, ::3].contiguous()
        tensors["picture"] = pixels
        save_file(tensors, Path(__file__).with_name(f"{name}.safetensors"))
        print(f"{name}: seed {seed}, margin {least:.1e}, pixels ± {found['x_hat'].std():.2f}")
        for part, p in found["likelihoods"].items():
            print(f"    {part}: {-p.log2().mean():.2f} bit, {(p < 1e-8).float().mean():.0%} at 0")


if __name__ == "__main__":
    main()
