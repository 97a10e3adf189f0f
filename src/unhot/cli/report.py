"""The comparison as tables on a screen, or in a file."""

from __future__ import annotations

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from unhot.comparison import Agreement, Comparison, Costs, Example, Settings
from unhot.comparison.machine import Machine
from unhot.comparison.results import BUSY, in_bytes, in_seconds, three_digits


def show_machine(out: Console, machine: Machine) -> None:
    """Which kernels are in use, and on what."""
    memory = f", {in_bytes(machine.memory_bytes)}" if machine.memory_bytes else ""
    out.print(f"unhot {machine.unhot}, kernels: [bold]{machine.kernels}[/], threads: {machine.threads}")
    out.print(
        f"{machine.processor}, {machine.cores} cores{memory}; Python {machine.python}, NumPy {machine.numpy}, {machine.blas}"
    )


def show(out: Console, found: Comparison) -> None:
    """Everything, the verdict last."""
    show_example(out, found.example)
    column = found.column
    missing = ""
    if column.missing:
        missing = f", {column.missing:,} of them missing (one id of their own)"
        if column.dropped:
            missing = f", and {column.missing:,} missing ones, which are left out"
    heading(out, "2. A real column: the same results?")
    out.print(
        f"{column.name} of {column.source}: {column.values:,} values{missing}; {column.vocabulary:,} different.", markup=False
    )
    show_agreement(out, found.agreement, found.settings)
    show_costs(out, found)
    out.print()
    if found.holds and found.agreement.conclusive:
        out.print("[bold green]The results agree as far as float32 allows.[/]")
    elif found.holds:
        out.print("[bold yellow]No difference was found, but too little was compared to say that the results agree.[/]")
    else:
        out.print("[bold red]THE RESULTS DISAGREE by more than float32 allows.[/]")


def heading(out: Console, text: str) -> None:
    """The title of a part."""
    out.print()
    out.print(Text(text, style="bold"))


