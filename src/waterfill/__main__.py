"""``python -m waterfill``: the command line without an installed script."""

import sys


def main() -> None:
    """Entry point: from the first moment, Ctrl-C is a line and not a traceback."""
    try:
        from waterfill.cli import main as command_line
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
    command_line()


if __name__ == "__main__":
    main()
