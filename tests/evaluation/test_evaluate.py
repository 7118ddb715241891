"""An evaluation: rows that say what they are of, means, restarts, and the matrix."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

import waterfill as wf
from waterfill.codec.model import Codec
from waterfill.data.images import Picture
from waterfill.errors import WaterfillError
from waterfill.evaluation import measure
from waterfill.evaluation.cache import Cache
from waterfill.evaluation.conventional import CONVENTIONAL, Conventional
from waterfill.evaluation.kodak import KODAK, is_kodak
from waterfill.evaluation.measure import OwnCodec, evaluate
from waterfill.evaluation.metrics import in_decibels, psnr, psnr_of
from waterfill.evaluation.published import published_curve
from waterfill.evaluation.result import Contender, Evaluation
from waterfill.evaluation.rows import Row, summarise
from waterfill.provenance import identity


@pytest.fixture(autouse=True)
def _two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def folder(photo: NDArray[np.uint8], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two domains: two photographs, and a drawing."""
    top = tmp_path_factory.mktemp("pictures")
    drawing = np.zeros((80, 96, 3), np.uint8)
    drawing[20:60, 30:70] = (250, 40, 10)
    pieces = {"photos/a": photo, "photos/b": photo[:100, :120], "drawings/c": drawing}
    for name, pixels in pieces.items():
        (top / name).parent.mkdir(exist_ok=True)
        Image.fromarray(pixels).save(top / f"{name}.png")
    return top


@pytest.fixture(scope="module")
def result(folder: Path) -> Evaluation:
    return evaluate([folder], ["jpeg", "webp"])


def test_rows_say_what_a_file_of_that_setting_holds(result: Evaluation, folder: Path) -> None:
    jpeg = CONVENTIONAL["jpeg"]
    assert len(result.rows) == 3 * (len(jpeg.settings) + len(CONVENTIONAL["webp"].settings))
    row = next(r for r in result.rows if r.image == "b.png" and r.codec == "jpeg")
    with Image.open(folder / "photos/b.png") as image:
        picture = Picture("b", np.array(image))
    size, decoded = jpeg.code(picture, json.loads(row.setting))
    assert (row.bytes, row.bpp) == (size, 8 * size / (100 * 120))
    assert row.psnr == psnr(picture.pixels, decoded.pixels) == psnr_of(row.mse)
    assert math.isnan(row.ms_ssim)  # too small for it
    assert row.domain == "photos"
    assert "libjpeg" in row.version
    assert row.encode_seconds > 0 < row.decode_seconds


def test_both_conventions_of_psnr(result: Evaluation) -> None:
    """Jensen: the mean of logarithms is never below the logarithm of the mean."""
    for point in result.curve("jpeg"):
        rows = [r for r in result.rows if (r.codec, r.setting) == ("jpeg", point.setting)]
        assert point.pictures == len(rows) == 3
        assert point.psnr == pytest.approx(sum(r.psnr for r in rows) / 3)
        expected = 10 * math.log10(255**2 / (sum(r.mse for r in rows) / 3))
        assert point.psnr_of_mean_mse == pytest.approx(expected)
        assert point.psnr_of_mean_mse < point.psnr
        assert point.ms_ssim_db == pytest.approx(in_decibels(point.ms_ssim))
        similar = [r.ms_ssim for r in rows if not math.isnan(r.ms_ssim)]
        assert len(similar) == 1
        assert point.ms_ssim == similar[0]


def test_by_ms_ssim_rates_too_are_of_the_pictures_that_have_one(result: Evaluation) -> None:
    rows = [r for r in result.rows if r.codec == "jpeg" and r.has_ms_ssim]
    expected = np.array([(r.bpp, in_decibels(r.ms_ssim)) for r in rows])
    assert result.points("jpeg", metric="ms_ssim") == pytest.approx(expected)
    assert result.curve("jpeg", metric="ms_ssim")[0].pictures == 1
    assert not len(result.points("jpeg", "drawings", "ms_ssim"))


def test_domains_are_apart_and_together(result: Evaluation) -> None:
    assert set(result.domains) == {"photos", "drawings"}
    both = [result.points("jpeg", domain)[:, 0] for domain in ("photos", "drawings")]
    assert result.points("jpeg")[:, 0] == pytest.approx((2 * both[0] + both[1]) / 3)
    with pytest.raises(WaterfillError, match="no domain is named 'cats'"):
        result.curve("jpeg", "cats")


