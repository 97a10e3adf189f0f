"""Predict the ratings in a CSV file with a Flax Linen model beside two tables, and continue from an Orbax checkpoint."""

import csv
import sys
import tempfile
from functools import partial
from pathlib import Path

import flax
import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
from flax import linen

import unhot.jax

RATINGS = Path(__file__).parent / "data" / "ratings.csv"

Vectors = tuple[jax.Array, jax.Array]


class Head(linen.Module):
    @linen.compact
    def __call__(self, vectors: Vectors) -> jax.Array:
        return linen.Dense(1)(vectors[0] * vectors[1])[:, 0]


head, adam = Head(), optax.adam(0.02)


@flax.struct.dataclass
class State:
    """All that is trained.  The tables are no parameters of the module: unhot trains them, and Optax trains the parameters."""

    parameters: dict
    optimizer: optax.OptState
    users: unhot.jax.TableState
    items: unhot.jax.TableState

    def vectors(self, users: jax.Array, items: jax.Array) -> Vectors:
        return unhot.jax.lookup(self.users, users), unhot.jax.lookup(self.items, items)


def new(users: int, items: int) -> State:
    keys = jax.random.split(jax.random.key(0), 3)
    optimizer = unhot.Adam(0.02, convention="torch")  # what `optax.adam(0.02)` does
    tables = [
        unhot.jax.from_array(0.3 * jax.random.normal(key, (rows, 4)), optimizer=optimizer)
        for key, rows in zip(keys, (users, items), strict=False)
    ]
    parameters = head.init(keys[2], (jnp.ones((1, 4)), jnp.ones((1, 4))))
    return State(parameters, adam.init(parameters), *tables)


def loss(parameters: dict, vectors: Vectors, targets: jax.Array) -> jax.Array:
    return jnp.mean((head.apply(parameters, vectors) - targets) ** 2)


@partial(jax.jit, donate_argnums=0)  # donated tables are updated in place
def step(state: State, users: jax.Array, items: jax.Array, targets: jax.Array) -> State:
    """Look up vectors, take the gradients with respect to them and the parameters, and update tables and parameters."""
    vectors = state.vectors(users, items)
    gradients, of_vectors = jax.grad(loss, argnums=(0, 1))(state.parameters, vectors, targets)
    updates, optimizer = adam.update(gradients, state.optimizer)
    return State(
        optax.apply_updates(state.parameters, updates),
        optimizer,
        unhot.jax.update(state.users, users, of_vectors[0]),
        unhot.jax.update(state.items, items, of_vectors[1]),
    )


def save(folder: Path, state: State) -> None:
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(folder, state)


def restore(folder: Path, like: State) -> State:
    """What was saved, in the place of a state that was made in the same way."""
    with ocp.StandardCheckpointer() as checkpointer:
        return checkpointer.restore(folder, like)


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

    state = new(len(user_row) + 1, len(item_row) + 1)
    random = np.random.default_rng(0)
    for epoch in range(epochs):
        if epoch == ends:
            with tempfile.TemporaryDirectory() as folder:
                save(Path(folder, "checkpoint"), state)
                state = restore(Path(folder, "checkpoint"), like=new(len(user_row) + 1, len(item_row) + 1))
        order = held_out + random.permutation(len(lines) - held_out)
        for at in np.array_split(order, max(len(order) // batch, 1)):
            state = step(state, users[at], items[at], ratings[at] - mean)

    predicted = mean + head.apply(state.parameters, state.vectors(users[:held_out], items[:held_out]))
    error, guess = (float(np.sqrt(np.mean((x - ratings[:held_out]) ** 2))) for x in (np.asarray(predicted), mean))
    print(f"root mean squared error on {held_out} held-out ratings: {error:.3f} (always predicting the mean: {guess:.3f})")
    return error, guess


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
