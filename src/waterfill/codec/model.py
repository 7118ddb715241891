"""The codec: transforms, a prior and a channel, composed."""

from __future__ import annotations

import operator
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from waterfill.bitstream import Container, Header, SymbolReader, SymbolWriter
from waterfill.bitstream.container import MAX_TILE, QUALITY_STEPS
from waterfill.codec.channels import Channel
from waterfill.codec.coding import CodedPrior, StoredTables
from waterfill.codec.complexity import Complexity, complexity_of
from waterfill.codec.config import CodecConfig
from waterfill.codec.gains import Gains, check_quality, lambda_of_quality
from waterfill.codec.latents import Latents, Plane, decoded_latents
from waterfill.codec.noise import Noise
from waterfill.codec.priors import Prior, Sent
from waterfill.codec.refine import refine
from waterfill.codec.tiles import TILE, Surroundings, Tile, reach_of, tiles_of
from waterfill.codec.transforms import (
    FilteredAnalysis,
    FilteredSynthesis,
    residual,
    table1,
    table2,
)
from waterfill.data.images import MAX_PIXELS, ImageLike, Picture, as_picture, bytes_in
from waterfill.devices import full_precision
from waterfill.errors import BitstreamError, CodecError, ImageError, QualityError

__all__ = ["Codec", "Passage"]

#: Most passes of refinement.
_MOST_EFFORT = 1000
#: Farthest, in latents, that an output of a transform may look.
_MOST_REACH = 32


class Passage(NamedTuple):
    """A batch through the pipeline.

    y (B, M, h, w) before gains, x̂ (B, planes, H, W) in [0, 1] units, bits of y and z, each (B,).
    """

    y: Tensor
    x_hat: Tensor
    y_bits: Tensor
    z_bits: Tensor


def _transforms(config: CodecConfig) -> tuple[nn.Module, nn.Module]:
    n, m = config.n, config.m
    if config.transform == "klt":
        analysis, synthesis = config.pairs
        told = config.conditional
        return (
            FilteredAnalysis(n, m, analysis, conditional=told),
            FilteredSynthesis(n, m, synthesis, conditional=told),
        )
    if config.transform == "table1":
        return table1(n, m)
    if config.transform == "table2":
        return table2(n, m)
    return residual(n, m, attention=config.transform == "attention")