def test_domains_of_one_name_in_two_places_stay_apart(
    photo: NDArray[np.uint8], tmp_path: Path
) -> None:
    for name in ("one/set", "two/set"):
        (tmp_path / name).mkdir(parents=True)
        Image.fromarray(photo[:40, :40]).save(tmp_path / name / "a.png")
    found = evaluate([tmp_path, tmp_path / "one"], ["jpeg"])
    assert found.domains == ("one/set", "two/set")
    assert len(found.rows) == 2 * len(CONVENTIONAL["jpeg"].settings)


def test_links_lie_in_the_folder_that_names_them(photo: NDArray[np.uint8], tmp_path: Path) -> None:
    """As tools that version data sets lay them out: every file in a folder of its digest."""
    (tmp_path / "set").mkdir()
    for name, row in (("a.png", 0), ("b.png", 8)):
        kept = tmp_path / "store" / name[0] / "content.png"
        kept.parent.mkdir(parents=True)
        Image.fromarray(photo[row : row + 24, :24]).save(kept)
        (tmp_path / "set" / name).symlink_to(kept)
    found = evaluate([tmp_path / "set"], ["jpeg"])
    assert found.domains == ("set",)


def test_the_matrix_compares_every_codec_with_every_anchor(result: Evaluation) -> None:
    cells = result.bd_rates(["jpeg"], resamples=20)
    assert [(c.anchor, c.test, c.domain) for c in cells] == [
        ("jpeg", "webp", None),
        *(("jpeg", "webp", domain) for domain in result.domains),
    ]
    cell = next(c for c in cells if c.domain == "photos")
    assert cell.result is not None
    points = [result.points(name, "photos") for name in ("jpeg", "webp")]
    assert cell.result.rate_percent == pytest.approx(wf.bd_rate(*points), abs=1e-9)
    assert cell.result.interval is None  # of two pictures
    back = result.compare("webp", "jpeg", domain="photos").result
    assert back is not None
    ratio = (1 + back.rate_percent / 100) * (1 + cell.result.rate_percent / 100)
    assert ratio == pytest.approx(1.0, abs=1e-9)


def test_published_anchors_say_that_these_pictures_are_others(result: Evaluation) -> None:
    found = result.compare("published:jpeg", "jpeg", resamples=20)
    assert found.anchor == "published:jpeg"
    assert any("24 Kodak photographs; these 3 are others" in line for line in found.caveats)
    assert any("7.1.2" in line for line in found.caveats)
    assert result.bd_rates(["bpg"]) == ()  # neither domain is Kodak's
    with pytest.raises(WaterfillError, match="unknown anchor: no published curve is named 'jpog'"):
        result.compare("jpog", "jpeg")
    with pytest.raises(WaterfillError, match="no codec named 'png' was measured"):
        result.compare("jpeg", "png")


def test_kodak_is_all_of_it_once() -> None:
    all_of_it = [one + 48 * "0" for one in KODAK]
    assert len(all_of_it) == 24
    assert is_kodak(all_of_it)
    assert not is_kodak(all_of_it[1:])
    assert not is_kodak([*all_of_it[1:], all_of_it[1]])


def test_what_cannot_be_compared_is_a_cell_with_a_reason(folder: Path) -> None:
    short = replace(CONVENTIONAL["jpeg"], settings=CONVENTIONAL["jpeg"].settings[:3], name="short")
    found = evaluate([folder / "photos"], [short, "webp"]).compare("webp", "short")
    assert found.result is None
    assert "at least four" in found.reason


def test_frames_csv_and_json_hold_every_row(result: Evaluation) -> None:
    frame = result.to_frame()
    assert len(frame) == len(result.rows)
    assert frame["bpp"].tolist() == [row.bpp for row in result.rows]
    back = list(csv.DictReader(io.StringIO(result.to_csv())))
    assert [float(row["psnr"]) for row in back] == [row.psnr for row in result.rows]
    assert {row["ms_ssim"] for row in back if row["image"] != "a.png"} == {""}
    data = json.loads(result.to_json(["jpeg"], resamples=10))
    assert len(data["rows"]) == len(result.rows)
    assert data["rows"][0]["pixels"] == result.rows[0].pixels
    places = 3  # all, and two domains
    assert len(data["curves"]) == places * (13 + 10)
    assert len(data["bd_rates"]) == places
    assert data["bd_rates"][0]["result"]["method"] == "pchip"
    assert data["environment"]["versions"]["pillow"]


def test_lossless_settings_are_in_the_rows_but_not_on_the_curve(tmp_path: Path) -> None:
    Image.new("RGB", (64, 64), (128, 128, 128)).save(tmp_path / "flat.png")
    found = evaluate([tmp_path], ["jpeg"])
    assert any(math.isinf(row.psnr) for row in found.rows)
    assert len(found.points("jpeg")) < len(found.curve("jpeg"))
    assert "null" in found.to_json()


