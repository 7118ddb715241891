"""What a number came from: command, versions, revision, machine class, seed, date."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import waterfill

__all__ = ["environment", "revision"]

_PACKAGES = ("torch", "numpy", "constriction", "pillow", "lightning-fabric")


def revision() -> str | None:
    """Git revision of the source tree, ``-dirty`` if changed; None if it is in no repository."""
    source = Path(waterfill.__file__).resolve().parent
    try:
        # A package installed inside some other repository is not described by it.
        asked = ["git", "-C", str(source), "ls-files", "--error-unmatch", "__init__.py"]
        subprocess.run(asked, check=True, capture_output=True, timeout=10)
        asked = ["git", "-C", str(source), "describe", "--always", "--dirty", "--abbrev=12"]
        done = subprocess.run(asked, check=True, capture_output=True, timeout=10, text=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None


def _program() -> str:
    """What was called; ``python -m`` names a file that says nothing."""
    name = Path(sys.argv[0]).name
    return "waterfill" if name == "__main__.py" else name


def environment(seed: int) -> dict[str, Any]:
    """What a number depends on besides the codec, as a JSON-able mapping."""
    import torch

    versions = {"python": platform.python_version(), "waterfill": waterfill.__version__}
    for package in _PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:  # seen as a module on the path, without metadata
            continue
    devices = [torch.cuda.get_device_name(k) for k in range(torch.cuda.device_count())]
    return {
        "command": " ".join([_program(), *sys.argv[1:]]),
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "seed": seed,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()}",
        "devices": devices,
        "threads": torch.get_num_threads(),
        "revision": revision(),
        "versions": versions,
    }
