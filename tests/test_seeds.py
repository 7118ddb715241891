"""One rule for seeds, wherever something is drawn, and before anything is done."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import waterfill as wf
from waterfill.data.images import Picture
from waterfill.data.pack import pack
from waterfill.errors import WaterfillError
from waterfill.evaluation.bd import compare
from waterfill.evaluation.measure import evaluate
from waterfill.reproduce.result import Request
from waterfill.seeds import check_seed
from waterfill.training.config import TrainConfig

PICTURE = Picture("flat", np.zeros((8, 8, 3), np.uint8))
CURVE = np.array([[0.1, 30.0], [0.2, 32.0], [0.4, 34.0], [0.8, 36.0]])


@pytest.mark.parametrize("seed", [0, 7, 2**32 - 1, np.int64(3)])
def test_whole_numbers_of_32_bits_are_seeds(seed: Any) -> None:
    assert check_seed(seed) == seed
    assert type(check_seed(seed)) is int


@pytest.mark.parametrize("seed", [-1, 2**32, 2**70, None, 1.0, "1"])
@pytest.mark.parametrize(
    "draw",
    [
        lambda seed: wf.limits(wf.load_codec("tiny", pretrained=False), [PICTURE], seed=seed),
        lambda seed: wf.bounds("gaussian", seed=seed),
        lambda seed: evaluate([PICTURE], "jpeg", seed=seed),
        lambda seed: compare(CURVE, CURVE, seed=seed),
        lambda seed: pack(["nowhere"], Path("nowhere-either"), seed=seed),
        lambda seed: TrainConfig(seed=seed),
        lambda seed: Request(seed=seed),
    ],
    ids=["limits", "bounds", "evaluate", "compare", "pack", "train", "reproduce"],
)
def test_nothing_else_is(draw: Callable[[Any], object], seed: Any) -> None:
    with pytest.raises(WaterfillError, match=r"seed must be .* in 0 … 2\^32 − 1, not") as caught:
        draw(seed)
    assert "\n" not in str(caught.value)
