"""Figures and tables of the papers, computed again, with our numbers beside theirs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from waterfill.reproduce.architectures import table1, table2
from waterfill.reproduce.by_theory import appendix_d, fig2
from waterfill.reproduce.comparison import fig5a
from waterfill.reproduce.digits import fig5c
from waterfill.reproduce.on_pictures import appendix_g, fig3, fig4a, fig4b, fig4b_ms_ssim
from waterfill.reproduce.regularisation import REGULARISATION
from waterfill.reproduce.result import Line, Reproduction, Request, Table, Verdict

__all__ = [
    "REPRODUCTIONS",
    "Line",
    "Reproduction",
    "Request",
    "Table",
    "Verdict",
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
