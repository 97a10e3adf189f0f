"""Threads and forked processes: steps are serialised, every lookup shows one settled state, and a child can go on.

Every wait has a limit, so that a deadlock is a failure.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import textwrap
import threading
from itertools import combinations

import numpy as np
import pytest
from snapshots import RULES, assert_held, held
from threaded import LIMIT, together

import unhot
from unhot.atomic import Lock, Version


@pytest.mark.parametrize("rule", RULES)
def test_two_threads_that_step_equal_a_serial_order(rule: str) -> None:
    """Three steps of one thread and three of another give the bits of one of the 20 orders that keep each thread's own."""
    generator = np.random.default_rng(0)
    steps = {
        who: [(generator.integers(0, 6, size=4), generator.normal(size=(4, 3))) for _ in range(3)] for who in ("left", "right")
    }
    table = unhot.Table(6, 3, optimizer=RULES[rule](), seed=0)
    together(*(lambda who=who: [table.step(*step) for step in steps[who]] for who in steps))
    assert table.clock == 6
    found = table.array.tobytes()
    orders = []
    for places in combinations(range(6), 3):
        serial = unhot.Table(6, 3, optimizer=RULES[rule](), seed=0)
        turns = {who: iter(steps[who]) for who in steps}
        for turn in range(6):
            serial.step(*next(turns["left" if turn in places else "right"]))
        orders.append(serial.array.tobytes())
    assert found in orders


def test_no_step_and_no_gradient_is_lost() -> None:
    """Four threads that step and accumulate: every step is counted, every gradient used once."""
    table = unhot.Table(8, 2, optimizer=unhot.SGD(1.0), init="zeros", dtype="float64")
    rounds = 100

    def work(number: int) -> None:
        for i in range(rounds):
            ids = np.array([number, (number + i) % 8, 7])
            grads = np.ones((3, 2))
            if i % 2:
                table.step(ids, grads)
            else:
                table.accumulate(ids, grads)

    together(*(lambda number=number: work(number) for number in range(4)))
    table.step()
    assert table.clock == 4 * rounds // 2 + 1
    expected = np.zeros(8)
    for number in range(4):
        for i in range(rounds):
            np.add.at(expected, [number, (number + i) % 8, 7], -1.0)
    np.testing.assert_array_equal(table.array, np.stack([expected, expected], axis=1))


@pytest.mark.parametrize("rule", ["sgd", "sgd momentum", "adam", "adam torch", "adamax torch", "lion", "ftrl"])
def test_lookups_while_another_thread_steps(rule: str) -> None:
    """Every lookup, bag and product shows all its rows as they stood after one and the same step."""
    rows, dim, count = 64, 8, 120
    table, alone = (unhot.Table(rows, dim, optimizer=RULES[rule](), seed=0) for _ in range(2))
    generator = np.random.default_rng(0)
    steps = [(generator.integers(0, rows, size=5), generator.normal(size=(5, dim))) for _ in range(count)]
    everywhere, bag = np.arange(rows), np.arange(rows)[None]
    states, bags = {alone.lookup(everywhere).tobytes(): 0}, {alone.bag(bag).tobytes(): 0}
    for number, step in enumerate(steps, 1):
        alone.step(*step)
        states.setdefault(alone.lookup(everywhere).tobytes(), number)
        bags.setdefault(alone.bag(bag).tobytes(), number)
    done = threading.Event()

    def write() -> None:
        for step in steps:
            table.step(*step)
        done.set()

    def read() -> None:
        seen = [0]
        while not done.is_set():
            found = table.lookup(everywhere, out=np.empty((rows, dim), np.float32)).tobytes()
            assert found in states
            seen.append(states[found])
            assert table.bag(bag).tobytes() in bags
            assert table.matmul(np.ones((1, rows))).tobytes() in bags
        assert seen == sorted(seen), "a later lookup showed an earlier state"

    together(write, read, read)
    assert_held(table, held(alone))


def test_readers_and_settlers_together() -> None:
    """Settling, `array`, states and copies in other threads show whole steps too, and lookups run among themselves."""
    table = unhot.Table(50, 4, optimizer=unhot.SGD(1.0, weight_decay=1e-30), init="zeros", dtype="float64")
    done = threading.Event()

    def write() -> None:
        for _ in range(200):
            table.step(np.arange(50), np.ones((50, 4)))
        done.set()

    def whole(weights: np.ndarray, clock: float | None = None) -> None:
        assert (weights == weights[0, 0]).all()
        assert clock is None or weights[0, 0] == -clock

    def look() -> None:
        while not done.is_set():
            whole(table[np.arange(50)])

    def keep() -> None:
        while not done.is_set():
            table.settle([3, 4])
            table.settle()
            whole(table.array)
            state = table.state_dict()
            whole(state["weights"], state["clock"])
            for copied in (pickle.loads(pickle.dumps(table)), unhot.Table.__copy__(table)):
                whole(copied.array, copied.clock)

    together(write, look, look, keep)
    whole(table.array, 200)


def test_training_two_tables_in_two_threads() -> None:
    """Tables do not disturb each other, not even in the threads of the kernels that they share."""
    ids, grads = np.arange(3000), np.random.default_rng(0).normal(size=(3000, 64)).astype(np.float32)
    tables = [unhot.Table(4000, 64, optimizer=unhot.Adam(0.1), seed=0) for _ in range(3)]

    def work(table: unhot.Table) -> None:
        for i in range(10):
            table.lookup(ids + i)
            table.step(ids + i, grads)

    work(tables[0])
    together(*(lambda table=table: work(table) for table in tables[1:]))
    for table in tables[1:]:
        assert_held(table, held(tables[0]))


