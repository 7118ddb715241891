"""Codecs of other make: measured as our own are, and told plainly what they get wrong."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

import waterfill as wf
from waterfill.codec.channels import WATER_LEVEL
from waterfill.codec.model import Codec
from waterfill.data.images import as_picture
from waterfill.ladder import Analysis, measure
from waterfill.ladder.adapters import Adapted, _pieces
from waterfill.ladder.context import FittedContext
from waterfill.ladder.rungs import BITSTREAM, LADDER, Known, _posterior
from waterfill.ladder.subjects import STEPS, Setting
from waterfill.ladder.variances import Moments
from waterfill.row_shards import InMemory, Record


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
    told = "variances told (genie-aided)"
    assert d.bd_rates.keys() == {"trellis", "learned posterior", "+ context", told}
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


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


class Stateful(BlockTransform):
    """It keeps the mean of the picture that it saw last, and notes who asks."""

    price = 0.01

    def __init__(self) -> None:
        super().__init__()
        self.asked: set[tuple[threading.Thread, int]] = set()

    def analyse(self, x: Tensor) -> Analysis:
        self.asked.add((threading.current_thread(), torch.get_num_threads()))
        self.mean = x.mean()
        return super().analyse(x - self.mean + 0.5)

    def synthesise(self, y_hat: Tensor) -> Tensor:
        self.asked.add((threading.current_thread(), torch.get_num_threads()))
        return super().synthesise(y_hat) + self.mean - 0.5


@pytest.mark.usefixtures("two_threads")
def test_a_users_codec_is_asked_about_one_picture_after_the_other(
    photo: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
) -> None:
    told: set[int] = set()

    class Listening(InMemory):
        def each(self, stage: str, about: Mapping[str, Any], *rest: Any, **options: Any) -> Any:
            told.add(about["threads"])
            return super().each(stage, about, *rest, **options)

    monkeypatch.setattr(measure, "open_rows", lambda folder: Listening())
    monkeypatch.setattr(measure, "_SAMPLE_SIDE", 32)
    codec, pictures = Stateful(), [photo[:32, :32], photo[64:96, :32], photo[-32:, -32:]]
    together = wf.limits(codec, pictures)
    assert codec.asked == {(threading.main_thread(), 2)}
    assert told == {2}
    at = [("trellis", 1.0), ("test channel", 0.5**0.5)]  # of rungs without the data set's moments
    for number, picture in enumerate(pictures):
        apart = wf.limits(Stateful(), [picture])
        one, other = (
            [repr(r | {"image": ""}) for r in found.rows if (r["rung"], r["step"]) in at]
            for found in (apart, replace(together, rows=together.rows[number * len(apart.rows) :]))
        )
        assert len(one) == len(at)
        assert one == other[: len(at)]


@pytest.mark.usefixtures("two_threads")
def test_codecs_of_our_own_measure_pictures_side_by_side(
    tiny: Codec, photo: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: set[tuple[int, int]] = set()

    class Listening(InMemory):
        def each(
            self,
            stage: str,
            about: Mapping[str, Any],
            items: Sequence[str],
            work: Callable[..., Record],
            **options: Any,
        ) -> Any:
            def heard(index: int, check: Callable[[], None]) -> Record:
                seen.add((about["threads"], torch.get_num_threads()))
                return work(index, check)

            return super().each(stage, about, items, heard, **options)

    monkeypatch.setattr(measure, "open_rows", lambda folder: Listening())
    wf.limits(tiny, [photo[:32, :32], photo[32:64, :32]], 4)
    assert seen == {(1, 1)}


def test_without_a_price_no_other_picture_is_looked_at(photo: NDArray[np.uint8]) -> None:
    class Looking(BlockTransform):
        def __init__(self, price: float | None) -> None:
            super().__init__()
            self.price, self.sizes = price, set[tuple[int, ...]]()

        def analyse(self, x: Tensor) -> Analysis:
            self.sizes.add(tuple(x.shape[2:]))
            return super().analyse(x)

    for price, sizes in (
        (None, {(64, 64)}),
        (torch.nan, {(64, 64)}),
        (0.01, {(64, 64), (256, 256)}),
    ):
        codec = Looking(price)
        wf.limits(codec, [photo[:64, :64]])
        assert codec.sizes == sizes


def test_what_a_codec_does_in_place_stays_its_own(photo: NDArray[np.uint8]) -> None:
    class InPlace(Checkerboard):
        def analyse(self, x: Tensor) -> Analysis:
            found = super().analyse(x)
            x.zero_()
            self.kept = found
            return found

        def predict(self, analysis: Analysis, y_hat: Tensor) -> tuple[Tensor, Tensor]:
            for tensor in (self.kept.y, self.kept.mu):
                tensor.zero_()
            given = super().predict(analysis, y_hat)
            for tensor in (y_hat, analysis.y, analysis.mu, analysis.sigma):
                tensor.zero_()
            return given

        def synthesise(self, y_hat: Tensor) -> Tensor:
            shown = super().synthesise(y_hat)
            if not y_hat.requires_grad:
                y_hat.zero_()
            return shown

    expected, found = (wf.limits(codec(), [photo[:64, :64]]) for codec in (Checkerboard, InPlace))
    assert repr(found.rows) == repr(expected.rows)


def test_a_context_does_not_see_what_has_not_arrived(photo: NDArray[np.uint8]) -> None:
    class Peeping(Checkerboard):
        def predict(self, analysis: Analysis, y_hat: Tensor) -> tuple[Tensor, Tensor]:
            assert analysis.y.shape == y_hat.shape
            return analysis.y, self.sigma

    with pytest.raises(wf.CodecError, match="μ has values that are not finite"):
        wf.limits(Peeping(), [photo[:64, :64]])


class Network(nn.Module):
    """A user's codec that is a network itself: noise in training, none in evaluation."""

    def __init__(self) -> None:
        super().__init__()
        self.codec, self.frozen = BlockTransform(), nn.Dropout()
        self.noise = nn.Dropout(0.5)
        self.modes: list[bool] = []

    def analyse(self, x: Tensor) -> Analysis:
        self.modes.append(self.training)
        analysis = self.codec.analyse(x)
        return replace(analysis, y=self.noise(analysis.y))

    def synthesise(self, y_hat: Tensor) -> Tensor:
        self.modes.append(self.training)
        return self.noise(self.codec.synthesise(y_hat))


