"""The training loop: one, for any objective, on one process or many."""

from __future__ import annotations

import json
import math
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from lightning_fabric import Fabric
from numpy.typing import NDArray
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from waterfill.allocator import keep_large_blocks
from waterfill.codec.model import Codec
from waterfill.codec.registry import save_codec
from waterfill.codec.transforms import FilteredAnalysis, FilteredSynthesis
from waterfill.data.crops import CropSource
from waterfill.data.sets import PictureSet, open_pictures
from waterfill.errors import DivergedError, Interrupted, TrainingError
from waterfill.provenance import environment
from waterfill.training.checkpoint import capture, load_checkpoint, restore, save_checkpoint
from waterfill.training.config import TrainConfig
from waterfill.training.engine import check_engine, make_fabric
from waterfill.training.folder import RunFolder
from waterfill.training.klt import start_from_klt
from waterfill.training.learner import Learner
from waterfill.training.objectives import Batch, Objective
from waterfill.training.schedules import Schedule
from waterfill.training.start import load_start, start_from
from waterfill.training.validation import LEAST_MSE, split, to_pixels

__all__ = ["Report", "train"]

#: Most steps skipped in a row before the run stops.
_MAX_SKIPPED_IN_A_ROW = 100
#: Figures recorded in training and in validation. The rate that a learned prior charges is the
#: trained one, unless the channel is genie-aided.
_WATCHED = ("loss", "bpp", "psnr", "prior_bpp")
#: Figures recorded in training.
_RECORDED = (*_WATCHED, *Objective.ASIDE)

#: Signals that stop a run with a checkpoint.
_SIGNALS = (signal.SIGINT, signal.SIGTERM)

#: A held-back loss stops the run when it exceeds the lower of the first and the last by more than
#: so many times that loss.
_RUNAWAY = 10.0
#: The same of the smoothed loss in training, which one bad batch must not stop.
_TRAINING_RUNAWAY = 100.0
#: A prior's rate above its first by more than this share, while the oracle's falls, is reported.
_DRIFT = 0.05
#: Shares of λ: a regulariser below the first does nothing, above the second it dominates.
_VANISHING, _DOMINATING = 1e-3, 1.0
#: Factor over its least at which a dominated codec's smoothed distortion cost stops the run; steps
#: before that mean has settled.
_GROWN, _SETTLED = 3.0, 50


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


@contextmanager
def _deferred_interrupt() -> Iterator[Callable[[], int]]:
    """Only note the first Ctrl-C or SIGTERM, so that a step and a checkpoint complete.

    What it yields returns the signal's number, 0 before.
    """
    asked = 0

    def ask(number: int, *_: object) -> None:
        nonlocal asked
        if asked:
            raise KeyboardInterrupt
        asked = number

    try:
        old = {number: signal.signal(number, ask) for number in _SIGNALS}
    except ValueError:  # not the main thread: the caller deals with signals
        old = {}
    try:
        yield lambda: asked
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


def train(
    config: TrainConfig,
    out: str | Path,
    *,
    resume: bool = False,
    max_minutes: float = math.inf,
    progress: Callable[[Report], None] = lambda _: None,
) -> Path:
    """Train a codec on photographs, and return the path of its weights.

    Started by ``torchrun``, the processes share each batch; the first of them writes.

    Parameters
    ----------
    config
        All that decides the outcome. When resuming, ``steps`` may differ from the first run's.
    out
        Folder of the run, see :class:`~waterfill.training.folder.RunFolder`.
    resume
        Go on from the checkpoint in ``out``.
    max_minutes
        Stop, with a checkpoint, after this time.
    progress
        Called after every step, in the first process.

    Returns
    -------
    Path
        Of the averaged weights, ``codec.safetensors`` in ``out``.

    Raises
    ------
    TrainingError
        If ``out`` holds another run or one that is going on, the loss stops being finite, or a
        checkpoint doesn't fit; if the codec to start from has another architecture; if a batch
        can't be shared equally among the processes, or their devices lack the precision.
    CodecError
        If there is no codec to start from.
    WaterfillError
        If a file can't be written; the last checkpoint survives.
    ImageError
        If there is nothing to train on.
    Interrupted
        After Ctrl-C or SIGTERM, in any of the processes, once the step is done and the checkpoint
        written.
    """
    until = time.monotonic() + 60 * max_minutes
    folder = RunFolder(Path(out))
    folder.check(config)
    # Before a folder is made: the request, or the codec's name, may be a mistake.
    check_engine(config)
    pictures = open_pictures(config.data)
    start = load_start(config.start, config.codec) if config.start and not resume else None
    keep_large_blocks()
    with folder.claimed(resume=resume):
        fabric = make_fabric(config)
        run = _Run(config, folder, pictures, fabric, progress, start, fresh=not resume)
        try:
            if resume:
                run.go_on()
            run.begin()
            with _deferred_interrupt() as interrupted:
                run.steps_while(lambda: not interrupted() and time.monotonic() < until)
                number = run.agreed(interrupted())
        finally:
            folder.close()
    if number:
        raise Interrupted(number, finished=run.step >= config.steps)
    return folder.weights


