"""The ladder of a codec on pictures: its parts add up, and its JSON has the promised shape."""

from __future__ import annotations

import json
import math
import weakref
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from known_scale import gaussian_latents
from numpy.typing import NDArray
from PIL import Image

import waterfill as wf
from waterfill.codec.channels import WATER_LEVEL, Crossing, Dithered, GaussianTest
from waterfill.codec.config import CodecConfig
from waterfill.codec.densities import Density
from waterfill.codec.model import Codec
from waterfill.codec.noise import Noise
from waterfill.codec.registry import save_codec
from waterfill.evaluation.measure import OwnCodec
from waterfill.ladder import LADDER, Ladder, decompose, rungs
from waterfill.ladder.decompose import efficient
from waterfill.ladder.measure import measure_rung
from waterfill.ladder.result import TERMS, Point
from waterfill.ladder.rungs import (
    BESIDE,
    BITSTREAM,
    CONTEXT,
    TOLD,
    TRELLIS,
    UNKNOWN_VARIANCE,
    Climb,
    Known,
    Predicted,
    Rung,
    Status,
    Told,
)
from waterfill.ladder.subjects import View, _Fleeting, _Remembering, noise_of
from waterfill.ladder.variances import Grouped, Moments, Oracle


@pytest.fixture(scope="module")
def ladder(tiny: Codec, photo: NDArray[np.uint8]) -> Ladder:
    return wf.limits(tiny, [photo, photo[::-1, :100]], [3, 4, 5, 6])


@pytest.fixture(scope="module")
def learned(photo: NDArray[np.uint8]) -> Ladder:
    """Of a codec whose rungs come near each other's PSNR."""
    return wf.limits(wf.load_codec(), [photo[:96, :96], photo[64:160, 128:]], [3, 4, 5, 6])


def test_parts_add_up_to_the_rate(ladder: Ladder) -> None:
    for row in ladder.rows:
        assert sum(row["parts"].values()) == pytest.approx(row["bpp"], abs=1e-12)


def test_decomposition_adds_up_to_the_gap(learned: Ladder) -> None:
    for d in (learned.decomposition, *learned.per_image):
        parts = sum(getattr(d, f"{term}_bpp") for term in TERMS)
        assert parts == pytest.approx(d.achieved_bpp - d.limit_bpp, abs=1e-9)
    assert len(learned.per_image) == 2


def test_an_interval_of_every_term_holds_the_measured_value(learned: Ladder) -> None:
    d = learned.decomposition
    curves, main = _of_pictures(learned)
    found = decompose.intervals(4 * curves, 4 * main, seed=0)
    assert found.keys() == set(TERMS)
    for term, (low, high) in found.items():
        value = getattr(d, f"{term}_bpp")
        assert low - 1e-6 <= value <= high + 1e-6, term


