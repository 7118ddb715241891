"""What decides a training run: a typed object ⇄ one readable TOML file."""

from __future__ import annotations

import dataclasses
import math
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, get_type_hints

import tomli_w

from waterfill.codec.channels import ORACLE_MODES
from waterfill.codec.config import CodecConfig
from waterfill.codec.priors.source import RELATIONS, source_model_for
from waterfill.errors import CodecError, TrainingError
from waterfill.seeds import check_seed
from waterfill.training.optimisers import OPTIMISERS
from waterfill.training.regulariser import UNITS

__all__ = [
    "DISTORTIONS",
    "MS_SSIM_MIN_SIDE",
    "OBJECTIVES",
    "PRECISIONS",
    "SCHEDULES",
    "TrainConfig",
]

PRECISIONS = ("auto", "32-true", "bf16-mixed", "16-mixed")
DISTORTIONS = ("mse", "ms-ssim")
#: MS-SSIM halves a picture four times under a window of 11.
MS_SSIM_MIN_SIDE = 161
SCHEDULES = ("constant", "linear", "cosine", "plateau")
#: Kinds of objective, see :mod:`waterfill.training.objectives`.
OBJECTIVES = (
    "rate-distortion",
    "test-channel",
    "learned-posterior",
    "oracle-rounding",
    "oracle-test-channel",
)
#: Fields that may differ when a run is resumed: paths, intervals of checks, and its length.
_FREE = frozenset(
    {"steps", "data", "start", "checkpoint_every", "validate_every", "skip_nonfinite"}
)

#: Larger values are refused as typing errors: such a run would never end, or run out of memory.
_MOST = {"steps": 10**9, "batch": 1 << 16, "crop": 1 << 12}


