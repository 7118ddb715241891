"""``waterfill bounds``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.box import SIMPLE_HEAD
from rich.table import Table

from waterfill.cli.shared import (
    NAME,
    PATH,
    SEED,
    device_option,
    json_option,
    out_console,
    progress_bar,
    say,
    say_bold,
    say_table,
    shards_folder,
    shards_option,
    writable_folder,
)
from waterfill.errors import WaterfillError
from waterfill.files import as_json, write_all
from waterfill.processes import is_first

if TYPE_CHECKING:
    from waterfill.estimators import RDCurve


@click.command()
@click.argument("source", type=NAME)
@click.option(
    "--method",
    "-m",
    "methods",
    default="ba",
    show_default=True,
    metavar="NAME,…",
    help="One or several of ba, sandwich, sandwich-upper, sandwich-lower, nerd, wgd, ais, limits.",
)
@click.option(
    "--slopes",
    default="1,3,10",
    show_default=True,
    metavar="λ,…",
    help="R + λD is minimised; λ is in units of rate per unit of distortion.",
)
@click.option(
    "--unit",
    default="bits",
    show_default=True,
    help="Unit of rates: bits, nats, bits/dim or nats/dim.",
)
@click.option(
    "--distortion",
    default=None,
    help="Distortion: mse, sse or half-sse; hamming for a discrete source. [mse]",
)
@click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="[METHOD.]KEY=VALUE",
    help="A setting of the methods that have it, or of one; repeatable.",
)
@click.option(
    "--out",
    type=PATH,
    default=Path("waterfill-bounds"),
    metavar="DIR",
    show_default=True,
    help="Folder for bounds.html, bounds.csv and bounds.json.",
)
@device_option
@shards_option
@json_option
@click.option(
    "--seed", type=SEED, default=0, show_default=True, help="Seed of samples and networks."
)
def bounds(
    source: str,
    methods: str,
    slopes: str,
    unit: str,
    distortion: str | None,
    settings: tuple[str, ...],
    out: Path,
    device: str,
    shards: Path | None,
    json_file: Path | None,
    seed: int,
) -> None:
    """Bound the rate-distortion function of a source, and draw it.

    SOURCE is a law (gaussian:n=2,var=1 laplacian:n=1 sphere:n=5,noise=0.1 banana beta:a=2,b=2
    sawbridge:n=1024 discrete:p=0.5+0.3+0.2; gaussian also takes decay=, rho=, spread= or
    var=1.2+0.8), an IDX file of pictures, a NumPy file of samples, or a folder of pictures, whose
    patches are taken (FOLDER,size=8). Under torchrun, all processes share methods and slopes.
    """
    from waterfill.data.source_names import open_source
    from waterfill.devices import check_device
    from waterfill.estimators import all_bounds
    from waterfill.estimators.estimate import method_of
    from waterfill.report.bounds import render_bounds

    names = list(dict.fromkeys(filter(None, map(str.strip, methods.split(",")))))
    if not names:
        raise WaterfillError("--method names no method")
    asked = _numbers(slopes)
    wanted = _settings(settings, names)
    chosen = [method_of(name, wanted[name]) for name in names]
    where = check_device(device)
    opened = open_source(source)
    if is_first():
        writable_folder(out, "bounds.json", "bounds.csv", "bounds.html", json_file=json_file)
    with progress_bar() as bar:
        task = bar.add_task("starting", total=None)

        def advance(done: int, total: int, what: str) -> None:
            bar.update(task, completed=done, total=total, description=what)

        curves = all_bounds(
            opened,
            chosen,
            asked,
            rate_unit=unit,
            distortion=distortion,
            seed=seed,
            device=where,
            shards=shards_folder(shards, out),
            progress=advance,
        )
    if not is_first():
        return
    data = as_json({"curves": [curve.to_dict() for curve in curves]})
    table = "\n".join(
        c.to_frame().to_csv(index=False, header=not i).rstrip("\n") for i, c in enumerate(curves)
    )
    contents: dict[Path, str | bytes] = {
        out / "bounds.json": data,
        out / "bounds.csv": table + "\n",
        out / "bounds.html": render_bounds(curves),
    }
    write_all(contents | ({json_file: data} if json_file else {}))
    _print(curves)
    say("\n" + "\n".join(str(out / f"bounds.{kind}") for kind in ("html", "csv", "json")))


def _numbers(text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",") if part.strip()]
    except ValueError:
        raise WaterfillError(f"--slopes must be numbers with commas between, not {text}") from None


def _settings(items: tuple[str, ...], names: list[str]) -> dict[str, dict[str, Any]]:
    """``key=value`` to every method that has the setting; ``method.key=value`` to one."""
    import dataclasses

    from waterfill.estimators import METHODS

    found: dict[str, dict[str, Any]] = {name: {} for name in names}
    for item in items:
        key, equals, value = item.partition("=")
        if not equals:
            raise WaterfillError(f"--set {item}: must be KEY=VALUE")
        one, dot, rest = key.rpartition(".")
        if dot:
            if one not in found:
                raise WaterfillError(f"--set {item}: {one} is not among the methods")
            found[one][rest] = value
            continue
        takers = [
            name
            for name in names
            if name in METHODS and key in {f.name for f in dataclasses.fields(METHODS[name])}  # type: ignore[arg-type]
        ]
        if not takers and all(name in METHODS for name in names):
            raise WaterfillError(f"--set {item}: none of the methods has this setting")
        for name in takers:
            found[name][key] = value
    return found


def _print(curves: Sequence[RDCurve]) -> None:
    units = curves[0].units
    say_bold(curves[0].source)
    table = Table(
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
        show_edge=False,
    )
    table.add_column("method", no_wrap=True)
    table.add_column("status", no_wrap=True)
    for column in ("λ", f"D {units.distortion}", f"R {units.rate}", "95 % interval", "ceiling"):
        table.add_column(column, justify="right", no_wrap=True)
    for point in (p for curve in curves for p in curve.points):
        around = "exact" if point.interval is None else _pair(point.interval)
        ceiling = "none" if point.ceiling is None else f"{point.ceiling:.2f}"
        table.add_row(
            point.method,
            point.status,
            f"{point.slope:.4g}",
            f"{point.distortion:.4g}",
            f"{point.rate:.4f}",
            around,
            f"{ceiling} (near)" if point.near_ceiling else ceiling,
            style={"genie-aided": "magenta"}.get(point.status),
        )
    say_table(table)
    for note in dict.fromkeys(p.note for c in curves for p in c.points if p.note):
        out_console.print(note, style="dim", highlight=False, markup=False)
    if any(p.near_ceiling for c in curves for p in c.points):
        out_console.print(
            "near: within half a bit of what the method can give at all; it says more about the "
            "method than about the source",
            style="dim",
            highlight=False,
        )


def _pair(interval: tuple[float, float]) -> str:
    return f"{interval[0]:.4f} … {interval[1]:.4f}"
