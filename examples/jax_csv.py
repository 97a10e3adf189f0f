"""Predict the ratings of a CSV file, whose users and items are strings, with two tables in JAX."""

import csv
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import unhot.jax

RATINGS = Path(__file__).parent / "data" / "ratings.csv"


def rows_of(names: list[str]) -> dict[str, int]:
    """Each name's row in the table.  Row 0 stands for names that are not in the file."""
    return {name: row for row, name in enumerate(sorted(set(names)), start=1)}


def loss(user_vectors: jax.Array, item_vectors: jax.Array, wanted: jax.Array) -> jax.Array:
    return jnp.mean(((user_vectors * item_vectors).sum(axis=1) - wanted) ** 2)


def step(user_table, item_table, users, items, wanted):
    """Look up, differentiate with respect to the vectors, and give the gradients to the tables."""
    vectors = unhot.jax.lookup(user_table, users), unhot.jax.lookup(item_table, items)
    user_slope, item_slope = jax.grad(loss, argnums=(0, 1))(*vectors, wanted)
    return unhot.jax.update(user_table, users, user_slope), unhot.jax.update(item_table, items, item_slope)


def main(path: Path = RATINGS, epochs: int = 20, batch: int = 120) -> tuple[float, float]:
    with open(path, newline="") as file:
        lines = list(csv.DictReader(file))
    user_row, item_row = (rows_of([line[column] for line in lines]) for column in ("user", "item"))
    users = np.array([user_row[line["user"]] for line in lines], dtype=np.int32)
    items = np.array([item_row[line["item"]] for line in lines], dtype=np.int32)
    ratings = np.array([float(line["rating"]) for line in lines], dtype=np.float32)
    mean, held_out = ratings.mean(), len(lines) // 10  # the first tenth is not trained on

    keys = jax.random.split(jax.random.key(0))
    starts = [0.3 * jax.random.normal(key, (len(rows) + 1, 4)) for key, rows in zip(keys, (user_row, item_row), strict=True)]
    tables = [unhot.jax.from_array(start, optimizer=unhot.Adam(0.02)) for start in starts]
    train = jax.jit(step, donate_argnums=(0, 1))  # donated, so that the tables are updated in place
    random = np.random.default_rng(0)
    for _ in range(epochs):
        for at in (held_out + random.permutation(len(lines) - held_out)).reshape(-1, batch):
            tables = train(*tables, users[at], items[at], ratings[at] - mean)

    vectors = [unhot.jax.lookup(table, ids[:held_out]) for table, ids in zip(tables, (users, items), strict=True)]
    predicted = mean + (vectors[0] * vectors[1]).sum(axis=1)
    error, guess = (float(np.sqrt(np.mean((x - ratings[:held_out]) ** 2))) for x in (np.asarray(predicted), mean))
    print(f"root mean squared error on {held_out} ratings: {error:.3f}; of the mean rating: {guess:.3f}")
    return error, guess


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
