"""What the processes run: training with rows spread over devices, beside the same without."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conformance.compiled import assert_no_copies
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import unhot
import unhot.jax

ROWS, DIM, BATCH = 32, 3, 16

OPTIMIZERS: dict[str, Callable[[], Any]] = {
    "SGD": lambda: unhot.SGD(0.1, momentum=0.9, weight_decay=0.01),
    "Adam": lambda: unhot.Adam(0.01, weight_decay=0.01),
    "Lion": lambda: unhot.Lion(0.01, weight_decay=0.01),
    "Ftrl": lambda: unhot.Ftrl(0.1, l2_shrinkage_regularization_strength=0.1),
    "LazyAdam": lambda: unhot.LazyAdam(0.01),
    "RowwiseAdagrad": lambda: unhot.RowwiseAdagrad(0.1, weight_decay=0.01),
    "schedule": lambda: unhot.SGD(lambda step: 0.1 / step),
}

MESHES: dict[str, Callable[[], Mesh]] = {
    "line": lambda: Mesh(np.array(jax.devices()), ("rows",)),
    "square": lambda: Mesh(np.array(jax.devices()).reshape(2, 2), ("data", "rows")),
    "explicit line": lambda: jax.make_mesh((4,), ("rows",)),
    "explicit square": lambda: jax.make_mesh((2, 2), ("data", "rows")),
}
"""On which the compiler decides where arrays are, or, on explicit ones, their types say it."""

BATCHES: dict[str, Callable[[Mesh, Any], Any]] = {
    "host": lambda mesh, array: array,
    "replicated": lambda mesh, array: put(mesh, array),
    "sharded": lambda mesh, array: put(mesh, array, mesh.axis_names),
}


def put(mesh: Mesh, array: Any, *spec: Any) -> jax.Array:
    """The array, spread over the devices so."""
    return jax.make_array_from_callback(array.shape, NamedSharding(mesh, PartitionSpec(*spec)), lambda index: array[index])


def table(optimizer: str = "SGD", rows: int = ROWS, dim: int = DIM, **options: Any) -> unhot.jax.TableState:
    """A table that begins with the same weights each time, among them a row of -0.0."""
    start = np.random.default_rng(0).normal(size=(rows, dim)).astype(np.float32)
    start[1] = -0.0
    return unhot.jax.from_array(start, optimizer=OPTIMIZERS[optimizer](), **options)


def batches(steps: int, low: int = 0, high: int = ROWS) -> list[tuple[Any, Any]]:
    """Ids, of which many repeat and others rest, and gradients."""
    rng = np.random.default_rng(1)
    made = []
    for _ in range(steps):
        ids = np.where(rng.random(BATCH) < 0.5, rng.integers(low, high, BATCH), rng.integers(0, 4, BATCH)).astype(np.int32)
        made.append((ids, rng.normal(size=(BATCH, DIM)).astype(np.float32)))
    return made


def step(state: Any, ids: Any, gradients: Any) -> Any:
    """A step whose gradients come from the vectors, too."""
    vectors = unhot.jax.lookup(state, ids)
    return unhot.jax.update(state, ids, gradients + 0.5 * vectors), vectors


def whole(tree: Any) -> Any:
    """The arrays in NumPy, also where other processes have parts of them."""

    def one(array: Any) -> Any:
        if isinstance(array, jax.Array) and not array.is_fully_addressable:
            array = jax.jit(jnp.copy, out_shardings=NamedSharding(array.sharding.mesh, PartitionSpec()))(array)
        return np.asarray(array)

    return jax.tree.map(one, tree)


def assert_same_bits(found: Any, expected: Any) -> None:
    """All arrays of two trees, bit for bit."""
    found, expected = whole(found), whole(expected)
    assert sorted(found) == sorted(expected)
    for name, array in expected.items():
        assert found[name].dtype == array.dtype, name
        assert found[name].tobytes() == array.tobytes(), (name, np.abs(found[name] - array).max())


def assert_same(found: unhot.jax.TableState, expected: unhot.jax.TableState) -> None:
    """All arrays of two tables, as they are and settled; `place` is scratch space."""
    scratch = {"place": 0}
    assert found.shape == expected.shape
    assert_same_bits({**found.rows, **scratch}, {**expected.rows, **scratch})
    assert_same_bits({**found.history, "clock": found.clock}, {**expected.history, "clock": expected.clock})
    settled = [{**jax.jit(unhot.jax.settle)(state).rows, **scratch} for state in (found, expected)]
    assert_same_bits(*settled)


def assert_spread(state: unhot.jax.TableState, devices: int) -> None:
    """Each device has its part of the rows, and all of the history."""
    for array in state.rows.values():
        assert {shard.data.shape[0] for shard in array.addressable_shards} == {state.shape[0] // devices}
    assert all(array.sharding.is_fully_replicated for array in (state.clock, *state.history.values()))


def trains_as_unspread(optimizer: str, mesh: str, batch: str, steps: int = 5) -> None:
    """In compiled steps that take the state's memory over, lookups and tables are the same bit for bit."""
    over = MESHES[mesh]()
    run = jax.jit(step, donate_argnums=0)
    state, expected = unhot.jax.shard(table(optimizer), over, "rows"), table(optimizer)
    for ids, gradients in batches(steps):
        before = state.rows["weights"]
        state, vectors = run(state, *(BATCHES[batch](over, array) for array in (ids, gradients)))
        assert before.is_deleted()
        expected, wanted = run(expected, ids, gradients)
        assert_same_bits({"vectors": vectors}, {"vectors": wanted})
    assert_spread(state, over.shape["rows"])
    assert_same(state, expected)