def grid(*columns: str) -> Table:
    """A table whose columns, but for the first, are flush right."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for i, column in enumerate(columns):
        # What is too wide goes on in the next line: the dots that stand for the rest elsewhere are not ASCII.
        table.add_column(column, justify="right" if i else "left", vertical="bottom", overflow="fold")
    return table


def show_example(out: Console, example: Example) -> None:
    """The worked example, step by step."""
    heading(out, "1. The worked example: a one-hot vector times w is a row of w")
    for i, row in enumerate(example.weights):
        out.print(f"{'w =' if i == 0 else '   '} w[{i}] = {numbers(row)}", markup=False)
    out.print(f"ids = {example.ids.tolist()}", markup=False)
    table = grid("id", "one_hot(id)", "one_hot(id) @ w", "read by the table", "same")
    for i, x, product, row in zip(example.ids, example.one_hot, example.product, example.rows, strict=True):
        cells = (f"{i}", numbers(x, 0), numbers(product), f"w[{i}] = {numbers(row)}", mark(bool((product == row).all())))
        table.add_row(*(Text(cell) for cell in cells))
    out.print(table)


def numbers(row: np.ndarray, digits: int = 1) -> str:
    """[0.1, 0.2]"""
    return "[" + ", ".join(f"{x:.{digits}f}" for x in row) + "]"


def mark(good: bool) -> str:
    return "yes" if good else "NO"


def show_agreement(out: Console, agreement: Agreement, settings: Settings) -> None:
    """The largest differences, and what float32 allows."""
    a = agreement
    out.print(f"Optimizer: {settings.optimizer}", markup=False)
    out.print(
        f"Every row is trained towards a random vector of its own (mean squared error) in {a.steps:,} steps of {a.batch:,} ids"
        f" of the column, dim {settings.dim}. A step touches {a.touched:,.0f} rows on average and leaves a third of them out in"
        f" turn: of {a.reached:,} rows touched, {a.returned:,} rested and were touched again. Weights move by up to"
        f" {a.moved:.2g}."
    )
    for name, made, asked in (("steps", a.steps, settings.steps), ("ids in a step", a.batch, settings.batch)):
        if made < asked:
            out.print(f"[yellow]Only {made:,} of {asked:,} {name}, for want of patience or memory.[/]")
    out.print()
    table = grid("largest difference from float64", "table", "one-hot x Dense", "allowed", "within")
    for d in a.differences:
        verdict = Text(mark(d.holds), style="green" if d.holds else "bold red")
        table.add_row(d.quantity, f"{d.table:.2e}", f"{d.dense:.2e}", f"{d.allowance:.2e}", verdict)
    out.print(table)
    out.print(
        "float64: one-hot x Dense in float64, trained by a dense optimizer in plain NumPy that shares no formula with those of"
        " the table. Table and one-hot x Dense are float32. Allowed: twice the difference of one-hot x Dense, plus 4 units in"
        " the last place.",
        style="dim",
    )
    if 2 * a.returned < a.reached:
        out.print(
            "[yellow]Most rows did not rest and come again, so a table that forgets resting rows might not be told from this"
            " one. Make more steps, or have more patience.[/]"
        )
    elif not a.conclusive:
        out.print(
            "[yellow]The allowance is large beside the movement of the weights: float32 training itself is far from float64, so"
            " this says little. Take another learning rate.[/]"
        )


def show_costs(out: Console, found: Comparison) -> None:
    """Time and memory, on the column and by vocabulary; and what did not run."""
    heading(out, "3. What a training step costs (forward, gradient, update)")
    dense, gather = "one-hot\nx Dense", "gather,\ndense opt."
    times = "times\nfaster"
    table = grid(
        "different\nids", f"{dense}\ntime", f"{gather}\ntime", "table\ntime", times, f"{times} than\ngather",
        f"{dense}\nmemory", f"{gather}\nmemory", "table\nmemory",
    )  # fmt: skip
    table.padding = (0, 0)
    table.add_row(*cost_cells(f"{found.costs.vocabulary:,} ({found.column.name})", found.costs), end_section=True)
    for point in found.growth.points:
        table.add_row(*cost_cells(f"{point.vocabulary:,}", point))
    out.print(table)
    out.print(
        "gather, dense opt.: rows are read by their ids, their gradients are put into one of all rows, and the dense optimizer"
        " updates every row, as an embedding layer of PyTorch's or Keras's does with their Adam. Times faster: the table than"
        f" one-hot x Dense. {found.settings.batch:,} ids in a step: drawn from the column in the first line, uniformly below."
        " Times are medians; memory is the peak above that of Python with NumPy and unhot. Each line and route is a process of"
        " its own.",
        style="dim",
    )
    show_troubles(out, (found.costs, *found.growth.points))


def cost_cells(name: str, costs: Costs) -> tuple[str, ...]:
    """A line of the table of costs."""
    routes = costs.dense, costs.gather, costs.table
    return (
        name,
        *("not run" if cost.not_run else in_seconds(cost.seconds) for cost in routes),
        *times_cells(costs),
        *(in_bytes(cost.peak_bytes) for cost in routes),
    )


def times_cells(costs: Costs) -> tuple[str, str]:
    """How much faster the table is than the other routes; with a ? if one of the two times is not to be trusted."""
    dense, gather = (
        "-" if times is None else three_digits(times) + " ?" * (costs.table.doubtful or other.doubtful)
        for times, other in ((costs.times_faster, costs.dense), (costs.times_faster_than_gather, costs.gather))
    )
    return dense, gather


def show_troubles(out: Console, points: tuple[Costs, ...]) -> None:
    """What did not run and why, and whether the machine was quiet."""
    for point in points:
        routes = (("table", point.table), ("gather with a dense optimizer", point.gather), ("one-hot x Dense", point.dense))
        for name, cost in routes:
            if cost.not_run:
                out.print(f"[yellow]{point.vocabulary:,} ids, {name} not run: {cost.not_run}.[/]")
    busy = max(map(busiest, points))
    if busy > BUSY:
        out.print(
            f"[yellow]Other processes kept up to {busy:.1f} CPUs busy meanwhile: the times are too long, most of all those of"
            " one-hot x Dense, since a matrix product on several cores waits for the slowest. Do not trust what is marked ?.[/]"
        )


def busiest(costs: Costs) -> float:
    """The CPUs that other processes kept busy while these costs were measured."""
    return max(cost.others_busy for cost in (costs.table, costs.gather, costs.dense))
