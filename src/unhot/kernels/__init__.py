"""The kernels in use: the native ones where the package was built with a C++ compiler, else the NumPy ones.

The environment variable UNHOT_KERNELS=numpy asks for the NumPy ones.
"""

from __future__ import annotations

import os
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType


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

__all__ = ["active", "name"]
