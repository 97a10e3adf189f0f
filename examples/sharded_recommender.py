"""Predict the ratings in a CSV file with tables that are spread over processes.

torchrun --nproc-per-node=2 examples/sharded_recommender.py
"""

import sys
from pathlib import Path

import torch
import torch.distributed as dist
from pytorch_csv import RATINGS, Ratings, read
from torch.nn.parallel import DistributedDataParallel

import unhot.torch
from unhot.torch.distributed import shard


def main(path: Path = RATINGS, epochs: int = 20) -> tuple[float, float]:
    dist.init_process_group("gloo")
    (users, items, ratings), sizes = read(path)
    held_out = len(ratings) // 10  # the first tenth is held out
    mean = ratings[held_out:].mean()

    torch.manual_seed(0)
    model = Ratings(*sizes, mean.item())
    shard(model)  # each process keeps its share of the rows
    model = DistributedDataParallel(model)  # which leaves the tables alone
    optimizer = unhot.torch.Adam(model.parameters(), lr=0.02)

    data = torch.utils.data.TensorDataset(users[held_out:], items[held_out:], ratings[held_out:])
    sampler = torch.utils.data.DistributedSampler(data)
    for epoch in range(epochs):
        sampler.set_epoch(epoch)
        loader = torch.utils.data.DataLoader(data, batch_size=128 // dist.get_world_size(), sampler=sampler)
        for some_users, some_items, targets in loader:
            loss = torch.nn.functional.mse_loss(model(some_users, some_items), targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    with torch.no_grad():  # all processes look up together, also the same ids
        errors = [model(users[:held_out], items[:held_out]) - ratings[:held_out], mean - ratings[:held_out]]
    error, guess = (x.square().mean().sqrt().item() for x in errors)
    if dist.get_rank() == 0:
        print(f"root mean squared error on {held_out} held-out ratings: {error:.3f} (always predicting the mean: {guess:.3f})")
    print(f"process {dist.get_rank()} has {len(model.module.user.weight)} of {sizes[0]} users")
    dist.destroy_process_group()
    return error, guess


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
