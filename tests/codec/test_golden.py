"""Streams made once decode to the same symbols everywhere, and for ever within a version."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import torch
from golden.decode import HERE, decode_all, weights_of

import waterfill as wf

EXPECTED: dict[str, int] = json.loads((HERE / "symbols.json").read_text())


def test_there_is_one_of_each_kind() -> None:
    from family import FAMILY

    assert {name for name in EXPECTED if "+" not in name} == FAMILY.keys()


@pytest.mark.parametrize("threads", [1, 2, 4])
def test_any_number_of_threads(threads: int) -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        assert decode_all() == EXPECTED
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(
    "limits",
    [
        {"ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41"},
        {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"},
        {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE"},
        {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE_AMX", "MKL_ENABLE_INSTRUCTIONS": "SSE4_2"},
    ],
    ids=lambda limits: ",".join(limits.values()),
)
def test_any_instruction_set(limits: dict[str, str]) -> None:
    done = subprocess.run(
        [sys.executable, str(HERE / "decode.py")],
        env=os.environ | limits,
        capture_output=True,
        text=True,
        check=True,
    )
    found = json.loads(done.stdout)
    if limits.get("ATEN_CPU_CAPABILITY") == "default":
        assert found["capability"] in ("DEFAULT", "NO AVX")  # or the limit was not heeded
    del found["capability"]
    assert found == EXPECTED


@pytest.mark.parametrize("name", list(EXPECTED))
def test_transforms_in_bfloat16_decode_the_same_latents(name: str) -> None:
    codec = wf.load_codec(weights_of(name))
    data = (HERE / f"{name}.wfl").read_bytes()
    exact = wf.decompress(data, codec=codec)
    with torch.autocast("cpu", torch.bfloat16):
        narrow = wf.decompress(data, codec=codec)  # its checksum is that of the latents
    assert narrow.size == exact.size
