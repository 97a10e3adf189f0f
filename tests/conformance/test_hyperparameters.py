"""Hyperparameters that change from step to step, and values at the edge of what is allowed, against dense training."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from . import signs
from .dense import RULES as DENSE
from .registry import EVERY, MOMENTS, RULES, Rule, named
from .streams import Step, Stream, generator, make, rounded
from .training import agree, dense_copy, train, unhot_copy, versions

by_id = {"ids": lambda rule: rule.id}
DECAYING = [line for line in RULES if "weight_decay" in line.hyper]


def check(rule: Rule, given: Stream, marks: Sequence[int] = (), **initial: Any) -> None:
    """Trained on `given`, both tables agree with dense training; `initial` are the table's hyperparameters before step 1."""
    train(
        given, dense_copy(rule, versions(given.weights), "float64"),
        [
            dense_copy(rule, given.weights, "float32"),
            unhot_copy(rule, given.weights, "float32", **initial),
            unhot_copy(rule, given.weights, "float64", **initial),
        ],
        agree, marks=marks, guard=signs.guard(rule, given),
    )  # fmt: skip


def changing(rule: Rule, **hyper: Callable[[int], float]) -> Stream:
    """The closed stream under wandering rates, with these hyperparameters as functions of the step."""
    given = make("closed", "wandering", rule.rate)
    for number, step in enumerate(given.steps, start=1):
        step.hyper.update({name: value(number) for name, value in hyper.items()})
    return given


@pytest.mark.parametrize("rule", DECAYING, **by_id)
def test_weight_decay_that_changes(rule: Rule) -> None:
    """Any decay in each step, in some of them none."""
    rng = generator("decay", rule.id)
    decays = [0.0 if rng.random() < 0.2 else rounded(rule.hyper["weight_decay"] * 10 ** rng.uniform(-3, 1)) for _ in range(200)]
    check(rule, changing(rule, weight_decay=lambda step: decays[step]))


@pytest.mark.parametrize("rule", DECAYING, **by_id)
@pytest.mark.parametrize("product", [1.0, 1.25, 2.0])
def test_decay_of_the_whole_weight_and_more(rule: Rule, product: float) -> None:
    """In two steps rate x decay is at least 1: the factor on the weight is 0, or negative.

    2.0 is an edge too: the factor is -1.  The coupled decay of SGD joins the momentum at that size.
    """
    decay, usual = rule.hyper["weight_decay"], rounded(rule.rate)
    factor = product / (decay * usual)
    check(rule, changing(rule, weight_decay=lambda step: decay * factor if step in (30, 97) else 0.0,
                         learning_rate=lambda step: usual))  # fmt: skip


@pytest.mark.parametrize("rule", [line for line in DECAYING if line.name != "Ftrl"], **by_id)
def test_decay_that_diverges(rule: Rule) -> None:
    """Rate x decay is 6 in every step: resting weights grow by a factor that float32 cannot hold, and those of 0 stay 0.

    (Ftrl's resting weights do not decay.)
    """
    usual = rounded(rule.rate)
    hyper = {"learning_rate": usual, "weight_decay": 6.0 / usual}
    weights = rounded(np.array([[0.0, 1e-30], [-3e-30, 0.0]]))
    alone = rule.dense(np.full((1, 1), 1e-30), **hyper)
    steps = []
    while np.abs(alone.w).max() < 1e15:
        alone.step(np.zeros((1, 1)))
        steps.append(Step(np.arange(0), np.zeros((0, 2)), hyper=dict(hyper)))
    check(rule, Stream(weights, weights, steps), marks=[len(steps)])  # not looked at before: that would settle


@pytest.mark.parametrize("rule", [line for line in RULES if line.name != "Ftrl"], **by_id)
def test_a_rate_of_zero_for_a_while(rule: Rule) -> None:
    """Frozen: the slots go on, the weights stand (Ftrl divides by its rate)."""
    given = make("closed", "constant", rule.rate)
    for number, step in enumerate(given.steps, start=1):
        step.hyper["learning_rate"] = 0.0 if 40 <= number < 75 or number > 130 else rounded(rule.rate)
    check(rule, given)


