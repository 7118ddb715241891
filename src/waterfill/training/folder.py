"""The folder of a run: what it is, how it goes, where it stands."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from waterfill.errors import TrainingError
from waterfill.files import held, make_folder, remove_remains, write_whole
from waterfill.processes import is_first
from waterfill.training.config import TrainConfig

__all__ = ["RunFolder"]

_COLUMNS = (
    "step",
    "seconds",
    "waited_seconds",
    "learning_rate",
    "loss",
    "bpp",
    "psnr",
    "prior_bpp",
    "source_bits",
    "lambda_share",
    "validation_loss",
    "validation_bpp",
    "validation_psnr",
    "validation_prior_bpp",
)


class RunFolder:
    """Paths and records of one run.

    ==========================  ===============================================================
    ``run.toml``                the config, ready to be run again
    ``provenance.json``         for each start: command, seed, revision, versions, machine, data
    ``checkpoint.safetensors``  all that going on needs
    ``codec.safetensors``       the averaged weights, for ``load_codec``
    ``metrics.csv``             one row for each validation
    ``tensorboard/``            the same for TensorBoard
    ``lock``                    held by the process that writes here, empty
    ==========================  ===============================================================

    Parameters
    ----------
    path
        The folder; made when the run begins.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.checkpoint = path / "checkpoint.safetensors"
        self.weights = path / "codec.safetensors"
        self.metrics = path / "metrics.csv"
        self.config = path / "run.toml"
        self.provenance = path / "provenance.json"
        self.lock = path / "lock"
        self._rows: list[str] = []
        self._board: Any = None

    @property
    def files(self) -> tuple[Path, ...]:
        """Those above, but for TensorBoard's."""
        records = (self.config, self.provenance, self.metrics, self.lock)
        return (self.checkpoint, self.weights, *records)

    @property
    def began_with(self) -> str | None:
        """Identity of the weights that the run started from; None if of none, or unknown."""
        try:
            return str(self._starts()[0]["start"]["weights"])
        except (IndexError, KeyError, TypeError):
            return None

    @contextmanager
    def claimed(self, *, resume: bool) -> Iterator[None]:
        """Hold the folder exclusively; it must hold a run if ``resume``, else none.

        Where a launcher has started several processes, the first holds it for all.

        Raises
        ------
        TrainingError
            If it does not, or if another process is training into it.
        WaterfillError
            If it can't be made or written.
        """
        if resume and not self.checkpoint.exists():
            raise TrainingError(f"{self.checkpoint}: no such file, nothing to resume")
        make_folder(self.path)
        with held(self.lock) if is_first() else nullcontext(True) as free:
            if not free:
                raise TrainingError(
                    f"{self.path}: another process trains into it; stop it or choose another folder"
                )
            # Not before: the other one may just have finished.
            if self.checkpoint.exists() and not resume:
                raise TrainingError(
                    f"{self.path}: holds a run already; resume it or choose another folder"
                )
            if is_first():
                remove_remains(self.path)  # a checkpoint may be as large as the disk that is left
            yield

    def check(self, config: TrainConfig) -> None:
        """Check that the config can be written down.

        Raises
        ------
        TrainingError
            If a path in it is not UTF-8, as TOML is.
        """
        try:
            config.to_toml().encode()
        except UnicodeEncodeError:
            raise TrainingError("paths that are not UTF-8 have no place in run.toml") from None

    def begin(self, config: TrainConfig, origin: Mapping[str, Any], step: int) -> None:
        """Write what the run is, and drop what it has not reached yet from the records."""
        starts = self._starts() if self.checkpoint.exists() else []
        self._rows = self._rows_until(step) if step else []
        write_whole(self.config, config.to_toml())
        text = json.dumps({"starts": [*starts, {"step": step, **origin}]}, indent=2)
        write_whole(self.provenance, text + "\n")
        self._write_rows()
        with self._dispensable():
            from tensorboardX import SummaryWriter

            self._board = SummaryWriter(
                str(self.path / "tensorboard"), purge_step=step + 1 if step else 0
            )

    def record(self, step: int, values: Mapping[str, float]) -> None:
        """Add a row; ``values`` has one for each column but the first."""
        cells = [f"{values[name]:.6g}" for name in _COLUMNS[1:]]
        self._rows.append(",".join([str(step), *cells]))
        self._write_rows()
        with self._dispensable():
            if self._board is None:
                return
            for name in _COLUMNS[3:]:
                if math.isnan(values[name]):  # of another objective
                    continue
                held_back = name.startswith("validation_")
                tag = f"held back/{name[11:]}" if held_back else f"training/{name}"
                self._board.add_scalar(tag, values[name], step)
            self._board.flush()

    def close(self) -> None:
        """Finish the records."""
        with self._dispensable():
            if self._board is not None:
                self._board.close()

    @contextmanager
    def _dispensable(self) -> Iterator[None]:
        """Give TensorBoard's files up where they can't be: ``metrics.csv`` holds the same."""
        try:
            yield
        except (ImportError, OSError):
            self._board = None

    def _write_rows(self) -> None:
        write_whole(self.metrics, "\n".join([",".join(_COLUMNS), *self._rows, ""]))

    def _starts(self) -> list[Any]:
        try:
            starts = json.loads(self.provenance.read_text(encoding="utf-8"))["starts"]
        except (OSError, ValueError, KeyError, TypeError):
            return []
        return starts if isinstance(starts, list) else []

    def _rows_until(self, step: int) -> list[str]:
        """Rows that a checkpoint of ``step`` has behind it.

        A run killed between a validation and the next checkpoint leaves rows that it will write
        again, and perhaps half a row.
        """
        rows = []
        try:
            lines = self.metrics.read_text(encoding="utf-8", errors="replace").splitlines()[1:]
        except FileNotFoundError:
            lines = []
        for line in lines:
            try:
                values = [float(value) for value in line.split(",")]
            except ValueError:
                continue
            if len(values) == len(_COLUMNS) and values[0] <= step:
                rows.append(line)
        return rows
