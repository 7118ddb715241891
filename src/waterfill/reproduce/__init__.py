"""Figures and tables of the papers, computed again, with our numbers beside theirs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from waterfill.errors import WaterfillError
from waterfill.reproduce.architectures import table1, table2
from waterfill.reproduce.by_theory import appendix_d, fig2
from waterfill.reproduce.comparison import fig5a
from waterfill.reproduce.digits import fig5c
from waterfill.reproduce.on_pictures import appendix_g, fig3, fig4a, fig4b, fig4b_ms_ssim
from waterfill.reproduce.regularisation import REGULARISATION
from waterfill.reproduce.result import Line, Reproduction, Request, Table, Verdict

__all__ = [
    "OVERNIGHT",
    "REPRODUCTIONS",
    "Line",
    "Reproduction",
    "Request",
    "Table",
    "Verdict",
    "reproduce",
]

#: By name: what computes it.
REPRODUCTIONS: Mapping[str, Callable[[Request], Reproduction]] = MappingProxyType(
    {
        "fig2": fig2,
        "fig3": fig3,
        "fig4a": fig4a,
        "fig4b": fig4b,
        "fig4b-ms-ssim": fig4b_ms_ssim,
        "fig5a": fig5a,
        "fig5c": fig5c,
        "table1": table1,
        "table2": table2,
        "appendix-d": appendix_d,
        "appendix-g": appendix_g,
        **REGULARISATION,
    }
)

#: Those with a scale between minutes on two cores and a GPU.
OVERNIGHT = ("fig5c",)


def reproduce(name: str, request: Request) -> Reproduction:
    """Compute a figure or table again.

    Parameters
    ----------
    name
        One of :data:`REPRODUCTIONS`.
    request
        What it works with.

    Raises
    ------
    WaterfillError
        If nothing has this name, it has no such scale, or what it needs is missing.
    """
    if name not in REPRODUCTIONS:
        raise WaterfillError(f"{name}: can't be reproduced ({', '.join(REPRODUCTIONS)})")
    if request.scale == "night" and name not in OVERNIGHT:
        raise WaterfillError(f"{name}: has no scale night, which is for {', '.join(OVERNIGHT)}")
    return REPRODUCTIONS[name](request)
