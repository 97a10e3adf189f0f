"""The comparison notices what it is for: each of these small mistakes, made on purpose, fails the suite."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import pytest

import unhot
from unhot.clock import panels
from unhot.engine import Engine

from .dense import Array
from .registry import Rule, named
from .streams import make
from .training import UnhotCopy, agree, dense_copy, train, unhot_copy, versions

(ADAM,) = named("Adam-torch")
(DECAY,) = named("AdamW-keras-weight_decay=0.3")


def check(rule: Rule, stream: str, dtype: str = "float32", copy: Callable[[UnhotCopy], UnhotCopy] = lambda copy: copy) -> None:
    given = make(stream, "wandering", rule.rate)
    tested = copy(unhot_copy(rule, given.weights, dtype))
    reference = dense_copy(rule, versions(given.weights), "float64")
    train(given, reference, [dense_copy(rule, given.weights, "float32"), tested], agree)


class Wrong(UnhotCopy):
    """A table with one mistake."""

    def __init__(self, copy: UnhotCopy) -> None:
        super().__init__(copy.table)


class StaleReads(Wrong):
    """Looks rows up without their deferred steps."""

    def lookup(self, ids: Array) -> Array:
        return self.table._engine.stores[0].weights[ids]


class LastOfRepeated(Wrong):
    """Takes one gradient of a repeated id instead of their sum."""

    def step(self, ids: Array, gradients: Array) -> None:
        rows, first = np.unique(ids, return_index=True)
        super().step(rows, gradients[first])


class Masked(Wrong):
    """SparseAdam's and LazyAdam's algorithm: rows without a gradient stand still."""

    def step(self, ids: Array, gradients: Array) -> None:
        engine = self.table._engine
        super().step(ids, gradients)
        if engine.last is not None:
            engine.last[:] = engine.now


class LateRate(Wrong):
    """Every step has the rate of the step before."""

    def assign(self, hyper: dict) -> None:
        before = self.__dict__.get("hyper", hyper)
        self.hyper = hyper
        super().assign(before)


@pytest.mark.parametrize("wrong", [StaleReads, LastOfRepeated, Masked, LateRate])
@pytest.mark.parametrize("rule", [ADAM, DECAY], ids=lambda rule: rule.id)
def test_a_wrong_table(wrong: type[Wrong], rule: Rule) -> None:
    check(rule, "closed")
    with pytest.raises(AssertionError, match="units in the last place away"):
        check(rule, "closed", copy=wrong)


@contextmanager
def other_hyperparameters(monkeypatch: pytest.MonkeyPatch, **factors: float) -> Iterator[None]:
    """unhot's optimizers of this test differ a little from the reference's."""
    make_optimizer = Rule.optimizer

    def optimizer(self: Rule, **hyper: float) -> unhot.optimizers.Optimizer:
        return make_optimizer(self, **{name: self.defaults[name] * factor for name, factor in factors.items()}, **hyper)

    with monkeypatch.context() as patch:
        patch.setattr(Rule, "optimizer", optimizer)
        yield


@pytest.mark.parametrize(("name", "factor", "stream"), [
    ("beta_1", 1 + 3e-6, "closed"), ("beta_2", 1 + 3e-6, "closed"),
    ("weight_decay", 1 + 1e-4, "gaps"), ("epsilon", 1.01, "tiny"),
])  # fmt: skip
def test_a_hyperparameter_that_is_a_little_off(name: str, factor: float, stream: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with other_hyperparameters(monkeypatch, **{name: factor}), pytest.raises(AssertionError, match="away"):
        check(DECAY, stream)
    with (
        other_hyperparameters(monkeypatch, **{name: 1 + (factor - 1) / 1e3}),
        pytest.raises(AssertionError, match="relative away"),
    ):
        check(DECAY, stream, "float64")


@pytest.mark.parametrize(("part", "factor"), [("series", 1e5), ("window", 1e9)])
def test_a_step_measure_that_is_too_coarse(part: str, factor: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """A series, or a window, that is cut too early (of a window's tail little is ever seen)."""
    need = panels.PRECISION["float64"]
    values = {**vars(need), part: vars(need)[part] * factor}
    monkeypatch.setitem(panels.PRECISION, "float64", panels.Precision(**values))
    panels.design.cache_clear()
    try:
        with pytest.raises(AssertionError, match="relative away"):
            check(ADAM, "gaps", "float64")
    finally:
        monkeypatch.undo()
        panels.design.cache_clear()


def test_a_sweep_that_misses_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows that the history has forgotten."""
    from .test_long_runs import check as check_long

    monkeypatch.setattr(Engine, "_sweep", lambda self, period: None)
    with pytest.raises(AssertionError, match="away"):
        check_long(DECAY, 10_000)
