"""Codecs of other make on the ladder: a small protocol, and what to do with one that keeps it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from waterfill.codec.channels import Channel, Rounding, of_channels
from waterfill.codec.densities import Gaussian
from waterfill.codec.latents import Arrival
from waterfill.codec.model import finish
from waterfill.codec.noise import Noise
from waterfill.data.images import Picture
from waterfill.errors import CodecError, ImageError, QualityError
from waterfill.ladder.subjects import Setting, Sitting, View, stepped, steps_around

__all__ = ["Adapted", "Analysis", "ContextCodec", "TransformCodec"]

#: Smallest σ that is taken seriously, in steps.
_SMALLEST_SIGMA = 2.0**-6
_MOST_PIXELS = 50_000_000


@dataclass(frozen=True)
class Analysis:
    """What a codec makes of a picture.

    Attributes
    ----------
    y
        Latents (1, M, h, w) in quantisation steps: rounding them is what the codec does.
    mu, sigma
        Mean and deviation that its prior gives them, of the same shape or broadcast to it; of a
        context model, what side information alone says, in any form that ``predict`` takes.
    side_bits
        What the side information costs, bits.
    """

    y: Tensor
    mu: Tensor
    sigma: Tensor
    side_bits: float = 0.0


@runtime_checkable
class TransformCodec(Protocol):
    """What a codec has to do to be measured. Gradients are welcome but not needed.

    A codec may also say its ``price``, λ in bpp + λ·255²·MSE.
    """

    @property
    def name(self) -> str:
        """For tables."""
        ...

    def analyse(self, x: Tensor) -> Analysis:
        """Latents and prior of a picture (1, 3, H, W) in [0, 1], of any size."""
        ...

    def synthesise(self, y_hat: Tensor) -> Tensor:
        """The picture (1, 3, H', W') of latents (1, M, h, w), at least as large as it was."""
        ...


@runtime_checkable
class ContextCodec(TransformCodec, Protocol):
    """A codec whose prior looks at latents that have arrived."""

    def order(self, shape: Sequence[int]) -> Iterator[Tensor]:
        """Which latents arrive when: bool masks, broadcast to (1, M, h, w), that cover all once."""
        ...

    def predict(self, analysis: Analysis, y_hat: Tensor) -> tuple[Tensor, Tensor]:
        """μ and σ (1, M, h, w), given what has arrived; what has not is zero in ``y_hat``."""
        ...


class Adapted:
    """A codec of other make as a ladder sees it.

    Parameters
    ----------
    codec
        It has no files: ``analyse`` says what its side information costs, and its prior the rest.
    """

    has_files = False

    def __init__(self, codec: TransformCodec) -> None:
        for method in ("analyse", "synthesise"):
            if not callable(getattr(codec, method, None)):
                raise CodecError(
                    f"{type(codec).__name__} is no codec that can be measured: "
                    f"it has no method {method}()"
                )
        self._codec = codec

    @property
    def name(self) -> str:
        """Its own, or that of its class."""
        return str(getattr(self._codec, "name", type(self._codec).__name__))

    def identity(self) -> dict[str, Any]:
        """None: nothing says when it has become another codec.

        Raises
        ------
        CodecError
            Always.
        """
        raise CodecError(f"{self.name}: rows of a codec of other make can't be kept in a folder")

    def settings(self, quality: float | Sequence[float] | None) -> tuple[list[Setting], int]:
        """Steps around its own."""
        if quality is not None:
            raise QualityError(f"{self.name} has one rate, and no quality to choose")
        return steps_around(math.nan, float(getattr(self._codec, "price", math.nan)))

    def sit(self, picture: Picture, setting: Setting) -> Sitting:
        """A picture at a step."""
        if picture.pixel_count > _MOST_PIXELS:
            raise ImageError(
                f"{picture.name}: has {picture.pixel_count:,} pixels; a codec without tiles takes "
                f"at most {_MOST_PIXELS:,} here"
            )
        return _AdaptedSitting(self._codec, self.name, picture, setting.step)


class _AdaptedSitting:
    across = 1

    def __init__(self, codec: TransformCodec, name: str, picture: Picture, step: float) -> None:
        self._codec, self._name, self._picture, self._step = codec, name, picture, step
        x = torch.from_numpy(picture.pixels.astype(np.float32)).permute(2, 0, 1)[None] / 255.0
        with torch.no_grad():
            analysis = _checked(codec.analyse(x), codec, name)
        self.views: Sequence[View] = stepped([_AdaptedView(codec, name, analysis)], step)

    def file_bits(self) -> float | None:
        return None

    @torch.no_grad()
    def pixels(self, y_hats: Sequence[Tensor]) -> NDArray[np.uint8]:
        (y_hat,) = y_hats
        height, width = self._picture.height, self._picture.width
        x_hat = self.reconstruct(y_hat)
        if x_hat.shape[1] < height or x_hat.shape[2] < width:
            raise CodecError(
                f"{self._name}: synthesise() gave {tuple(x_hat.shape)} for a picture of "
                f"{height}×{width}"
            )
        shown = torch.round(x_hat[:, :height, :width].clamp(0.0, 1.0) * 255.0)
        pixels = np.ascontiguousarray(shown.to(torch.uint8).permute(1, 2, 0).numpy())
        return finish(pixels, grey=self._picture.grey).pixels

    def reconstruct(self, y_hat: Tensor) -> Tensor:
        x_hat = self._codec.synthesise(y_hat[None] * self._step)
        if not isinstance(x_hat, Tensor) or x_hat.ndim != 4 or tuple(x_hat.shape[:2]) != (1, 3):
            raise CodecError(
                f"{self._name}: synthesise() must give a tensor (1, 3, H, W), not {_shape(x_hat)}"
            )
        if not bool(torch.isfinite(x_hat).all()):
            raise CodecError(f"{self._name}: synthesise() gave values that are not finite")
        return x_hat[0].float().cpu()


class _AdaptedView:
    def __init__(self, codec: TransformCodec, name: str, analysis: Analysis) -> None:
        self._codec, self._name, self._analysis = codec, name, analysis
        self.y = analysis.y[0]
        self.side_bits = analysis.side_bits

    def rounded(self) -> Arrival:
        return self.through(Rounding(), Noise(0))

    @torch.no_grad()
    def through(self, channel: Channel, noise: Noise) -> Arrival:
        y = self._analysis.y
        if not isinstance(self._codec, ContextCodec):
            mu, sigma = self._analysis.mu.expand_as(y)[0], self._analysis.sigma.expand_as(y)[0]
            crossing = channel(self.y, Gaussian(mu, sigma), noise)
            return Arrival(crossing.y_hat, crossing.bits, mu, sigma)
        arrival = Arrival(*(torch.zeros(self.y.shape) for _ in Arrival._fields))
        seen = torch.zeros_like(self.y, dtype=torch.bool)
        for mask in self._codec.order(tuple(y.shape)):
            now = mask.expand_as(y)[0]
            if bool((seen & now).any()):
                raise CodecError(f"{self._name}: order() has some latents arrive twice")
            seen |= now
            predicted = self._codec.predict(self._analysis, arrival.y_hat[None])
            mu, sigma = (_plane(p, n, y, self._name) for p, n in zip(predicted, "μσ", strict=True))
            sigma = sigma.clamp_min(_SMALLEST_SIGMA)
            for channels, places in _pieces(now):
                own, mean, deviation = (
                    plane[channels].flatten(1)[:, places] for plane in (self.y, mu, sigma)
                )
                crossing = of_channels(channel, channels)(own, Gaussian(mean, deviation), noise)
                for plane, value in zip(arrival, (*crossing, mean, deviation), strict=True):
                    plane[channels].flatten(1)[:, places] = value
        if not bool(seen.all()):
            raise CodecError(f"{self._name}: order() leaves some latents out")
        return arrival


def _pieces(now: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Latents that arrive at once, (M, h, w), as channels by places: one piece if they are one."""
    flat = now.flatten(1)
    some = torch.nonzero(flat.any(1))[:, 0].tolist()
    if not some:
        return
    rows, whole = flat[some], slice(some[0], some[-1] + 1)
    if len(some) == whole.stop - whole.start and bool((rows == rows[0]).all()):
        yield whole, torch.nonzero(rows[0])[:, 0]
        return
    for channel in some:
        yield slice(channel, channel + 1), torch.nonzero(flat[channel])[:, 0]


