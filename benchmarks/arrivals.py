"""Training while new keys arrive: how long the longest step takes, in CPU time of one thread.

    python benchmarks/arrivals.py [--rounds 5] [--steps 1000] [--new 100] [--front-end core torch]

Each step looks up and steps 4,096 int64 keys, of which `--new` were never seen before. A table with room for the rows to come
must have no step that takes more than twice the median; the last line says by how much growing from a few rows on differs.
"""

from __future__ import annotations

import argparse
import gc
import time
from collections.abc import Callable
from statistics import median

import numpy as np
import numpy.typing as npt

import unhot

KNOWN, DIM, BATCH = 100_000, 32, 4096
WARM = 10
"""Steps that are left out at the start."""

Keys = npt.NDArray[np.int64]
Step = Callable[[Keys], None]


def core(capacity: int | None) -> Step:
    """A step of `unhot.Embedding`."""
    embedding = unhot.Embedding(unhot.Vocabulary(unknown="grow"), DIM, optimizer=unhot.Adam(1e-3), capacity=capacity)
    gradients = np.random.default_rng(0).normal(size=(BATCH, DIM)).astype(np.float32)
    embedding.lookup(np.arange(KNOWN))

    def step(keys: Keys) -> None:
        embedding.lookup(keys)
        embedding.step(keys, gradients)

    return step


def torch_layer(capacity: int | None) -> Step:
    """A step of `unhot.torch.KeyedEmbedding`."""
    import torch

    import unhot.torch

    torch.set_num_threads(1)
    layer = unhot.torch.KeyedEmbedding(unhot.Vocabulary(unknown="grow"), DIM, capacity=capacity)
    optimizer = unhot.torch.Adam(layer.parameters(), lr=1e-3)
    gradients = torch.randn(BATCH, DIM)
    layer(torch.arange(KNOWN))

    def step(keys: Keys) -> None:
        optimizer.zero_grad()
        layer(torch.from_numpy(keys)).backward(gradients)
        optimizer.step()

    return step


FRONT_ENDS = {"core": core, "torch": torch_layer}


def times(step: Step, steps: int, new: int, seed: int) -> list[float]:
    """CPU milliseconds of each step."""
    rng = np.random.default_rng(seed)
    found = []
    for number in range(steps):
        keys = (KNOWN * rng.random(BATCH) ** 3).astype(np.int64)
        keys[rng.choice(BATCH, new, replace=False)] = KNOWN + number * new + np.arange(new)
        begun = time.thread_time()
        step(keys)
        found.append((time.thread_time() - begun) * 1e3)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--new", type=int, default=100)
    parser.add_argument("--front-end", nargs="+", choices=FRONT_ENDS, default=list(FRONT_ENDS))
    arguments = parser.parse_args()
    unhot.set_num_threads(1)
    missed = False
    print(f"{arguments.steps * arguments.new:,} keys arrive in {arguments.steps:,} steps; CPU ms: median, 99 %, longest, ratio")
    for name in arguments.front_end:
        for room in (True, False):
            ratios = []
            for seed in range(arguments.rounds):
                gc.collect()
                capacity = KNOWN + (arguments.steps + 1) * arguments.new if room else None
                found = sorted(times(FRONT_ENDS[name](capacity), arguments.steps, arguments.new, seed)[WARM:])
                middle = median(found)
                ratios.append(found[-1] / middle)
                line = f"{middle:6.2f} {found[int(0.99 * len(found))]:6.2f} {found[-1]:6.2f} {ratios[-1]:6.1f}"
                print(f"  {name}, {'with' if room else 'without'} room: {line}")
            if room:
                reached = median(ratios) <= 2.0
                missed |= not reached
                print(f"  target: longest / median <= 2.0: {median(ratios):.1f}  {'reached' if reached else 'MISSED'}")
    return int(missed)


if __name__ == "__main__":
    raise SystemExit(main())
