"""Training several copies of one table on a stream, and the comparison that decides whether they agree.

**What "exact" means** (design.md): a settled float32 table is no further from dense float64 training than twice the
distance of dense float32 training, plus 4 units in the last place; a float64 table agrees with dense float64 to 1e-9
relative.  Read here as follows.

* The *size* of an element is the largest of |w| and |w - w_0|, its weight and its movement since the start, that the
  float64 reference has held so far: every float32 training has rounded at that size.
* A float64 table conforms if  |w - reference| <= 1e-9 size  for every element.
* The *unit* of an element is one unit in the last place of its size, or more where the element is ill-conditioned (a
  momentum of which two gradients have cancelled all but 1e-6, say): the largest deviation that was seen of `SHAKEN` float64
  trainings in which every gradient is off by 2**-24 of its terms, up or down at random.  Rounding the gradients to float32
  does as much, so no float32 training avoids it.  Without this, the largest distance of a run is that of its one worst
  conditioned element, and the ratio of two such distances is a matter of chance.
* The *distance* of a float32 table is the largest |w - reference| over all elements, each in its unit.  A table conforms if
  distance(unhot) <= 2 distance(dense float32) + 4.

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
from .streams import Step, Stream, generator

FACTOR = 2.0
UNITS = 4.0
RELATIVE = 1e-9
SHAKEN = 3
"""Shaken copies of the reference: enough that one in 250 ill-conditioned elements at most looks five times too good."""

ROUNDING = 2.0**-24


class Copy(Protocol):
    """One trained copy of the table; a dense one may hold several versions of it, (versions, rows, dim)."""

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
        return self.dense.w[..., ids, :]

    def step(self, ids: Array, gradients: Array) -> None:
        self.dense.step(dense_gradient(self.dense.w, ids, gradients))

    def assign(self, hyper: dict[str, Any]) -> None:
        vars(self.dense.h).update(hyper)

    def weights(self) -> Array:
        return self.dense.w


def dense_gradient(weights: Array, ids: Array, gradients: Array) -> Array:
    """The gradient of the whole table, in the weights' dtype: one-hot(ids).T @ gradients, summed in float64."""
    total = np.zeros(weights.shape)
    if not len(ids):
        return total.astype(weights.dtype)
    gradients = gradients.astype(weights.dtype)
    for i, row in enumerate(ids):
        total[..., row, :] += gradients[..., i, :]
    return total.astype(weights.dtype)


def unhot_copy(rule: Rule, weights: Array, dtype: str, **hyper: Any) -> UnhotCopy:
    return UnhotCopy(unhot.Table.from_array(weights.astype(dtype), optimizer=rule.optimizer(**hyper)))


def dense_copy(rule: Rule, weights: Array, dtype: str, **hyper: Any) -> DenseCopy:
    return DenseCopy(rule.dense(weights.astype(dtype), **hyper))


def versions(weights: Array, shaken: int = SHAKEN) -> Array:
    """The initial weights of the reference, and of the `shaken` versions that the comparison in float32 needs."""
    return np.repeat(weights[None], 1 + shaken, axis=0)


# ---------------------------------------------------------------- the run


class Scale:
    """For each element the largest weight or movement of the reference, and the largest deviation of a shaken one."""

    def __init__(self, versions: Array) -> None:
        self.start = versions[0].copy()
        self.size = np.abs(self.start)
        self.deviation = np.zeros_like(self.start)

    def see(self, versions: Array) -> None:
        np.maximum(self.size, np.abs(versions[0]), out=self.size)
        np.maximum(self.size, np.abs(versions[0] - self.start), out=self.size)
        if len(versions) > 1:
            np.maximum(self.deviation, np.abs(versions[1:] - versions[0]).max(axis=0), out=self.deviation)

    @property
    def unit(self) -> Array:
        return np.maximum(np.spacing(self.size.astype(np.float32)).astype(np.float64), self.deviation)


Guard = Callable[[Step, Array], Array]
"""From the step and the reference's gradients: what to add to the gradients of every copy (see signs.py)."""

Check = Callable[[Array, Sequence[Array], Scale], None]
"""From the reference's weights, the copies' weights and the elements' scale: raises AssertionError if they do not agree."""


