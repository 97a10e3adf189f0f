"""Rates and decays so small that one step's decay is less than half a unit in the last place of the weight.

Whoever rounds the decayed weight before the rest of the step is added loses the decay, all of it and at every step.  Dense
training keeps it where its formula adds decay and gradient first (PyTorch's coupled decay does).
"""

from __future__ import annotations

from collections.abc import Sequence
from math import log, sqrt

import numpy as np
import pytest

from . import signs
from .dense import Array
from .registry import RULES, Rule
from .streams import Step, Stream, generator, rounded
from .training import Scale, agree, dense_copy, train, unhot_copy, versions

STEPS = 600
OFTEN, DIM = 3, 64
"""Rows touched at every step (one more is touched at every second, one at every third), and elements of each."""

RATE, DECAY = 3e-4, 1e-4
"""The largest rate, and the decay: together less than 2^-25, which is half a unit in the last place of a weight below 1."""

CHANCE = 1e-9
"""How likely a conforming table may fail: the mean of independent errors within half a unit, by Hoeffding's bound."""


def decaying(rule: Rule) -> bool:
    """Whether the rule has a weight decay that unhot takes."""
    return "weight_decay" in rule.defaults


def small(rule: Rule) -> Rule:
    """The rule at small rates, with a small decay if it takes one."""
    return Rule(rule.name, rule.convention, RATE, {**rule.hyper, **({"weight_decay": DECAY} if decaying(rule) else {})})


CASES = list({case.id: case for case in map(small, RULES)}.values())


def stream(rule: Rule) -> Stream:
    """Weights between 0.6 and 1 under gradients of both signs; the rates wander, so that Lion's steps differ in size too."""
    rng = generator("small rates", rule.id)
    steps = []
    for number in range(STEPS):
        ids = np.array([*range(OFTEN), *([OFTEN] if number % 2 else []), *([OFTEN + 1] if number % 3 == 0 else [])])
        noise = rounded(1e-2 * rng.normal(size=(len(ids), DIM)))
        steps.append(Step(ids, noise, hyper={"learning_rate": rounded(RATE * rng.uniform(0.5, 1.0))}))
    weights = rounded(rng.uniform(0.65, 0.95, size=(OFTEN + 3, DIM)))
    return Stream(weights, weights, steps)


@pytest.mark.parametrize("rule", CASES, ids=lambda rule: rule.id)
def test_rates_and_decays_below_half_a_unit(rule: Rule) -> None:
    """No further from dense float64 training than dense float32 training is; and no decay is lost of rows that are touched.

    The second is more than the first asks, since the dense training of most rules loses the decay. (The resting weights of
    Ftrl do not decay, and the touched ones are formed anew from their sums.)
    """

    def check(reference: Array, copies: Sequence[Array], scale: Scale) -> None:
        agree(reference, copies, scale)
        if rule.name != "Ftrl":
            bias = np.mean(((copies[1] - reference) / scale.unit)[:OFTEN])
            apart = 1 if rule.name == "Lion" else OFTEN * DIM  # Lion's elements make steps of one size, and round alike
            most = sqrt(STEPS * log(2 / CHANCE) / (2 * apart))
            assert abs(bias) <= most, f"the mean error is {bias:.3g} units in the last place, {most:.3g} allowed"

    given = stream(rule)
    train(
        given, dense_copy(rule, versions(given.weights, 0), "float64"),
        [dense_copy(rule, given.weights, "float32"), unhot_copy(rule, given.weights, "float32")],
        check, marks=[STEPS], guard=signs.guard(rule, given), look=25,
    )  # fmt: skip
