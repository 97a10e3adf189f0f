"""The native kernels, with the signatures of the NumPy ones in `reference`, which say what they do."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from unhot import _native
from unhot.atomic import Call
from unhot.kernels.reference import copied, frozen, joined, span, spread, steps_of
from unhot.kernels.reference_history import BLOCK, HEAD
from unhot.kernels.structs import MODES, Bags, Formula, PendingRows, Plan, Segment, StepNumbers
from unhot.laws import LAWS, Law

Array = np.ndarray[Any, np.dtype[Any]]

__all__ = [
    "copied", "frozen", "group", "join_openmp", "joined", "matrix_coefficients", "matrix_extend", "measure_coefficients",
    "measure_extend", "name", "number_rows", "outside", "parse_lines", "pool", "same", "set_threads", "span", "spread",
    "steps_of", "stores", "threads",
]  # fmt: skip

name = f"native ({_native.isa()})"

NUMBERS = {law: number for number, law in enumerate(law for kind in LAWS for law in kind.variants())}
threads, set_threads, join_openmp = _native.threads, _native.set_threads, _native.join_openmp

number_rows, outside, same = _native.number_rows, _native.outside, _native.same
parse_lines = _native.parse_lines


def group(ids: Array) -> Plan:
    count = len(ids)
    rows, order, starts = np.empty(count, np.int64), np.empty(count, np.int64), np.empty(count + 1, np.int64)
    found = _native.group(ids, rows, order, starts)
    return Plan(rows[:found], order, starts[: found + 1])


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


class NativeStores:
    """The arrays of some tables; see `unhot.kernels.structs.Stores`."""

    def __init__(self, states: Sequence[Sequence[Array]], firsts: Sequence[int], last: Array | None) -> None:
        kind = _native.StoresFloat32 if states[0][0].dtype == np.float32 else _native.StoresFloat64
        self._native = kind([list(state) for state in states], list(firsts), last)
        self._last = last

    def pending(self, ids: Array, now: int) -> tuple[Plan, Array, Array]:
        count = len(ids)
        room, line_of_row = np.empty(4 * count + 1, np.int64), np.empty(count, np.int32)
        found, distinct = self._native.pending(ids, now, room, line_of_row)
        plan = Plan(room[:found], room[2 * count : 3 * count], room[3 * count : 3 * count + found + 1])
        return plan, line_of_row[:found], room[count : count + distinct]

    def last_steps(self, rows: Array, now: int) -> tuple[Array, Array]:
        assert self._last is not None
        steps, line_of_row = np.empty(len(rows), np.int64), np.empty(len(rows), np.int32)
        return line_of_row, steps[: _native.last_steps(self._last, rows, now, steps, line_of_row)]

    def gather(self, ids: Array, segments: Sequence[Segment]) -> None:
        self._native.gather(ids, list(segments))

    def gather_settled(self, formula: Formula, rows: PendingRows, segments: Sequence[Segment]) -> None:
        self._native.gather_settled(_described(formula), *rows.plan, rows.line_of_row, rows.coefficients, list(segments))

    def pool(self, ids: Array, bags: Sequence[Bags]) -> None:
        self._native.pool(ids, list(bags))

    def pool_settled(self, formula: Formula, ids: Array, rows: PendingRows, bags: Sequence[Bags]) -> None:
        described = _described(formula)
        self._native.pool_settled(described, ids, *rows.plan, rows.line_of_row, rows.coefficients, list(bags))

    def settle(self, formula: Formula, rows: PendingRows, now: int) -> list[Call]:
        described = _described(formula)
        return [partial(self._native.settle, described, rows.plan.rows, rows.line_of_row, rows.coefficients, now)]

    def step(
        self, formula: Formula, plan: Plan, pending: PendingRows | None, step: StepNumbers, gradients: Sequence[Segment]
    ) -> list[Call]:
        line_of_row, coefficients = (None, None) if pending is None else pending[1:]
        described = _described(formula)
        call = partial(self._native.step, described, *plan, line_of_row, coefficients, step.now, step.scalars, list(gradients))
        return [call]


stores = NativeStores


def _described(formula: Formula) -> tuple[int, Array, Array | None]:
    """The law by its number, the numbers that all rows share, rounded as the table's, and the array that they share."""
    if formula.of_kernels is None:
        formula.of_kernels = _made_of(formula.law, formula.shared)
    described: tuple[int, Array, Array | None] = formula.of_kernels
    return described


def _made_of(law: Law, shared: Any) -> tuple[int, Array, Array | None]:
    table = None if law.parameters == len(shared) else shared[law.parameters]
    return NUMBERS[law], np.array(shared[: law.parameters], dtype=np.float64), table


def pool(values: Array, ids: Array, offsets: Array, weights: Array | None, mode: str, out: Array) -> None:
    _native.pool(values, ids, offsets, weights, MODES[mode], out)
