"""What commands share: options, output, files."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.measure import Measurement
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from waterfill.errors import WaterfillError
from waterfill.files import (
    as_json,
    check_writable,
    descriptor_of,
    make_folder,
    unread,
    write_whole,
)
from waterfill.processes import is_first, launched
from waterfill.seeds import check_seed

err = Console(stderr=True)
out_console = Console()

#: Larger files are neither streams nor weights, and are not read.
_MAX_BYTES = 1 << 30
_STDOUT = 1
#: No table has longer lines.
_WIDEST = 1000


class _Named(click.Path):
    """A path, neither empty nor ``-``. If it is standard output, messages go to stderr."""

    def convert(
        self,
        value: str | os.PathLike[str],
        param: click.Parameter | None,
        ctx: click.Context | None,
    ) -> Any:
        if not os.fspath(value):
            self.fail("a path can't be empty", param, ctx)
        if os.fspath(value) == "-":
            self.fail("- is no file; ./- names one that is called so", param, ctx)
        if descriptor_of(Path(os.fsdecode(value))) == _STDOUT:
            # What is for people goes where progress goes, until the command is done.
            out_console.stderr = True
            if ctx is not None:
                ctx.call_on_close(lambda: setattr(out_console, "stderr", False))
        return super().convert(value, param, ctx)


class _ForPrograms(_Named):
    """A path, or - for standard output."""

    def convert(
        self,
        value: str | os.PathLike[str],
        param: click.Parameter | None,
        ctx: click.Context | None,
    ) -> Any:
        if os.fspath(value) == "-":
            value = "/dev/stdout"
        return super().convert(value, param, ctx)


class _Seed(click.types.IntParamType):
    """What :func:`~waterfill.seeds.check_seed` takes."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        try:
            return check_seed(super().convert(value, param, ctx))
        except WaterfillError as error:
            self.fail(str(error), param, ctx)


PATH = _Named(path_type=Path)
#: For names that may also be of something else, and for globs.
NAME = _Named()
SEED = _Seed()
codec_option = click.option(
    "--codec",
    type=NAME,
    default="default",
    metavar="NAME|FILE",
    help="A codec's name, or a file of its weights. [default, the bundled one]",
)
device_option = click.option(
    "--device", default="cpu", show_default=True, help="Where to compute: cpu, cuda, cuda:1, …"
)
json_option = click.option(
    "--json",
    "json_file",
    type=_ForPrograms(path_type=Path),
    metavar="FILE",
    help="Also write the result as JSON; - for standard output.",
)
shards_option = click.option(
    "--shards",
    type=PATH,
    metavar="DIR",
    help="Folder for rows as Parquet files; a run goes on from there. [under torchrun: OUT/shards]",
)


def shards_folder(shards: Path | None, out: Path) -> Path | None:
    """Where rows go: as asked, beside the results where processes share the work, else nowhere."""
    return out / "shards" if shards is None and launched()[1] > 1 else shards


def only(qualities: tuple[float, ...]) -> float | None:
    """The quality, if just one is asked for: that of weights that don't state theirs."""
    return qualities[0] if len(set(qualities)) == 1 else None


@contextmanager
def progress_bar(*columns: Any) -> Iterator[Progress]:
    """A progress bar on stderr, of the first process; nothing where that is no terminal."""
    with Progress(
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        *columns,
        console=err,
        transient=True,
        disable=not (err.is_terminal and is_first()),  # in a file it would leave empty lines
    ) as bar:
        yield bar


def writable_folder(path: Path, *names: str, json_file: Path | None = None) -> None:
    """Fail before the work, not after it, if results of these names can't be written there.

    ``json_file`` may be the one of them that is JSON, but no other.
    """
    check_apart((path / name for name in names if not name.endswith(".json")), json_file)
    inside = json_file is not None and path.absolute() in json_file.absolute().parents
    if json_file is not None and not inside:  # before there is a folder
        check_writable(json_file)
    make_folder(path)
    check_writable(*(path / name for name in names))
    if json_file is not None and inside:
        check_writable(json_file)


def check_json(json_file: Path | None, folder: Path, *own: Path) -> None:
    """Fail before the work if ``--json`` can't be written, or is one of the work's ``own`` files.

    It may lie in a folder that the work makes.
    """
    check_apart(own, json_file)
    made_later = json_file is not None and json_file.absolute().parent == folder.absolute()
    if json_file is not None and (folder.exists() or not made_later):
        check_writable(json_file)


def check_outputs(source: Path, *targets: Path | None) -> None:
    """Fail before the work if an output can't be written, is the input, or is named twice."""
    given = [target for target in targets if target is not None]
    linked = (to for to in given if to.exists() and source.exists() and to.samefile(source))
    check_apart([source, *linked], *given)
    check_writable(*given)


def check_apart(known: Iterable[Path], *targets: Path | None) -> None:
    """Refuse an output that is one of the known files, or is named twice, through links too."""
    seen = {os.path.realpath(path) for path in known}
    for target in targets:
        if target is None:
            continue
        place = os.path.realpath(target)
        if place in seen:
            raise WaterfillError(f"{target}: is another file of this command; choose another name")
        seen.add(place)


def write_json(path: Path | None, data: dict[str, Any]) -> None:
    """Write ``data`` where ``--json`` asked for it."""
    if path is not None:
        write_whole(path, as_json(data))


def say(text: str) -> None:
    """Print as it is: a file name may look like markup, and must not be broken into lines."""
    out_console.print(text, markup=False, emoji=False, highlight=False, soft_wrap=True)


def say_bold(title: str) -> None:
    """The title of what follows: a table's own would be broken where the table is narrow."""
    out_console.print(
        title, style="bold", markup=False, emoji=False, highlight=False, soft_wrap=True
    )


def say_table(table: Table) -> None:
    """Print a table whole: in a terminal too narrow for it, lines go on below.

    Left to itself it would lose columns there, and digits. Columns that wrap give way first.
    """
    anywhere = out_console.options.update(width=_WIDEST)
    room = Measurement.get(out_console, anywhere, table)
    wraps = any(column.width is None and not column.no_wrap for column in table.columns)
    needed = room.minimum if wraps else room.maximum
    Console(stderr=out_console.stderr, width=max(out_console.width, needed)).print(table)


def check_file(path: Path) -> None:
    """Fail before the work if there is no such file."""
    try:
        _of_file(path)
    except OSError as error:
        raise WaterfillError(unread(path, error)) from None


def _of_file(path: Path) -> os.stat_result:
    about = path.stat()
    if not stat.S_ISREG(about.st_mode):
        raise WaterfillError(f"{path}: is not a file")
    return about


def read_file(path: Path) -> bytes:
    """A whole file, unless it is too large to be one of ours."""
    try:
        about = _of_file(path)
        if about.st_size > _MAX_BYTES:
            raise WaterfillError(f"{path}: too large to be a stream or a codec's weights")
        return path.read_bytes()
    except OSError as error:
        raise WaterfillError(unread(path, error)) from None
