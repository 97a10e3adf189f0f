"""Where `keras.distribution` has put a table on JAX."""

from __future__ import annotations

import jax
from jax.sharding import Mesh, NamedSharding

from unhot.jax.spread import EVERYWHERE
from unhot.keras._private import layout_of, raw
from unhot.keras.jax_training import CarriedSpread, Devices
from unhot.keras.jax_value import TableValue
from unhot.keras.kinds import Variable


def devices_of(variable: Variable) -> Devices | None:
    """Where `keras.distribution` has put the variable; None if it has not, or where rows cannot be trained apart."""
    if layout_of(variable) is None or raw(variable) is None:
        return None
    value = raw(variable)
    weights = value.arrays["weights"] if isinstance(value, TableValue) else value  # of another owner
    sharding: jax.sharding.Sharding = weights.sharding
    if sharding.is_fully_replicated:
        return Devices(NamedSharding(sharding.mesh, EVERYWHERE) if isinstance(sharding, NamedSharding) else sharding)
    if not (isinstance(sharding, NamedSharding) and isinstance(mesh := sharding.mesh, Mesh)):
        return None
    everywhere = NamedSharding(mesh, EVERYWHERE)
    rows, columns = (None if mesh.shape.get(axis) == 1 else axis for axis in (*sharding.spec, None, None)[:2])
    if columns is None and isinstance(rows, str):
        return Devices(everywhere, spread=CarriedSpread(mesh, rows))
    if rows is None and isinstance(columns, str):
        return Devices(everywhere, columns=sharding)
    return None
