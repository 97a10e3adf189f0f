"""The command `unhot`: what runs first, and needs no extra."""

from __future__ import annotations

import argparse
import platform
import sys
from collections.abc import Callable

import numpy as np

import unhot
from unhot import extras


def main() -> None:
    """Run the command.  What shows itself needs no other package than NumPy; the others name those that they lack."""
    arguments = sys.argv[1:]
    if arguments[:1] == ["compare"]:
        app = _comparison()
        app()
        return
    if arguments[:1] in (["info"], ["convert"]):
        app = _files(arguments[0])
        app()
        return
    parser = argparse.ArgumentParser(prog="unhot", description=unhot.__doc__)
    parser.add_argument("--version", action="store_true", help="show the version, with what a report of a fault should name")
    commands = parser.add_subparsers(title="commands", metavar="command")
    commands.add_parser("compare", add_help=False, help="one-hot x Dense against the table, on a column of ids of your own")
    commands.add_parser("info", add_help=False, help="what is in a file of a table or of vectors")
    commands.add_parser("convert", add_help=False, help="vectors from one format to another: word2vec, GloVe, Parquet and more")
    if parser.parse_args(arguments).version:
        print(version())
    else:
        parser.print_help()


def version() -> str:
    """The version of unhot, with what a report of a fault should name.

    Example:
        >>> from unhot.cli import version
        >>> version().startswith("unhot 0.")
        True
    """
    below = f"NumPy {np.__version__}, Python {platform.python_version()}, {platform.system()} {platform.machine()}"
    return f"unhot {unhot.__version__} (kernels: {unhot.kernels.name}; {below})"


def _comparison() -> Callable[[], None]:
    """The command `unhot compare`; without its packages, the process ends and names them."""
    try:
        from unhot.cli.command import app
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("unhot"):
            raise
        sys.exit(str(extras.missing("`unhot compare`", "compare", error)))
    return app


def _files(command: str) -> Callable[[], None]:
    """The commands `unhot info` and `unhot convert`."""
    try:
        from unhot.cli.files import app
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("unhot"):
            raise
        sys.exit(str(extras.missing(f"`unhot {command}`", "cli", error)))
    return app
