"""The keys of a vocabulary: how columns of them are read, and the maps from keys to rows, native and in Python."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

from unhot import kernels

active: ModuleType = import_module("unhot.keys.reference" if kernels.name == "numpy" else "unhot.keys.native")
"""The maps in use, by what there is of the kernels."""
