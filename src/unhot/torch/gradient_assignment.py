"""Numbers that are assigned to whole rows of a gradient: zeros are written by rows."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from unhot.torch.gradient_content import HeldByRows


def index_filled(func: Any, args: Any, kwargs: Any) -> Any:
    """`index_fill_` of whole rows."""
    gradient, dim, rows, value = args
    return gradient if dim in (0, -gradient.dim()) and fills_rows(gradient, rows, value) else NotImplemented


def fills_rows(gradient: Any, key: Any, value: Any) -> bool:
    """Do `gradient[key] = value`, if the key names whole rows, and the value is what all rows hold that are not held."""
    if not isinstance(gradient, HeldByRows) or gradient.content.rows is None or gradient.requires_grad:
        return False
    if isinstance(value, Tensor):
        if value.dim() or value.device.type == "meta":
            return False
        value = value.item()
    if not isinstance(value, (bool, int, float)) or value != gradient.content.rows.fill:
        return False
    rows = gradient.content.distinct()
    named = is_named(rows.ids, key, len(gradient))
    if named is None:
        return False
    values = rows.values.masked_fill(named.unsqueeze(1), value)
    gradient.content.replace(rows._replace(values=values))
    return True


def is_named(ids: Tensor, key: Any, count: int) -> Tensor | None:
    """Which of the rows `ids` of so many a key of `Tensor.__setitem__` names; None if it does not name whole rows."""
    if isinstance(key, tuple):
        key, *rest = key or (None,)
        if len(rest) > 1 or not all(part is Ellipsis or (isinstance(part, slice) and part == slice(None)) for part in rest):
            return None
    if key is Ellipsis:
        return torch.ones_like(ids, dtype=torch.bool)
    if isinstance(key, slice):
        try:
            start, stop, step = key.indices(count)
        except TypeError:  # of bounds that are tensors
            return None
        return (ids >= start) & (ids < stop) & ((ids - start) % step == 0) if step > 0 else None
    if isinstance(key, bool) or not isinstance(key, (int, np.integer, list, np.ndarray, Tensor)):
        return None
    try:
        given = torch.as_tensor(key, device=ids.device, dtype=torch.int64 if isinstance(key, list) and not key else None)
    except (TypeError, ValueError, RuntimeError):
        return None
    if given.dtype == torch.bool:
        return given[ids] if given.shape == (count,) else None
    inside = not given.numel() or -count <= int(given.min()) <= int(given.max()) < count  # torch refuses others
    if given.dtype not in (torch.int64, torch.int32) or not inside:
        return None
    return torch.isin(ids, given.to(torch.int64) % count)
