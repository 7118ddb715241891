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
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from numpy.typing import NDArray
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from waterfill.codec.channels import Rounding
from waterfill.codec.gains import QUALITIES
from waterfill.codec.model import Codec, CodecConfig
from waterfill.codec.registry import save_codec
from waterfill.data.crops import CropSource, grown, split_validation
from waterfill.data.images import find_images, load_picture
from waterfill.errors import ImageError, TrainingError
from waterfill.files import write_whole
from waterfill.training.checkpoint import load_checkpoint, save_checkpoint
from waterfill.training.objectives import RateDistortion

__all__ = ["Report", "TrainConfig", "train"]

CHECKPOINT = "checkpoint.safetensors"
WEIGHTS = "codec.safetensors"
METRICS = "metrics.csv"
PRECISIONS = ("auto", "32-true", "bf16-mixed")
_COLUMNS = "step,seconds,learning_rate,loss,bpp,psnr,validation_loss,validation_bpp,validation_psnr"


@dataclass(frozen=True)
class TrainConfig:
    """All that decides a run; two runs with equal configs on one machine are equal.

    Attributes
    ----------
    codec
        Widths.
    steps, batch, crop
        Optimiser steps, crops per step, side of a crop (a multiple of 64).
    learning_rate, warmup, decay
        Peak of Adam's rate, steps of linear warm-up, and the share of the run at its end over
        which the rate falls linearly to zero. Between the two it is constant, so a run can be
        made longer later and resumed.
    clip
        Largest gradient norm.
    ema
        Decay of the averaged weights, which are the ones validated and kept.
    qualities
        Lowest and highest quality trained, drawn uniformly, fractions included.
    precision
        ``32-true``, ``bf16-mixed``, or ``auto``: bfloat16 where the processor multiplies it
        natively.
    seed
        Seed of weights, crops, qualities and noise.
    """

    codec: CodecConfig = field(default_factory=CodecConfig)
    steps: int = 40_000
    batch: int = 8
    crop: int = 128
    learning_rate: float = 1e-3
    warmup: int = 500
    decay: float = 0.3
    clip: float = 1.0
    ema: float = 0.999
    qualities: tuple[float, float] = (float(QUALITIES[0]), float(QUALITIES[-1]))
    precision: str = "auto"
    seed: int = 1

    def __post_init__(self) -> None:
        if self.crop < 64 or self.crop % 64:
            raise TrainingError(f"crop must be a multiple of 64, not {self.crop}")
        for name in ("steps", "batch", "learning_rate", "clip"):
            if not 0 < getattr(self, name) < math.inf:
                raise TrainingError(f"{name} must be positive, not {getattr(self, name)}")
        if not 0 <= self.seed < 1 << 32:
            raise TrainingError(f"seed must lie in 0 … 2^32 − 1, not {self.seed}")
        if not (self.warmup >= 0 and 0 <= self.decay <= 1 and 0 <= self.ema < 1):
            raise TrainingError("warmup, decay and ema can't be negative, nor the last two above 1")
        if self.precision not in PRECISIONS:
            known = ", ".join(PRECISIONS)
            raise TrainingError(f"precision must be one of {known}, not {self.precision}")
        if not QUALITIES[0] <= self.qualities[0] <= self.qualities[1] <= QUALITIES[-1]:
            raise TrainingError(f"qualities must lie in 1 … 8, low first, not {self.qualities}")

    def rate_at(self, step: int) -> float:
        """Learning rate of a step: linear up, flat, linear down."""
        up = (step + 1) / max(1, self.warmup)
        down = (self.steps - step) / max(1.0, self.decay * self.steps)
        return self.learning_rate * min(1.0, up, down)

    def to_dict(self) -> dict[str, Any]:
        """The config as a JSON-able mapping."""
        return asdict(self)


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


