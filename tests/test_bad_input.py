"""Bad input: every error says what is wrong, where, what was received and what to do, and leaves the table as it was."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas
import pytest
from hypothesis import given
from hypothesis import strategies as st
from snapshots import DTYPES, RULES, assert_bits, assert_held, held, train, trained

import unhot
from unhot import memory
from unhot.ids import as_ids
from unhot.optimizers.base import flags

os.environ.setdefault("KERAS_BACKEND", "torch")

import keras
import torch

import unhot.keras
import unhot.torch

Failure = tuple[Callable[[unhot.Table], Any], type[Exception], str]


def step(ids: Any, grads: Any = None) -> Callable[[unhot.Table], None]:
    """A step with these ids, with gradients that would fit one id if there are none."""
    return lambda table: table.step(ids, np.ones((*np.shape(ids), 3)) if grads is None else grads)


def assigned(**hyperparameters: Any) -> Callable[[unhot.Table], None]:
    """A step after an assignment that is taken back."""

    def run(table: unhot.Table) -> None:
        before = {name: getattr(table.optimizer, name) for name in hyperparameters}
        try:
            for name, value in hyperparameters.items():
                setattr(table.optimizer, name, value)
            table.step([1], np.ones((1, 3)))
        finally:
            for name, value in before.items():
                setattr(table.optimizer, name, value)

    return run


def raising(step: int) -> float:
    raise ArithmeticError(f"no rate for step {step}")


IDS: dict[str, tuple[Any, type[Exception], str]] = {
    "too large": ([1, 2, 9], IndexError, r"id 9 at position 2 is out of range: the table has rows 0 to 8\. Use a larger table"),
    "the first bad one": ([[1, 0], [77, 99]], IndexError, r"id 77 at position \(1, 0\) is out of range"),
    "0-d": (9, IndexError, r"id 9 is out of range"),
    "negative": (
        [0, -1],
        IndexError,
        r"id -1 at position 1 .*\(negative ids are not counted from the end\)\. .*or a row",
    ),
    "negative int8": (np.array([-128], np.int8), IndexError, r"id -128 at position 0"),
    "uint64": (np.array([1, 2**63 + 5], np.uint64), IndexError, r"id 9223372036854775813 at position 1 is out of range"),
    "byte-swapped uint64": (np.array([2**64 - 1], ">u8"), IndexError, r"id 18446744073709551615 at position 0"),
    "int64's least": (np.array([-(2**63)]), IndexError, r"id -9223372036854775808 at position 0"),
    "2**32, which is 0 in 32 bits": ([2**32], IndexError, r"id 4294967296 at position 0"),
    "beyond 64 bits": ([1, 2**70], IndexError, r"id 1180591620717411303424 at position 1 is out of range"),
    "below 64 bits": ([1, -(2**70)], IndexError, r"id -1180591620717411303424 at position 1 .*not counted from the end"),
    "2**63 beside others": ([-1, 2**63], IndexError, r"id -1 at position 0"),
    "floats": ([1.0, 2.0], TypeError, r"`ids` must be integers\. Received: dtype float64, shape \(2,\)\..*astype"),
    "NaN": ([np.nan], TypeError, r"`ids` must be integers\. Received: dtype float64"),
    "an empty array of floats": (np.empty(0), TypeError, r"`ids` must be integers\. Received: dtype float64, shape \(0,\)"),
    "booleans": ([True, False], TypeError, r"`ids` must be integers\. Received: dtype bool, shape \(2,\)"),
    "a boolean mask": (np.ones(9, bool), TypeError, r"dtype bool, shape \(9,\)"),
    "a boolean among them": (np.array([1, True], object), TypeError, r"dtype object"),
    "complex": ([1j], TypeError, r"dtype complex128"),
    "a boolean in a list": ([1, True], TypeError, r"Received: a boolean among them, shape \(2,\)\. .*np\.flatnonzero"),
    "NumPy's boolean in a list": ([1, np.True_], TypeError, r"a boolean among them"),
    "a boolean in a tuple": ((0, 1, False), TypeError, r"a boolean among them"),
    "strings": (["1"], TypeError, r"dtype <U1.*Number the strings .*unhot\.Vocabulary"),
    "None": (np.array(None), TypeError, r"dtype object, shape \(\)"),
    "a slice": (slice(0, 2), TypeError, r"dtype object"),
    "dates": (np.array([1], "M8[s]"), TypeError, r"dtype datetime64"),
    "records": (np.zeros(1, [("a", int)]), TypeError, r"`ids` must be integers"),
    "ragged lists": ([[1, 2], [3]], ValueError, r"`ids` must be one rectangular array; its nested lists have unequal lengths"),
    "masked": (np.ma.array([1, 2], mask=[0, 1]), TypeError, r"`ids` has masked entries.*filled"),
}

BOOLEANS: dict[str, Any] = {
    "nested lists": [[0, 1], [2, True]],
    "nested deeper": [[[0, 1]], [[2, False]]],
    "lists and tuples": [(0, 1), [2, False]],
    "a list and an array of booleans": [np.array([True, False]), [2, 3]],
    "a list with a 0-d array": [np.array(True), 2],
    "a list with a tensor": [torch.tensor(True), 2],
    "an array of objects": np.array([[0, 1], [2, np.False_]], object),
    "a deque": deque([3, True]),
    "a long list": [*range(5000), True],
    "a long list of small numbers": [0, 1] * 5000 + [False],
    "a long list of booleans": [2, *[True] * 5000],
    "a long nested list": [[i, i + 2] for i in range(5000)] + [[7, True]],
    "a long nested list of small numbers": [[0, 1]] * 5000 + [[1, True]],
    "long rows of arrays and lists": [np.arange(5000), [*range(4999), True]],
}


@pytest.mark.parametrize("name", BOOLEANS)
def test_booleans_among_ids(name: str) -> None:
    """NumPy makes 0 and 1 of booleans that stand among integers; they are refused as a mask is, and the integers are not."""
    ids = BOOLEANS[name]
    with pytest.raises(TypeError, match=r"`ids` must be integers\. .*np\.flatnonzero\(mask\)"):
        as_ids(ids)
    integers = np.asarray(ids).astype(np.int64)
    assert as_ids(integers) is integers
    for plain in (integers.tolist(), list(integers), tuple(integers.tolist())):
        assert np.array_equal(as_ids(plain), integers)


@pytest.mark.parametrize(
    "ids", [range(5000), memoryview(np.arange(3)), pandas.Series([0, 1]), [np.int8(1), 0], [[1], np.array([0])]],
    ids=lambda ids: type(ids).__name__,
)  # fmt: skip
def test_integers_of_other_kinds(ids: Any) -> None:
    """Sequences without a boolean stay what they were."""
    assert np.array_equal(as_ids(ids), np.asarray(ids))


def test_the_advice_for_strings_works() -> None:
    """What the error says to write numbers the strings, and numbers them again."""
    strings = ["ant", "bee", "cat", "bee"]
    with pytest.raises(TypeError) as caught:
        unhot.Table(9, 3)[strings]
    names: dict[str, Any] = {"unhot": unhot, "strings": strings}
    for line in re.findall(r"`([^`]* = [^`]*)`", str(caught.value)):
        exec(line, names)
    assert unhot.Table(9, 3, seed=0)[names["ids"]].shape == (4, 3)
    assert names["ids"].tolist() == names["vocabulary"].encode(strings).tolist() == [0, 1, 2, 1]


# ---------------------------------------------------------------------- options that are on or off

NO_FLAGS = ["no", "false", "", 0, 1, 0.5, None, np.nan, [], [True], np.ones(2, bool), np.int64(1)]


@pytest.mark.parametrize("rule", unhot.optimizers.OPTIMIZERS.values(), ids=lambda rule: rule.__name__)
def test_flags_of_rules(rule: Any) -> None:
    """Every hyperparameter whose default is True or False takes True and False, NumPy's too, and nothing else."""
    names = [field.name for field in dataclasses.fields(rule) if isinstance(field.default, bool)]
    assert sorted(names) == sorted(flags(rule))
    for name in names:
        for value in NO_FLAGS:
            message = rf"{rule.__name__}: `{name}` must be True or False\. Received: {re.escape(repr(value))} \(of type "
            if not isinstance(value, np.generic):
                with pytest.raises(TypeError, match=message):
                    rule(**{name: value})
            assigned_later = rule()
            setattr(assigned_later, name, value)
            with pytest.raises(TypeError, match=rf"`{name}` must be True or False"):
                unhot.Table(9, 3, optimizer=assigned_later)
        for value in (np.True_, np.array(True)):
            with contextlib.suppress(ValueError):  # of options that do not go together
                assert getattr(rule(**{name: value}), name) is True


