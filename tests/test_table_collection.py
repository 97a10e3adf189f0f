"""Several tables in one call: what the same tables apart give."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import unhot

SIZES = {"user": (30, 4), "item": (20, 3), "word": (9, 4)}
ALIKE = {"user": (30, 4), "item": (20, 4), "word": (9, 4)}

OPTIMIZERS: dict[str, Callable[[], Any]] = {
    "adamw": lambda: unhot.AdamW(0.05), "sgd": lambda: unhot.SGD(0.1, momentum=0.9), "adagrad": lambda: unhot.Adagrad(0.1),
    "ftrl": lambda: unhot.Ftrl(0.1), "rowwise adagrad": lambda: unhot.RowwiseAdagrad(0.1, weight_decay=0.1),
}  # fmt: skip


def pair(
    optimizer: str, sizes: dict[str, tuple[int, int]], **options: Any
) -> tuple[unhot.TableCollection, dict[str, unhot.Table]]:
    """A collection, and the same tables apart, in float64."""
    tables = unhot.TableCollection(sizes, optimizer=OPTIMIZERS[optimizer](), dtype="float64", seed=3, **options)
    apart = {name: unhot.Table.from_array(tables.array(name), optimizer=OPTIMIZERS[optimizer](), **options) for name in sizes}
    return tables, apart


def close(tables: unhot.TableCollection, apart: dict[str, unhot.Table]) -> None:
    for name, table in apart.items():
        np.testing.assert_allclose(tables.array(name), table.array, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("sizes", [SIZES, ALIKE], ids=["of several dims", "of one dim"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_matrix_of_ids(optimizer: str, sizes: dict[str, tuple[int, int]]) -> None:
    """A column for each table, the vectors side by side; and the initial weights of `Table` with the same seed."""
    tables, apart = pair(optimizer, sizes)
    assert tables.shapes == sizes
    np.testing.assert_array_equal(tables.array("user"), unhot.Table(30, 4, dtype="float64", seed=3).array)
    rng = np.random.default_rng(0)
    width = sum(dim for _, dim in sizes.values())
    stops = np.cumsum([dim for _, dim in sizes.values()])[:-1]
    for step in range(60):
        most = [rows if step % 20 == 0 else 5 for rows, _ in sizes.values()]
        ids = rng.integers(0, most, (6, len(sizes)), dtype=rng.choice([np.int64, np.int32]))  # type: ignore[arg-type]
        found = np.split(tables.lookup(ids), stops, axis=1)
        gradients = rng.normal(size=(6, width))
        for k, (part, table) in enumerate(zip(found, apart.values(), strict=True)):
            np.testing.assert_allclose(part, table.lookup(ids[:, k]), rtol=1e-9, atol=1e-12)
            table.step(ids[:, k], np.split(gradients, stops, axis=1)[k])
        tables.step(ids, gradients)
    close(tables, apart)
    assert tables.clock == 60


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_ids_by_table(optimizer: str) -> None:
    """Of any shape, for some of the tables: the others make the step, too."""
    tables, apart = pair(optimizer, SIZES)
    rng = np.random.default_rng(0)
    for step in range(60):
        named = [name for name in SIZES if rng.random() < 0.7]
        ids = {name: rng.integers(0, 6, (2, int(rng.integers(0, 4)))) for name in named}
        grads = {name: rng.normal(size=(*given.shape, SIZES[name][1])) for name, given in ids.items()}
        for name, found in tables.lookup(ids).items():
            np.testing.assert_allclose(found, apart[name].lookup(ids[name]), rtol=1e-9, atol=1e-12)
        tables.step(ids, grads)
        for name, table in apart.items():
            table.step(ids.get(name, np.empty(0, np.int64)), grads.get(name, np.empty((0, table.dim))))
        assert tables.optimizer is not None
        for optimizer_of in (tables.optimizer, *(table.optimizer for table in apart.values())):
            assert optimizer_of is not None
            optimizer_of.learning_rate = 0.05 / (1 + step % 5)
    close(tables, apart)


@pytest.mark.parametrize("policy", ["zero", 2])
@pytest.mark.parametrize("sizes", [SIZES, ALIKE], ids=["of several dims", "of one dim"])
def test_ids_out_of_range(policy: Any, sizes: dict[str, tuple[int, int]]) -> None:
    tables, apart = pair("adamw", sizes, out_of_range=policy)
    rng = np.random.default_rng(0)
    stops = np.cumsum([dim for _, dim in sizes.values()])[:-1]
    for _ in range(20):
        ids = rng.integers(-2, 32, (5, 3))
        found = tables.lookup(ids)
        gradients = rng.normal(size=found.shape)
        for k, table in enumerate(apart.values()):
            np.testing.assert_allclose(np.split(found, stops, axis=1)[k], table.lookup(ids[:, k]), rtol=1e-9, atol=1e-12)
            table.step(ids[:, k], np.split(gradients, stops, axis=1)[k])
        tables.step(ids, gradients)
    close(tables, apart)


def test_copies_go_on_alone() -> None:
    tables, _ = pair("adamw", SIZES)
    step = ({"user": [1, 2], "word": [3]}, {"user": np.ones((2, 4)), "word": np.ones((1, 4))})
    tables.step(*step)
    before = tables.array("user")  # which settles all rows: a row that is settled in between is rounded once more
    copies = [copy.deepcopy(tables), pickle.loads(pickle.dumps(tables))]
    for made in copies:
        made.step(*step)
        np.testing.assert_array_equal(tables.array("user"), before)
    tables.step(*step)
    for made in copies:
        for name in SIZES:
            np.testing.assert_array_equal(made.array(name), tables.array(name))


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_state_goes_on_bit_for_bit(optimizer: str, tmp_path: Path) -> None:
    tables, _ = pair(optimizer, SIZES)
    rng = np.random.default_rng(0)

    def step(*all_tables: unhot.TableCollection) -> None:
        ids = rng.integers(0, 5, (6, 3))
        gradients = rng.normal(size=(6, 11))
        for each in all_tables:
            each.step(ids, gradients)

    for _ in range(9):
        step(tables)
    np.savez(tmp_path / "tables.npz", **tables.state_dict())
    other = unhot.TableCollection(SIZES, optimizer=type(tables.optimizer)(0.5), dtype="float64")  # type: ignore[misc]
    with np.load(tmp_path / "tables.npz") as state:
        other.load_state_dict(state)
    assert (other.clock, other.optimizer) == (9, tables.optimizer)
    for _ in range(9):
        step(tables, other)
    for name in SIZES:
        np.testing.assert_array_equal(tables.array(name), other.array(name))


def test_a_state_that_does_not_fit_changes_nothing() -> None:
    tables, _ = pair("adamw", SIZES)
    state = tables.state_dict()
    before = {name: tables.array(name) for name in SIZES}
    changes: dict[str, Any] = {"item.weights": np.zeros((20, 4)), "item.slot.momentum": None, "rule": "SGD", "clock": -1}
    for name, value in changes.items():
        changed = {key: given for key, given in state.items() if key != name} | ({} if value is None else {name: value})
        with pytest.raises(
            ValueError, match=name if name in ("item.weights", "item.slot.momentum", "clock") else "trained with"
        ):
            tables.load_state_dict(changed)
    for name, weights in before.items():
        np.testing.assert_array_equal(tables.array(name), weights)


def test_a_state_of_more_tables_does_not_fit() -> None:
    tables, _ = pair("adamw", SIZES)
    fewer = unhot.TableCollection({"user": SIZES["user"]}, optimizer=unhot.AdamW(0.05), dtype="float64", init="zeros")
    with pytest.raises(ValueError, match=r"other tables, too: \['item', 'word'\]"):
        fewer.load_state_dict(tables.state_dict())
    assert not fewer.array("user").any()


BAD: dict[str, tuple[Callable[[unhot.TableCollection], Any], type[Exception], str]] = {
    "no sizes": (lambda _: unhot.TableCollection({}), TypeError, "at least one table"),
    "one number": (lambda _: unhot.TableCollection({"a": 3}), TypeError, r"the size of 'a' must be \(rows, dim\)"),  # type: ignore[dict-item]
    "a size": (lambda _: unhot.TableCollection({"a": (0, 3)}), ValueError, "rows of 'a'"),
    "a matrix of another width": (lambda t: t.lookup([[1, 2]]), ValueError, r"\(n, 3\)"),
    "no matrix": (lambda t: t.lookup([1, 2, 3]), ValueError, "a column for each table"),
    "a name": (lambda t: t.lookup({"users": [1]}), KeyError, "no table 'users'. There are: 'user', 'item', 'word'"),
    "an id": (lambda t: t.lookup([[1, 20, 3]]), IndexError, "id 20 of 'item' at position 0"),
    "an id by name": (lambda t: t.lookup({"item": [20]}), IndexError, "id 20 of 'item' at position 0"),
    "an id of a step": (lambda t: t.step({"item": [20]}, {"item": [[1.0] * 3]}), IndexError, "id 20 of 'item' at position 0"),
    "one dict": (lambda t: t.step({"user": [1]}, [[1.0] * 4]), TypeError, "both be dicts"),
    "other names": (lambda t: t.step({"user": [1]}, {"item": [[1.0] * 3]}), ValueError, "the same tables"),
    "gradients": (lambda t: t.step([[1, 2, 3]], [[1.0] * 10]), ValueError, r"\(1, 11\)"),
    "gradients by name": (lambda t: t.step({"user": [1]}, {"user": [[1.0] * 3]}), ValueError, r"\(1, 4\)"),
    "integers": (lambda t: t.step([[1, 2, 3]], [[1] * 11]), TypeError, "floating point"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_changes_nothing(name: str) -> None:
    tables, _ = pair("adamw", SIZES)
    tables.step([[1, 2, 3]], np.ones((1, 11)))
    before = {table: tables.array(table) for table in SIZES}
    call, error, message = BAD[name]
    with pytest.raises(error, match=message):
        call(tables)
    assert tables.clock == 1
    for table, array in before.items():
        np.testing.assert_array_equal(tables.array(table), array)


def test_tables_that_are_only_read() -> None:
    tables = unhot.TableCollection(SIZES, seed=0)
    assert len(tables) == 3
    assert list(tables) == list(tables.names) == list(SIZES)
    assert "optimizer=None" in repr(tables)
    np.testing.assert_array_equal(tables.lookup({"word": [8]})["word"][0], tables.array("word")[8])
    with pytest.raises(RuntimeError, match="no optimizer"):
        tables.step([[1, 2, 3]], np.ones((1, 11), np.float32))
