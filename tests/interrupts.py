"""Exceptions at every bytecode: what a signal's handler (Ctrl-C) does at the worst moment, at each moment in turn.

CPython runs handlers at some bytecodes only, and a tracer sees them all; a `with` statement over a lock written in C, for
one, is safe from handlers, but not from this.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import unhot

PACKAGE = str(Path(unhot.__file__).parent)
OURS = (PACKAGE,)
"""The files at whose bytecodes exceptions are raised."""


class Interrupted(BaseException):
    """What a handler raises, as KeyboardInterrupt is."""


def before_bytecode(work: Callable[[], object], at: int, handler: Callable[[], object], files: tuple[str, ...] = OURS) -> bool:
    """Call `work`, and `handler` before the bytecode number `at` of the package's; whether there is such a one."""
    left, called = at, False

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal left, called
        if event == "call":
            if called or not frame.f_code.co_filename.startswith(files):
                return None
            frame.f_trace_opcodes, frame.f_trace_lines = True, False
        elif event == "opcode" and not called:
            if not left:
                called = True
                handler()
            left -= 1
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        work()
    finally:
        sys.settrace(before)
    return called


def interrupted(work: Callable[[], object], at: int, files: tuple[str, ...] = OURS) -> bool:
    """Call `work`, with an exception before the bytecode number `at` of the package's; whether there is such a one."""

    def interrupt() -> None:
        raise Interrupted

    try:
        before_bytecode(work, at, interrupt, files)
    except Interrupted:
        return True
    return False


def everywhere(
    prepare: Callable[[], Any], work: Callable[[Any], object], stride: int = 1, files: tuple[str, ...] = OURS
) -> Iterator[Any]:
    """What `prepare` makes, after `work` on it was interrupted at each bytecode in turn, or at every `stride`-th."""
    at = 0
    while True:
        subject = prepare()
        if not interrupted(lambda subject=subject: work(subject), at, files):
            assert at > 20, "there is nothing to interrupt"
            return
        yield subject
        at += stride
