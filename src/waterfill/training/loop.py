"""The training loop: one, for any objective."""

from __future__ import annotations

import ctypes
import json
import math
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from numpy.typing import NDArray
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from waterfill.codec.model import Codec
from waterfill.codec.registry import load_codec, save_codec
from waterfill.codec.transforms import FilteredAnalysis, FilteredSynthesis
from waterfill.data.crops import CropSource
from waterfill.data.images import find_images
from waterfill.errors import TrainingError
from waterfill.files import write_whole
from waterfill.training.checkpoint import (
    capture,
    load_checkpoint,
    restore,
    save_checkpoint,
    trained,
)
from waterfill.training.config import TrainConfig
from waterfill.training.klt import start_from_klt
from waterfill.training.objectives import RateDistortion
from waterfill.training.validation import split, to_batch

__all__ = ["Report", "train"]

CHECKPOINT = "checkpoint.safetensors"
WEIGHTS = "codec.safetensors"
METRICS = "metrics.csv"
_COLUMNS = "step,seconds,learning_rate,loss,bpp,psnr,validation_loss,validation_bpp,validation_psnr"


@dataclass(frozen=True)
class Report:
    """Where a run stands: handed to the progress callback every step."""

    step: int
    steps: int
    loss: float
    bpp: float
    psnr: float
    validation: dict[str, float] | None = None
    note: str | None = None


@dataclass
class _Progress:
    """Where a run stands: what a checkpoint holds besides tensors."""

    step: int = 0
    seconds: float = 0.0
    recent: NDArray[np.float64] | None = None
    shown: dict[str, float] | None = None


def _native_bfloat16() -> bool:
    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    read: Callable[[], dict[str, Any]] = getattr(torch.cpu, "get_capabilities", dict)
    return any(read().get(name) for name in ("avx512_bf16", "amx_bf16"))


def _keep_large_blocks() -> None:
    """Ask glibc to reuse the blocks of large tensors instead of returning them to the kernel.

    Fresh pages are zeroed by the kernel at every step otherwise: a quarter of a step's time.
    """
    if not sys.platform.startswith("linux"):
        return
    try:
        libc = ctypes.CDLL(None)
        trim, top_pad, mmap_threshold = -1, -2, -3
        libc.mallopt(mmap_threshold, 32 << 20)
        libc.mallopt(trim, (1 << 31) - 1)
        libc.mallopt(top_pad, 256 << 20)
    except (OSError, AttributeError):  # another libc: slower, not wrong
        return


