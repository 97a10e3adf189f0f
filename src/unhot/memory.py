"""Whether an allocation can succeed: asked before anything is allocated, since Linux grants memory that it does not have."""

from __future__ import annotations

import os


def available() -> int | None:
    """The bytes of memory that a new allocation can use, or None where the system does not say."""
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            for line in file:
                if line.startswith("MemAvailable:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None


SMALL = 1 << 24
"""Allocations of fewer bytes are not worth the question, which costs more than a small lookup."""


def require(size: int, what: str) -> None:
    """Raise MemoryError if `size` bytes for `what` cannot be had."""
    if size < SMALL:
        return
    free = available()
    if free is not None and size > free:
        raise MemoryError(
            f"{what} needs {size / 2**30:,.1f} GiB; {free / 2**30:,.1f} GiB of memory are available. Use fewer rows, a smaller"
            " dim, dtype='float32', or an optimizer with fewer slots."
        )
