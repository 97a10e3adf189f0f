"""The kernels in a few lines of NumPy: the specification of the native ones, and what runs without a compiler.

Results are the same to the last bit as the native kernels' but where a law takes a logarithm, an exponential or a power.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from operator import setitem
from typing import Any

import numpy as np

from unhot import arrays
from unhot.atomic import Call
from unhot.kernels.reference_history import matrix_coefficients, matrix_extend, measure_coefficients, measure_extend
from unhot.kernels.reference_text import parse_lines
from unhot.kernels.structs import ANY, MODES, Bags, Formula, PendingRows, Plan, Segment, StepNumbers

Array = np.ndarray[Any, np.dtype[Any]]

__all__ = [
    "copied", "frozen", "group", "join_openmp", "joined", "matrix_coefficients", "matrix_extend", "measure_coefficients",
    "measure_extend", "name", "number_rows", "outside", "parse_lines", "pool", "same", "set_threads", "span", "spread",
    "steps_of", "stores", "threads",
]  # fmt: skip

name = "numpy"

frozen = 0xFFFFFFFF
"""The step of the last touch of frozen rows."""


def threads() -> int:
    """NumPy's take, sort and arithmetic run on the caller's thread."""
    return 1


def set_threads(count: int) -> None:
    """There is nothing to set."""


def join_openmp(region: int) -> None:
    """Let the threads of an OpenMP library do the caller's share of the work: here there is none to give.

    `region` is the address of the library's GOMP_parallel; 0 ends it.
    """


def steps_of(rows: int) -> Array:
    """For each row the step of its last touch, 0; only those that are written take memory."""
    return arrays.reserved((rows,), np.dtype(np.uint32))


def span(start: int, stop: int) -> Array:
    """The rows from `start` to `stop` (excluded)."""
    return np.arange(start, stop)


def spread(start: int, stop: int, length: int, stride: int) -> Array:
    """The rows in [0, stop) of which `length` follow each other from `start` on, and from each `stride` rows further on."""
    rows = (np.arange(start, stop, stride)[:, None] + np.arange(length)).reshape(-1)
    return rows[max(0, -start) : len(rows) - max(0, int(rows[-1]) + 1 - stop)]


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


def number_rows(ids: Array, counts: Sequence[int], rows: Sequence[int], firsts: Sequence[int]) -> int:
    """Make rows of all tables, in place, of the ids of each table in turn; the position of the first bad id, or -1."""
    begin = 0
    for count, most, first in zip(counts, rows, firsts, strict=True):
        own = ids[begin : begin + count]
        bad = outside(own, most)
        if bad >= 0:
            return begin + bad
        own += first
        begin += count
    return -1


def joined(ids: Sequence[Array]) -> Array:
    """The ids one after the other."""
    return ids[0] if len(ids) == 1 else np.concatenate([np.empty(0, np.int64), *ids])


def group(ids: Array) -> Plan:
    """The distinct rows among `ids`, and where each occurs, in the order of occurrence."""
    rows, inverse, counts = np.unique(ids, return_inverse=True, return_counts=True)
    starts = np.concatenate([[0], np.cumsum(counts)])
    return Plan(rows, np.argsort(inverse, kind="stable"), starts)


class NumpyStores:
    """The arrays of some tables; see `unhot.kernels.structs.Stores`, which says what each method does."""

    def __init__(self, states: Sequence[Sequence[Array]], firsts: Sequence[int], last: Array | None) -> None:
        self.states, self.firsts, self.last = states, firsts, last

    def pending(self, ids: Array, now: int) -> tuple[Plan, Array, Array]:
        plan = group(ids)
        return (plan, *self.last_steps(plan.rows, now))

    def last_steps(self, rows: Array, now: int) -> tuple[Array, Array]:
        assert self.last is not None
        steps, which = np.unique(self.last[rows], return_inverse=True)
        current = (steps == now) | (steps == frozen)
        number = np.cumsum(~current) - 1
        return np.where(current[which], -1, number[which]).astype(np.int32), steps[~current].astype(np.int64)

    def gather(self, ids: Array, segments: Sequence[Segment]) -> None:
        start = 0
        for store, out, *_ in segments:
            given = ids[start : start + len(out)]
            for place, mask in self._of(given) if store == ANY else [(store, slice(None))]:
                out[mask] = self.states[place][0][given[mask] - self.firsts[place]]
            start += len(out)

    def gather_settled(self, formula: Formula, rows: PendingRows, segments: Sequence[Segment]) -> None:
        place = np.empty(len(rows.plan.order), np.int64)  # of each id's row among the distinct ones
        place[rows.plan.order] = np.repeat(np.arange(len(rows.plan.rows)), np.diff(rows.plan.starts))
        by_store = {store: (mask, self._settled(formula, store, mask, rows)[0]) for store, mask in self._of(rows.plan.rows)}
        start = 0
        for store, out, *_ in segments:
            own = place[start : start + len(out)]
            for number, (mask, weights) in by_store.items():
                of_store = mask[own] if store == ANY else slice(None)
                if len(out) and store in (ANY, number):
                    out[of_store] = weights[(np.cumsum(mask) - 1)[own[of_store]]]
            start += len(out)

    def pool(self, ids: Array, bags: Sequence[Bags]) -> None:
        rows = np.zeros((len(ids), max((part.vectors.shape[1] for part in bags), default=0)), self.states[0][0].dtype)
        self.gather(ids, [Segment(part.store, _of_bags(rows, part)) for part in bags])
        _pooled(rows, bags)

    def pool_settled(self, formula: Formula, ids: Array, rows: PendingRows, bags: Sequence[Bags]) -> None:
        found = np.zeros((len(ids), max((part.vectors.shape[1] for part in bags), default=0)), self.states[0][0].dtype)
        self.gather_settled(formula, rows, [Segment(part.store, _of_bags(found, part)) for part in bags])
        _pooled(found, bags)

    def settle(self, formula: Formula, rows: PendingRows, now: int) -> list[Call]:
        calls: list[Call] = []
        for store, mask in self._of(rows.plan.rows):
            calls += self._stored(store, rows.plan.rows[mask], self._settled(formula, store, mask, rows), now)
        return calls

    def step(
        self, formula: Formula, plan: Plan, pending: PendingRows | None, step: StepNumbers, gradients: Sequence[Segment]
    ) -> list[Call]:
        calls: list[Call] = []
        scalars = formula.law.Scalars(*step.scalars)
        for store, mask in self._of(plan.rows):
            rows = plan.rows[mask]
            if pending is None:
                state = [array[rows - self.firsts[store]] for array in self.states[store]]
            else:
                state = self._settled(formula, store, mask, pending)
            with np.errstate(all="ignore"):
                total = sum_by_row(plan, mask, store, gradients)
                new = formula.law.update(np, tuple(state), total, scalars, formula.shared)
            calls += self._stored(store, rows, new, step.now)
        return calls

    def _of(self, rows: Array) -> Iterator[tuple[int, Array]]:
        """Each store that has some of the rows, with the mask of those."""
        for store, (state, first) in enumerate(zip(self.states, self.firsts, strict=True)):
            mask = (rows >= first) & (rows < first + len(state[0]))
            if mask.any():
                yield store, mask

    def _settled(self, formula: Formula, store: int, mask: Array, rows: PendingRows) -> list[Array]:
        """The state of a store's rows among the pending ones, carried to now."""
        local = rows.plan.rows[mask] - self.firsts[store]
        state = [array[local] for array in self.states[store]]
        line = rows.line_of_row[mask]
        deferred = line >= 0
        if deferred.any():
            law, columns = formula.law, formula.law.columns(rows.coefficients[line[deferred]])
            with np.errstate(all="ignore"):
                new = law.settle(np, tuple(array[deferred] for array in state), columns, formula.shared)
            for array, part in zip(state, new, strict=True):
                array[deferred] = part
        return state

    def _stored(self, store: int, rows: Array, new: Sequence[Array], now: int) -> list[Call]:
        """What writes the new state of the rows."""
        if self.last is not None and (self.last[rows] == frozen).any():
            moving = self.last[rows] != frozen
            rows, new = rows[moving], [array[moving] for array in new]
        local, state = rows - self.firsts[store], self.states[store]
        calls: list[Call] = [partial(setitem, array, local, part) for array, part in zip(state, new, strict=True)]
        return calls if self.last is None else [*calls, partial(setitem, self.last, rows, now)]


