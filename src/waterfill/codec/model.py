"""The codec: transforms, a prior and a channel, composed."""

from __future__ import annotations

import zlib
from dataclasses import asdict, dataclass
from functools import cache
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from waterfill.bitstream import Container, Header, SymbolReader, SymbolWriter, Tables
from waterfill.bitstream.container import QUALITY_STEPS
from waterfill.codec.bounds import bounded
from waterfill.codec.channels import Channel
from waterfill.codec.fixed_point import ACTIVATION_BITS, FixedPointNetwork
from waterfill.codec.gains import Gains, check_quality, relative_step
from waterfill.codec.noise import Noise
from waterfill.codec.priors import MeanScaleHyperprior, NoSideInformation, integer_symbols
from waterfill.codec.transforms import (
    BLOCK,
    FilteredAnalysis,
    FilteredSynthesis,
    analysis,
    synthesis,
)
from waterfill.data.images import ImageLike, Picture, as_picture
from waterfill.errors import BitstreamError
from waterfill.theory.normal import normal_interval

__all__ = [
    "LOG2_SIGMA_MAX",
    "LOG2_SIGMA_MIN",
    "STRIDE",
    "Codec",
    "CodecConfig",
    "Latents",
    "Passage",
    "Plane",
]

#: A picture side is padded to a multiple of this: 16 for y, times 4 for z.
STRIDE = 64
#: Range of log₂ σ, in quantisation steps, that the tables of the bitstream cover.
LOG2_SIGMA_MIN, LOG2_SIGMA_MAX = -4.0, 8.0
#: Tables per octave of σ. The nearest one costs at most 1/3000 of a bit per latent.
_ROWS_PER_OCTAVE = 16
_ROWS = round((LOG2_SIGMA_MAX - LOG2_SIGMA_MIN) * _ROWS_PER_OCTAVE) + 1


@dataclass(frozen=True)
class CodecConfig:
    """The architecture of a codec.

    Attributes
    ----------
    n, m, hyper
        Channels inside the transforms, of the latents, and of the hyper-networks and z.
    klt
        In place of Table I's g_a and g_s, a fixed Karhunen–Loève transform of 16×16 blocks between
        two learned filters of ``n`` channels; at most 768 latents then.
    """

    n: int = 64
    m: int = 160
    hyper: int = 64
    klt: bool = False

    def __post_init__(self) -> None:
        if not all(isinstance(w, int) and 0 < w <= 4096 for w in (self.n, self.m, self.hyper)):
            raise ValueError(f"widths must be integers in 1 … 4096, not {asdict(self)}")
        if not isinstance(self.klt, bool) or (self.klt and self.m > 3 * BLOCK**2):
            raise ValueError(f"klt needs at most {3 * BLOCK**2} latents, not {asdict(self)}")

    def to_dict(self) -> dict[str, int | bool]:
        """The architecture as a JSON-able mapping."""
        return asdict(self)


class Passage(NamedTuple):
    """A batch through the pipeline: x̂ (B, 3, H, W) in [0, 1] units, bits of y and z, each (B,)."""

    x_hat: Tensor
    y_bits: Tensor
    z_bits: Tensor


class Plane(NamedTuple):
    """Symbols, the row of the table that each is coded with, and the tables."""

    symbols: NDArray[np.int32]
    rows: NDArray[np.int64]
    tables: Tables

    @property
    def bits(self) -> NDArray[np.float64]:
        """Ideal code length of each symbol, bits."""
        return self.tables.bits(self.symbols, self.rows)


