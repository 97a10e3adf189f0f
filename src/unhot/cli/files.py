"""`unhot info` and `unhot convert`: what is in a file of vectors or of a table, and from one format to another."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, cast

import typer
from rich import box
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from unhot.cli.screen import console
from unhot.formats.base import Duplicates, Errors, Wording
from unhot.formats.registry import FORMATS, format_of
from unhot.formats.text import labels_path
from unhot.formats.vectors import convert
from unhot.storage.describe import Described, describe

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)

READING = Wording("format", command_line=True)
CONVERTING = Wording("from", "to", command_line=True)

NAMES = ", ".join(FORMATS)


@app.callback()
def unhot() -> None:
    """An embedding table that trains exactly like one-hot x Dense, at the cost of the rows touched."""


@contextmanager
def errors() -> Iterator[None]:
    """Errors as a line on standard error, and the exit code 2."""
    try:
        yield
    except (OSError, ValueError, TypeError, ImportError, MemoryError) as error:
        Console(stderr=True, highlight=False).print(f"error: {error}", markup=False, soft_wrap=True)
        raise typer.Exit(2) from error


@app.command("info")
def info(
    file: Annotated[Path, typer.Argument(help="A table's file, or one of vectors.")],
    format_: Annotated[str | None, typer.Option("--format", help=f"{NAMES}; by default as the file's name says.")] = None,
    dim: Annotated[int | None, typer.Option(help="For GloVe's format, if the first key contains spaces.")] = None,
) -> None:
    """What is in a file: format, rows, dim, dtype; of a table, optimizer, steps and arrays, too. Nothing large is read."""
    with errors():
        show(console(), describe(file, format_, dim, READING))


def show(out: Console, found: Described) -> None:
    """The facts, one in a line, and a table's arrays."""
    width = max(map(len, found.facts))
    for name, fact in found.facts.items():
        out.print(f"{name:<{width}}  {fact}", markup=False, soft_wrap=True)
    if found.arrays:
        table = Table("array", "dtype", "shape", "bytes", box=box.SIMPLE_HEAD, pad_edge=False)
        table.columns[-1].justify = "right"
        for array in found.arrays:
            table.add_row(array.name, array.dtype, " x ".join(f"{size:,}" for size in array.shape), f"{array.size:,}")
        out.print(table)


@app.command("convert")
def convert_command(
    source: Annotated[Path, typer.Argument(help="The file to read.")],
    target: Annotated[Path, typer.Argument(help="The file to write; one that is there is replaced once all is written.")],
    from_: Annotated[str | None, typer.Option("--from", help=f"{NAMES}; by default as the file's name says.")] = None,
    to: Annotated[str | None, typer.Option(help="The same, for the file to write.")] = None,
    encoding_errors: Annotated[
        str, typer.Option("--errors", help="For keys that are not UTF-8: strict (an error), replace or ignore.")
    ] = "strict",
    duplicates: Annotated[
        str, typer.Option(help="For a key that occurs again: raise (an error), first (leave out later ones) or keep.")
    ] = "raise",
    dim: Annotated[int | None, typer.Option(help="For GloVe's format, if the first key contains spaces.")] = None,
    dtype: Annotated[str, typer.Option(help="What numbers in text become: float32 or float64.")] = "float32",
) -> None:
    """From one format to another, piece by piece: vectors are never in memory all at once."""
    screen = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f} %"), TimeElapsedColumn(),
        TimeRemainingColumn(),
    )  # fmt: skip
    with errors():
        formats = [
            format_of(os.fspath(source), from_, CONVERTING, reading=True),
            format_of(os.fspath(target), to, CONVERTING, reading=False),
        ]
        named = " to ".join(formats)
        with Progress(*columns, console=screen, transient=True, disable=not screen.is_terminal) as bar:
            task = bar.add_task(named, total=1.0)

            def show_progress(part: float, done: int) -> None:
                bar.update(task, completed=part, description=f"{named}, {done:,} rows")

            rows = convert(
                source, target, source_format=from_, target_format=to, errors=cast("Errors", encoding_errors),
                duplicates=cast("Duplicates", duplicates), dim=dim, dtype=dtype, progress=show_progress,
                wording=CONVERTING,
            )  # fmt: skip  # `convert` checks what they are
        written = [os.fspath(target), labels_path(os.fspath(target))][: 2 if formats[1] == "projector" else 1]
        console().print(f"{rows:,} rows: {' and '.join(written)}", markup=False, soft_wrap=True)
