"""What decides a figure: every module that computes, and none that only shows."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

import waterfill
from waterfill.provenance import identity, revision


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A package in this one's place."""
    for name in ("__init__.py", "codec/model.py", "report/page.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("1\n")
    monkeypatch.setattr(waterfill, "__file__", str(tmp_path / "__init__.py"))
    identity.cache_clear()
    yield tmp_path
    identity.cache_clear()


def code() -> str:
    identity.cache_clear()
    return identity()["code"]


def test_code_that_computes_is_part_of_it(package: Path) -> None:
    before = code()
    assert before == code()
    (package / "codec" / "model.py").write_text("2\n")
    changed = code()
    assert changed != before
    (package / "codec" / "model.py").rename(package / "codec" / "moved.py")
    assert code() not in (before, changed)


def test_code_that_shows_is_not(package: Path) -> None:
    before = code()
    (package / "report" / "page.py").write_text("2\n")
    assert code() == before


def test_it_names_the_libraries_that_compute() -> None:
    found = identity()
    assert found["waterfill"] == waterfill.__version__
    assert {"torch", "numpy", "scipy"} <= set(found)


def test_a_revision_is_dirty_where_what_computes_has_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package, page, script = (tmp_path / name for name in ("src/wf", "README.md", "benchmarks/a.py"))
    for file in (package / "__init__.py", package / "weights.safetensors", page, script):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("1\n")
    monkeypatch.setattr(waterfill, "__file__", str(package / "__init__.py"))
    assert revision() is None
    as_somebody = ["-c", "user.name=A", "-c", "user.email=a@example.org", "-c", "gc.auto=0"]
    for words in (["init", "-q"], ["add", "."], ["commit", "-qm", "first"]):
        subprocess.run(["git", "-C", str(tmp_path), *as_somebody, *words], check=True)
    page.write_text("2\n")
    clean = str(revision())
    assert clean.isalnum()
    for file in (script, package / "weights.safetensors"):
        file.write_text("2\n")
        assert revision() == f"{clean}-dirty"
        file.write_text("1\n")