@dataclass(frozen=True)
class Latents:
    """The latents of one picture in quantisation steps, and what its prior says of them.

    Attributes
    ----------
    y
        What is to be coded, float32 (M, h, w).
    mu, sigma
        The prior's mean and scale, float32 (M, h, w); ``sigma`` is exactly the scale of the
        table that the bitstream would use.
    rows
        The row of that table, int64 (M, h, w).
    z
        The side information, as coded.
    """

    y: Tensor
    mu: Tensor
    sigma: Tensor
    rows: NDArray[np.int64]
    z: Plane

    def quantised(self) -> Plane:
        """⌊y − μ⌉ and its tables: the one place where symbols and probabilities come from."""
        return Plane(integer_symbols(self.y - self.mu), self.rows, gaussian_tables())

    @property
    def side_bits(self) -> float:
        """Ideal code length of the side information, bits."""
        return float(self.z.bits.sum())


@cache
def gaussian_tables() -> Tables:
    """Tables of N(0, σ²) on unit bins, σ from 2⁻⁴ to 2⁸ in sixteenths of an octave."""
    first, masses = [], []
    for row in range(_ROWS):
        sigma = 2.0 ** (LOG2_SIGMA_MIN + row / _ROWS_PER_OCTAVE)
        reach = int(np.ceil(5.5 * sigma))  # 2⁻²⁴ of the mass lies outside
        edges = (np.arange(-reach, reach + 2) - 0.5) / sigma
        first.append(-reach)
        masses.append(np.asarray(normal_interval(edges[:-1], edges[1:])))
    return Tables.from_masses(np.array(first, dtype=np.int64), masses)


def _channel_rows(shape: tuple[int, ...]) -> NDArray[np.int64]:
    rows = np.arange(shape[0], dtype=np.int64)[:, None, None]
    return np.ascontiguousarray(np.broadcast_to(rows, shape))


def _symbols_crc(z: NDArray[np.int32], y: NDArray[np.int32]) -> int:
    return zlib.crc32(y.astype("<i4").tobytes(), zlib.crc32(z.astype("<i4").tobytes()))


@dataclass(frozen=True)
class _Derived:
    """What coding needs besides the weights, and which state of the weights it came from."""

    stamp: tuple[tuple[int, int], ...]
    h_s: FixedPointNetwork
    z_tables: dict[float, Tables]