@contextmanager
def _deferred_interrupt() -> Iterator[Callable[[], bool]]:
    """Turn the first Ctrl-C or SIGTERM into a flag, so that a step and a checkpoint complete."""
    asked = False

    def ask(*_: object) -> None:
        nonlocal asked
        if asked:
            raise KeyboardInterrupt
        asked = True

    try:
        old = {s: signal.signal(s, ask) for s in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not the main thread: the caller deals with signals
        old = {}
    try:
        yield lambda: asked
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


def _progress_of(facts: dict[str, Any], config: TrainConfig, checkpoint: Path) -> _Progress:
    """Where a checkpoint's run stands, if it is a run of ``config``."""
    try:
        theirs, ours = facts["config"], json.loads(json.dumps(config.to_dict()))
        for name in ours:
            if name != "steps" and theirs[name] != ours[name]:
                raise TrainingError(
                    f"{checkpoint}: made with {name} {theirs[name]}, not {ours[name]}; "
                    "resume with the first run's options"
                )
        recent = None if facts.get("recent") is None else np.array(facts["recent"], dtype=float)
        place = _Progress(int(facts["step"]), float(facts["seconds"]), recent, facts.get("shown"))
        if place.step < 0 or not (recent is None or recent.shape == (3,)):
            raise ValueError("no such step")
    except (KeyError, TypeError, ValueError) as error:
        raise TrainingError(f"{checkpoint}: not a training checkpoint ({error})") from None
    return place


def _rows_until(path: Path, step: int) -> list[str]:
    """Rows of a metrics file that a checkpoint of ``step`` has behind it.

    A run killed between a validation and the next checkpoint leaves rows that it will write again,
    and perhaps half a row.
    """
    rows = []
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()[1:]
    except FileNotFoundError:
        lines = []
    for line in lines:
        try:
            values = [float(value) for value in line.split(",")]
        except ValueError:
            continue
        if len(values) == len(_COLUMNS.split(",")) and values[0] <= step:
            rows.append(line)
    return rows


def _averaged(average: AveragedModel) -> Codec:
    assert isinstance(average.module, Codec)
    return average.module


def _report(
    step: int,
    config: TrainConfig,
    recent: NDArray[np.float64] | None,
    *,
    validation: dict[str, float] | None = None,
    note: str | None = None,
) -> Report:
    loss, bpp, psnr = (math.nan,) * 3 if recent is None else (float(value) for value in recent)
    return Report(step, config.steps, loss, bpp, psnr, validation, note)


def _start_from(codec: Codec, name: str) -> None:
    other = load_codec(name)
    if other.config != codec.config:
        theirs, ours = other.config.to_dict(), codec.config.to_dict()
        raise TrainingError(f"{name}: has the architecture {theirs}, not {ours}")
    codec.load_state_dict(other.state_dict())


def train(
    paths: list[str],
    out: str | Path,
    config: TrainConfig,
    *,
    start: str | None = None,
    resume: bool = False,
    checkpoint_every: int = 500,
    validate_every: int = 1000,
    max_minutes: float = math.inf,
    progress: Callable[[Report], None] = lambda _: None,
) -> Path:
    """Train a codec on photographs, and return the path of its weights.

    The folder ``out`` receives ``checkpoint.safetensors`` (all that resuming needs),
    ``codec.safetensors`` (the averaged weights, for ``load_codec``), ``metrics.csv`` and
    ``config.json``. Ctrl-C finishes the step, checkpoints and returns.

    Parameters
    ----------
    paths
        Picture files, folders or globs.
    out
        Folder of the run.
    config
        All that decides the outcome. When resuming, ``steps`` may differ from the first run's.
    start
        Name or file of a codec of the same architecture, whose weights to start from.
    resume
        Go on from the checkpoint in ``out``.
    checkpoint_every, validate_every
        Steps between checkpoints and between validations.
    max_minutes
        Stop, with a checkpoint, after this time.
    progress
        Called after every step.

    Raises
    ------
    TrainingError
        If ``out`` holds another run, the loss stops being finite, or a checkpoint doesn't fit.
    WaterfillError
        If a file can't be written; the last checkpoint survives.
    ImageError
        If there is nothing to train on.
    """
    out = Path(out)
    pictures = find_images(paths)
    checkpoint = out / CHECKPOINT
    if checkpoint.exists() and not resume:
        raise TrainingError(f"{out}: holds a run already; resume it or choose another folder")
    if resume and not checkpoint.exists():
        raise TrainingError(f"{checkpoint}: no such file, nothing to resume")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise TrainingError(f"{out}: can't be created ({error.strerror})") from None

    _keep_large_blocks()
    precision = config.precision
    if precision == "auto":
        precision = "bf16-mixed" if _native_bfloat16() else "32-true"
    fabric = Fabric(accelerator="auto", devices=1, precision=precision)  # type: ignore[arg-type]
    torch.manual_seed(config.seed)
    codec = Codec(config.codec).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    training, validate = split(pictures, config)
    if start is not None and not resume:
        _start_from(codec, start)
    elif config.codec.klt and not resume:
        start_from_klt(codec, training, seed=config.seed)
    plain_optimiser = torch.optim.Adam(trained(codec), lr=config.learning_rate, fused=True)
    model, optimiser = fabric.setup(codec, plain_optimiser)
    average = AveragedModel(codec, multi_avg_fn=get_ema_multi_avg_fn(config.ema))  # type: ignore[no-untyped-call]
    average.requires_grad_(False)
    objective = RateDistortion()
    place = _Progress()
    if resume:
        tensors, facts = load_checkpoint(checkpoint)
        place = _progress_of(facts, config, checkpoint)
        try:
            restore(tensors, codec, average, plain_optimiser)
        except ValueError as error:
            raise TrainingError(f"{checkpoint}: does not fit this config ({error})") from None
        progress(_report(place.step, config, place.recent, note=f"resumed at step {place.step}"))
    rows = _rows_until(out / METRICS, place.step) if resume else []
    write_whole(out / METRICS, "\n".join([_COLUMNS, *rows, ""]))
    write_whole(
        out / "config.json",
        json.dumps({"data": paths, "precision": precision, **config.to_dict()}, indent=2) + "\n",
    )

    source = CropSource(training, size=config.crop, seed=config.seed)
    began = time.monotonic()
    step = place.step
    recent, shown = place.recent, place.shown
    saved = -1

    def seconds() -> float:
        return place.seconds + time.monotonic() - began

    def diverged(what: str) -> TrainingError:
        last = f"the last good checkpoint is {checkpoint}"
        if not checkpoint.exists():
            last = "there is no checkpoint yet"
        return TrainingError(f"{what} at step {step}; {last}")

    def save() -> None:
        nonlocal saved
        tensors = capture(codec, average, plain_optimiser)
        if not all(bool(t.isfinite().all()) for t in tensors.values()):
            raise diverged("a weight stopped being finite")
        facts = {
            "step": step,
            "seconds": seconds(),
            "recent": None if recent is None else recent.tolist(),
            "shown": shown,
            "config": config.to_dict(),
        }
        save_checkpoint(checkpoint, tensors, facts)
        provenance = {
            "steps": str(step),
            "seconds": f"{seconds():.0f}",
            "training": json.dumps(config.to_dict()),
            "validation": json.dumps(shown),
        }
        save_codec(_averaged(average), out / WEIGHTS, provenance)
        saved = step

    with _deferred_interrupt() as interrupted:
        for crops in source.batches(step, config.batch):
            if step >= config.steps or interrupted() or time.monotonic() - began > 60 * max_minutes:
                break
            # Everything random in a step comes from (seed, step): resuming needs no RNG state.
            torch.manual_seed(config.seed * 1_000_003 + step)
            for group in plain_optimiser.param_groups:
                group["lr"] = config.rate_at(step)
            for module in codec.modules():
                if isinstance(module, FilteredAnalysis | FilteredSynthesis):
                    module.linear_only = step < config.linear_steps
            x = to_batch(crops).to(fabric.device)
            low, high = config.qualities
            quality = low + (high - low) * torch.rand(len(x)).to(fabric.device)
            # Not through ``model``, which would round the qualities to bfloat16 too.
            with fabric.autocast():
                parts = objective(codec, x, quality)
            value = float(parts.loss.detach())
            if not math.isfinite(value):
                raise diverged(f"the loss is {value}")
            fabric.backward(parts.loss)
            norm = fabric.clip_gradients(
                model, optimiser, max_norm=config.clip, error_if_nonfinite=False
            )
            if norm is not None and not math.isfinite(float(norm)):
                raise diverged(f"the gradient is {float(norm)}")
            optimiser.step()
            optimiser.zero_grad()
            if step < 2 * config.warmup:  # weights this young are not worth remembering
                average.n_averaged.zero_()
            average.update_parameters(codec)
            step += 1
            with torch.no_grad():
                psnr = float((-10.0 * torch.log10(parts.mse)).mean())
                now = np.array([value, float(parts.bpp.mean()), psnr])
            recent = now if recent is None else 0.98 * recent + 0.02 * now
            fresh = None
            if step % validate_every == 0 or step == config.steps:
                shown = fresh = validate(_averaged(average), fabric.device)
                row = [seconds(), config.rate_at(step - 1), *recent]
                row += [fresh["loss"], fresh["bpp"], fresh["psnr"]]
                rows.append(",".join([str(step), *(f"{value:.6g}" for value in row)]))
                write_whole(out / METRICS, "\n".join([_COLUMNS, *rows, ""]))
            if step % checkpoint_every == 0:
                save()
            progress(_report(step, config, recent, validation=fresh))
        if saved != step:
            save()
    unreadable = source.unreadable | validate.unreadable
    if unreadable:
        note = f"{len(unreadable)} unreadable files were skipped"
        progress(_report(step, config, recent, note=note))
    return out / WEIGHTS