def test_some_rules_have_flags() -> None:
    assert {name for rule in unhot.optimizers.OPTIMIZERS.values() for name in flags(rule)} >= {
        "nesterov", "centered", "amsgrad", "decoupled_weight_decay",
    }  # fmt: skip


@pytest.mark.parametrize("value", NO_FLAGS, ids=repr)
def test_flags_of_layers(value: Any) -> None:
    """Those that are ours, not the frameworks'."""
    with pytest.raises(TypeError, match=r"Embedding: `bias` must be True or False\. Received: "):
        unhot.torch.Embedding(9, 3, bias=value)
    with pytest.raises(TypeError, match=r"Embedding: `use_bias` must be True or False\. Received: "):
        unhot.keras.Embedding(9, 3, use_bias=value)
    assert unhot.torch.Embedding(9, 3, bias=np.True_).bias is not None
    assert unhot.keras.Embedding(9, 3, use_bias=np.True_).get_config()["use_bias"] is True


GRADS: dict[str, Failure] = {
    "too few": (step([1, 2], np.ones((1, 3))), ValueError, r"ids\.shape \+ \(dim,\) = \(2, 3\)\. Received: shape \(1, 3\)"),
    "dim": (step([1], np.ones((1, 2))), ValueError, r"= \(1, 3\)\. Received: shape \(1, 2\)"),
    "flat": (step([1], np.ones(3)), ValueError, r"= \(1, 3\)\. Received: shape \(3,\)"),
    "another shape of as many": (step([[1, 2]], np.ones((2, 3))), ValueError, r"= \(1, 2, 3\)\. Received: shape \(2, 3\)"),
    "a number": (step([1], np.float32(1.0)), ValueError, r"Received: shape \(\)"),
    "none for an id": (step([1], []), ValueError, r"Received: shape \(0,\)"),
    "some for no id": (step([], np.ones((1, 3))), ValueError, r"= \(0, 3\)\. Received: shape \(1, 3\)"),
    "integers": (step([1], [[1, 2, 3]]), TypeError, r"`grads` must be real floating point numbers\. Received: dtype int64"),
    "booleans": (step([1], np.ones((1, 3), bool)), TypeError, r"Received: dtype bool"),
    "complex": (step([1], np.ones((1, 3), complex)), TypeError, r"Received: dtype complex128"),
    "objects": (step([1], np.ones((1, 3), object)), TypeError, r"Received: dtype object"),
    "strings": (step([1], [["a", "b", "c"]]), TypeError, r"Received: dtype <U1"),
    "ragged": (step([1, 2], [[1.0, 2.0, 3.0], [1.0]]), ValueError, r"`grads` must be one rectangular array"),
    "masked": (step([1], np.ma.array(np.ones((1, 3)), mask=[[0, 1, 0]])), TypeError, r"`grads` has masked entries"),
    "only ids": (lambda table: table.step([1]), TypeError, r"`step` takes both ids and grads, or neither"),
    "only gradients": (lambda table: table.step(grads=np.ones((1, 3))), TypeError, r"both ids and grads, or neither"),
}

