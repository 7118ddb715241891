"""``waterfill train`` and ``waterfill data``."""

from __future__ import annotations

import difflib
import math
import os
import re
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.box import SIMPLE_HEAD
from rich.progress import Progress, TextColumn
from rich.table import Table

from waterfill.cli.shared import (
    NAME,
    PATH,
    SEED,
    check_json,
    json_option,
    out_console,
    progress_bar,
    say,
    say_table,
    write_json,
)
from waterfill.errors import Interrupted, TrainingError, WaterfillError
from waterfill.files import check_writable, make_folder, unread

if TYPE_CHECKING:
    from waterfill.training.config import TrainConfig
    from waterfill.training.experiments import Outcome
    from waterfill.training.loop import Report

#: Options that replace a field of the config: flag, type, help. Unset they leave the field alone.
_FIELDS: tuple[tuple[str, Any, str], ...] = (
    (
        "objective",
        str,
        "What is minimised: rate-distortion, test-channel, learned-posterior, or, genie-aided, "
        "oracle-rounding or oracle-test-channel.",
    ),
    ("source-model", str, "Regulariser's source model: aligned, weaker or stronger."),
    ("alpha-unit", str, "What the regulariser counts bits by: dimension or pixel."),
    ("alpha-decay", float, "Share of the run, at its end, in which α falls to 0."),
    ("source-rate", float, "Source model's learning rate, times the codec's."),
    ("distortion", str, "Distortion: mse or ms-ssim."),
    ("lambda-scale", float, "Factor on λ at all qualities."),
    ("oracle-mean", str, "Mean that an oracle works about: zero or predicted."),
    ("oracle-mode", str, "Mode of oracle-test-channel: smooth, paper or paper-detached."),
    ("budget", float, "Mean distortion per latent, in paper modes only; 0 for one water level."),
    ("steps", int, "Optimiser steps in all."),
    ("batch", int, "Crops per step, over all processes."),
    ("crop", int, "Side of a crop in pixels."),
    ("accumulate", int, "Pieces each process cuts its part of a batch into."),
    ("optimiser", str, "Optimiser: adam or soap."),
    ("learning-rate", float, "Peak rate of the optimiser."),
    ("warmup", int, "Steps up to the peak rate."),
    ("schedule", str, "The rate after warm-up: constant, linear, cosine or plateau."),
    ("decay", float, "Share of the run, at its end, in which the rate falls."),
    ("patience", int, "With plateau: validations without a gain before the rate is halved."),
    ("linear-steps", int, "With the transform klt: first steps on its blocks alone."),
    ("blocks-rate", float, "With the transform klt: its blocks' learning rate, times the codec's."),
    ("clip", float, "Largest gradient norm."),
    ("ema", float, "Decay of the averaged weights."),
    ("precision", str, "Arithmetic: auto, 32-true, bf16-mixed or 16-mixed."),
    ("seed", SEED, "Seed of weights, crops and noise."),
    ("start", str, "A codec's name or file, whose weights to start from."),
    ("checkpoint-every", int, "Steps between checkpoints."),
    ("validate-every", int, "Steps between validations."),
)


def _field_options(command: Callable[..., None]) -> Callable[..., None]:
    for flag, kind, text in reversed(_FIELDS):
        command = click.option(f"--{flag}", type=kind, help=text)(command)
    return command


