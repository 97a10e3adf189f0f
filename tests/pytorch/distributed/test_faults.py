"""Processes that are killed: the others say so, and stand at the end of a step; a restarted run ends with the same bits."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from selection import slow

import unhot.torch
from pytorch.distributed.programs import made, share, steps
from pytorch.distributed.ranks import beside_ddp, started_quickly
from unhot.torch.distributed import PeerError

STEPS = 60
WORLD = 3


def work(rank: int, meeting: str, pipe: Any, seconds: float) -> None:
    """Train, and send the weights after each step; a process that ends of itself sends why."""
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=WORLD, timeout=timedelta(seconds=10))
    layer = made("", {}, dist.group.WORLD)
    optimizer = unhot.torch.Adam(layer.parameters(), lr=0.05)
    pipe.send("ready")
    why = ""
    try:
        for step in steps(STEPS):
            own = share(step, rank, WORLD, False)
            optimizer.zero_grad()
            (layer(own.ids) * own.gradients).sum().backward()
            optimizer.step()
            time.sleep(seconds)
    except PeerError as error:
        why = str(error)
    made_steps = int(optimizer.state[layer.weight]["step"]) if optimizer.state[layer.weight] else 0
    pipe.send((why, made_steps, layer.weight.detach().clone().numpy()))


def start(folder: Path, seconds: float) -> tuple[list[Any], list[Any]]:
    """Processes that train, and pipes to them, when all have begun."""
    context = started_quickly()
    processes, pipes = [], []
    for rank in range(WORLD):
        here, there = context.Pipe()
        process = context.Process(target=work, args=(rank, str(folder / "meeting"), there, seconds), daemon=True)
        process.start()
        there.close()
        processes.append(process)
        pipes.append(here)
    for pipe in pipes:
        assert pipe.poll(60)
        assert pipe.recv() == "ready"
    return processes, pipes


def end(processes: list[Any]) -> None:
    for process in processes:
        process.kill()
        process.join()


def after_steps(count: int, rank: int) -> Any:
    """The weights of a rank after so many steps in one process."""
    layer = made("", {})
    optimizer = unhot.torch.Adam(layer.parameters(), lr=0.05)
    for step in list(steps(STEPS))[:count]:
        own = share(step, 0, 1, False)
        optimizer.zero_grad()
        (layer(own.ids) * own.gradients).sum().backward()
        optimizer.step()
    return layer.weight.detach()[rank::WORLD].numpy()


@pytest.mark.parametrize("seed", [0, 1, 2, *(pytest.param(seed, marks=slow) for seed in range(3, 20))])
def test_killed_at_any_moment(tmp_path: Path, seed: int) -> None:
    """The others notice it within the timeout, say what they waited for, and have a state at the end of a step."""
    rng = random.Random(seed)
    victim = rng.randrange(WORLD)
    processes, pipes = start(tmp_path, 0.005)
    try:
        time.sleep(rng.random() * 0.4)
        os.kill(processes[victim].pid, signal.SIGKILL)
        begun = time.monotonic()
        for rank in range(WORLD):
            if rank == victim:
                continue
            assert pipes[rank].poll(30)
            why, count, weights = pipes[rank].recv()
            assert time.monotonic() - begun < 15
            assert "waited for the " in why
            assert "of 'ids'" in why
            assert (weights == after_steps(count, rank)).all()
    finally:
        end(processes)


def run_elastic(folder: Path, *ends: int) -> Any:
    """The weights after a run under torchrun, in which processes end at these steps."""
    folder.mkdir()
    tests = Path(__file__).parents[2]
    environment = {
        **os.environ,
        "GLOO_SOCKET_IFNAME": "lo",
        "PYTHONPATH": os.pathsep.join([str(tests), *sys.path[1:]]),
        # Without it, processes that PyTorch 2.13 restarts look for those that have ended, with or without unhot.
        "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",
    }
    command = [
        sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--max-restarts=3", "--rdzv-backend=c10d",
        "--rdzv-endpoint=127.0.0.1:0", "--local-addr=127.0.0.1", str(Path(__file__).with_name("elastic.py")), str(folder),
        *map(str, ends),
    ]  # fmt: skip
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200, check=False)
    assert ended.returncode == 0, ended.stderr[-3000:]
    return torch.load(folder / "weights.pt")


@beside_ddp
@slow  # four starts of two processes
def test_restarted_by_torchrun(tmp_path: Path) -> None:
    """From the last checkpoint, with the bits of a run that was never interrupted."""
    expected = run_elastic(tmp_path / "whole")
    found = run_elastic(tmp_path / "restarted", 6, 15)
    assert (tmp_path / "restarted" / "ended-15").exists()
    for name, weight in expected.items():
        assert torch.equal(found[name], weight), name
