"""Who trains a table: one owner at a time, the same in every front end."""

from __future__ import annotations

from unhot.training.backend import Backend
from unhot.training.dense import DenseFallbackWarning, warn_of_dense_training, warn_once
from unhot.training.ownership import Ownable, Ownership, State, ownership_of

__all__ = [
    "Backend", "DenseFallbackWarning", "Ownable", "Ownership", "State", "ownership_of",
    "warn_of_dense_training", "warn_once",
]  # fmt: skip
