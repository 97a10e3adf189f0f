"""Predict the ratings in a CSV file with string users and items, using two embeddings in Keras.

Set KERAS_BACKEND to choose the backend: torch, jax or tensorflow.
"""

import csv
import sys
from pathlib import Path

import keras
import numpy as np

import unhot.keras

RATINGS = Path(__file__).parent / "data" / "ratings.csv"


def rows_of(names: list[str]) -> dict[str, int]:
    """Number the names from 1.  Row 0 is free for names that are not in the file."""
    return {name: row for row, name in enumerate(sorted(set(names)), start=1)}


def main(path: Path = RATINGS, epochs: int = 20) -> tuple[float, float]:
    with open(path, newline="") as file:
        lines = list(csv.DictReader(file))
    user_row, item_row = (rows_of([line[column] for line in lines]) for column in ("user", "item"))
    users = np.array([user_row[line["user"]] for line in lines], dtype="int32")
    items = np.array([item_row[line["item"]] for line in lines], dtype="int32")
    ratings = np.array([float(line["rating"]) for line in lines], dtype="float32")
    held_out = len(lines) // 10  # the first tenth is held out
    mean = float(ratings[held_out:].mean())

    keras.utils.set_random_seed(0)
    user, item = keras.Input((), dtype="int32", name="user"), keras.Input((), dtype="int32", name="item")
    user_vector = unhot.keras.Embedding(len(user_row) + 1, 4, "random_normal")(user)  # was keras.layers.Embedding
    item_vector = unhot.keras.Embedding(len(item_row) + 1, 4, "random_normal")(item)
    model = keras.Model([user, item], keras.layers.Dot(axes=1)([user_vector, item_vector]))
    model.compile(optimizer=unhot.keras.Adam(0.02), loss="mse")  # was keras.optimizers.Adam
    model.fit([users[held_out:], items[held_out:]], ratings[held_out:] - mean, batch_size=128, epochs=epochs, verbose=0)

    predicted = mean + model.predict([users[:held_out], items[:held_out]], verbose=0)[:, 0]
    error, guess = (float(np.sqrt(np.mean((x - ratings[:held_out]) ** 2))) for x in (predicted, mean))
    print(f"root mean squared error on {held_out} held-out ratings: {error:.3f} (always predicting the mean: {guess:.3f})")
    return error, guess


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
