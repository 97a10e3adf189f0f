"""Saving, loading, pickling and copying: training goes on bit for bit, and what does not fit changes nothing."""

from __future__ import annotations

import copy
import io
import pickle
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from snapshots import DTYPES, RULES, assert_bits, assert_held, held, train, trained

import unhot


def half(step: int) -> float:
    """A learning rate that can be pickled."""
    return 0.5 / step


def through_file(state: Mapping[str, Any]) -> Mapping[str, Any]:
    """The state as numpy.savez wrote and numpy.load read it, without pickles."""
    file = io.BytesIO()
    np.savez(file, **state)
    file.seek(0)
    return np.load(file, allow_pickle=False)


WAYS: dict[str, Callable[[Mapping[str, Any]], Mapping[str, Any]]] = {
    "as it is": lambda state: state,
    "through a file": through_file,
    "arrays in Fortran order, read-only": lambda state: {
        name: np.broadcast_to(np.asfortranarray(value), value.shape) if np.ndim(value) else value
        for name, value in state.items()
    },
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rule", RULES)
def test_training_goes_on_bit_for_bit(rule: str, dtype: str, way: str) -> None:
    """A state loaded into a table with other weights, hyperparameters and history goes on as the table it came from."""
    table, other = trained(rule, dtype=dtype, steps=30), trained(rule, dtype=dtype, seed=9)
    other.optimizer.learning_rate = 0.77
    other.accumulate([1], np.ones((1, 3)))
    other.load_state_dict(WAYS[way](table.state_dict()))
    assert other.clock == 30
    assert other.optimizer == table.optimizer
    assert_bits(other.lookup(np.arange(9)), table.lookup(np.arange(9)))
    for t in (table, other):
        train(t, 40, seed=3)
    assert_bits(other.array, table.array)
    assert_held(other, held(table))


@pytest.mark.parametrize("rule", RULES)
def test_into_a_table_that_has_not_been_trained(rule: str) -> None:
    """The usual way to resume: a new table of the same shape, dtype and rule."""
    table, other = trained(rule), unhot.Table(9, 3, optimizer=RULES[rule]())
    other.load_state_dict(table.state_dict())
    for t in (table, other):
        train(t, 20, seed=3)
    assert_bits(other.array, table.array)


@pytest.mark.parametrize("rule", RULES)
def test_back_in_time(rule: str) -> None:
    """A table that loads its own earlier state does the same steps again with the same bits."""
    table = trained(rule)
    state = table.state_dict()
    train(table, 10, seed=1)
    first = held(table)
    table.load_state_dict(state)
    train(table, 10, seed=1)
    assert_held(table, first)


def test_a_state_is_flat_and_plain() -> None:
    """Arrays under names, so that formats which hold arrays alone take it as it is: numpy.savez, safetensors."""
    for rule in RULES:
        for name, value in trained(rule).state_dict().items():
            assert type(name) is str
            assert type(value) is np.ndarray, name
            assert value.dtype.kind in "iufb", name
    assert sorted(trained("adam").state_dict()) == [
        "clock", "format", "generator", "hyper.amsgrad", "hyper.beta_1", "hyper.beta_2", "hyper.convention",
        "hyper.decoupled_weight_decay", "hyper.epsilon", "hyper.learning_rate", "hyper.weight_decay", "init", "rule",
        "slot.momentum", "slot.velocity", "state.kept_of_weight", "state.largest_beta", "weights",
    ]  # fmt: skip


@pytest.mark.parametrize("rule", RULES)
def test_a_state_shares_no_memory_with_its_tables(rule: str) -> None:
    """Steps do not change a state, and changing a state changes neither the table it came from nor the one it went into."""
    table, other = trained(rule), unhot.Table(9, 3, optimizer=RULES[rule]())
    state = table.state_dict()
    kept = copy.deepcopy(state)
    before = held(table)
    other.load_state_dict(state)
    loaded = held(other)
    for value in state.values():
        value[...] = 0
    assert_held(table, before)
    assert_held(other, loaded)
    state = table.state_dict()
    train(table, 5, seed=1)
    for name, value in kept.items():
        np.testing.assert_array_equal(state[name], value)


@pytest.mark.parametrize("rule", RULES)
def test_taking_a_state_settles(rule: str) -> None:
    """Its weights are what lookups showed, and they go on showing it."""
    table = trained(rule)
    shown = table.lookup(np.arange(9))
    assert_bits(table.state_dict()["weights"], shown)
    assert_bits(table.lookup(np.arange(9)), shown)


def test_a_callable_learning_rate_is_not_part_of_it() -> None:
    """The table that loads keeps its own; it goes on with the step after the loaded clock."""
    table, other = (unhot.Table(9, 3, optimizer=unhot.Adam(half), seed=i) for i in range(2))
    train(table, 10, seed=0)
    state = table.state_dict()
    assert "hyper.learning_rate" not in state
    other.load_state_dict(through_file(state))
    assert other.optimizer.learning_rate is half
    train(table, 10, seed=1)
    train(other, 10, seed=1)
    assert_held(other, held(table))


def test_of_a_table_without_an_optimizer() -> None:
    """Weights and clock only; the trained weights of another table can be loaded into it for serving."""
    table = unhot.Table(9, 3, seed=0)
    assert sorted(table.state_dict()) == ["clock", "format", "generator", "init", "weights"]
    source = trained("adam torch")
    table.load_state_dict(through_file(source.state_dict()))
    assert_bits(table.array, source.array)
    assert table.clock == source.clock


@pytest.mark.parametrize("make", [unhot.SGD, unhot.RMSprop], ids=lambda make: make.__name__)
def test_a_momentum_that_stands_at_zero_keeps_its_slot(make: Callable[..., Any]) -> None:
    """Saved and resumed while a schedule has brought the momentum to 0, the table goes on when it rises again."""
    table, other = (unhot.Table(9, 3, optimizer=make(0.1, momentum=0.9), seed=i) for i in range(2))
    train(table, 10, seed=0)
    table.optimizer.momentum = 0.0
    train(table, 2, seed=1)
    other.load_state_dict(table.state_dict())
    for t in (table, other):
        train(t, 2, seed=2)
        t.optimizer.momentum = 0.8
        train(t, 10, seed=3)
    assert_held(other, held(table))


def test_an_amsgrad_maximum_that_is_behind() -> None:
    """A state from elsewhere may hold less than the second moment, which rows at rest take up as dense ones would."""
    start = np.arange(8.0).reshape(4, 2)
    table = unhot.Table.from_array(start, optimizer=unhot.Adam(0.1, amsgrad=True))
    table.step(np.arange(4), start + 1.0)
    state = table.state_dict()
    state["slot.largest_velocity"][...] = 0.0
    table.load_state_dict(state)
    table.step([0], np.ones((1, 2)))
    momentum, velocity = 0.9 * state["slot.momentum"], 0.999 * state["slot.velocity"]
    moved = 0.1 * np.sqrt(1 - 0.999**2) / (1 - 0.9**2) * momentum / (np.sqrt(velocity) + 1e-7)
    np.testing.assert_allclose(table.array[1:], (state["weights"] - moved)[1:], rtol=1e-12)
    np.testing.assert_allclose(table.state_dict()["slot.largest_velocity"][1:], velocity[1:], rtol=1e-12)


def test_gradients_that_wait() -> None:
    """A state has no place for them: the error says to step first; loading drops them."""
    table = trained("adam")
    table.accumulate([1], np.ones((1, 3)))
    before = held(table)
    with pytest.raises(RuntimeError, match=r"gradients given to `accumulate` wait for a step: call `step\(\)`"):
        table.state_dict()
    assert_held(table, before)
    other = trained("adam")
    table.load_state_dict(other.state_dict())
    assert_held(table, held(other))


def test_a_state_from_numpy_scalars() -> None:
    """What other formats make of numbers and strings: 0-d arrays and NumPy's scalars."""
    table, other = trained("nadam"), trained("nadam", seed=4)
    state = {name: np.asarray(value) for name, value in table.state_dict().items()}
    other.load_state_dict(state)
    assert type(other.optimizer.learning_rate) is float
    assert type(other.optimizer.decoupled_weight_decay) is bool
    assert type(other.optimizer.convention) is str
    train(table, 5, seed=1)
    train(other, 5, seed=1)
    assert_held(other, held(table))


W = np.zeros((9, 3), np.float32)
BROKEN: dict[str, tuple[dict[str, Any], str]] = {
    "no weights": ({"weights": None}, r"the state has no 'weights'; it was not made by this table's `state_dict`"),
    "no clock": ({"clock": None}, "the state has no 'clock'"),
    "no format": ({"format": None}, "the state has no 'format'"),
    "no rule": ({"rule": None}, "the state has no 'rule'"),
    "no slot": ({"slot.velocity": None}, "the state has no 'slot.velocity'"),
    "no number of the rule": ({"state.momentum_product": None}, "the state has no 'state.momentum_product'"),
    "another format": ({"format": 99}, "the state has format 99; this version of unhot reads formats 1 to 2"),
    "another rule": ({"rule": "Adam"}, "the state was trained with Adam, and the table has NAdam"),
    "rows": ({"weights": W[:8]}, r"'weights' must have shape \(9, 3\) and dtype float32\. Received: shape \(8, 3\)"),
    "dim": ({"slot.momentum": W[:, :2]}, r"'slot\.momentum' must have shape \(9, 3\).* Received: shape \(9, 2\)"),
    "dtype": ({"slot.momentum": W.astype(np.float64)}, "dtype float32.* Received: .*dtype float64"),
    "epsilon 0": ({"hyper.epsilon": 0.0}, "`epsilon` must lie in"),
    "rate NaN": ({"hyper.learning_rate": np.nan}, "`learning_rate` must lie in"),
    "no convention": ({"hyper.convention": "jax"}, "`convention` must be 'keras' or 'torch'. Received: 'jax'"),
    "coupled decay": ({"hyper.convention": "torch"}, "`weight_decay` is coupled"),
    "no state at all": (dict.fromkeys(trained("nadam").state_dict()), "the state has no 'format'"),
}


BROKEN |= {
    f"{name} {value!r}": ({name: value}, rf"the state's '{name}' must .* Received: {re.escape(repr(value)[:3])}")
    for name in ("clock", "state.momentum_product", "state.largest_beta")
    for value in (
        -1, -3.0, -0.5, 1.5, np.nan, np.inf, -np.inf, 2**40, 10**400, True, np.True_, "3", [3], 1j, np.array([1]),
    )
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_a_state_that_does_not_fit(name: str) -> None:
    """A ValueError that names what does not fit; table and optimizer are as they were, and go on as if nothing had been."""
    change, message = BROKEN[name]
    table, untouched = trained("nadam"), trained("nadam")
    for t in (table, untouched):
        t.accumulate([2], np.ones((1, 3)))
    state = {**trained("nadam", seed=4, steps=20).state_dict(), "hyper.learning_rate": 0.5, **change}
    state = {key: value for key, value in state.items() if value is not None}
    before = held(table)
    with pytest.raises(ValueError, match=message):
        table.load_state_dict(state)
    assert_held(table, before)
    for t in (table, untouched):
        train(t, 10, seed=3)
    assert_held(table, held(untouched))


UNBOUNDED = {
    "state.kept_of_weight",
    "state.momentum_of_weight",
    "state.first_shrinkage",
    *(f"state.shrunk_{k}" for k in range(16)),
}
"""Numbers of which training may make any other."""


@pytest.mark.parametrize("rule", RULES)
def test_numbers_of_every_rules_state(rule: str) -> None:
    """Each number beside the arrays is refused where it is none, or lies where training never brings it."""
    state = trained(rule).state_dict()
    table = trained(rule, seed=4)
    before = held(table)
    for name in ["clock", *(name for name in state if name.startswith("state."))]:
        below = [] if name in UNBOUNDED else [-1.0]
        for value in (*below, np.nan, np.inf, True, "x", None):
            with pytest.raises(ValueError, match=f"'{name}' must"):
                table.load_state_dict({**state, name: value})
            assert_held(table, before)


@pytest.mark.parametrize("clock", [10, 10.0, np.float32(10), np.uint8(10), np.array(10)], ids=lambda clock: repr(clock))
def test_a_clock_of_any_real_type(clock: Any) -> None:
    """Other formats may have made a float of it."""
    table, other = trained("nadam", steps=10), trained("nadam", seed=4)
    other.load_state_dict({**table.state_dict(), "clock": clock})
    assert_held(other, held(table))


def test_no_mapping() -> None:
    """Anything but a mapping is refused, and the table is as it was."""
    table = trained("adam")
    before = held(table)
    for state in (None, 3, [1, 2], "state", Path("state.npz")):
        with pytest.raises((TypeError, ValueError)):
            table.load_state_dict(state)
    assert_held(table, before)


@pytest.mark.parametrize("name", ["nadam", "sgd", "adamax torch"])
def test_a_truncated_file(name: str, tmp_path: Path) -> None:
    """A damaged file fails as it is read, before anything is taken over."""
    table = trained(name)
    path = tmp_path / "state.npz"
    np.savez(path, **trained(name, seed=5, steps=20).state_dict())
    damaged = bytearray(path.read_bytes())
    where = damaged.find(b"NUMPY", damaged.find(b"slot") if name != "sgd" else damaged.find(b"weights"))
    damaged[where + 130] ^= 0xFF
    path.write_bytes(damaged)
    before = held(table)
    with pytest.raises(Exception, match=r"CRC"):
        table.load_state_dict(np.load(path))
    assert_held(table, before)


COPIES: dict[str, Callable[[unhot.Table], unhot.Table]] = {
    "pickle": lambda table: pickle.loads(pickle.dumps(table)),
    "old pickle": lambda table: pickle.loads(pickle.dumps(table, protocol=2)),
    "deepcopy": copy.deepcopy,
    "copy": copy.copy,
}


@pytest.mark.parametrize("way", COPIES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rule", RULES)
def test_copies(rule: str, dtype: str, way: str) -> None:
    """A copy holds the same, deferred steps and waiting gradients too, goes on with the same bits, and shares nothing."""
    table = trained(rule, dtype=dtype, steps=30)
    table.accumulate([1], np.ones((1, 3)))
    before = held(table)
    other = COPIES[way](table)
    assert_held(table, before)
    assert_held(other, before)
    train(other, 20, seed=1)
    other.optimizer.learning_rate = 0.9
    assert_held(table, before)
    other.optimizer.learning_rate = table.optimizer.learning_rate
    train(table, 20, seed=1)
    assert_held(other, held(table))
    assert_bits(other.array, table.array)


@pytest.mark.parametrize("way", COPIES)
def test_copies_keep_the_policy_and_the_rate(way: str) -> None:
    """What to do with unknown ids, and a callable learning rate."""
    table = unhot.Table(4, 2, optimizer=unhot.SGD(half), out_of_range="zero", seed=0)
    table.step([1], [[1.0, 2.0]])
    other = COPIES[way](table)
    assert other.out_of_range == "zero"
    assert repr(other) == repr(table)
    for t in (table, other):
        t.step([1, 9], [[1.0, 2.0], [3.0, 4.0]])
    assert_held(other, held(table))


def test_a_pickle_of_one_moment() -> None:
    """A step made while the pickle is being written does not reach it, not even in part."""
    table = trained("adam")
    before = held(table)

    class SteppingPickler(pickle.Pickler):
        def reducer_override(self, thing: Any) -> Any:
            if isinstance(thing, np.ndarray):
                table.step([1], np.ones((1, 3)))
            return NotImplemented

    file = io.BytesIO()
    SteppingPickler(file).dump(table)
    assert table.clock > before["clock"]
    assert_held(pickle.loads(file.getvalue()), before)


def test_a_copy_of_a_structure_that_holds_a_table_twice() -> None:
    """One table stays one table."""
    table = trained("adam")
    for both in (copy.deepcopy([table, table]), pickle.loads(pickle.dumps([table, table]))):
        assert both[0] is both[1]
        assert both[0] is not table


def test_unpickled_from_read_only_buffers() -> None:
    """As from shared memory: the table has arrays of its own, that begin at a cache line."""
    table = unhot.Table(50, 3, optimizer=unhot.Adam(0.1), seed=0)
    table.step([1, 2], np.ones((2, 3)))
    buffers: list[pickle.PickleBuffer] = []
    data = pickle.dumps(table, protocol=5, buffer_callback=buffers.append)
    other = pickle.loads(data, buffers=[bytes(buffer.raw()) for buffer in buffers])
    for each in (table, other, copy.deepcopy(table)):
        each.step([2, 3], np.ones((2, 3)))
        assert all(array.ctypes.data % 64 == 0 for array in each._engine.stores[0].state)
    assert np.array_equal(other.array, table.array)


class Schedule:
    def __init__(self) -> None:
        self.warmup, self.peak = 10, 0.1


class OfAnyState:
    """Takes whatever it is given."""

    def __getstate__(self) -> list[int]:
        return [1, 2]

    def __setstate__(self, state: list[int]) -> None:
        self.state = state


OTHERS: dict[str, Callable[[], Any]] = {
    "an object": Schedule,
    "one with a state of its own": OfAnyState,
    "an optimizer": lambda: unhot.Adam(0.5),
    "a view": lambda: unhot.DenseView(unhot.Table(3, 2, optimizer=unhot.Adam(0.1))),
    "a generator": lambda: np.random.default_rng(0),
    "lists": lambda: [1, {"a": [2]}],
    "a vocabulary": lambda: unhot.Vocabulary(["a"]),
}


@pytest.mark.parametrize("first", [lambda: unhot.Table(3, 2, optimizer=unhot.Adam(0.1)), OTHERS["a view"]])
@pytest.mark.parametrize("other", OTHERS)
def test_what_is_copied_after_a_table(first: Callable[[], Any], other: str) -> None:
    """Nothing that the table's copy leaves behind is taken for the copy of another object."""
    for _ in range(3):
        objects = [first(), *(OTHERS[other]() for _ in range(3))]
        _, *copies = copy.deepcopy(objects)
        for copied, given in zip(copies, objects[1:], strict=True):
            assert type(copied) is type(given)
            if isinstance(given, (Schedule, list)):
                assert (vars(copied) if isinstance(given, Schedule) else copied) == (
                    vars(given) if isinstance(given, Schedule) else given
                )
            if isinstance(given, OfAnyState):
                assert copied.state == [1, 2]
