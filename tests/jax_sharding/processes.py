"""Processes whose JAX has several devices: their number must be known before JAX starts."""

from __future__ import annotations

import multiprocessing
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from workers import Workers, serve

PATIENCE = 550.0
"""Seconds after which what a function gives is no longer waited for."""

Run = Callable[..., list[Any]]


@contextmanager
def processes(count: int, devices: int) -> Iterator[Run]:
    """So many processes with so many devices each, which are one `jax.distributed` if there are several.

    They give a function that runs another with arguments in each process, and returns what they return, by process.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    context = multiprocessing.get_context("spawn")
    with Workers(context, _start, count, count, devices, address, patience=PATIENCE) as workers:
        yield workers.run


def _start(pipe: Any, rank: int, count: int, devices: int, address: str) -> None:
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
    os.environ["JAX_PLATFORMS"] = "cpu"
    import jax

    if count > 1:
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        jax.distributed.initialize(address, count, rank)
    serve(pipe)
