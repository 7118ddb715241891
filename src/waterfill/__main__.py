"""``python -m waterfill``: the command line without an installed script."""

from waterfill.cli import main

main()
