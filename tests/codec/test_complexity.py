"""Multiplications, against a count by hand."""

from __future__ import annotations

import pytest

import waterfill as wf
from waterfill.codec.config import CodecConfig
from waterfill.codec.model import Codec


def test_a_hyperprior_by_hand() -> None:
    n, m = 8, 12
    codec = Codec(CodecConfig(n, m, n))
    layers = (n * n / 16, n * n / 64, n * m / 256)  # of g_a after the first, and of g_s
    shared = 25 * sum(layers) + n * n * (1 / 4 + 1 / 16 + 1 / 64)  # kernels of 5, and GDN
    first = 25 * 3 * n / 4
    # The last one of g_s, onto few channels, is a convolution by 3 of all four phases at once.
    last = 9 * 12 * n / 4
    h_a = (9 * m * n + 25 * n * n / 4 + 25 * n * n / 16) / 256
    h_s = (25 * n * n / 16 + 25 * n * n / 4 + 9 * n * 2 * m) / 256
    takes = codec.complexity()
    assert takes.encoder == pytest.approx((first + shared + h_a + h_s) / 1000)
    assert takes.decoder == pytest.approx((last + shared + h_s) / 1000)
    assert takes.parameters == sum(p.numel() for p in codec.parameters())


@pytest.mark.parametrize("mixtures", [1, 3])
def test_a_masked_context_is_gone_through_once(mixtures: int) -> None:
    m, outputs = 12, 24 if mixtures == 1 else 9 * 12
    plain, masked = (
        Codec(CodecConfig(8, m, 8, context=context, mixtures=k)).complexity()
        for context, k in (("none", 1), ("masked", mixtures))
    )
    neighbours = 12 * m * 2 * m  # Of 25 places, those that come before.
    layers = 4 * m * (10 * m // 3) + (10 * m // 3) * (8 * m // 3) + (8 * m // 3) * outputs
    own = (neighbours + layers) / 256 / 1000
    assert masked.encoder - plain.encoder == pytest.approx(own)
    assert masked.decoder - plain.decoder == pytest.approx(own)


def test_a_factorised_prior_has_no_side_information_to_count() -> None:
    codec = Codec(CodecConfig(8, 12, 8, side="none", qualities=(3.0, 3.0)))
    with_side = Codec(CodecConfig(8, 12, 8)).complexity()
    assert codec.complexity().encoder < with_side.encoder
    assert codec.complexity().decoder < with_side.decoder


def test_it_does_not_depend_on_weights_and_says_the_same_twice() -> None:
    codec = wf.load_codec()
    before = codec.weights_id
    assert codec.complexity() == codec.complexity() == Codec(codec.config).complexity()
    assert codec.weights_id == before
