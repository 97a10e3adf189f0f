"""`torch.nn.Embedding` on a table parameter."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from unhot.torch.parameter import TableParameter


class Embedding(nn.Embedding):
    """`torch.nn.Embedding`, with a row-sparse gradient once an optimizer of `unhot.torch` owns its weight.

    Args: those of `torch.nn.Embedding`; all have its defaults, but for
        sparse: None lets the optimizer decide; True and False are torch's.

    Errors: those of `torch.nn.Embedding`.

    Example:
        >>> import torch, unhot.torch
        >>> layer = unhot.torch.Embedding(1000, 4)
        >>> optimizer = unhot.torch.Adam(layer.parameters(), lr=0.1)
        >>> layer(torch.tensor([[3, 7], [3, 5]])).sum().backward()
        >>> optimizer.step()

    Source: torch/nn/modules/sparse.py.
    """

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        padding_idx: int | None = None,
        max_norm: float | None = None,
        norm_type: float = 2.0,
        scale_grad_by_freq: bool = False,
        sparse: bool | None = None,
        _weight: Tensor | None = None,
        _freeze: bool = False,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__(
            num_embeddings, embedding_dim, padding_idx, max_norm, norm_type, scale_grad_by_freq, bool(sparse), _weight, _freeze,
            device, dtype,
        )  # fmt: skip
        self.weight = TableParameter(self.weight.detach(), self.weight.requires_grad)
        self.sparse = sparse  # type: ignore[assignment]

    def extra_repr(self) -> str:
        return super().extra_repr().removesuffix(", sparse=True") + (", sparse=True" if self.sparse else "")
