"""The processes of the tests: the same for all tests of a worker, since it takes seconds to start them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pytorch.distributed.ranks import Ranks


class Pool:
    """Four processes, started when they are first needed, and anew after a test that has left them waiting."""

    def __init__(self) -> None:
        self.started: Ranks | None = None

    def run(self, function, *arguments, world=2):  # type: ignore[no-untyped-def]
        """See `Ranks.run_in`."""
        if self.started is None:
            self.started = Ranks(4)
        try:
            return self.started.run_in(world, function, *arguments)
        except TimeoutError:
            self.started = None
            raise

    def end(self) -> None:
        """End the processes, if there are any."""
        if self.started is not None:
            self.started.end()
            self.started = None


@pytest.fixture(scope="session")
def pool() -> Iterator[Pool]:
    made = Pool()
    yield made
    made.end()
