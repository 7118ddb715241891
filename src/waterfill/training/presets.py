"""Training settings by name: the papers' own, small versions of them, and the bundled codec's.

What the papers' texts lost is filled in with what their sources most likely used; those values are
marked as reconstructions in :data:`RECONSTRUCTED`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from types import MappingProxyType
from typing import Any

from waterfill.codec.config import CodecConfig
from waterfill.codec.gains import QUALITIES
from waterfill.codec.registry import PRESETS as ARCHITECTURES
from waterfill.training.config import TrainConfig

__all__ = ["PRESETS", "RECONSTRUCTED"]

#: Values that no surviving text states, and where they come from.
RECONSTRUCTED: Mapping[str, str] = MappingProxyType(
    {
        "paper1 λ": "the eight of Minnen 2018; the points of appendix G match the first two",
        "paper1 learning rate": "1e-4 for fine-tuning, the customary rate",
        "paper1 steps of the baseline": "2,000,000, as for the pretrained models of the field",
        "paper1 m": "192 up to λ = .013, 320 above, as in Minnen 2018",
        "paper2 λ": "the lower four of the same",
        "paper2 learning rate": "1e-4 for codec and source model",
        "paper2 crop": "256",
        "paper2 steps": "2,000,000",
    }
)


#: Widths at the higher qualities, from the first of them up; as the field's models have them.
_WIDER: Mapping[str, tuple[int, dict[str, Any]]] = MappingProxyType(
    {
        "factorized": (6, {"n": 192, "m": 320}),
        "scale-hyperprior": (6, {"n": 192, "m": 320, "hyper": 192}),
        "mean-scale": (5, {"n": 192, "m": 320, "hyper": 192}),
        "autoregressive": (5, {"m": 320}),
        "attention": (4, {"n": 192, "m": 192, "hyper": 192}),
        "attention-mixture": (4, {"n": 192, "m": 192, "hyper": 192}),
        "table1": (5, {"m": 320}),
    }
)


def _at(architecture: str, quality: int) -> CodecConfig:
    """A codec for the one λ of a quality."""
    first, wider = _WIDER.get(architecture, (9, {}))
    config = replace(ARCHITECTURES[architecture], **(wider if quality >= first else {}))
    return replace(config, qualities=(float(quality), float(quality)))


def _paper1(objective: str, quality: int) -> TrainConfig:
    """Algorithm 1 and its baseline; a limit is fine-tuned from a trained baseline (``start``)."""
    limit = objective != "rate-distortion"
    return TrainConfig(
        objective=objective,
        steps=200_000 if limit else 2_000_000,
        batch=100,
        crop=256,
        learning_rate=1e-4,
        warmup=0,
        schedule="constant",
        codec=_at("table1", quality),
        checkpoint_every=1000,
        validate_every=5000,
    )


def _classic(objective: str, quality: int, architecture: str, alpha: float = 0.1) -> TrainConfig:
    """Of paper 2, which trains CompressAI's models as CompressAI does; with its regulariser or not.

    α is .1 for the hyperprior, and 1 for the others.
    """
    return TrainConfig(
        objective=objective,
        alpha=alpha,
        steps=2_000_000,
        batch=16,
        crop=256,
        learning_rate=1e-4,
        warmup=0,
        schedule="plateau",
        patience=20,
        codec=_at(architecture, quality),
        checkpoint_every=1000,
        validate_every=5000,
    )


def _mini(config: TrainConfig) -> TrainConfig:
    """The same setting in minutes on two cores: thin networks, small crops, few steps."""
    return replace(
        config,
        steps=2000,
        batch=4,
        crop=128,
        learning_rate=1e-3,
        warmup=100,
        schedule="linear",
        decay=0.5,
        ema=0.99,  # of so few steps a longer memory would keep the first ones
        codec=replace(config.codec, n=24, m=48, hyper=24),
        checkpoint_every=250,
        validate_every=500,
    )


def _presets() -> dict[str, TrainConfig]:
    plain, regularised = "rate-distortion", "regularised"
    families: dict[str, tuple[Callable[[int], TrainConfig], Sequence[int]]] = {}
    for name, objective in (
        ("paper1-hyperprior", plain),
        ("paper1-test-channel", "test-channel"),
        ("paper1-oracle-rounding", "oracle-rounding"),
        ("paper1-oracle-test-channel", "oracle-test-channel"),
    ):
        families[name] = partial(_paper1, objective), QUALITIES
    for name, architecture, alpha in (
        ("hyperprior", "mean-scale", 0.1),
        ("autoregressive", "autoregressive", 1.0),
        ("attention", "attention", 1.0),
    ):
        of_paper2 = partial(_classic, architecture=architecture, alpha=alpha)
        families[f"paper2-{name}"] = partial(of_paper2, plain), QUALITIES[:4]
        families[f"paper2-{name}-regularised"] = partial(of_paper2, regularised), QUALITIES[:4]
    for architecture in (
        "factorized",
        "scale-hyperprior",
        "mean-scale",
        "autoregressive",
        "attention",
        "attention-mixture",
        "space-channel",
    ):
        families[architecture] = (
            partial(_classic, plain, architecture=architecture),
            QUALITIES,
        )
    presets = {}
    for name, (make, qualities) in families.items():
        for quality in qualities:
            presets[f"{name}-q{quality}"] = make(quality)
            presets[f"mini-{name}-q{quality}"] = _mini(make(quality))
    bundled = TrainConfig(
        steps=40_000,
        learning_rate=1e-3,
        warmup=300,
        decay=0.8,
        linear_steps=10_000,
        codec=ARCHITECTURES["default"],
    )
    presets["bundled"] = bundled
    presets["medium"] = TrainConfig(
        steps=200_000, batch=16, crop=256, learning_rate=5e-4, codec=ARCHITECTURES["medium"]
    )
    return presets


#: Complete configs by name. ``-q1`` … ``-q8`` are the eight λ from .0018 to .18, one codec each.
PRESETS: Mapping[str, TrainConfig] = MappingProxyType(_presets())
