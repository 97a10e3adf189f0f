"""`max_norm`: rows that are looked up are scaled down, as torch does, but for frozen ones, which nothing changes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from unhot.torch._private import without_torch_functions


def trained_among(ids: Tensor, table: Any) -> Tensor:
    """Those of the ids, flat, whose rows are there and not frozen; all of them, as they are, if no rows are frozen."""
    rows = getattr(table, "frozen_rows", ())
    if not len(rows):
        return ids
    frozen, flat = torch.from_numpy(rows).to(ids.device), ids.reshape(-1)
    trains = frozen[torch.searchsorted(frozen, flat.to(frozen.dtype)).clamp(max=len(rows) - 1)] != flat
    return flat[trains & (flat >= 0) & (flat < table.size(0))]  # torch counts negative ones from the end before it refuses them


def renormed(table: Any, ids: Tensor, max_norm: float | None, norm_type: float) -> float | None:
    """The `max_norm` for torch's own lookup in a table: None if rows of it are frozen, once the others are scaled down here."""
    if max_norm is None or not len(getattr(table, "frozen_rows", ())):
        return max_norm
    without_torch_functions(torch.no_grad()(_renorm), table, ids, max_norm, norm_type)
    return None


def _renorm(table: Any, ids: Tensor, max_norm: float, norm_type: float) -> None:
    trained = trained_among(ids, table)
    if trained.numel():
        torch.embedding_renorm_(table.detach(), trained, max_norm, norm_type)
