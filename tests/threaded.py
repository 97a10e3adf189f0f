"""Works in several threads at a time, that take turns often; every wait has a limit, so that a deadlock is a failure."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from typing import Any

LIMIT = 60.0
"""Seconds until a test counts as hanging."""


def together(*works: Callable[[], Any]) -> None:
    """Run the works in a thread each, from one moment on, in turns of 10 microseconds; raise the first error."""
    barrier, errors = threading.Barrier(len(works)), []

    def run(work: Callable[[], Any]) -> None:
        barrier.wait(LIMIT)
        try:
            work()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(work,), daemon=True) for work in works]
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(LIMIT)
            assert not thread.is_alive(), "the threads wait for each other"
    finally:
        sys.setswitchinterval(before)
    if errors:
        raise errors[0]
