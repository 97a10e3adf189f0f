"""Lookups of a table parameter: torch's own until an unhot optimizer owns it, then settled, with a row-sparse gradient."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from unhot.torch import distributed

DTYPES = (torch.float32, torch.float64)
"""Those of tables whose rows can be trained apart; others take torch's own way."""


def lookup(
    input: Tensor,
    weight: Any,
    padding_idx: int | None = None,
    max_norm: float | None = None,
    norm_type: float = 2.0,
    scale_grad_by_freq: bool = False,
    sparse: bool | None = None,
) -> Tensor:
    """`torch.nn.functional.embedding` of a table parameter.

    `sparse` None lets the parameter decide: row-sparse gradients once an unhot optimizer owns it.
    """
    training = owner_of(weight, sparse)
    if training is None:
        return nn.functional.embedding(input, weight, padding_idx, max_norm, norm_type, scale_grad_by_freq, bool(sparse))
    if padding_idx is not None:
        padding_idx = _counted(padding_idx, weight)
    rows_of = training.lookup_outside_graph if torch.compiler.is_compiling() else training.lookup
    found: Tensor = rows_of(input, -1 if padding_idx is None else padding_idx, max_norm, norm_type, scale_grad_by_freq)
    return found


def owner_of(weight: Any, sparse: bool | None) -> Any:
    """What settles and trains the rows, or None where torch's own code is to run; the weight is settled for it."""
    training = getattr(weight, "training", None)
    if training is not None and training.owner is None:
        training.release()
        training = weight.training = None
    if training is not None and (sparse is False or weight.dtype not in DTYPES):
        training.release()
        return None
    if training is not None and not weight.announced and distributed.active():
        distributed.refuse_unannounced()
    return training


def _counted(padding_idx: int, weight: Any) -> int:
    """`padding_idx` counted from the first row."""
    if not -weight.size(0) <= padding_idx < weight.size(0):
        raise AssertionError("Padding_idx must be within num_embeddings")
    return padding_idx % int(weight.size(0))


def bag_lookup(
    input: Tensor,
    weight: Any,
    offsets: Tensor | None = None,
    max_norm: float | None = None,
    norm_type: float = 2,
    scale_grad_by_freq: bool = False,
    mode: str = "mean",
    sparse: bool | None = None,
    per_sample_weights: Tensor | None = None,
    include_last_offset: bool = False,
    padding_idx: int | None = None,
) -> Tensor:
    """`torch.nn.functional.embedding_bag` of a table parameter: torch's own pooling of the rows that `lookup` gives."""
    bag = nn.functional.embedding_bag
    if owner_of(weight, sparse) is None:
        return bag(
            input, weight, offsets, max_norm, norm_type, scale_grad_by_freq, mode, bool(sparse), per_sample_weights,
            include_last_offset, padding_idx,
        )  # fmt: skip
    if scale_grad_by_freq and mode == "max":
        raise ValueError("max mode does not support scaling the gradient by the frequency")
    if padding_idx is not None:
        padding_idx = _counted(padding_idx, weight)
        input, offsets, per_sample_weights = _without(padding_idx, input, offsets, per_sample_weights, include_last_offset)
    rows = lookup(input.reshape(-1), weight, None, max_norm, norm_type, scale_grad_by_freq, sparse)
    own = torch.arange(input.numel(), device=input.device).reshape(input.shape)
    return bag(own, rows, offsets, mode=mode, per_sample_weights=per_sample_weights, include_last_offset=include_last_offset)


def _without(
    padding_idx: int, input: Tensor, offsets: Tensor | None, factors: Tensor | None, include_last_offset: bool
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Flat ids, offsets and factors of the same bags without the ids that are padding."""
    if input.dim() == 2 and offsets is None:
        length = input.size(1)
        offsets = torch.arange(len(input) + include_last_offset, device=input.device) * length
        input, factors = input.reshape(-1), None if factors is None else factors.reshape(-1)
    if input.dim() != 1 or offsets is None:
        return input, offsets, factors  # torch's own error says what is wrong
    kept = input != padding_idx
    before = torch.cat([kept.new_zeros(1, dtype=offsets.dtype), kept.cumsum(0).to(offsets.dtype)])
    if include_last_offset:  # whose last offset torch takes for the number of ids
        offsets = torch.cat([offsets[:-1], offsets.new_tensor([len(input)])])
    return input[kept], before[offsets], None if factors is None else factors[kept]


class RowLookup(torch.autograd.Function):
    """Forward: settled rows.  Backward: the ids and the rows of the gradient, as a sparse COO tensor that shares both."""

    @staticmethod
    def forward(ctx: Any, weight: Any, ids: Tensor, training: Any, padding_idx: int, scale_grad_by_freq: bool) -> Tensor:
        rows: Tensor
        ctx.ids, rows = training.read(ids)
        ctx.rows, ctx.padding_idx, ctx.scaled = len(weight), padding_idx, scale_grad_by_freq
        return rows

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None, None]:
        ids = ctx.ids
        if grad.dim() != 2:
            grad = grad.reshape(len(ids), grad.size(-1))
        if ctx.scaled:
            _, inverse, counts = torch.unique(ids, return_inverse=True, return_counts=True)
            grad = grad / counts[inverse].unsqueeze(1)
        return row_sparse(grad, ids, ctx.rows, ctx.padding_idx, False), None, None, None, None


row_sparse: Any = torch.ops.aten.embedding_sparse_backward.default
"""(grad, ids, rows, padding_idx, False): a sparse tensor that shares both; those of `padding_idx` are left out."""
