"""Runs the native kernels on torch's own threads.

After each of its parallel operations, OpenMP lets its threads wait at full speed for some milliseconds.  Threads of our own
would compete with them for the processors; so the kernels' work is given to the same threads.
"""

from __future__ import annotations

import ctypes
from pathlib import Path

import torch

from unhot.kernels import active


def parallel_region() -> int:
    """The address of GOMP_parallel in the OpenMP library that torch has loaded, or 0 if it has none with that entry.

    GCC's library has it, and LLVM's and Intel's on Linux.  Several may be in one process: torch's own is the one it links to.
    """
    for library in sorted(Path(torch.__file__).parent.glob("lib/*torch_cpu.*")):
        try:
            region = ctypes.CDLL(str(library)).GOMP_parallel
        except (OSError, AttributeError):
            continue
        return ctypes.cast(region, ctypes.c_void_p).value or 0
    return 0


def join() -> None:
    """From now on, torch's threads do the kernels' work of the calling thread (each thread has an OpenMP team of its own)."""
    active.join_openmp(parallel_region())