class Codec(nn.Module):
    """A transform codec.

    ::

        x ──g_a──▶ y ──gain──▶ channel(y; density) ──inverse gain──▶ ŷ ──g_s──▶ x̂
                   │                   ▲
                   └─────── prior ─────┘

    :meth:`forward` is the differentiable pipeline for training. :meth:`latents` is the same for
    one picture with exact, integer-evaluated probabilities; estimating, compressing and
    decompressing all walk through it by :meth:`~waterfill.codec.coding.CodedPrior.walk`.

    Parameters
    ----------
    config
        The architecture.
    """

    def __init__(self, config: CodecConfig) -> None:
        super().__init__()
        self.config = config
        #: Identity of the weights, written into every stream; all zero for weights in training.
        self.weights_id = bytes(8)
        self.name = "unnamed"
        #: Side in pixels of the tiles that a large picture is coded in, a multiple of the config's
        #: alignment, up to 2048.
        self.tile = TILE
        self.g_a, self.g_s = _transforms(config)
        self.prior = Prior(config)
        self.gains = Gains(config.m, exponent=0.5, fixed=not config.variable_rate)
        self._coded: tuple[tuple[tuple[int, int], ...], CodedPrior] | None = None
        self._reach: tuple[int, int] | None = None
        self._middle = 0.5 if config.centred else 0.0

    def forward(
        self,
        x: Tensor,
        quality: Tensor,
        channel: Channel,
        noise: Noise,
        *,
        prior: Callable[..., Sent] | None = None,
    ) -> Passage:
        """The differentiable pipeline.

        Parameters
        ----------
        x
            Pictures (B, planes, H, W) in [0, 1], sides multiples of the config's alignment.
        quality
            One quality in 1 … 8 for each picture, shape (B,).
        channel
            How y becomes ŷ and what it costs.
        noise
            Noise of the channel, and of the surrogate for rounding z.
        prior
            In place of the codec's own, called as :meth:`Prior.forward` is.
        """
        y = self._analysis(x - self._middle, quality).float()
        log2_gain, log2_inverse = self.gains(quality)
        sent = (prior or self.prior)(y, quality, log2_gain, channel, noise)
        x_hat = self._synthesis(sent.y_hat * torch.exp2(log2_gain + log2_inverse), quality)
        x_hat = x_hat + self._middle
        return Passage(y, x_hat.float(), sent.y_bits.sum((1, 2, 3)), sent.z_bits.sum((1, 2, 3)))

    def _analysis(self, x: Tensor, quality: Tensor) -> Tensor:
        """g_a of pictures (B, planes, H, W) about their middle; qualities of shape (B,)."""
        if isinstance(self.g_a, FilteredAnalysis):
            return self.g_a(x, quality)  # type: ignore[no-any-return]
        return self.g_a(x)  # type: ignore[no-any-return]

    def _synthesis(self, y_hat: Tensor, quality: Tensor) -> Tensor:
        """g_s of ŷ (B, M, h, w) before gains; qualities of shape (B,)."""
        if isinstance(self.g_s, FilteredSynthesis):
            return self.g_s(y_hat, quality)  # type: ignore[no-any-return]
        return self.g_s(y_hat)  # type: ignore[no-any-return]

    def coded_prior(self, stored: StoredTables | None = None) -> CodedPrior:
        """What coding derives from the weights, made anew whenever the weights have changed.

        Parameters
        ----------
        stored
            Tables that belong to the weights as they are.
        """
        found = self._up_to_date()
        if found is None or stored is not None:
            found = CodedPrior(self.prior, self.gains, stored)
            self._coded = self._stamp(), found
        return found

    def _stamp(self) -> tuple[tuple[int, int], ...]:
        """What changes with the weights that coding looks at."""
        parts = (*self.prior.parameters(), *self.gains.parameters())
        return tuple((p.data_ptr(), p._version) for p in parts)

    def _up_to_date(self) -> CodedPrior | None:
        """What coding has derived from the weights as they are, if it has."""
        coded = self._coded
        return coded[1] if coded is not None and coded[0] == self._stamp() else None

    # A copy, or a codec on another device, has the same weights, and must code by the same tables:
    # those of a file may differ from what this machine would compute.

    def __getstate__(self) -> dict[str, Any]:
        found = self._up_to_date()
        state: dict[str, Any] = super().__getstate__()  # type: ignore[no-untyped-call]
        return state | {"_coded": found and found.known_tables}

    def __setstate__(self, state: dict[str, Any]) -> None:
        tables = state.pop("_coded")
        super().__setstate__(state | {"_coded": None})  # type: ignore[no-untyped-call]
        if tables is not None:
            self.coded_prior(tables)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        found, kind = self._up_to_date(), next(self.parameters()).dtype
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        if found is not None and next(self.parameters()).dtype == kind:
            self._coded = self._stamp(), found
        return self

    def complexity(self) -> Complexity:
        """Its parameters, and the multiplications of encoder and decoder for a pixel."""
        return complexity_of(self)

    @property
    def short_name(self) -> str:
        """For tables: for a file, its folder and name, which tells runs apart."""
        return "/".join(Path(self.name.removesuffix(".safetensors")).parts[-2:])

    def check_quality(self, quality: float | None) -> float:
        """The quality as a stream carries it; None is 4, or the codec's only one.

        Raises
        ------
        QualityError
            If the codec doesn't cover it.
        """
        low, high = self.config.qualities
        if quality is None:
            quality = min(max(4.0, low), high)
        exact = round(check_quality(quality) * QUALITY_STEPS) / QUALITY_STEPS
        # Ends between two qualities that a stream can carry are rounded to the nearest.
        least, most = (round(end * QUALITY_STEPS) / QUALITY_STEPS for end in (low, high))
        if not least <= exact <= most:
            covered = f"quality {low:g} alone" if low == high else f"qualities {low:g} … {high:g}"
            raise QualityError(f"{self.name} covers {covered}, not {exact:g}")
        return exact

    @torch.no_grad()
    def latents(self, image: ImageLike, quality: float | None = None) -> Latents:
        """Latents of a whole picture, with the prior that the bitstream would use.

        Parameters
        ----------
        image
            A picture of any size from 1×1.
        quality
            1 … 8, fractions allowed; None for 4, or for the codec's only one.

        Raises
        ------
        ImageError, QualityError, CodecError
            For unsupported pictures, qualities out of range, and broken weights.
        """
        picture = self._accepted(image)
        whole = Tile(0, 0, picture.height, picture.width)
        return self._latents_of(picture, whole, self.check_quality(quality))

    def _accepted(self, image: ImageLike) -> Picture:
        self._check_precision()
        picture = as_picture(image)
        if self.config.planes == 1 and not picture.grey:
            raise ImageError(f"{picture.name}: {self.name} codes grey pictures alone")
        return picture

    def _latents_of(self, picture: Picture, tile: Tile, quality: float) -> Latents:
        """Latents of a tile, analysed with its surroundings."""
        cell, alignment = self.config.stride, self.config.alignment
        whole = (tile.height, tile.width) == (picture.height, picture.width)
        around = 0 if whole else self.reach[0] * cell
        rows, columns = (_multiple(size, alignment) for size in (tile.height, tile.width))
        spans = [
            (max(0, start - around), min(start + length + around, _multiple(size, alignment)))
            for start, length, size in (
                (tile.top, rows, picture.height),
                (tile.left, columns, picture.width),
            )
        ]
        (top, bottom), (left, right) = spans
        window = picture.pixels[top:bottom, left:right, : self.config.planes]
        # Where the picture ends, its border is repeated.
        missing = (0, right - left - window.shape[1], 0, bottom - top - window.shape[0])
        x = (
            torch.from_numpy(window.astype(np.float32)).permute(2, 0, 1)[None] / 255.0
            - self._middle
        )
        x = F.pad(x, missing, mode="replicate")
        x = x.to(self.device).contiguous(memory_format=torch.channels_last)
        first, beside = (tile.top - top) // cell, (tile.left - left) // cell
        within = slice(first, first + rows // cell), slice(beside, beside + columns // cell)
        prior, z = self.coded_prior(), None
        with full_precision(self.device):
            y = self._analysis(x, self._told(quality)).float()[:, :, *within].contiguous()
            if self.prior.side is not None:
                symbols = self.prior.side.symbols(y, quality)
                z = Plane(symbols, prior.z_distribution(symbols.shape, quality))
        gain = self.gains.coded(quality).gain[:, None, None]
        return Latents((y[0].cpu().double() * gain).float(), z, prior, quality)

    @property
    def device(self) -> torch.device:
        """Where the transforms are; all that decides a symbol's probability is on the processor."""
        return next(self.parameters()).device

    def _check_precision(self) -> None:
        kind = next(self.parameters()).dtype
        if kind != torch.float32:
            name = str(kind).removeprefix("torch.")
            raise CodecError(f"{self.name}: its weights are {name}, not float32; load it anew")

    @property
    def reach(self) -> tuple[int, int]:
        """How many latents around it a latent of g_a, and a cell of pixels of g_s, depends on."""
        if self._reach is None and self.device.type != "cpu":
            # It is found by what a NaN spoils. Convolutions of a GPU may go by Fourier transforms,
            # where that is everything; it depends on the architecture alone.
            with torch.random.fork_rng(devices=()):
                self._reach = Codec(self.config).reach
        if self._reach is None:
            cell, planes, m = self.config.stride, self.config.planes, self.config.m
            limit = _MOST_REACH
            # How far an influence goes does not depend on the quality.
            some = self._told(self.config.qualities[0])

            def forth(x: Tensor) -> Tensor:
                return self._analysis(x, some)

            def back(y: Tensor) -> Tensor:
                return self._synthesis(y, some)

            try:
                self._reach = (
                    reach_of(forth, planes, cell=cell, up=False, limit=limit),
                    reach_of(back, m, cell=cell, up=True, limit=limit),
                )
            except ValueError as error:
                raise CodecError(f"{self.name} can't code in tiles: {error}") from None
        return self._reach

    def reconstruct(self, y_hat: Tensor, quality: float) -> Tensor:
        """x̂ (planes, H, W) in [0, 1] units, differentiable, from ŷ (M, h, w) in steps."""
        exact = self.check_quality(quality)
        inverse = self.gains.coded(exact).inverse[:, None, None]
        y_hat = (y_hat.double() * inverse)[None].float()
        y_hat = y_hat.to(self.device).contiguous(memory_format=torch.channels_last)
        with full_precision(self.device):
            x_hat = self._synthesis(y_hat, self._told(exact))[0].float()
        return x_hat.cpu() + self._middle

    def _told(self, quality: float) -> Tensor:
        """A quality as the transforms take it, (1,)."""
        return torch.tensor([quality], dtype=torch.float32, device=self.device)

    @torch.no_grad()
    def synthesise(
        self, y_hat: Tensor, quality: float, height: int, width: int
    ) -> NDArray[np.uint8]:
        """x̂ in 8-bit pixels (height, width, 3), from ŷ (M, h, w) in quantisation steps."""
        x_hat = self.reconstruct(y_hat, quality)
        pixels = torch.round(x_hat[:, :height, :width].clamp(0.0, 1.0) * 255.0)
        found = pixels.to(torch.uint8).permute(1, 2, 0).numpy()
        if self.config.planes == 1:
            found = np.repeat(found, 3, axis=2)
        return np.ascontiguousarray(found)

    def compress(
        self,
        image: ImageLike,
        quality: float | None = None,
        *,
        effort: int = 0,
        trellis: bool = False,
    ) -> bytes:
        """Code a picture.

        Parameters
        ----------
        image
            A path, a PIL image, a uint8 array or tensor, or the bytes of a picture's file; RGB or
            grey, any size from 1×1.
        quality
            1 … 8, fractions allowed; 1 ≙ λ = .0018, 8 ≙ λ = .18. None for 4, or for the codec's
            only one.
        effort
            Passes in which symbols are chosen by what they cost and what they do to the picture: a
            few per cent of rate at several times the time; streams decode as ever. What is chosen
            depends on the last bits of gradients: another number of threads, or another machine,
            may write another stream as good.
        trellis
            Trellis-coded quantisation in place of rounding: a few per cent of rate, at any effort.

        Returns
        -------
        bytes
            A stream for :func:`waterfill.decompress`.

        Raises
        ------
        ImageError, QualityError, CodecError
            As :meth:`latents` and :meth:`tiles`.
        """
        picture, exact = self._accepted(image), self.check_quality(quality)
        tiles = self.tiles(picture, exact, effort=effort, trellis=trellis)
        return self.pack(picture, tiles, exact, trellis=trellis)

    @torch.inference_mode(False)  # refinement needs gradients inside a caller's, too
    @torch.no_grad()
    def tiles(
        self,
        image: ImageLike,
        quality: float | None = None,
        *,
        effort: int = 0,
        trellis: bool = False,
    ) -> Iterator[Latents]:
        """Latents of a picture tile by tile, as a stream holds them, row by row.

        Parameters
        ----------
        image, quality, effort, trellis
            As for :meth:`compress`.

        Raises
        ------
        QualityError
            If ``effort`` is no whole number, negative, or more than anybody would wait for.
        CodecError
            If a trellis is asked for, and the codec's prior is not Gaussian; if no stream may have
            tiles of the codec's size.
        """
        unit = self.config.alignment
        if not 0 < self.tile <= MAX_TILE or self.tile % unit:
            raise CodecError(f"tile must be a multiple of {unit} up to {MAX_TILE}, not {self.tile}")
        try:
            effort = operator.index(effort)
        except TypeError:
            raise QualityError(f"effort must be a whole number, not {effort!r}") from None
        if not 0 <= effort <= _MOST_EFFORT:
            raise QualityError(f"effort must lie in 0 … {_MOST_EFFORT}, not {effort}")
        if trellis and not self.takes_trellis:
            raise CodecError(f"{self.name} can't use a trellis: its prior is not Gaussian")
        picture, exact = self._accepted(image), self.check_quality(quality)
        for tile in tiles_of(picture.height, picture.width, self.tile):
            latents = replace(self._latents_of(picture, tile, exact), trellis=trellis)
            if effort:
                window = picture.pixels[tile.top : tile.bottom, tile.left : tile.right]
                x = torch.from_numpy(window[..., : self.config.planes].astype(np.float32)) / 255.0
                with full_precision(self.device):  # gradients are taken outside the codec
                    chosen = refine(
                        latents,
                        lambda y_hat: self.reconstruct(y_hat, exact),
                        x.permute(2, 0, 1),
                        lambda_of_quality(exact),
                        passes=effort,
                    )
                latents = replace(latents, chosen=chosen)
            yield latents

    @property
    def takes_trellis(self) -> bool:
        """Whether a trellis, whose entropy model is a Gaussian's, can quantise its latents."""
        return self.config.side != "none" and self.config.mixtures == 1

    def pack(
        self, picture: Picture, tiles: Iterable[Latents], quality: float, *, trellis: bool = False
    ) -> bytes:
        """The stream of a picture, from the latents of its tiles, all with a trellis or none."""
        sections: list[tuple[bytes, bytes]] = []
        crc = 0
        for latents in tiles:
            told, main = SymbolWriter(), SymbolWriter()
            if latents.z is not None:
                told.write(*latents.z)
                crc = _crc_of(latents.z.symbols, crc)
            coded = latents.quantised
            for _, plane in coded.planes:
                main.write(*plane)
            crc = _crc_of(coded.symbols, crc)
            sections.append((told.to_bytes(), main.to_bytes()))
        header = Header(
            self.weights_id,
            self.check_quality(quality),
            picture.width,
            picture.height,
            picture.grey,
            self.tile,
            crc,
            trellis,
        )
        return Container(header, sections).pack()

    def unpack(self, container: Container) -> Iterator[Tensor]:
        """ŷ (M, h, w) in quantisation steps of each tile, from a stream.

        Raises
        ------
        BitstreamError
            If the stream was made with other weights, or the symbols fail their checksum.
        """
        header = container.header
        quality = self._quality_of(header)
        prior, crc = self.coded_prior(), 0
        for tile, (side, main) in zip(_tiles_in(header), container.sections, strict=True):
            rows, columns = (
                -(-size // self.config.alignment) for size in (tile.height, tile.width)
            )
            per = self.config.alignment // self.config.stride
            shape = (self.config.m, rows * per, columns * per)
            z = None
            if self.prior.side is not None:
                expected = prior.z_distribution((self.config.hyper, rows, columns), quality)
                z = SymbolReader(side).read(expected)
                crc = _crc_of(z, crc)
            symbols, y_hat = decoded_latents(
                prior, z, quality, shape, SymbolReader(main), trellis=header.trellis
            )
            crc = _crc_of(symbols, crc)
            yield y_hat
        if crc != header.symbols_crc:
            raise BitstreamError("the decoded latents are not those that were encoded")

    def _quality_of(self, header: Header) -> float:
        """The quality of a stream that was made with these weights."""
        self._check_precision()
        if header.weights_id != self.weights_id:
            raise BitstreamError(
                f"the stream was made by the codec {header.weights_id.hex()}, "
                f"not by {self.name} ({self.weights_id.hex()}); "
                "give the weights that made it (--codec FILE)"
            )
        if header.tile % self.config.alignment:
            raise BitstreamError(f"the stream has tiles of {header.tile} pixels, which can't be")
        if header.trellis and not self.takes_trellis:
            raise BitstreamError(f"the stream has a trellis, which {self.name} can't use")
        try:
            return self.check_quality(header.quality)
        except QualityError as error:
            raise BitstreamError(str(error)) from None

    def decompress(self, stream: Container | bytes | bytearray | memoryview) -> Picture:
        """The picture of a stream made with these weights.

        Parameters
        ----------
        stream
            What :meth:`compress` returned, or that taken apart.

        Raises
        ------
        BitstreamError
            If the stream is foreign, cut, altered, or made with other weights.
        """
        if isinstance(stream, Container):
            container = stream
        elif (data := bytes_in(stream)) is not None:
            container = Container.unpack(data, max_pixels=MAX_PIXELS)
        else:
            raise BitstreamError(f"{type(stream).__name__} is no stream; pass its bytes")
        header = container.header
        pixels = self.assemble(
            self.unpack(container), header.quality, header.height, header.width, header.tile
        )
        return finish(pixels, grey=header.grey)

    def assemble(
        self,
        tiles: Iterable[Tensor],
        quality: float,
        height: int,
        width: int,
        side: int | None = None,
    ) -> NDArray[np.uint8]:
        """8-bit pixels (height, width, 3) from ŷ of each tile in steps, without seams.

        Parameters
        ----------
        tiles
            ŷ (M, h, w) of tiles of ``side`` pixels, row by row; used up to its end, where that of a
            stream says whether its checksum is right.
        quality
            Quality of all tiles.
        height, width
            Sides of the picture in pixels.
        side
            Side of a tile in pixels; None for this codec's own.

        Raises
        ------
        ValueError
            If there are more tiles than the picture has.
        """
        side = side or self.tile
        pixels = np.empty((height, width, 3), np.uint8)
        places, latents = tiles_of(height, width, side), iter(tiles)
        across = -(-width // side)
        rows = [places[start : start + across] for start in range(0, len(places), across)]
        around = 0 if len(places) == 1 else self.reach[1]
        above: list[Tensor] = []
        current: list[Tensor] = []
        for number, row in enumerate([*rows, []]):
            below = [next(latents) for _ in row]
            # A stream's checksum follows its last tile.
            if not row and next(latents, None) is not None:
                raise ValueError(f"more than {len(places)} tiles for {height}×{width} pixels")
            if number:
                canvas = Surroundings(above, current, below)
                for place, tile in enumerate(rows[number - 1]):
                    y_hat, top, left = canvas.around(place, around)
                    cell = self.config.stride
                    shown = self.synthesise(
                        y_hat, quality, top * cell + tile.height, left * cell + tile.width
                    )
                    pixels[tile.top : tile.bottom, tile.left : tile.right] = shown[
                        top * cell :, left * cell :
                    ]
            above, current = current, below
        return pixels


def _multiple(size: int, unit: int) -> int:
    """The next multiple of ``unit`` from ``size`` up."""
    return -(-size // unit) * unit


def _tiles_in(header: Header) -> list[Tile]:
    return tiles_of(header.height, header.width, header.tile)


def _crc_of(symbols: NDArray[np.int32], crc: int) -> int:
    return zlib.crc32(symbols.astype("<i4").tobytes(), crc)


def finish(pixels: NDArray[np.uint8], *, grey: bool, name: str = "decoded") -> Picture:
    """The decoded picture, in place; that of a grey original has the rounded mean of its planes."""
    if grey:
        for row in pixels:  # of all at once, the mean would take many times their memory
            row[:] = np.rint(row.mean(axis=1, dtype=np.float64))[:, None]
    return Picture(name, pixels, grey)
