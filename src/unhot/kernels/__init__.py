"""The kernels in use: the native ones where the package was built with a C++ compiler, else the NumPy ones."""

from __future__ import annotations

from unhot.kernels import reference as active

name: str = active.name
"""Which kernels are in use: "native (...)" or "numpy"."""

__all__ = ["active", "name"]