def test_an_error_lets_go_of_the_lock() -> None:
    """After a failed step, lookup and load, other threads can read and write."""
    table = unhot.Table(4, 2, optimizer=unhot.Adam(lambda step: None), seed=0)

    def fail() -> None:
        for call in (
            lambda: table.step([1], [[1.0, 2.0]]), lambda: table.lookup([9]), lambda: table.load_state_dict({}),
            lambda: table.lookup([1], out=np.empty(1)),
        ):  # fmt: skip
            with pytest.raises((TypeError, ValueError, IndexError)):
                call()

    together(fail, fail)
    table.optimizer.learning_rate = 0.1
    together(lambda: table.step([1], [[1.0, 2.0]]), lambda: table.lookup([1]), lambda: table.array)


def test_neither_readers_nor_writers_that_never_pause_keep_the_other_waiting() -> None:
    table = unhot.Table(2000, 16, optimizer=unhot.Adam(0.1), seed=0)
    ids, done, looked = np.arange(2000), threading.Event(), threading.Event()

    def write() -> None:
        for i in range(50):
            table.step(ids[i:], np.ones((2000 - i, 16)))
        assert looked.wait(LIMIT)
        done.set()

    def read() -> None:
        found = 0
        while not done.is_set():
            table.lookup(ids)
            found += 1
            if found == 50:
                looked.set()

    together(write, read, read)


def test_a_lock_lets_its_own_thread_in_and_keeps_others_out() -> None:
    lock, inside, checked = Lock(), threading.Event(), threading.Event()
    order: list[str] = []

    def first() -> None:
        def work() -> str:
            inside.set()
            lock.holding(lambda: order.append("again"))
            assert not checked.wait(0.1)
            order.append("first")
            return "result"

        assert lock.holding(work) == "result"

    def second() -> None:
        assert inside.wait(LIMIT)
        lock.holding(lambda: order.append("second"))
        checked.set()

    together(first, second)
    assert order == ["again", "first", "second"]


def test_a_change_is_made_of_what_it_was_prepared_for_or_not_at_all() -> None:
    version, made = Version(), []
    assert version.change(0, [lambda: made.append(version.number)])
    assert made == [-1]
    assert version.number == 1
    assert not version.change(0, [lambda: made.append(0)])
    assert made == [-1]

    def refuse() -> None:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        version.change(1, [refuse])
    assert version.number == 1
    with pytest.raises(ValueError, match="no"):  # it has changed something by then
        version.change(1, [made.clear, refuse])
    assert version.number == -1


FORK = """
import os, pickle, signal, sys, threading, warnings
import numpy as np
import unhot

warnings.simplefilter("ignore", DeprecationWarning)  # Python warns of forking with threads
unhot.set_num_threads(2)
rows, dim = 20_000, 64
ids = np.arange(10_000)
grads = np.ones((10_000, dim), np.float32)
table = unhot.Table(rows, dim, optimizer=unhot.Adam(0.1), seed=0)
table.step(ids, grads)
table.lookup(ids)  # the threads of the kernels are awake

def go_on(table):
    table.step(ids[:5000] + 3, grads[:5000])
    return table.lookup(ids).tobytes() + table.array.tobytes()

def go_on_or_refuse(table):
    # a table that another thread was stepping when the child was forked may be in the midst of it
    try:
        return go_on(table)
    except RuntimeError as error:
        assert "left in the midst of a step" in str(error), error
        return b"refused"

def in_child(work):
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        signal.alarm(30)
        code = 1
        try:
            os.close(read)
            with os.fdopen(write, "wb") as file:
                file.write(work())
            code = 0
        finally:
            os._exit(code)
    os.close(write)
    with os.fdopen(read, "rb") as file:
        result = file.read()
    _, status = os.waitpid(child, 0)
    assert status == 0, status
    return result

{body}
print("done")
"""


def forked(body: str) -> None:
    """Run the body in a process of its own, and its children with it, for a minute at most."""
    script = FORK.replace("{body}", textwrap.dedent(body))
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=LIMIT, check=False)
    assert result.stdout.endswith("done\n"), result.stdout + result.stderr


if hasattr(os, "fork"):

    def test_a_forked_child_goes_on() -> None:
        """A child looks up and steps with the bits of its parent, whose table it does not change; so does a child's child."""
        forked(
            """
            copied = pickle.loads(pickle.dumps(table))
            expected = go_on(copied)
            before = table.array.tobytes()
            assert in_child(lambda: go_on(table)) == expected
            assert in_child(lambda: in_child(lambda: go_on(table))) == expected
            assert table.array.tobytes() == before
            assert go_on(table) == expected
            """
        )

    def test_a_child_forked_while_other_threads_are_at_work() -> None:
        """Neither a lock nor the kernels' threads keep a child waiting that was forked while others held them."""
        forked(
            """
            other = unhot.Table(rows, dim, optimizer=unhot.SGD(0.1), seed=1)
            stop = threading.Event()

            def read():
                while not stop.is_set():
                    table.lookup(ids)

            def write():
                while not stop.is_set():
                    other.step(ids, grads)

            threads = [threading.Thread(target=work, daemon=True) for work in (read, read, write)]
            for thread in threads:
                thread.start()
            expected = go_on(pickle.loads(pickle.dumps(table)))
            for _ in range(6):
                assert in_child(lambda: go_on(table)) == expected
                assert len(in_child(lambda: go_on_or_refuse(other))) > 0
            stop.set()
            for thread in threads:
                thread.join(20)
                assert not thread.is_alive()
            """
        )
