"""Tables for plain JAX, for use with Flax, Equinox or Optax; importing this imports JAX."""

from unhot import extras

try:
    import jax as _jax  # noqa: F401
except ModuleNotFoundError as error:
    raise extras.missing("unhot.jax", "jax", error) from error

from unhot.jax.growing import freeze, frozen, grow, remove, removed
from unhot.jax.pooling import pool
from unhot.jax.table import TableState, from_array, lookup, settle, shard, sum_by_id, update, weights

__all__ = [
    "TableState", "freeze", "from_array", "frozen", "grow", "lookup", "pool", "remove", "removed", "settle", "shard",
    "sum_by_id", "update", "weights",
]  # fmt: skip
