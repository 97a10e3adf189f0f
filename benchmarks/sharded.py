"""Sharded tables: CPU time of each process beside the exchange, the exchange beside gloo's own, and memory; by turns.

    python benchmarks/sharded.py [--ranks 2] [--ids 4096] [--rounds 7] [--rule Adam]

Trains 10^6 rows of 64 by Zipf ids, so many in all in each step, in torch's training loop: in one process with the whole table,
and in several with their shares; some rows are compared, bit for bit. A share alone, which has nothing to send, tells what is
left of a step at best. CPU time is that of the thread that trains; gloo's own threads belong to the exchange. Exits with 1 if
a target is missed.
"""

from __future__ import annotations

import argparse
import itertools
import json
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np
from bench import KEEP_MEMORY

HERE = Path(__file__).resolve().parent
ROWS, DIM, IDS = 1_000_000, 64, 4096
STEPS_OF_TURN, WARM = 100, 3
"""Steps of a turn with so many ids, fewer with more; and turns before the timed ones."""
SWEPT = 1 << 23
"""Bytes that sweep a processor's own caches."""


class Run(NamedTuple):
    """What is measured."""

    ranks: int
    ids: int
    rule: str

    @property
    def steps(self) -> int:
        """The steps of a turn."""
        return max(10, STEPS_OF_TURN * IDS // self.ids)


class Clock:
    """The CPU and wall time of a process, and how much of both went by in exchanges."""

    def __init__(self) -> None:
        self.cpu = self.wall = 0.0
        self._inside = False

    @contextmanager
    def outside(self) -> Iterator[None]:
        """Count what is done here as exchange."""
        if self._inside:
            yield
            return
        self._inside = True
        cpu, wall = time.thread_time(), time.perf_counter()
        try:
            yield
        finally:
            self.cpu += time.thread_time() - cpu
            self.wall += time.perf_counter() - wall
            self._inside = False

    def take(self) -> tuple[float, float]:
        """What has been counted since the last call."""
        found = self.cpu, self.wall
        self.cpu = self.wall = 0.0
        return found


def counted(clock: Clock, function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, whose time is that of the exchange."""

    def called(*arguments: Any) -> Any:
        with clock.outside():
            return function(*arguments)

    return called


def resident() -> int:
    """The bytes of memory that this process alone has: without the pages of libraries, which processes share."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines["RssAnon"].split()[0]) * 1024


def batches(seed: int, ids: int = IDS) -> Iterator[np.ndarray[Any, Any]]:
    """The ids of all processes, so many in each step."""
    rng = np.random.default_rng(seed)
    layout = np.random.default_rng(0).permutation(ROWS)
    while True:
        drawn = rng.zipf(1.05, 4 * ids)
        yield layout[drawn[drawn <= ROWS][:ids] - 1]


def first_weights(rows: Any) -> Any:
    """What these rows begin with, (rows, 1)."""
    return ((rows % 97).float() / 100).unsqueeze(1)


def rank(run: Run, number: int, folder: str, pipe: Any) -> None:
    """One process: it makes turns as it is told."""
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    import torch
    import torch.distributed as dist

    import unhot.torch
    from unhot.torch.distributed import ShardedEmbedding
    from unhot.torch.distributed.peers import Exchange, Peers

    ranks, each = run.ranks, run.ids // run.ranks
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=number, world_size=ranks)
    clock = Clock()
    Peers.begin = counted(clock, Peers.begin)  # type: ignore[method-assign]
    Exchange.wait = counted(clock, Exchange.wait)  # type: ignore[method-assign]
    gradient = torch.full((each, DIM), 0.01)
    stream = batches(1, run.ids)
    others = batches(1, run.ids)
    drawn = [next(others)[number::ranks].copy() for _ in range(WARM * run.steps)]  # as much as the longest turn has
    before = resident()
    del drawn, others
    layer = ShardedEmbedding(ROWS, DIM, reduction="sum")
    with torch.no_grad():
        for first in range(0, len(layer.weight), 4096):
            some = torch.arange(first, min(first + 4096, len(layer.weight)))
            layer.weight[some[0] : some[-1] + 1] = first_weights(layer.shard.numbers(some))
    optimizer = getattr(unhot.torch, run.rule)(layer.parameters(), lr=0.01)
    steps = 0

    def turn(count: int) -> tuple[float, float, float, float]:
        """CPU seconds in all and in the exchange, and wall seconds in all and in the exchange, of a step."""
        nonlocal steps
        own = [torch.from_numpy(next(stream)[number::ranks].copy()) for _ in range(count)]
        dist.barrier()
        clock.take()
        cpu, wall = time.thread_time(), time.perf_counter()
        for ids in own:
            optimizer.zero_grad()
            (layer(ids) * gradient).sum().backward()
            optimizer.step()
        spent = time.thread_time() - cpu, time.perf_counter() - wall
        steps += count
        inside = clock.take()
        return spent[0] / count, inside[0] / count, spent[1] / count, inside[1] / count

    def bare(count: int) -> float:
        """Wall seconds of gloo's exchanges of the same bytes, without anything else."""
        message = torch.zeros(ranks * (16 + -(-each // ranks)), dtype=torch.int64)
        lines = torch.zeros((each, DIM))
        counts = [lines.numel() // ranks] * ranks
        outs = torch.empty_like(message), torch.empty_like(lines).view(-1)
        dist.barrier()
        wall = time.perf_counter()
        for _ in range(count):
            dist.all_to_all_single(outs[0], message)
            for _ in range(2):
                dist.all_to_all_single(outs[1], lines.view(-1), counts, counts)
        return (time.perf_counter() - wall) / count

    calls: dict[str, Callable[..., Any]] = {"turn": turn, "bare": bare}
    while True:
        name, *arguments = pipe.recv()
        if name == "memory":
            weights, slots = layer.weight, optimizer.held_state[layer.weight].values()
            share = sum(t.numel() * t.element_size() for t in (weights, *slots)) + 4 * len(weights)
            pipe.send((resident() - before, share))
        elif name == "rows":
            pipe.send(layer(torch.arange(0, ROWS, 997)).detach().numpy())
        elif name in calls:
            pipe.send(calls[name](*arguments))
        else:
            return


def alone(run: Run, pipe: Any) -> None:
    """The same in one process."""
    import torch

    import unhot.torch

    torch.set_num_threads(1)
    layer = unhot.torch.Embedding(ROWS, DIM)
    with torch.no_grad():
        layer.weight.copy_(first_weights(torch.arange(ROWS)))
    optimizer = getattr(unhot.torch, run.rule)(layer.parameters(), lr=0.01)
    gradient = torch.full((run.ids, DIM), 0.01)
    stream = batches(1, run.ids)
    while True:
        name, *arguments = pipe.recv()
        if name == "turn":
            drawn = [next(stream) for _ in range(arguments[0])]
            own = [torch.from_numpy(np.concatenate([ids[k :: run.ranks] for k in range(run.ranks)])) for ids in drawn]
            cpu = time.thread_time()
            for ids in own:
                optimizer.zero_grad()
                (layer(ids) * gradient).sum().backward()
                optimizer.step()
            pipe.send((time.thread_time() - cpu) / arguments[0])
        elif name == "rows":
            pipe.send(layer(torch.arange(0, ROWS, 997)).detach().numpy())
        else:
            return


def share(run: Run, pipe: Any) -> None:
    """The share of one process that has nothing to send: what is left of a step at best, with its caches warm or swept."""
    import torch

    import unhot.torch

    torch.set_num_threads(1)
    ranks = run.ranks
    layer = unhot.torch.Embedding(ROWS // ranks, DIM)
    optimizer = getattr(unhot.torch, run.rule)(layer.parameters(), lr=0.01)
    stream = batches(1, run.ids)
    others = np.ones(SWEPT // 8)

    def timed(work: Callable[..., Any], *arguments: Any, swept: bool) -> tuple[float, Any]:
        if swept:
            others.sum()
        cpu = time.thread_time()
        found = work(*arguments)
        return time.thread_time() - cpu, found

    def turn(count: int, swept: bool) -> float:
        """CPU seconds of a step. A process of several waits for others three times: for ids, for vectors and for gradients."""
        spent = 0.0
        for ids in [torch.from_numpy(ids[ids % ranks == 0] // ranks) for ids in itertools.islice(stream, count)]:
            gradient = torch.full((len(ids), DIM), 0.01)
            optimizer.zero_grad()
            looked_up, vectors = timed(layer, ids, swept=swept)
            went_back, _ = timed(lambda out, by: (out * by).sum().backward(), vectors, gradient, swept=swept)
            stepped, _ = timed(optimizer.step, swept=swept)
            spent += looked_up + went_back + stepped
        return spent / count

    while True:
        name, *arguments = pipe.recv()
        if name != "turn":
            return
        pipe.send(turn(*arguments))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--ids", type=int, default=IDS)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--rule", default="Adam")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    run = Run(options.ranks, options.ids, options.rule)
    context = multiprocessing.get_context("spawn")
    os.environ.update(KEEP_MEMORY)
    with tempfile.TemporaryDirectory() as folder:
        processes = []

        def made(target: Callable[..., None], *arguments: Any) -> Any:
            """The pipe to a process more."""
            here, there = context.Pipe()
            processes.append(context.Process(target=target, args=(run, *arguments, there), daemon=True))
            return here

        pipes = [made(rank, number, folder) for number in range(run.ranks)]
        singles = [made(alone) for _ in range(run.ranks)]
        shares = [made(share) for _ in range(run.ranks)]
        for process in processes:
            process.start()

        def all_ranks(*command: Any) -> list[Any]:
            for pipe in pipes:
                pipe.send(command)
            return [pipe.recv() for pipe in pipes]

        def slowest(of: list[Any], *command: Any) -> Any:
            """Of as many processes at a time as there are ranks, since processors share caches and memory."""
            for pipe in of:
                pipe.send(command)
            return max(pipe.recv() for pipe in of)

        all_ranks("turn", WARM * run.steps)
        slowest(singles, "turn", WARM * run.steps)
        slowest(shares, "turn", WARM * run.steps, False)
        rounds = []
        for _ in range(options.rounds):
            turn = {
                "one": slowest(singles, "turn", run.steps),
                "share": slowest(shares, "turn", run.steps, False),
                "share swept": slowest(shares, "turn", run.steps, True),
                "ranks": all_ranks("turn", run.steps),
                "bare": all_ranks("bare", run.steps),
            }
            rounds.append(turn)
        memory = all_ranks("memory")
        singles[0].send(("rows",))
        whole = singles[0].recv()
        assert all(np.array_equal(rows, whole) for rows in all_ranks("rows")), "the weights are not those of one process"
        for pipe in (*pipes, *singles, *shares):
            pipe.send(("end",))
    found = summary(rounds, memory)
    print(json.dumps(found, indent=1))
    if options.json:
        options.json.write_text(json.dumps({"rounds": rounds, "memory": memory, **found}, indent=1))
    return 0 if found["reached"] else 1


def summary(rounds: list[dict[str, Any]], memory: list[tuple[int, int]]) -> dict[str, Any]:
    """The figures of a run, and whether the targets are met."""
    beside = [max((cpu - inside) / turn["one"] for cpu, inside, _, _ in turn["ranks"]) for turn in rounds]
    exchange = [max(wall for *_, wall in turn["ranks"]) / max(turn["bare"]) for turn in rounds]
    held = max(resident / share for resident, share in memory)
    found = {
        "one process, CPU ms": 1e3 * median(turn["one"] for turn in rounds),
        "a rank beside the exchange, CPU ms": 1e3 * median(max(c - i for c, i, _, _ in turn["ranks"]) for turn in rounds),
        "a rank beside the exchange, of one process": median(beside),
        "a share without anything to send, of one process": median(turn["share"] / turn["one"] for turn in rounds),
        "the same with swept caches, of one process": median(turn["share swept"] / turn["one"] for turn in rounds),
        "the exchange, wall ms": 1e3 * median(max(w for *_, w in turn["ranks"]) for turn in rounds),
        "the exchange, of gloo's own": median(exchange),
        "memory of a rank, of its share": held,
    }
    found["reached"] = found["a rank beside the exchange, of one process"] <= 0.7 and held <= 1.1
    return found


if __name__ == "__main__":
    sys.exit(main())
