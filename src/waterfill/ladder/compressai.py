"""Live models of CompressAI, and those built like them, on the ladder.

Recognised by their parts, not by their class: ``g_a``, ``g_s``, ``h_a``, ``h_s``,
``entropy_bottleneck`` and ``gaussian_conditional``, and for contexts ``context_prediction`` and
``entropy_parameters``. So a research model that keeps those names is measured as it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from waterfill.errors import CodecError
from waterfill.ladder.adapters import Analysis, TransformCodec, evaluating

__all__ = ["as_protocol", "is_like_compressai"]

_PARTS = ("g_a", "g_s", "h_a", "h_s", "entropy_bottleneck", "gaussian_conditional")
_CONTEXT_PARTS = ("context_prediction", "entropy_parameters")
#: Sides of a picture are padded to multiples of this, as CompressAI's tools do.
_ALIGNMENT = 64
_SMALLEST_SCALE = 0.11


def is_like_compressai(model: object) -> bool:
    """Whether a model has the transforms and the entropy bottleneck of CompressAI's."""
    return isinstance(model, nn.Module) and all(
        hasattr(model, part) for part in ("g_a", "g_s", "entropy_bottleneck")
    )


def as_protocol(model: nn.Module) -> TransformCodec:
    """A live model behind the ladder's protocol.

    Raises
    ------
    CodecError
        If its prior isn't a Gaussian one with side information.
    """
    missing = [part for part in _PARTS if not hasattr(model, part)]
    if missing:
        raise CodecError(
            f"{type(model).__name__}: has no {missing[0]}; a model without a hyperprior is "
            "measured from its state dict (load_codec), any other by analyse() and synthesise()"
        )
    if all(hasattr(model, part) for part in _CONTEXT_PARTS):
        return _WithContext(model)
    return _Hyperprior(model)


class _Hyperprior:
    """Scale and mean-scale hyperpriors."""

    def __init__(self, model: nn.Module) -> None:
        self._model: Any = model
        self.name = type(model).__name__

    def analyse(self, x: Tensor) -> Analysis:
        """Use the model's own parts."""
        model = self._model
        height, width = (-side % _ALIGNMENT for side in x.shape[2:])
        device = next(model.parameters()).device
        with evaluating(self._model):
            y = model.g_a(F.pad(x, (0, width, 0, height), mode="replicate").to(device))
            z_hat, likelihoods = model.entropy_bottleneck(model.h_a(self._seen(y)))
            side_bits = -float(torch.log2(likelihoods.double()).sum())
            features = model.h_s(z_hat)
        return self._analysis(y, features, side_bits)

    def _seen(self, y: Tensor) -> Tensor:
        """What h_a is shown: the magnitudes, where it is to predict scales alone."""
        return y.abs() if self._scales_alone else y

    @property
    def _scales_alone(self) -> bool:
        """As of Ballé 2018, whose h_s ends in as many channels as y has."""
        convolutions = [m for m in self._model.h_s.modules() if hasattr(m, "out_channels")]
        first = next(m for m in self._model.g_s.modules() if hasattr(m, "in_channels"))
        return bool(convolutions and convolutions[-1].out_channels == first.in_channels)

    def _analysis(self, y: Tensor, features: Tensor, side_bits: float) -> Analysis:
        if features.shape[1] == y.shape[1]:
            return Analysis(y, torch.zeros(1), self._bounded(features), side_bits)
        scales, means = features.chunk(2, 1)
        return Analysis(y, means, self._bounded(scales), side_bits)

    def _bounded(self, scales: Tensor) -> Tensor:
        bound = getattr(self._model.gaussian_conditional, "lower_bound_scale", None)
        bounded: Tensor = bound(scales) if bound else scales.clamp_min(_SMALLEST_SCALE)
        return bounded

    def synthesise(self, y_hat: Tensor) -> Tensor:
        """Use the model's g_s."""
        with evaluating(self._model):
            x_hat: Tensor = self._model.g_s(y_hat.to(next(self._model.parameters()).device))
            return x_hat


class _WithContext(_Hyperprior):
    """Joint autoregressive models: a causal window of 5×5, in raster order."""

    @property
    def _scales_alone(self) -> bool:
        return False

    def _analysis(self, y: Tensor, features: Tensor, side_bits: float) -> Analysis:
        return Analysis(y, features, features, side_bits)

    def order(self, shape: Sequence[int]) -> Iterator[Tensor]:
        """Wavefronts: what shares t = column + reach·row needs nothing of one another."""
        _, _, height, width = shape
        size = self._model.context_prediction.kernel_size
        reach = int(size[0] if isinstance(size, tuple) else size) // 2 + 1
        front = torch.arange(width) + reach * torch.arange(height)[:, None]
        return (front == t for t in range(width + reach * (height - 1)))

    def predict(self, analysis: Analysis, y_hat: Tensor) -> tuple[Tensor, Tensor]:
        """Use the model's context_prediction and entropy_parameters."""
        model, features = self._model, analysis.mu
        with evaluating(self._model):
            near = model.context_prediction(y_hat.to(features.device))
            scales, means = model.entropy_parameters(torch.cat([features, near], 1)).chunk(2, 1)
        return means, self._bounded(scales)
