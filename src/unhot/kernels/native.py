"""The native kernels, with the signatures of the NumPy ones in `reference`, which say what they do."""

from __future__ import annotations

from typing import Any

import numpy as np

from unhot import _native
from unhot.deferral import BLOCK, MatrixHistory
from unhot.kernels.plan import Plan
from unhot.rules import Recurrence
from unhot.step_measure import MeasureHistory

Array = np.ndarray[Any, np.dtype[Any]]

name = f"native ({_native.isa()})"

FAMILIES = {"linear": 0, "measure": 1, "crossing": 2, "sign": 3, "closed_form": 4}
threads, set_threads = _native.threads, _native.set_threads

MODES = {"sum": 0, "mean": 1, "max": 2}


def group(ids: Array) -> Plan:
    count = len(ids)
    rows, order, starts = np.empty(count, np.int64), np.empty(count, np.int64), np.empty(count + 1, np.int64)
    found = _native.group(ids, rows, order, starts)
    return Plan(rows[:found], order, starts[: found + 1])


def last_steps(last: Array, rows: Array, now: int) -> tuple[Array, Array]:
    steps, which = np.empty(len(rows), np.int64), np.empty(len(rows), np.int32)
    return steps[: _native.last_steps(last, rows, now, steps, which)], which


def coefficients(rule: Recurrence, steps: Array) -> Array:
    history = getattr(rule, "history", None)
    if rule.family == "linear" and isinstance(history, MatrixHistory):
        out = np.empty((len(steps), 8), rule.dtype)
        _native.matrix_coefficients(BLOCK, history.entry, history.suffix, steps, out)
        return out
    if rule.family == "measure" and isinstance(history, MeasureHistory):
        _, panels, width = history.polynomial.shape
        out = np.empty((len(steps), 7 + panels * width), rule.dtype)
        _native.measure_coefficients(
            BLOCK, history.scale, history.suffix, history.polynomial, history.used, steps, out
        )
        return out
    return rule.coefficients(steps)


def gather(weights: Array, ids: Array, out: Array) -> None:
    _native.gather(weights, ids, out)


def _described(rule: Recurrence) -> tuple[int, int, Array, Array | None]:
    return FAMILIES[rule.family], rule.variant, np.array(rule.parameters(), dtype=np.float64), rule.table()


def gather_settled(
    rule: Recurrence, state: list[Array], plan: Plan, which: Array, coefficients: Array, out: Array
) -> None:
    _native.gather_settled(_described(rule), state[0], state[1:], *plan, which, coefficients, out)


def settle(
    rule: Recurrence, state: list[Array], last: Array, rows: Array, which: Array, coefficients: Array, now: int
) -> None:
    _native.settle(_described(rule), state[0], state[1:], last, rows, which, coefficients, now)


def step(
    rule: Recurrence,
    state: list[Array],
    last: Array | None,
    plan: Plan,
    which: Array | None,
    coefficients: Array,
    scalars: Array,
    gradients: Array,
    now: int,
) -> None:
    described = _described(rule)
    _native.step(described, state[0], state[1:], last, *plan, which, coefficients, now, scalars, gradients)


def pool(values: Array, ids: Array, offsets: Array, weights: Array | None, mode: str, out: Array) -> None:
    _native.pool(values, ids, offsets, weights, MODES[mode], out)
