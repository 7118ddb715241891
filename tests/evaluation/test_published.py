"""The table of published curves: complete, attributed, found by name."""

from __future__ import annotations

import numpy as np
import pytest

from waterfill.errors import WaterfillError
from waterfill.evaluation.metrics import in_decibels
from waterfill.evaluation.published import (
    ALIASES,
    published_curve,
    published_curves,
    published_names,
)


def test_every_curve_names_its_source_and_holds_plausible_points() -> None:
    curves = published_curves()
    assert len(curves) == 100
    assert sum(len(curve.points) for curve in curves.values()) == 1324
    for curve in curves.values():
        assert ":" in curve.source
        assert len(curve.points) >= 4
        for point in curve.points:
            assert 0 < point.bpp < 24
            assert 15 < point.psnr < 60
            assert point.ms_ssim is None or 0 < point.ms_ssim < 1


def test_aliases_stand_for_curves_in_any_case() -> None:
    for alias, name in ALIASES.items():
        assert name in published_names()
        assert alias not in published_names()
        assert published_curve(alias.upper()).name == name
    assert published_curve("published:BPG").name == "bpg_444_x265_ycbcr"
    lowered = [name.lower() for name in (*published_names(), *ALIASES)]
    assert len(lowered) == len(set(lowered)), "two names differ in case alone"


def test_arrays_are_sorted_by_quality_in_decibels() -> None:
    vtm = published_curve("vtm")
    psnr, similarity = vtm.array(), vtm.array("ms_ssim")
    assert psnr.shape == similarity.shape == (8, 2)
    assert (np.diff(psnr[:, 1]) > 0).all()
    first = min(vtm.points, key=lambda point: point.bpp)
    assert first.ms_ssim is not None
    assert similarity[0].tolist() == [first.bpp, in_decibels(first.ms_ssim)]
    with pytest.raises(WaterfillError, match="has no MS-SSIM"):
        published_curve("elic").array("ms_ssim")


def test_what_is_no_codec_and_what_is_not_trained_for_psnr_is_said() -> None:
    curves = published_curves()
    bounds = [name for name, curve in curves.items() if curve.kind == "bound"]
    assert len(bounds) == 2
    assert all("no file has this size" in curves[name].caveat for name in bounds)
    assert published_curve("hyperprior").objective == "mse"
    assert curves["compressai-mbt2018_ms-ssim_cpu"].objective == "ms-ssim"
    assert "9.1" in published_curve("vtm").caveat
    assert published_curve("vtm").caveat != published_curve("vtm18").caveat


def test_an_unknown_name_is_refused_in_one_line_with_what_is_near() -> None:
    with pytest.raises(WaterfillError, match="hyperprio'; did you mean hyperprior") as refusal:
        published_curve("hyperprio")
    assert "\n" not in str(refusal.value)
    with pytest.raises(WaterfillError, match=r"no published curve is named 'zzzzzz'$"):
        published_curve("zzzzzz")