class ContextNetwork(Network):
    def order(self, shape: Sequence[int]) -> Iterator[Tensor]:
        self.modes.append(self.training)
        yield torch.ones(1, dtype=torch.bool)

    def predict(self, analysis: Analysis, y_hat: Tensor) -> tuple[Tensor, Tensor]:
        self.modes.append(self.training)
        return analysis.mu, self.noise(analysis.sigma)


def test_a_network_is_measured_in_evaluation_mode_and_put_back(photo: NDArray[np.uint8]) -> None:
    expected = wf.limits(BlockTransform(), [photo[:64, :64]])
    for network in (Network(), ContextNetwork()):  # without a name, for which the class will do
        network.frozen.eval()
        found = wf.limits(network, [photo[:64, :64]])
        assert found.codec == type(network).__name__
        assert set(network.modes) == {False}
        assert network.training
        assert network.noise.training
        assert not network.frozen.training
        for one, other in zip(found.rungs, expected.rungs, strict=True):
            if one.name != "dithered" or not isinstance(network, ContextNetwork):
                assert one.bpp == pytest.approx(other.bpp, rel=1e-6)


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
        (broken(side_bits=float("nan")), "side_bits can't be nan"),
        (broken(side_bits=None), "side_bits must be a number, not NoneType"),
        (broken(side_bits="16"), "side_bits must be a number, not str"),
        (broken(side_bits=True), "side_bits must be a number, not bool"),
        (broken(side_bits=torch.ones(3)), r"side_bits must be a number, not \(3,\)"),
        (broken(y=torch.ones(1, 192, 8, 8) * 1j), "y must be real, not torch.complex64"),
        (broken(mu=torch.ones(1) * 1j), "μ must be real, not torch.complex64"),
        (object(), "object can't be measured: it has no method analyse"),
        (BlockTransform, "BlockTransform is a class; pass an instance"),
        (nn.Conv2d, "Conv2d is a class"),
    ],
)
def test_who_breaks_the_protocol_is_told_where(
    codec: Any, problem: str, photo: NDArray[np.uint8]
) -> None:
    with pytest.raises(wf.CodecError, match=problem):
        wf.limits(codec, [photo[:64, :64]])


@pytest.mark.parametrize("side_bits", [np.float32(16), np.array([16]), torch.tensor(16.0), 16])
def test_a_number_of_any_kind_is_one(side_bits: Any, photo: NDArray[np.uint8]) -> None:
    row = wf.limits(broken(side_bits=side_bits), [photo[:16, :16]]).rows[0]
    assert row["parts"]["side information"] == 16 / 256


