"""Codecs of other make: measured as our own are, and told plainly what they get wrong."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

import waterfill as wf
from waterfill.codec.model import Codec
from waterfill.ladder import Analysis
from waterfill.ladder.adapters import _pieces
from waterfill.ladder.rungs import BITSTREAM, LADDER
from waterfill.ladder.subjects import STEPS


class BlockTransform:
    """A user's codec: an orthonormal DCT of 8×8 blocks, and one σ for each coefficient."""

    name = "8×8 DCT"

    def __init__(self, step: float = 12.0) -> None:
        k = torch.arange(8.0)
        basis = torch.cos(torch.pi * (k[None, :] + 0.5) * k[:, None] / 8) / 2
        basis[0] /= 2**0.5
        planes = torch.einsum("ui,vj->uvij", basis, basis).reshape(64, 1, 8, 8)
        self.weight = planes.repeat(3, 1, 1, 1)
        self.step = step
        rank = (k[:, None] + k[None, :]).reshape(64).repeat(3)
        self.sigma = (60.0 / step / (1 + rank) ** 1.5)[None, :, None, None]

    def analyse(self, x: Tensor) -> Analysis:
        height, width = (-x.shape[2] % 8, -x.shape[3] % 8)
        x = torch.nn.functional.pad(x * 255 - 128, (0, width, 0, height), mode="replicate")
        y = torch.nn.functional.conv2d(x, self.weight, stride=8, groups=3) / self.step
        return Analysis(y, torch.zeros(1), self.sigma, side_bits=16.0)

    def synthesise(self, y_hat: Tensor) -> Tensor:
        x = torch.nn.functional.conv_transpose2d(y_hat * self.step, self.weight, stride=8, groups=3)
        return (x + 128) / 255


class Checkerboard(BlockTransform):
    """The same with a context: the second colour hears of the first."""

    def order(self, shape: Sequence[int]) -> Iterator[Tensor]:
        colour = (torch.arange(shape[2])[:, None] + torch.arange(shape[3])) % 2
        yield colour == 0
        yield colour == 1

    def predict(self, analysis: Analysis, y_hat: Tensor) -> tuple[Tensor, Tensor]:
        kernel = torch.tensor([[0.0, 1, 0], [1, 0, 1], [0, 1, 0]])
        channels = y_hat.shape[1]
        near = torch.nn.functional.conv2d(
            y_hat, kernel.expand(channels, 1, 3, 3) / 4, padding=1, groups=channels
        )
        mean = torch.zeros_like(near)
        mean[:, ::64] = 0.9 * near[:, ::64]  # of the mean of a block alone
        known = near != 0
        sigma = self.sigma.expand_as(near).clone()
        sigma[:, ::64] = torch.where(known[:, ::64], sigma[:, ::64] * 0.5, sigma[:, ::64])
        return mean, sigma


def test_a_users_codec_has_a_ladder(photo: NDArray[np.uint8]) -> None:
    ladder = wf.limits(BlockTransform(), [photo, photo[:100, :77]])
    names = [rung.name for rung in ladder.rungs]
    assert names == [rung.name for rung in LADDER if rung.name != BITSTREAM]
    assert ladder.codec == "8×8 DCT"
    assert all(len(rung.curve) == len(STEPS) for rung in ladder.rungs)
    ideal = ladder.rungs[0]
    assert ideal.psnr > 30
    assert [p.psnr for p in ideal.curve] == sorted(p.psnr for p in ideal.curve)
    # Orthonormal, so the error is that of rounding: known without the codec.
    x = torch.from_numpy(photo).permute(2, 0, 1)[None] / 255
    y = BlockTransform().analyse(x).y
    mse = float((y - y.round()).square().mean()) * 12.0**2
    (row,) = (
        r
        for r in ladder.rows
        if (r["rung"], r["step"], r["image"]) == ("ideal coder", 1.0, "image 1")
    )
    assert row["mse"] == pytest.approx(mse, rel=0.02)
    assert row["parts"]["side information"] == 16.0 / photo[..., 0].size
    d = ladder.decomposition
    assert d.coder_overhead_bpp == 0.0
    assert d.bd_rates.keys() == {"trellis", "learned posterior", "+ context", "variances told"}
    assert "measured curves" in d.method


def test_a_context_is_asked_in_its_own_order(photo: NDArray[np.uint8]) -> None:
    plain = wf.limits(BlockTransform(), [photo[:64, :64]])
    context = wf.limits(Checkerboard(), [photo[:64, :64]])
    at = {rung.name: rung.bpp for rung in plain.rungs}
    for rung in context.rungs:
        if rung.name in ("ideal coder", "test channel"):
            assert rung.bpp < at[rung.name]
        elif rung.name.startswith("grouped"):
            assert rung.bpp == at[rung.name]


