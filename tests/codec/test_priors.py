"""Densities are densities, and the integer network is the float network, only exact."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from waterfill.bitstream import gaussian_tables
from waterfill.codec.bounds import bounded
from waterfill.codec.fixed_point import ACTIVATION_BITS, FixedPointNetwork
from waterfill.codec.priors import DeepFactorized, integer_symbols
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