HYPERPARAMETERS: dict[str, Failure] = {
    "NaN": (assigned(learning_rate=np.nan), ValueError, r"`learning_rate` must lie in [\[(]0, inf\)\. Received: nan"),
    "negative": (assigned(learning_rate=-0.1), ValueError, r"`learning_rate` must lie in [\[(]0, inf\)\. Received: -0\.1"),
    "infinite": (assigned(learning_rate=np.inf), ValueError, r"`learning_rate` must lie in [\[(]0, inf\)\. Received: inf"),
    "a string": (
        assigned(learning_rate="0.1"),
        TypeError,
        r"must be a real number\. Received: '0\.1' \(of type str\)",
    ),
    "None": (assigned(learning_rate=None), TypeError, r"`learning_rate` must be a real number\. Received: None"),
    "a boolean": (assigned(learning_rate=True), TypeError, r"Received: True \(of type bool\)"),
    "complex": (assigned(learning_rate=1j), TypeError, r"Received: 1j \(of type complex\)"),
    "an array": (assigned(learning_rate=np.ones(1)), TypeError, r"`learning_rate` must be a real number"),
    "None from a callable": (assigned(learning_rate=lambda n: None), TypeError, r"`learning_rate` .* Received: None"),
    "a string from a callable": (assigned(learning_rate=lambda n: "x"), TypeError, r"Received: 'x'"),
    "NaN from a callable": (assigned(learning_rate=lambda n: np.nan), ValueError, r"`learning_rate` .* Received: nan"),
    "negative from a callable": (assigned(learning_rate=lambda n: -1.0), ValueError, r"Received: -1\.0"),
    "a callable without arguments": (assigned(learning_rate=lambda: 0.1), TypeError, r"positional argument"),
    "a callable that raises": (assigned(learning_rate=raising), ArithmeticError, r"no rate for step 13"),
    "decay": (assigned(weight_decay=-0.1), ValueError, r"`weight_decay` must lie in \[0, inf\)\. Received: -0\.1"),
    "decay NaN": (assigned(weight_decay=np.nan), ValueError, r"`weight_decay` must lie in \[0, inf\)\. Received: nan"),
    "decay as a string": (assigned(weight_decay="x"), TypeError, r"`weight_decay` must be a real number"),
    "a misspelt name": (assigned(learning_rat=0.1), AttributeError, r"learning_rat"),
}

POLICIES: dict[str, Failure] = {
    "a string": (
        lambda table: setattr(table, "optimizer", "adam"),
        TypeError,
        r"one of unhot's optimizers, .* Received: 'adam'",
    ),
    "None": (lambda table: setattr(table, "optimizer", None), TypeError, r"one of unhot's optimizers"),
    "a class": (lambda table: setattr(table, "optimizer", unhot.Adam), TypeError, r"one of unhot's optimizers"),
    "an unknown policy": (lambda table: setattr(table, "out_of_range", "clip"), ValueError, r"`out_of_range` must be"),
}


def with_ids(call: Callable[[unhot.Table, Any], Any]) -> dict[str, Failure]:
    """Each bad ids in a call."""
    return {name: (lambda table, ids=ids: call(table, ids), error, text) for name, (ids, error, text) in IDS.items()}


FAILURES: dict[str, Failure] = {
    f"{group}: {name}": failure
    for group, failures in {
        "lookup": with_ids(lambda table, ids: table.lookup(ids)),
        "getitem": with_ids(lambda table, ids: table[ids]),
        "bag": with_ids(lambda table, ids: table.bag(ids, offsets=[0])),
        "step": with_ids(lambda table, ids: table.step(ids, np.ones((*np.asarray(ids, dtype=object).shape, 3)))),
        "accumulate": with_ids(lambda table, ids: table.accumulate(ids, np.ones((*np.asarray(ids, dtype=object).shape, 3)))),
        "settle": with_ids(lambda table, ids: table.settle(ids)),
        "grads": GRADS,
        "hyperparameters": HYPERPARAMETERS,
        "policies": POLICIES,
    }.items()
    for name, failure in failures.items()
    if not (name == "ragged lists" and group in ("step", "accumulate"))
    and not (group == "bag" and name in ("the first bad one", "0-d"))
}


@pytest.mark.parametrize("name", FAILURES)
def test_errors_leave_the_table_as_it_was(name: str) -> None:
    """Weights, slots, last touches, clock and waiting gradients stay, and training goes on as if nothing had happened."""
    call, error, message = FAILURES[name]
    table, untouched = trained("adamw amsgrad"), trained("adamw amsgrad")
    for t in (table, untouched):
        t.accumulate([2, 5], np.ones((2, 3)))
    before = held(table)
    for _ in range(2):
        with pytest.raises(error, match=message):
            call(table)
    assert_held(table, before)
    for t in (table, untouched):
        t.step([4], np.ones((1, 3)))
        train(t, 10, seed=5)
    assert_held(table, held(untouched))
    assert_bits(table.array, untouched.array)


SOME = [
    "step: too large", "step: beyond 64 bits", "step: floats", "accumulate: negative", "lookup: too large", "settle: negative",
    "grads: dim", "grads: integers", "hyperparameters: NaN", "hyperparameters: a callable that raises",
    "hyperparameters: None from a callable",
]  # fmt: skip


