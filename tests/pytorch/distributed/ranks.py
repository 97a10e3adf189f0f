"""Processes that run functions together, as those of one training run do: on loopback addresses, with bounded time."""

from __future__ import annotations

import multiprocessing
import os
import tempfile
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from workers import Workers, serve

from unhot.torch import _private

PATIENCE = 120.0
"""Seconds after which what a function gives is no longer waited for."""

TIMEOUT = timedelta(seconds=20)
"""Of the collective operations."""

GROUPS: dict[int, Any] = {}
"""In a process, the group of the first so many processes."""

OTHERS: dict[int, Any] = {}
"""Another group of so many processes: for tables of a model whose dense part has the first one."""

beside_ddp = pytest.mark.skipif(
    not _private.ON, reason="what lets DistributedDataParallel leave tables alone is no public name"
)
"""Of tests that wrap a model in it."""


class Ranks(Workers):
    """Processes that wait for functions to run. Each call of `run_in` takes some of them, the first ones, as one group."""

    def __init__(self, count: int) -> None:
        self._folder = tempfile.TemporaryDirectory()
        super().__init__(started_quickly(), _start, count, count, f"{self._folder.name}/meeting", patience=PATIENCE)

    def run_in(self, world: int, function: Callable[..., Any], *arguments: Any) -> list[Any]:
        """What `function(group, *arguments)` returns in each of `world` processes.

        Raises: FailedError with what they raise.
        """
        return self.run(_in_group, world, function, *arguments)[:world]

    def end(self) -> None:
        """End the processes."""
        super().end()
        self._folder.cleanup()


def started_quickly() -> Any:
    """A context whose processes have imported everything when they start."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch.distributed.tensor", "unhot.torch.distributed"])
    return context


def _start(pipe: Any, rank: int, count: int, meeting: str) -> None:
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    import torch
    import torch.distributed as dist

    from unhot.torch.distributed import transfer

    torch.set_num_threads(1)
    transfer.BUFFER = 1 << 10  # so that a table of the tests' size does not fit into it
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=count, timeout=TIMEOUT)
    GROUPS.update({world: dist.new_group(list(range(world)), timeout=TIMEOUT) for world in range(1, count)})
    GROUPS[count] = dist.group.WORLD
    OTHERS.update({world: dist.new_group(list(range(world)), timeout=TIMEOUT) for world in range(1, count + 1)})
    serve(pipe)


def _in_group(world: int, function: Callable[..., Any], *arguments: Any) -> Any:
    """Nothing in the processes that are not of the group."""
    import torch.distributed as dist

    return function(GROUPS[world], *arguments) if dist.get_rank() < world else None