def test_a_picture_that_comes_back_exact_leaves_an_interval_and_a_word() -> None:
    settings = tuple(str(k) for k in range(6))
    rows = []
    for codec, factor in (("anchor", 1.0), ("test", 1.1)):
        for k, setting in enumerate(settings):
            for number in range(10):
                exact = codec == "test" and number == 3 and k == 5
                psnr = math.inf if exact else 28.0 + 2.0 * k + 0.1 * number
                mse = 255.0**2 * 10.0 ** (-0.1 * psnr)
                bpp = factor * 0.2 * 1.5**k
                image = f"{number}.png"
                rows.append(
                    Row(image, "", image, codec, "", setting, 1, bpp, mse, psnr, 0.9, 0.1, 0.1)
                )
    codecs = (Contender(name, "own", name, "", settings, "") for name in ("anchor", "test"))
    found = Evaluation(tuple(rows), tuple(codecs))
    compared = found.compare("anchor", "test")
    assert compared.result is not None
    assert compared.result.rate_percent == pytest.approx(10.0, abs=0.5)
    assert compared.result.interval == pytest.approx((10.0, 10.0), abs=0.5)
    assert not any("mean" in warning for warning in compared.result.warnings)
    assert compared.caveats == ("test: 1 of 6 settings left out, a picture came back exact",)


class Counting(Conventional):
    """A codec that says when it works."""

    calls = 0

    def encode(self, picture: Picture, setting: Any) -> bytes:
        type(self).calls += 1
        return super().encode(picture, setting)


@pytest.fixture
def counting() -> Counting:
    Counting.calls = 0
    jpeg = CONVENTIONAL["jpeg"]
    return Counting("counted", "counted", jpeg.settings[:5], jpeg.coder)


def test_a_second_run_measures_nothing(folder: Path, tmp_path: Path, counting: Counting) -> None:
    cache = Cache(tmp_path)
    first = evaluate([folder], [counting], cache=cache)
    assert Counting.calls == 3 * 5 + 1  # and the warm-up
    again = evaluate([folder], [counting], cache=Cache(tmp_path))
    assert Counting.calls == 3 * 5 + 1
    # NaN is not itself.
    assert repr(again.rows) == repr(first.rows)


def test_codecs_of_one_name_that_are_made_of_other_things_are_measured_apart(
    folder: Path, tmp_path: Path
) -> None:
    cache = Cache(tmp_path)

    def size(coder: Any) -> int:
        made = Conventional("made", "made", ({},), coder)
        return sum(row.bytes for row in evaluate([folder / "photos"], [made], cache=cache).rows)

    jpeg = CONVENTIONAL["jpeg"].coder
    webp = replace(jpeg, format="WEBP")  # type: ignore[type-var]
    both = [size(webp), size(jpeg)]
    assert both[0] != both[1]
    files = sorted(tmp_path.rglob("*.json"))
    assert [size(webp), size(jpeg)] == both
    assert sorted(tmp_path.rglob("*.json")) == files

    class Local:
        """What it is made of can't be said."""

        version, encode, decode = jpeg.version, jpeg.encode, jpeg.decode

    assert size(Local()) == both[1]
    assert sorted(tmp_path.rglob("*.json")) == files


def test_what_one_of_this_package_measured_is_found_as_ever(folder: Path, tmp_path: Path) -> None:
    jpeg = CONVENTIONAL["jpeg"]
    assert jpeg.made_of(jpeg.settings[0]) == ""
    assert replace(jpeg, settings=({"quality": 7},)).made_of({"quality": 7}) == ""
    assert replace(jpeg, colour=None).made_of({}) not in ("", None)


def test_what_is_damaged_or_short_is_measured_again(
    folder: Path, tmp_path: Path, counting: Counting
) -> None:
    cache = Cache(tmp_path)
    first = evaluate([folder / "photos"], [counting], cache=cache)
    files = sorted(path for path in tmp_path.rglob("*.json"))
    files[0].write_bytes(files[0].read_bytes()[:-20])
    Counting.calls = 0
    again = evaluate([folder / "photos"], [counting], cache=cache)
    assert Counting.calls == 1 + 1
    assert [row.bytes for row in again.rows] == [row.bytes for row in first.rows]