@pytest.mark.parametrize("name", SOME)
@pytest.mark.parametrize("rule", RULES)
def test_errors_leave_every_rule_as_it_was(rule: str, name: str) -> None:
    """The same for every rule: a failed step advances no history."""
    call, error, message = FAILURES[name]
    table, untouched = trained(rule), trained(rule)
    before = held(table)
    with pytest.raises(error, match=message):
        call(table)
    assert_held(table, before)
    train(table, 10, seed=5)
    train(untouched, 10, seed=5)
    assert_held(table, held(untouched))


UNFIT: dict[str, tuple[str, dict[str, Any]]] = {
    "epsilon 0": ("adam", {"epsilon": 0.0}),
    "epsilon 0 in float32": ("adam", {"epsilon": 1e-60}),
    "epsilon NaN": ("adamax torch", {"epsilon": np.nan}),
    "beta_1 of 1": ("adam", {"beta_1": 1.0}),
    "beta_2 of 1": ("adamax", {"beta_2": 1.0}),
    "momentum of 1": ("sgd momentum", {"momentum": 1.0}),
    "momentum without a slot": ("sgd", {"momentum": 0.9}),
    "another set of slots": ("adam", {"amsgrad": True}),
    "centered": ("rmsprop", {"centered": True}),
    "another convention": ("adam", {"convention": "torch"}),
    "no convention": ("adam", {"convention": "jax"}),
    "coupled decay": ("adam torch", {"weight_decay": 0.1}),
    "beta_1 beyond 0.99 beta_2": ("adamax torch", {"beta_1": 0.998}),
    "rho": ("rmsprop", {"rho": -0.1}),
    "rate 0": ("ftrl", {"learning_rate": 0.0}),
    "rate beyond the shrinkage's bound": ("ftrl shrinkage", {"learning_rate": 1000.0}),
}


@pytest.mark.parametrize("name", UNFIT)
def test_unfit_hyperparameters_leave_the_table_as_it_was(name: str) -> None:
    """A hyperparameter that the rule, or this table, cannot go on with is refused at the step; put back, all is as before."""
    rule, change = UNFIT[name]
    table, untouched = trained(rule), trained(rule)
    before = held(table)
    with pytest.raises((TypeError, ValueError), match=type(table.optimizer).__name__):
        assigned(**change)(table)
    assert_held(table, before)
    train(table, 10, seed=5)
    train(untouched, 10, seed=5)
    assert_held(table, held(untouched))


@pytest.mark.parametrize("other", [unhot.Lion, unhot.NAdam, unhot.SGD, unhot.Adamax], ids=lambda other: other.__name__)
def test_a_rule_that_cannot_go_on_from_the_slots(other: Callable[[], Any]) -> None:
    """The error names both rules and the remedy, and all is as before."""
    table, untouched = trained("adam"), trained("adam")
    adam, before = table.optimizer, held(table)
    with pytest.raises(ValueError, match=rf"trained with Adam\(.*{other.__name__}\(.*Table\.from_array\(table\.array"):
        table.optimizer = other()
    assert table.optimizer is adam
    assert_held(table, before)
    train(table, 10, seed=5)
    train(untouched, 10, seed=5)
    assert_held(table, held(untouched))


def test_a_table_without_an_optimizer() -> None:
    """It cannot be trained, and cannot be given an optimizer later; the error says how to make one that can."""
    table = unhot.Table(4, 2, seed=0)
    before = held(table)
    for call in (
        lambda: table.step([1], [[1.0, 2.0]]),
        lambda: table.step(),
        lambda: table.accumulate([1], [[1.0, 2.0]]),
        lambda: setattr(table, "optimizer", unhot.Adam()),
    ):
        with pytest.raises(RuntimeError, match=r"this table has no optimizer: make it with one, e\.g\. optimizer=unhot\.Adam"):
            call()
    assert_held(table, before)


def test_a_learning_rate_that_looks_into_its_table() -> None:
    """It sees the table before the step, which what it accumulates belongs to."""
    calls: list[Callable[[unhot.Table], Any]] = [
        lambda table: table[0], lambda table: table.array, lambda table: table.settle(), lambda table: table.state_dict(),
        lambda table: table.bag([[0]]), lambda table: table.accumulate([0], np.ones((1, 3))),
    ]  # fmt: skip
    for call in calls:
        table, other = trained("adam"), trained("adam")
        before = table.array

        def rate(
            step: int, table: unhot.Table = table, call: Callable[[unhot.Table], Any] = call, before: Any = before
        ) -> float:
            np.testing.assert_array_equal(table.lookup(np.arange(9)), before)
            call(table)
            return 0.01

        table.optimizer.learning_rate = rate
        table.step([1], np.ones((1, 3)))
        if call is calls[-1]:
            other.accumulate([0], np.ones((1, 3)))
        other.step([1], np.ones((1, 3)))
        np.testing.assert_allclose(table.array, other.array, rtol=1e-6)
        assert not table._pending


def test_a_learning_rate_that_changes_its_table() -> None:
    """A step that it makes comes first; steps without end, or a state that it loads, are errors."""
    table = trained("adam")
    state, before = table.state_dict(), table.array
    once = [True]

    def stepping(step: int) -> float:
        if once:
            once.clear()
            table.step([], np.ones((0, 3)))
        return 0.01

    table.optimizer.learning_rate = stepping
    table.step([1], np.ones((1, 3)))
    assert table.clock == 14
    table.optimizer.learning_rate = lambda step: table.step([], np.ones((0, 3)))
    with pytest.raises(RuntimeError):
        table.step([1], np.ones((1, 3)))
    assert table.clock == 14

    def loading(step: int) -> float:
        table.load_state_dict(state)
        return 0.01

    table.optimizer.learning_rate = loading
    with pytest.raises(RuntimeError, match="a state was loaded"):
        table.step([1], np.ones((1, 3)))
    np.testing.assert_array_equal(table.array, before)


