"""Pages: a template of this package filled in, everything it shows inside."""

from __future__ import annotations

from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from waterfill.report.figures import DARK, GENIE
from waterfill.report.text import base_name, number, setting, slug

__all__ = ["fill"]


def fill(template: str, **content: Any) -> str:
    """The text of one self-contained HTML file.

    Parameters
    ----------
    template
        Name of a template beside this module.
    content
        What it shows, beside the script for figures and their dark colours.
    """
    environment = Environment(
        loader=PackageLoader("waterfill.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": number, "slug": slug, "base_name": base_name}
    environment.filters["setting"] = setting
    return environment.get_template(template).render(
        GENIE=GENIE,
        dark=DARK,
        # Trusted: the script that the plotly package ships.
        plotly_js=Markup(get_plotlyjs()),
        **content,
    )