def trains_within_shard_map(mesh: str, batch: str) -> None:
    """The same where the caller maps over devices, each of which has ids of its own or all have the same."""
    over = MESHES[mesh]()
    state, expected = unhot.jax.shard(table(), over, "rows"), table()
    specs = jax.tree.map(lambda array: array.sharding.spec, state)
    ids_spec = PartitionSpec(over.axis_names) if batch == "sharded" else PartitionSpec()

    def with_sums(state: Any, ids: Any, gradients: Any) -> Any:
        sums = unhot.jax.sum_by_id(state, ids, gradients)
        return *step(state, ids, gradients), sums

    mapped = jax.shard_map(with_sums, mesh=over, in_specs=(specs, ids_spec, ids_spec), out_specs=(specs, ids_spec, ids_spec))
    run, alone = jax.jit(mapped, donate_argnums=0), jax.jit(with_sums)
    for ids, gradients in batches(5):
        state, vectors, sums = run(state, *(BATCHES[batch](over, array) for array in (ids, gradients)))
        expected, wanted, wanted_sums = alone(expected, ids, gradients)
        assert_same_bits({"vectors": vectors, "sums": sums}, {"vectors": wanted, "sums": wanted_sums})
    assert_same(state, expected)


def makes_no_array_of_the_tables_size(optimizer: str, mesh: str, batch: str) -> None:
    """No device's program has one, nor a copy of its rows; what travels is as long as the batch."""
    rows = 1_000_000 if optimizer == "Ftrl" else 50_000  # of which a table's history has a few numbers, or many
    over = MESHES[mesh]()
    own = rows // over.shape["rows"]
    state = unhot.jax.shard(table(optimizer, rows), over, "rows")
    (given,) = batches(1, high=rows)
    given = [BATCHES[batch](over, array) for array in given]
    compiled = jax.jit(step, donate_argnums=0).lower(state, *given).compile()
    text = compiled.as_text()
    assert_no_copies(text, own, DIM)
    assert f"[{rows}" not in text
    assert max(_lengths_that_travel(text)) == BATCH
    memory = compiled.memory_analysis()
    assert memory.alias_size_in_bytes >= sum(array.nbytes // over.shape["rows"] for array in state.rows.values())
    assert memory.temp_size_in_bytes < own * DIM * 4
    for function in (unhot.jax.settle, unhot.jax.weights):
        text = jax.jit(function, donate_argnums=0).lower(state).compile().as_text()
        assert f"[{own},{DIM}]" in text
        assert f"[{rows}" not in text
        assert not _lengths_that_travel(text)


def _lengths_that_travel(text: str) -> list[int]:
    """The lines of all arrays that a program's devices send to each other."""
    sent = re.findall(r"= \(?\w+\[(\d*)[^=]* (?:all|collective|reduce-scatter)[-\w]*\(", text)
    return [int(length or 1) for length in sent]


def grows_as_unspread(mesh: str) -> None:
    """Rows that are removed, added and frozen, and trained afterwards."""
    over = MESHES[mesh]()
    state, expected = unhot.jax.shard(table(out_of_range="zero"), over, "rows"), table(out_of_range="zero")
    run = jax.jit(step)
    (first, second) = batches(2)
    more = np.random.default_rng(2).normal(size=(8, DIM)).astype(np.float32)

    def changed(state: Any) -> Any:
        state, _ = run(state, *first)
        state = unhot.jax.remove(state, [5, 30])
        assert unhot.jax.removed(state).tolist() == [5, 30]
        state = unhot.jax.grow(state, more[:6], from_the_start=True)
        assert not unhot.jax.removed(state).size
        assert state.out_of_range == "zero"
        state = unhot.jax.freeze(unhot.jax.grow(state, more[4:]), [0, 7, 39])
        assert unhot.jax.frozen(state).tolist() == [0, 7, 39]
        return run(state, *second)[0]

    state = changed(state)
    assert_spread(state, over.shape["rows"])
    assert_same(state, changed(expected))
    with pytest.raises(ValueError, match="43 rows do not divide into equal parts"):
        unhot.jax.grow(state, more[:3])


def works_outside_of_compiled_functions(mesh: str) -> None:
    """Called one by one, with ids of the host that may be errors; and spread anew over another mesh."""
    over = MESHES[mesh]()
    state, expected = unhot.jax.shard(table(), over, "rows"), table()
    ids, gradients = batches(1)[0]
    for given in (ids, ids.tolist(), jnp.asarray(ids), put(over, ids, over.axis_names)):
        assert_same_bits({"": unhot.jax.lookup(state, given)}, {"": unhot.jax.lookup(expected, ids)})
    state, expected = (unhot.jax.update(one, ids, gradients) for one in (state, expected))
    np.testing.assert_allclose(whole(unhot.jax.weights(state)), whole(unhot.jax.weights(expected)), rtol=0, atol=4e-7)
    again = unhot.jax.shard(state, Mesh(np.array(jax.devices()[:2]), ("parts",)), "parts")
    assert_spread(again, 2)
    assert_same(again, state)
    with pytest.raises(IndexError, match=f"id {ROWS} at position 0"):
        unhot.jax.lookup(state, [ROWS])


def knows_ids_outside(policy: Any) -> None:
    """As the unspread table does, compiled; also for ids that are of the table in another width."""
    state = unhot.jax.shard(table(out_of_range=policy), MESHES["line"](), "rows")
    run = jax.jit(step)
    for dtype in ("int32", "uint32", "int8"):
        ids = np.array([-1, 0, 31, 32, 33, 2**31 - 1, -(2**31), 5]).astype(dtype)
        both = (run(one, ids, np.ones((8, DIM), np.float32)) for one in (state, table(out_of_range=policy)))
        (made, vectors), (expected, wanted) = both
        assert_same_bits({"": vectors}, {"": wanted})
        assert_same(made, expected)


def begins_with_an_array_that_is_spread() -> None:
    """Neither the weights nor a slot are ever together on one device."""
    for mesh in ("line", "explicit line"):
        over = MESHES[mesh]()
        start = put(over, np.ones((ROWS, DIM), np.float32), "rows")
        state = unhot.jax.from_array(start, optimizer=OPTIMIZERS["Adam"]())
        large = [array for array in state.rows.values() if array.ndim == 2]
        assert len(large) == 3
        assert all(array.addressable_shards[0].data.shape == (ROWS // 4, DIM) for array in large)
        assert_spread(unhot.jax.shard(state, over, "rows"), 4)


def says_what_is_wrong() -> None:
    """Each error names the remedy."""
    mesh, square = MESHES["line"](), MESHES["square"]()
    state = unhot.jax.shard(table(), mesh, "rows")
    ids = np.arange(4, dtype=np.int32)
    rows, none = PartitionSpec("rows"), PartitionSpec()

    def mapped(state: Any, mesh: Mesh = mesh, line: PartitionSpec = rows, **options: Any) -> Any:
        specs = jax.tree.map(lambda array: line if array.ndim and len(array) == ROWS else none, state)
        look = jax.shard_map(unhot.jax.lookup, mesh=mesh, in_specs=(specs, none), out_specs=none, **options)
        return jax.jit(look)(state, ids)

    shard: Any = unhot.jax.shard
    with pytest.raises(ValueError, match=r"33 rows do not divide into equal parts for 4 devices\. Have 3 more"):
        shard(table(rows=33), mesh, "rows")
    with pytest.raises(ValueError, match=r"`axis` must be one of the mesh's, 'rows'\. Received: 'data'"):
        shard(state, mesh, "data")
    with pytest.raises(TypeError, match=r"`mesh` must be a jax\.sharding\.Mesh\. Received: str"):
        shard(state, "rows", "rows")
    with pytest.raises(TypeError, match=r"`state` must be a table of `unhot\.jax\.from_array`\. Received: dict"):
        shard({}, mesh, "rows")
    with pytest.raises(TypeError, match="call it outside of compiled functions"):
        jax.jit(lambda one: shard(one, mesh, "rows"))(table())
    with pytest.raises(ValueError, match="the table has 32 rows, and its arrays have 8"):
        mapped(table())
    with pytest.raises(ValueError, match="Do not give it"):
        mapped(state, check_vma=False)
    with pytest.raises(ValueError, match=r"mapped over, too\. Received: a function mapped over 'data'"):
        mapped(shard(table(), square, "rows"), square, none, axis_names={"data"})


def does_the_work_of_lookup_and_step_once(spread: bool) -> None:
    """A step of looked-up rows computes no more powers than one without the lookup."""
    state = table(rows=50_000)
    if spread:
        state = unhot.jax.shard(state, MESHES["line"](), "rows")
    ids, gradients = batches(1)[0]

    def powers(function: Any) -> int:
        text = jax.jit(function, donate_argnums=0).lower(state, ids, gradients).compile().as_text()
        return len(re.findall(rf"\[{BATCH}[\],].* exponential(?:-minus-one)?\(", text))

    alone = powers(unhot.jax.update)
    assert alone > 0
    assert powers(step) == alone


def trains_in_two_processes() -> None:
    """Each process is given its part of the batch, and has half of the rows."""
    trains_as_unspread("SGD", "line", "sharded")
    grown = unhot.jax.grow(unhot.jax.shard(table(), MESHES["line"](), "rows"), np.ones((4, DIM), np.float32))
    assert_spread(grown, 4)
    assert unhot.jax.removed(unhot.jax.remove(grown, [3, 35])).tolist() == [3, 35]
