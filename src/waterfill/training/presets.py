"""Training settings by name: the papers' own, small versions of them, and the bundled codec's.

What the papers' texts lost is filled in with what their sources most likely used; those values are
marked as reconstructions in :data:`RECONSTRUCTED`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

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


def _at(architecture: str, quality: int) -> CodecConfig:
    """A codec for the one λ of a quality."""
    return replace(ARCHITECTURES[architecture], qualities=(float(quality), float(quality)))


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
        codec=_at("table1" if quality <= 4 else "table1-high", quality),
        checkpoint_every=1000,
        validate_every=5000,
    )


def _paper2(objective: str, quality: int) -> TrainConfig:
    """A mean-scale hyperprior with and without the regulariser, α = .1."""
    return TrainConfig(
        objective=objective,
        alpha=0.1,
        steps=2_000_000,
        batch=16,
        crop=256,
        learning_rate=1e-4,
        warmup=0,
        schedule="plateau",
        patience=20,
        codec=_at("mean-scale", quality),
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
        codec=replace(config.codec, n=24, m=48, hyper=24),
        checkpoint_every=250,
        validate_every=500,
    )


def _presets() -> dict[str, TrainConfig]:
    families = {
        "paper1-hyperprior": (_paper1, "rate-distortion", QUALITIES),
        "paper1-test-channel": (_paper1, "test-channel", QUALITIES),
        "paper1-oracle-rounding": (_paper1, "oracle-rounding", QUALITIES),
        "paper1-oracle-test-channel": (_paper1, "oracle-test-channel", QUALITIES),
        "paper2-hyperprior": (_paper2, "rate-distortion", QUALITIES[:4]),
        "paper2-hyperprior-regularised": (_paper2, "regularised", QUALITIES[:4]),
    }
    presets = {}
    for name, (make, objective, qualities) in families.items():
        for quality in qualities:
            presets[f"{name}-q{quality}"] = make(objective, quality)
            presets[f"mini-{name}-q{quality}"] = _mini(make(objective, quality))
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