@click.command(short_help="Train a codec on photographs.")
@click.argument("paths", nargs=-1, type=NAME, metavar="[PATH]...")
@click.option("--out", type=PATH, metavar="DIR", help="Folder of the run, or of a queue's runs.")
@click.option("--preset", metavar="NAME", help="Settings to start from; --presets lists them.")
@click.option(
    "--config",
    "config_file",
    type=PATH,
    metavar="FILE",
    help="Settings as TOML, such as another run's run.toml.",
)
@click.option(
    "--codec", metavar="NAME", help="Architecture, by a codec's name; an unknown one lists them."
)
@click.option(
    "--quality", type=(float, float), metavar="LOW HIGH", help="Qualities to cover, 1 … 8."
)
@click.option(
    "--regularize", "alpha", type=float, metavar="ALPHA", help="Weight α of paper 2's regulariser."
)
@_field_options
@click.option("--augment/--no-augment", default=None, help="Reduce and mirror crops at random.")
@click.option("--compile/--no-compile", default=None, help="Compile the transforms.")
@click.option(
    "--skip-nonfinite/--stop-nonfinite",
    default=None,
    help="Skip steps whose loss or gradient is not finite.",
)
@click.option("--resume", is_flag=True, help="Go on from the checkpoint in --out.")
@click.option(
    "--max-minutes", type=float, default=math.inf, help="Stop after this time, with a checkpoint."
)
@click.option(
    "--queue", type=PATH, metavar="DIR", help="Run the experiments of a folder, one TOML file each."
)
@click.option(
    "--hand-back",
    type=PATH,
    metavar="DIR",
    help="After --queue: copy results there, in pieces of 16 MB.",
)
@click.option(
    "--presets", "list_presets", is_flag=True, help="List the presets, and train nothing."
)
@json_option
def train(
    paths: tuple[str, ...],
    out: Path | None,
    preset: str | None,
    config_file: Path | None,
    codec: str | None,
    quality: tuple[float, float] | None,
    alpha: float | None,
    resume: bool,
    max_minutes: float,
    queue: Path | None,
    hand_back: Path | None,
    list_presets: bool,
    json_file: Path | None,
    **fields: Any,
) -> None:
    """Train a codec on the photographs of PATH: folders, files, globs or tar shards.

    Settings are those of --preset, of --config, or of the run that --resume goes on with; else
    defaults, with the bundled codec's architecture. Options replace single ones. Ctrl-C stops it
    with a checkpoint. Under torchrun, all processes train one codec.
    """
    if list_presets:
        _print_presets()
        return
    if not max_minutes >= 0:
        raise TrainingError(f"--max-minutes can't be {max_minutes:g}")
    given = {name: value for name, value in fields.items() if value is not None}
    if queue is not None:
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise TrainingError("a queue runs in one process; give torchrun its runs one by one")
        if preset or config_file or codec or quality or resume or alpha is not None or given:
            raise TrainingError("--queue takes its settings from the experiments' files alone")
        _work_through(queue, out or Path("runs"), list(paths), max_minutes, hand_back, json_file)
        return
    if hand_back is not None:
        raise TrainingError("--hand-back belongs to --queue")
    if out is None:
        raise TrainingError("name a folder for the run with --out")
    from waterfill.training.folder import RunFolder

    check_json(json_file, out, *RunFolder(out).files, *filter(None, [config_file]))
    if paths:
        given["data"] = list(paths)
    if codec is not None:
        given["codec"] = _architecture(codec)
    if quality is not None:
        chosen = given["codec"].to_dict() if codec is not None else {}
        given["codec"] = chosen | {"qualities": list(quality)}
    base = _base(preset, config_file, out, resume=resume)
    config = _with_options(base, given, alpha)
    if not config.data:
        raise TrainingError("name photographs to train on, a folder of them, or tar shards")
    _train_one(config, out, resume, max_minutes, json_file)


def _with_options(base: TrainConfig, given: dict[str, Any], alpha: float | None) -> TrainConfig:
    """Settings with those that options give, the regulariser's weight among them."""
    values = dict(given)
    if alpha is not None:
        values["alpha"] = alpha
        if base.source_model == "none":
            values.setdefault("source_model", "aligned")
    elif not base.alpha and "source_model" in values:
        raise TrainingError("--source-model needs a regulariser: give its weight with --regularize")
    try:
        return base.with_values(values, label="command line")
    except TrainingError as error:
        raise TrainingError(_as_options(str(error))) from None


def _train_one(
    config: TrainConfig, out: Path, resume: bool, max_minutes: float, json_file: Path | None
) -> None:
    """One run with its bar. Ctrl-C is passed on once what the run came to is said and written."""
    from waterfill.training.folder import RunFolder
    from waterfill.training.loop import train as run_training

    last: dict[str, Any] = {}
    interrupted: Interrupted | None = None
    with progress_bar(TextColumn("{task.fields[state]}")) as bar:
        task = bar.add_task("training", total=config.steps, state="")
        try:
            run_training(
                config,
                out,
                resume=resume,
                max_minutes=max_minutes,
                progress=lambda report: _show(bar, task, last, report),
            )
        except Interrupted as stop:
            interrupted = stop
    if last:  # empty in all processes but the first
        weights = RunFolder(out).weights
        say(f"{weights}: step {last['step']} of {config.steps}")
        write_json(json_file, {"weights": str(weights), **last})
    if interrupted is not None and not interrupted.finished:
        raise interrupted


def _as_options(message: str) -> str:
    """A message with the options of this command in place of the settings they stand for."""
    flags = {flag.replace("-", "_"): f"--{flag}" for flag, _, _ in _FIELDS if "-" in flag}
    known = flags | {"alpha": "--regularize"}
    return re.sub(r"(?<![-\w])\w+", lambda word: known.get(word[0], word[0]), message)


