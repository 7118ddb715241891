"""Numbers and names as people read them."""

from __future__ import annotations

import json
import math
import re
from pathlib import PurePath
from typing import Any

__all__ = ["base_name", "number", "provenance", "setting", "slug"]


def number(value: float | None, digits: int = 4, *, sign: bool = False) -> str:
    """A number with fixed digits and a true minus sign; a dash where there is none."""
    if value is None or not math.isfinite(value):
        return "—"
    return f"{value:{'+' if sign else ''}.{digits}f}".replace("-", "−")


def slug(text: str) -> str:
    """Text as a CSS class."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def base_name(name: str) -> str:
    """The last part of a path; a name that is no path stays as it is."""
    return PurePath(name).name or name


def provenance(environment: dict[str, Any]) -> list[tuple[str, str]]:
    """The environment as pairs of text, versions in one line; lists of nothing left out."""
    return [(name, _said(value)) for name, value in environment.items() if value != []]


def _said(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {text}" for key, text in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


#: Parts of a setting that go without saying.
_UNSAID = {"effort": 0, "trellis": False}


def setting(text: str) -> str:
    """What an encoder was told, JSON in a row, as people read it."""
    values = json.loads(text)
    return ", ".join(
        f"{name} {value}"
        for name, value in values.items()
        if name != "tile" and not (name in _UNSAID and _UNSAID[name] == value)
    )
