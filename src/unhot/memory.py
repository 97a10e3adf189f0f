"""Whether an allocation can succeed: asked before anything is allocated, since Linux grants memory that it does not have."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

ROOT = Path("/")
"""Where /proc and /sys are found."""


def available() -> int | None:
    """The bytes of memory that a new allocation can use, or None where the system does not say."""
    free = [size for size in (_machine(), *_containers()) if size is not None]
    return max(0, min(free)) if free else None


def _machine() -> int | None:
    """What the machine has left."""
    for line in _lines(ROOT / "proc/meminfo"):
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None


def _containers() -> Iterator[int]:
    """What is left of each limit on this process and its control groups' parents (Linux, version 1 and 2)."""
    for line in _lines(ROOT / "proc/self/cgroup"):
        _, controllers, path = line.split(":", 2)
        if controllers not in ("", "memory"):
            continue
        top = ROOT / "sys/fs/cgroup" / controllers
        limit, usage = ("memory.limit_in_bytes", "memory.usage_in_bytes") if controllers else ("memory.max", "memory.current")
        inside = top / path.strip().lstrip("/")
        # In a container the path may be the host's; its group is then mounted at the top.
        for group in (inside, *inside.parents):
            if group == top or top in group.parents:
                most, used = _number(group / limit), _number(group / usage)
                if most is not None and used is not None:
                    yield most - used + _cache(group)


def _cache(group: Path) -> int:
    """The page cache that counts as used and is given up on demand."""
    for line in _lines(group / "memory.stat"):
        if line.startswith("inactive_file "):
            return int(line.split()[1])
    return 0


def _number(path: Path) -> int | None:
    """The number in a file, or None for "max" and for no file."""
    text = "".join(_lines(path)).strip()
    return int(text) if text.isdigit() else None


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="ascii").splitlines()
    except (OSError, UnicodeDecodeError):
        return []


SMALL = 1 << 26
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
