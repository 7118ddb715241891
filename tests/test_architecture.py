"""The house stands: a lower floor never imports a higher one, and theory needs numpy alone."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import waterfill

ROOT = Path(waterfill.__file__).parent
#: From the ground up. The single modules lie under all floors.
FLOORS = (
    "errors",
    "allocator",
    "files",
    "parallel",
    "processes",
    "devices",
    "eigen",
    "provenance",
    "row_shards",
    "seeds",
    "theory",
    "data",
    "bitstream",
    "codec",
    "training",
    "evaluation",
    "estimators",
    "ladder",
    "reproduce",
    "report",
    "cli",
)
#: `Ladder.report` renders itself: the one call upwards, made when it is asked for.
ALLOWED = {("ladder/result.py", "report")}


def imported_floors(file: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names = [node.module]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        found |= {n.split(".")[1] for n in names if n.startswith("waterfill.")}
    return found


@pytest.mark.parametrize("floor", FLOORS)
def test_a_floor_imports_only_what_lies_below(floor: str) -> None:
    files = sorted((ROOT / floor).rglob("*.py")) or [ROOT / f"{floor}.py"]
    for file in files:
        where = file.relative_to(ROOT).as_posix()
        for other in imported_floors(file):
            if (where, other) not in ALLOWED:
                assert FLOORS.index(other) <= FLOORS.index(floor), f"{where} imports {other}"


def test_every_module_lies_on_a_floor() -> None:
    parts = {p.stem for p in ROOT.iterdir() if p.suffix == ".py" or (p / "__init__.py").exists()}
    assert parts - {"__init__", "__main__"} == set(FLOORS)


def test_nothing_is_decided_in_an_assert() -> None:
    """``python -O`` leaves asserts out: a checksum that is compared in one is compared no more."""
    for file in sorted(ROOT.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Assert):
                called = {ast.unparse(n.func) for n in ast.walk(node) if isinstance(n, ast.Call)}
                assert called <= {"isinstance"}, f"{file.relative_to(ROOT)}:{node.lineno}"


def test_theory_needs_no_torch() -> None:
    code = "import sys, waterfill; waterfill.theory.genie_gain(); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_loading_a_codec_loads_no_compiler() -> None:
    """Some arithmetic on the meta device, where codecs are built, imports one: two seconds.

    Older versions of torch do so for any layer that is made there.
    """
    code = (
        "import sys, torch; torch.nn.Linear(1, 1, device='meta'); before = set(sys.modules); "
        "from waterfill.codec.registry import load_codec; load_codec('default'); "
        "compilers = {'torch._dynamo', 'torch.fx.experimental.symbolic_shapes'}; "
        "assert not compilers & (set(sys.modules) - before)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_lazy_names_are_listed_and_no_listing_loads_torch() -> None:
    code = (
        "import sys, waterfill; names = dir(waterfill); "
        "assert set(waterfill.__all__) <= set(names) and '__version__' in names; "
        "assert 'torch' not in sys.modules; "
        "assert all(getattr(waterfill, name) is not None for name in waterfill.__all__)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


#: Reads checkpoints that were made elsewhere, by the loader that is restricted to tensors.
RESTRICTED = "codec/foreign.py"


def test_nothing_unpickles() -> None:
    for file in ROOT.rglob("*.py"):
        source = file.read_text(encoding="utf-8")
        if file.relative_to(ROOT).as_posix() != RESTRICTED:
            # `unpickle` is what somebody says who wants the restricted loader, and NumPy must be
            # told that it may not.
            source = source.replace("unpickle", "").replace("allow_pickle=False", "")
            assert "pickle" not in source, file
            assert "torch.load" not in source, file
    tree = ast.parse((ROOT / RESTRICTED).read_text(encoding="utf-8"))
    assert not {n for n in ast.walk(tree) if isinstance(n, ast.alias) and "pickle" in n.name}
    loads = [n for n in ast.walk(tree) if ast.unparse(n) == "torch.load"]
    calls = [n for n in ast.walk(tree) if isinstance(n, ast.Call) and n.func in loads]
    assert len(loads) == len(calls) == 1
    assert "weights_only=True" in map(ast.unparse, calls[0].keywords)