class Codec(nn.Module):
    """A variable-rate transform codec with a mean-scale hyperprior.

    ::

        x ──g_a──▶ y ──gain──▶ channel(y; μ, σ) ──inverse gain──▶ ŷ ──g_s──▶ x̂
                   │                   ▲
                   └──h_a──▶ z ──h_s──▶ μ, σ (times gain)

    :meth:`forward` is the differentiable pipeline for training. :meth:`latents` is the same for
    one picture with exact, integer-evaluated probabilities; estimating, compressing and
    decompressing all go through it or through the :meth:`prediction` it is made of.

    Parameters
    ----------
    config
        The widths.
    """

    def __init__(self, config: CodecConfig) -> None:
        super().__init__()
        self.config = config
        #: Identity of the weights, written into every stream; all zero for weights in training.
        self.weights_id = bytes(8)
        self.name = "unnamed"
        self.g_a: nn.Module = analysis(config.n, config.m)
        self.g_s: nn.Module = synthesis(config.n, config.m)
        if config.klt:
            self.g_a = FilteredAnalysis(config.n, config.m)
            self.g_s = FilteredSynthesis(config.n, config.m)
        self.prior = MeanScaleHyperprior(config.m, config.hyper)
        self.gains = Gains(config.m, exponent=0.5)
        self._derived: _Derived | None = None

    def forward(
        self,
        x: Tensor,
        quality: Tensor,
        channel: Channel,
        noise: Noise,
        *,
        prior: NoSideInformation | None = None,
    ) -> Passage:
        """The differentiable pipeline.

        Parameters
        ----------
        x
            Pictures (B, 3, H, W) in [0, 1], sides multiples of 64.
        quality
            One quality in 1 … 8 for each picture, shape (B,).
        channel
            How y becomes ŷ and what it costs.
        noise
            Of the channel, and of the surrogate of z's rounding.
        prior
            In place of the codec's own.
        """
        y = self.g_a(x - 0.5).float()
        prediction = (prior or self.prior)(y, quality, noise)
        log2_gain, log2_inverse = self.gains(quality)
        gain = torch.exp2(log2_gain)
        log2_sigma = bounded(prediction.log2_sigma + log2_gain, LOG2_SIGMA_MIN, LOG2_SIGMA_MAX)
        crossing = channel(y * gain, prediction.mu * gain, torch.exp2(log2_sigma), noise)
        x_hat = self._synthesis(crossing.y_hat * torch.exp2(log2_inverse), quality) + 0.5
        return Passage(
            x_hat.float(), crossing.bits.sum((1, 2, 3)), prediction.side_bits.sum((1, 2, 3))
        )

    def _synthesis(self, y_hat: Tensor, quality: Tensor) -> Tensor:
        """g_s of ŷ (B, M, h, w) before gains; qualities of shape (B,)."""
        if isinstance(self.g_s, FilteredSynthesis):
            return self.g_s(y_hat, relative_step(quality)[:, None, None, None])  # type: ignore[no-any-return]
        return self.g_s(y_hat)  # type: ignore[no-any-return]

    def _from_weights(self, quality: float) -> tuple[FixedPointNetwork, Tables]:
        """What coding derives from the weights, made anew whenever the weights have changed."""
        stamp = tuple((p.data_ptr(), p._version) for p in self.prior.parameters())
        derived = self._derived
        if derived is None or derived.stamp != stamp:
            derived = self._derived = _Derived(stamp, self.prior.fixed_point(), {})
        if quality not in derived.z_tables:
            derived.z_tables[quality] = self.prior.z_tables(quality)
        return derived.h_s, derived.z_tables[quality]

    def prediction(
        self, z_symbols: NDArray[np.int32], quality: float
    ) -> tuple[Tensor, NDArray[np.int64]]:
        """μ (M, h, w) in steps and the table row of each latent, from the symbols of z.

        Encoder and decoder both call this; all that decides a row is integer arithmetic.
        """
        network, _ = self._from_weights(quality)
        mu, log2_sigma = self.prior.parameters_of(z_symbols, quality, network)
        log2_gain, _ = self.gains.at(quality)
        one = 2.0**ACTIVATION_BITS
        shift = torch.round(log2_gain * one) - LOG2_SIGMA_MIN * one
        rows = torch.round((log2_sigma + shift) * (_ROWS_PER_OCTAVE / one)).clamp(0, _ROWS - 1)
        scaled = mu * (torch.exp2(log2_gain) / one)
        return scaled[0].float(), rows[0].long().numpy()

    @torch.no_grad()
    def latents(self, image: ImageLike, quality: float = 4) -> Latents:
        """Latents of a picture, with the prior that the bitstream would use.

        Parameters
        ----------
        image
            A picture of any size from 1×1.
        quality
            1 … 8, fractions allowed.

        Raises
        ------
        ImageError, ValueError, CodecError
            For unsupported pictures, qualities out of range, and broken weights.
        """
        picture, quality = as_picture(image), _coded_quality(quality)
        bottom, right = -picture.height % STRIDE, -picture.width % STRIDE
        x = torch.from_numpy(picture.pixels.astype(np.float32)).permute(2, 0, 1)[None] / 255.0 - 0.5
        x = F.pad(x, (0, right, 0, bottom), mode="replicate")
        y = self.g_a(x.contiguous(memory_format=torch.channels_last)).contiguous()
        z_symbols = self.prior.z_symbols(y, quality)
        _, z_tables = self._from_weights(quality)
        mu, rows = self.prediction(z_symbols, quality)
        log2_gain, _ = self.gains.at(quality)
        scaled = (y.double() * torch.exp2(log2_gain))[0].float()
        sigma = torch.from_numpy(
            np.exp2(LOG2_SIGMA_MIN + rows / _ROWS_PER_OCTAVE).astype(np.float32)
        )
        z = Plane(z_symbols, _channel_rows(z_symbols.shape), z_tables)
        return Latents(scaled, mu, sigma, rows, z)

    @torch.no_grad()
    def synthesise(
        self, y_hat: Tensor, quality: float, height: int, width: int
    ) -> NDArray[np.uint8]:
        """x̂ in 8-bit pixels (height, width, 3), from ŷ (M, h, w) in quantisation steps."""
        _, log2_inverse = self.gains.at(_coded_quality(quality))
        y_hat = (y_hat[None].double() * torch.exp2(log2_inverse)).float()
        y_hat = y_hat.contiguous(memory_format=torch.channels_last)
        x_hat = self._synthesis(y_hat, torch.tensor([_coded_quality(quality)]))[0] + 0.5
        pixels = torch.round(x_hat[:, :height, :width].clamp(0.0, 1.0) * 255.0)
        return np.ascontiguousarray(pixels.to(torch.uint8).permute(1, 2, 0).numpy())

    def compress(self, image: ImageLike, quality: float = 4) -> bytes:
        """Code a picture.

        Parameters
        ----------
        image
            A path, a PIL image or a uint8 array; RGB or grey, any size from 1×1.
        quality
            1 … 8, fractions allowed; 1 ≙ λ = .0018, 8 ≙ λ = .18.

        Returns
        -------
        bytes
            A stream for :func:`waterfill.decompress`.
        """
        picture = as_picture(image)
        latents = self.latents(picture, quality)
        return self.pack(picture, latents, quality)

    def pack(self, picture: Picture, latents: Latents, quality: float) -> bytes:
        """The stream of a picture whose latents are known."""
        y = latents.quantised()
        sections = []
        for plane in (latents.z, y):
            writer = SymbolWriter()
            writer.write(*plane)
            sections.append(writer.to_bytes())
        header = Header(
            self.weights_id,
            _coded_quality(quality),
            picture.width,
            picture.height,
            picture.grey,
            _symbols_crc(latents.z.symbols, y.symbols),
        )
        return Container(header, *sections).pack()

    def unpack(self, container: Container) -> Tensor:
        """ŷ (M, h, w) in quantisation steps, from a stream.

        Raises
        ------
        BitstreamError
            If the stream was made with other weights, or the symbols fail their checksum.
        """
        header = container.header
        if header.weights_id != self.weights_id:
            raise BitstreamError(
                f"the stream was made by the codec {header.weights_id.hex()}, "
                f"not by {self.name} ({self.weights_id.hex()})"
            )
        try:
            quality = check_quality(header.quality)
        except ValueError as error:
            raise BitstreamError(str(error)) from None
        _, z_tables = self._from_weights(quality)
        shape = (self.config.hyper, -(-header.height // STRIDE), -(-header.width // STRIDE))
        z = SymbolReader(container.z).read(_channel_rows(shape), z_tables)
        mu, rows = self.prediction(z, quality)
        y = SymbolReader(container.y).read(rows, gaussian_tables())
        if _symbols_crc(z, y) != header.symbols_crc:
            raise BitstreamError("the decoded latents are not those that were encoded")
        return torch.from_numpy(y).float() + mu

    def decompress(self, container: Container) -> Picture:
        """The picture of a stream made with these weights."""
        header = container.header
        y_hat = self.unpack(container)
        pixels = self.synthesise(y_hat, header.quality, header.height, header.width)
        return finish(pixels, grey=header.grey)


def finish(pixels: NDArray[np.uint8], *, grey: bool, name: str = "decoded") -> Picture:
    """The decoded picture; that of a grey original is grey: the rounded mean of its planes."""
    if grey:
        mean = np.rint(pixels.mean(axis=2, dtype=np.float64)).astype(np.uint8)
        pixels = np.repeat(mean[..., None], 3, axis=2)
    return Picture(name, pixels, grey)


def _coded_quality(quality: float) -> float:
    """The quality as a stream carries it."""
    return round(check_quality(quality) * QUALITY_STEPS) / QUALITY_STEPS
