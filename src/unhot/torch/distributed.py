"""What `DistributedDataParallel` needs: it must know from the start whether a parameter's gradient is row-sparse."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.parallel import DistributedDataParallel


def active() -> bool:
    """Whether a model wrapped in DistributedDataParallel is computing."""
    module: Any = DistributedDataParallel
    return module._get_active_ddp_module() is not None


def refuse_unannounced() -> None:
    """Refuse a lookup whose gradient DistributedDataParallel does not expect to be row-sparse."""
    raise RuntimeError(
        "DistributedDataParallel was made before an optimizer of unhot.torch owned this table, and so expects a dense"
        " gradient. Make the optimizer first, or the layer with sparse=True."
    )


def refuse_dense(result: Any) -> None:
    """Refuse a result that would give a table a dense gradient beside its row-sparse one."""
    if isinstance(result, torch.Tensor) and result.requires_grad and torch.is_grad_enabled():
        raise RuntimeError(
            "a table under DistributedDataParallel is used as a whole, not only looked up, which gives it a dense gradient;"
            " DistributedDataParallel exchanges either dense or row-sparse gradients of a parameter. Make the layer with"
            " sparse=False (dense), or use `weight.detach()` if no gradient is wanted there."
        )
