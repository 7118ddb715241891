"""A queue of runs: whatever is unfinished goes on, the most urgent first, until time is up."""

from __future__ import annotations

import glob
import graphlib
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from waterfill.codec.registry import load_codec
from waterfill.errors import CodecError, Interrupted, TrainingError
from waterfill.files import make_folder, write_whole
from waterfill.training.checkpoint import load_facts
from waterfill.training.config import TrainConfig, parse_toml
from waterfill.training.folder import RunFolder
from waterfill.training.loop import Report, train
from waterfill.training.presets import PRESETS

__all__ = [
    "PIECE_BYTES",
    "Experiment",
    "Outcome",
    "began_with_others",
    "hand_back",
    "load_experiments",
    "steps_done",
    "work_through",
]

#: Largest piece of handed-back weights.
PIECE_BYTES = 16_000_000
#: With less time left, a run would do no more than start up.
_LEAST_MINUTES = 0.5


@dataclass(frozen=True)
class Experiment:
    """One file of a queue.

    ::

        preset = "mini-paper1-hyperprior-q4"   # optional: what the fields below change
        priority = 10                          # the highest goes first; ties by name
        after = "baseline"                     # optional: wait until that one is finished
        steps = 5000                           # any field of TrainConfig
        [codec]
        n = 32

    Attributes
    ----------
    name
        The file's stem, and the run's folder.
    priority
        The highest goes first.
    after
        Name of an experiment that has to be finished before; its weights are where this one
        starts, unless the config says otherwise.
    config
        What is run.
    """

    name: str
    priority: float
    after: str | None
    config: TrainConfig


@dataclass(frozen=True)
class Outcome:
    """Where an experiment stands when time is up; ``stopped_by`` is the number of a signal."""

    name: str
    step: int
    steps: int
    note: str
    stopped_by: int | None = None

    @property
    def finished(self) -> bool:
        """Whether all steps are done."""
        return self.step >= self.steps


def load_experiments(folder: str | Path) -> list[Experiment]:
    """The experiments of a folder, in order.

    Raises
    ------
    TrainingError
        If the folder holds none, one of them can't be read or isn't an experiment, or some wait
        for each other.
    """
    files = sorted(Path(folder).glob("*.toml"))
    if not files:
        raise TrainingError(f"{folder}: no experiments (*.toml)")
    found = [_experiment(file) for file in files]
    names = {experiment.name for experiment in found}
    for experiment in found:
        if experiment.after is not None and experiment.after not in names:
            raise TrainingError(f"{experiment.name}: waits for {experiment.after}, not in {folder}")
    try:
        graphlib.TopologicalSorter({e.name: [e.after] if e.after else [] for e in found}).prepare()
    except graphlib.CycleError as error:
        circle = " after ".join(error.args[1][::-1])
        raise TrainingError(f"{folder}: experiments wait in a circle ({circle})") from None
    return sorted(found, key=lambda e: (-e.priority, e.name))


def _experiment(file: Path) -> Experiment:
    try:
        values = parse_toml(file.read_text(encoding="utf-8"), str(file))
    except (OSError, UnicodeDecodeError) as error:
        raise TrainingError(f"{file}: can't be read ({error})") from None
    preset, priority = values.pop("preset", None), values.pop("priority", 0)
    after = values.pop("after", None)
    if preset is not None and not (isinstance(preset, str) and preset in PRESETS):
        raise TrainingError(f"{file}: there is no preset {preset}")
    number = isinstance(priority, int | float) and not isinstance(priority, bool)
    if not (number and abs(priority) < 2**53):
        raise TrainingError(f"{file}: priority must be a number, not {priority!r}")
    if after is not None and not isinstance(after, str):
        raise TrainingError(f"{file}: after must be a name, not {after!r}")
    base = TrainConfig() if preset is None else PRESETS[preset]
    return Experiment(file.stem, priority, after, base.with_values(values, label=str(file)))


def steps_done(folder: RunFolder) -> int:
    """Steps that a run has behind it; 0 where none was begun.

    Raises
    ------
    TrainingError
        If its checkpoint isn't one.
    """
    if not folder.checkpoint.exists():
        return 0
    step = load_facts(folder.checkpoint).get("step")
    if not isinstance(step, int):
        raise TrainingError(f"{folder.checkpoint}: not a training checkpoint (no step)")
    return step


def began_with_others(folder: RunFolder, start: str) -> bool:
    """Whether a run is known to have begun with other weights than a codec, or file, now has."""
    if not start or folder.began_with is None:
        return False
    try:
        return load_codec(start).weights_id.hex() != folder.began_with
    except CodecError:  # what is no more can't have changed
        return False