@given(st.data())
def test_the_first_bad_id_and_its_position(data: st.DataObject) -> None:
    """Whatever the shape and wherever bad ids stand, the error names the first in C order, and where it is."""
    shape = data.draw(st.sampled_from([(7,), (3, 4), (2, 3, 2)]))
    ids = np.random.default_rng(0).integers(0, 9, size=shape)
    places = data.draw(st.sets(st.integers(0, ids.size - 1), min_size=1))
    for place in places:
        ids.flat[place] = data.draw(st.sampled_from([9, 1000, -1, -9]))
    first = np.unravel_index(min(places), shape)
    where = f"position {int(first[0])} " if len(shape) == 1 else f"position {tuple(map(int, first))} "
    for laid in (ids, np.asfortranarray(ids)):
        with pytest.raises(IndexError) as caught:
            unhot.Table(9, 3)[laid]
        assert f"id {ids[first]} at {where}" in str(caught.value)


# ---------------------------------------------------------------------- making a table

TABLES: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "rows 0": (lambda: unhot.Table(0, 3), ValueError, r"`rows` must be a positive integer\. Received: 0"),
    "rows negative": (lambda: unhot.Table(-1, 3), ValueError, r"`rows` must be a positive integer\. Received: -1"),
    "rows a float": (lambda: unhot.Table(3.0, 3), TypeError, r"`rows` .* Received: 3\.0 \(of type float\)"),
    "rows a boolean": (lambda: unhot.Table(True, 3), TypeError, r"`rows` .* Received: True \(of type bool\)"),
    "rows a string": (lambda: unhot.Table("3", 3), TypeError, r"Received: '3' \(of type str\)"),
    "dim 0": (lambda: unhot.Table(3, 0), ValueError, r"`dim` must be a positive integer\. Received: 0"),
    "dim None": (lambda: unhot.Table(3, None), TypeError, r"`dim` must be a positive integer\. Received: None"),
    "dtype": (lambda: unhot.Table(3, 3, dtype="float16"), ValueError, r"must be float32 or float64\. Received: 'float16'"),
    "dtype int": (lambda: unhot.Table(3, 3, dtype=np.int64), ValueError, r"dtype must be float32 or float64"),
    "no dtype": (lambda: unhot.Table(3, 3, dtype="no such"), ValueError, r"Received: 'no such'"),
    "dtype None": (lambda: unhot.Table(3, 3, dtype=None), ValueError, r"Received: None"),
    "init": (lambda: unhot.Table(3, 3, init="ones"), ValueError, r"`init` must be .* Received: 'ones'"),
    "init an array": (lambda: unhot.Table(3, 3, init=np.ones((3, 3))), ValueError, r"`init` must be .*from_array"),
    "optimizer a string": (lambda: unhot.Table(3, 3, optimizer="adam"), TypeError, r"unhot's optimizers, .* Received: 'adam'"),
    "optimizer a class": (lambda: unhot.Table(3, 3, optimizer=unhot.Adam), TypeError, r"one of unhot's optimizers"),
    "torch's optimizer": (lambda: unhot.Table(3, 3, optimizer=torch.optim.Adam), TypeError, r"one of unhot's optimizers"),
    "policy": (lambda: unhot.Table(3, 3, out_of_range="wrap"), ValueError, r"`out_of_range` .*\[0, 3\)\. Received: 'wrap'"),
    "policy row": (lambda: unhot.Table(3, 3, out_of_range=3), ValueError, r"Received: 3"),
    "policy negative": (lambda: unhot.Table(3, 3, out_of_range=-1), ValueError, r"Received: -1"),
    "policy boolean": (lambda: unhot.Table(3, 3, out_of_range=True), ValueError, r"Received: True"),
    "one dimension": (lambda: unhot.Table.from_array([1.0]), ValueError, r"`array` must have two dimensions.*shape \(1,\)"),
    "three dimensions": (lambda: unhot.Table.from_array(np.ones((1, 1, 1))), ValueError, r"Received: shape \(1, 1, 1\)"),
    "no rows": (lambda: unhot.Table.from_array(np.ones((0, 3))), ValueError, r"`rows` must be a positive .* Received: 0"),
    "no dim": (lambda: unhot.Table.from_array(np.ones((3, 0))), ValueError, r"`dim` must be a positive integer\. Received: 0"),
    "integers": (lambda: unhot.Table.from_array([[1, 2]]), ValueError, r"dtype must be float32 or float64\. Received: .*int64"),
    "float16": (lambda: unhot.Table.from_array(np.ones((2, 2), "f2")), ValueError, r"float32 or float64\. Received: .*float16"),
    "ragged": (lambda: unhot.Table.from_array([[1.0], [1.0, 2.0]]), ValueError, r"`array` must be one rectangular array"),
    "masked": (lambda: unhot.Table.from_array(np.ma.array([[1.0]], mask=[[1]])), TypeError, r"`array` has masked entries"),
    "epsilon 0 in float32": (lambda: unhot.Table(3, 3, optimizer=unhot.Adam(epsilon=1e-60)), ValueError, r"`epsilon`"),
}  # fmt: skip


@pytest.mark.parametrize("name", TABLES)
def test_tables_that_cannot_be(name: str) -> None:
    """Each unusable argument is named with its value."""
    make, error, message = TABLES[name]
    with pytest.raises(error, match=message):
        make()


def test_wrong_arrays_from_init() -> None:
    """The error says which shape or dtype was wanted and which came."""
    with pytest.raises(ValueError, match=r"`init` must return an array of shape \(3, 2\)\. Received: shape \(2, 3\)"):
        unhot.Table(3, 2, init=lambda shape: np.ones(shape[::-1]))
    for dtype in ("complex64", "U1", "O"):
        with pytest.raises(TypeError, match=r"`init` must return real numbers\. Received: dtype"):
            unhot.Table(3, 2, init=lambda shape, dtype=dtype: np.zeros(shape, dtype))


