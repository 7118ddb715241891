"""Models with the parts of CompressAI's, written here: recognised and measured by those parts.

With CompressAI itself, ``peer/compare.py`` does the same.
"""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

import waterfill as wf
from waterfill.ladder import Analysis
from waterfill.ladder.compressai import as_protocol, is_like_compressai

M = 6


class Bottleneck(nn.Module):
    """z at two bits for every element, rounded in evaluation and noisy in training."""

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        z_hat = z + torch.rand_like(z) if self.training else z.round()
        return z_hat, torch.full_like(z, 0.25)


class Conditional(nn.Module):
    @staticmethod
    def lower_bound_scale(scales: Tensor) -> Tensor:
        return scales.clamp_min(0.11)


class Hyperprior(nn.Module):
    def __init__(self, outputs: int = 2 * M) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.g_a = nn.Conv2d(3, M, 16, stride=16)
        self.g_s = nn.ConvTranspose2d(M, 3, 16, stride=16)
        self.h_a = nn.Conv2d(M, 4, 4, stride=4)
        self.h_s = nn.ConvTranspose2d(4, outputs, 4, stride=4)
        self.entropy_bottleneck = Bottleneck()
        self.gaussian_conditional = Conditional()
        with torch.no_grad():
            self.g_a.weight.mul_(8)
            self.h_s.bias[: max(M, outputs - M)] = 1.5


class Autoregressive(Hyperprior):
    def __init__(self) -> None:
        super().__init__()
        self.context_prediction = nn.Conv2d(M, 2 * M, 5, padding=2)
        with torch.no_grad():
            self.context_prediction.weight[:, :, 2, 2:] = 0
            self.context_prediction.weight[:, :, 3:] = 0
        self.entropy_parameters = nn.Conv2d(4 * M, 2 * M, 1)
        with torch.no_grad():
            self.entropy_parameters.weight.mul_(0.3)
            self.entropy_parameters.bias[:M] = 6.0


def test_they_are_known_by_their_parts() -> None:
    assert is_like_compressai(Hyperprior())
    assert not is_like_compressai(nn.Conv2d(1, 1, 1))
    assert not is_like_compressai(object())


@pytest.mark.parametrize("outputs", [M, 2 * M])
def test_a_hyperprior_is_measured_by_its_own_parts(outputs: int, photo: NDArray[np.uint8]) -> None:
    model = Hyperprior(outputs).train()
    ladder = wf.limits(model, [photo[:70, :100]])
    assert model.training
    assert ladder.codec == "Hyperprior"
    ideal = ladder.rungs[0]
    # Padded to 128×128: 2×2 hyper-latents of 4 channels, two bits each.
    assert ideal.parts["side information"] == pytest.approx(2 * 16 / 7000)
    with torch.no_grad():
        x = torch.from_numpy(photo[:70, :100].astype(np.float32)).permute(2, 0, 1)[None] / 255
        y = model.g_a(nn.functional.pad(x, (0, 28, 0, 58), mode="replicate"))
        seen = y.abs() if outputs == M else y
        features = model.h_s(model.h_a(seen).round())
        scales, means = (features, torch.zeros_like(y)) if outputs == M else features.chunk(2, 1)
        normal = torch.distributions.Normal(0.0, scales.clamp_min(0.11).double())
        symbols = (y - means).round().double()
        mass = normal.cdf(symbols + 0.5) - normal.cdf(symbols - 0.5)
    assert mass.min() > 1e-12  # float64 says it well enough
    assert ideal.parts["latents"] == pytest.approx(-float(mass.log2().sum()) / 7000, rel=1e-4)


def test_a_live_model_is_in_evaluation_mode_for_one_picture_after_the_other(
    photo: NDArray[np.uint8],
) -> None:
    model, modes = Hyperprior().train(), []
    model.gaussian_conditional.eval()  # as frozen

    def look(module: nn.Module, inputs: Any, output: Any) -> None:
        modes.append((module.training, threading.current_thread(), torch.get_num_threads()))

    model.g_a.register_forward_hook(look)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        wf.limits(model, [photo[:64, :64], photo[64:128, :64]])
    finally:
        torch.set_num_threads(threads)
    assert set(modes) == {(False, threading.main_thread(), 2)}
    assert model.training
    assert model.g_a.training
    assert not model.gaussian_conditional.training


def test_a_model_that_keeps_the_protocol_is_measured_by_that(photo: NDArray[np.uint8]) -> None:
    class Own(Hyperprior):  # without a name, for which the class will do
        def analyse(self, x: Tensor) -> Analysis:
            return Analysis(torch.zeros(1, 1, 2, 2), torch.zeros(1), torch.ones(1), 32.0)

        def synthesise(self, y_hat: Tensor) -> Tensor:
            return torch.zeros(1, 3, 16, 16)

    ideal = wf.limits(Own(), [photo[:16, :16]]).rungs[0]
    assert ideal.parts["side information"] == 32 / 256


def test_a_context_is_walked_in_causal_order(photo: NDArray[np.uint8]) -> None:
    model = Autoregressive()
    protocol = as_protocol(model)
    x = torch.from_numpy(photo[:64, :128].astype(np.float32)).permute(2, 0, 1)[None] / 255
    with torch.no_grad():
        analysis = protocol.analyse(x)
        y, (height, width) = analysis.y, analysis.y.shape[2:]
        # Raster order, one latent after the other: what every decoder of such a model does.
        y_hat, bits = torch.zeros_like(y), 0.0
        for i in range(height):
            for j in range(width):
                mu, sigma = protocol.predict(analysis, y_hat)  # type: ignore[attr-defined]
                mean, scale = mu[0, :, i, j], sigma[0, :, i, j].double()
                symbols = (y[0, :, i, j] - mean).round()
                y_hat[0, :, i, j] = symbols + mean
                normal = torch.distributions.Normal(0.0, scale)
                mass = normal.cdf(symbols.double() + 0.5) - normal.cdf(symbols.double() - 0.5)
                bits -= float(mass.log2().sum())
    ladder = wf.limits(model, [photo[:64, :128]])
    assert ladder.rungs[0].parts["latents"] == pytest.approx(bits / 64 / 128, rel=1e-3)


def test_what_has_no_hyperprior_is_told_where_to_go(photo: NDArray[np.uint8]) -> None:
    model = Hyperprior()
    del model.h_a
    with pytest.raises(wf.CodecError, match="load_codec"):
        wf.limits(model, [photo])
