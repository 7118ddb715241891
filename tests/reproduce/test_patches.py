"""Estimators on patches: units by a known answer, and what a figure makes of ceilings."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from waterfill.codec.gains import lambda_of_quality
from waterfill.data.images import Picture
from waterfill.errors import WaterfillError
from waterfill.estimators.nerd import Nerd
from waterfill.estimators.sandwich import SandwichUpper
from waterfill.estimators.wgd import WassersteinDescent
from waterfill.reproduce import REPRODUCTIONS, Request, estimates, patches
from waterfill.reproduce.patches import PatchBound, bounds_on_patches, gap_at_equal_psnr

_DEVIATION = 24.0


def noise(seed: int, side: int = 64) -> NDArray[np.uint8]:
    """White Gaussian noise about grey."""
    values = np.random.default_rng(seed).normal(128.0, _DEVIATION, (side, side, 3))
    return values.round().clip(0, 255).astype(np.uint8)


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Request:
    folder = tmp_path / "photographs"
    folder.mkdir()
    for seed in range(3):
        Image.fromarray(noise(seed)).save(folder / f"{seed}.png")
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    plain = SandwichUpper(prior="factorised", hidden=0, latent=48, steps=1, learning_rate=1e-6)
    monkeypatch.setattr(patches, "ESTIMATORS", {"mini": {"sandwich": (plain, (4,))}})
    return Request(photographs=[str(folder)], runs=tmp_path / "runs")


def test_white_noise_costs_what_theory_says(asked: Request) -> None:
    pictures = [Picture(f"{seed}", noise(seed)) for seed in (7, 8)]
    (bound,) = bounds_on_patches(asked, pictures)
    variance = (_DEVIATION**2 + 1.0 / 12.0) / 255.0**2  # pixels are rounded
    for quality, bpp, psnr in zip(patches.QUALITIES_READ, bound.bpp, bound.psnr, strict=True):
        # bpp + λ·255²·MSE with MSE over three samples: θ = 3/(2 ln 2 · λ · 255²) for each of them.
        level = 3.0 / (2.0 * math.log(2.0) * lambda_of_quality(quality) * 255.0**2)
        rate = 1.5 * max(0.0, math.log2(variance / level))
        error = min(level, variance)
        # The components are fitted to finitely many patches, which costs a little.
        assert bpp == pytest.approx(rate, rel=0.02, abs=0.01)
        assert psnr == pytest.approx(-10.0 * math.log10(error), abs=0.1)
        assert bpp + error * lambda_of_quality(quality) * 255.0**2 > 0.98 * (
            rate + error * lambda_of_quality(quality) * 255.0**2
        )
    assert bound.ceiling is None
    assert not any(bound.at_ceiling)


def test_readings_of_another_program_are_made_anew(
    asked: Request, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patches, "QUALITIES_READ", (3,))
    steps: list[str] = []
    told = replace(asked, progress=lambda done, total, what: steps.append(what))
    first = bounds_on_patches(told, [Picture("a", noise(7))])
    assert steps
    steps.clear()
    assert bounds_on_patches(told, [Picture("a", noise(7))]) == first
    assert not steps
    monkeypatch.setattr(estimates, "identity", lambda: {"code": "another"})
    assert bounds_on_patches(told, [Picture("a", noise(7))]) == first
    assert steps


def test_figure_5a_draws_bounds_on_patches_with_their_ceilings(
    asked: Request, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = {
        "sandwich": (SandwichUpper(hidden=4, latent=4, steps=2, batch=16), (8,)),
        "NERD": (Nerd(steps=2, atoms=50, training_atoms=20, batch=16, hidden=4), (4,)),
        "WGD": (WassersteinDescent(particles=16, steps=3, batch=32), (4,)),
    }
    monkeypatch.setattr(patches, "ESTIMATORS", {"mini": small})
    steps: list[str] = []
    told = replace(
        asked,
        pictures=[noise(9, 96)],
        progress=lambda done, total, what: steps.append(what),
    )
    found = REPRODUCTIONS["fig5a"](told)
    named = {line.name: line for line in found.lines}
    # The logarithm of the number of atoms, on 16 pixels.
    assert named["ceiling of NERD, 4×4 patches"].x == pytest.approx((math.log2(50) / 16,) * 2)
    assert named["ceiling of WGD, 4×4 patches"].x == pytest.approx((math.log2(16) / 16,) * 2)
    assert "ceiling of sandwich, 8×8 patches" not in named
    (table,) = (table for table in found.tables if table.title.startswith("Estimators on patches"))
    assert [row[0] for row in table.rows] == [
        "sandwich, 8×8 patches",
        "NERD, 4×4 patches",
        "WGD, 4×4 patches",
    ]
    # Noise at the highest rate is worth more than 50 atoms can tell.
    assert table.rows[1][-2].endswith("(ceiling)")
    assert {row[1] for row in table.rows} == {"upper bound on R(D)"}
    assert any("one by one" in note for note in found.notes)
    assert any(what.startswith("nerd") for what in steps)
    steps.clear()
    again = REPRODUCTIONS["fig5a"](told)
    assert {what.split()[0] for what in steps} == {"measuring"}
    assert again.lines == found.lines


def test_what_is_smaller_than_a_patch_is_refused_before_anything_is_fitted(
    asked: Request, monkeypatch: pytest.MonkeyPatch
) -> None:
    ((name, (method, _)),) = patches.ESTIMATORS["mini"].items()
    steps: list[str] = []
    told = replace(asked, progress=lambda done, total, what: steps.append(what))
    monkeypatch.setattr(patches, "ESTIMATORS", {"mini": {name: (method, (4, 8))}})
    with pytest.raises(WaterfillError, match=r"tiny: is smaller than a patch of 8×8"):
        bounds_on_patches(told, [Picture("tiny", noise(1, 6))])
    monkeypatch.setattr(patches, "ESTIMATORS", {"mini": {name: (method, (4, 128))}})
    with pytest.raises(WaterfillError, match="no photograph to fit on of at least 128×128"):
        bounds_on_patches(told, [Picture("large", noise(1, 128))])
    assert not steps


def test_gaps_are_read_between_points_and_not_at_a_ceiling() -> None:
    bound = PatchBound("some", 8, 1, (1.0, 2.0, 4.0), (30.0, 35.0, 50.0), (False, True, False), 2.0)
    curve = np.array([[0.25, 25.0], [1.0, 35.0]])
    # Half way between the logarithms at 30 dB; 35 dB is a ceiling's, 50 dB lies beyond.
    assert gap_at_equal_psnr(bound, curve) == pytest.approx([-50.0])