# ---------------------------------------------------------------------- memory


@pytest.mark.parametrize("rows", [10**11, 10**15, 2**62, 2**63, 2**64, 10**30])
@pytest.mark.parametrize("init", ["uniform", "zeros"])
def test_a_table_too_large_for_memory(rows: int, init: str) -> None:
    """A MemoryError at once, whatever the number, that says how much is needed, how much there is, and what helps."""
    message = r"needs [\d,]+\.\d GiB; [\d,]+\.\d GiB of memory are available\. Use fewer rows, a smaller dim"
    with pytest.raises(MemoryError, match=message):
        unhot.Table(rows, 64, init=init, optimizer=unhot.Adam())


def test_the_slots_count_for_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is asked for is the weights, the slots and the steps of the last touches; `init` is not even called."""
    rows, dim = 300_000, 64
    for optimizer, arrays in ((None, 1), (unhot.SGD(), 1), (unhot.SGD(momentum=0.9), 2), (unhot.Adam(amsgrad=True), 4)):
        least = rows * (dim * 4 * arrays + 4)
        monkeypatch.setattr(memory, "available", lambda least=least: least)
        unhot.Table(rows, dim, optimizer=optimizer, init="zeros")
        monkeypatch.setattr(memory, "available", lambda least=least: least - 1)
        called: list[Any] = []
        with pytest.raises(MemoryError, match=r"a table of 300,000 x 64 needs 0\.\d GiB"):
            unhot.Table(rows, dim, optimizer=optimizer, init=called.append)
        with pytest.raises(MemoryError):
            unhot.Table.from_array(np.zeros((rows, dim), np.float32), optimizer=optimizer)
        assert not called


def test_a_result_too_large_for_memory() -> None:
    """A lookup whose result cannot be had fails before it begins, and the table stays as it was."""
    table = trained("adam")
    before = held(table)
    wide = unhot.Table(2, 100_000, init="zeros")
    with pytest.raises(MemoryError, match=r"a result of shape \(3000000, 100000\) needs"):
        wide[np.zeros(3_000_000, np.int8)]
    with pytest.raises(MemoryError):
        table[np.broadcast_to(np.int64(1), (10**9, 10**6))]
    with pytest.raises(MemoryError):
        table.step(np.broadcast_to(np.int64(1), (10**9, 10**6)), np.broadcast_to(1.0, (10**9, 10**6, 3)))
    assert_held(table, before)


def test_the_memory_that_is_available(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is known on this system; where it is not, nothing is refused."""
    free = memory.available()
    assert free is not None
    assert 2**20 < free < 2**60
    memory.require(0, "nothing")
    monkeypatch.setattr(memory, "available", lambda: None)
    memory.require(2**80, "anything")


# ---------------------------------------------------------------------- NaN and infinity, as dense training takes them


