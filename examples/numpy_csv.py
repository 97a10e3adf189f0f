"""Predict the ratings of a CSV file, whose users and items are strings, with two tables in NumPy."""

import csv
import sys
from pathlib import Path

import numpy as np

import unhot

RATINGS = Path(__file__).parent / "data" / "ratings.csv"


def rows_of(names: list[str]) -> dict[str, int]:
    """Each name's row in the table.  Row 0 stands for names that are not in the file."""
    return {name: row for row, name in enumerate(sorted(set(names)), start=1)}


def main(path: Path = RATINGS, epochs: int = 20, batch: int = 128) -> tuple[float, float]:
    with open(path, newline="") as file:
        lines = list(csv.DictReader(file))
    user_row, item_row = (rows_of([line[column] for line in lines]) for column in ("user", "item"))
    users = np.array([user_row[line["user"]] for line in lines])
    items = np.array([item_row[line["item"]] for line in lines])
    ratings = np.array([float(line["rating"]) for line in lines], dtype=np.float32)
    mean, held_out = ratings.mean(), len(lines) // 10  # the first tenth is not trained on

    random = np.random.default_rng(0)
    starts = [random.normal(0, 0.3, (len(rows) + 1, 4)).astype(np.float32) for rows in (user_row, item_row)]
    user_table, item_table = (unhot.Table.from_array(start, optimizer=unhot.Adam(0.02)) for start in starts)
    for _ in range(epochs):
        for at in np.array_split(held_out + random.permutation(len(lines) - held_out), (len(lines) - held_out) // batch):
            u, i = user_table[users[at]], item_table[items[at]]  # (batch, 4) each
            error = mean + (u * i).sum(axis=1) - ratings[at]
            slope = (2 / len(at)) * error[:, None]  # of the mean squared error
            user_table.step(users[at], slope * i)
            item_table.step(items[at], slope * u)

    predicted = mean + (user_table[users[:held_out]] * item_table[items[:held_out]]).sum(axis=1)
    error, guess = (float(np.sqrt(np.mean((x - ratings[:held_out]) ** 2))) for x in (predicted, mean))
    print(f"root mean squared error on {held_out} ratings: {error:.3f}; of the mean rating: {guess:.3f}")
    return error, guess


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
