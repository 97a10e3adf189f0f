"""The native kernels, with the signatures of the NumPy ones in `reference`, which say what they do."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from unhot import _native
from unhot.atomic import Call
from unhot.kernels.plan import Plan
from unhot.kernels.reference import clocks, copied, span
from unhot.kernels.reference_history import BLOCK, HEAD
from unhot.laws import LAWS

if TYPE_CHECKING:
    from unhot.clock import Clock

Array = np.ndarray[Any, np.dtype[Any]]

__all__ = [
    "clocks", "copied", "gather", "gather_settled", "group", "join_openmp", "last_steps", "matrix_coefficients",
    "matrix_extend", "measure_coefficients", "measure_extend", "name", "outside", "pool", "same", "set_threads", "settle",
    "span", "step", "threads",
]  # fmt: skip

name = f"native ({_native.isa()})"

NUMBERS = {law: number for number, law in enumerate(law for kind in LAWS for law in kind.variants())}
threads, set_threads, join_openmp = _native.threads, _native.set_threads, _native.join_openmp

MODES = {"sum": 0, "mean": 1, "max": 2}

outside, same = _native.outside, _native.same


def group(ids: Array, last: Array | None = None) -> Plan:
    count = len(ids)
    rows, order, starts = np.empty(count, np.int64), np.empty(count, np.int64), np.empty(count + 1, np.int64)
    found = _native.group(ids, last, rows, order, starts)
    return Plan(rows[:found], order, starts[: found + 1])


def last_steps(last: Array, rows: Array, now: int) -> tuple[Array, Array]:
    steps, which = np.empty(len(rows), np.int64), np.empty(len(rows), np.int32)
    return steps[: _native.last_steps(last, rows, now, steps, which)], which


def matrix_extend(entries: Array, matrix: Array, average: float) -> Call:
    return partial(_native.matrix_extend, entries, matrix, average)


def measure_extend(*arguments: Any) -> list[Call]:
    return [partial(_native.measure_extend, *arguments)]


def matrix_coefficients(entry: Array, suffix: Array, steps: Array, dtype: np.dtype[Any]) -> Array:
    out = np.empty((len(steps), 8), dtype)
    _native.matrix_coefficients(BLOCK, entry, suffix, steps, out)
    return out


def measure_coefficients(
    scale: Array, suffix: Array, polynomial: Array, used: Array, steps: Array, dtype: np.dtype[Any]
) -> Array:
    out = np.empty((len(steps), HEAD + polynomial.shape[1] * polynomial.shape[2]), dtype)
    _native.measure_coefficients(BLOCK, scale, suffix, polynomial, used, steps, out)
    return out


def gather(weights: Array, ids: Array, out: Array) -> None:
    _native.gather(weights, ids, out)


def _described(rule: Clock) -> tuple[int, Array, Array | None]:
    """The law by its number, the numbers that all rows share, rounded as the table's, and the array that they share."""
    law, shared = rule.law, rule.shared()
    table = None if law.parameters == len(shared) else shared[law.parameters]
    return NUMBERS[law], np.array(shared[: law.parameters], dtype=np.float64), table


def gather_settled(rule: Clock, state: list[Array], plan: Plan, which: Array, coefficients: Array, out: Array) -> None:
    _native.gather_settled(_described(rule), state[0], state[1:], *plan, which, coefficients, out)


def settle(
    rule: Clock, state: list[Array], last: Array, rows: Array, which: Array, coefficients: Array, now: int
) -> list[Call]:
    return [partial(_native.settle, _described(rule), state[0], state[1:], last, rows, which, coefficients, now)]


def step(
    rule: Clock,
    state: list[Array],
    last: Array | None,
    plan: Plan,
    which: Array | None,
    coefficients: Array,
    scalars: Array,
    gradients: Array,
    now: int,
) -> list[Call]:
    described = _described(rule)
    return [partial(_native.step, described, state[0], state[1:], last, *plan, which, coefficients, now, scalars, gradients)]


def pool(values: Array, ids: Array, offsets: Array, weights: Array | None, mode: str, out: Array) -> None:
    _native.pool(values, ids, offsets, weights, MODES[mode], out)