def _base(preset: str | None, config_file: Path | None, out: Path, *, resume: bool) -> TrainConfig:
    """The settings that options change: of a preset, a file, the run to go on with, or none."""
    from waterfill.training.config import TrainConfig
    from waterfill.training.folder import RunFolder
    from waterfill.training.presets import PRESETS

    if preset is not None and config_file is not None:
        raise TrainingError("--preset and --config exclude each other")
    if preset is not None:
        if preset not in PRESETS:
            near = difflib.get_close_matches(preset, PRESETS, n=2)
            meant = f"; did you mean {' or '.join(near)}?" if near else ""
            raise TrainingError(f"{preset}: no such preset{meant} (--presets lists them)")
        return PRESETS[preset]
    if config_file is None and resume:
        config_file = RunFolder(out).config
        if not config_file.exists():
            raise TrainingError(f"{out}: holds no run to go on with")
    if config_file is None:
        return TrainConfig(codec=_architecture("default"))
    try:
        text = config_file.read_text(encoding="utf-8")
    except OSError as error:
        raise TrainingError(unread(config_file, error)) from None
    except UnicodeDecodeError as error:
        raise TrainingError(f"{config_file}: can't be read ({error})") from None
    return TrainConfig.from_toml(text, str(config_file))


def _architecture(name: str) -> Any:
    from waterfill.codec.registry import PRESETS

    if name not in PRESETS:
        raise TrainingError(f"{name}: not an architecture ({', '.join(PRESETS)})")
    return PRESETS[name]


def _show(bar: Progress, task: Any, last: dict[str, Any], report: Report) -> None:
    state = f"loss {report.loss:.4f}  {report.bpp:.3f} bpp  {report.psnr:.2f} dB"
    bar.update(task, completed=report.step, total=report.steps, state=state)
    last.update(step=report.step, loss=report.loss, bpp=report.bpp, psnr=report.psnr)
    lines = []
    if report.validation:
        last["validation"] = report.validation
        lines.append(f"step {report.step}: held back  {_held_back(report.validation)}")
    if report.note:
        lines.append(report.note)
    for line in lines:
        bar.console.print(line, markup=False, emoji=False, highlight=False, soft_wrap=True)


def _held_back(measured: dict[str, float]) -> str:
    """What was measured of held-back pictures, with units: means, then each quality."""
    parts = [
        f"loss {measured['loss']:.4f}",
        f"{measured['bpp']:.3f} bpp",
        f"{measured['psnr']:.2f} dB",
        f"prior {measured['prior_bpp']:.3f} bpp",
    ]
    for name, bpp in measured.items():
        stem, _, quality = name.partition("@")
        if stem == "bpp" and quality:
            psnr = measured[f"psnr@{quality}"]
            parts.append(f"quality {quality}: {bpp:.3f} bpp {psnr:.2f} dB")
    return "  ".join(parts)


def _print_presets() -> None:
    from waterfill.training.presets import PRESETS, RECONSTRUCTED

    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 1, 0, 0))
    table.add_column("preset", no_wrap=True)
    for column in ("N, M", "quality", "steps", "crops"):
        table.add_column(column, no_wrap=True, justify="right")
    families: dict[str, list[TrainConfig]] = {}
    for name, config in PRESETS.items():
        if not name.startswith("mini-"):
            stem, _, quality = name.rpartition("-q")
            families.setdefault(f"{stem}-q…" if quality.isdigit() else name, []).append(config)
    for name, members in families.items():
        ends = (members[0].codec.qualities[0], members[-1].codec.qualities[1])
        widths = sorted({c.codec.m for c in members})
        steps = members[0].steps
        table.add_row(
            name,
            f"{members[0].codec.n}, {'/'.join(map(str, widths))}",
            "…".join(f"{q:g}" for q in ends),
            f"{steps // 1000:,} k" if steps < 10**6 else f"{steps // 10**6} M",
            f"{members[0].batch}×{members[0].crop}²",
        )
    say_table(table)
    out_console.print(
        "-q1 … -q8: a codec for each λ, .0018 … .18; others cover the range with one.",
        "mini- before a paper's: thin networks and few steps, minutes on two cores.",
        "What the papers don't state, and where the values come from:",
        *(f"  {name}: {source}" for name, source in RECONSTRUCTED.items()),
        sep="\n",
        style="dim",
        highlight=False,
        soft_wrap=True,
    )


