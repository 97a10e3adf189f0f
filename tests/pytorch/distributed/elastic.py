"""A training script for torchrun, as users write it: it goes on from the last checkpoint, wherever it was stopped.

    torchrun --nproc-per-node=2 --max-restarts=3 elastic.py FOLDER [STEP ...]

At each of the given steps, one process ends by a signal the first time it comes there.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict

import unhot.torch
from pytorch.distributed.models import Recommender, batches, part, weights_of
from unhot.torch.distributed import shard

STEPS, EVERY = 20, 4


def main(folder: Path, ends: list[int]) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    rank, world = dist.get_rank(), dist.get_world_size()
    model = Recommender(0)
    shard(model)
    model = nn.parallel.DistributedDataParallel(model)
    optimizer = unhot.torch.Adam(model.parameters(), lr=0.01)
    checkpoint = folder / "checkpoint"
    first = 0
    if (checkpoint / ".metadata").exists():
        weights, state = get_state_dict(model, optimizer)
        place = {"step": torch.tensor(0)}
        dcp.load({"model": weights, "optimizer": state, "place": place}, checkpoint_id=checkpoint)
        set_state_dict(model, optimizer, model_state_dict=weights, optim_state_dict=state)
        first = int(place["step"])
    for step, batch in list(enumerate(batches(STEPS)))[first:]:
        if step in ends and rank == step % world and not (folder / f"ended-{step}").exists():
            (folder / f"ended-{step}").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        own = part(batch, rank, world)
        optimizer.zero_grad()
        nn.functional.mse_loss(model(own), own["target"]).backward()
        optimizer.step()
        if step % EVERY == EVERY - 1:
            weights, state = get_state_dict(model, optimizer)
            dcp.save(
                {"model": weights, "optimizer": state, "place": {"step": torch.tensor(step + 1)}}, checkpoint_id=checkpoint
            )
    found = weights_of(model, None)
    if rank == 0:
        torch.save(found, folder / "weights.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), [int(step) for step in sys.argv[2:]])
