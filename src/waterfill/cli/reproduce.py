"""``waterfill reproduce``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.box import SIMPLE_HEAD
from rich.cells import cell_len
from rich.table import Table

from waterfill.cli.shared import (
    NAME,
    PATH,
    SEED,
    json_option,
    out_console,
    progress_bar,
    say,
    say_table,
    writable_folder,
)
from waterfill.files import as_json, write_all

if TYPE_CHECKING:
    from waterfill.reproduce import Reproduction
    from waterfill.reproduce.result import Table as Results


#: Room for what a row is about, and what lies between columns.
_FIRST, _BETWEEN = 18, 2


@click.command(short_help="Compute a figure or table of the papers again.")
@click.argument("name")
@click.argument("pictures", nargs=-1, type=NAME, metavar="[PICTURE]...")
@click.option(
    "--scale",
    default="mini",
    show_default=True,
    metavar="NAME",
    help="mini, full (for a GPU), or for fig5c night (an hour or more).",
)
@click.option(
    "--train",
    "photographs",
    type=NAME,
    multiple=True,
    metavar="PATH",
    help="Photographs to train on, repeatable.",
)
@click.option(
    "--out",
    type=PATH,
    default=Path("waterfill-reproduce"),
    metavar="DIR",
    show_default=True,
    help="Folder for NAME.html, NAME.csv, NAME.json, and runs/.",
)
@click.option(
    "--seed",
    type=SEED,
    default=0,
    show_default=True,
    help="Seed of channels' noise, patches and estimators; trainings have their own.",
)
@json_option
def reproduce(
    name: str,
    pictures: tuple[str, ...],
    scale: str,
    photographs: tuple[str, ...],
    out: Path,
    seed: int,
    json_file: Path | None,
) -> None:
    """Compute a figure or table of the papers again, our numbers beside theirs.

    NAME of paper 1 is fig2, fig3, fig4a, fig4b, fig4b-ms-ssim, fig5a, fig5c, table1, table2,
    appendix-d or appendix-g; of paper 2 paper2-fig3, -fig4, -fig5, -fig6, -fig8, -table1, -table2,
    -table3 or, beyond it, -annealed, -bundled. PICTURE: what to measure on, by default
    built-in photographs; for fig5c MNIST's test digits; for paper 2 a folder's name gives the
    domain. An interrupted training is resumed.
    """
    from waterfill.data.images import find_images
    from waterfill.report.reproduction import render_reproduction
    from waterfill.reproduce import Request, check_request
    from waterfill.reproduce import reproduce as compute

    found_pictures: list[Any] = find_images(pictures) if pictures else []
    with progress_bar() as bar:
        task = bar.add_task("starting", total=None)

        def advance(done: int, total: int | None, what: str) -> None:
            bar.update(task, completed=done, total=total, description=what)

        request = Request(scale, found_pictures, photographs, out / "runs", seed, advance)
        check_request(name, request)
        results = (f"{name}.{kind}" for kind in ("json", "csv", "html"))
        writable_folder(out, *results, json_file=json_file)
        found = compute(name, request)
    data = as_json(found.to_dict())
    contents: dict[Path, str | bytes] = {
        out / f"{name}.json": data,
        out / f"{name}.csv": found.to_csv(),
        out / f"{name}.html": render_reproduction(found),
    }
    write_all(contents | ({json_file: data} if json_file else {}))
    _print(found)
    say("\n" + "\n".join(str(out / f"{name}.{kind}") for kind in ("html", "csv", "json")))


def _print(found: Reproduction) -> None:
    out_console.print(found.title, style="bold", highlight=False, markup=False)
    for table in found.tables:
        grid = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 1, 0, 0))
        for column, width in zip(table.columns, _widths(table), strict=True):
            grid.add_column(column, width=width, overflow="fold")
        for row in table.rows:
            grid.add_row(*map(str, row), style="magenta" if "genie-aided" in row else None)
        if table.title != found.title:
            out_console.print(f"\n{table.title}", style="dim", highlight=False, markup=False)
        say_table(grid)
    for verdict in found.verdicts:
        say(f"\n{verdict.verdict}: {verdict.claim}\n  {verdict.measured}")
    for note in found.notes:
        out_console.print(f"\n{note}", style="dim", highlight=False, markup=False)


def _widths(table: Results) -> list[int]:
    """Columns' widths: no word is broken, and what room the terminal has beyond that is shared."""
    columns = [
        [str(cell) for cell in column] for column in zip(table.columns, *table.rows, strict=True)
    ]
    whole = [max(map(cell_len, column)) for column in columns]
    least = [
        max(cell_len(word) for cell in column for word in cell.split(" ")) for column in columns
    ]
    least[0] = max(least[0], min(_FIRST, whole[0]))
    wanted = [most - few for most, few in zip(whole, least, strict=True)]
    room = max(0, out_console.width - sum(least) - _BETWEEN * len(least))
    share = min(1.0, room / max(1, sum(wanted)))
    return [few + int(share * more) for few, more in zip(least, wanted, strict=True)]