class _Validation:
    """Held-back centre crops, measured with hard rounding at three qualities."""

    def __init__(self, paths: list[Path], config: TrainConfig, side: int = 256) -> None:
        low, high = config.qualities
        self.qualities = sorted({low, 0.5 * (low + high), high})
        self.objective = RateDistortion(Rounding())
        self.crops: list[Tensor] = []
        self.unreadable: set[Path] = set()
        for path in paths[:16]:
            try:
                pixels = grown(load_picture(path).pixels, 64)
            except ImageError:
                self.unreadable.add(path)
                continue
            height, width = (min(side, s // 64 * 64) for s in pixels.shape[:2])
            top, left = (pixels.shape[0] - height) // 2, (pixels.shape[1] - width) // 2
            self.crops.append(_tensor(pixels[None, top : top + height, left : left + width]))

    @torch.no_grad()
    def __call__(self, codec: Codec, device: torch.device) -> dict[str, float]:
        result: dict[str, float] = {}
        # Validation draws noise (for z); the training stream must not notice.
        with torch.random.fork_rng():
            torch.manual_seed(0)
            totals = np.zeros(3)
            for quality in self.qualities:
                rows = []
                for crop in self.crops:
                    x = crop.to(device)
                    parts = self.objective(codec, x, torch.full((1,), quality, device=device))
                    rows.append((float(parts.loss), float(parts.bpp), _psnr(float(parts.mse))))
                mean = np.mean(rows, axis=0)
                result[f"bpp@{quality:g}"], result[f"psnr@{quality:g}"] = mean[1], mean[2]
                totals += mean / len(self.qualities)
        result["loss"], result["bpp"], result["psnr"] = totals
        return {name: float(value) for name, value in result.items()}


def _split(paths: list[Path], config: TrainConfig) -> tuple[list[Path], _Validation]:
    """Training files, and the validation of the others; broken files leave neither side empty."""
    training, held_back = split_validation(paths)
    validation = _Validation(held_back, config)
    broken = validation.unreadable
    for path in training:
        if validation.crops:
            break
        validation = _Validation([path], config)
        broken = validation.unreadable = broken | validation.unreadable
        training = [p for p in training if p not in broken and p != path] or [path]
    if not validation.crops:
        raise TrainingError(f"none of the {len(paths)} pictures can be read")
    return training, validation


def _tensor(pixels: NDArray[np.uint8]) -> Tensor:
    nchw = torch.from_numpy(np.ascontiguousarray(pixels)).permute(0, 3, 1, 2)
    return (nchw.float() / 255.0).contiguous(memory_format=torch.channels_last)


def _psnr(mse: float) -> float:
    return -10.0 * math.log10(max(mse, 1e-12))


def _state(codec: Codec, average: AveragedModel, optimiser: torch.optim.Adam) -> dict[str, Tensor]:
    tensors = {f"model.{k}": v for k, v in codec.state_dict().items()}
    tensors |= {f"average.{k}": v for k, v in average.module.state_dict().items()}
    tensors["average_count"] = average.n_averaged
    for index, slots in optimiser.state_dict()["state"].items():
        tensors |= {f"optimiser.{index}.{name}": value for name, value in slots.items()}
    return tensors


def _restore(
    tensors: dict[str, Tensor],
    codec: Codec,
    average: AveragedModel,
    optimiser: torch.optim.Adam,
) -> None:
    def below(prefix: str) -> dict[str, Tensor]:
        return {k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)}

    parameters = list(codec.parameters())
    expected = _state(codec, average, optimiser)
    if any(name.startswith("optimiser.") for name in tensors):
        for index, parameter in enumerate(parameters):
            slot = f"optimiser.{index}."
            expected |= {f"{slot}exp_avg": parameter, f"{slot}exp_avg_sq": parameter}
            expected[f"{slot}step"] = torch.zeros(())
    for name in sorted(expected.keys() | tensors.keys()):
        if name not in tensors or name not in expected:
            raise ValueError(f"{name} is {'missing' if name in expected else 'unknown'}")
        have, want = tensors[name], expected[name]
        if (have.shape, have.dtype) != (want.shape, want.dtype):
            raise ValueError(f"{name} has the wrong shape or type")
    codec.load_state_dict(below("model."))
    average.module.load_state_dict(below("average."))
    average.n_averaged.copy_(tensors["average_count"])
    slots: dict[int, dict[str, Tensor]] = {}
    for name, value in below("optimiser.").items():
        number, slot = name.split(".", 1)
        if slot != "step":
            # The fused optimiser walks through memory: its slots must lie there as the parameter
            # does, and a file has forgotten how that was.
            value = torch.empty_like(parameters[int(number)]).detach().copy_(value)
        slots.setdefault(int(number), {})[slot] = value
    groups = optimiser.state_dict()["param_groups"]
    optimiser.load_state_dict({"state": slots, "param_groups": groups})


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


def train(
    paths: list[str],
    out: str | Path,
    config: TrainConfig,
    *,
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
    plain_optimiser = torch.optim.Adam(codec.parameters(), lr=config.learning_rate, fused=True)
    model, optimiser = fabric.setup(codec, plain_optimiser)
    average = AveragedModel(codec, multi_avg_fn=get_ema_multi_avg_fn(config.ema))  # type: ignore[no-untyped-call]
    average.requires_grad_(False)
    objective = RateDistortion()
    training, validate = _split(pictures, config)
    place = _Progress()
    if resume:
        tensors, facts = load_checkpoint(checkpoint)
        place = _progress_of(facts, config, checkpoint)
        try:
            _restore(tensors, codec, average, plain_optimiser)
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
        tensors = _state(codec, average, plain_optimiser)
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
            x = _tensor(crops).to(fabric.device)
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
