"""What a type checker is to see of `unhot.jax`.  This is not run; mypy and Pyright report nothing here."""

from typing import assert_type

import jax

import unhot
import unhot.jax

state = unhot.jax.from_array(jax.numpy.zeros((3, 2)), optimizer=unhot.Adam(1e-3))
assert_type(state, unhot.jax.TableState)
assert_type(unhot.jax.lookup(state, jax.numpy.array([1])), jax.Array)
assert_type(unhot.jax.lookup(state, jax.numpy.array([[1, 9]]), out_of_range="zero"), jax.Array)
assert_type(unhot.jax.pool(jax.numpy.ones((2, 3, 4)), mode="mean"), jax.Array)
assert_type(unhot.jax.weights(state), jax.Array)
assert_type(unhot.jax.sum_by_id(state, jax.numpy.array([1]), jax.numpy.ones((1, 2))), jax.Array)

# Each checker reports each of these errors: where one does not, it complains of an `ignore` for nothing.
unhot.jax.lookup(state)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
unhot.jax.table_of(state)  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]
