"""Train two tables whose rows are spread over devices, in JAX; of a machine without accelerators, four are made."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import unhot.jax

jax.config.update("jax_num_cpu_devices", 4)  # of one CPU; to be set before JAX makes its first array

USERS, ITEMS, DIM, BATCH = 4096, 1024, 8, 512


def batches(count: int, seed: int = 0):
    """Users, items and ratings: made up, from hidden vectors of both."""
    random = np.random.default_rng(seed)
    user_vectors, item_vectors = (random.normal(size=(rows, 2)).astype(np.float32) for rows in (USERS, ITEMS))
    for _ in range(count):
        users = (random.zipf(1.3, BATCH) % USERS).astype(np.int32)  # some are frequent, most are rare
        items = random.integers(0, ITEMS, BATCH, dtype=np.int32)
        yield users, items, (user_vectors[users] * item_vectors[items]).sum(axis=1)


def loss(user_vectors: jax.Array, item_vectors: jax.Array, targets: jax.Array) -> jax.Array:
    return jnp.mean(((user_vectors * item_vectors).sum(axis=1) - targets) ** 2)


def step(user_table, item_table, users, items, targets):
    """Look up vectors, take the gradients with respect to them, and update the tables: as on one device."""
    vectors = unhot.jax.lookup(user_table, users), unhot.jax.lookup(item_table, items)
    value, (user_gradient, item_gradient) = jax.value_and_grad(loss, argnums=(0, 1))(*vectors, targets)
    return unhot.jax.update(user_table, users, user_gradient), unhot.jax.update(item_table, items, item_gradient), value


def main(steps: int = 400) -> tuple[float, float]:
    mesh = Mesh(np.array(jax.devices()), ("rows",))
    spread = NamedSharding(mesh, PartitionSpec("rows"))  # of the batch
    keys = jax.random.split(jax.random.key(0))
    tables = []
    for key, rows in zip(keys, (USERS, ITEMS), strict=True):
        table = unhot.jax.from_array(0.3 * jax.random.normal(key, (rows, DIM)), optimizer=unhot.Adam(0.02))
        tables.append(unhot.jax.shard(table, mesh, "rows"))
    train = jax.jit(step, donate_argnums=(0, 1))  # donated tables are updated in place
    losses = []
    for users, items, targets in batches(steps):
        *tables, value = train(*tables, *jax.device_put((users, items, targets), spread))
        losses.append(float(value))
        if len(losses) % (steps // 4) == 0:
            print(f"loss of the last {steps // 4} steps: {np.mean(losses[-steps // 4 :]):.3f}")
    for name, table in zip(("users", "items"), tables, strict=True):
        for part in table.rows["weights"].addressable_shards:
            first, last, _ = part.index[0].indices(table.shape[0])
            print(f"{name} {first} to {last - 1} are on {part.device}")
    return np.mean(losses[: steps // 4]), np.mean(losses[-steps // 4 :])


if __name__ == "__main__":
    main()
