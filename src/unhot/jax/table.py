"""Tables for JAX: an immutable state, and functions that compile."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from unhot.creation import as_optimizer
from unhot.graph.engine import Traced
from unhot.ids import ANY_INTEGERS, OutOfRange, as_ids, check_policy, in_range, no_integers
from unhot.jax import spread as spreading
from unhot.jax.operations import ArrayRows, Operations, after, into_large_pages, traced_apart
from unhot.jax.spread import Spread
from unhot.optimizers import Optimizer


@partial(
    jax.tree_util.register_dataclass,
    data_fields=("rows", "history", "clock"),
    meta_fields=("trained", "out_of_range", "spread"),
)
@dataclass(frozen=True)
class TableState:
    """A table and its training state, as a pytree.

    Create it with `from_array`. Pass it to jitted functions, and donate it to those that return its successor. Rows may have
    deferred steps: read them with `lookup`, or settle them all.

    Args:
        rows: arrays with one line per row: "weights", (rows, dim), and the optimizer's slots, (rows, dim), or (rows, 1) where
            it keeps one number for each row, in the table's dtype; "last", (rows,) int32, the step of the last touch; "place",
            (rows,) int32, scratch space for a step; "removed", (rows,) bool, if rows have been removed.
        history: the history of the steps made, a few MB.
        clock: the number of steps made, int32.
        trained: the optimizer. It is not an array, and is compiled into jitted functions.
        out_of_range: what happens to ids outside of the table; see `from_array`. It is compiled in, too.
        spread: the mesh and the axis over which `shard` has spread the rows; None for rows that are all together.

    Raises: nothing of its own.

    Example:
        >>> import jax.numpy as jnp, unhot, unhot.jax
        >>> state = unhot.jax.from_array(jnp.zeros((5, 2)), optimizer=unhot.Adam(0.01))
        >>> sorted(state.rows), state.shape
        (['last', 'momentum', 'place', 'velocity', 'weights'], (5, 2))
    """

    rows: dict[str, jax.Array]
    history: dict[str, jax.Array]
    clock: jax.Array
    trained: Traced
    out_of_range: OutOfRange = "raise"
    spread: Spread | None = None
    _read: list[jax.Array] = field(default_factory=list, init=False, repr=False, compare=False)
    """What was looked up in this state where JAX traces: `update` must not write before it is there."""

    @property
    def shape(self) -> tuple[int, int]:
        """The shape of the weights: (rows, dim), also where a device has a part of them."""
        return self.trained.rows, self.rows["weights"].shape[1]


def from_array(array: Any, *, optimizer: Optimizer, out_of_range: OutOfRange = "raise") -> TableState:
    """A new, untrained table with these weights.

    Args:
        array: an array of shape (rows, dim), float32 or float64 (which needs `jax_enable_x64`). It is copied.
        optimizer: one of `unhot`. Its learning rate may be a callable of the step (the first step is 1; see
            `unhot.zero_based`), which is traced.
        out_of_range: what `lookup`, `update` and `sum_by_id` do with an id outside [0, rows), including negative ids: "raise"
            (an IndexError; a compiled function cannot raise, so the vector is NaN there, and the gradient is left out), "zero"
            (a zero vector, whose gradient is left out) or the number of the row that stands for all unknown ids.

    Raises: TypeError or ValueError for an unusable array or `out_of_range`; TypeError for what is no optimizer of unhot, such
        as one of Optax; ValueError for one that does not work inside a graph (PyTorch's Adamax, and PyTorch's SGD with weight
        decay or dampening).

    Example:
        >>> import jax.numpy as jnp, unhot, unhot.jax
        >>> state = unhot.jax.from_array(jnp.zeros((5, 2)), optimizer=unhot.Adam(0.01))
        >>> unhot.jax.lookup(state, jnp.array([3, 1])).shape
        (2, 2)
    """
    weights = jnp.array(array)
    if weights.dtype not in (jnp.float32, jnp.float64):
        raise TypeError(f"a table must be float32 or float64. Received: dtype {weights.dtype}. Convert it first.")
    if weights.ndim != 2 or 0 in weights.shape:
        raise ValueError(f"a table must have the shape (rows, dim), both at least 1. Received: shape {weights.shape}.")
    policy = check_policy(out_of_range, len(weights))
    trained = Traced(copy.copy(as_optimizer(optimizer, "")), weights.dtype.name, len(weights))
    rows = {"weights": weights}
    for name, start in trained.slots.items():
        rows[name] = jnp.full_like(weights, start, shape=trained.slot_shape(name, weights.shape[1]))
    rows["place"] = jnp.zeros(len(weights), jnp.int32)
    if trained.notes:
        rows["last"] = jnp.zeros(len(weights), jnp.int32)
    for array in rows.values():
        into_large_pages(array)
    history = {name: jnp.asarray(value) for name, value in trained.family.arrays().items()} if trained.defers else {}
    return TableState(rows, history, jnp.zeros((), jnp.int32), trained, policy)


def shard(state: TableState, mesh: Mesh, axis: str) -> TableState:
    """The table with its rows spread over an axis of a mesh of devices, each of which has equal parts of all their arrays.

    It is used as before, by all devices together: `lookup`, `update` and all others work in compiled functions, and within
    `jax.shard_map` over the axis. No device ever has an array of the table's size. Rows hold the same bits as without, if
    gradients are the same.

    Args:
        state: the table, which may be spread already, over any mesh. It stays as it is.
        mesh: the devices, also those of other processes, each of which calls this with an equal table.
        axis: the name of an axis of the mesh. The number of rows must be a multiple of its size. Along other axes, the devices
            have the same rows.

    Raises: TypeError for what is no table or mesh, or within a function that JAX traces; ValueError for an axis that the mesh
        does not have, and for a number of rows that does not divide.

    Example:
        >>> import jax, jax.numpy as jnp, numpy as np, unhot, unhot.jax
        >>> mesh = jax.sharding.Mesh(np.array(jax.devices()), ("rows",))
        >>> rows = 100 * len(jax.devices())
        >>> state = unhot.jax.from_array(jnp.zeros((rows, 2)), optimizer=unhot.Adam(0.01))
        >>> state = unhot.jax.shard(state, mesh, "rows")
        >>> state.rows["weights"].addressable_shards[0].data.shape
        (100, 2)
    """
    if not isinstance(state, TableState):
        raise TypeError(f"`state` must be a table of `unhot.jax.from_array`. Received: {type(state).__name__}.")
    if any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(state)):
        raise TypeError("`unhot.jax.shard` moves rows between devices: call it outside of compiled functions.")
    if not isinstance(mesh, Mesh):
        raise TypeError(f"`mesh` must be a jax.sharding.Mesh. Received: {type(mesh).__name__}.")
    if axis not in mesh.axis_names:
        raise ValueError(f"`axis` must be one of the mesh's, {', '.join(map(repr, mesh.axis_names))}. Received: {axis!r}.")
    spread = Spread(mesh, axis)
    spread.require_equal_parts(*state.shape)
    return replace(
        state,
        rows=jax.device_put(state.rows, spread.by_rows),
        history=jax.device_put(state.history, spread.everywhere),
        clock=jax.device_put(state.clock, spread.everywhere),
        spread=spread,
    )


def lookup(state: TableState, ids: Any, *, out_of_range: OutOfRange | None = None) -> jax.Array:
    """The vectors of `ids`, with all deferred steps applied: shape ids.shape + (dim,).

    Differentiate a loss with respect to these vectors and pass the gradient to `update`. This creates no array of the table's
    size. Differentiating with respect to the table itself raises an error.

    Args:
        state: the table.
        ids: integers of any shape.
        out_of_range: as for `from_array`, in place of the table's. Hand the same to `update`.

    Raises: IndexError for an id outside [0, rows) with out_of_range="raise" (a compiled function cannot raise, so the vector
        is NaN there); ValueError for an unusable `out_of_range`; TypeError for ids that are not integers; TypeError for
        differentiating with respect to the table.

    Example:
        >>> import jax, jax.numpy as jnp, unhot, unhot.jax
        >>> state = unhot.jax.from_array(jnp.ones((5, 2)), optimizer=unhot.Adam(0.01))
        >>> ids = jnp.array([3, 1, 3])
        >>> loss = lambda vectors: (vectors**2).sum()
        >>> gradients = jax.grad(loss)(unhot.jax.lookup(state, ids))
        >>> state = unhot.jax.update(state, ids, gradients)
    """
    policy = _policy(state, out_of_range)
    flat = _flat(state, ids, policy)
    known = (flat >= 0) & (flat < state.shape[0])
    weights = _looked_up(state, jnp.where(known, flat, state.shape[0]))  # the ids of `update`, whose work this is, too
    vectors = jnp.where(known[:, None], weights, 0.0 if policy == "zero" else jnp.nan).reshape(
        (*jnp.shape(ids), state.shape[1])
    )
    table = state.rows["weights"]
    if isinstance(table, jax.core.Tracer) and not traced_apart(table):
        state._read.append(vectors)
    return vectors if state.spread is None else state.spread.as_spread(ids, vectors)


@jax.custom_jvp
def _looked_up(state: TableState, flat: jax.Array) -> jax.Array:
    found: jax.Array
    if state.spread is None:
        found = state.trained.lookup(_operations(state), state.history, ArrayRows(state.rows), flat, state.clock)
    else:
        found = spreading.look_up(state.spread, state.trained, state.rows, state.history, flat, state.clock)
    return found


@_looked_up.defjvp
def _refuse_differentiation(primals: Any, tangents: Any) -> Any:
    raise TypeError(
        "a table is not differentiated as a whole: that would make a gradient of its size. Differentiate with respect to the"
        " vectors that `unhot.jax.lookup` gives, outside of the function that is differentiated, and hand the gradient to"
        " `unhot.jax.update`."
    )


def update(
    state: TableState, ids: Any, gradients: Any, learning_rate: Any = None, *, out_of_range: OutOfRange | None = None
) -> TableState:
    """The table after one step of its optimizer.

    Args:
        state: the table.
        ids: integers of any shape. The gradients of a repeated id are summed. Those of ids outside [0, rows) are left out, or
            are those of the row that stands for these.
        gradients: floats of shape ids.shape + (dim,).
        learning_rate: the learning rate of this step, in place of the optimizer's. It may be traced.
        out_of_range: as for `lookup`.

    Raises: IndexError as for `lookup`; TypeError or ValueError for gradients that do not fit.

    Example:
        >>> import jax, jax.numpy as jnp, unhot, unhot.jax
        >>> state = unhot.jax.from_array(jnp.ones((5, 2)), optimizer=unhot.SGD(0.5))
        >>> step = jax.jit(unhot.jax.update, donate_argnums=0)
        >>> state = step(state, jnp.array([3, 3]), jnp.ones((2, 2)))
        >>> unhot.jax.weights(state)[3]
        Array([0., 0.], dtype=float32)
    """
    flat, given = _flat_gradients(state, ids, gradients, _policy(state, out_of_range))
    rows = state.shape[0]
    ops = _operations(state)
    rate: Any = learning_rate
    if rate is None:
        rate = state.trained.optimizer.learning_rate
        rate = rate(state.clock + 1) if callable(rate) else rate
    rate, written = jnp.asarray(rate, ops.dtype), after(flat, rows, state._read)
    if state.spread is None:
        store = ArrayRows(state.rows)
        history = state.trained.step(ops, state.history, store, flat, given, state.clock, rate, written)
        made = store.arrays
    else:
        (flat, given, written), _ = _of_all_devices(state, flat, given, written)
        made, history = spreading.step(
            state.spread, state.trained, state.rows, state.history, flat, given, state.clock, rate, written
        )
    return replace(state, rows=made, history=history, clock=state.clock + 1)


def sum_by_id(state: TableState, ids: Any, gradients: Any, *, out_of_range: OutOfRange | None = None) -> jax.Array:
    """The gradients with those of a repeated id summed: the sum stands at the id's first position, and zeros at the others.

    `update` does the same with the result as with `gradients`. But the result has the norm of the table's gradient, also if ids
    repeat. So clip it together with the other gradients, for example with `optax.clip_by_global_norm`.

    Args:
        state: the table.
        ids: integers of any shape. Gradients of ids outside [0, rows) become 0, or are those of the row that stands for these.
        gradients: floats of shape ids.shape + (dim,).
        out_of_range: as for `lookup`.

    Raises: as for `update`.

    Example:
        >>> import jax.numpy as jnp, unhot, unhot.jax
        >>> state = unhot.jax.from_array(jnp.ones((5, 2)), optimizer=unhot.Adam(0.1))
        >>> unhot.jax.sum_by_id(state, jnp.array([3, 1, 3]), jnp.array([[1.0, 0.0], [2.0, 2.0], [2.0, 4.0]]))
        Array([[3., 4.],
               [2., 2.],
               [0., 0.]], dtype=float32)
    """
    flat, given = _flat_gradients(state, ids, gradients, _policy(state, out_of_range))
    (flat, given), own = _of_all_devices(state, flat, given)
    places = jnp.arange(len(flat), dtype=jnp.int32)
    order = jnp.argsort(flat, stable=True).astype(places.dtype)
    ordered = flat[order]
    starts = jnp.concatenate([jnp.ones(min(len(flat), 1), bool), ordered[1:] != ordered[:-1]])
    first = order[jax.lax.cummax(jnp.where(starts, places, 0))]  # where the id of each of `ordered` stands first in `flat`
    sums: jax.Array = jax.ops.segment_sum(given, jnp.zeros_like(places).at[order].set(first), len(places))
    sums = own(sums).reshape(jnp.shape(gradients))
    return sums if state.spread is None else state.spread.as_spread(ids, sums)


def settle(state: TableState) -> TableState:
    """The same table with all deferred steps applied. `rows` then holds what dense training would.

    Args:
        state: the table.

    Raises: nothing of its own.

    Example:
        >>> import jax.numpy as jnp, unhot, unhot.jax
        >>> state = unhot.jax.from_array(jnp.ones((5, 2)), optimizer=unhot.Adam(0.1))
        >>> unhot.jax.settle(state).rows["momentum"].shape
        (5, 2)
    """
    if not state.trained.defers:
        return state
    _require_every_row(state)
    made = spreading.settle(state.spread, state.trained, state.rows, state.history, state.clock)
    return replace(state, rows={name: into_large_pages(array) for name, array in made.items()})


def weights(state: TableState) -> jax.Array:
    """All weights, settled: shape (rows, dim).

    Args:
        state: the table.

    Raises: nothing of its own.

    Example:
        >>> import jax.numpy as jnp, unhot, unhot.jax
        >>> unhot.jax.weights(unhot.jax.from_array(jnp.ones((5, 2)), optimizer=unhot.Adam(0.1))).shape
        (5, 2)
    """
    return settle(state).rows["weights"]


def _operations(state: TableState) -> Operations:
    return Operations(state.rows["weights"].dtype)


def _policy(state: TableState, out_of_range: OutOfRange | None) -> OutOfRange:
    return state.out_of_range if out_of_range is None else check_policy(out_of_range, state.shape[0])


def _require_every_row(state: TableState) -> None:
    """Raise ValueError where a device has a part of the rows, and it is not known which."""
    parts, held = 1, state.rows["weights"]
    if state.spread is not None and state.spread.within:
        parts = jax.lax.axis_size(state.spread.axis)
        if state.spread.axis not in spreading.varying(held):
            raise ValueError(
                f"the table's rows are spread over the axis {state.spread.axis!r}, and `jax.shard_map` does not say along which"
                " axes ids differ. Do not give it `check_vma=False`."
            )
    if len(held) * parts != state.trained.rows:
        raise ValueError(
            f"the table has {state.trained.rows} rows, and its arrays have {len(held)}. Within `jax.shard_map`, use a table"
            " that `unhot.jax.shard` has spread over its axis."
        )


def _of_all_devices(state: TableState, *arrays: jax.Array) -> Any:
    """The arrays, or within `jax.shard_map` those of all devices; and what gives a device its part of as many lines."""
    if state.spread is None or not state.spread.within:
        return arrays, lambda lines: lines
    return spreading.gathered(state.spread.axis, *arrays)


def _flat_gradients(state: TableState, ids: Any, gradients: Any, policy: OutOfRange) -> tuple[jax.Array, jax.Array]:
    """The ids, flat, and a line of gradients for each; `rows` and zeros where an id lies outside of the table."""
    flat = _flat(state, ids, policy)
    rows, dim = state.shape
    wanted = (*jnp.shape(ids), dim)
    if jnp.shape(gradients) != wanted:
        raise ValueError(f"`gradients` must have the shape ids.shape + (dim,) = {wanted}. Received: {jnp.shape(gradients)}.")
    given = jnp.asarray(gradients, state.rows["weights"].dtype)
    given = (given if state.spread is None else state.spread.to_everywhere(given)).reshape((-1, dim))
    known = (flat >= 0) & (flat < rows)
    return jnp.where(known, flat, rows), jnp.where(known[:, None], given, 0)


def _flat(state: TableState, ids: Any, policy: OutOfRange) -> jax.Array:
    """The ids as flat integers, checked where they are known; of those outside, only those stay that stand for no row."""
    _require_every_row(state)
    rows = state.shape[0]
    if not isinstance(ids, jax.core.Tracer) and getattr(ids, "is_fully_addressable", True):
        array = as_ids(ids)
        wide, zero = in_range(array, rows, policy, "Use a larger table, or another `out_of_range`.")
        if policy == "raise":
            return _wide_enough(jnp.asarray(wide if array.dtype == object else array.reshape(-1)))
        return jnp.asarray(wide if zero is None else np.where(zero, rows, wide))
    if not jnp.issubdtype(ids.dtype, jnp.integer) and ids.size:
        raise no_integers("`ids`", f"dtype {ids.dtype}, shape {ids.shape}", ANY_INTEGERS)
    ids = ids if state.spread is None else state.spread.to_everywhere(ids)
    flat = _wide_enough(ids.reshape(-1))
    return jnp.where((flat >= 0) & (flat < rows), flat, policy) if isinstance(policy, int) else flat


def _wide_enough(flat: jax.Array) -> jax.Array:
    """Integers of a dtype that holds the number of rows."""
    return flat.astype(jnp.int32) if flat.dtype.itemsize < 4 else flat
