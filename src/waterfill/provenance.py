"""What a number came from: command, versions, revision, machine class, seed, date."""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import waterfill
from waterfill.processes import launched

__all__ = ["environment", "identity", "revision"]

_PACKAGES = ("torch", "numpy", "constriction", "pillow", "lightning-fabric")
#: What figures are computed by.
_COMPUTING = ("torch", "numpy", "scipy", "constriction", "pillow", "pytorch-msssim", "scikit-image")
#: Folders of this package that show figures and compute none.
_SHOWING = ("report", "cli")


def revision() -> str | None:
    """Git revision of the source tree; None if it is in no repository.

    It ends in ``-dirty`` where something of the package or a script beside it has changed. Pages
    and stored results compute nothing: they may.
    """
    source = Path(waterfill.__file__).resolve().parent
    try:
        # A package installed inside some other repository is not described by it.
        _git(source, "ls-files", "--error-unmatch", "__init__.py")
        found = _git(source, "describe", "--always", "--abbrev=12").strip()
        changed = _git(source, "diff", "--name-only", "HEAD", "--", ".", ":/*.py")
    except (OSError, subprocess.SubprocessError):
        return None
    return found + "-dirty" * bool(changed)


def _git(folder: Path, *arguments: str) -> str:
    asked = ["git", "-C", str(folder), *arguments]
    return subprocess.run(asked, check=True, capture_output=True, timeout=10, text=True).stdout


@cache
def identity() -> dict[str, str]:
    """What decides a figure beside codec, settings and pictures: versions, and this very code.

    ``code`` is the SHA-256 of the package's modules, without those that only show figures: a
    version's number stays the same while somebody works on it.
    """
    folder = Path(waterfill.__file__).resolve().parent
    digest = hashlib.sha256()
    for file in sorted(folder.rglob("*.py")):
        where = file.relative_to(folder)
        if where.parts[0] not in _SHOWING:
            digest.update(f"{where.as_posix()}\0{file.stat().st_size}\0".encode())
            digest.update(file.read_bytes())
    return {"waterfill": waterfill.__version__, "code": digest.hexdigest(), **_versions(_COMPUTING)}


def _versions(packages: Sequence[str]) -> dict[str, str]:
    """Of those that are installed."""
    found = {}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:  # seen as a module on the path, without metadata
            continue
    return found


def _program() -> str:
    """What was called; ``python -m`` names a file that says nothing."""
    name = Path(sys.argv[0]).name
    return "waterfill" if name == "__main__.py" else name


def environment(seed: int) -> dict[str, Any]:
    """What a number depends on besides the codec, as a JSON-able mapping."""
    import torch

    own = {"python": platform.python_version(), "waterfill": waterfill.__version__}
    versions = own | _versions(_PACKAGES)
    devices = [torch.cuda.get_device_name(k) for k in range(torch.cuda.device_count())]
    return {
        "command": " ".join([_program(), *sys.argv[1:]]),
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "seed": seed,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()}",
        "devices": devices,
        "processes": launched()[1],
        "threads": torch.get_num_threads(),
        "revision": revision(),
        "versions": versions,
    }