@pytest.mark.parametrize("rule", [line for line in EVERY if line.name != "Ftrl"], **by_id)
def test_a_rate_that_jumps(rule: Rule) -> None:
    """Warm-up from nearly nothing: 10^6 times as much from one step to the next, and back, twice."""
    given = make("open", "constant", rule.rate)
    for number, step in enumerate(given.steps, start=1):
        step.hyper["learning_rate"] = rounded(rule.rate * (1.0 if 50 <= number < 55 or number > 120 else 1e-6))
    check(rule, given)


def one_cycle(step: int) -> float:
    """A momentum that falls from 0.95 to 0.85 and rises again, as OneCycleLR's does."""
    return rounded(0.9 + 0.05 * np.cos(2 * np.pi * step / 110))


@pytest.mark.parametrize("rule", [line for line in RULES if line.momentum], **by_id)
@pytest.mark.parametrize("first", [0.95, 0.5])
def test_a_momentum_that_cycles(rule: Rule, first: float) -> None:
    """From step to step; the table was made with the cycle's largest momentum, or with one below it."""
    assert rule.momentum is not None
    if not rule.takes(0.95, rule.defaults.get("beta_2", 1.0)):
        pytest.skip("outside the stated domain")
    check(rule, changing(rule, **{rule.momentum: one_cycle}), **{rule.momentum: first})


@pytest.mark.parametrize("rule", [line for line in RULES if line.momentum and line.name in ("SGD", "RMSprop")], **by_id)
def test_a_momentum_that_stops_and_starts(rule: Rule) -> None:
    """0 in some steps, from the first on: the buffer then stands, and PyTorch's begins where the momentum does."""
    if rule.hyper.get("nesterov") and rule.convention == "torch":
        pytest.skip("PyTorch's nesterov=True asks for a momentum")
    check(rule, changing(rule, momentum=lambda step: 0.0 if step < 12 or 60 <= step < 90 else 0.9))


FIXED = {
    "Adam-keras": {"epsilon": 1e-3, "beta_2": 0.99},
    "AdamW-torch-weight_decay=0.3": {"epsilon": 1e-5, "beta_2": 0.95},
    "NAdam-torch": {"epsilon": 1e-4, "beta_2": 0.99, "momentum_decay": 0.05},
    "RAdam-torch": {"epsilon": 1e-4, "beta_2": 0.99},
    "Adamax-keras-weight_decay=0.3": {"epsilon": 1e-4, "beta_2": 0.95},
    "Adamax-torch": {"epsilon": 1e-4, "beta_2": 0.95},
    "RMSprop-keras-momentum=0.8-weight_decay=0.3": {"epsilon": 1e-3, "rho": 0.99},
    "Adadelta-torch": {"epsilon": 1e-4, "rho": 0.95},
    "Lion-keras": {"beta_2": 0.95},
    "SGD-torch-momentum=0.9-dampening=0.3": {"dampening": 0.1},
    "Ftrl-keras-learning_rate_power=-0.3-l1_regularization_strength=0.05": {"l1_regularization_strength": 0.01},
}
"""What is not a schedule, but may be assigned between steps."""


@pytest.mark.parametrize("rule", named(*FIXED), **by_id)
def test_others_that_change_in_the_middle(rule: Rule) -> None:
    """There and back: the table settles, and goes on by the new values."""
    given = make("closed", "cosine", rule.rate)
    new = FIXED[rule.id]
    for number, hyper in ((50, new), (110, {name: rule.defaults[name] for name in new})):
        given.steps[number].hyper.update(hyper)
    check(rule, given)


WIDE = ((0.99, 0.9), (0.95, 0.5), (0.997, 0.999), (0.8, 0.01))
"""Betas of which the points of the step measure reach down to where epsilon is all that is left, or whose window is long."""


@pytest.mark.parametrize("betas", WIDE, ids=str)
@pytest.mark.parametrize(("name", "convention"), [key for key in DENSE if key[0] in MOMENTS])
@pytest.mark.parametrize("stream", ["closed", "mixed"])
def test_unusual_betas(name: str, convention: str, betas: tuple[float, float], stream: str) -> None:
    rule = Rule(name, convention, 0.01, {"beta_1": betas[0], "beta_2": betas[1]})
    if not rule.takes(*betas):
        pytest.skip("outside the stated domain")
    check(rule, make(stream, "wandering", rule.rate))