class AsAnothers:
    """A codec of ours behind the protocol."""

    def __init__(self, codec: Codec) -> None:
        self.codec, self.name = codec, "ours"

    def analyse(self, x: Tensor) -> Analysis:
        from waterfill.codec.channels import Rounding
        from waterfill.codec.noise import Noise

        pixels = (x[0] * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
        latents = self.codec.latents(np.ascontiguousarray(pixels), 4)
        arrival = latents.through(Rounding(), Noise(0))
        return Analysis(latents.y[None], arrival.mu[None], arrival.sigma[None], latents.side_bits)

    def synthesise(self, y_hat: Tensor) -> Tensor:
        return self.codec.reconstruct(y_hat[0], 4)[None]


def test_the_protocol_says_all_that_the_ladder_needs(tiny: Codec, photo: NDArray[np.uint8]) -> None:
    ours = wf.limits(tiny, [photo[:64, :128]], 4)
    theirs = wf.limits(AsAnothers(tiny), [photo[:64, :128]])
    found = {rung.name: rung for rung in theirs.rungs}
    for rung in ours.rungs[1:]:
        other = found[rung.name]
        # The ideal coder's tables are integers: a hair apart.
        rel = 5e-3 if rung.name == "ideal coder" else 1e-4
        if rung.name in ("learned posterior", "+ context"):
            continue  # of levels that need a price
        assert other.bpp == pytest.approx(rung.bpp, rel=rel), rung.name
        assert other.psnr == pytest.approx(rung.psnr, abs=1e-3), rung.name


def broken(**changes: Any) -> BlockTransform:
    class Broken(BlockTransform):
        def analyse(self, x: Tensor) -> Analysis:
            return replace(super().analyse(x), **changes)

    return Broken()


@pytest.mark.parametrize(
    ("codec", "problem"),
    [
        (broken(y=torch.zeros(3, 4)), r"y must be a tensor \(1, M, h, w\), not \(3, 4\)"),
        (broken(y="latents"), "y must be a tensor"),
        (broken(y=torch.full((1, 192, 8, 8), torch.nan)), "y has values that are not finite"),
        (broken(mu=torch.zeros(1, 5, 1, 1)), "μ has the shape"),
        (broken(mu=0.0), "μ must be a tensor, not float"),
        (broken(sigma=torch.zeros(1)), "σ must be positive"),
        (broken(sigma=torch.full((1,), torch.inf)), "σ has values that are not finite"),
        (broken(side_bits=-1.0), "side_bits can't be -1.0"),
        (broken(side_bits=float("nan")), "side_bits"),
        (object(), "object is no codec that can be measured: it has no method analyse"),
    ],
)
def test_who_breaks_the_protocol_is_told_where(
    codec: Any, problem: str, photo: NDArray[np.uint8]
) -> None:
    with pytest.raises(wf.CodecError, match=problem):
        wf.limits(codec, [photo[:64, :64]])


@pytest.mark.parametrize(
    ("shown", "problem"),
    [
        (lambda x: x[:, :1], r"must give a tensor \(1, 3, H, W\), not \(1, 1, 64, 64\)"),
        (lambda x: x[..., :32], r"gave \(3, 64, 32\) for a picture of 64×64"),
        (lambda x: x * torch.nan, "not finite"),
        (lambda x: x.numpy(), "not ndarray"),
    ],
)
def test_a_picture_that_is_none_is_refused(
    shown: Any, problem: str, photo: NDArray[np.uint8]
) -> None:
    class Broken(BlockTransform):
        def synthesise(self, y_hat: Tensor) -> Tensor:
            return shown(super().synthesise(y_hat))

    with pytest.raises(wf.CodecError, match=problem):
        wf.limits(Broken(), [photo[:64, :64]])


@pytest.mark.parametrize(
    ("masks", "problem"), [([0, 0], "arrive twice"), ([0], "leaves some latents out")]
)
def test_an_order_covers_every_latent_once(
    masks: list[int], problem: str, photo: NDArray[np.uint8]
) -> None:
    class Broken(Checkerboard):
        def order(self, shape: Sequence[int]) -> Iterator[Tensor]:
            both = list(super().order(shape))
            return iter([both[k] for k in masks])

    with pytest.raises(wf.CodecError, match=problem):
        wf.limits(Broken(), [photo[:64, :64]])


def test_a_codec_of_one_rate_has_no_quality(photo: NDArray[np.uint8]) -> None:
    with pytest.raises(wf.QualityError, match="one rate"):
        wf.limits(BlockTransform(), [photo], 4)


def test_without_gradients_it_works_too(photo: NDArray[np.uint8]) -> None:
    class Numpy(BlockTransform):
        def synthesise(self, y_hat: Tensor) -> Tensor:
            return torch.from_numpy(super().synthesise(y_hat.detach()).numpy().copy())

    expected = wf.limits(BlockTransform(), [photo[:64, :64]])
    found = wf.limits(Numpy(), [photo[:64, :64]])
    assert [r.bpp for r in found.rungs] == [r.bpp for r in expected.rungs]


def test_pieces_of_an_order_are_every_latent_once() -> None:
    generator = torch.Generator().manual_seed(2)
    ragged = torch.rand(6, 5, 7, generator=generator) < 0.3
    ragged[2] = False
    places = (torch.rand(1, 5, 7, generator=generator) < 0.5).expand(6, 5, 7)
    group = torch.zeros(6, 5, 7, dtype=torch.bool)
    group[1:4] = places[0]
    for now, count in ((ragged, 5), (places, 1), (group, 1), (torch.zeros_like(group), 0)):
        found = torch.zeros(6, 35)
        pieces = list(_pieces(now))
        for channels, where in pieces:
            found[channels, where] += 1
        assert len(pieces) == count
        assert torch.equal(found.reshape(now.shape), now.float())