def test_an_interval_is_as_wide_as_so_few_pictures_ask_for(
    learned: Ladder, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def count_of(resampled: NDArray[np.float64], count: int) -> tuple[float, float]:
        asked.append((len(resampled) >= 500, count))
        return 0.0, 0.0

    monkeypatch.setattr(decompose, "bootstrap_interval", count_of)
    curves, main = _of_pictures(learned)
    decompose.intervals(4 * curves, 4 * main, seed=0)
    assert asked == [(True, 8)] * len(TERMS)


def test_of_few_pictures_no_interval_is_given(learned: Ladder) -> None:
    assert learned.decomposition.intervals == {}
    curves, main = _of_pictures(learned)
    assert decompose.intervals((4 * curves)[:7], (4 * main)[:7], seed=0) == {}


def test_resamples_are_not_asked_for_what_nobody_reads(
    learned: Ladder, monkeypatch: pytest.MonkeyPatch
) -> None:
    curves, main = _of_pictures(learned)
    expected = decompose.intervals(4 * curves, 4 * main, seed=0)

    def unasked(*curves: object) -> float:
        raise AssertionError

    monkeypatch.setattr(decompose, "bd_rate", unasked)
    assert decompose.intervals(4 * curves, 4 * main, seed=0) == expected
    monkeypatch.setattr(decompose, "bd_rate", lambda *curves: 1.0)
    assert set(decompose.decompose(curves[0], main[0]).bd_rates.values()) == {1.0}


def _of_pictures(
    learned: Ladder,
) -> tuple[list[dict[str, list[Point]]], list[dict[str, Point]]]:
    """Curves of each picture, and its points at the ladder's quality."""
    curves, main = [], []
    for image in learned.images:
        rows = [row for row in learned.rows if row["image"] == image["name"]]
        names = dict.fromkeys(row["rung"] for row in rows)
        of = {n: [_point(row) for row in rows if row["rung"] == n] for n in names}
        curves.append(of)
        main.append({n: p for n, ps in of.items() for p in ps if p.quality == learned.quality})
    return curves, main


def _point(row: dict[str, Any]) -> Point:
    return Point(**{name: row[name] for name in Point.__dataclass_fields__})


def test_channels_add_up_to_the_latents_rate(ladder: Ladder) -> None:
    for rung in ladder.rungs:
        latents = rung.bpp - sum(v for n, v in rung.parts.items() if n not in LATENT_PARTS)
        assert ladder.channels[rung.name].sum() == pytest.approx(latents, rel=1e-5)
    unknown = ladder.channels[UNKNOWN_VARIANCE]
    (context,) = (rung for rung in ladder.rungs if rung.name == "+ context")
    assert unknown.sum() == pytest.approx(context.parts[UNKNOWN_VARIANCE], rel=1e-5)
    assert (unknown >= 0).all()


LATENT_PARTS = ("latents", TOLD, UNKNOWN_VARIANCE)


def test_savings_are_against_the_file(ladder: Ladder) -> None:
    first = ladder.rungs[0]
    assert first.saved_bpp is None
    for rung in ladder.rungs[1:]:
        saved = first.bpp_at_equal_psnr - rung.bpp_at_equal_psnr
        assert rung.saved_bpp == pytest.approx(saved, nan_ok=True)


def test_bitstream_rung_counts_the_bytes_of_the_file(
    tiny: Codec, photo: NDArray[np.uint8], ladder: Ladder
) -> None:
    (row,) = (
        r
        for r in ladder.rows
        if r["rung"] == "bitstream"
        and r["quality"] == 4
        and r["image"] == ladder.images[0]["name"]
        and r["bpp"] == 8 * len(tiny.compress(photo, 4)) / (192 * 256)
    )
    decoded = np.asarray(wf.decompress(tiny.compress(photo, 4), codec=tiny))
    assert row["mse"] == np.mean((decoded.astype(float) - photo) ** 2)


def test_json_has_the_promised_shape(ladder: Ladder) -> None:
    data = json.loads(ladder.to_json())
    assert {"codec", "images", "rungs", "decomposition", "environment"} <= set(data)
    assert [rung["name"] for rung in data["rungs"]] == [rung.name for rung in LADDER]
    for rung in data["rungs"]:
        assert {"name", "status", "bpp", "psnr", "parts"} <= set(rung)
    assert len(data["images"]) == 2
    assert data["environment"]["seed"] == 0
    assert "torch" in data["environment"]["versions"]
    # The second picture is too small for MS-SSIM: no number, and still valid JSON.
    assert any(row["ms_ssim"] is None for row in data["rows"])


def test_frame_has_a_row_for_each_measurement(ladder: Ladder) -> None:
    frame = ladder.to_frame()
    assert len(frame) == 2 * 4 * len(LADDER)
    assert set(frame["rung"]) == {rung.name for rung in LADDER}


def test_report_is_written(ladder: Ladder, tmp_path: Path) -> None:
    ladder.report(tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "genie-aided" in page
    with pytest.raises(wf.WaterfillError, match="can't be written"):
        ladder.report(tmp_path / "missing" / "report.html")


def test_one_rate_one_picture_of_any_kind(
    tiny: Codec, photo: NDArray[np.uint8], tmp_path: Path
) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(photo[:50, :60]).save(path)
    by_path = wf.limits(tiny, path, 4)
    by_image = wf.limits(tiny, Image.open(path), 4)
    by_array = wf.limits(tiny, [photo[:50, :60]], 4.0)
    for other in (by_image, by_array):
        assert [r.bpp for r in other.rungs] == [r.bpp for r in by_path.rungs]
    assert by_path.quality == 4
    assert "one quality" in by_path.decomposition.method
    assert {rung.name for rung in by_path.rungs if len(rung.curve) > 1} == set(BESIDE)


def test_pictures_meet_noise_of_their_own_wherever_they_stand(
    tiny: Codec, photo: NDArray[np.uint8]
) -> None:
    seeds: dict[str, set[int]] = {}

    class Listening(Rung):
        def climb(self, views: Sequence[View], known: Known, *, seed: int = 0) -> Climb:
            seeds.setdefault(f"{float(views[0].y.sum()):.6g}", set()).add(seed)
            return Predicted("", Status.ACHIEVABLE, "", GaussianTest()).climb(views, known)

    a, b = photo[:64, :64], photo[64:128, :64]
    listening = Listening("test", Status.ACHIEVABLE, "")
    for pictures in ([a, b], [b, a]):
        measure_rung(tiny, listening, pictures, [4.0])
    assert [len(found) for found in seeds.values()] == [1, 1]
    assert len(set.union(*seeds.values())) == 2


def test_one_rung_is_measured_where_it_is_asked_for_alone(photo: NDArray[np.uint8]) -> None:
    rung = Predicted("test channel", Status.ACHIEVABLE, "", GaussianTest())
    for covered, asked in (((3.0, 3.0), [3.0]), ((1.0, 1.5), [1.25]), ((1.0, 8.0), [4.0, 2.0])):
        torch.manual_seed(0)
        codec = Codec(CodecConfig(n=4, m=8, hyper=4, qualities=covered))
        (points,) = measure_rung(codec, rung, [photo[:64, :64]], asked)
        assert [(point.quality, point.step) for point in points] == [(q, 1.0) for q in asked]
    narrow = Codec(CodecConfig(n=4, m=8, hyper=4, qualities=(1.0, 1.5)))
    found = wf.limits(narrow, photo[:64, :64], 1.5)
    steps = [p.step for r in found.rungs if r.name == CONTEXT for p in r.curve]
    assert steps[0] == 1.0 > steps[1] > steps[2]


@pytest.mark.parametrize("quality", [3.5, 7.5])
def test_one_quality_says_what_all_of_them_say(photo: NDArray[np.uint8], quality: float) -> None:
    codec, picture = wf.load_codec(), photo[:96, 128:224]
    around = (quality - 0.5, quality, quality + 0.5)
    if quality < 7:
        around = (quality - 1.0, quality, quality + 1.0, quality + 2.0)
    one, all_of_them = (wf.limits(codec, picture, q) for q in (quality, around))
    assert one.quality == all_of_them.quality == quality
    rates = [{r.name: r.bpp_at_equal_psnr for r in found.rungs} for found in (one, all_of_them)]
    assert rates[0][BITSTREAM] == rates[1][BITSTREAM]
    for name in (TRELLIS, *BESIDE):
        # Above quality 8 networks meet steps that they were not trained for.
        assert rates[0][name] == pytest.approx(rates[1][name], rel=0.015 if quality < 7 else 0.03)
    assert (one.decomposition.tightest_group is None) == any(
        math.isnan(r) for n, r in rates[0].items() if n.startswith("grouped")
    )
    # A rung far below the codec's PSNR has no rate there, rather than any; one comes near it.
    found = [r for n, r in rates[0].items() if "grou" in n and math.isfinite(r)]
    assert found
    assert all(r > rates[0][CONTEXT] for r in found)


def test_a_codec_that_learned_nothing_has_no_rates_of_millions(tiny: Codec) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (96, 96, 3), dtype=np.uint8)
    for quality in (4.0, (2.0, 4.0, 6.0)):
        found = wf.limits(tiny, [noise, noise[:1, :1]], quality)
        known = [r for r in found.rungs if math.isfinite(r.bpp_at_equal_psnr)]
        assert all(r.bpp_at_equal_psnr <= 10.0 * max(p.bpp for p in r.curve) for r in known)
        assert "e+" not in found.decomposition.sentence
        assert "NaN" not in found.to_json()
        assert "nan" not in found.decomposition.sentence


def test_codecs_and_pictures_are_taken_as_everywhere_else(
    tiny: Codec, photo: NDArray[np.uint8], tmp_path: Path
) -> None:
    weights = tmp_path / "codec.safetensors"
    save_codec(tiny, weights, {})
    for name, pixels in (("a", photo[:40, :48]), ("b", photo[40:72, :48])):
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
    paths = [tmp_path / "a.png", tmp_path / "b.png"]
    ladder = wf.limits(wf.load_codec(weights), paths, 4)
    expected = ladder.rows
    own = OwnCodec(wf.load_codec(weights)).name
    assert ladder.codec == own == f"{tmp_path.name}/codec"  # as evaluations name it
    assert {Path(row["image"]).name for row in expected} == {"a.png", "b.png"}
    for images in (tmp_path, f"{tmp_path}/", f"{tmp_path}/*.png"):
        assert repr(wf.limits(weights, images, 4).rows) == repr(expected)
    tensor = torch.from_numpy(photo[:40, :48].copy()).permute(2, 0, 1)
    first = [row["bpp"] for row in expected if row["image"] == str(paths[0])]
    bitstream = LADDER[0].name
    for image in (tensor, [tensor], BytesIO(paths[0].read_bytes()), paths[0].read_bytes()):
        rows = wf.limits(str(weights), image, np.float32(4)).rows  # type: ignore[arg-type]
        assert rows[0]["rung"] == bitstream
        assert rows[0]["bpp"] == first[0]


def test_numpys_numbers_are_qualities(tiny: Codec, photo: NDArray[np.uint8]) -> None:
    piece = photo[:32, :32]
    expected = wf.limits(tiny, piece, 4).rows
    for quality in (np.float32(4), np.int64(4), np.array([4]), torch.tensor(4.0)):
        assert repr(wf.limits(tiny, piece, quality).rows) == repr(expected)  # type: ignore[arg-type]


def test_what_is_no_codec_or_no_picture_is_said_in_one_line(
    tiny: Codec, photo: NDArray[np.uint8], tmp_path: Path
) -> None:
    with pytest.raises(wf.CodecError, match="neither a file nor a codec's name"):
        wf.limits("nonsense", photo, 4)
    with pytest.raises(wf.CodecError, match="int can't be measured"):
        wf.limits(4, photo, 4)  # type: ignore[arg-type]
    with pytest.raises(wf.ImageError, match="NoneType is no picture"):
        wf.limits(tiny, None, 4)  # type: ignore[arg-type]
    with pytest.raises(wf.ImageError, match=r"image 2: .*float32"):
        wf.limits(tiny, [photo[:16, :16], torch.rand(3, 8, 8)], 4)
    with pytest.raises(wf.ImageError, match="no pictures in this folder"):
        wf.limits(tiny, tmp_path, 4)


def test_pictures_side_by_side_give_the_figures_of_one_after_the_other(
    tiny: Codec, photo: NDArray[np.uint8]
) -> None:
    pictures = [photo[:64, :64], photo[64:128, :64], photo[:64, 64:128]]
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        apart = wf.limits(tiny, pictures, 4)
        torch.set_num_threads(2)
        together = wf.limits(tiny, pictures, 4)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
    assert [row["bpp"] for row in apart.rows] == [row["bpp"] for row in together.rows]
    assert [row["mse"] for row in apart.rows] == [row["mse"] for row in together.rows]


def test_grey_pictures_have_a_ladder(tiny: Codec, photo: NDArray[np.uint8]) -> None:
    ladder = wf.limits(tiny, [photo[..., 0]], 4)
    assert all(math.isfinite(rung.bpp) for rung in ladder.rungs)


def test_no_pictures_and_bad_qualities_are_refused(tiny: Codec, photo: NDArray[np.uint8]) -> None:
    with pytest.raises(wf.ImageError, match="no pictures"):
        wf.limits(tiny, [], 4)
    with pytest.raises(ValueError, match="quality"):
        wf.limits(tiny, [photo], 9)
    single = Codec(CodecConfig(n=4, m=8, hyper=4, qualities=(3.0, 3.0)))
    for codec, none in ((tiny, []), (tiny, ()), (tiny, np.zeros(0)), (single, [])):
        with pytest.raises(wf.QualityError, match="no qualities to measure at"):
            wf.limits(codec, [photo], none)  # type: ignore[arg-type]
    for quality in ("3", True, np.True_, ["3"], [4, True], object()):
        with pytest.raises(wf.QualityError, match="quality must be a number, not"):
            wf.limits(tiny, [photo], quality)  # type: ignore[arg-type]


def test_progress_counts_every_rung_once(tiny: Codec, photo: NDArray[np.uint8]) -> None:
    seen: list[tuple[int, int]] = []
    wf.limits(
        tiny, [photo[:64, :64]], [3, 4], progress=lambda done, total, _: seen.append((done, total))
    )
    total = 1 + 2 * len(LADDER)
    assert seen == [(k, total) for k in range(total + 1)]


def test_efficient_points_are_those_that_nothing_beats() -> None:
    def point(bpp: float, psnr: float) -> Point:
        return Point(4.0, bpp, psnr, math.nan, 1.0, {})

    good = [point(0.1, 27), point(0.2, 30), point(0.5, 33)]
    beaten = [point(0.21, 29.9), point(0.6, 33.0), point(0.3, 28)]
    assert efficient([good[2], beaten[0], good[0], beaten[1], beaten[2], good[1]]) == good


def test_one_broken_picture_ends_the_measurement_at_once(
    tiny: Codec, photo: NDArray[np.uint8], tmp_path: Path
) -> None:
    (tmp_path / "text.png").write_text("no picture")
    steps: list[int] = []
    pictures = [tmp_path / "text.png", *[photo[:64, :64]] * 40]
    with pytest.raises(wf.ImageError, match=r"text\.png"):
        wf.limits(tiny, pictures, 4, progress=lambda done, total, what: steps.append(done))
    assert len(steps) < 41 * (1 + len(LADDER)) / 2
    assert steps == sorted(steps)


def test_what_is_remembered_of_a_tile_is_what_would_be_derived_anew(
    tiny: Codec, photo: NDArray[np.uint8]
) -> None:
    latents = tiny.latents(photo[:96, :96], 5)
    kept, fleeting = _Remembering(latents), _Fleeting(latents)
    m = len(latents.y)
    flat, uneven = torch.full((m,), 1 / 12), torch.linspace(0.05, 0.2, m)
    channels = (GaussianTest(), GaussianTest(flat), GaussianTest(uneven), Dithered())
    for seed in (1, 1, 2):
        for channel in (*channels, GaussianTest(mmse=False)):
            once = kept.through(channel, noise_of(seed, 0))
            again = fleeting.through(channel, noise_of(seed, 0))
            assert all(torch.equal(a, b) for a, b in zip(once, again, strict=True))
    same = kept.through(GaussianTest(), noise_of(3, 0))
    assert kept.through(GaussianTest(flat), noise_of(3, 0)) is same


def test_of_a_large_picture_one_climb_and_one_settings_latents_exist_at_a_time(
    photo: NDArray[np.uint8],
) -> None:
    alive: list[weakref.ref[torch.Tensor]] = []

    class Watched(Rung):
        def climb(self, views: Sequence[View], known: Known, *, seed: int = 0) -> Climb:
            assert not any(reference() is not None for reference in alive)
            climb = LADDER[4].climb(views, known, seed=seed)
            alive.extend(map(weakref.ref, [*climb.y_hats, *(view.y for view in views)]))
            return climb

    codec = wf.load_codec("tiny", pretrained=False)
    codec.tile = 64
    picture = photo[:64, :128]
    found = measure_rung(codec, Watched("", Status.ACHIEVABLE, ""), [picture], [4, 5])
    assert len(found[0]) == 2
    assert len(alive) == 2 * 2 * 2


def test_small_tiles_are_measured_too(photo: NDArray[np.uint8]) -> None:
    codec = wf.load_codec("tiny", pretrained=False)
    codec.tile = 64
    ladder = wf.limits(codec, [photo[:64, :128]], 4)
    assert math.isfinite(ladder.decomposition.limit_bpp)


@pytest.mark.parametrize("source", [Oracle(), Grouped(4)])
def test_told_scales_are_made_tile_by_tile(
    source: Oracle | Grouped, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[weakref.ref[torch.Tensor]] = []
    released: list[int] = []
    monkeypatch.setattr(rungs, "release_free_blocks", lambda: released.append(len(made)))

    class Watched:
        def __call__(self, y: torch.Tensor, density: Density, noise: Noise) -> Crossing:
            made.append(weakref.ref(density.gaussian().sigma))
            assert sum(reference() is not None for reference in made) <= 2
            return GaussianTest()(y, density, noise)

    tiles = [gaussian_latents(1.0, (2, 8, 8)) for _ in range(6)]
    moments = Moments.of([tile.y for tile in tiles])
    rung = Told("", Status.ACHIEVABLE, "", Watched(), source)
    rung.climb(tiles, Known(moments, torch.full((2,), WATER_LEVEL)))
    assert len(made) == len(tiles)
    assert released == [1, 2, 3, 4, 5]  # between tiles: a picture of one is not slowed down