def work_through(
    experiments: Sequence[Experiment],
    out: str | Path,
    *,
    data: Sequence[str] = (),
    max_minutes: float = math.inf,
    progress: Callable[[str, Report], None] = lambda name, report: None,
) -> list[Outcome]:
    """Run what is unfinished until time is up.

    An experiment that fails is reported, and the next one begins; Ctrl-C or SIGTERM leaves a
    checkpoint and ends the queue. A run that began with weights of its ``after`` that have changed
    since is not trained again; its note says so.

    Parameters
    ----------
    experiments
        The runs, most urgent first.
    out
        Folder of the runs' folders.
    data
        Pictures for experiments that name none.
    max_minutes
        Time for all of them together.
    progress
        Called with the experiment's name and a report, after every step.
    """
    ends = time.monotonic() + 60 * max_minutes
    waiting = list(experiments)
    outcomes: dict[str, Outcome] = {}
    stopped = False

    def ready(experiment: Experiment) -> bool:
        before = experiment.after
        return before is None or (before in outcomes and outcomes[before].finished)

    while waiting:
        experiment = next((e for e in waiting if ready(e)), None)
        if experiment is None:
            for left in waiting:
                note = f"waits for {left.after}"
                outcomes[left.name] = Outcome(left.name, 0, left.config.steps, note)
            break
        waiting.remove(experiment)
        config = experiment.config
        if not config.data:
            config = config.with_values({"data": list(data)})
        outcome = _go_on(experiment, config, Path(out), ends, progress, stopped=stopped)
        stopped = stopped or outcome.stopped_by is not None
        outcomes[experiment.name] = outcome
    return [outcomes[e.name] for e in experiments]


def _go_on(
    experiment: Experiment,
    config: TrainConfig,
    out: Path,
    ends: float,
    progress: Callable[[str, Report], None],
    *,
    stopped: bool,
) -> Outcome:
    """Run one experiment as far as time allows; what keeps or stops it is in the outcome."""
    folder = RunFolder(out / experiment.name)
    step, note = 0, ""
    stopped_by: int | None = None
    try:
        if experiment.after is not None and not config.start:
            start = RunFolder(out / experiment.after).weights
            config = config.with_values({"start": str(start)})
        step = steps_done(folder)
        minutes = (ends - time.monotonic()) / 60
        if step >= config.steps:
            note = "finished before"
        elif stopped:
            note = "stopped before its turn"
        elif minutes < _LEAST_MINUTES:
            note = "no time left"
        else:
            train(
                config,
                folder.path,
                resume=folder.checkpoint.exists(),
                max_minutes=minutes,
                progress=partial(progress, experiment.name),
            )
            step = steps_done(folder)
        if not experiment.config.start and began_with_others(folder, config.start):
            said = f"began with other weights than {experiment.after} has now"
            note = f"{note}; {said}" if note else said
    except Interrupted as stop:
        stopped_by = stop.number
        step = steps_done(folder)
    except Exception as error:
        # The next run has its own data, start and size, and may succeed.
        reason = " ".join(str(error).split()) or type(error).__name__
        note = f"failed: {reason}"
        torch.cuda.empty_cache()
    return Outcome(experiment.name, step, config.steps, note, stopped_by)


def hand_back(runs: str | Path, out: str | Path, *, piece_bytes: int = PIECE_BYTES) -> list[Path]:
    """Copy weights and records of all runs, weights in pieces of at most ``piece_bytes``.

    ``NAME.safetensors.000``, ``.001`` … concatenated are the weights of run ``NAME``.

    Returns
    -------
    list of Path
        The files written.

    Raises
    ------
    WaterfillError
        If ``out`` can't be written to.
    """
    written = []
    make_folder(Path(out))
    for weights in sorted(Path(runs).glob("*/codec.safetensors")):
        folder = RunFolder(weights.parent)
        content = weights.read_bytes()
        for k in range(0, max(1, len(content)), piece_bytes):
            target = Path(out) / f"{folder.path.name}.safetensors.{k // piece_bytes:03d}"
            write_whole(target, content[k : k + piece_bytes])
            written.append(target)
        for stale in Path(out).glob(f"{glob.escape(folder.path.name)}.safetensors.*"):
            if stale not in written:  # of larger weights, handed back before
                stale.unlink()
        for record in (folder.metrics, folder.config, folder.provenance):
            if record.exists():
                target = Path(out) / f"{folder.path.name}.{record.name}"
                write_whole(target, record.read_bytes())
                written.append(target)
    return written