def test_interrupted_work_goes_on_where_it_stopped(
    folder: Path, tmp_path: Path, counting: Counting
) -> None:
    cache, told = Cache(tmp_path), []

    def stop(done: int, total: int, what: str) -> None:
        told.append((done, total))
        if done == 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate([folder], [counting], cache=cache, progress=stop)
    kept = len(list(tmp_path.rglob("*.json")))
    assert 6 <= kept <= 15  # others may have been under way, and a slow machine lets them finish
    Counting.calls = 0
    told.clear()
    evaluate([folder], [counting], cache=cache, progress=lambda *now: told.append(now[:2]))
    assert Counting.calls == (15 - kept + 1 if kept < 15 else 0)  # and the warm-up
    assert told == [(done, 15) for done in range(16)]


def test_both_threads_work_at_one_time(folder: Path) -> None:
    barrier = threading.Barrier(2, timeout=60)

    class Meeting(Conventional):
        """Each file waits for another one that is written meanwhile."""

        def encode(self, picture: Picture, setting: Any) -> bytes:
            if picture.name != "piece":
                barrier.wait()
            return super().encode(picture, setting)

    jpeg = CONVENTIONAL["jpeg"]
    codec = Meeting("meeting", "meeting", jpeg.settings[:6], jpeg.coder)
    assert len(evaluate(folder / "drawings", codec).rows) == 6


PROGRAM = """
import sys, time
from dataclasses import replace
import torch
from waterfill.evaluation.cache import Cache
from waterfill.evaluation.conventional import CONVENTIONAL, Conventional
from waterfill.evaluation.measure import evaluate

torch.set_num_threads(2)

class Slow(Conventional):
    def encode(self, picture, setting):
        time.sleep(0.05)
        return super().encode(picture, setting)

jpeg = CONVENTIONAL["jpeg"]
def say(done, total, what):
    print(done, flush=True)
evaluate([sys.argv[1]], [Slow("slow", "slow", jpeg.settings, jpeg.coder)],
         cache=Cache(sys.argv[2]), progress=say)
"""


