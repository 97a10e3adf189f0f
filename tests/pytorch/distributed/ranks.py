"""Processes that run functions together, as those of one training run do: on loopback addresses, with bounded time."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import tempfile
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from unhot.torch import _private

PATIENCE = 120.0
"""Seconds after which what a function gives is no longer waited for."""

TIMEOUT = timedelta(seconds=20)
"""Of the collective operations."""


OTHERS: dict[int, Any] = {}
"""In a process, another group of so many processes: for tables of a model whose dense part has the first one."""


beside_ddp = pytest.mark.skipif(
    not _private.ON, reason="what lets DistributedDataParallel leave tables alone is no public name"
)
"""Of tests that wrap a model in it."""


class FailedError(Exception):
    """What a process has raised, by rank."""

    def __init__(self, errors: dict[int, BaseException], traces: dict[int, str]) -> None:
        super().__init__("\n".join(f"rank {rank}: {trace}" for rank, trace in traces.items()))
        self.errors = errors


class Ranks:
    """Processes that wait for functions to run. Each call of `run` takes some of them, the first ones, as one group."""

    def __init__(self, count: int) -> None:
        self._folder = tempfile.TemporaryDirectory()
        context = started_quickly()
        meeting = Path(self._folder.name) / "meeting"
        self._pipes, self._processes = [], []
        for rank in range(count):
            here, there = context.Pipe()
            process = context.Process(target=_serve, args=(there, rank, count, str(meeting)), daemon=True)
            process.start()
            self._pipes.append(here)
            self._processes.append(process)

    def run(self, function: Callable[..., Any], *arguments: Any, world: int = 2) -> list[Any]:
        """What `function(group, *arguments)` returns in each of `world` processes.

        Raises: FailedError with what they raise.
        """
        for pipe in self._pipes:
            pipe.send((world, function, arguments))
        found = []
        for rank, pipe in enumerate(self._pipes):
            if not pipe.poll(PATIENCE):
                self.end()
                raise TimeoutError(f"rank {rank} has not ended {function.__name__} in {PATIENCE} s")
            found.append(pipe.recv())
        errors = {rank: error for rank, (_, error, _) in enumerate(found) if error is not None}
        if errors:
            raise FailedError(errors, {rank: found[rank][2] for rank in errors})
        return [result for result, _, _ in found[:world]]

    def end(self) -> None:
        """End the processes."""
        for process in self._processes:
            process.kill()
            process.join()
        self._folder.cleanup()


def started_quickly() -> Any:
    """A context whose processes have imported everything when they start."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch.distributed.tensor", "unhot.torch.distributed"])
    return context


def _serve(pipe: Any, rank: int, count: int, meeting: str) -> None:
    """Run what comes through the pipe until it is closed."""
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=count, timeout=TIMEOUT)
    groups = {world: dist.new_group(list(range(world)), timeout=TIMEOUT) for world in range(1, count)}
    groups[count] = dist.group.WORLD
    OTHERS.update({world: dist.new_group(list(range(world)), timeout=TIMEOUT) for world in range(1, count + 1)})
    while True:
        try:
            world, function, arguments = pipe.recv()
        except EOFError:
            return
        result: tuple[Any, BaseException | None, str]
        try:
            result = function(groups[world], *arguments) if rank < world else None, None, ""
        except BaseException as error:
            result = None, error if _pickles(error) else RuntimeError(repr(error)), traceback.format_exc()
        pipe.send(result)


def _pickles(error: BaseException) -> bool:
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return False
    return True


@contextmanager
def ranks(count: int) -> Iterator[Ranks]:
    """Such processes, which end with the block."""
    made = Ranks(count)
    try:
        yield made
    finally:
        made.end()
