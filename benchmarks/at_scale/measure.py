"""What of a step can be measured on one machine: routing and rows in one process, exchanges and whole steps in a few.

What one process computes is measured in processor time, which other programs on the machine do not lengthen much. Exchanges
and steps are measured in processor time, too, and by the clock on the wall, of which the fastest tenth is taken.
"""

from __future__ import annotations

import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.distributed as dist

import unhot
import unhot.torch
from at_scale.model import Work, zipf
from unhot.layouts import Layout, Shard, layout_of
from unhot.torch.distributed import ShardedEmbedding
from unhot.torch.distributed.lookup import Options, Wanted, deduplicated, pooled
from unhot.torch.distributed.peers import Exchange, Peers
from unhot.torch.distributed.routing import Asked, Router, first_outside

ROWS = 1_000_000
"""Of the tables that are measured."""

LAYOUTS = (("mod", False), ("mod", True), ("hash", True), ("range", False), ("range", True))
SIZES = (512, 4096, 16384)
PATIENCE = 900.0
"""Seconds after which processes are no longer waited for."""
TIMEOUT = timedelta(seconds=PATIENCE)


class Mirror(Peers):
    """So many ranks of which each sends what it is sent: what a rank computes, without an exchange."""

    def __init__(self, size: int) -> None:
        self.size, self.rank = size, 0

    def begin(self, out: Any, given: Any, counts: Any, what: str) -> Exchange:
        """Copy ids, which are few; hand vectors over without a copy, which is part of an exchange."""
        if out.is_floating_point():
            out.set_(given)
        else:
            out.copy_(given)
        return Exchange(self, None, what)


class Rows(NamedTuple):
    """Stands for a layer, of which a router asks only where its rows are."""

    shard: Shard


def mirrored(layout: Layout) -> Router:
    """What sends the lookups of a table with this layout."""
    return Router(Mirror(layout.shards), [Rows(Shard(layout, 0))], ["ids"])


def fit(columns: Sequence[Sequence[float]], seconds: Sequence[float]) -> list[float]:
    """Microseconds for one of each column that explain the times best, relative to each; none is below 0."""
    a, b = np.array(columns, np.float64), np.array(seconds) * 1e6
    a, b = a / b[:, None], np.ones(len(b))
    kept = list(range(a.shape[1]))
    while True:
        found = np.linalg.lstsq(a[:, kept], b, rcond=None)[0]
        if (found >= 0).all():
            break
        kept.remove(kept[int(found.argmin())])
    full = np.zeros(a.shape[1])
    full[kept] = found
    return [float(x) for x in full]


def processor_time(run: Callable[[], object], times: int) -> float:
    """Seconds of processor time, the median; the first runs are not counted."""
    spent = []
    for k in range(times + 3):
        begun = time.thread_time()
        run()
        if k >= 3:
            spent.append(time.thread_time() - begun)
    return float(np.median(spent))


def route_costs(dim: int, dedup: bool, times: int = 12) -> dict[str, float]:
    """What a rank does for its own ids: finds their ranks, and puts vectors and gradients in order."""
    generator = np.random.default_rng(1)
    columns, seconds = [], []
    word = word_seconds(times)
    for ranks in (2, 16, 128, 1024):
        for count in SIZES:
            for exponent in (0.0, 1.05):
                ids = torch.from_numpy(zipf(generator, ROWS, exponent, count))
                router = mirrored(layout_of("mod", ROWS, ranks))
                gradients = torch.randn(count, dim)

                def run(ids: Any = ids, router: Any = router, gradients: Any = gradients) -> None:
                    wanted = Wanted("ids", None, Asked(ids), Options())  # type: ignore[arg-type]
                    first_outside(ids, ROWS)
                    wanted = deduplicated(wanted) if dedup else wanted
                    route = router.start([wanted.asked])
                    route.finish()
                    found = route.send_rows([torch.empty((len(route.asked[0].ids), dim))])[0]
                    if wanted.repeats is not None:
                        found.index_select(0, wanted.repeats.places)
                        gradients = pooled(gradients, wanted.repeats.order, wanted.repeats.starts, None, "sum")
                    route.send_gradients([gradients])

                taken = processor_time(run, times)
                seconds.append(taken - word * ranks * (router.mail.header + router.mail.room))
                once = [len(torch.unique(ids))] if dedup else []
                columns.append([1, count, ranks, *once])
    found = dict(zip(["fixed_us", "id_us", "rank_us", "distinct_us"], fit(columns, seconds), strict=False))
    return {**found, "word_us": word * 1e6}