@dataclass(frozen=True)
class TrainConfig:
    """All that decides a run; two runs with equal configs on one machine are equal.

    Attributes
    ----------
    data
        Picture files, folders, globs or tar shards. What counts for the outcome is their content,
        whose fingerprint a run stores.
    start
        Name or file of a codec of the same architecture whose weights to start from; empty for
        fresh ones.
    codec
        The architecture, and the qualities that are trained: drawn uniformly, fractions included.
    objective
        What a step minimises, one of :data:`OBJECTIVES`.
    source_model
        ``none``, or that of the regulariser of paper 2, for ``mse`` alone: ``aligned`` with the
        codec's prior, ``weaker`` or ``stronger`` than that. It is discarded after training.
    alpha
        Weight of the regulariser at the start. At 0 a source model learns beside a codec that does
        not notice.
    alpha_unit
        What H_q is counted by: ``dimension``, or ``pixel``, which weighs three times as much.
    alpha_decay
        Last share of the run over which that weight falls to zero, linearly; 0 keeps it.
    source_rate
        Rate for the source model, as a multiple of the codec's. Where σ² is below
        α/(2 ln 2·λ), more error is worth more than it costs until q has seen it: q has to learn
        faster than the codec, or the distortion runs away.
    distortion
        ``mse``, or ``ms-ssim``, which needs crops of 192 at least.
    lambda_scale
        Factor of λ at all qualities: those of a stream reach from .0018 to .18, and pictures that
        are worth a few bits each, as digits are, need far less. Streams don't tell it, so that
        ``--effort`` weighs by λ without it.
    oracle_mean
        What the variance of an oracle is about: ``zero``, or the mean that is ``predicted`` from
        side information and context.
    oracle_mode
        Of the objective ``oracle-test-channel``: ``smooth``, ``paper`` or ``paper-detached``, see
        :class:`~waterfill.codec.channels.OracleGaussian`.
    budget
        Of the same, in ``paper`` modes: mean distortion for each latent, in squared steps, in place
        of one water level for all pictures; 0 for the level.
    steps, batch, crop
        Optimiser steps, crops per step over all processes, side of a crop (a multiple of 64; of 32
        for ``table2``). With 128 nearly every hyper-latent touches a border, and a prior learns
        that: 256 is better.
    augment
        Reduce half of the crops and mirror half. Not for pictures whose exact pixels matter, as
        digits.
    accumulate
        Pieces that a process cuts its share of a batch into, to save memory. Up to the order of
        sums the outcome doesn't depend on it.
    optimiser
        ``adam``, or ``soap``: fewer steps, each of which costs more, see
        :class:`~waterfill.training.optimisers.Soap`.
    learning_rate, warmup
        Peak of the optimiser's rate, and steps of linear warm-up.
    schedule, decay
        After warm-up the rate is ``constant``; or it falls to zero over the last share ``decay``
        of the run, ``linear`` or as a half ``cosine``, so that a run can be made longer while its
        rate has not begun to fall; or it is halved at each ``plateau`` of the held-back loss.
    patience
        Validations without a better loss that make a plateau.
    linear_steps
        Of a codec with the transform ``klt``: so many steps at the start train the prior and the
        gains alone, on the block transform. They cost a fraction of the others. Not for a run with
        a ``start``, whose trained filter they would leave out.
    blocks_rate
        Rate for the block transforms of a ``klt``, as a multiple of the codec's times the deviation
        of their weights; at 0 they stay the Karhunen–Loève transform that they begin as.
    clip
        Largest gradient norm.
    ema
        Decay of the averaged weights, which are the ones validated and kept.
    precision
        ``32-true``, ``bf16-mixed``, ``16-mixed``, or ``auto``: bfloat16 where the processor
        multiplies it natively.
    compile
        Compile the transforms with ``torch.compile``.
    skip_nonfinite
        Leave out a step whose loss or gradient is not finite, instead of stopping.
    seed
        Seed of weights, crops, qualities and noise.
    checkpoint_every, validate_every
        Steps between checkpoints and between validations.

    Raises
    ------
    TrainingError
        For values out of range, or settings that don't go together.
    """

    data: tuple[str, ...] = ()
    start: str = ""
    objective: str = "rate-distortion"
    source_model: str = "none"
    alpha: float = 0.0
    alpha_unit: str = "dimension"
    alpha_decay: float = 0.0
    source_rate: float = 10.0
    distortion: str = "mse"
    lambda_scale: float = 1.0
    oracle_mean: str = "zero"
    oracle_mode: str = "smooth"
    budget: float = 0.0
    steps: int = 40_000
    batch: int = 4
    crop: int = 256
    augment: bool = True
    accumulate: int = 1
    optimiser: str = "adam"
    learning_rate: float = 1e-3
    warmup: int = 500
    schedule: str = "linear"
    decay: float = 0.3
    patience: int = 10
    linear_steps: int = 0
    blocks_rate: float = 0.0
    clip: float = 1.0
    ema: float = 0.999
    precision: str = "auto"
    compile: bool = False
    skip_nonfinite: bool = False
    seed: int = 1
    checkpoint_every: int = 500
    validate_every: int = 1000
    codec: CodecConfig = field(default_factory=CodecConfig)

    def __post_init__(self) -> None:
        cell = self.codec.alignment
        if self.crop < cell or self.crop % cell:
            raise TrainingError(f"crop must be a multiple of {cell}, not {self.crop}")
        positive = ("steps", "batch", "accumulate", "learning_rate", "clip", "patience")
        others = ("lambda_scale", "source_rate", "checkpoint_every", "validate_every")
        for name in (*positive, *others):
            if not 0 < getattr(self, name) < math.inf:
                raise TrainingError(f"{name} must be positive, not {getattr(self, name)}")
        for name, most in _MOST.items():
            if getattr(self, name) > most:
                raise TrainingError(f"{name} can't be above {most}, not {getattr(self, name)}")
        if self.batch % self.accumulate:
            raise TrainingError(f"batch {self.batch} can't be cut in {self.accumulate} pieces")
        if self.linear_steps < 0:
            raise TrainingError(f"linear_steps must be at least 0, not {self.linear_steps}")
        if self.linear_steps and self.codec.transform != "klt":
            raise TrainingError("linear_steps need a codec with a block transform (klt)")
        if not 0 <= self.blocks_rate < math.inf:
            raise TrainingError(
                f"blocks_rate must be finite and at least 0, not {self.blocks_rate}"
            )
        if self.blocks_rate and self.codec.transform != "klt":
            raise TrainingError("a blocks_rate needs a codec with a block transform (klt)")
        if self.codec.transform == "klt" and not self.start and not self.codec.predicts_means:
            raise TrainingError(
                f"klt starts with side information of means, not {self.codec.side!r}"
            )
        if self.linear_steps and self.start:
            raise TrainingError(
                f"linear_steps leave out the filter that a start from {self.start} brings; set "
                "linear_steps to 0"
            )
        check_seed(self.seed, TrainingError)
        if not (self.warmup >= 0 and 0 <= self.decay <= 1 and 0 <= self.ema < 1):
            raise TrainingError(
                "warmup must be at least 0, decay in 0 … 1, ema at least 0 and below 1"
            )
        self._check_regulariser()
        for name, known in (
            ("precision", PRECISIONS),
            ("optimiser", OPTIMISERS),
            ("schedule", SCHEDULES),
            ("objective", OBJECTIVES),
            ("distortion", DISTORTIONS),
            ("oracle_mean", ("zero", "predicted")),
            ("oracle_mode", ORACLE_MODES),
            ("source_model", ("none", *RELATIONS)),
            ("alpha_unit", UNITS),
        ):
            if getattr(self, name) not in known:
                listed = ", ".join(known)
                raise TrainingError(f"{name} must be one of {listed}, not {getattr(self, name)}")
        self._check_objective()

    def _check_objective(self) -> None:
        """What only some objectives know."""
        if self.codec.side == "none" and self.objective != "rate-distortion":
            raise TrainingError(
                f"{self.objective} needs a Gaussian density; a factorised prior is trained for "
                "rate-distortion alone"
            )
        oracle = self.objective.startswith("oracle-")
        if self.oracle_mean == "predicted" and not oracle:
            raise TrainingError(f"{self.objective} has no oracle_mean: it is no oracle's objective")
        if self.oracle_mean == "predicted" and not self.codec.predicts_means:
            raise TrainingError(f"side information of {self.codec.side!r} predicts no mean")
        filling = self.objective == "oracle-test-channel" and self.oracle_mode != "smooth"
        if not 0 <= self.budget < math.inf:
            raise TrainingError(f"budget must be finite and at least 0, not {self.budget}")
        if self.budget and not (filling and self.codec.context == "none"):
            raise TrainingError(
                "a budget belongs to oracle-test-channel in a paper mode, without a context"
            )
        if self.distortion == "ms-ssim" and self.crop < MS_SSIM_MIN_SIDE:
            least = -(-MS_SSIM_MIN_SIDE // self.codec.alignment) * self.codec.alignment
            raise TrainingError(f"ms-ssim needs crops of {least} at least, not {self.crop}")

    def _check_regulariser(self) -> None:
        if not 0 <= self.alpha < math.inf:
            raise TrainingError(f"alpha must be finite and at least 0, not {self.alpha}")
        if not 0 <= self.alpha_decay <= 1:
            raise TrainingError(f"alpha_decay is a share of the run, not {self.alpha_decay}")
        if self.source_model == "none" and (self.alpha or self.alpha_decay):
            raise TrainingError("alpha weighs a regulariser, which needs a source_model")
        if self.source_model != "none" and self.distortion == "ms-ssim":
            raise TrainingError("the regulariser is for mse alone")
        if self.source_model in RELATIONS:
            try:
                source_model_for(self.codec, self.source_model)
            except CodecError as error:
                raise TrainingError(str(error)) from None

    def to_dict(self) -> dict[str, Any]:
        """The config as a JSON-able mapping."""
        plain = asdict(self) | {"codec": self.codec.to_dict()}
        return {k: list(v) if isinstance(v, tuple) else v for k, v in plain.items()}

    def without_places(self) -> dict[str, Any]:
        """The same without paths."""
        return {k: v for k, v in self.to_dict().items() if k not in ("data", "start")}

    def to_toml(self) -> str:
        """The config as a TOML file, every field spelled out."""
        return tomli_w.dumps(self.to_dict())

    def with_values(self, values: Mapping[str, Any], *, label: str = "config") -> TrainConfig:
        """This config with some fields replaced, as a TOML file or a command line gives them.

        Parameters
        ----------
        values
            By field; ``codec`` a mapping of its own, of which the fields not given are kept.
        label
            Where the values come from, for messages.

        Raises
        ------
        TrainingError
            For unknown fields, values of a wrong type, and values out of range.
        """
        given = dict(values)
        if isinstance(given.get("codec"), Mapping):
            given["codec"] = _replaced(self.codec, given["codec"], f"{label}, codec")
        changed: TrainConfig = _replaced(self, given, label)
        return changed

    @classmethod
    def from_toml(cls, text: str, label: str = "config") -> TrainConfig:
        """The config of a TOML file; fields left out have their defaults.

        Raises
        ------
        TrainingError
            For text that isn't TOML, and as :meth:`with_values`.
        """
        return cls().with_values(parse_toml(text, label), label=label)

    def changed_from(self, other: Mapping[str, Any]) -> str | None:
        """The first field that differs from ``other``, and may not when a run goes on."""
        ours = self.to_dict()
        # With ``plateau``, the held-back losses, and so how often they are taken, decide the rate.
        free = _FREE - ({"validate_every"} if self.schedule == "plateau" else set())
        return next((n for n in ours if n not in free and ours[n] != other.get(n)), None)


def parse_toml(text: str, label: str) -> dict[str, Any]:
    """Parse TOML, or raise ``TrainingError``."""
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise TrainingError(f"{label}: not TOML ({error})") from None


def _replaced(config: Any, values: Mapping[str, Any], label: str) -> Any:
    """``dataclasses.replace`` for values that nobody has checked."""
    hints = get_type_hints(type(config))
    for name in values:
        if name not in hints:
            raise TrainingError(f"{label}: there is no field {name} ({', '.join(hints)})")
    converted = {n: _converted(v, hints[n], f"{label}: {n}") for n, v in values.items()}
    try:
        return dataclasses.replace(config, **converted)
    except (ValueError, TrainingError) as error:
        raise TrainingError(f"{label}: {error}") from None


def _converted(value: Any, hint: Any, label: str) -> Any:
    wanted = {
        int: "a whole number",
        float: "a number",
        bool: "true or false",
        str: "text",
        tuple[str, ...]: "a list of texts",
        tuple[float, float]: "two numbers",
        tuple[int, int]: "two whole numbers",
        CodecConfig: "a table",
    }[hint]
    if hint is float and _is_number(value):
        return _float(value, label)
    if hint is int and _is_number(value) and isinstance(value, int):
        return value
    if hint in (bool, str, CodecConfig) and isinstance(value, hint):
        return value
    if isinstance(value, list | tuple):
        if hint == tuple[str, ...] and all(isinstance(v, str) for v in value):
            return tuple(value)
        if hint == tuple[float, float] and len(value) == 2 and all(map(_is_number, value)):
            return (_float(value[0], label), _float(value[1], label))
        if hint == tuple[int, int] and len(value) == 2 and all(type(v) is int for v in value):
            return tuple(value)
    raise TrainingError(f"{label} must be {wanted}, not {value!r}")


def _float(value: Any, label: str) -> float:
    try:
        return float(value)
    except OverflowError:
        raise TrainingError(f"{label} is too large a number") from None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
