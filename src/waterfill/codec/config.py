"""The architecture of a codec: which transform, which prior, how wide."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from waterfill.codec.gains import QUALITIES
from waterfill.codec.transforms.blocks import BLOCK

__all__ = ["CONTEXTS", "SIDES", "TRANSFORMS", "CodecConfig"]

#: g_a and g_s; the side in pixels of a latent's cell, and the planes of the pictures.
TRANSFORMS = {
    "table1": (16, 3),
    "table2": (8, 1),
    "klt": (16, 3),
    "residual": (16, 3),
    "attention": (16, 3),
}
SIDES = ("none", "scale", "mean-scale", "mean-scale-wide", "residual")
CONTEXTS = ("none", "masked", "space-channel")
#: Pairs of convolutions in the filters around a block transform, where nothing else is said.
SHALLOW = (1, 3)
#: Sides of a latent plane are multiples of this: two strides of 2 in the hyper-networks.
HYPER_STRIDE = 4


@dataclass(frozen=True)
class CodecConfig:
    """The architecture of a codec.

    Attributes
    ----------
    n, m, hyper
        Channels inside the transforms, of the latents, and of the hyper-networks and z.
    transform
        g_a and g_s: ``table1`` and ``table2`` of the rate–distortion limits paper (the latter for
        one plane, at an eighth of the resolution), ``residual`` and ``attention`` of Cheng et al.
        2020, or ``klt``, a Karhunen–Loève transform of 16×16 blocks between two learned
        filters (at most 768 latents).
    side
        What is sent ahead of y: ``none`` (a factorised prior, Ballé 2017), or z for the ``scale``
        of each latent (Ballé 2018), or for mean and scale by Table I's networks (``mean-scale``),
        those of Minnen 2018 (``mean-scale-wide``) or of Cheng 2020 (``residual``).
    context
        What is known of latents from others that are decoded already: ``none``; ``masked``, a 5×5
        causal neighbourhood and 1×1 layers (Minnen 2018); ``space-channel``, uneven groups of
        channels with a checkerboard in each (as ELIC, He 2022).
    pairs
        For ``klt``: pairs of convolutions in the filters of g_a and of g_s.
    conditional
        Networks are told the quality: the filters of ``klt``, and a ``space-channel`` context. For
        a codec of variable rate.
    mixtures
        Gaussians in a latent's density; more than one needs a context ``masked`` (Cheng 2020).
    linear_scale
        The prior's networks give σ, at least .11, instead of log₂ σ. For weights made elsewhere.
    centred
        The transforms see pixels in [−½, ½], and grey beyond a picture's edges; otherwise in [0, 1]
        and black, as weights made elsewhere do.
    qualities
        Lowest and highest quality that the codec covers. One number twice makes a codec for one λ,
        which has no gains.

    Raises
    ------
    ValueError
        For values out of range, or parts that don't go together.
    """

    n: int = 64
    m: int = 160
    hyper: int = 64
    transform: str = "table1"
    side: str = "mean-scale"
    context: str = "none"
    pairs: tuple[int, int] = SHALLOW
    conditional: bool = False
    mixtures: int = 1
    linear_scale: bool = False
    centred: bool = True
    qualities: tuple[float, float] = (float(QUALITIES[0]), float(QUALITIES[-1]))

    def __post_init__(self) -> None:
        for name in ("n", "m", "hyper"):
            width = getattr(self, name)
            if not isinstance(width, int) or not 0 < width <= 4096:
                raise ValueError(f"{name} must be an integer in 1 … 4096, not {width!r}")
        for name, known in (("transform", TRANSFORMS), ("side", SIDES), ("context", CONTEXTS)):
            if getattr(self, name) not in known:
                raise ValueError(
                    f"{name} must be one of {', '.join(known)}, not {getattr(self, name)!r}"
                )
        if self.transform == "klt" and self.m > 3 * BLOCK**2:
            raise ValueError(f"klt needs at most {3 * BLOCK**2} latents, not {self.m}")
        pairs = tuple(self.pairs) if isinstance(self.pairs, list | tuple) else ()
        if len(pairs) != 2 or not all(type(count) is int and 1 <= count <= 64 for count in pairs):
            raise ValueError(f"pairs must be two integers in 1 … 64, not {self.pairs!r}")
        object.__setattr__(self, "pairs", pairs)
        if self.transform != "klt" and pairs != SHALLOW:
            raise ValueError(f"pairs are of the transform 'klt', not of {self.transform!r}")
        if self.transform == "attention" and (self.n % 2 or self.m % 2):
            raise ValueError(f"attention needs even widths, not n = {self.n}, m = {self.m}")
        if self.context != "none" and not self.predicts_means:
            raise ValueError(f"a context needs side information of means, not {self.side!r}")
        for name in ("conditional", "linear_scale", "centred"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"{name} must be true or false, not {getattr(self, name)!r}")
        if not isinstance(self.mixtures, int) or not 1 <= self.mixtures <= 8:
            raise ValueError(f"mixtures must be an integer in 1 … 8, not {self.mixtures!r}")
        if self.mixtures > 1 and self.context != "masked":
            raise ValueError("mixtures need the context 'masked'")
        try:
            low, high = (float(quality) for quality in self.qualities)
        except (TypeError, ValueError, OverflowError):
            raise ValueError(f"qualities must be two numbers, not {self.qualities!r}") from None
        if not QUALITIES[0] <= low <= high <= QUALITIES[-1]:
            raise ValueError(f"qualities must lie in 1 … 8, low first, not {self.qualities}")
        if self.side == "none" and low < high:
            raise ValueError("a factorised prior covers one quality: its tables are stored")
        if self.context == "space-channel" and self.linear_scale:
            raise ValueError("a space-channel context corrects log₂ σ, not a linear scale")
        object.__setattr__(self, "qualities", (low, high))
        if self.conditional and not self.variable_rate:
            raise ValueError("a codec of one quality can't be conditional")
        if self.conditional and self.transform != "klt" and self.context != "space-channel":
            raise ValueError(
                "conditional are the transform 'klt' and the context 'space-channel', not "
                f"{self.transform!r} and {self.context!r}"
            )

    @property
    def variable_rate(self) -> bool:
        """Whether one set of weights covers a range of qualities."""
        return self.qualities[0] < self.qualities[1]

    @property
    def predicts_means(self) -> bool:
        """Whether side information tells the latents' means, not their scales alone."""
        return self.side not in ("none", "scale")

    @property
    def stride(self) -> int:
        """Side in pixels of a latent's cell."""
        return TRANSFORMS[self.transform][0]

    @property
    def planes(self) -> int:
        """Planes of the pictures: 3, or 1 for a codec of grey ones."""
        return TRANSFORMS[self.transform][1]

    @property
    def alignment(self) -> int:
        """Sides of a picture are padded to multiples of this."""
        return self.stride * HYPER_STRIDE

    def to_dict(self) -> dict[str, Any]:
        """The architecture as a JSON-able mapping."""
        return asdict(self) | {"qualities": list(self.qualities), "pairs": list(self.pairs)}
