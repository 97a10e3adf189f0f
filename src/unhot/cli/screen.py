"""Where the commands print to."""

from __future__ import annotations

import os
import sys

from rich.console import Console

PIPED_WIDTH = 100


def console() -> Console:
    """Standard output; of a fixed width and without colours if it is not a terminal."""
    fixed = not sys.stdout.isatty() and "COLUMNS" not in os.environ
    return Console(highlight=False, width=PIPED_WIDTH if fixed else None)
