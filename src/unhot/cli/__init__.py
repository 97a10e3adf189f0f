"""The command `unhot`."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command; without its packages, name them."""
    try:
        from unhot.cli.command import app
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("unhot"):
            raise
        sys.exit(f'the command `unhot` needs {error.name}, which is not installed: pip install "unhot[compare]"')
    app()
