"""A config is a TOML file is a config, and what isn't one is told so in one line."""

from __future__ import annotations

import dataclasses
import math

import pytest

from waterfill.codec.config import CodecConfig
from waterfill.codec.gains import LAMBDAS, lambda_of_quality
from waterfill.errors import TrainingError
from waterfill.training.config import TrainConfig
from waterfill.training.presets import PRESETS


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_survives_its_file(name: str) -> None:
    config = dataclasses.replace(PRESETS[name], data=("some/folder", "more"))
    assert TrainConfig.from_toml(config.to_toml()) == config


def test_every_preset_has_a_small_version() -> None:
    large = [name for name in PRESETS if not name.startswith("mini-")]
    papers = [name for name in large if name.startswith("paper")]
    assert len(papers) == 12 * 8 + 6 * 4
    for name in set(large) - {"bundled", "medium"}:
        full, mini = PRESETS[name], PRESETS[f"mini-{name}"]
        assert (mini.objective, mini.codec.qualities) == (full.objective, full.codec.qualities)
        assert mini.steps * mini.batch * mini.crop**2 < full.steps * full.batch * full.crop**2 / 300


def test_presets_of_one_rate_are_those_of_the_papers() -> None:
    found = [
        lambda_of_quality(PRESETS[f"paper1-hyperprior-q{q}"].codec.qualities[0])
        for q in range(1, 9)
    ]
    assert found == pytest.approx(list(LAMBDAS))
    assert PRESETS["paper1-oracle-test-channel-q3"].steps == 200_000
    assert PRESETS["paper1-oracle-test-channel-q3"].codec == CodecConfig(
        192, 192, 192, qualities=(3.0, 3.0)
    )
    assert PRESETS["paper1-hyperprior-q8"].codec.m == 320
    context = PRESETS["paper1-oracle-test-channel-context-q5"]
    assert (context.codec.context, context.codec.m) == ("masked", 320)
    assert (context.oracle_mean, context.oracle_mode) == ("predicted", "paper")
    digits = PRESETS["mini-paper1-mnist-hyperprior-q2"]
    assert (digits.codec.n, digits.crop, digits.augment) == (36, 32, False)
    # The slopes of estimators that end at some 15 bits a digit, .05 … 10 nats, are among theirs.
    at_all = PRESETS["mini-paper1-mnist-oracle-test-channel-context"]
    nats = [math.log(2) * at_all.lambda_scale * 255.0**2 * lam for lam in (LAMBDAS[0], LAMBDAS[-1])]
    assert nats[0] < 0.2
    assert nats[1] > 10
    assert at_all.codec.qualities == (1.0, 8.0)
    assert PRESETS["paper1-mnist-hyperprior-q2"].lambda_scale == at_all.lambda_scale
    assert PRESETS["mini-paper1-hyperprior-ms-ssim-q2"].crop == 192
    assert PRESETS["paper2-hyperprior-regularised-q1"].alpha == 0.1
    assert PRESETS["paper2-hyperprior-q1"].batch == 16
    assert PRESETS["paper2-attention-regularised-q1"].alpha == 1.0
    assert PRESETS["autoregressive-q4"].codec.context == "masked"
    assert (PRESETS["attention-q3"].codec.n, PRESETS["attention-q4"].codec.n) == (128, 192)


def test_fields_left_out_keep_their_values() -> None:
    config = TrainConfig().with_values({"steps": 7, "codec": {"n": 32}})
    assert config == dataclasses.replace(
        TrainConfig(), steps=7, codec=dataclasses.replace(CodecConfig(), n=32)
    )
    assert TrainConfig.from_toml("learning_rate = 1").learning_rate == 1.0


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("steps = ", "not TOML"),
        ("stepz = 3", "no field stepz"),
        ("steps = 3.5", "whole number"),
        ("steps = true", "whole number"),
        ("learning_rate = 'fast'", "a number"),
        ("data = 'folder'", "list of texts"),
        ("[codec]\nqualities = [1]", "two numbers"),
        ("[codec]\nqualities = [1, true]", "two numbers"),
        ("compile = 1", "true or false"),
        ("codec = 3", "a table"),
        ("[codec]\nwidth = 3", "no field width"),
        ("[codec]\nn = 0", "n must be an integer"),
        ("[codec]\nm = 900\ntransform = 'klt'", "at most 768"),
        ("[codec]\ncontext = 'none such'", "context must be one of"),
        ("[codec]\nqualities = [5, 4]", "low first"),
        ("[codec]\nqualities = [0.5, 4]", "1 … 8"),
        ("[codec]\nqualities = [nan, 4]", "1 … 8"),
        ("[codec]\nmixtures = 3", "masked"),
        ("[codec]\npairs = [1, 2.5]", "two whole numbers"),
        ("[codec]\npairs = [1, 3, 2]", "two whole numbers"),
        ("[codec]\npairs = [1, 4]", "of the transform 'klt'"),
        ("[codec]\ntransform = 'klt'\nside = 'scale'", "klt starts with .* means, not 'scale'"),
        (
            "objective = 'test-channel'\n[codec]\nside = 'none'\nqualities = [3, 3]",
            "for rate-distortion alone",
        ),
        ("crop = 100", "multiple of 64"),
        ("lambda_scale = 0", "lambda_scale must be positive"),
    ],
)
def test_what_is_not_a_config_is_refused_by_name(text: str, what: str) -> None:
    with pytest.raises(TrainingError, match=what) as caught:
        TrainConfig.from_toml(text, "some.toml")
    assert "\n" not in str(caught.value)


def test_what_may_differ_when_a_run_goes_on() -> None:
    config = TrainConfig()
    free = dataclasses.replace(config, steps=3, data=("x",), validate_every=9)
    assert config.changed_from(free.to_dict()) is None
    assert config.changed_from(dataclasses.replace(config, seed=3).to_dict()) == "seed"
    wider = dataclasses.replace(config, codec=CodecConfig(n=65))
    assert config.changed_from(wider.to_dict()) == "codec"
    assert config.changed_from({}) is not None
    scaled = dataclasses.replace(config, lambda_scale=0.5)
    assert config.changed_from(scaled.to_dict()) == "lambda_scale"
    # A checkpoint from before there was a field can't say what it meant.
    older = {k: v for k, v in config.to_dict().items() if k != "lambda_scale"}
    assert config.changed_from(older) == "lambda_scale"
    assert scaled.changed_from(older) == "lambda_scale"
