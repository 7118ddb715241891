"""The command line: thin. Each command reads its arguments, calls one function, and prints."""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

import click

from waterfill import __version__
from waterfill.allocator import keep_large_blocks
from waterfill.errors import Interrupted, WaterfillError
from waterfill.processes import leave

__all__ = ["app", "main"]

# OpenMP threads that wait by spinning take the processor from those they wait for; on a machine
# that others use too, a step then takes five times as long. To be set before torch is loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from waterfill.cli import bounds, coding, evaluate, limits, reproduce, training


def _terminate(number: int, _: Any) -> None:
    """What is under way ends as by Ctrl-C, and keeps what it has."""
    raise Interrupted(number)


_NO_MEMORY = "not enough memory"


def main() -> None:
    """Entry point: turns every expected failure into one line and exit code 2."""
    keep_large_blocks()
    signal.signal(signal.SIGTERM, _terminate)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # file names hold what the terminal may not know
            stream.reconfigure(errors="backslashreplace")
    code = run(sys.argv[1:])
    try:
        sys.stdout.flush()
    except OSError as error:
        if not code:
            print(f"error: {error.strerror}", file=sys.stderr)
        # The interpreter would try again as it ends: let that go nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 2
    leave(code)


def run(arguments: list[str]) -> int:
    """Run a command line and return its exit code."""
    try:
        code = app.main(arguments or ["--help"], prog_name="waterfill", standalone_mode=False)
        return code if isinstance(code, int) else 0
    except click.exceptions.NoArgsIsHelpError as error:  # of a group without its command
        click.echo(error.format_message())
        return 0
    except click.ClickException as error:
        message = error.format_message()
    except WaterfillError as error:
        message = str(error)
    except MemoryError:
        message = _NO_MEMORY
    except OSError as error:
        where = (
            f"{os.fsdecode(error.filename)}: " if isinstance(error.filename, str | bytes) else ""
        )
        message = where + (error.strerror or str(error))
    except (KeyboardInterrupt, click.Abort) as error:
        print("interrupted", file=sys.stderr)
        cause = error.__cause__  # of click's own, what it made it of
        return cause.exit_code if isinstance(cause, Interrupted) else 130
    except RuntimeError as error:
        if "allocate memory" not in str(error) and "out of memory" not in str(error):
            raise
        message = _NO_MEMORY
    print("error: " + " ".join(message.split()), file=sys.stderr)
    return 2


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
def app() -> None:
    """How far is an image codec from the rate-distortion limit, and what holds it back?"""


app.add_command(limits.limits)
app.add_command(evaluate.evaluate)
app.add_command(bounds.bounds)
app.add_command(coding.compress)
app.add_command(coding.decompress)
app.add_command(coding.info)
app.add_command(reproduce.reproduce)
app.add_command(training.train)
app.add_command(training.data)
