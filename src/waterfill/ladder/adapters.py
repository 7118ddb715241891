"""Other people's codecs on the ladder: a small protocol, and adapters for what keeps it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from numbers import Real
from typing import Any, Protocol, TypeGuard, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from waterfill.codec.channels import Channel, Rounding, of_channels
from waterfill.codec.densities import Gaussian
from waterfill.codec.latents import Arrival
from waterfill.codec.model import finish
from waterfill.codec.noise import Noise
from waterfill.data.images import Picture
from waterfill.errors import CodecError, ImageError, QualityError
from waterfill.ladder.subjects import Setting, Sitting, View, stepped, steps_around

__all__ = [
    "Adapted",
    "Analysis",
    "ContextCodec",
    "TransformCodec",
    "evaluating",
    "keeps_protocol",
]

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

    A codec may also say its ``price``, λ in bpp + λ·255²·MSE; None where unknown. Pictures are
    measured one after the other. Tensors passed to it are float32 on the CPU, and it may change
    them; those it returns may be on any device.
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
        """μ and σ (1, M, h, w), given what has arrived; what has not is zero in ``y_hat``.

        No decoder has the ``y`` of the analysis: it is NaN here.
        """
        ...


_TRANSFORMS, _CONTEXT = ("analyse", "synthesise"), ("order", "predict")


def _lacking(codec: object, methods: Sequence[str]) -> list[str]:
    return [method for method in methods if not callable(getattr(codec, method, None))]


def keeps_protocol(codec: object) -> TypeGuard[TransformCodec]:
    """Whether a codec has the methods of :class:`TransformCodec`; it need not have a name."""
    return not _lacking(codec, _TRANSFORMS)


def _has_context(codec: object) -> TypeGuard[ContextCodec]:
    return not _lacking(codec, _CONTEXT)


@contextmanager
def evaluating(model: object) -> Iterator[None]:
    """Put a network into evaluation mode, and its modules back into their own modes afterwards.

    Anything but a network is left alone.
    """
    modules = list(model.modules()) if isinstance(model, nn.Module) else []
    modes = [module.training for module in modules]
    if not any(modes):
        yield
        return
    network = modules[0]
    network.eval()
    try:
        yield
    finally:
        network.train(modes[0])
        for module, mode in zip(modules, modes, strict=True):  # some may have been frozen
            module.training = mode


class Adapted:
    """A codec of other make as a ladder sees it.

    Parameters
    ----------
    codec
        It has no files: ``analyse`` says what its side information costs, and its prior the rest.

    Raises
    ------
    CodecError
        If it has not all of the protocol's methods, or is a class and no codec.
    """

    has_files = False
    #: It may keep what it found in a picture, a padding or a mean, until it synthesises that.
    in_turn = True

    def __init__(self, codec: TransformCodec) -> None:
        if isinstance(codec, type):
            raise CodecError(f"{codec.__name__} is a class; pass an instance")
        for method in _lacking(codec, _TRANSFORMS):
            raise CodecError(
                f"{type(codec).__name__} can't be measured: it has no method {method}()"
            )
        lacking = _lacking(codec, _CONTEXT)
        if len(lacking) == 1:  # without its context it would be another codec
            raise CodecError(
                f"{type(codec).__name__} has no method {lacking[0]}(): a context takes "
                "order() and predict()"
            )
        self._codec = codec
        self._channels: int | None = None

    @property
    def name(self) -> str:
        """Its own, or that of its class."""
        return str(getattr(self._codec, "name", type(self._codec).__name__))

    @property
    def device(self) -> None:
        """Known to itself alone."""
        return None

    def identity(self) -> dict[str, Any]:
        """Refused: nothing tells when such a codec has changed.

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
        price = getattr(self._codec, "price", None)
        if price is not None:
            price = _number(price, "price", self.name)
            if price <= 0 or math.isinf(price):
                raise CodecError(f"{self.name}: price can't be {price:g}")
        return steps_around(math.nan, math.nan if price is None else price)

    def sit(self, picture: Picture, setting: Setting) -> Sitting:
        """A picture at a step."""
        if picture.pixel_count > _MOST_PIXELS:
            raise ImageError(
                f"{picture.name}: has {picture.pixel_count:,} pixels; a codec without tiles takes "
                f"at most {_MOST_PIXELS:,} here"
            )
        sitting = _AdaptedSitting(self._codec, self.name, picture, setting.step)
        channels = len(sitting.views[0].y)
        if self._channels not in (None, channels):
            raise CodecError(
                f"{self.name}: y has {channels} channels, and had {self._channels} before"
            )
        self._channels = channels
        return sitting


