"""A hook of the documentation's builder: the roles of docstrings become plain code."""

from __future__ import annotations

import re
from typing import Any

#: ``:class:`~waterfill.ladder.Ladder``` as Markdown leaves it.
_ROLE = re.compile(r":(?:class|func|meth|data|attr|mod):<code>~?(?:\.+|[\w.]*\.)?(\w+)</code>")


def on_post_page(output: str, **_: Any) -> str:
    """Roles to code, and no colons in front of what is shown as it stands."""
    return _ROLE.sub(r"<code>\1</code>", output).replace("<p>::</p>", "").replace("::</p>", ":</p>")
