"""Compute anew what is stored of the bundled codec, once its weights have changed.

    python scripts/renew_results.py --list
    python scripts/renew_results.py --adopt RUN --as NAME
    python scripts/renew_results.py --kodak DIR --photographs DIR --domains DIR [NAME ...]
        [--jobs 2]

``--adopt`` puts the weights of a finished training run in place of the bundled ones, and its curve
behind the others in ``bundled_training.csv``; commit that.

Without names: every result in ``benchmarks/results`` that ``weights.json`` there says is of other
weights than today's. What measures time runs first and alone; the rest side by side, a thread each.
All run from a worktree of the last commit, so that the tree may change meanwhile and results name a
revision that exists. Started again, it goes on with what is missing.

Afterwards: ``scripts/docs_pictures.py``, ``scripts/docs_tables.py``, and the prose that quotes what
has changed.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from waterfill.codec.registry import load_codec
from waterfill.files import write_whole

ROOT = Path(__file__).parents[1]
STORED = ROOT / "benchmarks" / "results"
LEDGER = STORED / "weights.json"
CURVES = STORED / "bundled_training.csv"
BUNDLED = ROOT / "src" / "waterfill" / "codec" / "weights" / "default.safetensors"
DOMAINS = ("clic", "game_cgi", "histology", "photo_gb82", "pixel_art", "screen_gb82sc")
_ONE_AT_A_TIME = threading.Lock()
#: Photographs that quantisers are compared on, where every file is decoded.
EIGHT = tuple(
    f"kodak/kodim{number}.png" for number in ("01", "04", "07", "11", "15", "18", "20", "23")
)


def _as_it_is(result: dict[str, Any]) -> dict[str, Any]:
    return result


def _own_rows(result: dict[str, Any]) -> dict[str, Any]:
    """Single pictures of the codec alone: those of the others are a command away."""
    (own,) = (codec["name"] for codec in result["codecs"] if codec["kind"] == "own")
    rows = [row for row in result["rows"] if row["codec"] == own]
    return {k: v for k, v in result.items() if k != "domains"} | {"rows": rows}


def _no_rows(result: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in result.items() if k != "rows"}


@dataclass(frozen=True)
class Result:
    """Something stored.

    Attributes
    ----------
    name
        Of its file in :data:`STORED`, without the ending.
    command
        What writes it, in a folder with ``kodak``, ``photographs``, ``eval`` and the worktree as
        ``tree``.
    timed
        Whether it measures time.
    trainings
        Its runs whose curves are stored too, by their folders' names.
    after
        Results whose trainings it goes on with.
    kept
        What is stored of what the command wrote.
    """

    name: str
    command: Sequence[str]
    timed: bool = False
    trainings: Sequence[str] = ()
    after: Sequence[str] = ()
    kept: Callable[[dict[str, Any]], dict[str, Any]] = field(default=_as_it_is)

    @property
    def file(self) -> str:
        """Its name."""
        return f"{self.name}.json"


def _benchmark(name: str, *arguments: str) -> tuple[str, ...]:
    return (sys.executable, f"tree/benchmarks/{name}.py", *arguments)


def _waterfill(*arguments: str) -> tuple[str, ...]:
    return (sys.executable, "-m", "waterfill", *arguments)


def _reproduction(name: str, trainings: Sequence[str] = (), after: Sequence[str] = ()) -> Result:
    command = _waterfill(
        "reproduce", name, "kodak/", "--train", "photographs/", "--out", "reproduce"
    )
    return Result(f"reproduce/{name}", command, trainings=trainings, after=after)


RESULTS = (
    Result("kodak", _benchmark("kodak", "kodak", "--json", "kodak.json"), timed=True),
    Result("limits", _benchmark("limits", "kodak", "--large", "--json", "limits.json"), timed=True),
    _reproduction("fig4a", ("baseline", "test-channel", "oracle-rounding", "joint")),
    _reproduction("fig4b-ms-ssim", ("baseline-ms-ssim", "joint-ms-ssim", "joint-context-ms-ssim")),
    Result("reproduce/fig3", _waterfill("reproduce", "fig3", "--out", "reproduce")),
    _reproduction("fig5a"),
    Result(
        "kodak_effort",
        _waterfill(
            *("evaluate", "kodak/", "--effort", "4", "--trellis"),
            *(part for quality in "12468" for part in ("-q", quality)),
            *("--against", "jpeg,webp,jpeg2000", "--out", "effort"),
            *("--json", "kodak_effort.json"),
        ),
        kept=_own_rows,
    ),
    Result(
        "domains",
        _waterfill(
            *("evaluate", *(f"eval/{domain}/" for domain in DOMAINS)),
            *(part for quality in "1357" for part in ("-q", quality)),
            *("--against", "jpeg,webp", "--out", "domains", "--json", "domains.json"),
        ),
        kept=_no_rows,
    ),
    Result("quantisers", _benchmark("quantisers", *EIGHT, "--json", "quantisers.json")),
    _reproduction("fig4b", ("joint-context",), after=("reproduce/fig4a",)),
    _reproduction("paper2-bundled"),
    _reproduction("appendix-g", after=("reproduce/fig4b",)),
)


def ledger() -> dict[str, str]:
    """Which weights each result is of."""
    found: dict[str, str] = json.loads(LEDGER.read_text(encoding="utf-8"))
    return found


def adopt(run: Path, name: str) -> None:
    """Put a run's weights in place of the bundled ones, and its curve behind the others."""
    with CURVES.open(newline="") as file:
        columns = next(csv.reader(file))
        names = {row[0] for row in csv.reader(file)}
    if name in names:
        sys.exit(f"error: {CURVES.name} has a run {name} already")
    with (run / "metrics.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["validation_loss"] not in ("", "nan")]
    shutil.copyfile(run / "codec.safetensors", BUNDLED)
    with CURVES.open("a", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        for row in rows:
            figures = (f"{float(row[column]):.6g}" for column in columns[2:])
            writer.writerow([name, row["step"], *figures])


def renew(result: Result, work: Path, weights: str, *, threads: int | None) -> None:
    """Run a result's command, and store what it wrote."""
    variables = os.environ | {"PYTHONPATH": str(work / "tree" / "src")}
    if threads is not None:
        variables["OMP_NUM_THREADS"] = str(threads)
    log = work / f"{result.name.replace('/', '-')}.log"
    with log.open("w") as output:
        done = subprocess.run(
            result.command, cwd=work, env=variables, stdout=output, stderr=subprocess.STDOUT
        )
    if done.returncode:
        raise RuntimeError(f"{result.name}: see {log}")
    found = json.loads((work / result.file).read_text(encoding="utf-8"))
    write_whole(STORED / result.file, json.dumps(result.kept(found), indent=1) + "\n")
    for training in result.trainings:
        for part in ("metrics.csv", "provenance.json"):
            source = work / "reproduce" / "runs" / f"mini-{training}" / part
            shutil.copyfile(source, STORED / "reproduce" / f"training-{training}.{part}")
    with _ONE_AT_A_TIME:
        now = ledger() | {result.name: weights}
        write_whole(LEDGER, json.dumps(now, indent=1) + "\n")


def _git(*arguments: str) -> int:
    return subprocess.run(["git", "-C", str(ROOT), *arguments]).returncode


def last_commit(tree: Path) -> None:
    """A worktree of the last commit, whatever an earlier call has left there."""
    if (tree / ".git").exists():  # in a folder that is no worktree git would take this checkout
        asked = ["git", "-C", str(ROOT), "rev-parse", "HEAD"]
        commit = subprocess.run(asked, check=True, capture_output=True, text=True).stdout.strip()
        asked = ["git", "-C", str(tree), "checkout", "--quiet", "--detach", commit]
        failed = subprocess.run(asked).returncode
    else:
        failed = _git("worktree", "add", "--quiet", "--detach", str(tree))
    if failed:
        sys.exit(f"error: {tree}: is no worktree of the last commit")


def renew_all(
    wanted: Sequence[Result], places: Mapping[str, Path], weights: str, jobs: int
) -> None:
    """Renew results: the timed ones alone, then the others side by side."""
    work = ROOT / "build" / "renew" / weights
    (work / "reproduce").mkdir(parents=True, exist_ok=True)
    last_commit(work / "tree")
    for name, place in places.items():
        link = work / name
        link.unlink(missing_ok=True)
        link.symlink_to(place.resolve(), target_is_directory=True)

    def one(result: Result, before: Sequence[Future[None]], threads: int | None) -> None:
        for other in before:
            other.result()
        began = time.monotonic()
        renew(result, work, weights, threads=threads)
        print(f"{result.name:26}{time.monotonic() - began:7.0f} s", flush=True)

    for result in (result for result in wanted if result.timed):
        one(result, (), None)
    running: dict[str, Future[None]] = {}
    with ThreadPoolExecutor(jobs) as pool:
        for result in (result for result in wanted if not result.timed):
            before = [running[name] for name in result.after if name in running]
            threads = 1 if jobs > 1 else None
            running[result.name] = pool.submit(one, result, before, threads)
    failed = [error for future in running.values() if (error := future.exception())]
    if failed:
        sys.exit("\n".join(f"error: {error}" for error in failed))


def main() -> None:
    """Read the command line, and renew what it asks for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help="results; --list shows them")
    parser.add_argument("--list", action="store_true", help="show which weights each is of")
    for name in ("kodak", "photographs", "domains"):
        parser.add_argument(f"--{name}", type=Path, metavar="DIR")
    parser.add_argument("--adopt", type=Path, metavar="RUN", help="a run to take weights from")
    parser.add_argument("--as", dest="run_name", metavar="NAME", help="of its curve")
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    arguments = parser.parse_args()
    if arguments.adopt:
        if not arguments.run_name:
            parser.error("--adopt needs --as")
        adopt(arguments.adopt, arguments.run_name)
        return
    weights = load_codec().weights_id.hex()
    known = ledger()
    if arguments.list:
        for result in RESULTS:
            of = known.get(result.name, "—")
            print(f"{result.name:26}{of:20}{'' if of == weights else 'stale'}")
        return
    unknown = set(arguments.names) - {result.name for result in RESULTS}
    if unknown:
        parser.error(f"no such result: {', '.join(sorted(unknown))}")
    wanted = [
        result
        for result in RESULTS
        if result.name in arguments.names
        or (not arguments.names and known.get(result.name) != weights)
    ]
    places = {
        "kodak": arguments.kodak,
        "photographs": arguments.photographs,
        "eval": arguments.domains,
    }
    if wanted and None in places.values():
        parser.error("--kodak, --photographs and --domains are needed")
    if _git("diff", "--quiet", "HEAD", "--", "src", "benchmarks/*.py"):
        sys.exit("error: commit what has changed in src/ and benchmarks/ first")
    renew_all(wanted, places, weights, arguments.jobs)


if __name__ == "__main__":
    main()
