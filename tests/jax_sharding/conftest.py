"""The processes of the tests, started when they are first needed."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from jax_sharding.processes import Run, processes


@pytest.fixture(scope="session")
def four_devices() -> Iterator[Run]:
    """One process with four devices."""
    with processes(1, 4) as run:
        yield run


@pytest.fixture(scope="session")
def two_processes() -> Iterator[Run]:
    """Two processes with two devices each."""
    with processes(2, 2) as run:
        yield run