class _AdaptedSitting:
    across = 1

    def __init__(self, codec: TransformCodec, name: str, picture: Picture, step: float) -> None:
        self._codec, self._name, self._picture, self._step = codec, name, picture, step
        x = torch.from_numpy(picture.pixels.astype(np.float32)).permute(2, 0, 1)[None] / 255.0
        with torch.no_grad(), evaluating(codec):
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
        with evaluating(self._codec):
            x_hat = self._codec.synthesise(y_hat[None] * self._step)
        if not isinstance(x_hat, Tensor) or x_hat.ndim != 4 or tuple(x_hat.shape[:2]) != (1, 3):
            raise CodecError(
                f"{self._name}: synthesise() must give a tensor (1, 3, H, W), not {_said(x_hat)}"
            )
        if not bool(torch.isfinite(x_hat).all()):
            raise CodecError(f"{self._name}: synthesise() gave values that are not finite")
        return _real(x_hat, "what synthesise() gives", self._name)[0]


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
        if not _has_context(self._codec):
            mu, sigma = self._analysis.mu.expand_as(y)[0], self._analysis.sigma.expand_as(y)[0]
            crossing = channel(self.y, Gaussian(mu, sigma), noise)
            at_once = torch.zeros((), dtype=torch.int32).expand(self.y.shape)
            return Arrival(*crossing, mu, sigma, at_once)
        with evaluating(self._codec):
            return self._walk(self._codec, channel, noise)

    def _walk(self, codec: ContextCodec, channel: Channel, noise: Noise) -> Arrival:
        """In the codec's own order."""
        y = self._analysis.y
        arrival = Arrival.blank(self.y.shape)
        seen = torch.zeros_like(self.y, dtype=torch.bool)
        told = replace(self._analysis, y=torch.full_like(y, math.nan))  # no decoder has it
        for number, now in enumerate(self._masks(codec)):
            if bool((seen & now).any()):
                raise CodecError(f"{self._name}: order() has some latents arrive twice")
            seen |= now
            # Copies: what it did to them in place would be done to what is measured.
            predicted = codec.predict(_copied(told), arrival.y_hat[None].clone())
            if not isinstance(predicted, tuple | list) or len(predicted) != 2:
                raise CodecError(
                    f"{self._name}: predict() must give μ and σ, not {_said(predicted)}"
                )
            mu, sigma = (_plane(p, n, y, self._name) for p, n in zip(predicted, "μσ", strict=True))
            sigma = sigma.clamp_min(_SMALLEST_SIGMA)
            for channels, places in _pieces(now):
                own, mean, deviation = (
                    plane[channels].flatten(1)[:, places] for plane in (self.y, mu, sigma)
                )
                crossing = of_channels(channel, channels)(own, Gaussian(mean, deviation), noise)
                values = (*crossing, mean, deviation, torch.full_like(own, number))
                for plane, value in zip(arrival, values, strict=True):
                    plane[channels].flatten(1)[:, places] = value.to(plane.dtype)
        if not bool(seen.all()):
            raise CodecError(f"{self._name}: order() leaves some latents out")
        return arrival

    def _masks(self, codec: ContextCodec) -> Iterator[Tensor]:
        """What arrives when, (M, h, w), each checked as its turn comes."""
        y = self._analysis.y
        order: object = codec.order(tuple(y.shape))
        if not isinstance(order, Iterable):
            raise CodecError(f"{self._name}: order() must give masks, not {_said(order)}")
        for mask in order:
            if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
                kind = mask.dtype if isinstance(mask, Tensor) else _said(mask)
                raise CodecError(f"{self._name}: masks of order() must be bool tensors, not {kind}")
            yield _expanded(mask.cpu(), "a mask of order()", y, self._name)[0]


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


def _said(value: object) -> str:
    """What has been given, in an error: its shape, or its kind."""
    return str(tuple(value.shape)) if isinstance(value, Tensor) else type(value).__name__


def _number(value: object, what: str, name: str) -> float:
    """One number, of Python, of NumPy or in a tensor."""
    said = _said(value)
    if isinstance(value, Tensor | np.ndarray) and math.prod(value.shape) == 1:
        value = value.item()
    if isinstance(value, bool) or not isinstance(value, Real):
        raise CodecError(f"{name}: {what} must be a number, not {said}")
    return float(value)


def _real(value: Tensor, what: str, name: str) -> Tensor:
    if value.is_complex():
        raise CodecError(f"{name}: {what} must be real, not {value.dtype}")
    return value.float().cpu()


def _expanded(value: Tensor, what: str, y: Tensor, name: str) -> Tensor:
    try:
        return value.expand_as(y)
    except RuntimeError:
        raise CodecError(
            f"{name}: {what} has the shape {_said(value)}, and y {tuple(y.shape)}"
        ) from None


def _plane(value: object, what: str, y: Tensor, name: str) -> Tensor:
    """A plane of the prior, checked."""
    if not isinstance(value, Tensor):
        raise CodecError(f"{name}: {what} must be a tensor, not {_said(value)}")
    plane = _expanded(_real(value.detach(), what, name), what, y, name)
    if not bool(torch.isfinite(plane).all()):
        raise CodecError(f"{name}: {what} has values that are not finite")
    if what == "σ" and not bool((plane > 0).all()):
        raise CodecError(f"{name}: σ must be positive")
    return plane[0]


def _copied(analysis: Analysis) -> Analysis:
    """With tensors that nobody else can alter."""
    y, mu, sigma = (
        part.detach().clone() if isinstance(part, Tensor) else part
        for part in (analysis.y, analysis.mu, analysis.sigma)
    )
    return replace(analysis, y=y, mu=mu, sigma=sigma)


def _checked(analysis: object, codec: TransformCodec, name: str) -> Analysis:
    """A copy of what ``analyse`` gave, or the reason why it can't be used."""
    if not isinstance(analysis, Analysis):
        raise CodecError(f"{name}: analyse() must give an Analysis, not {_said(analysis)}")
    y = analysis.y
    if not isinstance(y, Tensor) or y.ndim != 4 or y.shape[0] != 1 or not y.numel():
        raise CodecError(f"{name}: y must be a tensor (1, M, h, w), not {_said(y)}")
    y = _real(y.detach(), "y", name)
    if not bool(torch.isfinite(y).all()):
        raise CodecError(f"{name}: y has values that are not finite")
    side = _number(analysis.side_bits, "side_bits", name)
    if not 0 <= side < math.inf:
        raise CodecError(f"{name}: side_bits can't be {side}")
    analysis = _copied(replace(analysis, y=y, side_bits=side))
    if _has_context(codec):
        return analysis
    y = analysis.y
    mu, sigma = (_plane(p, n, y, name) for p, n in ((analysis.mu, "μ"), (analysis.sigma, "σ")))
    return Analysis(y, mu[None], sigma[None].clamp_min(_SMALLEST_SIGMA), side)
