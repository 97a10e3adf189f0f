"""Tables for plain JAX, for use with Flax, Equinox or Optax; importing this imports JAX."""

from unhot.jax.table import TableState, from_array, lookup, settle, update, weights

__all__ = ["TableState", "from_array", "lookup", "settle", "update", "weights"]