def _shape(value: object) -> str:
    return str(tuple(value.shape)) if isinstance(value, Tensor) else type(value).__name__


def _plane(value: object, what: str, y: Tensor, name: str) -> Tensor:
    """A plane of the prior, checked."""
    if not isinstance(value, Tensor):
        raise CodecError(f"{name}: {what} must be a tensor, not {_shape(value)}")
    try:
        plane = value.detach().float().cpu().expand_as(y)
    except RuntimeError:
        raise CodecError(
            f"{name}: {what} has the shape {_shape(value)}, and y {tuple(y.shape)}"
        ) from None
    if not bool(torch.isfinite(plane).all()):
        raise CodecError(f"{name}: {what} has values that are not finite")
    if what == "σ" and not bool((plane > 0).all()):
        raise CodecError(f"{name}: σ must be positive")
    return plane[0]


def _checked(analysis: object, codec: TransformCodec, name: str) -> Analysis:
    """What ``analyse`` gave, or the reason why it can't be used."""
    if not isinstance(analysis, Analysis):
        raise CodecError(f"{name}: analyse() must give an Analysis, not {_shape(analysis)}")
    y = analysis.y
    if not isinstance(y, Tensor) or y.ndim != 4 or y.shape[0] != 1 or not y.numel():
        raise CodecError(f"{name}: y must be a tensor (1, M, h, w), not {_shape(y)}")
    if not bool(torch.isfinite(y).all()):
        raise CodecError(f"{name}: y has values that are not finite")
    side = float(analysis.side_bits)
    if not 0 <= side < math.inf:
        raise CodecError(f"{name}: side_bits can't be {side}")
    y = y.detach().float().cpu()
    if isinstance(codec, ContextCodec):
        return Analysis(y, analysis.mu, analysis.sigma, side)
    mu, sigma = (_plane(p, n, y, name) for p, n in ((analysis.mu, "μ"), (analysis.sigma, "σ")))
    return Analysis(y, mu[None], sigma[None].clamp_min(_SMALLEST_SIGMA), side)
