"""Predict the ratings in a CSV file with string users and items, using two embeddings in PyTorch."""

import csv
import sys
from pathlib import Path

import torch

import unhot.torch

RATINGS = Path(__file__).parent / "data" / "ratings.csv"


class Ratings(torch.nn.Module):
    def __init__(self, users: int, items: int, mean: float) -> None:
        super().__init__()
        self.user = unhot.torch.Embedding(users, 4)  # was torch.nn.Embedding
        self.item = unhot.torch.Embedding(items, 4)
        for embedding in (self.user, self.item):
            torch.nn.init.normal_(embedding.weight, std=0.3)
        self.mean = torch.nn.Parameter(torch.tensor(mean))

    def forward(self, users: torch.Tensor, items: torch.Tensor) -> torch.Tensor:
        return self.mean + (self.user(users) * self.item(items)).sum(dim=1)


def rows_of(names: list[str]) -> dict[str, int]:
    """Number the names from 1.  Row 0 is free for names that are not in the file."""
    return {name: row for row, name in enumerate(sorted(set(names)), start=1)}


def read(path: Path) -> tuple[list[torch.Tensor], list[int]]:
    """The users, items and ratings of each line, and the numbers of rows that users and items need."""
    with open(path, newline="") as file:
        lines = list(csv.DictReader(file))
    user_row, item_row = (rows_of([line[column] for line in lines]) for column in ("user", "item"))
    users = torch.tensor([user_row[line["user"]] for line in lines])
    items = torch.tensor([item_row[line["item"]] for line in lines])
    ratings = torch.tensor([float(line["rating"]) for line in lines])
    return [users, items, ratings], [len(user_row) + 1, len(item_row) + 1]


def main(path: Path = RATINGS, epochs: int = 20) -> tuple[float, float]:
    (users, items, ratings), sizes = read(path)
    held_out = len(ratings) // 10  # the first tenth is held out
    mean = ratings[held_out:].mean()

    torch.manual_seed(0)
    data = torch.utils.data.TensorDataset(users[held_out:], items[held_out:], ratings[held_out:])
    model = Ratings(*sizes, mean.item())
    optimizer = unhot.torch.Adam(model.parameters(), lr=0.02)  # was torch.optim.Adam
    for _ in range(epochs):
        for some_users, some_items, targets in torch.utils.data.DataLoader(data, batch_size=128, shuffle=True):
            loss = torch.nn.functional.mse_loss(model(some_users, some_items), targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    with torch.no_grad():
        errors = [model(users[:held_out], items[:held_out]) - ratings[:held_out], mean - ratings[:held_out]]
    error, guess = (x.square().mean().sqrt().item() for x in errors)
    print(f"root mean squared error on {held_out} held-out ratings: {error:.3f} (always predicting the mean: {guess:.3f})")
    return error, guess


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
