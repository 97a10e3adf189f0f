"""The kernels in a few lines of NumPy: the specification of the native ones, and what runs without a compiler.

`rule` is a `unhot.optimizers.Clock`; its `settle` and `update` are the mathematics.  Results are the same to the last bit
as the native kernels' but where a rule takes a logarithm, an exponential or a power.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from operator import setitem
from typing import TYPE_CHECKING, Any

import numpy as np

from unhot.atomic import Call
from unhot.kernels.plan import Plan
from unhot.kernels.reference_history import matrix_coefficients, matrix_extend, measure_coefficients, measure_extend

if TYPE_CHECKING:
    from unhot.clock import Clock

Array = np.ndarray[Any, np.dtype[Any]]

__all__ = [
    "clocks", "copied", "gather", "gather_settled", "group", "join_openmp", "last_steps", "matrix_coefficients",
    "matrix_extend", "measure_coefficients", "measure_extend", "name", "outside", "pool", "same", "set_threads", "settle",
    "span", "step", "threads",
]  # fmt: skip

name = "numpy"


def threads() -> int:
    """NumPy's take, sort and arithmetic run on the caller's thread."""
    return 1


def set_threads(count: int) -> None:
    """There is nothing to set."""


def join_openmp(region: int) -> None:
    """Let the threads of an OpenMP library do the caller's share of the work: here there is none to give.

    `region` is the address of the library's GOMP_parallel; 0 ends it.
    """


def clocks(rows: int, now: int) -> Array:
    """For each row the step of its last touch, which is `now` for all of them."""
    return np.full(rows, now, np.uint32)


def span(start: int, stop: int) -> Array:
    """The rows from `start` to `stop` (excluded)."""
    return np.arange(start, stop)


def copied(ids: Array) -> Array:
    """Ids of one's own."""
    return ids.copy()


def same(ids: Array, others: Array) -> bool:
    """Whether these are the same flat ids."""
    return np.array_equal(ids, others)


def outside(ids: Array, rows: int) -> int:
    """The position of the first of the flat int64 ids that lies outside [0, rows), or -1."""
    wide = ids.view(np.uint64)  # in which a negative id is larger than any row number
    return int(np.argmax(wide >= rows)) if len(ids) and int(wide.max()) >= rows else -1


def group(ids: Array, last: Array | None = None) -> Plan:
    """The distinct rows among `ids`, and where each occurs, in the order of occurrence.

    `last` is what `last_steps` will be asked for next: kernels may bring it nearer.
    """
    rows, inverse, counts = np.unique(ids, return_inverse=True, return_counts=True)
    starts = np.concatenate([[0], np.cumsum(counts)])
    return Plan(rows, np.argsort(inverse, kind="stable"), starts)


def last_steps(last: Array, rows: Array, now: int) -> tuple[Array, Array]:
    """The distinct steps at which `rows` were last touched, and for each row which of them it is, or -1 if it is `now`."""
    steps, which = np.unique(last[rows], return_inverse=True)
    current = steps == now
    number = np.cumsum(~current) - 1
    return steps[~current].astype(np.int64), np.where(current[which], -1, number[which]).astype(np.int32)


def gather(weights: Array, ids: Array, out: Array) -> None:
    """out[i] = weights[ids[i]]."""
    np.take(weights, ids, axis=0, out=out, mode="clip")


def _settled(rule: Clock, state: list[Array], rows: Array, which: Array, coefficients: Array) -> list[Array]:
    now = [array[rows] for array in state]
    late = which >= 0
    if late.any():
        with np.errstate(all="ignore"):
            new = rule.settle(np, tuple(array[late] for array in now), coefficients[which[late]])
        for array, part in zip(now, new, strict=True):
            array[late] = part
    return now


def gather_settled(rule: Clock, state: list[Array], plan: Plan, which: Array, coefficients: Array, out: Array) -> None:
    """out[i] = the weights that row ids[i] would hold if it were settled; `state` is not written."""
    weights = _settled(rule, state, plan.rows, which, coefficients)[0]
    out[plan.order] = np.repeat(weights, np.diff(plan.starts), axis=0)


def settle(
    rule: Clock, state: list[Array], last: Array, rows: Array, which: Array, coefficients: Array, now: int
) -> list[Call]:
    """What settles the distinct `rows` in place and marks them as touched at `now`."""
    return _stored(state, last, rows, _settled(rule, state, rows, which, coefficients), now)


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
    """What settles the planned rows, makes one step of them with the sum of each row's gradients, and marks them as touched."""
    rows = plan.rows
    state_rows = [array[rows] for array in state] if which is None else _settled(rule, state, rows, which, coefficients)
    with np.errstate(all="ignore"):
        new = rule.update(np, tuple(state_rows), sum_by_row(plan, gradients), scalars)
    return _stored(state, last, rows, new, now)


def _stored(state: list[Array], last: Array | None, rows: Array, new: Sequence[Array], now: int) -> list[Call]:
    """What writes the new state of the rows."""
    calls: list[Call] = [partial(setitem, array, rows, part) for array, part in zip(state, new, strict=True)]
    return calls if last is None else [*calls, partial(setitem, last, rows, now)]


def sum_by_row(plan: Plan, gradients: Array) -> Array:
    """The sum of each distinct row's gradients, in float64 and in the order of occurrence, rounded once."""
    # add.at adds one by one, in order; add.reduceat would add in pairs where a row is short.
    total = np.zeros((len(plan.rows), gradients.shape[1]))
    with np.errstate(all="ignore"):
        np.add.at(total, np.repeat(np.arange(len(plan.rows)), np.diff(plan.starts)), gradients[plan.order].astype(np.float64))
        return total.astype(gradients.dtype)


def pool(values: Array, ids: Array, offsets: Array, weights: Array | None, mode: str, out: Array) -> None:
    """out[b] = the sum, mean or maximum of values[ids[i]] (times weights[i]) over offsets[b] <= i < offsets[b + 1].

    Sums and means are formed in float64 and rounded once; an empty bag is 0.
    """
    out[...] = 0
    counts = np.diff(offsets)
    full = counts > 0
    if not full.any():
        return
    with np.errstate(all="ignore"):
        if mode == "max":
            out[full] = np.maximum.reduceat(values[ids], offsets[:-1][full], axis=0)
            return
        bag = np.repeat(np.arange(len(counts)), counts)
        factors = np.ones(len(ids)) if weights is None else weights
        total, weight = np.zeros(out.shape), np.zeros((len(out), 1))
        np.add.at(total, bag, values[ids].astype(np.float64) * factors[:, None])
        if mode == "mean":
            np.add.at(weight, bag, factors[:, None])
            total[full] /= weight[full]
        out[full] = total[full]
