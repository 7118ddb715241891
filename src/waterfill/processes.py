"""The processes that a launcher has started, as Lightning Fabric arranges them."""

from __future__ import annotations

import atexit
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from lightning_fabric import Fabric

__all__ = ["Processes", "connect", "is_first", "launched", "leave", "place"]

#: How long a process waits for others: torch's default in training; after measuring its share of
#: the pictures, as long as theirs may take.
_STEP, _SHARE = timedelta(minutes=30), timedelta(days=30)


def launched() -> tuple[int, int]:
    """Processes on this machine, and on all machines together.

    ``torchrun`` and its kin say so in the environment; without them there is one.
    """
    return int(os.environ.get("LOCAL_WORLD_SIZE", 1)), int(os.environ.get("WORLD_SIZE", 1))


def place() -> int:
    """Which of the processes on this machine it is, from 0."""
    return int(os.environ.get("LOCAL_RANK", 0))


def is_first() -> bool:
    """Whether this process is the one that speaks and writes results."""
    return int(os.environ.get("RANK", 0)) == 0


def connect(
    *,
    accelerator: str = "auto",
    precision: str = "32-true",
    partial: bool = False,
    patience: timedelta = _STEP,
) -> Fabric:
    """All processes that were started, once they have found each other.

    Parameters
    ----------
    accelerator, precision
        As for Fabric.
    partial
        Whether a training step may leave parameters without a gradient.
    patience
        How long a process waits for another before it gives up.
    """
    # Takes seconds to import; most commands are one process and do without.
    from lightning_fabric import Fabric
    from lightning_fabric.strategies.ddp import DDPStrategy

    here, world = launched()
    strategy: Any = "auto"
    if world > 1:
        strategy = DDPStrategy(find_unused_parameters=partial, timeout=patience)
    with _without_news(logging.getLogger("lightning_fabric")):
        fabric = Fabric(
            accelerator=accelerator,
            devices=here,
            num_nodes=max(1, world // here),
            strategy=strategy,
            precision=precision,  # type: ignore[arg-type]
        )
        fabric.launch()
    if world > 1:
        atexit.register(_part)
    return fabric


@contextmanager
def _without_news(logger: logging.Logger) -> Iterator[None]:
    """Warnings only: Fabric also reports the chosen precision at every start."""
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(level)


def _part() -> None:
    """Leave the others: threads still connected at interpreter exit would abort it."""
    from torch import distributed

    # Fabric does so itself where GPUs are connected.
    if distributed.is_initialized() and distributed.get_backend() == "gloo":
        distributed.destroy_process_group()


def leave(code: int) -> NoReturn:
    """End this process with an exit code, once all is done that was to be done at its end.

    Where it is one of several, the interpreter is not taken apart: threads that connected it to the
    others can outlive their group, and what is destroyed around them would abort the process.
    """
    if launched()[1] > 1:
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


@dataclass(frozen=True)
class Processes:
    """This process among those that share its work.

    Attributes
    ----------
    rank, world
        Which one it is, from 0, and how many there are.
    fabric
        What connects them; None of one alone.
    """

    rank: int = 0
    world: int = 1
    fabric: Fabric | None = None

    @classmethod
    def meet(cls) -> Processes:
        """Those of the launcher, on processors; one alone where there is none."""
        if launched()[1] == 1:
            return cls()
        fabric = connect(accelerator="cpu", patience=_SHARE)
        return cls(fabric.global_rank, fabric.world_size, fabric)

    def sum(self, values: NDArray[np.int64]) -> NDArray[np.int64]:
        """Sum over all processes, of an array that has one shape in all of them.

        None returns before the last has called it.
        """
        if self.fabric is None:
            return values
        import torch

        summed = self.fabric.all_reduce(torch.from_numpy(values.copy()), reduce_op="sum")
        assert isinstance(summed, torch.Tensor)
        found: NDArray[np.int64] = summed.numpy()
        return found
