"""An exception of a signal's handler, at any moment, leaves a table before or after what it interrupted, and no lock taken.

So after each one the table is trained on and compared with dense float64 training: with the interrupted step, or without it.
"""

from __future__ import annotations

import copy
import os
import pickle
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from operator import call
from typing import Any

import numpy as np
import pytest
from conformance.dense import RULES as DENSE
from interrupts import Interrupted, before_bytecode, everywhere

import unhot
from unhot.atomic import Version

ROWS, DIM = 12, 2
LIMIT = 20.0

Batch = tuple[list[int], np.ndarray]

RULES: dict[str, dict[str, Any]] = {
    "Adam": {},
    "Adam torch": {},
    "AdamW": {"weight_decay": 0.1, "amsgrad": True},
    "NAdam": {},
    "RAdam torch": {},
    "SGD": {"momentum": 0.9},
    "SGD torch": {"momentum": 0.9, "dampening": 0.3, "weight_decay": 0.01},
    "SGD plain": {},
    "RMSprop": {"momentum": 0.5, "centered": True},
    "Adamax torch": {},
    "Lion": {"weight_decay": 0.1},
    "RowwiseAdagrad": {"weight_decay": 0.1},
    "Ftrl": {"l2_shrinkage_regularization_strength": 0.01},
}
"""Every family, and what its options add to the state of a table or of a history."""

RATE = 0.02


class Case:
    """A rule, tables that it has trained, and what dense training makes of the same steps."""

    def __init__(self, name: str) -> None:
        self.rule, convention = (*name.split(), "keras")[:2]
        convention = "torch" if convention == "torch" else "keras"
        self.hyper = {"learning_rate": RATE, **RULES[name]}
        self.given = {**self.hyper, **({"convention": "torch"} if convention == "torch" else {})}
        self.dense_class = DENSE[self.rule, convention]
        self.weights = np.random.default_rng(1).normal(size=(ROWS, DIM))
        self.first = [batch(i) for i in range(15)]  # the next step is followed by settling rows in turn

    def table(self, steps: Sequence[Batch]) -> unhot.Table:
        table = unhot.Table.from_array(self.weights, optimizer=getattr(unhot, self.rule)(**self.given))
        for ids, gradients in steps:
            table.step(ids, gradients)
        return table

    def dense(self, steps: Sequence[Batch]) -> np.ndarray:
        dense = self.dense_class(self.weights, **self.hyper)
        for ids, gradients in steps:
            whole = np.zeros((ROWS, DIM))
            np.add.at(whole, ids, gradients)
            dense.step(whole)
        return dense.w


def batch(seed: int) -> Batch:
    rng = np.random.default_rng(seed)
    ids = rng.integers(0, ROWS - 2, size=3).tolist()
    return ids, rng.normal(size=(3, DIM))


THEN = [batch(100), batch(101)]
"""The steps made after the interruption."""


