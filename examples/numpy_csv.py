"""Predict the ratings in a CSV file with string users and items, using two tables in NumPy."""

import csv
import sys
from pathlib import Path

import numpy as np

import unhot

RATINGS = Path(__file__).parent / "data" / "ratings.csv"


def rows_of(names: list[str]) -> dict[str, int]:
    """Number the names from 1.  Row 0 is free for names that are not in the file."""
    return {name: row for row, name in enumerate(sorted(set(names)), start=1)}


def main(path: Path = RATINGS, epochs: int = 20, batch: int = 128) -> tuple[float, float]:
    with open(path, newline="") as file:
        lines = list(csv.DictReader(file))
    user_row, item_row = (rows_of([line[column] for line in lines]) for column in ("user", "item"))
    users = np.array([user_row[line["user"]] for line in lines])
    items = np.array([item_row[line["item"]] for line in lines])
    ratings = np.array([float(line["rating"]) for line in lines], dtype=np.float32)
    held_out = len(lines) // 10  # the first tenth is held out
    mean = ratings[held_out:].mean()

    random = np.random.default_rng(0)
    starts = [random.normal(0, 0.3, (len(rows) + 1, 4)).astype(np.float32) for rows in (user_row, item_row)]
    user_table, item_table = (unhot.Table.from_array(start, optimizer=unhot.Adam(0.02)) for start in starts)
    for _ in range(epochs):
        order = held_out + random.permutation(len(lines) - held_out)
        for at in np.array_split(order, max(len(order) // batch, 1)):
            u, i = user_table[users[at]], item_table[items[at]]  # (batch, 4) each
            error = mean + (u * i).sum(axis=1) - ratings[at]
            gradient = (2 / len(at)) * error[:, None]  # of the mean squared error
            user_table.step(users[at], gradient * i)
            item_table.step(items[at], gradient * u)

    predicted = mean + (user_table[users[:held_out]] * item_table[items[:held_out]]).sum(axis=1)
    error, guess = (float(np.sqrt(np.mean((x - ratings[:held_out]) ** 2))) for x in (predicted, mean))
    print(f"root mean squared error on {held_out} held-out ratings: {error:.3f} (always predicting the mean: {guess:.3f})")
    return error, guess


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