def _work_through(
    queue: Path,
    out: Path,
    data: list[str],
    max_minutes: float,
    hand_back: Path | None,
    json_file: Path | None,
) -> None:
    from waterfill.training.experiments import hand_back as copy_back
    from waterfill.training.experiments import load_experiments, work_through
    from waterfill.training.folder import RunFolder

    experiments = load_experiments(queue)
    runs = [RunFolder(out / experiment.name) for experiment in experiments]
    check_json(json_file, hand_back or out, *(file for one in runs for file in one.files))
    if hand_back is not None:
        make_folder(hand_back)
        check_writable(hand_back / "results")
    last: dict[str, Any] = {}
    with progress_bar(TextColumn("{task.fields[state]}")) as bar:
        task = bar.add_task("starting", total=None, state="")

        def show(name: str, report: Report) -> None:
            bar.update(task, description=name)
            _show(bar, task, last, report)

        outcomes = work_through(experiments, out, data=data, max_minutes=max_minutes, progress=show)
    for outcome in outcomes:
        say(_outcome_line(outcome))
    if hand_back is not None:
        for path in copy_back(out, hand_back):
            say(str(path))
    write_json(json_file, {"experiments": [outcome.__dict__ for outcome in outcomes]})
    stops = [outcome.stopped_by for outcome in outcomes if outcome.stopped_by is not None]
    if stops and not all(outcome.finished for outcome in outcomes):
        raise Interrupted(stops[0])
    failed = [outcome.name for outcome in outcomes if outcome.note.startswith("failed")]
    if failed:
        raise TrainingError(f"failed: {', '.join(failed)}")


def _outcome_line(outcome: Outcome) -> str:
    note = f"  {outcome.note}" if outcome.note else ""
    return f"{outcome.name}: step {outcome.step} of {outcome.steps}{note}"


@click.group()
def data() -> None:
    """Prepare pictures for training."""


@data.command("pack")
@click.argument("paths", nargs=-1, type=NAME, required=True, metavar="PATH...")
@click.option("--out", type=PATH, required=True, metavar="DIR", help="Folder of the shards.")
@click.option(
    "--shard-mb", default=64.0, show_default=True, help="Size of a shard in MiB, at most 256."
)
@click.option(
    "--crop", type=int, help="Store windows of this side in pixels instead of whole pictures."
)
@click.option("--crops", default=1, show_default=True, help="Windows of each picture.")
@click.option(
    "--max-side", type=int, help="Reduce further, until the longer side has so many pixels."
)
@click.option(
    "--reduction",
    default=0.5,
    show_default=True,
    help="Factor for a picture's sides, at most; 1 keeps them.",
)
@click.option("--seed", type=SEED, default=0, show_default=True, help="Seed of the windows.")
@json_option
def pack_pictures(
    paths: tuple[str, ...],
    out: Path,
    shard_mb: float,
    crop: int | None,
    crops: int,
    max_side: int | None,
    reduction: float,
    seed: int,
    json_file: Path | None,
) -> None:
    """Pack pictures into tar shards, reduced and without loss. The same call resumes it."""
    from waterfill.data.pack import LARGEST_SHARD, is_of_shards, pack

    largest = LARGEST_SHARD >> 20
    if not 0 < shard_mb <= largest:
        raise WaterfillError(
            f"--shard-mb must lie above 0 and be {largest} at most, not {shard_mb:g}"
        )
    own = [json_file] if json_file is not None and is_of_shards(json_file, out) else []
    check_json(json_file, out, *own)
    with progress_bar() as bar:
        task = bar.add_task("packing", total=None)
        try:
            report = pack(
                list(paths),
                out,
                shard_bytes=max(1, int(shard_mb * (1 << 20))),
                crop=crop,
                crops=crops,
                max_side=max_side,
                reduction=reduction,
                seed=seed,
                progress=lambda done, total: bar.update(task, completed=done, total=total),
            )
        except ValueError as error:
            raise WaterfillError(str(error)) from None
    say(
        f"{out}: {_count(report.members, 'picture')} of {_count(report.sources, 'file')}, "
        f"{_count(report.shards, 'shard')}, {report.stored_bytes / (1 << 20):.1f} MiB, "
        f"fingerprint {report.fingerprint[:16]}"
    )
    if report.skipped:
        first, *others = report.skipped
        were = "were" if others else "was"
        more = " …" if others else ""
        say(f"{_count(1 + len(others), 'unreadable picture')} {were} skipped: {first}{more}")
    if report.smaller:
        are = "is" if report.smaller == 1 else "are"
        say(
            f"{_count(report.smaller, 'picture')} {are} smaller than windows of {crop} pixels once "
            "reduced, and stored as far as they go"
        )
    write_json(json_file, asdict(report))


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