stores = NumpyStores


def _of_bags(rows: Array, bags: Bags) -> Array:
    """The part of the rows, one for each of all ids, that the bags are made of."""
    return rows[bags.starts[0] : bags.starts[-1], : bags.vectors.shape[1]]


def _pooled(rows: Array, bags: Sequence[Bags]) -> None:
    """Pool the rows of all ids."""
    for part in bags:
        own = slice(part.starts[0], part.starts[-1])
        places, starts = np.arange(part.starts[-1] - part.starts[0]), part.starts - part.starts[0]
        out = np.empty(part.vectors.shape, rows.dtype)
        mode = next(name for name, number in MODES.items() if number == part.mode)
        pool(_of_bags(rows, part), places, starts, None if part.factors is None else part.factors[own], mode, out)
        part.vectors[...] = out


def sum_by_row(plan: Plan, mask: Array, store: int, gradients: Sequence[Segment]) -> Array:
    """The sum of each masked row's gradients, in float64 and in the order of occurrence, rounded once."""
    row_of_place = np.empty(len(plan.order), np.int64)
    row_of_place[plan.order] = np.repeat(np.where(mask, np.cumsum(mask) - 1, -1), np.diff(plan.starts))
    of_store = [part.vectors for part in gradients if part.store in (store, ANY)]
    total = np.zeros((int(mask.sum()), of_store[0].shape[1]))
    start = 0
    for part in gradients:
        count = len(part.vectors if part.bags is None else part.bags)
        if part.store in (store, ANY):
            values = (part.vectors if part.bags is None else part.vectors[part.bags]).astype(np.float64)
            if part.factors is not None:
                values *= part.factors[:, None]
            # add.at adds one by one, in order; add.reduceat would add in pairs where a row is short.
            rows = row_of_place[start : start + count]
            np.add.at(total, rows[rows >= 0], values[rows >= 0])
        start += count
    return total.astype(of_store[0].dtype)


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
