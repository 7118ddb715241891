"""What a ladder asks of a codec: one picture, sat down at one setting, seen tile by tile."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from waterfill.codec.channels import Channel, GaussianTest, Rounding, Stepped
from waterfill.codec.gains import QUALITIES, lambda_of_quality
from waterfill.codec.latents import Arrival, Latents
from waterfill.codec.model import Codec, finish
from waterfill.codec.noise import Noise
from waterfill.data.images import Picture
from waterfill.errors import CodecError, QualityError

__all__ = [
    "STEPS",
    "OwnCodec",
    "Setting",
    "Sitting",
    "Subject",
    "View",
    "noise_of",
    "stepped",
    "steps_around",
]

#: Relative steps at which a codec of one rate is measured: two coarser, its own, one finer.
STEPS = (2.0, math.sqrt(2.0), 1.0, math.sqrt(0.5))


@dataclass(frozen=True)
class Setting:
    """Where a codec is measured: at a quality, or at a step other than its own.

    Attributes
    ----------
    quality
        1 … 8; NaN for codecs of other make.
    step
        Relative to the codec's own.
    price
        λ in bpp + λ·255²·MSE that the codec works at, at that step; NaN where nobody knows.
    beside
        Whether only the rungs in ``BESIDE`` are measured here, to read them at the codec's PSNR.
    """

    quality: float
    step: float = 1.0
    price: float = math.nan
    beside: bool = False


class View(Protocol):
    """The latents of one tile."""

    @property
    def y(self) -> Tensor:
        """What is to be sent, float32 (M, h, w), in steps."""
        ...

    @property
    def side_bits(self) -> float:
        """Bits of side information."""
        ...

    def rounded(self) -> Arrival:
        """Rounding at its ideal code length."""
        ...

    def through(self, channel: Channel, noise: Noise) -> Arrival:
        """Through a channel by the codec's own prior, contexts in causal order."""
        ...


class Sitting(Protocol):
    """One picture at one setting."""

    @property
    def views(self) -> Sequence[View]:
        """Its tiles, row by row."""
        ...

    @property
    def across(self) -> int:
        """How many tiles make a row."""
        ...

    def file_bits(self) -> float | None:
        """Bits of the file, header and all; None where there is none."""
        ...

    def pixels(self, y_hats: Sequence[Tensor]) -> NDArray[np.uint8]:
        """The picture (H, W, 3) that ŷ of each tile gives."""
        ...

    def reconstruct(self, y_hat: Tensor) -> Tensor:
        """g_s of a piece of ŷ (M, h, w), in [0, 1] units and differentiable."""
        ...


class Subject(Protocol):
    """A codec under measurement."""

    @property
    def name(self) -> str:
        """For tables."""
        ...

    @property
    def has_files(self) -> bool:
        """Whether it makes files, or can only be estimated."""
        ...

    @property
    def in_turn(self) -> bool:
        """Whether its pictures are measured one after the other, each with all threads."""
        ...

    @property
    def device(self) -> torch.device | None:
        """Where its transforms compute; None where nothing says so."""
        ...

    def identity(self) -> dict[str, Any]:
        """What the codec's rows are found again by; raises CodecError where nothing says so."""
        ...

    def settings(self, quality: float | Sequence[float] | None) -> tuple[list[Setting], int]:
        """Settings in ascending order of rate for what a user asks, and which of them is theirs.

        Raises
        ------
        QualityError
            If a quality is out of range or no number, or there is none; if one is asked for of a
            codec of other make.
        CodecError
            If a codec of other make tells a price that is none.
        """
        ...

    def sit(self, picture: Picture, setting: Setting) -> Sitting:
        """A picture at a setting.

        Raises
        ------
        ImageError
            If the picture can't be used.
        CodecError
            If a codec of other make breaks the protocol.
        """
        ...


@dataclass(frozen=True)
class _SteppedView:
    """A view at another step."""

    view: View
    step: float

    @property
    def y(self) -> Tensor:
        return self.view.y / self.step

    @property
    def side_bits(self) -> float:
        return self.view.side_bits

    def rounded(self) -> Arrival:
        return self.through(Rounding(), Noise(0))

    def through(self, channel: Channel, noise: Noise) -> Arrival:
        arrival = self.view.through(Stepped(channel, self.step), noise)
        return Arrival(
            arrival.y_hat / self.step,
            arrival.bits,
            arrival.mu / self.step,
            arrival.sigma / self.step,
            arrival.part,
        )


def stepped(views: Sequence[View], step: float) -> Sequence[View]:
    """Views at a step relative to the codec's own; their latents are in units of the new one."""
    return views if step == 1.0 else [_SteppedView(view, step) for view in views]


def steps_around(quality: float, price: float) -> tuple[list[Setting], int]:
    """Settings of a codec of one rate: its own step is the one that is asked for.

    At a water level θ the slope of R(D) is 1/(2θ ln 2): λ goes as the step to the power of −2.

    Parameters
    ----------
    quality
        The codec's.
    price
        λ at its own step; NaN where nobody knows.
    """
    found = [Setting(quality, step, price / step**2) for step in STEPS]
    return found, STEPS.index(1.0)


#: How many qualities above one that is asked for Gaussian channels are measured at: their noise
#: costs up to two decibels, about what one quality gains.
_ABOVE = 2