def torch_step(make: Callable[[Any], Any]) -> Callable[[np.ndarray], Callable[[np.ndarray], np.ndarray]]:
    """Dense training in PyTorch: from weights to a function from a step's dense gradient to the new weights."""

    def start(weights: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
        parameter = torch.nn.Parameter(torch.from_numpy(weights.copy()))
        optimizer = make([parameter])

        def run(gradient: np.ndarray) -> np.ndarray:
            parameter.grad = torch.from_numpy(gradient.copy())
            optimizer.step()
            return parameter.detach().numpy().copy()

        return run

    return start


def keras_step(make: Callable[[], Any]) -> Callable[[np.ndarray], Callable[[np.ndarray], np.ndarray]]:
    """The same in Keras."""

    def start(weights: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
        variable = keras.Variable(weights.copy(), dtype=weights.dtype.name)
        optimizer = make()
        optimizer.build([variable])

        def run(gradient: np.ndarray) -> np.ndarray:
            optimizer.apply([keras.ops.convert_to_tensor(gradient.copy())])
            return keras.ops.convert_to_numpy(variable.value).copy()

        return run

    return start


def numpy_sgd(rate: float, decay: float) -> Callable[[np.ndarray], Callable[[np.ndarray], np.ndarray]]:
    """Keras's SGD with decay as its other backends form it, w - w decay rate: on PyTorch it is one product, which keeps inf."""

    def start(weights: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
        def run(gradient: np.ndarray) -> np.ndarray:
            weights[:] = (weights - weights * decay * rate) - rate * gradient
            return weights.copy()

        return run

    return start


def numpy_lion(rate: float) -> Callable[[np.ndarray], Callable[[np.ndarray], np.ndarray]]:
    """Keras's Lion with the sign of its other backends, which is NaN of NaN: PyTorch's is 0."""

    def start(weights: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
        momentum = np.zeros_like(weights)

        def run(gradient: np.ndarray) -> np.ndarray:
            weights[:] -= rate * np.sign(0.9 * momentum + (1 - 0.9) * gradient)
            momentum[:] = 0.99 * momentum + (1 - 0.99) * gradient
            return weights.copy()

        return run

    return start


T = torch.optim
K = keras.optimizers
DENSE: dict[str, tuple[Callable[[], Any], Callable[[np.ndarray], Callable[[np.ndarray], np.ndarray]]]] = {
    "torch SGD": (lambda: unhot.SGD(0.1, convention="torch"), torch_step(lambda p: T.SGD(p, 0.1))),
    "torch SGD momentum": (
        lambda: unhot.SGD(0.1, momentum=0.9, nesterov=True, weight_decay=0.01, convention="torch"),
        torch_step(lambda p: T.SGD(p, 0.1, momentum=0.9, nesterov=True, weight_decay=0.01)),
    ),
    "torch Adagrad": (lambda: unhot.Adagrad(0.1, convention="torch"), torch_step(lambda p: T.Adagrad(p, 0.1))),
    "torch RMSprop": (
        lambda: unhot.RMSprop(0.1, momentum=0.9, convention="torch"), torch_step(lambda p: T.RMSprop(p, 0.1, momentum=0.9)),
    ),
    "torch Adadelta": (lambda: unhot.Adadelta(1.0, convention="torch"), torch_step(lambda p: T.Adadelta(p, 1.0))),
    "torch Adam": (lambda: unhot.Adam(0.1, convention="torch"), torch_step(lambda p: T.Adam(p, 0.1))),
    "torch Adam amsgrad": (
        lambda: unhot.Adam(0.1, amsgrad=True, convention="torch"), torch_step(lambda p: T.Adam(p, 0.1, amsgrad=True)),
    ),
    "torch AdamW": (lambda: unhot.AdamW(0.1, convention="torch"), torch_step(lambda p: T.AdamW(p, 0.1))),
    "torch NAdam": (lambda: unhot.NAdam(0.1, convention="torch"), torch_step(lambda p: T.NAdam(p, 0.1))),
    "torch Adamax": (lambda: unhot.Adamax(0.1, convention="torch"), torch_step(lambda p: T.Adamax(p, 0.1))),
    "keras SGD": (lambda: unhot.SGD(0.1), keras_step(lambda: K.SGD(0.1))),
    "keras SGD momentum": (lambda: unhot.SGD(0.1, momentum=0.9), keras_step(lambda: K.SGD(0.1, momentum=0.9))),
    "keras SGD decay": (lambda: unhot.SGD(0.1, weight_decay=0.01), numpy_sgd(0.1, 0.01)),
    "keras SGD Nesterov": (
        lambda: unhot.SGD(0.1, momentum=0.9, nesterov=True), keras_step(lambda: K.SGD(0.1, momentum=0.9, nesterov=True)),
    ),
    "keras Adagrad": (lambda: unhot.Adagrad(0.1), keras_step(lambda: K.Adagrad(0.1))),
    "keras RMSprop": (lambda: unhot.RMSprop(0.1), keras_step(lambda: K.RMSprop(0.1))),
    "keras RMSprop centered": (
        lambda: unhot.RMSprop(0.1, centered=True, momentum=0.5),
        keras_step(lambda: K.RMSprop(0.1, centered=True, momentum=0.5)),
    ),
    "keras Adadelta": (lambda: unhot.Adadelta(1.0), keras_step(lambda: K.Adadelta(1.0))),
    "keras Adam": (lambda: unhot.Adam(0.1), keras_step(lambda: K.Adam(0.1))),
    "keras Adam amsgrad": (lambda: unhot.Adam(0.1, amsgrad=True), keras_step(lambda: K.Adam(0.1, amsgrad=True))),
    "keras AdamW": (lambda: unhot.AdamW(0.1), keras_step(lambda: K.AdamW(0.1))),
    "keras NAdam": (lambda: unhot.NAdam(0.1), keras_step(lambda: K.Nadam(0.1))),
    "keras Adamax": (lambda: unhot.Adamax(0.1), keras_step(lambda: K.Adamax(0.1))),
    "keras Lion": (lambda: unhot.Lion(0.1), numpy_lion(0.1)),
    "keras Ftrl": (lambda: unhot.Ftrl(0.1), keras_step(lambda: K.Ftrl(0.1))),
}  # fmt: skip

SPOILING = [np.nan, np.inf, -np.inf, 1e30, -1e25, 1.0, 0.0]


@pytest.mark.filterwarnings("ignore::RuntimeWarning", "ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", DENSE)
def test_spoiled_gradients(name: str, dtype: str) -> None:
    """NaN, infinite and overflowing gradients make NaN and infinite just the elements that dense training makes so.

    One row gets them after others and rests, one gets them first, one twice, and rows without them stay finite.
    """
    make, dense = DENSE[name]
    table = unhot.Table(6, len(SPOILING), optimizer=make(), dtype=dtype, seed=0)
    run = dense(table.array)
    spoiling = np.array(SPOILING, dtype)
    finite = np.linspace(-1, 1, len(SPOILING)).astype(dtype)
    steps = [
        ([0], [spoiling]),
        ([1, 2], [finite, finite]),
        ([1, 3], [spoiling, finite]),
        ([2], [-finite]),
        ([], np.empty((0, len(SPOILING)))),
        ([3, 0], [spoiling, finite]),
        ([3, 3], [spoiling, spoiling]),
        ([2], [finite]),
        *[([], np.empty((0, len(SPOILING))))] * 3,
    ]
    for number, (ids, grads) in enumerate(steps):
        gradient = np.zeros((6, len(SPOILING)), dtype)
        with np.errstate(all="ignore"):
            np.add.at(gradient, np.array(ids, np.int64), np.array(grads, dtype))
        table.step(ids, np.array(grads, dtype))
        ours, theirs = table.lookup(np.arange(6)), run(gradient)
        for kind in (np.isnan, np.isposinf, np.isneginf):
            np.testing.assert_array_equal(kind(ours), kind(theirs), err_msg=f"{kind.__name__} after step {number}")
        assert np.isfinite(ours[[2, 4, 5]]).all()
    assert_bits(table.array, ours)


@pytest.mark.parametrize("mode", ["sum", "mean", "max"])
def test_offsets_whose_differences_overflow(mode: str) -> None:
    """They are refused, and read nothing."""
    table = unhot.Table(5, 2, seed=0)
    with pytest.raises(ValueError, match="never fall"):
        table.bag([0, 1, 2], offsets=np.array([0, 2**63 - 1, -(2**63), -1]), mode=mode)


@pytest.mark.parametrize(
    "make",
    [
        lambda: unhot.RMSprop(0.01),
        lambda: unhot.Adam(0.01, beta_2=0.9),
        lambda: unhot.Adam(0.01, beta_2=0.9, amsgrad=True),
        lambda: unhot.Adadelta(1.0),
    ],
)
def test_a_slot_that_overflowed_rests_and_stays(make: Callable[[], Any]) -> None:
    """In float32 the square of 1e25 is infinite: the row stands still from then on, as a dense one does."""
    table = unhot.Table(3, 1, optimizer=make(), init="zeros")
    with np.errstate(over="ignore"):
        table.step([0], [[1e25]])
    still = table[0].copy()
    for _ in range(3000):
        table.step([1], [[1.0]])
    table.step([0], [[1.0]])
    assert np.isfinite(table[0]).all()
    np.testing.assert_allclose(table[0], still, atol=0.1)


def test_hyperparameters_that_are_0_d_arrays() -> None:
    for optimizer in (unhot.Adam(0.1, beta_1=np.array(0.8), beta_2=np.array(0.99)), unhot.RMSprop(0.1, rho=np.float32(0.5))):
        table = unhot.Table(4, 2, optimizer=optimizer, seed=0)
        table.step([1], [[1.0, 2.0]])
        table.step([2], [[1.0, 2.0]])
        assert np.isfinite(table.array).all()


@pytest.mark.parametrize("value", [np.array([0.1, 0.2]), np.array([0.1]), True, "fast"])
def test_a_learning_rate_that_is_assigned_is_checked(value: Any) -> None:
    """Also where it equals the one before, or a number."""
    table = unhot.Table(4, 2, optimizer=unhot.SGD(1), seed=0)
    table.step([1], [[1.0, 2.0]])
    assert table.optimizer is not None
    table.optimizer.learning_rate = value
    with pytest.raises(TypeError, match="learning_rate"):
        table.step([1], [[1.0, 2.0]])


def test_hyperparameters_are_checked_when_a_table_is_made() -> None:
    optimizer = unhot.Adam(0.1)
    optimizer.beta_2 = 1.5
    with pytest.raises(ValueError, match="beta_2"):
        unhot.Table(4, 2, optimizer=optimizer)
    optimizer.beta_2, optimizer.convention = 0.999, "jax"
    with pytest.raises(ValueError, match="`convention` must be"):
        unhot.Table(4, 2, optimizer=optimizer)


def test_ftrl_with_shrinkage_cannot_start_from_more_later() -> None:
    optimizer = unhot.Ftrl(0.1, l2_shrinkage_regularization_strength=0.01)
    table = unhot.Table(4, 2, optimizer=optimizer, seed=0)
    table.step([1], [[1.0, 2.0]])
    optimizer.initial_accumulator_value = 5.0
    with pytest.raises(ValueError, match="cannot go on"):
        table.step([1], [[1.0, 2.0]])


@pytest.mark.parametrize(("beta_1", "beta_2"), [(0.69, 0.7), (0.495, 0.5), (0.79, 0.8)])
def test_torch_adamax_whose_norm_would_underflow_is_refused(beta_1: float, beta_2: float) -> None:
    with pytest.raises(ValueError, match="too near to beta_2"):
        unhot.Table(4, 2, optimizer=unhot.Adamax(0.1, beta_1=beta_1, beta_2=beta_2, convention="torch"))


@pytest.mark.parametrize(("name", "value"), [("largest_beta", 1.0), ("largest_beta", float("nan")), ("momentum_product", -1.0)])
def test_numbers_of_a_state_are_checked(name: str, value: float) -> None:
    table = unhot.Table(4, 2, optimizer=unhot.NAdam(0.1), seed=0)
    table.step([1], [[1.0, 2.0]])
    state = table.state_dict()
    before = table.array
    state[f"state.{name}"] = value
    with pytest.raises(ValueError, match=f"state.{name}"):
        table.load_state_dict(state)
    np.testing.assert_array_equal(table.array, before)


def test_the_last_step_that_a_clock_counts() -> None:
    table = unhot.Table(4, 2, optimizer=unhot.SGD(0.1), seed=0)
    table.load_state_dict({**table.state_dict(), "clock": 2**32 - 1})
    with pytest.raises(OverflowError, match="2\\*\\*32"):
        table.step([1], [[1.0, 2.0]])


@pytest.mark.parametrize("count", [True, np.True_, 2.0, "2", None, np.array([2])])
def test_a_number_of_threads_is_an_integer(count: Any) -> None:
    before = unhot.get_num_threads()
    with pytest.raises(TypeError, match=r"the number of threads must be an integer\. Received: "):
        unhot.set_num_threads(count)
    assert unhot.get_num_threads() == before


@pytest.mark.parametrize("count", [0, -1, np.int64(0), 2**31, 2**40, np.uint64(2**63), 10**30])
def test_a_number_of_threads_lies_in_a_range(count: Any) -> None:
    before = unhot.get_num_threads()
    with pytest.raises(ValueError, match=r"the number of threads must lie in \[1, 2147483647\]\. Received: "):
        unhot.set_num_threads(count)
    assert unhot.get_num_threads() == before


@pytest.mark.parametrize("count", [3, np.int64(3), np.uint8(3), 2**31 - 1])
def test_a_number_of_threads_may_be_of_numpy(count: Any) -> None:
    before = unhot.get_num_threads()
    try:
        unhot.set_num_threads(count)
        assert unhot.get_num_threads() == (1 if unhot.kernels.name == "numpy" else int(count))
    finally:
        unhot.set_num_threads(before)
