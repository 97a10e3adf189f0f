"""Every rule x convention x betas, in both dtypes, against torch.optim and keras.optimizers on a dense parameter.

The reference is the framework itself in float64, and "dense float32 training" the framework itself in float32; the
comparison is that of training.py.  Both frameworks are dependencies of the tests: one that is missing is an error.
"""

from __future__ import annotations

import inspect
from typing import Any

import keras
import numpy as np
import pytest
import torch
from selection import cover, label

import unhot

from . import signs
from .dense import RULES as DENSE
from .frameworks import framework_copy
from .registry import EVERY, RULES, Rule
from .streams import SCHEDULES, STREAMS, make
from .training import UnhotCopy, agree, train, unhot_copy, versions

FEW = [("closed", "wandering"), ("mixed", "cosine"), ("tiny", "constant")]
PAIRS = [(stream, schedule) for stream in STREAMS for schedule in SCHEDULES if stream != "gaps" or schedule == "wandering"]
USUAL = [line.with_betas()[0] for line in RULES]
CASES = [(rule, *pair) for rule in EVERY if rule.stock for pair in (PAIRS if rule in USUAL else FEW)]
"""All streams and schedules with the usual betas, a few with the others: frameworks are slow, in long gaps above all."""


@pytest.mark.parametrize(("rule", "stream", "schedule"), cover(CASES, by=1), ids=label)
def test_as_the_framework_trains(rule: Rule, stream: str, schedule: str) -> None:
    """The table holds what the framework's optimizer makes of a dense parameter that gets one-hot(ids).T @ gradients."""
    given = make(stream, schedule, rule.rate)
    tables = [unhot_copy(rule, given.weights, dtype) for dtype in ("float32", "float64")]
    reference = framework_copy(rule, versions(given.weights), "float64")
    train(
        given, reference, [framework_copy(rule, given.weights, "float32"), *tables], agree, guard=signs.guard(rule, given)
    )  # fmt: skip


def conventions() -> list[tuple[str, str]]:
    return [line for line in DENSE if Rule(*line, 1.0).stock]


@pytest.mark.parametrize(("name", "convention"), conventions(), ids=lambda value: str(value))
def test_defaults_are_the_framework_s(name: str, convention: str) -> None:
    """An optimizer made without any hyperparameter trains like the framework's made without any."""
    rule = Rule(name, convention, 1.0)
    cls = getattr(unhot, name)
    options: dict[str, Any] = {"convention": convention} if "convention" in inspect.signature(cls).parameters else {}
    given = make("closed", "constant", 1.0)
    for step in given.steps:
        step.hyper.clear()
    tables = [
        UnhotCopy(unhot.Table.from_array(given.weights.astype(d), optimizer=cls(**options))) for d in ("float32", "float64")
    ]
    reference = framework_copy(rule, versions(given.weights), "float64", hyper={})
    guard = signs.guard(rule, given)
    train(given, reference, [framework_copy(rule, given.weights, "float32", hyper={}), *tables], agree, guard=guard)


def one_cycle(step: int, steps: int) -> tuple[float, float]:
    """(rate, momentum) as torch.optim.lr_scheduler.OneCycleLR cycles them: the rate up and down, the momentum down and up."""
    up = 0.3 * steps
    part = step / up if step <= up else 1 - (step - up) / (steps - up)
    rise = 0.5 * (1 - np.cos(np.pi * part))
    return 0.04 + 0.96 * float(rise), 0.95 - 0.1 * float(rise)


@pytest.mark.parametrize("rule", [line for line in RULES if line.momentum], ids=lambda rule: rule.id)
def test_one_cycle_as_in_the_framework(rule: Rule) -> None:
    """Rate and momentum (or beta_1) assigned before every step, as schedulers do."""
    given = make("closed", "constant", rule.rate)
    assert rule.momentum is not None
    for number, step in enumerate(given.steps, start=1):
        rate, momentum = one_cycle(number, len(given.steps))
        step.hyper = {"learning_rate": float(np.float32(rule.rate * rate)), rule.momentum: momentum}
    tables = [unhot_copy(rule, given.weights, dtype, **{rule.momentum: 0.95}) for dtype in ("float32", "float64")]
    reference = framework_copy(rule, versions(given.weights), "float64")
    guard = signs.guard(rule, given)
    train(given, reference, [framework_copy(rule, given.weights, "float32"), *tables], agree, guard=guard)


def test_the_frameworks_are_the_real_ones() -> None:
    """The copies train with torch.optim and keras.optimizers, on the PyTorch backend."""
    assert keras.backend.backend() == "torch"
    weights = np.zeros((2, 3))
    for rule in (line for line in RULES if line.stock):
        copy = framework_copy(rule, weights, "float64")
        base = torch.optim.Optimizer if rule.convention == "torch" else keras.optimizers.Optimizer
        assert isinstance(copy.optimizer, base)
        assert copy.weights().dtype == np.float64
