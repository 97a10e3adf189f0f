"""What the kernels are given and give back, by name; and what every implementation of them offers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

from unhot.atomic import Call
from unhot.laws import Law

Ids = Any
"""Flat row numbers, int64: an array of the implementation's framework."""

Vectors = Any
"""A two-dimensional array of the implementation's framework, whose rows may lie apart."""


class Plan(NamedTuple):
    """`order[starts[k]:starts[k + 1]]` are the positions, in order, at which `rows[k]` stands among the ids."""

    rows: Ids
    order: Ids
    starts: Ids


class PendingRows(NamedTuple):
    """The distinct rows of some ids, and the deferred steps of each."""

    plan: Plan
    line_of_row: Any
    """Which line of `coefficients` carries the row to now, int32; -1 if nothing is deferred."""
    coefficients: Any
    """A line for each distinct step of the rows' last touches, from the clock."""


class Formula:
    """A law with the numbers that all rows share now: its `Shared`."""

    __slots__ = ("law", "of_kernels", "shared")

    def __init__(self, law: Law, shared: Any) -> None:
        self.law, self.shared = law, shared
        self.of_kernels: Any = None
        """The same in the kernels' own form, made when they first see it."""


ANY = -1


class Segment(NamedTuple):
    """Vectors of some consecutive ids of one store: where they go to, or their gradients."""

    store: int
    """Its place; `ANY` for ids of all stores, which have the same dim then."""
    vectors: Vectors
    """(count, dim): one for each id, or one for each bag of them."""
    bags: Any = None
    """Which of the vectors each id has, int64; None if each has its own. Of gradients only."""
    factors: Any = None
    """What each id's vector is multiplied by, float64; None for 1. Of gradients only."""


MODES = {"sum": 0, "mean": 1, "max": 2}


class Bags(NamedTuple):
    """Bags of consecutive ids of one store, each pooled into a vector; sums are formed in float64 and rounded once."""

    store: int
    vectors: Vectors
    """Where they go to, (bags, dim)."""
    starts: Any
    """Bag b holds the ids from starts[b] to starts[b + 1], counted among all ids, int64."""
    factors: Any
    """What each of all ids' rows is multiplied by, float64; None for 1."""
    mode: int
    """One of `MODES`. A mean is divided by the sum of its factors; an empty bag is 0."""


class StepNumbers(NamedTuple):
    """The number of a step, and its scalars."""

    now: int
    scalars: Any


class Stores(Protocol):
    """The arrays of all tables of one engine, whose rows are numbered one table after the other.

    `Kernels.stores` makes them from the states of the stores (weights and slots), the number of each one's first row, and the
    steps of the rows' last touches, if they are noted. What changes rows is returned as calls (`unhot.atomic`).
    """

    def pending(self, ids: Ids, now: int) -> tuple[Plan, Any, Any]:
        """The plan of the ids, the line of each row, and the distinct steps of last touches, for which lines are wanted."""

    def last_steps(self, rows: Ids, now: int) -> tuple[Any, Any]:
        """The line of each of the distinct rows, and the distinct steps of their last touches."""

    def gather(self, ids: Ids, segments: Sequence[Segment]) -> None:
        """Write the weights of the ids, as they stand, into the segments."""

    def gather_settled(self, formula: Formula, rows: PendingRows, segments: Sequence[Segment]) -> None:
        """Write the weights that the rows would hold if they were settled into the segments; no row is changed."""

    def pool(self, ids: Ids, bags: Sequence[Bags]) -> None:
        """Write the pooled weights of the ids, as they stand."""

    def pool_settled(self, formula: Formula, ids: Ids, rows: PendingRows, bags: Sequence[Bags]) -> None:
        """Write the pooled weights that the rows would hold if they were settled; no row is changed."""

    def settle(self, formula: Formula, rows: PendingRows, now: int) -> list[Call]:
        """What settles the distinct rows in place and marks them as touched at `now`."""

    def step(
        self, formula: Formula, plan: Plan, pending: PendingRows | None, step: StepNumbers, gradients: Sequence[Segment]
    ) -> list[Call]:
        """What settles the planned rows, makes one step of them with the sum of each row's gradients, and marks them."""


class Kernels(Protocol):
    """What works on rows: in NumPy, in C++, or by a framework's operations on its own arrays."""

    name: str

    frozen: int
    """The step of the last touch of rows that no step and no settling changes."""

    def stores(self, states: Sequence[Sequence[Vectors]], firsts: Sequence[int], last: Any) -> Stores: ...

    def steps_of(self, rows: int) -> Any:
        """For each row the step of its last touch, 0; only those that are written take memory."""

    def span(self, start: int, stop: int) -> Ids:
        """The rows from `start` to `stop` (excluded)."""

    def spread(self, start: int, stop: int, length: int, stride: int) -> Ids:
        """The rows in [0, stop) of which `length` follow each other from `start` on, and from each `stride` rows further on."""

    def copied(self, ids: Ids) -> Ids:
        """Ids of one's own."""

    def same(self, ids: Ids, others: Ids) -> bool:
        """Whether these are the same ids."""

    def joined(self, ids: Sequence[Ids]) -> Ids:
        """The ids one after the other."""

    def outside(self, ids: Ids, rows: int) -> int:
        """The position of the first of the ids that lies outside [0, rows), or -1."""

    def number_rows(self, ids: Ids, counts: Sequence[int], rows: Sequence[int], firsts: Sequence[int]) -> int:
        """Make rows of all tables, in place, of the ids of each table in turn, `counts` of them: add the first row's number.

        The position of the first id that lies outside of its table, or -1.
        """

    def group(self, ids: Ids) -> Plan:
        """The distinct rows among `ids`, and where each occurs, in the order of occurrence."""

    def pool(self, values: Vectors, ids: Ids, offsets: Ids, weights: Any, mode: str, out: Vectors) -> None:
        """out[b] = the sum, mean or maximum of values[ids[i]] (times weights[i]) over offsets[b] <= i < offsets[b + 1]."""
