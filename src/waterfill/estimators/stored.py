"""Findings as rows, and back; what decides them, for those who look for them again."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import numpy as np
import torch

from waterfill.data.sources import Source
from waterfill.estimators.curve import Status
from waterfill.estimators.method import Finding, Interval, Run
from waterfill.row_shards import Record

__all__ = ["decides", "findings_of", "record_of"]

_NAMES = tuple(item.name for item in fields(Finding))
#: Pairs of numbers, or None.
_PAIRS = ("interval", "certificate")
#: Draws that say which law it is.
_DRAWS = 64


def decides(source: Source, run: Run) -> dict[str, Any]:
    """All that findings depend on beside method, slopes and program.

    Sums on several threads differ in their last bits from sums on one, and fits carry that on: the
    number of threads is part of it. So is the kind of device, which draws numbers of its own too.
    """
    digest = hashlib.sha256()
    for draw in (source.sample, source.fresh):
        digest.update(np.ascontiguousarray(draw(_DRAWS, np.random.default_rng(0))).tobytes())
    for letters in source.alphabet or ():
        digest.update(np.ascontiguousarray(letters).tobytes())
    return {
        "source": [source.name, source.dimension, source.digest and source.digest()],
        "draws": digest.hexdigest(),
        "seed": run.seed,
        "device": run.device.type,
        "threads": torch.get_num_threads(),
    }


def record_of(method: str, found: Sequence[Finding]) -> Record:
    """A row for each point, in nats and squared errors."""
    rows = []
    for one in found:
        row: dict[str, Any] = {"method": method}
        for name in _NAMES:
            value = getattr(one, name)
            if name in _PAIRS:
                row[f"{name}_low"], row[f"{name}_high"] = value or (None, None)
            else:
                row[name] = str(value) if name == "status" else value
        rows.append(row)
    return Record(tuple(rows))


def findings_of(record: Record) -> list[Finding]:
    """The same back."""
    found = []
    for row in record.rows:
        values = {name: row[name] for name in _NAMES if name not in _PAIRS}
        pairs = {name: _pair(row[f"{name}_low"], row[f"{name}_high"]) for name in _PAIRS}
        found.append(Finding(**values | {"status": Status(row["status"])} | pairs))
    return found


def _pair(low: float | None, high: float | None) -> Interval | None:
    return None if low is None or high is None else (low, high)
