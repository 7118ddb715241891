"""Metrics and curves against independent references and known answers."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.interpolate import PchipInterpolator
from skimage.metrics import peak_signal_noise_ratio

import waterfill as wf
from waterfill.evaluation import metrics
from waterfill.evaluation.curves import rate_at_psnr
from waterfill.evaluation.metrics import SimilarityTo, mean_squared_error, ms_ssim, psnr


def noisy(pixels: NDArray[np.uint8], deviation: float) -> NDArray[np.uint8]:
    noise = np.random.default_rng(0).normal(0, deviation, pixels.shape)
    return np.clip(np.rint(pixels + noise), 0, 255).astype(np.uint8)


@pytest.mark.filterwarnings("ignore:invalid escape sequence")
@pytest.mark.parametrize("size", [(161, 256), (192, 161), (191, 255)])
@pytest.mark.parametrize("deviation", [1.0, 10.0, 60.0])
def test_ms_ssim_equals_an_independent_implementation(
    photo: NDArray[np.uint8], size: tuple[int, int], deviation: float
) -> None:
    from pytorch_msssim import ms_ssim as reference

    a = np.ascontiguousarray(photo[: size[0], : size[1]])
    b = noisy(a, deviation)
    first, second = (torch.from_numpy(x).permute(2, 0, 1)[None].float() for x in (a, b))
    expected = float(reference(first, second, data_range=255.0))
    assert ms_ssim(a, b) == pytest.approx(expected, abs=1e-5)
    similarity = SimilarityTo(a)
    assert similarity(b) == similarity(b) == ms_ssim(a, b)


@pytest.mark.parametrize("strip", [16, 37, 1000])
def test_large_pictures_are_taken_in_strips_to_the_same_end(
    photo: NDArray[np.uint8], strip: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    b = noisy(photo, 10.0)
    expected = ms_ssim(photo, b), mean_squared_error(photo, b)
    monkeypatch.setattr(metrics, "_LARGE", 1000)
    monkeypatch.setattr(metrics, "_STRIP", strip)
    assert ms_ssim(photo, b) == pytest.approx(expected[0], abs=1e-6)
    assert mean_squared_error(photo, b) == expected[1]
    assert math.isnan(ms_ssim(photo[:100], b[:100]))


def test_ms_ssim_is_one_for_a_copy_and_nan_where_there_is_none(photo: NDArray[np.uint8]) -> None:
    assert ms_ssim(photo, photo) == pytest.approx(1.0)
    small = photo[:160, :200]
    assert math.isnan(ms_ssim(small, small))


def test_psnr_equals_an_independent_implementation(photo: NDArray[np.uint8]) -> None:
    b = noisy(photo, 7.0)
    assert psnr(photo, b) == pytest.approx(peak_signal_noise_ratio(photo, b), abs=1e-9)
    assert psnr(photo, photo) == math.inf


def test_shapes_must_agree(photo: NDArray[np.uint8]) -> None:
    for measure in (mean_squared_error, psnr, ms_ssim):
        with pytest.raises(ValueError, match="shapes differ"):
            measure(photo, photo[:-1])


CURVE = np.array([(0.12, 27.6), (0.25, 30.1), (0.49, 33.0), (0.93, 36.2), (1.6, 39.7)])


@pytest.mark.parametrize("factor", [0.5, 0.9, 1.0, 1.3])
def test_bd_rate_of_a_scaled_curve_is_its_factor(factor: float) -> None:
    test = CURVE * [factor, 1.0]
    assert wf.bd_rate(CURVE, test) == pytest.approx(100 * (factor - 1), abs=1e-9)
    assert wf.bd_rate(CURVE[::-1], test[[2, 0, 4, 1, 3]]) == wf.bd_rate(CURVE, test)


def test_bd_rate_equals_an_independent_implementation() -> None:
    bjontegaard = pytest.importorskip("bjontegaard")
    test = CURVE * [0.83, 1.0] + [0.01, 0.35]
    expected = bjontegaard.bd_rate(
        CURVE[:, 0],
        CURVE[:, 1],
        test[:, 0],
        test[:, 1],
        method="pchip",
        require_matching_points=False,
    )
    assert wf.bd_rate(CURVE, test) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("test", "reason"),
    [
        (CURVE[:3], "at least four"),
        (CURVE + np.array([0, 100]), "share no range"),
        (CURVE * [1, np.nan], "finite"),
        (CURVE * [-1, 1], "positive"),
        (CURVE[[0, 1, 1, 2]], "at least four"),
        (CURVE[:, ::-1], r"columns must be \(bpp, dB\)"),
        (CURVE[:, 0], r"\(n, 2\)"),
    ],
)
def test_bd_rate_refuses_what_it_cannot_compare(test: NDArray[np.float64], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        wf.bd_rate(CURVE, test)


def test_of_points_at_one_psnr_the_cheapest_counts() -> None:
    double = np.vstack([CURVE[2] * [1.5, 1.0], CURVE])
    assert wf.bd_rate(double, CURVE * [0.9, 1.0]) == pytest.approx(-10.0, abs=1e-9)


def test_swapped_columns_are_refused_on_either_side_and_real_curves_are_not() -> None:
    for curves in ((CURVE[:, ::-1], CURVE[:, ::-1]), (CURVE[:, ::-1], CURVE)):
        with pytest.raises(ValueError, match="anchor looks like"):
            wf.bd_rate(*curves)
    assert wf.bd_rate(CURVE * [1000, 1], CURVE * [900, 1]) == pytest.approx(-10.0)  # kbit/s
    low = CURVE * [10, 0.2] + [0, 1]  # bpp from 1.2 to 16 at 6.5 to 9 dB of MS-SSIM
    assert wf.bd_rate(low, low * [0.9, 1]) == pytest.approx(-10.0)


def test_rate_at_psnr_reads_inside_and_goes_on_along_the_slope_outside() -> None:
    rates, psnrs = CURVE[:, 0], CURVE[:, 1]
    slopes = [0.2, 0.2, 0.2, 0.2, 0.1]
    inside = float(np.exp(PchipInterpolator(psnrs, np.log(rates))(31.0)))
    assert rate_at_psnr(rates, psnrs, 31.0, slopes) == pytest.approx(inside)
    assert rate_at_psnr(rates, psnrs, 26.6, slopes) == pytest.approx(0.12 * math.exp(-0.2))
    assert rate_at_psnr(rates, psnrs, 41.7, slopes) == pytest.approx(1.6 * math.exp(0.2))
    assert rate_at_psnr([0.5], [30.0], 31.0, [0.15]) == pytest.approx(0.5 * math.exp(0.15))
