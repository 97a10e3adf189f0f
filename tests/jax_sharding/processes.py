"""Processes whose JAX has several devices: their number must be known before JAX starts."""

from __future__ import annotations

import multiprocessing
import os
import socket
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

PATIENCE = 550.0
"""Seconds after which what a function gives is no longer waited for."""

Run = Callable[..., list[Any]]


@contextmanager
def processes(count: int, devices: int) -> Iterator[Run]:
    """So many processes with so many devices each, which are one `jax.distributed` if there are several.

    They give a function that runs another with arguments in each process, and returns what they return, by process.
    """
    context = multiprocessing.get_context("spawn")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    pipes, started = [], []
    try:
        for rank in range(count):
            here, there = context.Pipe()
            process = context.Process(target=_serve, args=(there, rank, count, devices, address), daemon=True)
            process.start()
            pipes.append(here)
            started.append(process)
        yield lambda function, *arguments: _run(pipes, function, arguments)
    finally:
        for process in started:
            process.kill()
            process.join()


def _run(pipes: list[Any], function: Any, arguments: tuple[Any, ...]) -> list[Any]:
    for pipe in pipes:
        pipe.send((function, arguments))
    found = []
    for rank, pipe in enumerate(pipes):
        if not pipe.poll(PATIENCE):
            raise TimeoutError(f"process {rank} has not ended {function} in {PATIENCE} s")
        found.append(pipe.recv())
    for rank, (_, trace) in enumerate(found):
        assert not trace, f"process {rank}: {trace}"
    return [result for result, _ in found]


def _serve(pipe: Any, rank: int, count: int, devices: int, address: str) -> None:
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
    os.environ["JAX_PLATFORMS"] = "cpu"
    import jax

    if count > 1:
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        jax.distributed.initialize(address, count, rank)
    while True:
        function, arguments = pipe.recv()
        try:
            pipe.send((function(*arguments), ""))
        except BaseException:
            pipe.send((None, traceback.format_exc()))