@pytest.mark.parametrize("with_signal", [signal.SIGINT, signal.SIGKILL])
def test_a_program_that_is_stopped_leaves_whole_entries(
    folder: Path, tmp_path: Path, with_signal: signal.Signals
) -> None:
    command = [sys.executable, "-c", PROGRAM, str(folder), str(tmp_path)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as program:
        assert program.stdout is not None
        for line in program.stdout:
            if int(line) == 10:
                break
        program.send_signal(with_signal)
        began = time.monotonic()
        program.stdout.read()
        assert program.wait() != 0
        assert time.monotonic() - began < 30
    entries = list(tmp_path.rglob("*/*.json"))
    assert 10 <= len(entries) < 39
    for entry in entries:
        about = json.loads(entry.read_text())
        assert Cache(tmp_path).get(about["key"]) == about["row"] or math.isnan(
            about["row"]["ms_ssim"]
        )
    jpeg = CONVENTIONAL["jpeg"]

    class Counted(Counting):
        calls = 0

    evaluate([folder], [Counted("slow", "slow", jpeg.settings, jpeg.coder)], cache=Cache(tmp_path))
    assert Counted.calls == 39 - len(entries) + 1


@pytest.fixture
def saved(tiny: Codec) -> Iterator[Codec]:
    """A codec whose weights have an identity."""
    before = tiny.weights_id
    tiny.weights_id = b"\1" * 8
    yield tiny
    tiny.weights_id = before


def test_own_codecs_are_measured_as_they_compress(
    saved: Codec, folder: Path, tmp_path: Path
) -> None:
    cache = Cache(tmp_path)
    own = OwnCodec(saved, (2.0, 5.5), label="mine")
    found = evaluate([folder / "photos"], [own, "jpeg"], cache=cache)
    with Image.open(folder / "photos/b.png") as image:
        pixels = np.array(image)
    rows = [r for r in found.rows if r.codec == "mine" and r.image == "b.png"]
    for row, quality in zip(rows, (2.0, 5.5), strict=True):
        data = saved.compress(pixels, quality)
        decoded = np.asarray(wf.decompress(data, codec=saved).convert("RGB"))
        assert row.bytes == len(data)
        # A number of threads may move the last bits of a transform.
        assert row.psnr == pytest.approx(psnr(pixels, decoded), abs=0.01)
        assert json.loads(row.setting)["quality"] == quality
    assert found.codec("mine").kind == "own"
    assert [len(found.curve(name)) for name in ("mine", "jpeg")] == [2, 13]


def test_qualities_that_a_stream_has_as_one_are_measured_once(
    saved: Codec, photo: NDArray[np.uint8]
) -> None:
    own = OwnCodec(saved, (2.0, 2.0001, 3.0, 4.0, 5.0), label="mine")
    picture = Picture("small", np.ascontiguousarray(photo[:32, :32]))
    found = evaluate(picture, [own, "jpeg"])
    assert [point.pictures for point in found.curve("mine")] == [1, 1, 1, 1]
    assert len(found.codec("mine").settings) == 4
    assert len(found.bd_rates(["jpeg"])) == 1


def test_own_codecs_are_kept_by_weights_quality_effort_and_trellis(
    saved: Codec, folder: Path, tmp_path: Path
) -> None:
    cache = Cache(tmp_path)

    def kept(**options: Any) -> int:
        before = len(list(tmp_path.rglob("*.json")))
        evaluate([folder / "drawings"], [OwnCodec(saved, (3.0,), **options)], cache=cache)
        return len(list(tmp_path.rglob("*.json"))) - before

    assert kept() == 1
    assert kept(label="another name") == 0
    assert kept(effort=1) == 1
    assert kept(trellis=True) == 1
    saved.weights_id = b"\2" * 8
    assert kept() == 1


def test_a_change_of_the_code_measures_own_codecs_anew_and_no_others(
    saved: Codec,
    folder: Path,
    tmp_path: Path,
    counting: Counting,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cache, codecs = Cache(tmp_path), [OwnCodec(saved, (3.0,)), counting]
    first = evaluate([folder / "drawings"], codecs, cache=cache)
    files = len(list(tmp_path.rglob("*.json")))
    Counting.calls = 0
    monkeypatch.setattr(measure, "identity", lambda: identity() | {"code": "refined"})
    again = evaluate([folder / "drawings"], codecs, cache=cache)
    assert len(list(tmp_path.rglob("*.json"))) == files + 1
    assert Counting.calls == 0
    assert [row.version for row in again.rows] == [row.version for row in first.rows]


@pytest.mark.parametrize(
    ("images", "codecs", "reason"),
    [
        ([], ["jpeg"], "no pictures"),
        (["missing/folder"], ["jpeg"], "no such file or folder"),
        (None, [], "no codecs"),
        (None, ["jpog"], "did you mean jpeg"),
        (None, ["jpeg", "jpeg"], "two codecs are named 'jpeg'"),
    ],
)
def test_bad_input_is_refused_in_one_line(
    images: list[str] | None, codecs: list[str], reason: str, folder: Path
) -> None:
    with pytest.raises(WaterfillError, match=reason) as refusal:
        evaluate([folder] if images is None else images, codecs)
    assert "\n" not in str(refusal.value)


def test_weights_without_identity_are_refused(tiny: Codec, folder: Path) -> None:
    if any(tiny.weights_id):
        pytest.skip("these have one")
    with pytest.raises(WaterfillError, match="in training"):
        evaluate([folder], [tiny])


def test_means_are_of_one_codec_at_one_setting(result: Evaluation) -> None:
    rows: list[Row] = [result.rows[0], result.rows[1]]
    with pytest.raises(WaterfillError, match="one setting"):
        summarise(rows)
    with pytest.raises(WaterfillError, match="one setting"):
        summarise([])


def test_a_default_codec_covers_its_whole_qualities(saved: Codec) -> None:
    own = measure.OwnCodec(saved)
    low, high = saved.config.qualities
    assert [s["quality"] for s in own.settings] == [q for q in range(1, 9) if low <= q <= high]


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_pillows_codecs_land_on_their_published_curves_on_kodak() -> None:
    kodak = os.environ.get("WATERFILL_KODAK")
    if not kodak or not Path(kodak).is_dir():
        pytest.skip("WATERFILL_KODAK names no folder of the Kodak photographs")
    found = evaluate(kodak, ["jpeg-plain", "jpeg", "webp"], cache=Cache())
    assert is_kodak(list({row.pixels: None for row in found.rows}))
    for anchor, test in (("jpeg", "jpeg-plain"), ("webp", "webp")):
        cell = found.compare(f"published:{anchor}", test, resamples=0)
        assert cell.result is not None
        assert cell.result.share > 0.85
        assert abs(cell.result.quality_db) < 0.15
        assert not any("these 24 are others" in line for line in cell.caveats)
    optimised = found.compare("jpeg-plain", "jpeg").result
    assert optimised is not None
    assert optimised.interval is not None
    assert -15 < optimised.interval[0] < optimised.interval[1] < -5
    # The same encoder wrote files of the same size, years before.
    published = published_curve("jpeg").array()[0]
    assert found.points("jpeg-plain")[0, 0] == pytest.approx(published[0], abs=1e-4)
