"""What networks are told of a quality, and what they make of it."""

from __future__ import annotations

import pytest
import torch

from waterfill.codec.conditioning import TERMS, Modulation, quality_terms, with_terms
from waterfill.codec.fixed_point import ACTIVATION_BITS


def test_terms_go_from_end_to_end_and_are_whole_numbers_of_the_integer_networks() -> None:
    quality = torch.tensor([1.0, 4.5, 8.0, 2.00390625])
    terms = quality_terms(quality)
    assert terms.shape == (4, TERMS)
    assert terms[:3].tolist() == [[-1.0, 1.0], [0.0, 0.0], [1.0, 1.0]]
    whole = terms * 2.0**ACTIVATION_BITS
    assert torch.equal(whole, whole.round())
    t = (2.00390625 - 4.5) / 3.5
    assert terms[3].tolist() == pytest.approx([t, t * t], abs=2.0**-ACTIVATION_BITS)


@pytest.mark.parametrize("one", [1.0, 4096.0])
def test_terms_stand_behind_the_features_everywhere_the_same(one: float) -> None:
    features = torch.randn(2, 5, 4, 6, dtype=torch.float64)
    quality = torch.tensor([1.0, 6.25], dtype=torch.float64)
    told = with_terms(features, quality, one)
    assert torch.equal(told[:, :5], features)
    expected = one * quality_terms(quality)[:, :, None, None].expand(-1, -1, 4, 6)
    assert torch.equal(told[:, 5:], expected)


def test_a_modulation_starts_as_the_identity_and_is_known_to_full_precision() -> None:
    modulation, x = Modulation(3), torch.randn(2, 3, 4, 4)
    terms = quality_terms(torch.tensor([2.0, 7.5]))
    assert torch.equal(modulation(x, terms), x)
    with torch.no_grad():
        for parameter in modulation.parameters():
            parameter.normal_(std=0.01)
    expected = x * (1.0 + terms @ modulation.factor)[:, :, None, None]
    expected = expected + (terms @ modulation.offset)[:, :, None, None]
    with torch.autocast("cpu", torch.bfloat16):
        found = modulation(x, terms)
    assert found.dtype == torch.float32
    assert torch.allclose(found, expected, atol=1e-6)
