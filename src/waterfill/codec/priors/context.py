"""Contexts: what latents that are known already say of those that are not.

A context cuts the latents into parts, in an order that both ends of a stream follow, and predicts
each part from side information and the parts before it. ``forward`` is differentiable and trains;
``coded`` gives an integer twin whose walk yields the same parts with exact predictions.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple, Protocol, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from waterfill.codec.channels import Crossing
from waterfill.codec.conditioning import TERMS
from waterfill.codec.config import CodecConfig
from waterfill.codec.fixed_point import (
    FixedPointNetwork,
    integer_weights,
    leaky,
    settled,
    shifted_sums,
)

__all__ = [
    "CAUSAL_NEIGHBOURS",
    "CodedContext",
    "Context",
    "MaskedContext",
    "NoContext",
    "Part",
    "Send",
    "SpaceChannelContext",
    "Step",
    "context_of",
]


class Part(Protocol):
    """A set of latents that are coded at once."""

    @property
    def channels(self) -> slice:
        """The channels that it has latents of."""
        ...

    def take(self, x: Tensor) -> Tensor:
        """Its latents, of a plane (C, h, w)."""
        ...

    def put(self, x: Tensor, values: Tensor) -> None:
        """Put its latents into a plane."""
        ...


class Step(NamedTuple):
    """A part, and what is predicted of it: integers, parameters first, then as the part."""

    part: Part
    parameters: Tensor


#: Sends part of y through the channel: parameters (B, P, …), latents (B, C, …), and which channels.
Send = Callable[[Tensor, Tensor, slice], Crossing]


class CodedContext(Protocol):
    """Integer twin of a context."""

    def walk(self, features: Tensor, known: Tensor) -> Iterator[Step]:
        """Parts in the order of coding.

        Parameters
        ----------
        features
            What side information says, integers (F, h, w).
        known
            ŷ before gains, integers (M, h, w). The caller fills in each part before it asks for
            the next.
        """
        ...


class Context(nn.Module, ABC):
    """How parts of y are predicted from one another."""

    @abstractmethod
    def forward(self, features: Tensor, y: Tensor, send: Send) -> Crossing:
        """Send all of y, differentiable.

        Parameters
        ----------
        features
            What side information says, (B, F, h, w).
        y
            Latents before gains, (B, M, h, w).
        send
            The channel. What it returns as ŷ is in units of ``y``.
        """

    def exact(self, features: Tensor, y: Tensor, send: Send) -> Crossing:
        """The same through a channel that changes nothing, so that the neighbours are known."""
        return self(features, y, send)  # type: ignore[no-any-return]

    def in_order(self, features: Tensor, y: Tensor, send: Send) -> Crossing:
        """The same where ``forward`` is an approximation: each part sees what has been decoded."""
        crossing: Crossing = self(features, y, send)
        return crossing

    @abstractmethod
    def coded(self) -> CodedContext:
        """The integer twin for the weights as they are."""


@dataclass(frozen=True)
class _Whole:
    """Every latent at once."""

    channels = slice(None)

    def take(self, x: Tensor) -> Tensor:
        return x

    def put(self, x: Tensor, values: Tensor) -> None:
        x.copy_(values)


class NoContext(Context):
    """Side information alone."""

    def forward(self, features: Tensor, y: Tensor, send: Send) -> Crossing:
        """All at once."""
        return send(features, y, slice(None))

    def coded(self) -> CodedContext:
        """There is nothing to evaluate."""
        return _CodedNoContext()


class _CodedNoContext:
    def walk(self, features: Tensor, known: Tensor) -> Iterator[Step]:
        yield Step(_Whole(), features)


#: Offsets (row, column) of the neighbours in a 5×5 window that come before a latent in raster
#: order.
CAUSAL_NEIGHBOURS = [(i, j) for i in (-2, -1, 0) for j in range(-2, 3) if i < 0 or j < 0]


@dataclass(frozen=True)
class _Wavefront:
    """The latents of all channels at some places."""

    rows: Tensor
    columns: Tensor
    channels = slice(None)

    def take(self, x: Tensor) -> Tensor:
        return x[:, self.rows, self.columns]

    def put(self, x: Tensor, values: Tensor) -> None:
        x[:, self.rows, self.columns] = values


class MaskedContext(Context):
    """A causal 5×5 neighbourhood, and 1×1 layers that join it with side information.

    In training μ depends on ŷ, and ŷ on μ. A first pass, without gradient, takes rounded latents
    for the neighbours, and a second one the ŷ of the first. Coding knows no such approximation: a
    latent at (row i, column j) needs those at t' < t = j + 3i only, so all that share a t are coded
    at once, in w + 3h − 3 steps for a plane of h × w.

    Parameters
    ----------
    m
        Channels of the latents; that many times two come from side information.
    outputs
        Parameters for each place.

    References
    ----------
    Minnen, Ballé, Toderici, "Joint autoregressive and hierarchical priors", NeurIPS 2018.
    """

    def __init__(self, m: int, outputs: int) -> None:
        super().__init__()
        self.outputs = outputs
        self.neighbours = nn.Conv2d(m, 2 * m, 5, padding=2)
        widths = (4 * m, 10 * m // 3, 8 * m // 3, outputs)
        self.layers = nn.Sequential(
            nn.Conv2d(widths[0], widths[1], 1),
            nn.LeakyReLU(),
            nn.Conv2d(widths[1], widths[2], 1),
            nn.LeakyReLU(),
            nn.Conv2d(widths[2], widths[3], 1),
        )

    def parameters_given(self, features: Tensor, y_hat: Tensor) -> Tensor:
        """What is predicted of each place if the neighbours are those of ``y_hat``."""
        # The rows above and what stands before it in its own: what is masked isn't multiplied.
        weight = self.neighbours.weight
        above = F.conv2d(F.pad(y_hat, (2, 2, 2, -1)), weight[:, :, :2], self.neighbours.bias)
        near = above + F.conv2d(F.pad(y_hat, (2, -1)), weight[:, :, 2:3, :2])
        return cast(Tensor, self.layers(torch.cat([features, near.float()], 1))).float()

    def forward(self, features: Tensor, y: Tensor, send: Send) -> Crossing:
        """In two passes."""
        with torch.no_grad():
            nothing = y.new_zeros(len(y), self.outputs, *y.shape[2:])
            guess = send(nothing, y, slice(None)).y_hat
            guess = send(self.parameters_given(features, guess), y, slice(None)).y_hat
        neighbours = y + (guess - y).detach()
        return send(self.parameters_given(features, neighbours), y, slice(None))

    def exact(self, features: Tensor, y: Tensor, send: Send) -> Crossing:
        """In one pass: there is nothing to guess."""
        return send(self.parameters_given(features, y), y, slice(None))

    @torch.no_grad()
    def in_order(self, features: Tensor, y: Tensor, send: Send) -> Crossing:
        """In as many passes as a stream has steps; each latent is kept as its own pass sends it."""
        height, width = y.shape[2:]
        t = (
            torch.arange(width, device=y.device)
            + 3 * torch.arange(height, device=y.device)[:, None]
        )
        y_hat, bits = torch.zeros_like(y), torch.zeros_like(y)
        for step in range(width + 3 * height - 3):
            sent = send(self.parameters_given(features, y_hat), y, slice(None))
            y_hat = torch.where(t == step, sent.y_hat, y_hat)
            bits = torch.where(t == step, sent.bits, bits)
        return Crossing(y_hat, bits)

    def coded(self) -> CodedContext:
        """Integer twin of the weights as they are."""
        return _CodedMaskedContext(self)


class _CodedMaskedContext:
    """Matrix products over the places of a wavefront."""

    def __init__(self, context: MaskedContext) -> None:
        taps = [(i + 2) * 5 + j + 2 for i, j in CAUSAL_NEIGHBOURS]
        near = context.neighbours
        # Neighbour by neighbour, so that a row of the gathered latents meets a row of weights.
        chosen = near.weight.detach().flatten(2)[:, :, taps].permute(0, 2, 1).flatten(1)
        self._near = integer_weights(chosen, near.bias, (1,))
        self._layers: list[tuple[Tensor, Tensor]] = []
        self._slopes: list[float] = []
        for layer in context.layers:
            if isinstance(layer, nn.LeakyReLU):
                self._slopes.append(layer.negative_slope)
            else:
                assert isinstance(layer, nn.Conv2d)
                self._layers.append(integer_weights(layer.weight.flatten(1), layer.bias, (1,)))

    @torch.no_grad()
    def walk(self, features: Tensor, known: Tensor) -> Iterator[Step]:
        m, height, width = known.shape
        sides = features.shape[0]
        (first, bias), *others = self._layers
        # The first layer's share of side information is the same whatever ŷ is: all at once.
        told = torch.addmm(bias, features.flatten(1).T, first[:, :sides].T)
        told = told.view(height, width, -1)
        joined = first[:, sides:].T.contiguous()
        inner = [(weight.T.contiguous(), offset) for weight, offset in others]
        near, near_bias = self._near[0].T.contiguous(), self._near[1]
        # ŷ with a margin, places first: what a latent's neighbours hold is then gathered by rows.
        margin = width + 4
        canvas = known.new_zeros((height + 2) * margin, m)
        offsets = torch.tensor([(i + 2) * margin + j + 2 for i, j in CAUSAL_NEIGHBOURS])
        for t in range(width + 3 * height - 3):
            rows = torch.arange(max(0, (t - width + 3) // 3), min(height - 1, t // 3) + 1)
            columns = t - 3 * rows
            places = rows * margin + columns
            gathered = canvas.index_select(0, (places[:, None] + offsets).flatten())
            x = settled(torch.addmm(near_bias, gathered.view(len(rows), -1), near))
            x = settled(torch.addmm(told[rows, columns], x, joined))
            for slope, (weight, offset) in zip(self._slopes, inner, strict=True):
                x = settled(torch.addmm(offset, leaky(x, slope), weight))
            part = _Wavefront(rows, columns)
            yield Step(part, x.T)
            canvas[places + 2 * margin + 2] = part.take(known).T


def _halves(x: Tensor) -> tuple[Tensor, Tensor]:
    """The two colours of a checkerboard over (…, h, w), each packed to (…, h, w/2)."""
    *rest, height, width = x.shape
    cells = x.reshape(*rest, height // 2, 2, width // 2, 2)
    first = torch.stack([cells[..., 0, :, 0], cells[..., 1, :, 1]], -2)
    second = torch.stack([cells[..., 0, :, 1], cells[..., 1, :, 0]], -2)
    return first.flatten(-3, -2), second.flatten(-3, -2)


def _merged(first: Tensor, second: Tensor) -> Tensor:
    """What :func:`_halves` took apart."""
    *rest, height, half = first.shape
    a, b = (part.reshape(*rest, height // 2, 2, half) for part in (first, second))
    even = torch.stack([a[..., 0, :], b[..., 0, :]], -1).flatten(-2)
    odd = torch.stack([b[..., 1, :], a[..., 1, :]], -1).flatten(-2)
    return torch.stack([even, odd], -2).flatten(-3, -2)


@dataclass(frozen=True)
class _Colour:
    """One colour of the checkerboard, of a group of channels."""

    channels: slice
    second: bool

    def take(self, x: Tensor) -> Tensor:
        return torch.stack(self._rows(x), -2).flatten(-3, -2)

    def put(self, x: Tensor, values: Tensor) -> None:
        for row, part in enumerate(self._rows(x)):
            part.copy_(values[:, row::2])

    def _rows(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Even and odd rows of it: the latter begin with the other colour."""
        group, first = x[self.channels], int(self.second)
        return group[:, 0::2, first::2], group[:, 1::2, 1 - first :: 2]


