"""An extension of the documentation's builder: each parameter has its own type and default.

Where a docstring describes several parameters together, the builder would give all of them the
type and the default of the first.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import griffe


class OwnTypes(griffe.Extension):
    """Types and defaults from signatures, parameter by parameter."""

    def on_package(self, *, pkg: griffe.Module, **_: Any) -> None:
        """Mend what is to be shown, once all of the package is read."""
        for described in _described(pkg):
            for section in described.docstring.parsed:
                if isinstance(section, griffe.DocstringSectionParameters):
                    for shown in section.value:
                        if shown.name in described.parameters:
                            own = described.parameters[shown.name]
                            shown.annotation, shown.value = own.annotation, own.default


def _described(parent: griffe.Module | griffe.Class) -> Iterator[Any]:
    """Functions, and classes with an ``__init__`` of their own, that have a docstring."""
    for member in parent.members.values():
        if member.is_alias:
            continue
        signed = isinstance(member, griffe.Function) or "__init__" in member.members
        if signed and member.docstring is not None:
            yield member
        if isinstance(member, griffe.Class | griffe.Module):
            yield from _described(member)