def _settings_above(quality: float, high: float) -> list[Setting]:
    """The next higher qualities; beyond the codec's last one, its networks at finer steps."""
    found = []
    for wanted in (quality + extra for extra in range(1, _ABOVE + 1)):
        used = min(wanted, high)
        price = _price(wanted)
        step = math.sqrt(_price(used) / price)
        found.append(Setting(used, step, price, beside=True))
    return found


def _price(quality: float) -> float:
    """λ, above the last quality in the ratio of the last two."""
    last = float(QUALITIES[-1])
    ratio = lambda_of_quality(last) / lambda_of_quality(last - 1.0)
    return lambda_of_quality(min(quality, last)) * math.pow(ratio, max(0.0, quality - last))


class OwnCodec:
    """A codec of this package.

    Parameters
    ----------
    codec
        As it stands; its networks are not touched.
    """

    has_files = True
    in_turn = False

    def __init__(self, codec: Codec) -> None:
        self._codec = codec

    @property
    def name(self) -> str:
        """The codec's, as evaluations have it."""
        return self._codec.short_name

    @property
    def device(self) -> torch.device:
        """Where its networks are."""
        return self._codec.device

    def identity(self) -> dict[str, Any]:
        """Identity of the weights, the side of tiles, and a GPU, whose rounding is another.

        Raises
        ------
        CodecError
            If the weights have none, as those in training.
        """
        codec = self._codec
        if not any(codec.weights_id):
            raise CodecError(f"{codec.name}: has weights that no file holds; save them first")
        known: dict[str, Any] = {"weights": codec.weights_id.hex(), "tile": codec.tile}
        return known if codec.device.type == "cpu" else known | {"device": codec.device.type}

    def settings(self, quality: float | Sequence[float] | None) -> tuple[list[Setting], int]:
        """All whole qualities, or those asked for; of a codec of one rate, steps around it."""
        codec = self._codec
        low, high = codec.config.qualities
        if quality is None:
            chosen = [float(q) for q in QUALITIES if low <= q <= high] or [low]
        else:
            # Text, and an array or a tensor of one number, would be walked through.
            several = isinstance(quality, Iterable) and not isinstance(quality, str)
            alone = not several or getattr(quality, "ndim", 1) == 0
            asked = cast("Sequence[float]", [quality] if alone else quality)
            chosen = sorted({codec.check_quality(q) for q in asked})
            if not chosen:
                raise QualityError("no qualities to measure at")
        if low == high:
            return steps_around(low, lambda_of_quality(low))
        found = [Setting(q, 1.0, lambda_of_quality(q)) for q in chosen]
        main = (len(chosen) - 1) // 2
        return found + (_settings_above(chosen[0], high) if len(chosen) == 1 else []), main

    def sit(self, picture: Picture, setting: Setting) -> Sitting:
        """A picture at a setting."""
        return _OwnSitting(self._codec, picture, setting)


class _OwnSitting:
    def __init__(self, codec: Codec, picture: Picture, setting: Setting) -> None:
        self._codec, self._picture, self._setting = codec, picture, setting
        self._tiles = list(codec.tiles(picture, setting.quality))
        self.across = -(-picture.width // codec.tile)
        # What is derived from one tile is kept; from many it would not fit into memory.
        keeps = _Remembering if len(self._tiles) == 1 else _Fleeting
        self.views = stepped([keeps(tile) for tile in self._tiles], setting.step)

    def file_bits(self) -> float | None:
        if self._setting.step != 1.0:
            return None
        alone = len(self._tiles) == 1
        tiles = self._tiles if alone else (replace(tile) for tile in self._tiles)
        return 8.0 * len(self._codec.pack(self._picture, tiles, self._setting.quality))

    def pixels(self, y_hats: Sequence[Tensor]) -> NDArray[np.uint8]:
        picture = self._picture
        found = self._codec.assemble(
            (y_hat * self._setting.step for y_hat in y_hats),
            self._setting.quality,
            picture.height,
            picture.width,
        )
        return finish(found, grey=picture.grey).pixels

    def reconstruct(self, y_hat: Tensor) -> Tensor:
        return self._codec.reconstruct(y_hat * self._setting.step, self._setting.quality)


class _Fleeting:
    """Latents that keep nothing of what is derived from them."""

    def __init__(self, latents: Latents) -> None:
        self.latents = latents

    @property
    def y(self) -> Tensor:
        return self.latents.y

    @property
    def side_bits(self) -> float:
        return self.latents.side_bits

    def rounded(self) -> Arrival:
        return replace(self.latents).rounded()

    def through(self, channel: Channel, noise: Noise) -> Arrival:
        return self.latents.through(channel, noise)


class _Remembering(_Fleeting):
    """Latents that keep what was derived from them, and the last Gaussian test channel's arrival.

    Three rungs in a row ask for it: plain, with a level for each channel, and with a context.
    """

    _last: tuple[Hashable, Arrival] | None = None

    def rounded(self) -> Arrival:
        return self.latents.rounded()

    def through(self, channel: Channel, noise: Noise) -> Arrival:
        if not isinstance(channel, GaussianTest):
            return super().through(channel, noise)
        levels = torch.as_tensor(channel.level).float().expand(len(self.y)).contiguous()
        key = (levels.numpy().tobytes(), channel.mmse, noise.seeds)
        if self._last is None or self._last[0] != key:
            self._last = (key, super().through(channel, noise))
        return self._last[1]


def noise_of(seed: int, tile: int) -> Noise:
    """The noise that a tile meets on every rung."""
    return Noise((seed + 0x9E3779B1 * tile) & 0x7FFF_FFFF_FFFF_FFFF)
