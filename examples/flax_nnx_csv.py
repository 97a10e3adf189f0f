"""Predict the ratings in a CSV file with a Flax NNX model that holds two tables, and continue from an Orbax checkpoint."""

import csv
import sys
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
from flax import nnx

import unhot.jax

RATINGS = Path(__file__).parent / "data" / "ratings.csv"


class Table(nnx.Variable):
    """A table with its training state.  It is no `nnx.Param`: unhot trains it, and Optax trains the parameters."""


class Model(nnx.Module):
    def __init__(self, users: int, items: int, rngs: nnx.Rngs) -> None:
        start = nnx.initializers.normal(0.3)
        adam = unhot.Adam(0.02, convention="torch")  # what `optax.adam(0.02)` does
        self.users = Table(unhot.jax.from_array(start(rngs.params(), (users, 4)), optimizer=adam))
        self.items = Table(unhot.jax.from_array(start(rngs.params(), (items, 4)), optimizer=adam))
        self.head = nnx.Linear(4, 1, rngs=rngs)

    def vectors(self, users: jax.Array, items: jax.Array) -> tuple[jax.Array, jax.Array]:
        return unhot.jax.lookup(self.users.get_value(), users), unhot.jax.lookup(self.items.get_value(), items)

    def __call__(self, vectors: tuple[jax.Array, jax.Array]) -> jax.Array:
        return self.head(vectors[0] * vectors[1])[:, 0]


def new(users: int, items: int) -> tuple[Model, nnx.Optimizer]:
    model = Model(users, items, nnx.Rngs(0))
    return model, nnx.Optimizer(model, optax.adam(0.02), wrt=nnx.Param)


def loss(model: Model, vectors: tuple[jax.Array, jax.Array], targets: jax.Array) -> jax.Array:
    return jnp.mean((model(vectors) - targets) ** 2)


@nnx.jit(donate_argnums=(0, 1))  # donated tables are updated in place
def step(model: Model, optimizer: nnx.Optimizer, users: jax.Array, items: jax.Array, targets: jax.Array) -> None:
    """Look up vectors, take the gradients with respect to them and the parameters, and update tables and parameters."""
    gradients, of_vectors = nnx.grad(loss, argnums=(0, 1))(model, model.vectors(users, items), targets)
    optimizer.update(model, gradients)
    for table, ids, gradient in zip((model.users, model.items), (users, items), of_vectors, strict=True):
        table.set_value(unhot.jax.update(table.get_value(), ids, gradient))


def save(folder: Path, *parts: nnx.Module) -> None:
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(folder, nnx.state(parts))


def restore(folder: Path, *parts: nnx.Module) -> None:
    """Put what was saved into a model and an optimizer that were made in the same way."""
    with ocp.StandardCheckpointer() as checkpointer:
        nnx.update(parts, checkpointer.restore(folder, nnx.state(parts)))


def rows_of(names: list[str]) -> dict[str, int]:
    """Number the names from 1.  Row 0 is free for names that are not in the file."""
    return {name: row for row, name in enumerate(sorted(set(names)), start=1)}


def main(path: Path = RATINGS, epochs: int = 20, batch: int = 120, ends: int = 10) -> tuple[float, float]:
    """Train for so many epochs; at the beginning of the epoch `ends`, go on from a checkpoint, as another process would."""
    with open(path, newline="") as file:
        lines = list(csv.DictReader(file))
    user_row, item_row = (rows_of([line[column] for line in lines]) for column in ("user", "item"))
    users = np.array([user_row[line["user"]] for line in lines], dtype=np.int32)
    items = np.array([item_row[line["item"]] for line in lines], dtype=np.int32)
    ratings = np.array([float(line["rating"]) for line in lines], dtype=np.float32)
    held_out = len(lines) // 10  # the first tenth is held out
    mean = ratings[held_out:].mean()

    model, optimizer = new(len(user_row) + 1, len(item_row) + 1)
    random = np.random.default_rng(0)
    for epoch in range(epochs):
        if epoch == ends:
            with tempfile.TemporaryDirectory() as folder:
                save(Path(folder, "checkpoint"), model, optimizer)
                model, optimizer = new(len(user_row) + 1, len(item_row) + 1)
                restore(Path(folder, "checkpoint"), model, optimizer)
        order = held_out + random.permutation(len(lines) - held_out)
        for at in np.array_split(order, max(len(order) // batch, 1)):
            step(model, optimizer, users[at], items[at], ratings[at] - mean)

    predicted = mean + model(model.vectors(users[:held_out], items[:held_out]))
    error, guess = (float(np.sqrt(np.mean((x - ratings[:held_out]) ** 2))) for x in (np.asarray(predicted), mean))
    print(f"root mean squared error on {held_out} held-out ratings: {error:.3f} (always predicting the mean: {guess:.3f})")
    return error, guess


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
