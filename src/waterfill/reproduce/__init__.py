"""Figures and tables of the papers, computed again, with our numbers beside theirs."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from types import MappingProxyType

from waterfill.data.sets import in_both
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
    "WITHOUT_PICTURES",
    "WITHOUT_TRAINING",
    "Line",
    "Reproduction",
    "Request",
    "Table",
    "Verdict",
    "check_request",
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

#: Those that measure no pictures, and those that train nothing either.
WITHOUT_PICTURES = ("fig2", "table1", "table2", "appendix-d", "paper2-table2")
WITHOUT_TRAINING = (*WITHOUT_PICTURES, "fig3")


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
        As :func:`check_request`, and if what it needs is missing.
    """
    check_request(name, request)
    return REPRODUCTIONS[name](request)


def check_request(name: str, request: Request) -> None:
    """Fail before the work if it can't be asked for.

    Raises
    ------
    WaterfillError
        If nothing has this name, it has no such scale, it has no use for what is given, or a file
        is to be both measured and trained on.
    ImageError
        If nothing is found where a path points.
    """
    if name not in REPRODUCTIONS:
        raise WaterfillError(f"{name}: no such figure or table ({', '.join(REPRODUCTIONS)})")
    if request.scale == "night" and name not in OVERNIGHT:
        raise WaterfillError(f"{name}: has no scale night, which is for {', '.join(OVERNIGHT)}")
    if request.pictures and name in WITHOUT_PICTURES:
        raise WaterfillError(f"{name}: measures no pictures; leave them out")
    if request.photographs and name in WITHOUT_TRAINING:
        raise WaterfillError(f"{name}: trains nothing; leave --train out")
    files = [one for one in request.pictures if isinstance(one, str | os.PathLike)]
    both = in_both(files, request.photographs)
    if both:
        more = f" ({len(both) - 1} more like it)" if len(both) > 1 else ""
        raise WaterfillError(
            f"{both[0]}: is measured and would be trained on{more}; leave it out of one of them"
        )
