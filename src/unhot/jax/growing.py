"""Rows that arrive and go, and rows that do not train: new states of tables for JAX."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from unhot.graph.engine import FROZEN, Traced
from unhot.jax.operations import Operations, into_large_pages
from unhot.jax.spread import Spread, known
from unhot.jax.table import TableState, settle, shard
from unhot.row_numbers import existing, named

Rows = npt.NDArray[np.int64]


def grow(state: TableState, vectors: Any, *, from_the_start: bool = False) -> TableState:
    """The table with more rows: they take the numbers of removed rows first (see `removed`), then those after the last row.

    The new rows have had no gradient yet, and have the slots of such rows. All rows are settled and copied, and functions are
    compiled anew for the new size, so add many rows at a time, outside of compiled functions.

    Args:
        state: the table. It stays as it is.
        vectors: the new rows, (rows, dim).
        from_the_start: whether the table is to be what it would be if it had had the rows from the start: the vectors are then
            what the rows began with, and weight decay has acted on them in all steps since `from_array`. By default, the rows
            hold the vectors now.

    Raises: TypeError or ValueError for vectors that do not fit; TypeError within a function that JAX traces.

    Example:
        >>> import jax.numpy as jnp, unhot, unhot.jax
        >>> state = unhot.jax.from_array(jnp.zeros((5, 2)), optimizer=unhot.AdamW(0.01))
        >>> state = unhot.jax.grow(state, jnp.ones((3, 2)))
        >>> state.shape
        (8, 2)
    """
    _require_known(state, "grow")
    rows, dim = state.shape
    given = jnp.asarray(vectors)
    if not (jnp.issubdtype(given.dtype, jnp.floating) or jnp.issubdtype(given.dtype, jnp.integer)):
        raise TypeError(f"`vectors` must be real numbers. Received: dtype {given.dtype}.")
    if given.ndim != 2 or given.shape[1] != dim or not len(given):
        raise ValueError(f"`vectors` must have the shape (rows, {dim}), with at least one row. Received: shape {given.shape}.")
    gone = removed(state)
    again = gone[: len(given)]
    total = rows + len(given) - len(again)
    if state.spread is not None:
        state.spread.require_equal_parts(total, dim)
    spread, state = state.spread, _partitioned_by_the_compiler(settle(state))
    old, new = state.trained, Traced(state.trained.optimizer, state.trained.dtype, total, freezes=state.trained.freezes)
    ops = Operations(jnp.dtype(old.dtype))
    states = _begun(old, given.astype(ops.dtype))
    if from_the_start:
        states = tuple(old.family.untouched(ops, state.history, states, state.clock))
    parts = dict(zip(old.names, states, strict=True))
    parts |= {"place": jnp.zeros(len(given), jnp.int32), "last": jnp.full(len(given), state.clock, jnp.int32)}
    parts["removed"] = jnp.zeros(len(given), bool)
    made = {name: _put(array, again, parts[name]) for name, array in state.rows.items()}
    if len(gone) <= len(again):
        made.pop("removed", None)
    history = new.family.enlarged(ops, state.history, state.clock, old.family) if new.defers else state.history
    return _spread_again(TableState(made, history, state.clock, new, state.out_of_range), spread)


def remove(state: TableState, rows: Any) -> TableState:
    """The table without these rows: they hold zeros until `grow` uses their numbers again; all other ids stay valid.

    Do not look removed rows up, since they would train again. They are no longer frozen.

    Args:
        state: the table. It stays as it is.
        rows: integers of any shape, each of them once or several times.

    Raises: IndexError for an id that is out of range or removed already; TypeError for ids that are not integers, or within a
        function that JAX traces.

    Example:
        >>> import jax.numpy as jnp, unhot, unhot.jax
        >>> state = unhot.jax.from_array(jnp.ones((5, 2)), optimizer=unhot.Adam(0.01))
        >>> state = unhot.jax.remove(state, [1, 3])
        >>> unhot.jax.removed(state), unhot.jax.removed(unhot.jax.grow(state, jnp.ones((1, 2))))
        (array([1, 3]), array([3]))
    """
    _require_known(state, "remove")
    gone, (count, dim) = np.unique(existing(rows, state.shape[0], removed(state))), state.shape
    spread, state = state.spread, _partitioned_by_the_compiler(state)
    states = _begun(state.trained, jnp.zeros((len(gone), dim), state.rows["weights"].dtype))
    made = {**state.rows, "removed": state.rows.get("removed", jnp.zeros(count, bool))}
    parts = {**dict(zip(state.trained.names, states, strict=True)), "removed": jnp.ones(len(gone), bool)}
    if state.trained.notes:
        parts["last"] = jnp.full(len(gone), state.clock, jnp.int32)
    made |= {name: made[name].at[gone].set(lines) for name, lines in parts.items()}
    return _spread_again(replace(state, rows=made), spread)


def freeze(state: TableState, rows: Any) -> TableState:
    """The table of which these rows do not train: no `update` changes a bit of them, nor does weight decay; all others train.

    Args:
        state: the table. It stays as it is.
        rows: row numbers, a boolean mask of shape (rows,), or None for no rows.

    Raises: IndexError for an id that is out of range or removed, ValueError for a mask of another shape, TypeError for
        anything else, or within a function that JAX traces.

    Example:
        >>> import jax.numpy as jnp, unhot, unhot.jax
        >>> state = unhot.jax.from_array(jnp.zeros((3, 2)), optimizer=unhot.SGD(1.0))
        >>> state = unhot.jax.update(unhot.jax.freeze(state, [0]), jnp.array([0, 1]), jnp.ones((2, 2)))
        >>> unhot.jax.frozen(state), unhot.jax.weights(state)[0]
        (array([0]), Array([0., 0.], dtype=float32))
    """
    _require_known(state, "freeze")
    count = state.shape[0]
    still = named(rows, count, removed(state))
    spread, state = state.spread, _partitioned_by_the_compiler(settle(state))
    old = state.trained
    trained = Traced(old.optimizer, old.dtype, count, freezes=len(still) > 0)
    made = {name: array for name, array in state.rows.items() if name != "last"}
    if trained.notes:
        made["last"] = jnp.full(count, state.clock, jnp.int32).at[still].set(FROZEN)
    return _spread_again(replace(state, rows=made, trained=trained), spread)


def frozen(state: TableState) -> Rows:
    """The numbers of the rows that do not train, in rising order.

    Args:
        state: the table.

    Raises: TypeError within a function that JAX traces.

    Example:
        >>> import jax.numpy as jnp, unhot, unhot.jax
        >>> state = unhot.jax.from_array(jnp.zeros((3, 2)), optimizer=unhot.SGD(1.0))
        >>> unhot.jax.frozen(unhot.jax.freeze(state, jnp.array([False, True, True])))
        array([1, 2])
    """
    _require_known(state, "frozen")
    return np.flatnonzero(known(state.rows["last"]) >= FROZEN) if state.trained.freezes else np.empty(0, np.int64)


def removed(state: TableState) -> Rows:
    """The numbers of removed rows, in rising order, which `grow` gives to new rows first.

    Args:
        state: the table.

    Raises: TypeError within a function that JAX traces.

    Example:
        >>> import jax.numpy as jnp, unhot, unhot.jax
        >>> state = unhot.jax.from_array(jnp.zeros((3, 2)), optimizer=unhot.SGD(1.0))
        >>> unhot.jax.removed(unhot.jax.remove(state, 1))
        array([1])
    """
    _require_known(state, "removed")
    return np.flatnonzero(known(state.rows["removed"])) if "removed" in state.rows else np.empty(0, np.int64)


def _require_known(state: TableState, name: str) -> None:
    if not isinstance(state, TableState):
        raise TypeError(f"`state` must be a table of `unhot.jax.from_array`. Received: {type(state).__name__}.")
    if any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(state)):
        raise TypeError(
            f"`unhot.jax.{name}` changes or asks for rows that must be known: call it outside of compiled functions."
        )


def _partitioned_by_the_compiler(state: TableState) -> TableState:
    """The table as one that is not spread, with its arrays where they are: what follows works on them as on any."""
    if state.spread is None:
        return state
    return replace(shard(state, state.spread.partitioned_by_the_compiler, state.spread.axis), spread=None)


def _spread_again(state: TableState, spread: Spread | None) -> TableState:
    return state if spread is None else shard(state, spread.mesh, spread.axis)


def _begun(trained: Traced, weights: jax.Array) -> tuple[jax.Array, ...]:
    """The states of rows that begin with these weights."""
    rows, dim = weights.shape
    widths = {name: trained.slot_shape(name, dim)[1] for name in trained.slots}
    slots = (jnp.full((rows, widths[name]), start, weights.dtype) for name, start in trained.slots.items())
    return weights, *slots


def _put(array: jax.Array, again: Rows, lines: jax.Array) -> jax.Array:
    """The array with the first of the lines in the places `again`, and the others at its end."""
    made = jnp.concatenate([array.at[again].set(lines[: len(again)]), lines[len(again) :]])
    into_large_pages(made)
    return made
