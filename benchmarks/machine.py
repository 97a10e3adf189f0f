"""What of the machine bears on the figures, and whether it is quiet."""

from __future__ import annotations

import os
import platform
import time
from contextlib import suppress
from typing import Any


def describe() -> dict[str, Any]:
    """Processor, caches, memory and huge pages (NumPy asks for these, torch does not)."""
    told: dict[str, Any] = {"system": platform.system(), "architecture": platform.machine(), "cpus": os.cpu_count()}
    with suppress(OSError):
        told["processor"] = next(_values("/proc/cpuinfo", "model name"), platform.processor())
        told["memory_bytes"] = int(next(_values("/proc/meminfo", "MemTotal")).split()[0]) * 1024
    with suppress(OSError):
        told["huge_pages"] = _read("/sys/kernel/mm/transparent_hugepage/enabled")
    for index in range(8):
        with suppress(OSError):
            cache = f"/sys/devices/system/cpu/cpu0/cache/index{index}"
            told[f"cache_l{_read(cache + '/level')}_{_read(cache + '/type').lower()}"] = _read(cache + "/size")
    return told


def memory_available() -> int | None:
    """Bytes that can be had without swapping, where the system tells."""
    with suppress(OSError, StopIteration):
        return int(next(_values("/proc/meminfo", "MemAvailable")).split()[0]) * 1024
    return None


class Patience:
    """The seconds that a run may still wait for a quiet machine."""

    def __init__(self, seconds: float) -> None:
        self.left = seconds

    def wait(self, most: float = 10.0) -> None:
        """Wait until other processes use less than a tenth of one CPU, but not longer than `most` seconds and what is left."""
        begun = time.monotonic()
        while time.monotonic() - begun < min(most, self.left):
            before = _busy()
            time.sleep(0.25)
            if before is None or _busy() - before < 0.025 * os.sysconf("SC_CLK_TCK") + 1:
                break
        self.left -= max(0.0, time.monotonic() - begun - 0.5)


def _busy() -> Any:
    try:
        with open("/proc/stat") as stat:
            user, nice, system, _, _, irq, soft_irq, steal = (int(x) for x in stat.readline().split()[1:9])
    except (OSError, ValueError):
        return None
    return user + nice + system + irq + soft_irq + steal


def _read(path: str) -> str:
    with open(path) as file:
        return file.read().strip()


def _values(path: str, name: str) -> Any:
    for line in _read(path).splitlines():
        key, _, value = line.partition(":")
        if key.strip() == name:
            yield value.strip()