#: Where groups of channels end, as shares of all: 16, 16, 32, 64 and 192 of 320 in ELIC.
_GROUP_ENDS = (0.05, 0.1, 0.2, 0.4, 1.0)
_WIDEST = 128


class _Group(nn.Module):
    """The networks that predict one group of channels."""

    def __init__(self, start: int, stop: int, terms: int) -> None:
        super().__init__()
        size = stop - start
        width = min(2 * size, _WIDEST)
        self.across = nn.Conv2d(start, width, 5, padding=2) if start else None
        self.inside = nn.Conv2d(size, width, 5, padding=2)
        inputs = 2 * size + width * (2 if start else 1) + terms
        last = nn.Conv2d(2 * width, 2 * size, 1)
        nn.init.zeros_(last.weight)
        assert last.bias is not None
        nn.init.zeros_(last.bias)
        self.join = nn.Sequential(nn.Conv2d(inputs, 2 * width, 1), nn.LeakyReLU(), last)


class SpaceChannelContext(Context):
    """Uneven groups of channels, one after the other, with a checkerboard in each.

    Side information predicts mean and scale of a latent, as without a context, and what is known of
    other latents corrects that: nothing until trained, so that a codec without context can be taken
    up where it stands. Ten steps code a picture of any size.

    Parameters
    ----------
    m
        Channels of the latents; that many means come from side information, and that many scales.
    terms
        Further planes of side information behind those, of which all groups are told.

    References
    ----------
    He et al., "ELIC: efficient learned image compression with unevenly grouped space-channel
    contextual adaptive coding", CVPR 2022.
    """

    def __init__(self, m: int, terms: int = 0) -> None:
        super().__init__()
        ends = sorted({max(1, round(share * m)) for share in _GROUP_ENDS})
        self.bounds = list(zip([0, *ends[:-1]], ends, strict=True))
        self.groups = nn.ModuleList(_Group(start, stop, terms) for start, stop in self.bounds)

    def forward(self, features: Tensor, y: Tensor, send: Send) -> Crossing:
        """Group by group, colour by colour, as in coding."""
        received: list[Tensor] = []
        bits: list[Tensor] = []
        features, terms = self.parted(features)
        terms, _ = _halves(terms)
        for (start, stop), module in zip(self.bounds, self.groups, strict=True):
            group = cast(_Group, module)
            known = [_of_group(features, start, stop)]
            if group.across is not None:
                known.append(group.across(torch.cat(received, 1)).float())
            channels = slice(start, stop)
            first, second = _halves(y[:, channels])
            blank = known[0].new_zeros(
                *first.shape[:1], group.inside.out_channels, *first.shape[2:]
            )
            given, given_second = zip(*(_halves(part) for part in known), strict=True)
            parameters = given[0] + group.join(torch.cat([*given, blank, terms], 1)).float()
            one = send(parameters, first, channels)
            near = group.inside(_merged(one.y_hat, torch.zeros_like(second))).float()
            parameters = (
                given_second[0]
                + group.join(torch.cat([*given_second, _halves(near)[1], terms], 1)).float()
            )
            two = send(parameters, second, channels)
            received.append(_merged(one.y_hat, two.y_hat))
            bits.append(_merged(one.bits, two.bits))
        return Crossing(torch.cat(received, 1), torch.cat(bits, 1))

    def parted(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Means and scales, and the terms behind them, the same everywhere: (…, P, h, w)."""
        known = 2 * self.bounds[-1][1]
        return features[..., :known, :, :], features[..., known:, :, :]

    def coded(self) -> CodedContext:
        """Integer twin of the weights as they are."""
        return _CodedSpaceChannelContext(self)


def _of_group(features: Tensor, start: int, stop: int) -> Tensor:
    """Means and log₂ scales of a group's channels, of all channels' (…, 2M, h, w)."""
    return torch.cat([part[..., start:stop, :, :] for part in features.chunk(2, -3)], -3)


class _ToOtherColour:
    """Twin of a 5×5 convolution of the first colour of a checkerboard, where the second one lies.

    The second colour is still zero in what is known, as it was in training: 12 of the 25 taps meet
    anything, and half of the places are asked for.
    """

    def __init__(self, layer: nn.Conv2d) -> None:
        weight, self._bias = integer_weights(layer.weight, layer.bias, (1, 2, 3))
        #: Of even and of odd rows: weights, and how many rows and packed columns further they look.
        self._taps = [
            [
                (weight[:, :, dy + 2, dx + 2].contiguous(), dy, (dx + 1 - odd) // 2)
                for dy in range(-2, 3)
                for dx in range(-2, 3)
                if (dy + dx) % 2
            ]
            for odd in (0, 1)
        ]

    def __call__(self, first: Tensor) -> Tensor:
        """Convolve the first colour, packed (C, h, w/2), at the second's places: (O, h, w/2)."""
        _, height, half = first.shape
        wide = half + 2
        padded = F.pad(first, (1, 1, 2, 2))
        # Even and odd rows by themselves, and a place more for the last shift of the last row.
        planes = [F.pad(padded[:, odd::2].flatten(1), (0, 2)) for odd in (0, 1)]
        found = []
        for odd, taps in enumerate(self._taps):
            products = (
                (weight, planes[(odd + dy) % 2], (odd + dy + 2) // 2 * wide + 1 + dx)
                for weight, dy, dx in taps
            )
            sums = shifted_sums(self._bias, products, height // 2 * wide)
            found.append(sums.view(-1, height // 2, wide)[..., :half])
        return settled(torch.stack(found, 2).flatten(1, 2))


class _CodedSpaceChannelContext:
    def __init__(self, context: SpaceChannelContext) -> None:
        self._bounds = context.bounds
        self._parted = context.parted
        self._networks = [
            {
                name: FixedPointNetwork(network)
                for name, network in cast(_Group, group).named_children()
                if name != "inside" and network is not None
            }
            for group in context.groups
        ]
        self._insides = [_ToOtherColour(cast(_Group, group).inside) for group in context.groups]
        self._blank = [cast(_Group, group).inside.out_channels for group in context.groups]

    @torch.no_grad()
    def walk(self, features: Tensor, known: Tensor) -> Iterator[Step]:
        features, terms = self._parted(features)
        terms, _ = _halves(terms)
        for (start, stop), networks, inside, width in zip(
            self._bounds, self._networks, self._insides, self._blank, strict=True
        ):
            given = [_of_group(features, start, stop)]
            if start:
                given.append(networks["across"](known[None, :start])[0])
            first, second = zip(*(_halves(part) for part in given), strict=True)
            blank = first[0].new_zeros(width, *first[0].shape[1:])
            correction = networks["join"](torch.cat([*first, blank, terms])[None])[0]
            yield Step(_Colour(slice(start, stop), second=False), first[0] + correction)
            near = inside(_halves(known[start:stop])[0])
            correction = networks["join"](torch.cat([*second, near, terms])[None])[0]
            yield Step(_Colour(slice(start, stop), second=True), second[0] + correction)


def context_of(config: CodecConfig) -> Context:
    """The context that a config asks for."""
    if config.context == "masked":
        k = config.mixtures
        return MaskedContext(config.m, 2 * config.m if k == 1 else 3 * k * config.m)
    if config.context == "space-channel":
        return SpaceChannelContext(config.m, TERMS if config.conditional else 0)
    return NoContext()
