"""Pictures and codecs that several test modules use."""

from __future__ import annotations

import os
import signal

# Before NumPy is there; its threads spin while they wait. See below.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import waterfill as wf
from waterfill.codec.model import Codec
from waterfill.data.images import sample_pictures

# Tensors of tests are so small that a second thread is mostly waited for, and much longer where the
# machine has other work. Tests of what threads may change ask for them.
torch.set_num_threads(1)

# A shell's background job ignores Ctrl-C, and so would every program that a test starts.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def tiny() -> Codec:
    """A small codec with seeded random weights: the work of a trained one, not its skill."""
    return wf.load_codec("tiny", pretrained=False)


@pytest.fixture(scope="session")
def photo() -> NDArray[np.uint8]:
    """A photograph, uint8 (192, 256, 3)."""
    (picture,) = sample_pictures(["astronaut"])
    return np.ascontiguousarray(picture.pixels[:192, 100:356])
