"""Predict the ratings in a CSV file with string users and items, using two tables in JAX."""

import csv
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import unhot.jax

RATINGS = Path(__file__).parent / "data" / "ratings.csv"


def rows_of(names: list[str]) -> dict[str, int]:
    """Number the names from 1.  Row 0 is free for names that are not in the file."""
    return {name: row for row, name in enumerate(sorted(set(names)), start=1)}


def loss(user_vectors: jax.Array, item_vectors: jax.Array, targets: jax.Array) -> jax.Array:
    return jnp.mean(((user_vectors * item_vectors).sum(axis=1) - targets) ** 2)


def step(user_table, item_table, users, items, targets):
    """Look up vectors, take the gradients with respect to them, and update the tables."""
    vectors = unhot.jax.lookup(user_table, users), unhot.jax.lookup(item_table, items)
    user_gradient, item_gradient = jax.grad(loss, argnums=(0, 1))(*vectors, targets)
    return unhot.jax.update(user_table, users, user_gradient), unhot.jax.update(item_table, items, item_gradient)


def main(path: Path = RATINGS, epochs: int = 20, batch: int = 120) -> tuple[float, float]:
    with open(path, newline="") as file:
        lines = list(csv.DictReader(file))
    user_row, item_row = (rows_of([line[column] for line in lines]) for column in ("user", "item"))
    users = np.array([user_row[line["user"]] for line in lines], dtype=np.int32)
    items = np.array([item_row[line["item"]] for line in lines], dtype=np.int32)
    ratings = np.array([float(line["rating"]) for line in lines], dtype=np.float32)
    held_out = len(lines) // 10  # the first tenth is held out
    mean = ratings[held_out:].mean()

    keys = jax.random.split(jax.random.key(0))
    starts = [0.3 * jax.random.normal(key, (len(rows) + 1, 4)) for key, rows in zip(keys, (user_row, item_row), strict=True)]
    tables = [unhot.jax.from_array(start, optimizer=unhot.Adam(0.02)) for start in starts]
    train = jax.jit(step, donate_argnums=(0, 1))  # donated tables are updated in place
    random = np.random.default_rng(0)
    for _ in range(epochs):
        order = held_out + random.permutation(len(lines) - held_out)
        for at in np.array_split(order, max(len(order) // batch, 1)):
            tables = train(*tables, users[at], items[at], ratings[at] - mean)

    vectors = [unhot.jax.lookup(table, ids[:held_out]) for table, ids in zip(tables, (users, items), strict=True)]
    predicted = mean + (vectors[0] * vectors[1]).sum(axis=1)
    error, guess = (float(np.sqrt(np.mean((x - ratings[:held_out]) ** 2))) for x in (np.asarray(predicted), mean))
    print(f"root mean squared error on {held_out} held-out ratings: {error:.3f} (always predicting the mean: {guess:.3f})")
    return error, guess


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
