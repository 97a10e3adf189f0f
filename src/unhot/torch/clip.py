"""Clipping the norm of gradients, some of which are row-sparse."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from unhot.torch.gradient import RowGradient
from unhot.torch.gradient_content import Content, coalesced
from unhot.torch.lookup import sparse_tensor


def clip_grad_norm_(
    parameters: Tensor | Iterable[Tensor],
    max_norm: float,
    norm_type: float = 2.0,
    error_if_nonfinite: bool = False,
    foreach: bool | None = None,
) -> Tensor:
    """`torch.nn.utils.clip_grad_norm_` that also accepts sparse gradients, which layers made with `sparse=True` have.

    The norm is that of the dense gradients: the gradients of a repeated id are summed first. Of tables whose rows are spread
    over processes it is that of the whole tables, and all processes make the call together. Without such layers, it does what
    PyTorch's own does.

    Args: those of `torch.nn.utils.clip_grad_norm_`.

    Raises: RuntimeError for a norm that is not finite, if `error_if_nonfinite` is set.

    Example:
        >>> import torch, unhot.torch
        >>> layer = unhot.torch.Embedding(1000, 4)
        >>> optimizer = unhot.torch.Adam(layer.parameters())
        >>> layer(torch.tensor([3, 3])).sum().backward()
        >>> unhot.torch.clip_grad_norm_(layer.parameters(), 1.0)
        tensor(4.)

    References: torch/nn/utils/clip_grad.py.
    """
    given = [parameters] if isinstance(parameters, Tensor) else list(parameters)
    grads = []
    for parameter in given:
        if parameter.grad is None:
            continue
        if parameter.grad.is_sparse:
            parameter.grad = summed(parameter.grad)
            grads.append(parameter.grad._values())
        else:
            grads.append(parameter.grad)
        notes = getattr(parameter, "notes", None)
        if (
            notes is not None and notes.other_shards is not None and not isinstance(parameter.grad, RowGradient)
        ):  # which would answer for all shards itself
            content = Content(grads[-1].shape, None, grads[-1], notes)
            grads[-1] = RowGradient(content)
    total = torch.nn.utils.get_total_norm(grads, norm_type, error_if_nonfinite, foreach)
    factor = torch.clamp(max_norm / (total + 1e-6), max=1.0)
    with torch.no_grad():
        for grad in grads:
            grad.mul_(factor.to(grad.device))
    return total


def summed(gradient: Tensor) -> Tensor:
    """A row-sparse gradient that holds each row once. Gradients of the same row are summed in float64."""
    if gradient.is_coalesced():
        return gradient
    if gradient.sparse_dim() != 1:
        return gradient.coalesce()
    ids, values = coalesced(gradient._indices()[0], gradient._values().detach())
    return sparse_tensor(ids, values, gradient.size(0))
