"""An exception from a signal's handler, which comes right after a kernel, leaves a table whole, or one that says it is not."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
from snapshots import held

import unhot
from unhot import kernels
from unhot.engine import Engine

ROWS, DIM = 30, 4

RULES: dict[str, Callable[[], Any]] = {
    "adam": lambda: unhot.Adam(0.1),
    "momentum": lambda: unhot.SGD(0.1, momentum=0.9),
    "sgd": lambda: unhot.SGD(0.1),
    "adamax": lambda: unhot.Adamax(0.1, convention="torch"),
    "ftrl": lambda: unhot.Ftrl(0.1),
}


class Interrupted(BaseException):
    """What a handler raises, as KeyboardInterrupt is."""


@pytest.fixture
def interrupted(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Put a kernel's name into the list, and its next call ends with Interrupted after its work is done."""
    due: list[str] = []

    def once(name: str) -> None:
        kernel = getattr(kernels.active, name)

        def run(*arguments: Any) -> Any:
            result = kernel(*arguments)
            if name in due:
                due.remove(name)
                raise Interrupted
            return result

        monkeypatch.setattr(kernels.active, name, run)

    for name in ("step", "settle", "measure_extend", "matrix_extend"):
        once(name)
    return due


def trained(rule: str) -> unhot.Table:
    table = unhot.Table(ROWS, DIM, optimizer=RULES[rule](), seed=0)
    for i in range(20):
        table.step([i % 7, 20], np.full((2, DIM), 1.0 + i))
    return table


def same(a: unhot.Table, b: unhot.Table) -> None:
    first, second = held(a), held(b)
    assert first.keys() == second.keys()
    for name in first:
        np.testing.assert_array_equal(first[name], second[name])


@pytest.mark.parametrize("rule", RULES)
def test_a_step_that_was_made_is_recorded(rule: str, interrupted: list[str]) -> None:
    """The interruption is passed on, the step counts, and training goes on as if nothing had been."""
    table, other = trained(rule), trained(rule)
    table.accumulate([3], np.ones((1, DIM)))
    interrupted.append("step")
    with pytest.raises(Interrupted):
        table.step([5], np.ones((1, DIM)))
    other.step([3, 5], np.ones((2, DIM)))
    assert table.clock == other.clock
    for each in (table, other):
        each.step([8], np.ones((1, DIM)))
    same(table, other)


@pytest.mark.parametrize("rule", RULES)
def test_an_interrupted_settling_is_not_done_twice(rule: str, interrupted: list[str]) -> None:
    table, other = trained(rule), trained(rule)
    ids = np.arange(ROWS)
    before = table.lookup(ids)
    interrupted.append("settle")
    if rule == "sgd":  # nothing is deferred
        table.settle(ids)
        return
    with pytest.raises(Interrupted):
        table.settle(ids)
    np.testing.assert_array_equal(table.lookup(ids), before)
    for each in (table, other):
        each.step(ids[:9], np.ones((9, DIM)))
    np.testing.assert_allclose(table.array, other.array, rtol=1e-5, atol=1e-6)


def test_a_table_in_the_midst_of_a_step_says_so(interrupted: list[str]) -> None:
    """Where rows and clock do not belong together, nothing is read or written until a state is loaded."""
    table, other = trained("adam"), trained("adam")
    saved = table.state_dict()
    interrupted.append("measure_extend")
    with pytest.raises(Interrupted):
        table.step([5], np.ones((1, DIM)))
    for use in (
        lambda: table[1],
        lambda: table.array,
        lambda: table.bag([[1]]),
        lambda: table.step([1], np.ones((1, DIM))),
        table.settle,
        table.state_dict,
    ):
        with pytest.raises(RuntimeError, match="interrupted"):
            use()
    table.load_state_dict(saved)
    other.settle()
    same(table, other)


def test_an_error_before_the_step_is_made_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    table, other = trained("adam"), trained("adam")

    def fail(*_: Any) -> None:
        raise MemoryError

    monkeypatch.setattr(kernels.active, "step", fail)
    with pytest.raises(MemoryError):
        table.step([5], np.ones((1, DIM)))
    monkeypatch.undo()
    for each in (table, other):
        each.step([8], np.ones((1, DIM)))
    same(table, other)


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs interval timers")
def test_real_signals() -> None:
    """Signals at any time: after each the table goes on as an uninterrupted one, or says that it cannot."""
    if threading.current_thread() is not threading.main_thread():
        pytest.skip("signals come to the main thread")

    armed: list[bool] = []

    def handler(*_: Any) -> None:
        if armed:
            armed.clear()
            raise Interrupted

    rng = np.random.default_rng(0)
    table = unhot.Table(2000, 32, optimizer=unhot.Adam(0.01), seed=0)
    twin = unhot.Table(2000, 32, optimizer=unhot.Adam(0.01), seed=0)
    before = signal.signal(signal.SIGALRM, handler)
    refused = 0
    try:
        for _ in range(150):
            ids, gradients = rng.integers(2000, size=500), rng.normal(size=(500, 32))
            clock = table.clock
            with suppress(Interrupted):
                try:
                    armed.append(True)
                    signal.setitimer(signal.ITIMER_REAL, rng.uniform(1e-5, 3e-4))
                    table.step(ids, gradients)
                finally:
                    armed.clear()
                    signal.setitimer(signal.ITIMER_REAL, 0)
            try:
                made = table.clock != clock
                table.settle([0])
            except RuntimeError:
                refused += 1
                twin.step(ids, gradients)
                table.load_state_dict(twin.state_dict())
                continue
            if made:
                twin.step(ids, gradients)
            np.testing.assert_allclose(table[ids], twin[ids], rtol=1e-4, atol=1e-5)
    finally:
        signal.signal(signal.SIGALRM, before)
    assert refused < 75


def test_a_handler_that_saves_in_the_midst_of_a_lookup_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would wait for itself."""
    table = trained("adam")
    read = Engine.read

    def reading(self: Engine, ids: Any, out: Any) -> None:
        with pytest.raises(RuntimeError, match="in the midst of a lookup"):
            table.state_dict()
        monkeypatch.undo()
        assert table[[1]].shape == (1, DIM)
        read(self, ids, out)

    monkeypatch.setattr(Engine, "read", reading)
    assert table[[1, 2]].shape == (2, DIM)