class _Run:
    """A run in progress."""

    def __init__(
        self,
        config: TrainConfig,
        folder: RunFolder,
        pictures: PictureSet,
        fabric: Fabric,
        progress: Callable[[Report], None],
        start: Codec | None,
        *,
        fresh: bool,
    ) -> None:
        self.config, self.folder, self.fabric = config, folder, fabric
        self.progress = progress
        self.fingerprint = pictures.fingerprint()
        training, self.validate = split(pictures, config)
        torch.manual_seed(config.seed)
        codec = Codec(config.codec)
        self.started_from: str | None = None
        if start is not None:
            self.started_from = start_from(codec, start, training, seed=config.seed)
        elif fresh and config.codec.transform == "klt":
            start_from_klt(codec, training, seed=config.seed)
        codec = codec.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.learner = Learner(config, fabric, codec)
        self.objective = self.learner.objective
        self.average = AveragedModel(codec, multi_avg_fn=get_ema_multi_avg_fn(config.ema))  # type: ignore[no-untyped-call]
        self.average.requires_grad_(False)
        self.schedule = Schedule(config)
        share = config.batch // fabric.world_size
        self.rows = range(fabric.global_rank * share, (fabric.global_rank + 1) * share)
        self.source = CropSource(
            training, size=config.crop, seed=config.seed, augment=config.augment
        )

        if fresh and self.objective.regulariser is not None:
            before = self.validate(self.objective, codec, fabric.device)
            self.objective.regulariser.source.expect(before["mse"])

        self.step = 0
        self.recent: NDArray[np.float64] | None = None
        self.shown: dict[str, float] | None = None
        self.first: dict[str, float] | None = None
        self.least_cost: float | None = None
        self.skipped = 0
        self._skipped_in_a_row = 0
        self._seconds_before = 0.0
        self._waited_before = 0.0
        self._began = time.monotonic()
        self._saved = -1
        self._told = False

    @property
    def seconds(self) -> float:
        """Time spent on the run so far, that of its earlier starts included."""
        return self._seconds_before + time.monotonic() - self._began

    @property
    def waited_seconds(self) -> float:
        """The part of :attr:`seconds` that the trainer waited for pictures."""
        return self._waited_before + self.source.waited_seconds

    @property
    def averaged(self) -> Codec:
        """The codec with averaged weights."""
        assert isinstance(self.average.module, Codec)
        return self.average.module

    def go_on(self) -> None:
        """Put back what the folder's checkpoint holds."""
        checkpoint = self.folder.checkpoint
        tensors, facts = load_checkpoint(checkpoint)
        try:
            theirs = facts["config"]
            changed = self.config.changed_from(theirs)
            if changed is not None and changed not in theirs:
                raise TrainingError(
                    f"{checkpoint}: made by another version of this program, without {changed}"
                )
            if changed is not None:
                ours = self.config.to_dict()[changed]
                raise TrainingError(
                    f"{checkpoint}: made with {changed} {theirs.get(changed)}, not {ours}; "
                    "resume with the first run's options"
                )
            if facts["data"] != self.fingerprint:
                raise TrainingError(f"{checkpoint}: made with other pictures than these")
            self.step, self._seconds_before = int(facts["step"]), float(facts["seconds"])
            if self.step > self.config.steps:
                raise TrainingError(
                    f"{checkpoint}: has done {self.step} steps; {self.config.steps} are fewer"
                )
            self._waited_before = float(facts["waited_seconds"])
            recent, self.shown, self.first = facts["recent"], facts["shown"], facts["first"]
            self.least_cost = facts["least_cost"]
            self.recent = None if recent is None else np.array(recent, dtype=float)
            self.skipped = int(facts["skipped"])
            self._skipped_in_a_row = int(facts["skipped_in_a_row"])
            self.schedule.restore(facts["schedule"])
            if self.step < 0 or not (self.recent is None or self.recent.shape == (len(_RECORDED),)):
                raise ValueError("no such step")
            self.fabric.strategy.precision.load_state_dict(facts["scaler"])
        except (AttributeError, KeyError, OverflowError, TypeError, ValueError) as error:
            raise TrainingError(f"{checkpoint}: not a training checkpoint ({error})") from None
        try:
            restore(tensors, self.objective, self.average, self.learner.optimiser)
        except ValueError as error:
            raise TrainingError(f"{checkpoint}: does not fit this config ({error})") from None
        if self.folder.weights.exists():  # don't rewrite them before a step is done
            self._saved = self.step
        self._tell(note=f"resumed at step {self.step}")

    def begin(self) -> None:
        """Write down what this run is."""
        if not self.fabric.is_global_zero:
            return
        origin = environment(self.config.seed) | {
            "processes": self.fabric.world_size,
            "precision": self.fabric.strategy.precision.precision,
            "data": {"fingerprint": self.fingerprint, "pictures": len(self.source.pictures)},
        }
        if self.started_from is not None:
            origin["start"] = {"name": self.config.start, "weights": self.started_from}
        self.folder.begin(self.config, origin, self.step)
        longest = self.validate.longest_side
        if self.config.crop > longest:
            self._tell(
                note=f"crops of {self.config.crop} pixels are larger than the pictures held back "
                f"(at most {longest}), and smaller pictures are mirrored to fill them"
            )

    def steps_while(self, wanted: Callable[[], bool]) -> None:
        """Train until all steps are done or no more are wanted, and leave a checkpoint."""
        config = self.config
        with closing(self.source.batches(self.step, config.batch, self.rows)) as batches:
            for crops in batches:
                # Processes agree, or one would wait for the others' gradients for ever.
                if self.step >= config.steps or self._sum(not wanted()) > 0:
                    break
                try:
                    self._one_step(crops)
                except RuntimeError as error:
                    if config.compile and type(error).__module__.startswith("torch._"):
                        reason = str(error).strip().splitlines()[0]
                        raise TrainingError(f"torch.compile: {reason}") from None
                    raise
                fresh = self._validated() if self._due(config.validate_every) else None
                if self.step % config.checkpoint_every == 0:
                    self.save()
                self._tell(validation=fresh)
        if self._saved != self.step:
            self.save()
        unreadable = self.source.unreadable | self.validate.unreadable
        self.fabric.barrier()  # what the first process writes is there when any of them returns
        notes = []
        if unreadable:
            first, *others = sorted(unreadable)
            said = "pictures were skipped" if others else "picture was skipped"
            notes.append(f"{1 + len(others)} unreadable {said}: {first}{' …' if others else ''}")
        if self.skipped:
            notes.append(f"{self.skipped} steps were skipped: not finite")
        if notes or not self._told:
            self._tell(note="; ".join(notes) or None)

    def agreed(self, number: int) -> int:
        """The signal that any of the processes has met, SIGTERM before Ctrl-C, or 0."""
        return max(each * (self._sum(number == each) > 0) for each in _SIGNALS)

    def _due(self, every: int) -> bool:
        return self.step % every == 0 or self.step == self.config.steps

    def _one_step(self, crops: NDArray[np.uint8]) -> None:
        config, fabric = self.config, self.fabric
        self.learner.set_rate(self.schedule.rate_at(self.step))
        if self.objective.regulariser is not None:
            self.objective.regulariser.alpha = self.schedule.alpha_at(self.step)
        for module in self.objective.modules():
            if isinstance(module, FilteredAnalysis | FilteredSynthesis):
                module.linear_only = self.step < config.linear_steps
        quality, seeds = self._draws()
        pieces = config.accumulate
        size = len(crops) // pieces
        sums = np.zeros(len(_RECORDED))
        for piece in range(pieces):
            part = slice(piece * size, (piece + 1) * size)
            batch = Batch(
                to_pixels(crops[part]).to(fabric.device),
                quality[part].to(fabric.device),
                seeds[part],
            )
            losses = self.learner.gradients(batch, pieces=pieces, last=piece == pieces - 1)
            # One exact (blank) picture would make all later means infinite.
            psnr = (-10.0 * torch.log10(losses.mse.detach().clamp_min(LEAST_MSE))).mean()
            bpp, prior_bpp = losses.bpp.detach().mean(), losses.prior_bpp.detach().mean()
            values = (losses.loss.detach(), bpp, psnr, prior_bpp)
            aside = self.objective.aside()
            sums += [float(v) for v in values] + [aside[name] for name in Objective.ASIDE]
        now = np.array([self._sum(value) for value in sums / pieces]) / fabric.world_size
        norm = self.learner.clip()
        wrong = None
        if not math.isfinite(now[0]):
            wrong = f"the loss is {now[0]}"
        elif not math.isfinite(norm):
            wrong = f"the gradient is {norm}"
        # With a scaler, gradients overflow now and then: it leaves those steps out by itself, and
        # must see them to find its scale.
        scaled = fabric.strategy.precision.precision == "16-mixed"
        if wrong is not None:
            self._skip(wrong, forgivable=scaled and math.isfinite(now[0]))
        if wrong is None or scaled:
            self.learner.step()
        if wrong is None:
            self._skipped_in_a_row = 0
            self.recent = now if self.recent is None else 0.98 * self.recent + 0.02 * now
            self._watch_regulariser()
            self._watch_training()
            if self.step < 2 * config.warmup:  # weights this young are not worth remembering
                self.average.n_averaged.zero_()
            self.average.update_parameters(self.objective.codec)
        self.learner.forget()
        self.step += 1

    def _draws(self) -> tuple[torch.Tensor, list[int]]:
        """Quality and noise seed of each of this process's pictures.

        A function of (seed, step, row of the whole batch): neither resuming nor sharing a batch
        among processes changes what a picture meets.
        """
        config = self.config
        rng = np.random.default_rng([config.seed, self.step, 1])
        low, high = config.codec.qualities
        quality = low + (high - low) * rng.random(config.batch)
        seeds = rng.integers(1 << 32, size=config.batch)
        rows = slice(self.rows.start, self.rows.stop)
        return torch.from_numpy(quality[rows]).float(), [int(seed) for seed in seeds[rows]]

    def _sum(self, value: float) -> float:
        """The sum over processes."""
        if self.fabric.world_size == 1:
            return float(value)
        one = torch.tensor(float(value), dtype=torch.float64, device=self.fabric.device)
        summed = self.fabric.all_reduce(one, reduce_op="sum")
        assert isinstance(summed, torch.Tensor)
        return float(summed)

    def _skip(self, what: str, *, forgivable: bool) -> None:
        self.skipped += 1
        self._skipped_in_a_row += 1
        if not (self.config.skip_nonfinite or forgivable):
            raise self._diverged(what)
        if self._skipped_in_a_row > _MAX_SKIPPED_IN_A_ROW:
            raise self._diverged(f"{what}, as in {_MAX_SKIPPED_IN_A_ROW} steps before,")

    def _diverged(self, what: str) -> DivergedError:
        checkpoint = self.folder.checkpoint
        last = f"the last good checkpoint is {checkpoint}"
        if not checkpoint.exists():
            last = "there is no checkpoint yet"
        share = self._share_of_lambda()
        if share > _DOMINATING:
            last = (
                f"the regulariser takes {share:.1f} times λ with alpha {self.config.alpha:g} per "
                f"{self.config.alpha_unit}, take a smaller one; {last}"
            )
        return DivergedError(f"{what} at step {self.step}; {last}")

    def _validated(self) -> dict[str, float]:
        """Measure the averaged weights; one process does, and tells the others."""
        fresh = None
        if self.fabric.is_global_zero:
            fresh = self.validate(self.objective, self.averaged, self.fabric.device)
        fresh = self.fabric.broadcast(fresh)
        assert fresh is not None
        self._watch(fresh)
        rate = self.schedule.rate_at(self.step - 1)
        if self.step % self.config.validate_every == 0:
            # The end of a run that is made longer later must not count as a wait of its own.
            self.schedule.observe(fresh["loss"])
        self.shown = fresh
        if self.fabric.is_global_zero:
            recent = [math.nan] * len(_RECORDED) if self.recent is None else self.recent
            row = dict(zip(_RECORDED, map(float, recent), strict=True))
            row["lambda_share"] = self._share_of_lambda()
            row |= {f"validation_{name}": fresh[name] for name in _WATCHED}
            row |= {"seconds": self.seconds, "waited_seconds": self.waited_seconds}
            self.folder.record(self.step, row | {"learning_rate": rate})
        return fresh

    def _watch(self, fresh: dict[str, float]) -> None:
        """Stop a run that runs away; tell when a limit, or a regulariser, is not what it should be.

        ½log₂(1 + s²/θ) is concave in power, so an oracle's rate falls without end as latents grow
        sparse and peaky, though nobody could code them with so little.
        """
        first = self.first = self.first or fresh
        best = min(first["loss"], (self.shown or first)["loss"])
        if fresh["loss"] - best > _RUNAWAY * abs(best):
            raise self._diverged(
                f"the held-back loss has run away from {best:.4g} to {fresh['loss']:.4g}"
            )
        said = self._said_of_regulariser()
        if said:
            self._tell(note=said)
        if min(first["bpp"], first["prior_bpp"], fresh["bpp"]) <= 0:  # no shares of nothing
            return
        fell = 1.0 - fresh["bpp"] / first["bpp"]
        rose = fresh["prior_bpp"] / first["prior_bpp"] - 1.0
        if fell > 0 and rose > _DRIFT:
            self._tell(
                note=f"step {self.step}: the oracle's rate is {100 * fell:.1f} % below its first, "
                f"a prior's for the same latents {100 * rose:.1f} % above: the limit drifts"
            )

    def _smoothed(self, name: str) -> float:
        """A running mean of what is recorded; NaN before the first step."""
        return math.nan if self.recent is None else float(self.recent[_RECORDED.index(name)])

    def _share_of_lambda(self) -> float:
        """What the regulariser takes of late; NaN without one."""
        return self._smoothed("pull") / max(self._smoothed("resistance"), 1e-12)

    def _watch_training(self) -> None:
        """Stop a run that has run away, before its checkpoint takes the place of a good one."""
        if self.shown is None:
            return
        before, now = self.shown["loss"], self._smoothed("loss")
        if now - before > _TRAINING_RUNAWAY * max(abs(before), 1.0):
            raise self._diverged(f"the loss has run away from {before:.4g} to {now:.4g}")

    def _watch_regulariser(self) -> None:
        """Stop a codec that is paid for distortion once it runs away, and name the reason."""
        if self.step < _SETTLED or self.objective.regulariser is None:
            return
        cost = self._smoothed("resistance")
        self.least_cost = min(self.least_cost or cost, cost)
        if self._share_of_lambda() > _DOMINATING and cost > _GROWN * self.least_cost:
            times = cost / self.least_cost
            raise self._diverged(f"the distortion runs away, to {times:.1f} times what it was,")

    def _said_of_regulariser(self) -> str | None:
        """What there is to say of a regulariser whose weight is far from sensible."""
        regulariser = self.objective.regulariser
        if regulariser is None or not regulariser.alpha or self.recent is None:
            return None
        share = self._share_of_lambda()
        if share < _VANISHING:
            return f"step {self.step}: the regulariser takes {share:.1e} of λ: it does nothing"
        if share > _DOMINATING:
            return f"step {self.step}: the regulariser takes {share:.1f} times λ: it dominates"
        return None

    def save(self) -> None:
        """Write the checkpoint and the weights."""
        self._saved = self.step
        tensors = capture(self.objective, self.average, self.learner.optimiser)
        if not all(bool(t.isfinite().all()) for t in tensors.values()):
            raise self._diverged("a weight stopped being finite")
        if not self.fabric.is_global_zero:
            return
        facts = {
            "step": self.step,
            "seconds": self.seconds,
            "waited_seconds": self.waited_seconds,
            "recent": None if self.recent is None else self.recent.tolist(),
            "shown": self.shown,
            "first": self.first,
            "least_cost": self.least_cost,
            "skipped": self.skipped,
            "skipped_in_a_row": self._skipped_in_a_row,
            "schedule": self.schedule.state(),
            "scaler": self.fabric.strategy.precision.state_dict(),
            "data": self.fingerprint,
            "config": self.config.to_dict(),
        }
        provenance = {
            "steps": str(self.step),
            "seconds": f"{self.seconds:.0f}",
            # Weights are published; paths on this machine are not.
            "training": json.dumps(self.config.without_places()),
            "data": self.fingerprint,
            "validation": json.dumps(self.shown),
        }
        # The weights first: a run whose checkpoint says that it is finished has them.
        save_codec(self.averaged, self.folder.weights, provenance)
        save_checkpoint(self.folder.checkpoint, tensors, facts)

    def _tell(self, *, validation: dict[str, float] | None = None, note: str | None = None) -> None:
        if not self.fabric.is_global_zero:
            return
        self._told = True
        recent = [math.nan] * len(_RECORDED) if self.recent is None else self.recent
        loss, bpp, psnr = map(float, recent[:3])
        self.progress(Report(self.step, self.config.steps, loss, bpp, psnr, validation, note))
