"""The parts of the machine and its software that affect the figures."""

from __future__ import annotations

import os
import platform
from contextlib import suppress
from dataclasses import dataclass

import numpy as np

from unhot import kernels
from unhot.version import __version__


@dataclass(frozen=True)
class Machine:
    """The machine and the software versions that a comparison ran on."""

    kernels: str
    threads: int
    processor: str
    cores: int
    memory_bytes: int | None
    system: str
    huge_pages: str
    """Linux's transparent huge pages, which decide how much of a matrix of zeros is in memory."""
    python: str
    numpy: str
    blas: str
    unhot: str


def this_machine() -> Machine:
    """The machine on which this process runs."""
    return Machine(
        kernels=kernels.name,
        threads=kernels.get_num_threads(),
        processor=_line("/proc/cpuinfo", "model name") or platform.processor() or platform.machine(),
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        memory_bytes=int(total.split()[0]) * 1024 if (total := _line("/proc/meminfo", "MemTotal")) else None,
        system=f"{platform.system()} {platform.machine()}",
        huge_pages=_text("/sys/kernel/mm/transparent_hugepage/enabled").strip(),
        python=platform.python_version(),
        numpy=np.__version__,
        blas=_blas(),
        unhot=__version__,
    )


def _blas() -> str:
    found = np.show_config(mode="dicts")
    blas = found.get("Build Dependencies", {}).get("blas", {}) if found else {}
    return f"{blas.get('name', 'unknown')} {blas.get('version', '')}".strip()


def _line(path: str, name: str) -> str:
    for line in _text(path).splitlines():
        key, _, value = line.partition(":")
        if key.strip() == name:
            return value.strip()
    return ""


def _text(path: str) -> str:
    with suppress(OSError), open(path, encoding="utf-8") as file:
        return file.read()
    return ""
