"""Processes that wait for functions to run, in bounded time: what the tests of several processes have in common."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from typing import Any, Self


class FailedError(Exception):
    """What functions have raised: a trace of each, by the number of the process."""

    def __init__(self, traces: dict[int, str]) -> None:
        super().__init__("\n".join(f"process {number}: {trace}" for number, trace in traces.items()))


class Workers:
    """Processes that begin with `start(pipe, number, *arguments)`, which calls `serve`. They end with a `with` block."""

    def __init__(self, context: Any, start: Callable[..., None], count: int, *arguments: Any, patience: float) -> None:
        """`patience` are the seconds after which what a function gives is no longer waited for."""
        self.patience = patience
        self._pipes, self._processes = [], []
        for number in range(count):
            here, there = context.Pipe()
            process = context.Process(target=start, args=(there, number, *arguments), daemon=True)
            process.start()
            self._pipes.append(here)
            self._processes.append(process)

    def run(self, function: Callable[..., Any], *arguments: Any) -> list[Any]:
        """What the function returns in each process.

        Raises: FailedError with what it raises in some; TimeoutError, after all have been ended.
        """
        for pipe in self._pipes:
            pipe.send((function, arguments))
        found = []
        for number, pipe in enumerate(self._pipes):
            if not pipe.poll(self.patience):
                self.end()
                raise TimeoutError(f"process {number} has not ended {function} in {self.patience} s")
            found.append(pipe.recv())
        traces = {number: trace for number, (_, trace) in enumerate(found) if trace}
        if traces:
            raise FailedError(traces)
        return [result for result, _ in found]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.end()

    def end(self) -> None:
        """End the processes."""
        for process in self._processes:
            process.kill()
            process.join()


def serve(pipe: Any) -> None:
    """Run what comes through the pipe until it is closed."""
    while True:
        try:
            function, arguments = pipe.recv()
        except EOFError:
            return
        result, trace = None, ""
        try:
            result = function(*arguments)
        except BaseException:
            trace = traceback.format_exc()
        pipe.send((result, trace))
