"""The ends of the number range: rates far above epsilon, decays that underflow in a long rest, rates that rise from nothing.

What dense training makes of them is what the tables make of them, or they refuse them before anything has changed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from selection import cover, label

import unhot

from . import signs
from .registry import EVERY, RULES, Rule
from .streams import Step, Stream, generator, rounded
from .training import agree, close, dense_copy, train, unhot_copy, versions

ROWS, DIM = 6, 8
REST = np.zeros((0, DIM))
by_id: dict[str, Any] = {"ids": lambda rule: rule.id}


def check(rule: Rule, given: Stream, marks: Sequence[int], dtypes: Sequence[str] = ("float32", "float64")) -> None:
    train(
        given, dense_copy(rule, versions(given.weights), "float64"),
        [dense_copy(rule, given.weights, "float32"), *(unhot_copy(rule, given.weights, dtype) for dtype in dtypes)],
        agree, marks=marks, guard=signs.guard(rule, given), look=25,
    )  # fmt: skip


def weights() -> np.ndarray:
    """Two rows of zeros, and others."""
    start = np.linspace(-1.0, 1.0, ROWS * DIM).reshape(ROWS, DIM)
    start[::3] = 0.0
    return rounded(start)


# ---------------------------------------------------------------- rates

FAR = {"float32": 1e29, "float64": 1e299}
"""Rates within the domain that are beyond the dtype once they are divided by `EPSILON`."""

EPSILON = 1e-10
DIVIDING = [rule for rule in EVERY if "epsilon" in rule.defaults and "weight_decay" not in rule.hyper]


@pytest.mark.parametrize(("rule", "dtype"), [(rule, dtype) for rule in DIVIDING for dtype in FAR], ids=label)
def test_rates_far_above_epsilon(rule: Rule, dtype: str) -> None:
    """Rows that are never touched, or have not been so far, stand still, however large rate / epsilon is."""
    hyper = {**rule.hyper, "epsilon": EPSILON, **({"weight_decay": 0.0} if rule.name == "AdamW" else {})}
    rule = Rule(rule.name, rule.convention, rounded(FAR[dtype]) if dtype == "float32" else FAR[dtype], hyper)
    rng = generator("far", rule.id)
    touched = [[0], [0, 1], [], [1], [], [], [0, 3], *[[]] * 20, [1, 3]]
    steps = [Step(np.array(ids, np.int64), rounded(rng.normal(size=(len(ids), DIM)))) for ids in touched]
    with np.errstate(over="ignore"):  # the float32 copy of the float64 test
        given = Stream(weights(), weights(), steps)
        if dtype == "float32":
            check(rule, given, [7, 20, len(steps)], [dtype])
            return
        reference = dense_copy(rule, versions(given.weights, 0), dtype)
        train(given, reference, [unhot_copy(rule, given.weights, dtype)], close, marks=[7, 20, len(steps)])


MOST = {"float32": 1e30, "float64": 1e300}


@pytest.mark.parametrize("dtype", MOST)
@pytest.mark.parametrize("rule", RULES, **by_id)
def test_rates_and_decays_outside_the_domain_are_refused(rule: Rule, dtype: str) -> None:
    """Before the step has changed anything, and the table goes on with others."""
    wrong: list[dict[str, float]] = [{"learning_rate": 1.1 * MOST[dtype]}]
    if rule.name == "Ftrl":
        wrong = [{"learning_rate": 0.9 / MOST[dtype]}]
    if "weight_decay" in rule.hyper:
        wrong += [{"weight_decay": 1.1 * MOST[dtype]}, {"learning_rate": 1e-3, "weight_decay": 1e3 * MOST[dtype]}]
    table, other = (unhot.Table.from_array(weights().astype(dtype), optimizer=rule.optimizer()) for _ in range(2))
    gradients = np.ones((2, DIM), dtype)
    for copy in (table, other):
        copy.step([1, 2], gradients)
    for hyper in wrong:
        before = {name: getattr(table.optimizer, name) for name in hyper}
        for name, value in hyper.items():
            setattr(table.optimizer, name, value)
        with pytest.raises(ValueError, match=rf"must be at (most|least) .* in a {dtype} table.*Received"):
            table.step([1, 3], gradients)
        for name, value in before.items():
            setattr(table.optimizer, name, value)
    for copy in (table, other):
        copy.step([1, 3], gradients)
    np.testing.assert_array_equal(table.array, other.array)


def test_an_epsilon_too_small_for_panels_is_refused() -> None:
    """Where the step measure has several panels, a large momentum over a tiny epsilon would be beyond the dtype."""
    for dtype, epsilon in (("float32", 1e-20), ("float64", 1e-280)):
        with pytest.raises(ValueError, match=r"epsilon.*at least"):
            unhot.Table(3, 2, optimizer=unhot.Adam(beta_1=0.95, beta_2=0.9, epsilon=epsilon), dtype=dtype)
        unhot.Table(3, 2, optimizer=unhot.Adam(epsilon=epsilon), dtype=dtype)


# ---------------------------------------------------------------- decays

SHORT = {"beta_2": 0.9, "rho": 0.9}
"""Averages that fall by 1e-46 in 1,000 steps: below what float32 can hold, where 1e38 times that is not."""


def short(rule: Rule) -> Rule:
    hyper = {name: value for name, value in SHORT.items() if name in rule.defaults}
    if rule.name == "Adamax":
        hyper = {"beta_1": 0.8, **hyper}  # within the domain of PyTorch's
    return Rule(rule.name, rule.convention, rule.rate, {**rule.hyper, **hyper})


@pytest.mark.parametrize("rule", [short(rule) for rule in RULES], **by_id)
def test_slots_that_fall_by_more_than_float32_holds(rule: Rule) -> None:
    """Gradients of up to 1e19, a rest of 1,000 steps, and small gradients: what is left of the large ones divides these."""
    rng = generator("underflow", rule.id)
    large = rounded(np.array([[1e19], [1e18], [1e15]]) * rng.choice((-1.0, 1.0), size=(3, DIM)))
    small = [rounded(10.0 ** rng.uniform(-9, -4, size=(3, 1)) * rng.normal(size=(3, DIM))) for _ in range(6)]
    ids = np.arange(3)
    steps = [Step(ids, large), *[Step(ids[:0], REST)] * 1000, *(Step(ids, noise) for noise in small)]
    for step in steps:
        step.hyper["learning_rate"] = rounded(rule.rate)
    check(rule, Stream(weights(), weights(), steps), [1001, 1003, len(steps)])


# ---------------------------------------------------------------- rates that rise

RISES = ((0.0, 300), (0.0, 900), (1e-12, 300), (1e-9, 200), (1e-6, 130), (1e-4, 50))
"""The rate before, as a part of the rate after, and for how many steps."""


RISING = [(rule, low) for rule in EVERY if rule.name != "Ftrl" for low in RISES]


@pytest.mark.parametrize(("rule", "low"), cover(RISING, by=1), ids=label)
def test_rates_that_rise_after_long(rule: Rule, low: tuple[float, int]) -> None:
    """Weights of 0, touched at low rates or at a rate of 0: all that they are comes from what is left of the momentum.

    (Ftrl divides by its rate.)
    """
    part, length = low
    rng = generator("rise", rule.id, low)
    first = [Step(np.array([row]), rounded(rng.normal(size=(1, DIM)))) for row in range(ROWS - 1)]
    steps = [*first, *(Step(np.arange(0), REST) for _ in range(length + 40 - len(first)))]
    for number, step in enumerate(steps, start=1):
        step.hyper["learning_rate"] = rounded(rule.rate * (1.0 if number > length else part))
    check(rule, Stream(np.zeros((ROWS, DIM)), np.zeros((ROWS, DIM)), steps), [length + 1, length + 5, length + 40])


@pytest.mark.parametrize("betas", [(0.03, 0.999), (0.3, 0.999), (0.03, 0.7)], ids=label)
def test_a_rest_over_the_steps_that_are_not_rectified(betas: tuple[float, float]) -> None:
    """Weights of 0, touched in the first steps by gradients so small that the rectified steps move them by far the most.

    By then, little is left of a momentum that falls fast: the sum over the steps is as exact as if it had begun with them.
    """
    rule = Rule("RAdam", "torch", 0.01, {"beta_1": betas[0], "beta_2": betas[1], "epsilon": 1e-18})
    rng = generator("not rectified", betas)
    steps = [Step(np.array([row]), rounded(3e-16 * rng.normal(size=(1, DIM)))) for row in range(ROWS - 1)]
    steps += [Step(np.arange(0), REST) for _ in range(60)]
    for step in steps:
        step.hyper["learning_rate"] = rounded(rule.rate)
    check(rule, Stream(np.zeros((ROWS, DIM)), np.zeros((ROWS, DIM)), steps), [len(steps)])  # a look before might settle


@pytest.mark.parametrize("betas", [(0.9, 0.95), (0.9, 0.93), (0.5, 0.9)], ids=label)
def test_rates_that_rise_after_the_norm_has_reached_epsilon(betas: tuple[float, float]) -> None:
    """PyTorch's Adamax: what a resting row has still to move by is a small rest of large sums, unless it is settled in time."""
    rule = Rule("Adamax", "torch", 1.0, {"beta_1": betas[0], "beta_2": betas[1]})
    rng = generator("crossing", betas)
    courses: list[float] = []
    for _ in range(3):
        courses += [rounded(rng.choice((0.0, 1.0)) * 10.0 ** rng.uniform(-14, -9))] * int(rng.integers(200, 900))
        courses += [rounded(10.0 ** rng.uniform(-3, -1))] * int(rng.integers(1, 60))
    steps = [
        Step(np.array([number % ROWS]), rounded(10.0 ** rng.uniform(-6, 3) * rng.normal(size=(1, DIM))))
        if number < 2 * ROWS or rng.random() < 0.003
        else Step(np.arange(0), REST)
        for number in range(len(courses))
    ]
    for step, rate in zip(steps, courses, strict=True):
        step.hyper["learning_rate"] = rate
    changes = [number + 1 for number in range(1, len(courses)) if courses[number] != courses[number - 1]]
    check(rule, Stream(np.zeros((ROWS, DIM)), np.zeros((ROWS, DIM)), steps), [*changes, len(steps)])