def train(
    stream: Stream,
    reference: Copy,
    copies: Sequence[Copy],
    check: Check,
    *,
    marks: Sequence[int] = (),
    guard: Guard | None = None,
    look: int = 1,
) -> None:
    """Train the reference and `copies` on the stream; `check` their weights after the steps `marks`, or after each quarter.

    The elements' scale is taken at every touch and every `look` steps.
    """
    shaker = generator("shaken")
    start = reference.weights()
    scale = Scale(start)
    marks = marks or [len(stream.steps) * quarter // 4 for quarter in (1, 2, 3, 4)]
    for number, step in enumerate(stream.steps, start=1):
        if len(step.ids):
            gradients = np.array(np.broadcast_to(gradients_of(stream, step, reference), (len(start), *step.noise.shape)))
            extra = 0.0 if guard is None else guard(step, gradients[0])
            if len(start) > 1:
                gradients[1:] += shakes(stream, step, gradients[0], len(start) - 1, shaker)
            advance(reference, step, gradients + extra)
            for copy in copies:
                advance(copy, step, gradients_of(stream, step, copy) + extra)
        else:
            if guard is not None:
                guard(step, step.noise)
            for copy in (reference, *copies):
                advance(copy, step, step.noise)
        if len(step.ids) or number % look == 0 or number in marks:
            scale.see(reference.weights())
        if number in marks:
            check(reference.weights()[0], [copy.weights() for copy in copies], scale)


def gradients_of(stream: Stream, step: Step, copy: Copy) -> Array:
    """The gradients of the rows that `copy` looks up."""
    if not step.pull:
        return step.noise
    return np.asarray(step.noise + step.pull * (copy.lookup(step.ids).astype(np.float64) - stream.targets[step.ids]))


def shakes(stream: Stream, step: Step, gradients: Array, count: int, shaker: np.random.Generator) -> Array:
    """`count` errors as large as float32's rounding of the gradients' terms."""
    terms = np.abs(step.noise) + np.abs(gradients - step.noise) + 2 * step.pull * np.abs(stream.targets[step.ids])
    return np.asarray(ROUNDING * shaker.choice((-1.0, 1.0), size=(count, *gradients.shape)) * terms)


def advance(copy: Copy, step: Step, gradients: Array) -> None:
    copy.assign(step.hyper)
    copy.step(step.ids, gradients)


# ---------------------------------------------------------------- the comparison


def units(weights: Array, reference: Array, scale: Scale) -> float:
    """The distance of float32 weights from the reference, in the elements' units."""
    assert np.isfinite(reference).all(), "the float64 reference is not finite: the stream is not a test"
    assert weights.dtype == np.float32
    if not np.isfinite(weights).all():
        return np.inf
    return float(np.max(np.abs(weights.astype(np.float64) - reference) / scale.unit))


def relative(weights: Array, reference: Array, scale: Scale) -> float:
    """The distance of float64 weights from the reference, relative to the elements' sizes."""
    assert np.isfinite(reference).all(), "the float64 reference is not finite: the stream is not a test"
    assert weights.dtype == np.float64
    if not np.isfinite(weights).all():
        return np.inf
    return float(np.max(np.abs(weights - reference) / np.maximum(scale.size, 1e-300)))


def close(reference: Array, copies: Sequence[Array], scale: Scale) -> None:
    """`copies` are float64 tables under test."""
    for weights in copies:
        distance = relative(weights, reference, scale)
        assert distance <= RELATIVE, f"the float64 table is {distance:.4g} relative away, {RELATIVE:g} allowed"


def agree(reference: Array, copies: Sequence[Array], scale: Scale) -> None:
    """`copies` are dense float32 training, then the tables under test: float32, float64 or both."""
    dense, *tested = copies
    wrong = []
    for weights in tested:
        if weights.dtype == np.float64:
            distance, allowed, measure = relative(weights, reference, scale), RELATIVE, "relative"
        else:
            allowed = FACTOR * units(dense, reference, scale) + UNITS
            assert np.isfinite(allowed), "dense float32 training is not finite: the stream is not a test"
            distance, measure = units(weights, reference, scale), "units in the last place"
        if distance > allowed:
            wrong.append(f"the {weights.dtype} table is {distance:.4g} {measure} away, {allowed:.4g} allowed")
    assert not wrong, "; ".join(wrong)
