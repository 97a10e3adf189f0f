"""Training several copies of one table on a stream, and the comparison that decides whether they agree.

**What "exact" means** (design.md): a settled float32 table is no further from dense float64 training than twice the
distance of dense float32 training, plus 4 units in the last place; a float64 table agrees with dense float64 to 1e-9
relative.  Read here as follows.

* The *size* of an element is the largest of |w| and |w - w_0|, its weight and its movement since the start, that the
  float64 reference has held so far: every float32 training has rounded at that size.
* The *distance* of a float32 table is the largest |w - reference| over all elements, each in units in the last place of its
  size.  A table conforms if  distance(unhot) <= 2 distance(dense float32) + 4.
* A float64 table conforms if  |w - reference| <= 1e-9 size  for every element.

Dense float32 training gets the same initial weights and gradients; the sum of a repeated id's gradients is formed in float64
and rounded once, for both float32 copies.  The bounds are those of design.md; nothing in them was fitted to results.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np

import unhot

from .dense import Array, Dense
from .registry import Rule
from .streams import Step, Stream

FACTOR = 2.0
UNITS = 4.0
RELATIVE = 1e-9


class Copy(Protocol):
    """One trained copy of the table."""

    def lookup(self, ids: Array) -> Array: ...

    def step(self, ids: Array, gradients: Array) -> None: ...

    def assign(self, hyper: dict[str, Any]) -> None: ...

    def weights(self) -> Array: ...


class UnhotCopy:
    """The table under test.  Every third step comes in two parts; every other `weights` settles, the others only look."""

    def __init__(self, table: unhot.Table) -> None:
        self.table = table
        self.steps = self.looks = 0

    def lookup(self, ids: Array) -> Array:
        return self.table.lookup(ids)

    def step(self, ids: Array, gradients: Array) -> None:
        gradients = gradients.astype(self.table.dtype)
        self.steps += 1
        if self.steps % 3 == 0 and len(ids):
            self.table.accumulate(ids[:1], gradients[:1])
            ids, gradients = ids[1:], gradients[1:]
        self.table.step(ids, gradients)

    def assign(self, hyper: dict[str, Any]) -> None:
        for name, value in hyper.items():
            setattr(self.table.optimizer, name, value)

    def weights(self) -> Array:
        self.looks += 1
        return self.table.array if self.looks % 2 == 0 else self.table.lookup(np.arange(self.table.rows))


class DenseCopy:
    """A dense parameter in NumPy."""

    def __init__(self, dense: Dense) -> None:
        self.dense = dense

    def lookup(self, ids: Array) -> Array:
        return self.dense.w[ids]

    def step(self, ids: Array, gradients: Array) -> None:
        self.dense.step(dense_gradient(self.dense.w, ids, gradients))

    def assign(self, hyper: dict[str, Any]) -> None:
        vars(self.dense.h).update(hyper)

    def weights(self) -> Array:
        return self.dense.w


def dense_gradient(weights: Array, ids: Array, gradients: Array) -> Array:
    """The gradient of the whole table, in the weights' dtype: one-hot(ids).T @ gradients, summed in float64."""
    total = np.zeros(weights.shape)
    np.add.at(total, ids, gradients.astype(weights.dtype))
    return total.astype(weights.dtype)


def unhot_copy(rule: Rule, weights: Array, dtype: str, **hyper: Any) -> UnhotCopy:
    return UnhotCopy(unhot.Table.from_array(weights.astype(dtype), optimizer=rule.optimizer(**hyper)))


def dense_copy(rule: Rule, weights: Array, dtype: str, **hyper: Any) -> DenseCopy:
    return DenseCopy(rule.dense(weights.astype(dtype), **hyper))


# ---------------------------------------------------------------- the run


class Size:
    """The size of each element: the largest weight or movement that the reference has held."""

    def __init__(self, start: Array) -> None:
        self.start = start.copy()
        self.value = np.abs(self.start)

    def see(self, weights: Array) -> None:
        np.maximum(self.value, np.abs(weights), out=self.value)
        np.maximum(self.value, np.abs(weights - self.start), out=self.value)


Guard = Callable[[Step, Array], Array]
"""From the step and the reference's gradients: what to add to the gradients of every copy (see signs.py)."""

Check = Callable[[Sequence[Array], Array], None]
"""From the copies' weights, the reference first, and the elements' sizes: raises AssertionError if they do not agree."""


def train(stream: Stream, copies: Sequence[Copy], check: Check, *, checks: int = 4, guard: Guard | None = None) -> None:
    """Train `copies`, the float64 reference first, on the stream; `check` their weights `checks` times, last at the end."""
    size = Size(copies[0].weights())
    marks = {len(stream.steps) * (i + 1) // checks for i in range(checks)}
    for number, step in enumerate(stream.steps, start=1):
        one_step(stream, step, copies, guard)
        size.see(copies[0].weights())
        if number in marks:
            check([copy.weights() for copy in copies], size.value)


def one_step(stream: Stream, step: Step, copies: Sequence[Copy], guard: Guard | None = None) -> None:
    """One step of every copy, each with the gradients of the rows that it looked up itself."""
    extra: Array | float = 0.0
    for copy in copies:
        gradients = step.noise
        if step.pull and len(step.ids):
            gradients = gradients + step.pull * (copy.lookup(step.ids).astype(np.float64) - stream.targets[step.ids])
        if guard is not None and copy is copies[0]:
            extra = guard(step, gradients)
        copy.assign(step.hyper)
        copy.step(step.ids, gradients + extra)


# ---------------------------------------------------------------- the comparison


def units(weights: Array, reference: Array, size: Array) -> float:
    """The distance of float32 weights from the reference, in units in the last place of the elements' sizes."""
    assert np.isfinite(reference).all(), "the float64 reference is not finite: the stream is not a test"
    assert weights.dtype == np.float32
    if not np.isfinite(weights).all():
        return np.inf
    return float(np.max(np.abs(weights.astype(np.float64) - reference) / np.spacing(size.astype(np.float32)).astype(np.float64)))


def relative(weights: Array, reference: Array, size: Array) -> float:
    """The distance of float64 weights from the reference, relative to the elements' sizes."""
    assert np.isfinite(reference).all(), "the float64 reference is not finite: the stream is not a test"
    assert weights.dtype == np.float64
    if not np.isfinite(weights).all():
        return np.inf
    return float(np.max(np.abs(weights - reference) / np.maximum(size, 1e-300)))


def agree_in_float32(weights: Sequence[Array], size: Array) -> None:
    """`weights` are those of the reference, of dense float32 training, and of the float32 table under test."""
    reference, dense, tested = weights
    allowed = FACTOR * units(dense, reference, size) + UNITS
    assert np.isfinite(allowed), "dense float32 training is not finite: the stream is not a test"
    distance = units(tested, reference, size)
    assert distance <= allowed, f"{distance:.4g} units in the last place from dense float64 training; allowed: {allowed:.4g}"


def agree_in_float64(weights: Sequence[Array], size: Array) -> None:
    """`weights` are those of the reference and of the float64 table under test."""
    reference, tested = weights
    distance = relative(tested, reference, size)
    assert distance <= RELATIVE, f"{distance:.3g} relative from dense float64 training; allowed: {RELATIVE:g}"