def word_seconds(times: int, ranks: int = 256) -> float:
    """What a number in the messages of ids takes, whether an id stands there or not."""
    ids = torch.arange(ranks)
    spent = {}
    for room in (16, 4096):
        router = mirrored(layout_of("mod", ROWS, ranks))

        def run(router: Any = router, room: int = room) -> None:
            router.mail.room = room
            router.start([Asked(ids)]).finish()

        spent[room] = processor_time(run, times)
    return max(0.0, spent[4096] - spent[16]) / (ranks * (4096 - 16))


def own_costs(dim: int, route: dict[str, float], times: int = 5) -> dict[str, float]:
    """What a rank does for the ids that it is asked for: it reads their rows, adds up gradients, and makes the step.

    Ids and rows are those of an `Embedding`. What a `ShardedEmbedding` takes beyond that and `route` is the same for each step.
    """
    generator = np.random.default_rng(2)
    found = {}
    for sharded in (False, True):
        layer: Any = ShardedEmbedding(2 * ROWS, dim, group=Mirror(2)) if sharded else unhot.torch.Embedding(ROWS, dim)
        step = trainer(layer)
        for _ in range(40):
            step(torch.from_numpy(generator.integers(0, ROWS, 16384)), torch.randn(16384, dim) * 0.01)
        columns, seconds = [], []
        for count in SIZES if sharded else (*SIZES, 65536):
            for distinct in (count,) if sharded else (count, count // 8, min(count, 500)):
                gradient, rows, spent = torch.randn(count, dim) * 0.01, [], []
                for _ in range(times + 3):
                    pool = generator.integers(0, layer.num_embeddings, distinct)
                    ids = generator.permutation(pool[np.arange(count) % distinct])
                    rows.append(len(np.unique(ids // 2 if sharded else ids)))  # a mirror is asked for the ids of both ranks
                    spent.append(step(torch.from_numpy(ids), gradient))
                seconds.append(float(np.median(spent[3:])))
                columns.append([1, count, float(np.mean(rows))])
        if not sharded:
            found = dict(zip(["fixed_us", "id_us", "row_us"], fit(columns, seconds), strict=True))
    known = np.array(columns) @ [found["fixed_us"], found["id_us"], found["row_us"]]
    routed = [route["fixed_us"] + (route["id_us"] + route["word_us"]) * count + 2 * route["rank_us"] for _, count, _ in columns]
    more = float(np.median(1e6 * np.array(seconds) - known - routed))
    return {**found, "fixed_us": max(0.0, found["fixed_us"] + more)}


def trainer(layer: Any) -> Callable[[Any, Any], float]:
    """A function that makes a step and returns its processor time."""
    optimizer = unhot.torch.Adam(layer.parameters())

    def step(ids: Any, gradient: Any) -> float:
        begun = time.thread_time()
        optimizer.zero_grad()
        layer(ids).backward(gradient.div_(1.0))  # as the mean over the ranks is taken
        optimizer.step()
        return time.thread_time() - begun

    return step


# ---------------------------------------------------------------------- several processes


def tenth(seconds: Sequence[float]) -> float:
    """The time that a tenth of them do not exceed."""
    return float(np.quantile(seconds, 0.1))


def exchanges(group: Any, ranks: int) -> list[dict[str, float]]:
    """The time of an all_to_all, by the bytes that go from each rank to each."""
    found = []
    for size, times in ((64, 300), (4096, 300), (65536, 150), (1 << 20, 40)):
        given, spent = torch.zeros(ranks * size, dtype=torch.uint8), []
        worked = time.process_time()
        for _ in range(times):
            begun = time.perf_counter()
            dist.all_to_all_single(torch.empty_like(given), given, group=group)
            spent.append(time.perf_counter() - begun)
        worked = (time.process_time() - worked) / times
        found.append({"ranks": ranks, "bytes": (ranks - 1) * size, "us": tenth(spent) * 1e6, "cpu_us": worked * 1e6})
    return found


def steps(group: Any, ranks: int, dim: int, timed: int = 40) -> list[dict[str, Any]]:
    """The time of whole steps of a `ShardedEmbedding`."""
    rank, found = dist.get_rank(group), []
    layers: dict[str, Any] = {}
    for layout, dedup in LAYOUTS:
        if layout not in layers:
            layers.clear()
            layer = ShardedEmbedding(ROWS, dim, group=group, layout=layout)  # type: ignore[arg-type]
            layers[layout] = layer, unhot.torch.Adam(layer.parameters())
        layer, optimizer = layers[layout]
        layer.dedup = dedup
        for count in SIZES:
            gradient, spent, worked = torch.randn(count, dim) * 0.01, [], []
            for k in range(timed + 20):
                ids = torch.from_numpy(Work(ROWS, count, seed=k).drawn(ranks)[rank])
                dist.barrier(group)
                begun, work = time.perf_counter(), time.process_time()
                optimizer.zero_grad()
                layer(ids).backward(gradient)
                optimizer.step()
                if k >= 20:
                    worked.append(time.process_time() - work)
                    spent.append(time.perf_counter() - begun)
            both = torch.tensor([spent, worked], dtype=torch.float64)
            dist.all_reduce(both[0], dist.ReduceOp.MAX, group=group)
            busiest = both[1].median()
            dist.all_reduce(busiest, dist.ReduceOp.MAX, group=group)
            case = {"ranks": ranks, "layout": layout, "dedup": dedup, "ids": count}
            wall = {"ms": tenth(both[0].tolist()) * 1e3, "median_ms": float(both[0].median()) * 1e3}
            found.append({**case, **wall, "cpu_ms": float(busiest) * 1e3})
    return found


def _serve(pipe: Any, rank: int, world: int, meeting: str, dim: int) -> None:
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    unhot.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=world, timeout=TIMEOUT)
    found: dict[str, list[Any]] = {"exchanges": [], "steps": []}
    for ranks in range(2, world + 1):
        group = dist.new_group(list(range(ranks)), timeout=TIMEOUT)
        dist.barrier()
        if rank < ranks:
            found["exchanges"] += exchanges(group, ranks)
            found["steps"] += steps(group, ranks, dim) if ranks in (2, 4) else []
        dist.barrier()
    pipe.send(found)
    dist.destroy_process_group()


def together(world: int, dim: int) -> dict[str, list[Any]]:
    """What processes measure together on this machine; what the first one has found."""
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        pipes = [context.Pipe() for _ in range(world)]
        meeting = str(Path(folder) / "meeting")
        processes = [
            context.Process(target=_serve, args=(there, rank, world, meeting, dim), daemon=True)
            for rank, (_, there) in enumerate(pipes)
        ]
        for process in processes:
            process.start()
        try:
            until = time.monotonic() + PATIENCE
            while not pipes[0][0].poll(1):
                if time.monotonic() > until or any(process.exitcode for process in processes):
                    raise TimeoutError(f"a process has failed, or they have not ended in {PATIENCE:g} s")
            found: dict[str, list[Any]] = pipes[0][0].recv()
            for process in processes:
                process.join(30)
        finally:
            for process in processes:
                process.kill()
    return found


def exchange_costs(points: Sequence[dict[str, float]]) -> dict[str, float]:
    """What is the same for each exchange, what each message takes, and the bytes of a rank, from the times on loopback."""
    columns = [[1.0, point["ranks"] - 1, point["bytes"]] for point in points]
    worked = fit(columns, [point["cpu_us"] * 1e-6 for point in points])
    shares = [max(1.0, point["ranks"] / (os.cpu_count() or 1)) for point in points]
    columns = [[share, share * messages, byte] for share, (_, messages, byte) in zip(shares, columns, strict=True)]
    fixed, message, byte = fit(columns, [point["us"] * 1e-6 for point in points])
    found = {"fixed_us": fixed, "message_us": message, "loopback_gbs": 8e-3 / byte}
    return {**found, **dict(zip(["cpu_fixed_us", "cpu_message_us", "cpu_byte_us"], worked, strict=True))}


PARTS = ("route", "own", "together")


def measure(dim: int, parts: Sequence[str] = PARTS, known: dict[str, Any] | None = None) -> dict[str, Any]:
    """These parts of all that is measured, and the others as they are known; a few minutes on a quiet machine."""
    torch.set_num_threads(1)
    unhot.set_num_threads(1)
    found = {**(known or {}), "dim": dim, "rows": ROWS}
    costs = dict(found.get("costs", {}))
    if "route" in parts:
        both = [route_costs(dim, dedup) for dedup in (False, True)]
        same = {name: sum(each[name] for each in both) / 2 for name in ("rank_us", "word_us")}  # of the same code in both
        costs |= {name: {**each, **same} for name, each in zip(("route", "route_dedup"), both, strict=True)}
    if "own" in parts:
        costs["own"] = own_costs(dim, costs["route"])
    if "together" in parts:
        found |= together(4, dim)
        costs["exchange"] = exchange_costs(found["exchanges"])
    return {**found, "costs": costs}