def as_dense(table: unhot.Table, expected: np.ndarray) -> None:
    np.testing.assert_allclose(table.lookup(np.arange(ROWS)), expected, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(table.array, expected, rtol=1e-9, atol=1e-12)


@pytest.fixture(scope="module")
def others() -> Any:
    """Other threads, which a lock left taken would keep waiting."""
    with ThreadPoolExecutor(1) as pool:
        yield pool


def train_on(table: unhot.Table, others: ThreadPoolExecutor) -> None:
    """Some more steps, and a step and a lookup of another thread."""
    table.step(*THEN[0])
    others.submit(table.lookup, [1]).result(LIMIT)
    others.submit(table.step, *THEN[1]).result(LIMIT)


def stride_of(name: str, everything: bool = True) -> int:
    """Which bytecodes are tried: with Adam each; of the other rules every seventh; in the fast set a fifth of these."""
    return (1 if name == "Adam" else 7) * (1 if everything else 5)


@pytest.mark.parametrize("name", RULES)
def test_a_step(name: str, others: ThreadPoolExecutor) -> None:
    """The step is made and counted, with the gradients that waited for it, or neither; they wait on."""
    case, now = Case(name), batch(50)
    before = case.table(case.first)
    whole: Batch = ([3, *now[0]], np.concatenate([np.ones((1, DIM)), now[1]]))
    expected = [case.dense([*case.first, *THEN]), case.dense([*case.first, whole, *THEN])]
    seen = set()
    waiting: Batch = ([3], np.ones((1, DIM)))
    for table in everywhere(lambda: prepared(before, waiting), lambda table: table.step(*now), stride_of(name)):
        made = table.clock - before.clock
        assert len(table._pending) == 1 - made
        table._pending.clear()
        train_on(table, others)
        as_dense(table, expected[made])
        seen.add(made)
    assert seen == {0, 1}


def prepared(before: unhot.Table, waiting: Batch) -> unhot.Table:
    table = copy.deepcopy(before)
    table.accumulate(*waiting)
    table.lookup(waiting[0])
    return table


@pytest.mark.parametrize("name", RULES)
def test_the_first_step(name: str, others: ThreadPoolExecutor, everything: bool) -> None:
    case, now = Case(name), batch(50)
    expected = [case.dense(THEN), case.dense([now, *THEN])]
    for table in everywhere(lambda: case.table([]), lambda table: table.step(*now), 2 * stride_of(name, everything) - 1):
        made = table.clock
        train_on(table, others)
        as_dense(table, expected[made])


READS: dict[str, Callable[[unhot.Table], object]] = {
    "lookup": lambda table: table.lookup([1, 2, 1]),
    "bag": lambda table: table.bag([[1, 2], [4, 4]]),
    "array": lambda table: table.array,
    "settle": lambda table: table.settle(),
    "settle some": lambda table: table.settle([1, 11]),
    "state_dict": lambda table: table.state_dict(),
    "deepcopy": copy.deepcopy,
    "pickle": pickle.dumps,
    "accumulate": lambda table: table.accumulate([], np.zeros((0, DIM))),
}


@pytest.mark.parametrize("read", READS)
@pytest.mark.parametrize("name", ["Adam", "SGD", "Adamax torch", "Ftrl"])
def test_what_leaves_a_table_as_it_is(name: str, read: str, others: ThreadPoolExecutor, everything: bool) -> None:
    """Lookups, settling, states and copies: the table goes on as if they had not begun, or as if they had ended."""
    case = Case(name)
    before, expected = case.table(case.first), case.dense([*case.first, *THEN])
    for table in everywhere(lambda: copy.deepcopy(before), READS[read], stride_of(name, everything)):
        assert table.clock == before.clock
        train_on(table, others)
        as_dense(table, expected)


@pytest.mark.parametrize("name", RULES)
def test_load_state_dict(name: str, others: ThreadPoolExecutor, everything: bool) -> None:
    """The table is the one before or the one loaded: weights, clock, hyperparameters and what waits for a step."""
    case = Case(name)
    before, earlier = case.table(case.first), case.table(case.first[:6])
    state = earlier.state_dict()
    state["hyper.learning_rate"] = RATE / 2
    halved = {**case.hyper, "learning_rate": RATE / 2}
    steps = case.first[:6]
    loaded = case.dense_class(case.weights, **case.hyper)
    for i, (ids, gradients) in enumerate([*steps, *THEN]):
        loaded.h.learning_rate = case.hyper["learning_rate"] if i < len(steps) else halved["learning_rate"]
        whole = np.zeros((ROWS, DIM))
        np.add.at(whole, ids, gradients)
        loaded.step(whole)
    expected = {15: case.dense([*case.first, *THEN]), 6: loaded.w}
    seen = set()
    load = lambda table: table.load_state_dict(state)  # noqa: E731
    stride = 2 * stride_of(name, everything or name != "Adam") - 1
    for table in everywhere(lambda: prepared(before, ([3], np.ones((1, DIM)))), load, stride):
        clock = table.clock
        assert len(table._pending) == (clock == 15)
        assert table.optimizer.learning_rate == (RATE if clock == 15 else RATE / 2)
        table._pending.clear()
        train_on(table, others)
        as_dense(table, expected[clock])
        seen.add(clock)
    assert seen == {6, 15}


CHANGES: dict[str, tuple[str, dict[str, Any]]] = {
    "a momentum that needs a longer history": ("Adam", {"beta_1": 0.97}),
    "the same, crossing": ("Adamax torch", {"beta_1": 0.95}),
    "a hyperparameter that the clock does not record": ("Adam", {"epsilon": 1e-3}),
    "a rate that makes weights grow": ("AdamW", {"learning_rate": 25.0}),
    "a rate that reaches back": ("Adam", {"learning_rate": 1e4}),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_step_with_changed_hyperparameters(change: str, others: ThreadPoolExecutor, everything: bool) -> None:
    """Which may settle all rows, begin another history or open closed blocks of it before the step."""
    name, hyper = CHANGES[change]
    case, now = Case(name), batch(50)
    steps = [batch(i % 40) for i in range(15 if "reaches" not in change else 300)]
    before = case.table(steps)

    def dense(later: Sequence[Batch]) -> np.ndarray:
        dense = case.dense_class(case.weights, **case.hyper)
        for i, (ids, gradients) in enumerate([*steps, *later]):
            if i == len(steps):
                vars(dense.h).update(hyper)
            whole = np.zeros((ROWS, DIM))
            np.add.at(whole, ids, gradients)
            dense.step(whole)
        return dense.w

    def prepare() -> unhot.Table:
        table = copy.deepcopy(before)
        for name, value in hyper.items():
            setattr(table.optimizer, name, value)
        return table

    expected = [dense(THEN), dense([now, *THEN])]
    for table in everywhere(prepare, lambda table: table.step(*now), 5 if everything else 23):
        made = table.clock - before.clock
        train_on(table, others)
        scale = np.abs(expected[made]).max()
        np.testing.assert_allclose(table.array, expected[made], rtol=1e-9, atol=1e-12 * scale)


def test_a_step_that_fails_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case("Adam")
    table = case.table(case.first)

    def fail(*_: Any) -> None:
        raise MemoryError

    with monkeypatch.context() as patched:
        patched.setattr(unhot.kernels.active.stores, "step", fail)
        with pytest.raises(MemoryError):
            table.step(*batch(50))
    for each in THEN:
        table.step(*each)
    as_dense(table, case.dense([*case.first, *THEN]))


WORKS: dict[str, Callable[[unhot.Table], object]] = {
    "step": lambda table: table.step(*batch(50)),
    "array": lambda table: table.array,
    "settle": lambda table: table.settle(),
    "state_dict": lambda table: table.state_dict()["weights"],
    "lookup": lambda table: table.lookup(np.arange(ROWS)),
    "deepcopy": copy.deepcopy,
}
HANDLERS: dict[str, Callable[[unhot.Table], object]] = {
    "looks": lambda table: table.lookup([1, 2]),
    "saves": lambda table: table.state_dict(),
    "steps": lambda table: table.step(*batch(51)),
}


@pytest.mark.parametrize("handler", HANDLERS)
@pytest.mark.parametrize("work", WORKS)
def test_a_handler_may_use_the_table(work: str, handler: str) -> None:
    """At any moment a handler may look up, save or step the table; what it interrupted is still of whole steps."""
    case = Case("Adam")
    before = case.table(case.first)
    orders = [[batch(51)], [batch(50), batch(51)], [batch(51), batch(50)]] if handler == "steps" else [[], [batch(50)]]
    ends = [case.dense([*case.first, *steps, *THEN]) for steps in orders]
    shown = [case.dense(case.first), case.dense([*case.first, batch(51)])]
    for at in range(0, 6000, 29):
        table, found = copy.deepcopy(before), []
        if not before_bytecode(
            lambda table=table, found=found: found.append(WORKS[work](table)), at, lambda table=table: HANDLERS[handler](table)
        ):
            break
        if isinstance(found[0], unhot.Table):
            found[0] = found[0].array
        if found[0] is not None:
            assert any(np.allclose(found[0], weights, rtol=1e-9) for weights in shown)
        for each in THEN:
            table.step(*each)
        assert any(np.allclose(table.array, weights, rtol=1e-9, atol=1e-12) for weights in ends)
    else:
        raise AssertionError("there is no end")


def test_a_handler_that_steps_takes_the_gradients_that_wait() -> None:
    """They are used once: by its step or by the interrupted one."""
    new = lambda: unhot.Table(5, 1, optimizer=unhot.SGD(1.0), init="zeros", dtype="float64")  # noqa: E731
    for at in range(0, 3000, 7):
        table = new()
        table.accumulate([3], [[1.0]])
        step = lambda row, table=table: table.step([row], [[1.0]])  # noqa: E731
        if not before_bytecode(lambda step=step: step(2), at, lambda step=step: step(1)):
            return
        np.testing.assert_array_equal(table.array[:, 0], [0, -1, -1, -1, 0])
    raise AssertionError("the step has no end")


def test_ids_that_change_while_they_are_looked_up() -> None:
    """What is kept of a lookup for the next one belongs to the ids that it was found for."""
    before = Case("Adam").table(Case("Adam").first)
    expected = before.array
    for at in range(0, 3000, 5):
        table, ids = copy.deepcopy(before), np.array([1, 2])
        going_on = before_bytecode(
            lambda table=table, ids=ids: table.lookup(ids), at, lambda ids=ids: ids.__setitem__(slice(None), [4, 5])
        )
        np.testing.assert_allclose(table.lookup([4, 5]), expected[[4, 5]], rtol=1e-12)
        if not going_on:
            return
    raise AssertionError("the lookup has no end")


@pytest.mark.skipif(not hasattr(signal, "SIGALRM"), reason="needs signals")
def test_a_change_that_is_refused_while_a_signal_waits() -> None:
    """Its number stays, so that the table is not refused afterwards."""

    def handler(*_: Any) -> None:
        raise Interrupted

    version = Version()
    before = signal.signal(signal.SIGALRM, handler)
    try:
        refuse = partial(deque, map(call, [partial(os.kill, os.getpid(), signal.SIGALRM), partial(int, "no number")]))
        with pytest.raises((Interrupted, ValueError)):
            version.change(0, [refuse])
    except Interrupted:  # right after
        pass
    finally:
        signal.signal(signal.SIGALRM, before)
    assert version.number == 0


@pytest.mark.parametrize("name", RULES)
def test_numpys_error_settings(name: str) -> None:
    """Underflow is part of the arithmetic of decays: `np.seterr(all="raise")` changes nothing."""
    case = Case(name)
    tables = []
    for setting in ("raise", "ignore"):
        with np.errstate(all=setting):
            table = case.table([])
            table.optimizer.learning_rate = 1e-3
            for i in range(1500):
                table.step([i % 3], np.full((1, DIM), 1e-3))
            table.lookup(np.arange(ROWS))
            tables.append(table.array)
    np.testing.assert_array_equal(*tables)


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs interval timers")
@pytest.mark.parametrize("name", ["Adam", "SGD plain"])
def test_real_signals(name: str) -> None:
    """Signals at any time in an ordinary loop: after each the table is where dense training is, and other threads go on."""
    if threading.current_thread() is not threading.main_thread():
        pytest.skip("signals come to the main thread")
    armed: list[bool] = []

    def handler(*_: Any) -> None:
        if armed:
            armed.clear()
            raise Interrupted

    def work(table: unhot.Table, given: Batch) -> None:
        table.lookup(given[0])
        table.step(*given)
        table.settle([3])

    case, rng = Case(name), np.random.default_rng(0)
    table, made, interrupted = case.table([]), [], 0
    spare, begun = case.table([]), time.perf_counter()
    for i in range(20):
        work(spare, batch(i))
    usual = (time.perf_counter() - begun) / 20  # signals come during, and some after, what takes so long
    before = signal.signal(signal.SIGALRM, handler)
    try:
        for i in range(600):
            now, clock = batch(i), table.clock
            try:
                try:
                    armed.append(True)
                    signal.setitimer(signal.ITIMER_REAL, rng.uniform(0.02, 1.5) * usual)
                    work(table, now)
                finally:
                    armed.clear()
                    signal.setitimer(signal.ITIMER_REAL, 0)
            except Interrupted:
                interrupted += 1
            if table.clock != clock:
                made.append(now)
            assert table.clock == len(made)
    finally:
        signal.signal(signal.SIGALRM, before)
    assert made
    assert interrupted
    as_dense(table, case.dense(made))
