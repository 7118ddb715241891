"""Paper 2: what the information-theoretic regulariser does, seed by seed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from waterfill.reproduce.regularisation.baselines import fig6, table3
from waterfill.reproduce.regularisation.gains import fig3, fig4, table1
from waterfill.reproduce.regularisation.overhead import table2
from waterfill.reproduce.regularisation.weights import annealed, bundled, fig5, fig8
from waterfill.reproduce.result import Reproduction, Request

__all__ = ["REGULARISATION"]

#: By name: what computes it. The last two go beyond the paper.
REGULARISATION: Mapping[str, Callable[[Request], Reproduction]] = MappingProxyType(
    {
        "paper2-fig3": fig3,
        "paper2-fig4": fig4,
        "paper2-fig5": fig5,
        "paper2-fig6": fig6,
        "paper2-fig8": fig8,
        "paper2-table1": table1,
        "paper2-table2": table2,
        "paper2-table3": table3,
        "paper2-annealed": annealed,
        "paper2-bundled": bundled,
    }
)
