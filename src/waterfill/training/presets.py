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
        "paper1 λ of MS-SSIM": "2.4 to 220, geometric, as the field's pretrained models",
        "paper1 m": "192 up to λ = .013, 320 above, as in Minnen 2018",
        "paper1 λ of digits": "a 512th of the others, where estimators have something to say",
        "paper2 λ": "the lower four of the same",
        "paper2 learning rate": "1e-4 for the codec, 1e-3 for the source model",
        "paper2 crop": "256",
        "paper2 steps": "2,000,000",
        "paper2 unit of H_q": "bits per dimension: per pixel, α = .1 would cancel the lowest λ",
        "paper2 source model": "three convolutions of x̂, in cells of 4×4 pixels",
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
        "table1-context": (5, {"m": 320}),
    }
)


def _at(architecture: str, quality: int) -> CodecConfig:
    """A codec for the one λ of a quality."""
    first, wider = _WIDER.get(architecture, (9, {}))
    config = replace(ARCHITECTURES[architecture], **(wider if quality >= first else {}))
    return replace(config, qualities=(float(quality), float(quality)))


def _paper1(quality: int, *, objective: str, context: bool = False, **others: Any) -> TrainConfig:
    """Algorithm 1 and its baseline; a limit is fine-tuned from a trained baseline (``start``)."""
    limit = objective != "rate-distortion"
    return TrainConfig(
        objective=objective,
        oracle_mean="predicted" if context and limit else "zero",
        oracle_mode="paper",
        steps=200_000 if limit else 2_000_000,
        batch=100,
        crop=256,
        learning_rate=1e-4,
        warmup=0,
        schedule="constant",
        codec=_at("table1-context" if context else "table1", quality),
        checkpoint_every=1000,
        validate_every=5000,
        **others,
    )


#: The least λ of photographs is 117 bits for a squared error of 1 on [0, 1], and the estimators
#: that the paper draws beside its limits are at their ceilings where that is 3: digits take this
#: part of λ, which is .23 … 23 bits.
_DIGITS_SCALE = 2.0**-9


def _mnist(quality: int, *, context: bool = False, **others: Any) -> TrainConfig:
    """The same with Table II's nets, on digits of 28 padded to 32."""
    config = _paper1(quality, context=context, **others)
    codec = _at("table2-context" if context else "table2", quality)
    return replace(
        config,
        codec=codec,
        crop=32,
        augment=False,
        lambda_scale=_DIGITS_SCALE,
        # Of so few channels on so few pixels, convolutions are slower in bfloat16.
        precision="32-true",
    )


def _at_all(config: TrainConfig) -> TrainConfig:
    """The same for a codec that covers all λ, instead of eight for one each."""
    low, high = (float(quality) for quality in (QUALITIES[0], QUALITIES[-1]))
    return replace(config, codec=replace(config.codec, qualities=(low, high)))


def _classic(quality: int, *, architecture: str, alpha: float | None = None) -> TrainConfig:
    """Settings of paper 2: CompressAI's models and training; with ``alpha``, its regulariser."""
    return TrainConfig(
        source_model="none" if alpha is None else "aligned",
        alpha=alpha or 0.0,
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


_SIMILARITY = {"distortion": "ms-ssim"}


def _mini(config: TrainConfig) -> TrainConfig:
    """The same setting in minutes on two cores: thin networks, small crops, few steps."""
    digits = config.codec.transform == "table2"  # a thin network as it is
    thin: dict[str, Any] = {} if digits else {"n": 24, "m": 48, "hyper": 24}
    return replace(
        config,
        steps=2000,
        batch=32 if digits else 4,
        crop=min(config.crop, 192 if config.distortion == "ms-ssim" else 128),
        learning_rate=1e-3,
        warmup=100,
        schedule="linear",
        decay=0.5,
        ema=0.99,  # of so few steps a longer memory would keep the first ones
        codec=replace(config.codec, **thin),
        checkpoint_every=250,
        validate_every=500,
    )


def _presets() -> dict[str, TrainConfig]:
    plain, oracle = "rate-distortion", "oracle-test-channel"
    families: dict[str, tuple[Callable[[int], TrainConfig], Sequence[int]]] = {}
    papers: tuple[tuple[str, Callable[..., TrainConfig], dict[str, Any]], ...] = (
        ("paper1-hyperprior", _paper1, {"objective": plain}),
        ("paper1-test-channel", _paper1, {"objective": "test-channel"}),
        ("paper1-oracle-rounding", _paper1, {"objective": "oracle-rounding"}),
        ("paper1-oracle-test-channel", _paper1, {"objective": oracle}),
        ("paper1-oracle-test-channel-context", _paper1, {"objective": oracle, "context": True}),
        ("paper1-hyperprior-ms-ssim", _paper1, {"objective": plain, **_SIMILARITY}),
        ("paper1-oracle-test-channel-ms-ssim", _paper1, {"objective": oracle, **_SIMILARITY}),
        (
            "paper1-oracle-test-channel-context-ms-ssim",
            _paper1,
            {"objective": oracle, "context": True, **_SIMILARITY},
        ),
        ("paper1-mnist-hyperprior", _mnist, {"objective": plain}),
        ("paper1-mnist-test-channel", _mnist, {"objective": "test-channel"}),
        ("paper1-mnist-oracle-test-channel", _mnist, {"objective": oracle}),
        (
            "paper1-mnist-oracle-test-channel-context",
            _mnist,
            {"objective": oracle, "context": True},
        ),
    )
    for name, make, options in papers:
        families[name] = partial(make, **options), QUALITIES
    for name, architecture, alpha in (
        ("hyperprior", "mean-scale", 0.1),
        ("autoregressive", "autoregressive", 1.0),
        ("attention", "attention", 1.0),
    ):
        for suffix, weight in (("", None), ("-regularised", alpha)):
            families[f"paper2-{name}{suffix}"] = (
                partial(_classic, architecture=architecture, alpha=weight),
                QUALITIES[:4],
            )
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
            partial(_classic, architecture=architecture),
            QUALITIES,
        )
    presets: dict[str, TrainConfig] = {}
    for name, (of_quality, qualities) in families.items():
        for quality in qualities:
            presets[f"{name}-q{quality}"] = of_quality(quality)
            presets[f"mini-{name}-q{quality}"] = _mini(of_quality(quality))
        if name.startswith("paper1-mnist"):
            presets[f"mini-{name}"] = _mini(_at_all(of_quality(QUALITIES[-1])))
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


#: Complete configs by name. ``-q1`` … ``-q8`` are the eight λ from .0018 to .18, one codec each;
#: of digits there are small ones without a number too, one codec for all λ.
PRESETS: Mapping[str, TrainConfig] = MappingProxyType(_presets())