@pytest.mark.parametrize(
    ("price", "problem"),
    [
        ("0.01", "price must be a number, not str"),
        (-0.01, "price can't be -0.01"),
        (0, "price can't be 0"),
        (torch.inf, "price can't be inf"),
        (torch.ones(2), r"price must be a number, not \(2,\)"),
    ],
)
def test_a_price_is_a_positive_number(price: Any, problem: str, photo: NDArray[np.uint8]) -> None:
    codec = BlockTransform()
    codec.price = price  # type: ignore[attr-defined]
    with pytest.raises(wf.CodecError, match=f"8×8 DCT: {problem}"):
        wf.limits(codec, [photo[:16, :16]])


def test_latents_have_as_many_channels_in_every_picture(photo: NDArray[np.uint8]) -> None:
    class Broken(BlockTransform):
        def analyse(self, x: Tensor) -> Analysis:
            found = super().analyse(x)
            return (
                found if x.shape[2] == 16 else replace(found, y=found.y[:, :5], sigma=found.mu + 1)
            )

    with pytest.raises(wf.CodecError, match="y has 5 channels, and had 192 before"):
        wf.limits(Broken(), [photo[:16, :16], photo[:24, :16]])


@pytest.mark.parametrize(
    ("shown", "problem"),
    [
        (lambda x: x[:, :1], r"must give a tensor \(1, 3, H, W\), not \(1, 1, 64, 64\)"),
        (lambda x: x[..., :32], r"gave \(3, 64, 32\) for a picture of 64×64"),
        (lambda x: x * torch.nan, "not finite"),
        (lambda x: x.numpy(), "not ndarray"),
        (lambda x: x * 1j, r"what synthesise\(\) gives must be real"),
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


@pytest.mark.parametrize(
    ("method", "gives", "problem"),
    [
        ("order", None, r"order\(\) must give masks, not NoneType"),
        ("order", [None], r"masks of order\(\) must be bool tensors, not NoneType"),
        ("order", [torch.ones(1)], "bool tensors, not torch.float32"),
        ("order", [torch.ones(3, 3) > 0], r"a mask of order\(\) has the shape \(3, 3\), and y"),
        ("order", [torch.ones(2, 1, 1, 1, 1) > 0], "a mask of order"),
        ("predict", torch.ones(2, 192, 8, 8), r"predict\(\) must give μ and σ, not \(2, 192"),
        ("predict", None, r"predict\(\) must give μ and σ, not NoneType"),
        ("predict", (torch.zeros(1),), r"predict\(\) must give μ and σ, not tuple"),
        ("predict", (torch.zeros(1), 1.0), "σ must be a tensor, not float"),
    ],
)
def test_a_context_that_breaks_the_protocol_is_told_where(
    method: str, gives: Any, problem: str, photo: NDArray[np.uint8]
) -> None:
    codec = Checkerboard()
    setattr(codec, method, lambda *given: gives)
    with pytest.raises(wf.CodecError, match=f"8×8 DCT: .*{problem}"):
        wf.limits(codec, [photo[:64, :64]])


def test_half_a_context_is_none(photo: NDArray[np.uint8]) -> None:
    class Half(BlockTransform):
        order = Checkerboard.order

    with pytest.raises(wf.CodecError, match=r"Half has no method predict\(\)"):
        wf.limits(Half(), [photo[:64, :64]])


def test_a_context_needs_no_name(photo: NDArray[np.uint8]) -> None:
    class Nameless(Checkerboard):
        name = property()  # type: ignore[assignment]

    found, expected = (wf.limits(c, [photo[:64, :64]]) for c in (Nameless(), Checkerboard()))
    assert found.codec == "Nameless"
    assert [r.bpp for r in found.rungs] == [r.bpp for r in expected.rungs]


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


def test_with_a_context_no_latent_foretells_itself(photo: NDArray[np.uint8]) -> None:
    # The second colour's prior hears of the first, which must not hear back through it.
    (view,) = Adapted(Checkerboard()).sit(as_picture(photo[:64, :64]), Setting(math.nan)).views
    known = Known(Moments(np.zeros(1), 1, 1), torch.full((len(view.y),), WATER_LEVEL))
    context = FittedContext((0.1, 0.5, 0.25, 0.5, -0.25))
    before = context.predict(_posterior(view, known, 1, 0)[0])
    for at in [(0, 2, 2), (0, 2, 3)]:
        kept = float(view.y[at])
        view.y[at] += 20.0
        after = context.predict(_posterior(view, known, 1, 0)[0])
        view.y[at] = kept
        assert not torch.equal(after[1], before[1])
        assert [plane[at] for plane in after] == [plane[at] for plane in before]
