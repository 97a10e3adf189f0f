"""Every rule x convention x betas x stream x schedule, in both dtypes, against dense training in plain NumPy.

The streams, among them closed loops in which a stale read enters the training, are those of streams.py; what is compared,
and where the tolerances come from, stands in training.py.
"""

from __future__ import annotations

import numpy as np
import pytest
from selection import label, product

import unhot

from . import signs
from .registry import BETAS, EVERY, RULES, Rule
from .streams import SCHEDULES, STREAMS, UNTOUCHED, Step, Stream, generator, make, rounded
from .training import agree, dense_copy, train, unhot_copy, versions


def copies(rule: Rule, stream: Stream) -> tuple:
    """The reference, and what is compared with it."""
    return dense_copy(rule, versions(stream.weights), "float64"), [
        dense_copy(rule, stream.weights, "float32"),
        unhot_copy(rule, stream.weights, "float32"),
        unhot_copy(rule, stream.weights, "float64"),
    ]


@pytest.mark.parametrize(("rule", "stream", "schedule"), product(EVERY, STREAMS, SCHEDULES), ids=label)
def test_as_dense_training(rule: Rule, stream: str, schedule: str) -> None:
    """Trained, and looked at in between, the tables hold what dense training would hold: four times on the way."""
    given = make(stream, schedule, rule.rate)
    train(given, *copies(rule, given), agree, guard=signs.guard(rule, given))


@pytest.mark.parametrize(("rule", "first"), product(EVERY, [1, 3, 60]), ids=label)
def test_one_touch_and_rest(rule: Rule, first: int) -> None:
    """8,000 weights of 0, touched once at step `first` by gradients of 1e-14 to 1e3, then at rest for 1, 2, 3, ... 128 steps.

    The weight is the movement, so the movement itself must be right to float32's last places, for every ratio of the root to
    epsilon; the rates differ by four decades from step to step.
    """
    rng = generator("rest", rule.id, first)
    rows, dim = 2000, 4
    gradients = rounded(10.0 ** rng.uniform(-14, 3, size=(rows, dim)) * rng.choice((-1.0, 1.0), size=(rows, dim)))
    steps = [
        Step(np.arange(rows), gradients) if s == first else Step(np.arange(0), gradients[:0]) for s in range(1, first + 129)
    ]
    for number, step in enumerate(steps, start=1):
        step.hyper["learning_rate"] = rounded(rule.rate * SCHEDULES["wandering"](number))
    given = Stream(np.zeros((rows, dim)), np.zeros((rows, dim)), steps)
    train(given, *copies(rule, given), agree, marks=[first + rest for rest in (1, 2, 3, 5, 9, 20, 50, 128)])


def test_betas_without_a_bounded_window_are_refused() -> None:
    """The domain of PyTorch's Adamax is stated, and what lies outside is refused with the remedy, never approximated."""
    outside = [pair for pair in BETAS if pair[0] > 0.99 * pair[1]]
    assert outside
    for beta_1, beta_2 in outside:
        with pytest.raises(ValueError, match=r"beta_1 must be at most 0\.99 beta_2.*convention='keras'"):
            unhot.Adamax(0.01, beta_1=beta_1, beta_2=beta_2, convention="torch")


def test_streams_are_what_they_are_meant_to_be() -> None:
    """Repeated ids, empty steps, rows never touched, gaps from 1 on, tiny and huge gradients; the same in every process."""
    for name in STREAMS:
        given = make(name, "constant", 1.0)
        touched = np.unique(np.concatenate([step.ids for step in given.steps]))
        assert len(touched) < len(given.weights) - UNTOUCHED + 1
        assert any(not len(step.ids) for step in given.steps)
        again = make(name, "constant", 1.0)
        assert all(np.array_equal(a.noise, b.noise) for a, b in zip(given.steps, again.steps, strict=True))
        assert all(np.array_equal(step.noise, rounded(step.noise)) for step in given.steps)
        if name != "gaps":
            assert any(len(np.unique(step.ids)) < len(step.ids) for step in given.steps)
    sizes = {name: np.abs(np.concatenate([step.noise for step in make(name, "constant", 1.0).steps])) for name in STREAMS}
    assert np.median(sizes["tiny"]) < 3e-10
    assert 1e14 < np.max(sizes["huge"]) < 1e16
    assert {line.convention for line in RULES} == {"keras", "torch"}


def test_every_rule_of_unhot_is_registered() -> None:
    """No rule, and no convention of one, is missing from the registry."""
    registered = {(line.name, line.convention) for line in RULES}
    for cls in unhot.optimizers.OPTIMIZERS.values():
        if cls.NO_DENSE:
            continue  # LazyAdam is tested in test_lazy.py
        for convention in cls.DEFAULTS:
            assert (cls.__name__, convention) in registered
