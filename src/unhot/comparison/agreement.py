"""Checks that one-hot x Dense and the table give the same vectors, gradients and trained weights, as far as float32 allows."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from unhot import memory
from unhot.comparison import task
from unhot.comparison.batches import Batches
from unhot.comparison.dense import Dense
from unhot.comparison.results import Agreement, Difference
from unhot.creation import initial_weights
from unhot.optimizers import SGD, Optimizer
from unhot.table import Table

Array = npt.NDArray[Any]

LEAST = 6
"""Steps made whatever `patience` is: by the sixth, all rows that have rested have come again, unless there are many of them."""

ONE_HOT = 1 << 26
"""The most elements of a one-hot matrix: half a GiB in float64. A smaller batch says more in the same time."""


class Differences:
    """The largest distances of one quantity from float64 so far."""

    def __init__(self, quantity: str) -> None:
        self.quantity = quantity
        self.table = self.dense = self.size = 0.0

    def see(self, table: Array, dense: Array, exact: Array) -> None:
        """Compare what the table, dense float32 and dense float64 hold. A NaN stays."""
        if not exact.size:
            return
        self.table = float(np.maximum(self.table, np.abs(table - exact).max()))
        self.dense = float(np.maximum(self.dense, np.abs(dense - exact).max()))
        self.size = max(self.size, float(np.abs(exact).max()))

    def result(self) -> Difference:
        """The differences, with the allowance."""
        return Difference(self.quantity, self.table, self.dense, float(np.spacing(np.float32(self.size))))


def summed(ids: Array, grads: Array, rows: int) -> Array:
    """The gradient of all rows as a table forms it: a table of zeros after one step of SGD with rate 1, negated."""
    table = Table(rows, grads.shape[1], optimizer=SGD(1.0), init="zeros", dtype=grads.dtype)
    table.step(ids, grads)
    return -table.array


@np.errstate(over="ignore", invalid="ignore")
def measure_agreement(
    ids: npt.NDArray[np.int64],
    rows: int,
    dim: int,
    optimizer: Optimizer,
    *,
    batch: int = 1024,
    steps: int = 200,
    patience: float = 20.0,
    seed: int = 0,
    table: Table | None = None,
    done: Callable[[float], None] = lambda fraction: None,
) -> Agreement:
    """Train the table and one-hot x Dense, in float32 and in float64, side by side. Each uses only what it reads itself.

    Args:
        ids: the column, with ids in [0, rows). `Batches` makes batches of it.
        rows, dim: the shape of the table.
        optimizer: the optimizer of all three.
        batch, steps, patience, seed: as for `unhot.compare`.
        table: the table to check in place of one trained by `optimizer`. It must be new, with the same `seed`.
        done: called after each step with the fraction done.

    Raises: what `Table` raises; ValueError if training diverges.

    Example:
        >>> import numpy as np, unhot
        >>> from unhot.comparison.agreement import measure_agreement
        >>> measure_agreement(np.arange(50) % 7, 7, 2, unhot.Adam(), batch=4, steps=20).holds
        True
    """
    start = initial_weights("uniform", (rows, dim), np.dtype(np.float32), np.random.default_rng(seed))
    if table is None:
        table = Table.from_array(start, optimizer=optimizer)
    dense, exact = Dense(start.copy(), optimizer), Dense(start.astype(np.float64), optimizer)
    batch = _affordable(batch, rows)
    wanted, batches = task.targets(rows, dim, seed), Batches(ids, rows, batch, seed)
    forward, gradient, weights = (Differences(name) for name in ("forward", "gradient", "weights"))
    begun, step, touched = time.monotonic(), 0, 0
    while step < steps and (step < LEAST or time.monotonic() - begun < patience):
        chosen = batches.next()
        target = wanted[chosen]
        vectors = table[chosen], dense.forward(chosen), exact.forward(chosen)
        forward.see(*vectors)
        g_table, g_dense, g_exact = (task.gradients(y, target) for y in vectors)
        by_dense, by_exact = dense.gradient(g_dense), exact.gradient(g_exact)
        gradient.see(summed(chosen, g_table, rows), by_dense, by_exact)
        table.step(chosen, g_table)
        dense.step(by_dense)
        exact.step(by_exact)
        touched += len(np.unique(chosen))
        step += 1
        done(step / steps)
    if not np.isfinite(exact.weights).all():
        raise ValueError(f"float64 training itself diverges, so there is nothing to compare. Lower the rate of {optimizer!r}.")
    weights.see(table.array, dense.weights, exact.weights)
    moved = float(np.abs(exact.weights - start).max())
    returned = int(np.count_nonzero(batches.returned))
    found = forward.result(), gradient.result(), weights.result()
    return Agreement(*found, step, batch, touched / step, moved, batches.reached, returned)


def _affordable(batch: int, rows: int) -> int:
    """The batch, or as much of it as has a float64 one-hot matrix of a bearable size: in a quarter of the memory available."""
    free = memory.available()
    elements = ONE_HOT if free is None else min(ONE_HOT, free // 4 // 8)
    return max(1, min(batch, elements // rows))
