"""Runs of 10^6 steps, and rests that long: longer than the table's history, which settles them in parts, and shorter."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from selection import label, slow, some

from . import signs
from .registry import RULES, Rule, named
from .streams import Step, Stream, generator, rounded, start
from .training import UnhotCopy, agree, close, dense_copy, train, unhot_copy, versions

ROWS, DIM = 6, 2
LOOK = 25
"""Steps between two looks at the reference's size, which changes slowly at rest."""

FAMILIES = (
    "AdamW-torch-weight_decay=0.3",
    "SGD-keras-momentum=0.9-weight_decay=0.03",
    "Ftrl-keras-l2_shrinkage_regularization_strength=0.1-l1_regularization_strength=0.05-weight_decay=0.03",
    "Lion-keras-beta_1=0.95-beta_2=0.98-weight_decay=0.3",
    "Adamax-torch",
)
"""One rule of each family of recurrences."""

REST = Step(np.arange(0), np.zeros((0, DIM)))


def touches(rng: np.random.Generator, rest: int) -> dict[int, list[int]]:
    """By step the rows touched: the last rests `rest` steps, the others a tenth, a hundredth ... of it, over and over."""
    due: dict[int, list[int]] = {}
    for row in range(ROWS):
        step, pause = int(rng.integers(1, 40)), max(7, rest // 10 ** (ROWS - 1 - row))
        while step <= rest + 200:
            due.setdefault(step, []).append(row)
            # Not more than 30 touches or so of each row: float32's own rounding grows with them.
            step += pause if pause > rest // 30 else int(rng.integers(pause, max(pause + 1, rest // 10)))
    return due


def steps(rng: np.random.Generator, rule: Rule, rest: int) -> Iterator[Step]:
    """A closed loop; the rate changes by up to 63-fold at every touch, and some time into every rest.

    The rates are such that a decay leaves something of the weights, and that no rise of theirs settles the table meanwhile
    (64-fold and more may, see `RateWindow.outruns`).
    """
    due = touches(rng, rest)
    largest = min(rule.rate, 20 / (rule.hyper.get("weight_decay", 0.0) * rest + 1e-9))
    for step in range(1, rest + 241):
        ids = np.array(due.get(step, []), dtype=np.int64)
        if len(ids) or step % 997 == 0:
            rate = rounded(largest / rng.uniform(1, 63))
            yield Step(ids, rounded(0.5 * rng.normal(size=(len(ids), DIM))), 1.0, {"learning_rate": rate})
        else:
            yield REST


def stream(rule: Rule, rest: int) -> Stream:
    rng = generator("long", rule.id, rest)
    return start(rng, list(steps(rng, rule, rest)), ROWS, DIM)


def check(rule: Rule, rest: int) -> None:
    given = stream(rule, rest)
    train(
        given, dense_copy(rule, versions(given.weights), "float64"),
        [
            dense_copy(rule, given.weights, "float32"),
            unhot_copy(rule, given.weights, "float32"),
            unhot_copy(rule, given.weights, "float64"),
        ],
        agree, marks=marks(rest), guard=signs.guard(rule, given), look=LOOK,
    )  # fmt: skip


def marks(rest: int) -> list[int]:
    return [rest // 100, rest // 3, rest, rest + 100, rest + 240]


@pytest.mark.parametrize("rule", some(RULES, named(*FAMILIES)), ids=label)
def test_rests_of_30_000_steps(rule: Rule) -> None:
    """The table's history is shorter than the rest, which is settled in parts."""
    check(rule, 30_000)


@slow
@pytest.mark.parametrize("rule", named(*FAMILIES[2:]), ids=lambda rule: rule.id)
def test_rests_of_100_000_steps_in_one_piece(rule: Rule, monkeypatch: pytest.MonkeyPatch) -> None:
    """The history is as long as that of a table of millions of rows, and reaches over the whole rest."""
    monkeypatch.setattr("unhot.clock.history.ring_capacity", lambda affordable, least: 1 << 18)
    check(rule, 100_000)


@slow
@pytest.mark.parametrize("rule", named(*FAMILIES[:2]), ids=lambda rule: rule.id)
def test_a_million_steps(rule: Rule) -> None:
    """One row rests nearly all of the time; the history is as large at the end as at the start.

    In float64 only, where the bound is the tighter one: dense training in float32 is of no use as a measure after so long.
    """
    rest = 1_000_000
    given = stream(rule, rest)
    table = unhot_copy(rule, given.weights, "float64")
    before = sizes(table)
    reference = dense_copy(rule, versions(given.weights, 0), "float64")
    train(given, reference, [table], close, marks=marks(rest), guard=signs.guard(rule, given), look=LOOK)
    assert sizes(table) == before


def sizes(copy: UnhotCopy) -> dict[str, int]:
    """The bytes of the arrays of the table's history."""
    history = copy.table._engine.clock.history
    return {name: value.nbytes for name, value in vars(history).items() if isinstance(value, np.ndarray)}


AVERAGED = [line for line in RULES if line.name not in ("SGD", "Adagrad", "Ftrl", "Lion") and "weight_decay" not in line.hyper]
"""The rules with running averages, one line for each of their forms."""


@pytest.mark.parametrize("rule", AVERAGED, ids=lambda rule: rule.id)
def test_rows_touched_at_every_step(rule: Rule) -> None:
    """4,000 steps without a rest, with gradients of one sign: an average that is rounded to one side at each step drifts."""
    rng = generator("often", rule.id)
    rows, dim = 2, 64
    sizes = rounded(rng.uniform(0.1, 3.0, size=(1, dim)))
    steps = [Step(np.array([0]), rounded(sizes * rng.uniform(0.9, 1.1, size=(1, dim)))) for _ in range(4000)]
    for step in steps:
        step.hyper["learning_rate"] = rounded(rule.rate)
    given = Stream(np.zeros((rows, dim)), np.zeros((rows, dim)), steps)
    reference = dense_copy(rule, versions(given.weights), "float64")
    copies = [dense_copy(rule, given.weights, "float32"), unhot_copy(rule, given.weights, "float32")]
    train(given, reference, copies, agree, marks=[400, 1500, 4000], look=LOOK)
