"""The command line: what it does it does whole; what it can't do it says in one line, code 2."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import signal
import stat
import subprocess
import sys
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

import waterfill as wf
from waterfill.cli import run, shared, training
from waterfill.codec import registry
from waterfill.codec.config import CodecConfig
from waterfill.data.sets import open_pictures
from waterfill.training.config import TrainConfig

linux = pytest.mark.skipif(sys.platform != "linux", reason="devices and byte names of Linux")


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    registry.save_codec(wf.load_codec("tiny", pretrained=False), path, {"note": "[/red] made up"})
    return str(path)


@pytest.fixture(scope="module")
def picture(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("pictures") / "a.png"
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (31, 45, 3), dtype=np.uint8)).save(path)
    return path


@pytest.fixture(scope="module")
def stream(weights, picture, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("streams") / "a.wfl"
    assert run(["compress", str(picture), str(path), "--codec", weights]) == 0
    return path


def snapshot(folder: Path) -> dict[str, bytes | None]:
    """Everything below a folder, so that nothing is written unnoticed."""
    return {
        str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None
        for p in folder.rglob("*")
    }


def refuse(capsys, *arguments: object, watch: Path | None = None) -> str:
    """Run what must fail; its one line, after making sure that it is one and nothing changed."""
    before = snapshot(watch) if watch else None
    capsys.readouterr()
    code = run([str(a) for a in arguments])
    out, err = capsys.readouterr()
    assert code == 2, (out, err)
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert err.endswith("\n")
    if watch:
        assert snapshot(watch) == before
    return err


# What works


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("size", [(1, 1), (45, 31), (64, 128)])
def test_a_picture_comes_back_through_files(tmp_path, weights, capsys, mode, size):
    rng = np.random.default_rng(1)
    shape = (size[1], size[0], 3) if mode == "RGB" else (size[1], size[0])
    image = Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8))
    image.save(tmp_path / "in.png")
    facts = tmp_path / "facts.json"
    arguments = ["--codec", weights, "--json", str(facts)]
    source, middle, target = (str(tmp_path / n) for n in ("in.png", "s.wfl", "out.png"))
    assert run(["compress", source, middle, "-q", "2.5", *arguments]) == 0
    told = json.loads(facts.read_text())
    data = Path(middle).read_bytes()
    assert told["bytes"] == len(data)
    assert told["bpp"] == 8 * len(data) / (size[0] * size[1])
    assert data == wf.load_codec(weights).compress(image, 2.5)
    assert run(["decompress", middle, target, *arguments]) == 0
    assert json.loads(facts.read_text())["mode"] == mode
    decoded = Image.open(target)
    expected = wf.decompress(data, codec=wf.load_codec(weights))
    assert (decoded.mode, decoded.size) == (mode, size)
    assert decoded.tobytes() == expected.tobytes()
    assert run(["info", middle, "--json", str(facts)]) == 0
    told = json.loads(facts.read_text())
    assert (told["width"], told["height"], told["quality"]) == (*size, 2.5)
    assert told["header bytes"] + told["z bytes"] + told["y bytes"] == told["bytes"] == len(data)
    said = capsys.readouterr()
    assert said.err == ""
    assert f" bpp  {told['bpp']:.4f}\n" in said.out


@pytest.mark.parametrize("suffix", ["png", "bmp", "ppm", "tif", "webp", "jp2", "PNG"])
def test_lossless_formats_hold_what_was_decoded(tmp_path, weights, stream, suffix):
    target = tmp_path / f"out.{suffix}"
    assert run(["decompress", str(stream), str(target), "--codec", weights]) == 0
    expected = wf.decompress(stream.read_bytes(), codec=wf.load_codec(weights))
    assert Image.open(target).tobytes() == expected.tobytes()


@pytest.mark.parametrize(("suffix", "lossless"), [("jpg", False), ("png", True)])
def test_a_format_that_loses_more_is_told(tmp_path, weights, stream, capsys, suffix, lossless):
    target, told = tmp_path / f"out.{suffix}", tmp_path / "told.json"
    arguments = ["decompress", str(stream), str(target), "--codec", weights, "--json", str(told)]
    assert run(arguments) == 0
    assert ("loses more" in capsys.readouterr().out) == (not lossless)
    assert json.loads(told.read_text())["lossless"] == lossless


ODD = ["näme 名前 🌊", "a[/b]", "[red]", "--quality", ":smile: a", "a\nb", "%s{0}", "x" * 251]


@pytest.mark.parametrize("name", [f"{stem}.png" for stem in ODD])
def test_odd_names_are_names_like_others(tmp_path, weights, picture, capsys, name, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path(name).parent.mkdir(exist_ok=True)
    Path(name).write_bytes(picture.read_bytes())
    out = name[:-4] + ".wfl"
    assert run(["compress", "--codec", weights, "--json", "j", "--", name, out]) == 0
    assert capsys.readouterr().out.startswith(f"{out}: ")
    assert json.loads(Path("j").read_text())["source"] == name
    assert run(["info", "--", out]) == 0
    Path(name).unlink()
    assert run(["decompress", "--codec", weights, "--", out, name]) == 0
    assert capsys.readouterr().out.endswith(f"{name}: 45×31, RGB\n")
    assert {p for p in snapshot(Path()) if Path(p).is_file()} == {name, out, "j"}


def test_limits_prints_odd_names_as_they_are(tmp_path, weights, picture, capsys, monkeypatch):
    # With a terminal, so that the progress bar shows them too. And a flat picture, which costs
    # nothing on some rung: what is saved has no percentage there.
    monkeypatch.setattr(shared, "err", Console(file=StringIO(), force_terminal=True, width=200))
    (tmp_path / "a[").mkdir()
    codec, source = tmp_path / "a[" / "w].safetensors", tmp_path / "a[" / "b].png"
    codec.write_bytes(Path(weights).read_bytes())
    Image.new("RGB", (192, 192), (9, 99, 199)).save(source)
    out = tmp_path / "report"
    assert run(["limits", str(source), "--codec", str(codec), "-q", "4", "--out", str(out)]) == 0
    assert capsys.readouterr().err == ""
    told = json.loads((out / "ladder.json").read_text())
    assert [image["name"] for image in told["images"]] == [str(source)]


def test_info_of_weights_prints_their_words_as_they_are(weights, capsys):
    assert run(["info", weights]) == 0
    assert "[/red] made up" in capsys.readouterr().out


def test_no_command_and_help_are_no_errors(capsys):
    for arguments in ([], ["data"], ["--help"], ["compress", "-h"], ["--version"]):
        assert run(arguments) == 0
        said = capsys.readouterr()
        assert said.err == ""
        assert said.out.startswith("waterfill" if "--version" in arguments else "Usage: ")


@pytest.mark.parametrize("group", [[], ["data"]])
def test_help_says_whole_what_each_command_does(capsys, monkeypatch, group):
    monkeypatch.setenv("COLUMNS", "80")
    assert run([*group, "--help"]) == 0
    commands = capsys.readouterr().out.partition("Commands:\n")[2].splitlines()
    assert commands
    for line in commands:
        assert re.fullmatch(r"  [a-z]+ +[A-Z].*[^.]\.", line)


def test_an_output_is_replaced_and_keeps_its_permissions_and_its_link(
    tmp_path, weights, picture, stream
):
    real = tmp_path / "real.wfl"
    real.write_bytes(b"old")
    real.chmod(0o640)
    link = tmp_path / "link.wfl"
    link.symlink_to(real)
    assert run(["compress", str(picture), str(link), "--codec", weights]) == 0
    assert link.is_symlink()
    assert real.read_bytes() == stream.read_bytes()
    assert stat.S_IMODE(real.stat().st_mode) == 0o640
    assert sorted(os.listdir(tmp_path)) == ["link.wfl", "real.wfl"]


def test_a_new_output_has_the_permissions_of_any_new_file(tmp_path, weights, picture):
    (tmp_path / "plain").write_bytes(b"")
    assert run(["compress", str(picture), str(tmp_path / "a.wfl"), "--codec", weights]) == 0
    assert (tmp_path / "a.wfl").stat().st_mode == (tmp_path / "plain").stat().st_mode


# What is refused


def unsupported(folder: Path) -> dict[str, Path]:
    rng = np.random.default_rng(2)
    frames = [Image.fromarray(rng.integers(0, 256, (8, 8), dtype=np.uint8)) for _ in range(2)]
    frames[0].save(folder / "moving.gif", save_all=True, append_images=frames[1:])
    Image.fromarray(np.zeros((4, 4), np.uint16)).save(folder / "deep.png")
    Image.new("CMYK", (8, 8)).save(folder / "cmyk.jpg")
    Image.new("RGBA", (8, 8), (1, 2, 3, 4)).save(folder / "clear.png")
    (folder / "text.txt").write_text("hello\n")
    (folder / "empty.png").write_bytes(b"")
    whole = folder / "whole.png"
    Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(whole)
    (folder / "cut.png").write_bytes(whole.read_bytes()[:5000])
    (folder / "folder.png").mkdir()
    names = ("moving.gif", "deep.png", "cmyk.jpg", "clear.png", "text.txt", "empty.png", "cut.png")
    return {n: folder / n for n in (*names, "folder.png", "missing.png", "text.txt/below.png")}


UNSUPPORTED = [
    "moving.gif", "deep.png", "cmyk.jpg", "clear.png", "text.txt", "empty.png", "cut.png",
    "folder.png", "missing.png", "text.txt/below.png",
]  # fmt: skip


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_pictures_that_cannot_be_coded(tmp_path, weights, capsys, name):
    path = unsupported(tmp_path)[name]
    out, facts = tmp_path / "out.wfl", tmp_path / "facts.json"
    line = refuse(
        capsys, "compress", path, out, "--codec", weights, "--json", facts, watch=tmp_path
    )
    assert str(path) in line


@pytest.mark.parametrize("name", UNSUPPORTED[:8])
def test_limits_refuses_them_too(tmp_path, weights, capsys, name):
    unsupported(tmp_path)
    (tmp_path / "folder.png" / "note.txt").write_text("no picture")
    arguments = ("--codec", weights, "-q", 4, "--out", tmp_path / "report")
    line = refuse(capsys, "limits", tmp_path / name, *arguments)
    assert name in line
    report = tmp_path / "report"
    assert not report.exists() or not list(report.iterdir())


def test_folders_without_pictures(tmp_path, weights, capsys):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.txt").write_text("x")
    for command in ("limits", "train"):
        arguments = (command, tmp_path / "in", "--out", tmp_path / "out")
        assert "no pictures in this folder" in refuse(capsys, *arguments, watch=tmp_path)


def unwritable(folder: Path, name: str) -> Path:
    (folder / "file").write_text("precious")
    (folder / "taken").mkdir(exist_ok=True)
    return folder / name


@pytest.mark.parametrize("name", ["none/out.png", "file/out.png", "taken", "x" * 300 + ".png"])
@pytest.mark.parametrize("option", ["target", "--json"])
@pytest.mark.parametrize("command", ["compress", "decompress", "info"])
def test_outputs_that_cannot_be_written(
    tmp_path, weights, picture, stream, capsys, command, option, name
):
    bad, good = unwritable(tmp_path, name), tmp_path / "good.png"
    source = picture if command == "compress" else stream
    if command == "info":
        arguments: list[object] = ["info", stream, "--json", bad]
    elif option == "target":
        arguments = [command, source, bad, "--codec", weights]
    else:
        arguments = [command, source, good, "--codec", weights, "--json", bad]
    # The output that could have been written is not either.
    refuse(capsys, *arguments, watch=tmp_path)


@pytest.mark.parametrize("command", ["limits", "evaluate", "compress", "decompress"])
def test_a_device_that_is_not_there_is_refused(tmp_path, weights, picture, capsys, command):
    arguments: list[object] = [command, picture, "--codec", weights, "--device", "cuda:99"]
    arguments += (
        ["--out", tmp_path / "o"] if command in ("limits", "evaluate") else [tmp_path / "o.png"]
    )
    line = refuse(capsys, *arguments, watch=tmp_path)
    assert "can't compute on device 'cuda:99' here" in line


def test_limits_and_train_check_their_outputs_before_the_work(tmp_path, weights, picture, capsys):
    for name in ("none/j", "file/j", "taken"):
        bad = unwritable(tmp_path, name)
        for command in ("limits", "train"):
            extra = ("--codec", weights) if command == "limits" else ("--codec", "tiny")
            arguments = (command, picture, *extra, "--out", tmp_path / "out", "--json", bad)
            refuse(capsys, *arguments, watch=tmp_path)
    refuse(capsys, "limits", picture, "--codec", weights, "--out", tmp_path / "file")
    refuse(capsys, "limits", picture, "--codec", weights, "--out", tmp_path / "file" / "below")
    assert (tmp_path / "file").read_text() == "precious"


@pytest.fixture
def devices_are_safe(tmp_path, monkeypatch):
    """A rename onto a device would put a file in its place, and root may do that."""
    replace = os.replace

    def inside(source, target) -> None:
        assert Path(target).is_relative_to(tmp_path)
        replace(source, target)

    monkeypatch.setattr(os, "replace", inside)


@linux
@pytest.mark.usefixtures("devices_are_safe")
@pytest.mark.parametrize("option", ["target", "--json"])
def test_a_full_device_is_named_and_stays_a_device(tmp_path, weights, picture, capsys, option):
    if not stat.S_ISCHR(os.stat("/dev/full").st_mode):
        pytest.skip("no /dev/full")
    (tmp_path / "full").symlink_to("/dev/full")
    for name in ("/dev/full", tmp_path / "full"):
        target = name if option == "target" else tmp_path / "out.wfl"
        extra = [] if option == "target" else ["--json", name]
        arguments = ["compress", picture, target, "--codec", weights, *extra]
        assert "No space left" in refuse(capsys, *arguments, watch=tmp_path)
        assert stat.S_ISCHR(os.stat("/dev/full").st_mode)


@linux
@pytest.mark.usefixtures("devices_are_safe")
def test_the_null_device_swallows_and_stays(weights, picture):
    assert run(["compress", str(picture), "/dev/null", "--codec", weights]) == 0
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)


@linux
@pytest.mark.parametrize("name", ["/dev/stdout", "/dev/fd/1", "/proc/self/fd/1", "link", "-"])
def test_standard_output_that_is_a_file_is_written_behind_what_it_holds(tmp_path, stream, name):
    (tmp_path / "link").symlink_to("/dev/stdout")
    log = tmp_path / "log.txt"
    log.write_text("precious\n")
    with log.open("a") as out:
        done = waterfill("info", stream, "--json", name, stdout=out, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    text = log.read_text()
    assert text.startswith("precious\n{")
    assert json.loads(text.removeprefix("precious\n"))["version"] == 2
    assert sorted(os.listdir(tmp_path)) == ["link", "log.txt"]


@linux
def test_a_descriptor_that_cannot_be_written_is_refused(capsys, stream):
    closed = os.dup(0)
    os.close(closed)
    assert "Bad file descriptor" in refuse(capsys, "info", stream, "--json", f"/dev/fd/{closed}")


@linux
def test_a_stream_on_standard_output_stands_there_alone(tmp_path, weights, picture, stream):
    out = tmp_path / "out.wfl"
    with out.open("wb") as opened:
        done = waterfill(
            "compress", picture, "/dev/stdout", "--codec", weights, stdout=opened, cwd=tmp_path
        )
    assert done.returncode == 0, done.stderr
    assert out.read_bytes() == stream.read_bytes()
    assert "bpp" in done.stderr


@linux
def test_json_on_standard_output_stands_there_alone(stream):
    done = waterfill("info", stream, "--json", "-")
    assert json.loads(done.stdout)["version"] == 2
    assert "version" in done.stderr


def test_what_is_printed_comes_back_to_standard_output(stream, capsys):
    assert run(["info", str(stream), "--json", "-"]) == 0
    capsys.readouterr()
    assert run(["info", str(stream)]) == 0
    assert "version" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["-", ""])
@pytest.mark.parametrize(
    "arguments",
    [
        "compress NAME out.wfl", "compress in.png NAME", "decompress NAME out.png", "info NAME",
        "compress in.png out.wfl --codec NAME", "limits NAME", "limits --out NAME",
        "evaluate NAME", "evaluate --codec NAME", "evaluate --cache NAME", "bounds NAME",
        "train NAME", "train in.png --out NAME", "data pack NAME --out out",
        "reproduce fig2 --train NAME",
    ],
)  # fmt: skip
def test_neither_nothing_nor_a_dash_is_a_path(tmp_path, capsys, monkeypatch, arguments, name):
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (64, 64)).save("in.png")
    Path("-").write_text("a file that is called so")
    given = [name if word == "NAME" else word for word in arguments.split()]
    line = refuse(capsys, *given, watch=tmp_path)
    assert ("./- names" if name else "empty") in line


def test_a_file_that_is_called_dash(tmp_path, weights, picture, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run(["compress", str(picture), "./-", "--codec", weights]) == 0
    assert run(["info", "./-"]) == 0


def test_a_disk_that_fills_up_leaves_the_old_file(tmp_path, weights, picture, capsys, monkeypatch):
    out = tmp_path / "out.wfl"
    out.write_bytes(b"old")

    def full(descriptor: int) -> None:
        if os.fstat(descriptor).st_size:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    for extra in ([], ["--json", tmp_path / "j"]):
        arguments = ["compress", picture, out, "--codec", weights, *extra]
        assert "No space left" in refuse(capsys, *arguments, watch=tmp_path)


def test_limits_replaces_all_of_its_files_or_none(tmp_path, weights, picture, capsys, monkeypatch):
    for name in ("ladder.json", "report.html"):
        (tmp_path / name).write_text("of an earlier run")
    written = []

    def full(descriptor: int) -> None:
        written.append(os.fstat(descriptor).st_size)
        if sum(size > 0 for size in written) > 1:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    monkeypatch.setattr("waterfill.report.html.render", lambda ladder: "a page")
    arguments = ["limits", picture, "-q", "3", "--codec", weights, "--out", tmp_path]
    assert "No space left" in refuse(capsys, *arguments, watch=tmp_path)


def test_the_input_is_never_overwritten(tmp_path, weights, picture, stream, capsys):
    image, coded = tmp_path / "a.png", tmp_path / "coded.png"
    image.write_bytes(picture.read_bytes())
    coded.write_bytes(stream.read_bytes())
    (tmp_path / "soft.png").symlink_to(image)
    (tmp_path / "hard.png").hardlink_to(image)
    for out in (image, tmp_path / "." / "a.png", tmp_path / "soft.png", tmp_path / "hard.png"):
        arguments = ["compress", image, out, "--codec", weights]
        assert "another file of this command" in refuse(capsys, *arguments, watch=tmp_path)
    new = tmp_path / "new.png"
    refuse(capsys, "compress", image, new, "--codec", weights, "--json", image, watch=tmp_path)
    refuse(capsys, "compress", image, new, "--codec", weights, "--json", new, watch=tmp_path)
    refuse(capsys, "decompress", coded, coded, "--codec", weights, watch=tmp_path)
    refuse(capsys, "info", coded, "--json", coded, watch=tmp_path)


@pytest.mark.parametrize("suffix", ["", ".wfl", ".xyz", ".gif", ".ico", ".pdf", ".h5"])
def test_pictures_are_not_written_in_formats_that_do_not_hold_them(
    tmp_path, weights, stream, capsys, suffix
):
    # .ico would shrink it, .gif take its colours.
    target = tmp_path / f"out{suffix}"
    refuse(capsys, "decompress", stream, target, "--codec", weights, watch=tmp_path)


def test_damaged_streams_write_nothing(tmp_path, weights, stream, capsys):
    data = stream.read_bytes()
    flipped = bytearray(data)
    flipped[len(data) // 2] ^= 0x10
    for content in (data[:-1], data[:20], b"", bytes(flipped), data + b"x", b"hello", bytes(100)):
        (tmp_path / "s.wfl").write_bytes(content)
        arguments = ["decompress", tmp_path / "s.wfl", tmp_path / "out.png", "--codec", weights]
        assert str(tmp_path / "s.wfl") in refuse(capsys, *arguments, watch=tmp_path)
        refuse(capsys, "info", tmp_path / "s.wfl", watch=tmp_path)


def test_a_stream_of_other_weights_is_refused(tmp_path, stream, capsys):
    torch.manual_seed(1)
    other = registry._seeded(CodecConfig(n=16, m=24, hyper=16), seed=1)
    registry.save_codec(other, tmp_path / "other.safetensors", {})
    arguments = [
        "decompress",
        stream,
        tmp_path / "o.png",
        "--codec",
        tmp_path / "other.safetensors",
    ]
    said = refuse(capsys, *arguments, watch=tmp_path)
    assert "the stream was made by the codec" in said
    assert "--codec FILE" in said


@linux
@pytest.mark.parametrize("source", ["folder", "missing", "file/below", "pipe", "/dev/zero", "huge"])
def test_inputs_that_are_no_files(tmp_path, weights, capsys, source):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("x")
    os.mkfifo(tmp_path / "pipe")
    with open(tmp_path / "huge", "wb") as stream:
        stream.truncate(1 << 40)  # takes no room on the disk
    path = tmp_path / source
    for command in (
        ["info", path],
        ["decompress", path, tmp_path / "o.png", "--codec", weights],
        ["compress", path, tmp_path / "o.wfl", "--codec", weights],
    ):
        refuse(capsys, *command)
        assert not (tmp_path / "o.png").exists()
        assert not (tmp_path / "o.wfl").exists()


def test_what_is_missing_is_said_in_one_wording_before_a_codec_is_loaded(
    tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(registry, "read_codec", lambda *_, **__: pytest.fail("loaded a codec"))
    (tmp_path / "empty").mkdir()
    gone, out = tmp_path / "nothing.png", tmp_path / "out.png"
    for command in (
        ["compress", gone, out],
        ["decompress", gone, out],
        ["info", gone],
        ["limits", gone, "--out", tmp_path / "r"],
        ["evaluate", gone, "--out", tmp_path / "r"],
        ["train", "--config", gone, "--out", tmp_path / "r"],
        ["bounds", gone, "--out", tmp_path / "r"],
    ):
        said = refuse(capsys, *command, watch=tmp_path)
        assert said == f"error: {gone}: no such file or folder\n", command
    with pytest.raises(wf.BitstreamError, match="no such file or folder"):
        wf.decompress(gone, codec=object())
    for command in ("compress", "decompress"):
        assert "in this folder" in refuse(capsys, command, tmp_path / "empty", out)


def broken_weights(folder: Path, weights: str) -> dict[str, bytes]:
    good = Path(weights).read_bytes()
    codec = wf.load_codec(weights)
    with torch.no_grad():
        codec.g_s[0].bias[0] = float("nan")
    registry.save_codec(codec, folder / "nan", {})
    return {
        "empty": b"",
        "text": b"hello",
        "cut": good[:-1],
        "half": good[: len(good) // 2],
        "longer": good + b"x",
        "nan": (folder / "nan").read_bytes(),
        "huge header": (2**62).to_bytes(8, "little") + good[8:],
        "zip": b"PK\x03\x04" + bytes(200),
    }


def test_weights_that_are_none(tmp_path, weights, picture, capsys):
    out = tmp_path / "o.wfl"
    for name, content in broken_weights(tmp_path, weights).items():
        (tmp_path / "w.safetensors").write_bytes(content)
        arguments = ["compress", picture, out, "--codec", tmp_path / "w.safetensors"]
        assert "w.safetensors" in refuse(capsys, *arguments, watch=tmp_path), name
        said = refuse(capsys, "info", tmp_path / "w.safetensors", watch=tmp_path)
        assert "weights: " not in said, name  # the file is named once
    for name in ("nobody", tmp_path, tmp_path / "w.safetensors" / "below", ""):
        refuse(capsys, "compress", picture, out, "--codec", name, watch=tmp_path)


def test_the_commands_unpickle_nothing(tmp_path, weights, picture, capsys):
    class Bomb:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "exploded",))

    path = tmp_path / "bomb.safetensors"
    torch.save({"a": Bomb()}, path)
    refuse(capsys, "compress", picture, tmp_path / "o", "--codec", path)
    refuse(capsys, "decompress", path, tmp_path / "o.png", "--codec", weights)
    refuse(capsys, "info", path)
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize("quality", ["0", "0.99", "8.01", "-1", "nan", "inf", "1e400", "best"])
def test_qualities_out_of_range(tmp_path, weights, picture, capsys, quality):
    refuse(
        capsys, "compress", picture, tmp_path / "o", "-q", quality, "--codec", weights,
        watch=tmp_path,
    )  # fmt: skip
    refuse(
        capsys, "limits", picture, "-q", quality, "--codec", weights, "--out", tmp_path / "out",
        watch=tmp_path,
    )  # fmt: skip


@pytest.mark.parametrize(
    "arguments",
    [
        ["compress"],
        ["nonsense"],
        ["compress", "a", "b", "c"],
        ["--nonsense"],
        ["train", "x", "--out", "y", "--quality", "1"],
        ["train", "x", "--out", "y", "--steps", "many"],
    ],
    ids=" ".join,
)
def test_mistaken_command_lines(tmp_path, capsys, arguments, monkeypatch):
    monkeypatch.chdir(tmp_path)
    refuse(capsys, *arguments, watch=tmp_path)


@pytest.mark.parametrize(
    "option",
    ["--steps=0", "--batch=0", "--crop=65", "--learning-rate=nan", "--seed=-1", "--codec=nobody"],
)
def test_training_options_out_of_range(tmp_path, picture, capsys, option):
    out = tmp_path / "run"
    refuse(capsys, "train", picture, "--out", out, option, watch=tmp_path)


@pytest.mark.parametrize(
    ("start", "what"),
    [
        ("nothing", "neither a file nor"),
        ("default", "has another architecture than the run (n = 64, not 16; m"),
    ],
)
def test_a_start_that_is_none_leaves_no_folder(tmp_path, picture, capsys, start, what):
    arguments = ["--codec", "tiny", "--start", start, "--crop", "64", "--batch", "1"]
    said = refuse(capsys, "train", picture, "--out", tmp_path / "run", *arguments, watch=tmp_path)
    assert said.startswith(f"error: {start}: {what}")


@pytest.mark.parametrize("seed", ["-1", str(2**32), str(2**70), "1.5", "none"])
@pytest.mark.parametrize(
    "command",
    [
        "limits", "evaluate", "bounds gaussian", "train in.png --out run", "reproduce fig2",
        "data pack in.png --out out",
    ],
)  # fmt: skip
def test_seeds_that_are_none(tmp_path, capsys, monkeypatch, command, seed):
    monkeypatch.chdir(tmp_path)
    assert "'--seed'" in refuse(capsys, *command.split(), "--seed", seed, watch=tmp_path)


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_too_little_memory(tmp_path, weights, picture, capsys, monkeypatch, error):
    def greedy(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(registry, "codec_at", greedy)
    arguments = ["compress", picture, tmp_path / "o", "--codec", weights]
    assert "not enough memory" in refuse(capsys, *arguments, watch=tmp_path)


def test_an_error_of_the_program_is_not_hidden(tmp_path, weights, picture, monkeypatch):
    def wrong(*_: object, **__: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(registry, "codec_at", wrong)
    with pytest.raises(RuntimeError, match="a bug"):
        run(["compress", str(picture), str(tmp_path / "o"), "--codec", weights])


def test_an_interrupt_is_one_line(tmp_path, weights, picture, capsys, monkeypatch):
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(registry, "codec_at", interrupted)
    out = tmp_path / "o"
    assert run(["compress", str(picture), str(out), "--codec", weights]) == 130
    assert capsys.readouterr().err.strip() == "interrupted"
    assert list(tmp_path.iterdir()) == []


# Training


def test_train_and_resume_by_command(tmp_path, picture, capsys):
    out, facts = tmp_path / "run", tmp_path / "facts.json"
    command = ["train", str(picture), "--out", str(out), "--codec", "tiny", "--batch", "1"]
    command += ["--crop", "64", "--json", str(facts)]
    assert run([*command, "--steps", "2"]) == 0
    weights = out / "codec.safetensors"
    assert str(weights) in capsys.readouterr().out
    told = json.loads(facts.read_text())
    assert (told["weights"], told["step"]) == (str(weights), 2)
    assert "holds a run already" in refuse(capsys, *command, "--steps", 2, watch=tmp_path)
    assert "made with seed 1" in refuse(
        capsys, *command, "--steps", 3, "--seed", 2, "--resume", watch=tmp_path
    )
    assert run([*command, "--steps", "3", "--resume"]) == 0
    assert json.loads(facts.read_text())["step"] == 3
    coded = tmp_path / "a.wfl"
    assert run(["compress", str(picture), str(coded), "--codec", str(weights)]) == 0
    assert run(["info", str(weights)]) == 0


@pytest.mark.parametrize("name", ["codec.safetensors", "checkpoint.safetensors", "run.toml"])
def test_json_takes_the_place_of_no_file_of_a_run(tmp_path, picture, capsys, name):
    out = tmp_path / "run"
    command = ["train", str(picture), "--codec", "tiny", "--batch", "1", "--crop", "64"]
    taken = ["--json", tmp_path / "run" / ".." / "run" / name]
    assert "another file" in refuse(capsys, *command, "--out", out, *taken, watch=tmp_path)
    (tmp_path / "queue").mkdir()
    (tmp_path / "queue" / "run.toml").write_text("steps = 1")
    queued = ["train", "--queue", tmp_path / "queue", "--out", tmp_path]
    assert "another file" in refuse(capsys, *queued, *taken, watch=tmp_path)
    mine = tmp_path / "mine.toml"
    mine.write_text("steps = 1")
    again = ["train", picture, "--out", out, "--config", mine, "--json", mine]
    assert "another file" in refuse(capsys, *again, watch=tmp_path)
    # Beside those files there is room, in a folder that is still to be made.
    told = out / "told.json"
    assert run([*command, "--steps", "1", "--out", str(out), "--json", str(told)]) == 0
    assert json.loads(told.read_text())["step"] == 1


@pytest.mark.parametrize("name", ["index.json", "shard-00000.tar", "shard-00000.json"])
def test_json_takes_the_place_of_no_shard(tmp_path, picture, capsys, name):
    out = tmp_path / "shards"
    command = ["data", "pack", str(picture), "--out", str(out), "--json"]
    assert "another file" in refuse(capsys, *command, out / name, watch=tmp_path)
    assert run([*command, str(out / "told.json")]) == 0
    assert json.loads((out / "told.json").read_text())["members"] == 1
    assert len(open_pictures([out])) == 1


# As a program of its own


def waterfill(*arguments: object, **options) -> subprocess.CompletedProcess[str]:
    code = "from waterfill.cli import main; main()"
    return subprocess.run(
        [sys.executable, "-c", code, *map(os.fspath, arguments)],
        text=True, encoding="utf-8", errors="backslashreplace", check=False,
        **({"capture_output": True} if "stdout" not in options else {"stderr": subprocess.PIPE}),
        **options,
    )  # fmt: skip


@linux
def test_a_name_that_is_not_text_and_a_terminal_that_knows_only_ascii(tmp_path, picture, weights):
    name = tmp_path / os.fsdecode(b"\xff\xe9.png")
    name.write_bytes(picture.read_bytes())
    facts, out = tmp_path / "facts.json", name.with_suffix(".wfl")
    done = waterfill(
        "compress", name, out, "--codec", weights, "--json", facts,
        env=os.environ | {"PYTHONIOENCODING": "ascii"},
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert out.is_file()
    assert json.loads(facts.read_text())["source"] == str(name)


@linux
def test_output_that_nobody_can_write_is_one_line_and_no_traceback(stream):
    with open("/dev/full", "w") as full:
        done = waterfill("info", stream, stdout=full)
    assert done.returncode == 2
    assert done.stderr == "error: No space left on device\n"


def test_pictures_are_packed_and_trained_on(tmp_path, capsys):
    (tmp_path / "in").mkdir()
    rng = np.random.default_rng(0)
    for k in range(3):
        pixels = rng.integers(0, 256, (160, 140, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "in" / f"{k}.png")
    (tmp_path / "in" / "broken.png").write_bytes(b"no picture")
    shards, told = tmp_path / "shards", tmp_path / "pack.json"
    assert (
        run(["data", "pack", str(tmp_path / "in"), "--out", str(shards), "--json", str(told)]) == 0
    )
    said = capsys.readouterr().out
    assert "3 pictures of 4 files, 1 shard," in said
    assert "1 unreadable picture was skipped: broken.png\n" in said
    assert json.loads(told.read_text())["members"] == 3
    command = ["train", str(shards), "--out", str(tmp_path / "run"), "--codec", "tiny"]
    assert run([*command, "--crop", "64", "--batch", "1", "--steps", "1"]) == 0
    start = json.loads((tmp_path / "run" / "provenance.json").read_text())["starts"][0]
    assert start["data"]["fingerprint"] == json.loads(told.read_text())["fingerprint"]
    for option, value, reason in (
        ("--shard-mb", "nan", "--shard-mb must lie above 0 and be 256 at most, not nan"),
        ("--shard-mb", "257", "--shard-mb must lie above 0 and be 256 at most, not 257"),
        ("--max-side", "0", "max_side must be positive, not 0"),
    ):
        assert run(["data", "pack", str(tmp_path / "in"), "--out", str(shards), option, value]) == 2
        assert reason in capsys.readouterr().err


def test_a_run_goes_on_with_its_own_settings(tmp_path, capsys, picture):
    out = tmp_path / "run"
    command = ["train", str(picture), "--out", str(out), "--codec", "tiny", "--crop", "64"]
    assert run([*command, "--batch", "1", "--steps", "1", "--seed", "5"]) == 0
    assert run(["train", "--out", str(out), "--resume", "--steps", "2"]) == 0
    assert "step 2 of 2" in capsys.readouterr().out
    assert "seed = 5" in (out / "run.toml").read_text()
    assert run(["train", "--out", str(out), "--resume", "--seed", "6"]) == 2
    assert "seed" in capsys.readouterr().err


def test_every_setting_of_a_run_has_an_option():
    known = {parameter.name for parameter in training.train.params}
    assert {field.name for field in dataclasses.fields(TrainConfig)} - {"data"} <= known


def test_presets_are_listed(capsys):
    assert run(["train", "--presets"]) == 0
    said = capsys.readouterr().out
    assert "paper2-hyperprior-regularised" in said
    assert max(len(line) for line in said.splitlines()) <= 100
    # Whole where nobody can make the window wider.
    assert re.search(r"paper1-oracle-test-channel-context-ms-ssim-q…  .* 200 k +100×256²", said)


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (["train", "x"], "--out"),
        (["train", "--out", "DIR"], "name photographs"),
        (["train", "--out", "DIR", "--preset", "none"], "no such preset (--presets"),
        (["train", "--out", "DIR", "--preset", "bundle"], "did you mean bundled?"),
        (["train", "--out", "DIR", "--preset", "medium", "--config", "x"], "exclude"),
        (
            ["train", "--out", "DIR", "--config", "/nowhere.toml"],
            "/nowhere.toml: no such file or folder",
        ),
        (["train", "--out", "DIR", "--resume"], "no run to go on with"),
        (["train", "--queue", "/nowhere"], "no experiments"),
        (["train", "--queue", "/nowhere", "--steps", "3"], "files alone"),
        (["train", "--out", "DIR", "--hand-back", "x"], "belongs to --queue"),
        (["train", "x", "--out", "DIR", "--max-minutes", "nan"], "--max-minutes"),
        (["train", "x", "--out", "DIR", "--learning-rate", "0"], ": --learning-rate must be"),
        (["train", "x", "--out", "DIR", "--regularize", "-1"], ": --regularize must be"),
        (["train", "x", "--out", "DIR", "--start", "a", "--linear-steps", "9"], "set --linear-st"),
        (["data", "pack", "DIR", "--out", "DIR"], "folder of their own"),
        (["data", "pack", "x", "--out", "DIR", "--seed", "-1"], "seed"),
    ],
)
def test_train_says_what_it_misses(tmp_path, capsys, arguments, what):
    out = str(tmp_path / "out")
    assert run([out if a == "DIR" else a for a in arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert what in error
    assert error.count("\n") == 1


# The program interrupts itself at its third step: nothing here waits or guesses.
SELF_INTERRUPTED = """if True:
    import os, sys
    from waterfill.cli import main, training
    plain = training._show
    def show(bar, task, last, report):
        plain(bar, task, last, report)
        if report.step == 3:
            os.kill(os.getpid(), number)
    training._show = show
    number = int(sys.argv.pop(1))
    main()
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("queued", [False, True])
def test_a_signal_while_training_leaves_a_checkpoint_and_says_so(tmp_path, picture, number, queued):
    facts = tmp_path / "facts.json"
    command = ["train", picture, "--out", tmp_path / "runs", "--json", facts]
    run_folder = tmp_path / "runs"
    if queued:
        (tmp_path / "queue").mkdir()
        for name in ("a", "b"):
            (tmp_path / "queue" / f"{name}.toml").write_text(
                "steps = 9\nbatch = 1\ncrop = 64\n[codec]\nn = 4\nm = 6\nhyper = 4"
            )
        command += ["--queue", tmp_path / "queue"]
        run_folder /= "a"
    else:
        command += ["--codec", "tiny", "--crop", "64", "--batch", "1", "--steps", "9"]
    done = subprocess.run(
        [sys.executable, "-c", SELF_INTERRUPTED, str(int(number)), *map(str, command)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 128 + number, done.stderr
    assert "step 3 of 9" in done.stdout
    assert done.stderr.splitlines()[-1] == "interrupted"
    assert "Traceback" not in done.stderr
    assert (run_folder / "checkpoint.safetensors").is_file()
    told = json.loads(facts.read_text())
    if queued:
        assert "b: step 0 of 9  stopped before its turn" in done.stdout
        assert [e["stopped_by"] for e in told["experiments"]] == [number, None]
    else:
        assert told["step"] == 3


def test_time_that_is_up_is_no_interrupt(tmp_path, picture, capsys):
    command = ["train", picture, "--out", tmp_path / "run", "--codec", "tiny", "--crop", "64"]
    assert run([*map(str, command), "--batch", "1", "--max-minutes", "0"]) == 0
    assert "step 0 of" in capsys.readouterr().out


def test_what_is_held_back_is_told_in_one_line_with_units(tmp_path, picture, capsys):
    command = ["train", picture, "--out", tmp_path / "run", "--codec", "tiny", "--crop", "64"]
    assert run([*map(str, command), "--batch", "1", "--steps", "1"]) == 0
    (line,) = (s for s in capsys.readouterr().err.splitlines() if s.startswith("step 1:"))
    number = r"\d+\.\d+"
    assert re.fullmatch(
        rf"step 1: held back  loss {number}  {number} bpp  {number} dB  prior {number} bpp"
        rf"(  quality (1|4\.5|8): {number} bpp {number} dB){{3}}",
        line,
    )


@pytest.mark.parametrize(("name", "returned"), [("SIGINT", 130), ("SIGTERM", 143)])
def test_signals_elsewhere_are_one_line(tmp_path, picture, weights, name, returned):
    code = f"""if True:
        import os, signal, sys
        from waterfill import cli
        from waterfill.codec import registry
        def load(*_):
            os.kill(os.getpid(), signal.{name})
        registry.codec_at = load
        cli.main()
    """
    command = ["compress", picture, tmp_path / "o.wfl", "--codec", weights]
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, command)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == returned
    assert done.stderr.strip() == "interrupted"
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_while_the_program_loads_is_one_line():
    code = """if True:
        import sys
        from waterfill.__main__ import main
        class Finder:
            def find_spec(self, name, *_):
                if name == "waterfill.cli":
                    raise KeyboardInterrupt
        sys.meta_path.insert(0, Finder())
        main()
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (130, "interrupted\n")


@pytest.mark.slow
@linux
def test_killed_outright_and_resumed_equals_uninterrupted(tmp_path, picture):
    code = """if True:
        import os, signal, sys
        from waterfill.codec.config import CodecConfig
        from waterfill.training.config import TrainConfig
        from waterfill.training.loop import train
        config = TrainConfig(data=(sys.argv[1],), codec=CodecConfig(4, 6, 4), steps=5, batch=2,
                             crop=64, warmup=1, precision="32-true", checkpoint_every=2,
                             validate_every=1)
        def show(report):
            if report.step == int(sys.argv[3]):
                os.kill(os.getpid(), signal.SIGKILL)
        train(config, sys.argv[2], resume=sys.argv[4] == "resume", progress=show)
    """

    def child(out: str, die_at: int, how: str) -> int:
        command = [sys.executable, "-c", code, str(picture), str(tmp_path / out), str(die_at), how]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert "Traceback" not in done.stderr, done.stderr
        return done.returncode

    assert child("whole", -1, "") == 0
    assert child("killed", 3, "") == -signal.SIGKILL
    assert child("killed", -1, "resume") == 0
    whole, killed = (
        (tmp_path / name / "metrics.csv").read_text().splitlines() for name in ("whole", "killed")
    )

    def timeless(lines: list[str]) -> list[list[str]]:
        return [line.split(",")[:1] + line.split(",")[3:] for line in lines]

    assert timeless(whole) == timeless(killed)
    import safetensors.torch

    one, other = (
        safetensors.torch.load_file(tmp_path / name / "checkpoint.safetensors")
        for name in ("whole", "killed")
    )
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_folders_go_to_folders_and_back(tmp_path, weights, capsys):
    source, coded, back = (tmp_path / name for name in ("pictures", "coded", "back"))
    (source / "inner").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name in ("a.png", "b.bmp", "inner/c.png"):
        pixels = rng.integers(0, 256, (30, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(source / name)
    report = tmp_path / "facts.json"
    assert (
        run(["compress", str(source), str(coded), "--codec", weights, "--json", str(report)]) == 0
    )
    assert sorted(p.relative_to(coded).as_posix() for p in coded.rglob("*.wfl")) == [
        "a.wfl",
        "b.wfl",
        "inner/c.wfl",
    ]
    assert len(json.loads(report.read_text())["files"]) == 3
    assert run(["decompress", str(coded), str(back), "--codec", weights]) == 0
    with Image.open(back / "inner" / "c.png") as decoded:
        assert decoded.size == (40, 30)
    # One alone gives the very bytes that it got among others.
    alone = tmp_path / "alone.wfl"
    assert run(["compress", str(source / "a.png"), str(alone), "--codec", weights]) == 0
    assert alone.read_bytes() == (coded / "a.wfl").read_bytes()


def test_in_a_folder_the_good_files_are_done_and_the_bad_ones_named(tmp_path, weights, capsys):
    source, coded = tmp_path / "pictures", tmp_path / "coded"
    source.mkdir()
    Image.new("RGB", (20, 20), "red").save(source / "good.png")
    (source / "bad.png").write_text("not a picture")
    report = tmp_path / "facts.json"
    command = ["compress", str(source), str(coded), "--codec", weights, "--json", str(report)]
    assert run(command) == 2
    said = capsys.readouterr()
    facts = json.loads(report.read_text())
    assert [Path(one["source"]).name for one in facts["files"]] == ["good.png"]
    (failed,) = facts["failed"]
    assert Path(failed["source"]).name == "bad.png"
    assert failed["error"] in said.err
    assert "bad.png" in said.err
    assert "1 of 2 files" in said.err
    assert [p.name for p in coded.iterdir()] == ["good.wfl"]
    (coded / "good.wfl").write_bytes(b"WFL")
    assert run(["decompress", str(coded), str(tmp_path / "back"), "--codec", weights]) == 2
    assert "good.wfl" in capsys.readouterr().err


def test_in_a_folder_no_output_is_another_file_and_one_that_fails_stops_no_other(
    tmp_path, weights, capsys
):
    source, coded, report = tmp_path / "pictures", tmp_path / "coded", tmp_path / "facts.json"
    source.mkdir()
    for name in ("a.png", "b.png"):
        Image.new("RGB", (20, 20), "red").save(source / name)
    command = ["compress", source, coded, "--codec", weights, "--json"]
    for path in (source / "b.png", coded / "b.wfl"):
        assert "another file of this command" in refuse(capsys, *command, path, watch=tmp_path)
    coded.mkdir()
    (coded / "b.wfl").symlink_to(source / "b.png")
    assert "another file" in refuse(capsys, *command, report, watch=tmp_path)
    (coded / "b.wfl").unlink()
    (coded / "a.wfl").mkdir()
    assert run([str(word) for word in [*command, report]]) == 2
    assert "a.wfl: can't be written" in capsys.readouterr().err
    assert (coded / "b.wfl").is_file()
    facts = json.loads(report.read_text())
    assert [len(facts[kind]) for kind in ("files", "failed")] == [1, 1]


def test_streams_among_their_originals_do_not_overwrite_them(tmp_path, weights, capsys):
    Image.new("RGB", (20, 20), "red").save(tmp_path / "a.png")
    original = (tmp_path / "a.png").read_bytes()
    folder = str(tmp_path)
    assert run(["compress", folder, folder, "--codec", weights]) == 0
    said = refuse(capsys, "decompress", folder, tmp_path / ".", "--codec", weights, watch=tmp_path)
    assert "a.png: is there already" in said
    assert (tmp_path / "a.png").read_bytes() == original
    (tmp_path / "a.png").unlink()
    assert run(["decompress", folder, folder, "--codec", weights]) == 0
    assert (tmp_path / "a.png").is_file()


def test_folders_that_cannot_be_coded(tmp_path, weights, capsys):
    empty, target = tmp_path / "empty", tmp_path / "out"
    empty.mkdir()
    assert "no pictures" in refuse(capsys, "compress", empty, target, "--codec", weights)
    assert "no streams" in refuse(capsys, "decompress", empty, target, "--codec", weights)
    for name in ("a.png", "a.bmp"):
        Image.new("RGB", (4, 4)).save(empty / name)
    said = refuse(capsys, "compress", empty, target, "--codec", weights, watch=tmp_path)
    assert all(name in said for name in ("a.wfl", "a.png", "a.bmp"))
    (empty / "a.bmp").unlink()
    target.write_text("a file")
    said = refuse(capsys, "compress", empty, target, "--codec", weights, watch=tmp_path)
    assert "must be a folder" in said


def test_a_codec_without_bundled_weights_is_asked_for_a_file(tmp_path, picture, capsys):
    arguments = ["compress", picture, tmp_path / "o", "--codec", "factorized"]
    said = refuse(capsys, *arguments, watch=tmp_path)
    assert "give a file of weights" in said
    assert "pretrained" not in said


def test_a_lost_colour_profile_is_told(tmp_path, weights, capsys):
    from PIL import ImageCms

    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    same = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    picture, out = tmp_path / "a.png", tmp_path / "a.wfl"
    for data, told in ((profile, True), (same, False), (b"damaged", True), (None, False)):
        Image.new("RGB", (9, 9)).save(picture, icc_profile=data)
        assert run(["compress", str(picture), str(out), "--codec", weights]) == 0
        assert ("without its colour profile" in capsys.readouterr().out) == told
