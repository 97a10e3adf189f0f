"""The kernels in use: the native ones where the package was built with a C++ compiler, else the NumPy ones.

The environment variable UNHOT_KERNELS=numpy asks for the NumPy ones.
"""

from __future__ import annotations

import os
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType

import numpy as np

MOST_THREADS = 2**31 - 1
"""What the native kernels can hold."""


def _choose() -> ModuleType:
    asked = os.environ.get("UNHOT_KERNELS", "")
    if asked not in ("", "numpy", "native"):
        raise ImportError(f"UNHOT_KERNELS must be 'numpy' or 'native'. Received: {asked!r}.")
    if asked != "numpy" and (asked == "native" or find_spec("unhot._native") is not None):
        return import_module("unhot.kernels.native")
    return import_module("unhot.kernels.reference")


active = _choose()

name: str = active.name
"""Which kernels are in use: "native (avx2)", say, or "numpy"."""


def set_num_threads(count: int) -> None:
    """Use at most `count` threads in the kernels; results do not depend on it.  The NumPy kernels always use one.

    Args:
        count: an integer from 1 to 2**31 - 1.

    Raises: TypeError or ValueError for anything else.

    Example:
        >>> import unhot
        >>> unhot.set_num_threads(1)
        >>> unhot.get_num_threads()
        1
    """
    if isinstance(count, bool) or not isinstance(count, (int, np.integer)):
        raise TypeError(f"the number of threads must be an integer. Received: {count!r} (of type {type(count).__name__}).")
    if not 1 <= count <= MOST_THREADS:
        raise ValueError(f"the number of threads must lie in [1, {MOST_THREADS}]. Received: {count!r}.")
    active.set_threads(int(count))


def get_num_threads() -> int:
    """The number of threads that the kernels use at most: by default, one for each processor of the process.

    Example:
        >>> import unhot
        >>> unhot.get_num_threads() >= 1
        True
    """
    return int(active.threads())


__all__ = ["active", "get_num_threads", "name", "set_num_threads"]
