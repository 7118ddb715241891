"""Densities are densities, and the integer network is the float network, only exact."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

from waterfill.bitstream import gaussian_tables
from waterfill.bitstream.tables import Rows, Tables
from waterfill.codec.bounds import bounded
from waterfill.codec.channels import Crossing
from waterfill.codec.coding import Prediction
from waterfill.codec.config import CodecConfig
from waterfill.codec.densities import gaussian_bin_bits
from waterfill.codec.fixed_point import (
    ACTIVATION_BITS,
    FixedPointNetwork,
    integer_weights,
    settled,
)
from waterfill.codec.noise import Noise
from waterfill.codec.priors import (
    DeepFactorized,
    MaskedContext,
    Prior,
    integer_symbols,
)
from waterfill.codec.priors import context as contexts
from waterfill.codec.transforms import hyper_synthesis
from waterfill.errors import CodecError
from waterfill.theory import quantiser_entropy

ONE = 2.0**ACTIVATION_BITS


def random_density(channels: int = 5) -> DeepFactorized:
    torch.manual_seed(3)
    density = DeepFactorized(channels)
    for factor in density.factors:
        torch.nn.init.normal_(factor)
    return density


def test_density_is_monotone_and_integrates_to_one() -> None:
    density = random_density()
    x = np.linspace(-400, 400, 4001)[None, :].repeat(5, 0)
    cdf = density.cdf(x)
    assert (np.diff(cdf, axis=1) >= 0).all()
    assert cdf[:, 0] == pytest.approx(0, abs=1e-6)
    assert cdf[:, -1] == pytest.approx(1, abs=1e-6)


def test_bits_are_minus_log2_of_the_mass_of_a_bin() -> None:
    density = random_density()
    x = torch.randn(2, 5, 3, 4) * 5
    width = torch.tensor(0.5).expand(1, 5, 1, 1)
    flat = x.permute(1, 0, 2, 3).reshape(5, -1).double().numpy()
    mass = density.cdf(flat + 0.25) - density.cdf(flat - 0.25)
    expected = torch.from_numpy(-np.log2(mass)).reshape(5, 2, 3, 4).permute(1, 0, 2, 3)
    assert torch.allclose(density.bits(x, width).double(), expected, rtol=1e-3, atol=1e-3)


@torch.no_grad()
def test_a_masked_context_in_order_sees_what_it_has_sent() -> None:
    """Predicted again from the ŷ that came out, every latent is sent just as it was."""
    torch.manual_seed(2)
    context = MaskedContext(3, 6)
    context.neighbours.weight.mul_(20.0)
    features, y = torch.randn(2, 6, 4, 5), 3.0 * torch.randn(2, 3, 4, 5)

    def send(parameters: torch.Tensor, part: torch.Tensor, channels: slice) -> Crossing:
        mean = parameters[:, :3]
        return Crossing(torch.round(part - mean) + mean, (part - mean).abs())

    def again(sent: Crossing) -> Crossing:
        return send(context.parameters_given(features, sent.y_hat), y, slice(None))

    in_order, trained = context.in_order(features, y, send), context(features, y, send)
    assert torch.allclose(again(in_order).y_hat, in_order.y_hat, atol=1e-5)
    assert torch.allclose(again(in_order).bits, in_order.bits, atol=1e-5)
    assert not torch.allclose(again(trained).bits, trained.bits, atol=1e-2)


@torch.no_grad()
def test_side_information_that_is_coded_is_charged_as_it_is_rounded() -> None:
    torch.manual_seed(4)
    prior = Prior(CodecConfig(n=4, m=4, hyper=4))
    assert prior.side is not None
    y, quality = 3.0 * torch.randn(1, 4, 8, 8), torch.tensor([6.0])
    told = prior.side(y, quality, Noise(0), coded=True)
    symbols = prior.side.symbols(y, 6.0)
    expected = Rows.by_channel(prior.side.tables(6.0), symbols.shape).bits(symbols)
    assert float(told.bits.sum()) == pytest.approx(float(expected.sum()), rel=1e-3)
    noisy = prior.side(y, quality, Noise(0))
    assert float(noisy.bits.sum()) != float(told.bits.sum())
    assert torch.equal(noisy.features, told.features)


@pytest.mark.parametrize("probability", [2.0**-20, 0.3, 0.5, 1 - 2.0**-20])
def test_bisection_finds_the_quantile(probability: float) -> None:
    density = random_density()
    at = density.cdf(density.quantile(probability)[:, None])[:, 0]
    assert at == pytest.approx(probability, rel=1e-6)


def test_tables_hold_the_mass_of_each_bin() -> None:
    density = random_density()
    tables = density.tables(np.full(5, 2.0))
    for row, frequencies in enumerate(tables.frequencies):
        assert frequencies.sum() == 1 << 24
        assert frequencies.min() >= 1
        symbols = np.arange(len(frequencies) - 1) + tables.first[row]
        edges = (np.append(symbols, symbols[-1] + 1) - 0.5) / 2.0
        mass = np.diff(density.cdf(np.tile(edges, (5, 1)))[row])
        # Each entry is rounded by less than 1 and raised by at most 1; the mode takes the rest.
        assert frequencies[:-1] / 2.0**24 == pytest.approx(mass, abs=len(mass) / 2.0**24)


def test_gaussian_tables_spend_the_entropy_of_their_gaussian() -> None:
    tables = gaussian_tables()
    for row in range(0, len(tables), 24):
        sigma = 2.0 ** (-4 + row / 16)
        p = tables.frequencies[row] / 2.0**24
        entropy = float(-(p * np.log2(p)).sum())
        assert entropy == pytest.approx(quantiser_entropy(sigma**2), abs=2e-3)


def network(seed: int = 0) -> torch.nn.Sequential:
    torch.manual_seed(seed)
    return hyper_synthesis(6, 20)


def integers(shape: tuple[int, ...], scale: float) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.round(torch.randn(shape, generator=generator, dtype=torch.float64) * scale * ONE)


def test_fixed_point_twin_is_close_to_the_float_network() -> None:
    net = network()
    x = integers((1, 6, 3, 5), 20.0)
    with torch.no_grad():
        expected = net.double()(x / ONE)
    assert torch.allclose(FixedPointNetwork(net)(x) / ONE, expected, atol=0.01)


def test_fixed_point_twin_is_equal_to_the_last_bit_however_it_is_run() -> None:
    twin = FixedPointNetwork(network())
    x = integers((3, 6, 4, 7), 20.0)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = torch.cat([twin(x[i : i + 1]) for i in range(3)])
        torch.set_num_threads(2)
        together = twin(x)
        laid_out_otherwise = twin(x.contiguous(memory_format=torch.channels_last))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(alone, together)
    assert torch.equal(together, laid_out_otherwise)
    assert torch.equal(together, torch.round(together))


@pytest.mark.parametrize(("kernel", "padding"), [(1, 0), (3, 1), (3, 0), (5, 2), ((1, 3), (0, 2))])
def test_fixed_point_convolutions_are_convolutions_to_the_last_bit(
    kernel: Any, padding: Any
) -> None:
    torch.manual_seed(4)
    layer = nn.Conv2d(3, 5, kernel, padding=padding)
    weight, bias = integer_weights(layer.weight, layer.bias, (1, 2, 3))
    for height, width in ((6, 9), (3, 3)):
        x = integers((2, 3, height, width), 20.0)
        exact = settled(torch.nn.functional.conv2d(x, weight, bias, padding=padding))
        assert torch.equal(FixedPointNetwork(layer)(x), exact)


@pytest.mark.parametrize(("height", "width"), [(2, 2), (4, 10), (8, 4)])
def test_from_one_colour_to_the_other_is_a_convolution_with_the_other_still_zero(
    height: int, width: int
) -> None:
    torch.manual_seed(4)
    layer = nn.Conv2d(3, 5, 5, padding=2)
    first, second = contexts._halves(integers((3, height, width), 20.0))
    known = contexts._merged(first, torch.zeros_like(second))
    _, expected = contexts._halves(FixedPointNetwork(layer)(known[None])[0])
    assert torch.equal(contexts._ToOtherColour(layer)(first), expected)


def test_fixed_point_refuses_weights_it_could_not_add_exactly() -> None:
    net = network()
    with torch.no_grad():
        net[0].weight.fill_(1e9)
    with pytest.raises(CodecError, match="too large"):
        FixedPointNetwork(net)
    with torch.no_grad():
        net[0].weight.fill_(float("nan"))
    with pytest.raises(CodecError, match="not finite"):
        FixedPointNetwork(net)


def test_bounded_lets_a_gradient_through_only_if_it_leads_back() -> None:
    x = torch.tensor([-2.0, -2.0, 0.5, 2.0, 2.0], requires_grad=True)
    direction = torch.tensor([1.0, -1.0, 1.0, 1.0, -1.0])
    (bounded(x, 0.0, 1.0) * direction).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [0.0, -1.0, 1.0, 1.0, 0.0]


def test_symbols_must_be_finite() -> None:
    with pytest.raises(CodecError, match="not finite"):
        integer_symbols(torch.tensor([1.0, float("nan")]))


def factorised_of(law: object, reach: int = 40) -> Prediction:
    """A prediction whose table is that of a law, rounded."""
    edges = np.arange(-reach, reach + 2) - 0.5
    masses = np.diff(law.cdf(edges))
    tables = Tables.from_masses(np.array([-reach]), [masses])
    nothing = np.zeros(0, np.int64)
    centre = torch.zeros(1, 2, 2, dtype=torch.float64)
    rows = np.zeros((1, 2, 2), np.int64)
    return Prediction(centre, Rows(tables, rows), torch.zeros(0), nothing)


@pytest.mark.parametrize("sigma", [0.5, 1.0, 5.0])
def test_the_gaussian_beside_a_gaussian_table_is_its_own(sigma):
    density = factorised_of(stats.norm(0.25, sigma)).density.gaussian()
    assert torch.allclose(density.mu, torch.full_like(density.mu, 0.25), atol=0.02)
    assert float(density.sigma[0, 0, 0]) == pytest.approx(sigma, rel=0.05)


@pytest.mark.parametrize("sigma", [0.15, 0.28, 0.6, 2.0])
def test_the_gaussian_beside_a_table_codes_its_symbols_at_little_more(sigma):
    law = stats.laplace(0.0, sigma / 2**0.5)
    density = factorised_of(law).density
    symbols = np.round(law.rvs(100_000, random_state=1))
    edges = symbols[:, None] + np.array([-0.5, 0.5])
    entropy = float(np.mean(-np.log2(np.diff(law.cdf(edges)))))
    sigma_of_all = density.gaussian().sigma[0, 0, 0].double()
    charged = gaussian_bin_bits(torch.from_numpy(symbols), sigma_of_all).mean()
    assert entropy <= float(charged) < 1.12 * entropy + 0.01
