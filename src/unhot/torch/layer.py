"""`torch.nn.Embedding` and `EmbeddingBag` on a table parameter."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn

from unhot.ids import OutOfRange
from unhot.optimizers.base import flag
from unhot.torch.on_table import Activation, OnTable, room_for
from unhot.torch.parameter import TableParameter, settle_beneath


class Embedding(OnTable, nn.Embedding):
    """`torch.nn.Embedding`, with a row-sparse gradient once an optimizer of `unhot.torch` owns its weight.

    Args: those of `torch.nn.Embedding`, with its defaults, except
        sparse: None lets the optimizer decide; True and False mean what they mean in torch.
        bias: whether to add a learnable vector, as a Dense layer on one-hot vectors would.
        activation: a function applied to the result.
        out_of_range: what happens to an id outside [0, num_embeddings): "raise" (an IndexError), "zero" (a zero vector without
            a gradient) or the number of the row that stands for all unknown ids.
        frozen: the rows that optimizers of `unhot.torch` leave as they are: row numbers, a boolean mask, or None.

    Raises: what `torch.nn.Embedding` raises; TypeError or ValueError for an unusable `bias` or `out_of_range`.

    Example:
        >>> import torch, unhot.torch
        >>> layer = unhot.torch.Embedding(1000, 4)
        >>> optimizer = unhot.torch.Adam(layer.parameters(), lr=0.1)
        >>> layer(torch.tensor([[3, 7], [3, 5]])).sum().backward()
        >>> optimizer.step()

    References: torch/nn/modules/sparse.py.
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
        *,
        bias: bool = False,
        activation: Activation | None = None,
        out_of_range: OutOfRange = "raise",
        frozen: Any = None,
    ) -> None:
        bias = flag("Embedding", "bias", bias)
        room = room_for(num_embeddings, embedding_dim, device, dtype) if _weight is None else None
        super().__init__(
            num_embeddings, embedding_dim, padding_idx, max_norm, norm_type, scale_grad_by_freq, bool(sparse),
            _weight if room is None else room, _freeze, device, dtype,
        )  # fmt: skip
        if room is not None:
            self.reset_parameters()
        self._given_sparse = sparse
        self._add_dense_parts(bias, activation, out_of_range, frozen)

    def forward(self, input: Tensor) -> Tensor:
        """The vectors of the ids in `input`: shape input.shape + (embedding_dim,)."""
        if self.out_of_range == "raise":
            return self._with_dense_parts(self._looked_up(input))
        bad = self._outside(input)
        if self.out_of_range == "zero":
            return self._with_dense_parts(self._rows_or_zeros(input, bad))
        return self._with_dense_parts(self._looked_up(input.masked_fill(bad, self.out_of_range)))

    def _rows_or_zeros(self, ids: Tensor, bad: Tensor) -> Tensor:
        """The vectors of the ids, zeros for those that are bad."""
        if not self._counts_names():
            return self._looked_up(ids.masked_fill(bad, 0)).masked_fill(
                bad.unsqueeze(-1), 0
            )  # a gradient of zeros comes to row 0
        if not bool(bad.any()):
            return self._looked_up(ids)
        rows = self._looked_up(ids[~bad])
        return rows.new_zeros((*ids.shape, rows.size(-1))).masked_scatter(~bad.unsqueeze(-1), rows)

    @classmethod
    def from_pretrained(
        cls,
        embeddings: Tensor,
        freeze: bool = True,
        padding_idx: int | None = None,
        max_norm: float | None = None,
        norm_type: float = 2.0,
        scale_grad_by_freq: bool = False,
        sparse: bool | None = None,
    ) -> Embedding:
        """`torch.nn.Embedding.from_pretrained` with another default for `sparse`.

        Args: those of `torch.nn.Embedding.from_pretrained`.

        Raises: what `torch.nn.Embedding.from_pretrained` raises.

        Example:
            >>> import torch, unhot.torch
            >>> layer = unhot.torch.Embedding.from_pretrained(torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
            >>> layer(torch.tensor([1]))
            tensor([[3., 4.]])
        """
        theirs: Any = super().from_pretrained
        made: Embedding = theirs(embeddings, freeze, padding_idx, max_norm, norm_type, scale_grad_by_freq, sparse)
        return made

    @classmethod
    def from_dense(cls, linear: nn.Linear, **options: Any) -> Embedding:
        """The embedding that returns for ids what `linear` returns for one-hot vectors. Copies its weights and bias.

        Args:
            linear: a layer with one input per row of the embedding.
            options: further arguments of `Embedding`.

        Raises: what `Embedding` raises.

        Example:
            >>> import torch, unhot.torch
            >>> linear = torch.nn.Linear(5, 2)
            >>> layer = unhot.torch.Embedding.from_dense(linear)
            >>> ids = torch.tensor([3, 0])
            >>> torch.allclose(layer(ids), linear(torch.nn.functional.one_hot(ids, 5).float()))
            True
        """
        return cls._of_dense(linear, options)

    def to_dense(self) -> nn.Linear:
        """The `nn.Linear` that returns for one-hot vectors what this layer returns for ids, without the activation.

        The weights and the bias are copied.

        Example:
            >>> import torch, unhot.torch
            >>> unhot.torch.Embedding(5, 2, bias=True).to_dense()
            Linear(in_features=5, out_features=2, bias=True)
        """
        return self._to_dense()


class EmbeddingBag(OnTable, nn.EmbeddingBag):
    """`torch.nn.EmbeddingBag`, with a row-sparse gradient once an optimizer of `unhot.torch` owns its weight.

    Args: those of `torch.nn.EmbeddingBag`, with its defaults, except
        sparse: None lets the optimizer decide; True and False mean what they mean in torch.
        bias: whether to add a learnable vector to each bag's, as a Dense layer on multi-hot vectors would. That layer sums
            (mode="sum"); an empty bag gives the bias.
        activation: a function applied to the result.
        out_of_range: what happens to an id outside [0, num_embeddings): "raise" (an IndexError), "zero" (a zero vector without
            a gradient, which counts in a mean or maximum, as a row of zeros among one-hot rows does) or the number of the row
            that stands for all unknown ids. Ids that are `padding_idx` are no part of a bag, also if unknown ids stand for it.
        frozen: as for `Embedding`.

    Raises: what `torch.nn.EmbeddingBag` raises; TypeError or ValueError for an unusable `bias` or `out_of_range`.

    Example:
        >>> import torch, unhot.torch
        >>> layer = unhot.torch.EmbeddingBag(1000, 4, mode="sum")
        >>> layer(torch.tensor([3, 7, 5]), torch.tensor([0, 2])).shape
        torch.Size([2, 4])

    References: torch/nn/modules/sparse.py.
    """

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        max_norm: float | None = None,
        norm_type: float = 2.0,
        scale_grad_by_freq: bool = False,
        mode: str = "mean",
        sparse: bool | None = None,
        _weight: Tensor | None = None,
        include_last_offset: bool = False,
        padding_idx: int | None = None,
        device: Any = None,
        dtype: Any = None,
        *,
        bias: bool = False,
        activation: Activation | None = None,
        out_of_range: OutOfRange = "raise",
        frozen: Any = None,
    ) -> None:
        bias = flag("EmbeddingBag", "bias", bias)
        room = room_for(num_embeddings, embedding_dim, device, dtype) if _weight is None else None
        super().__init__(
            num_embeddings, embedding_dim, max_norm, norm_type, scale_grad_by_freq, mode, bool(sparse),
            _weight if room is None else room, include_last_offset, padding_idx, device, dtype,
        )  # fmt: skip
        if room is not None:
            self.reset_parameters()
        self._given_sparse = sparse
        self._add_dense_parts(bias, activation, out_of_range, frozen)

    def forward(self, input: Tensor, offsets: Tensor | None = None, per_sample_weights: Tensor | None = None) -> Tensor:
        """The pooled vectors of the bags of ids: shape (bags, embedding_dim)."""
        if self.out_of_range == "raise":
            found = self._pooled(input, offsets, per_sample_weights)
        elif self.out_of_range == "zero":
            found = self._pooled_with_zeros(input, offsets, per_sample_weights)
        else:
            within = input.masked_fill(self._outside(input), self.out_of_range)
            found = self._pooled(within, offsets, per_sample_weights)
        return self._with_dense_parts(found)

    def _pooled(self, ids: Tensor, offsets: Tensor | None, factors: Tensor | None) -> Tensor:
        weight, sparse = self.weight, cast(bool, self._given_sparse)  # None leaves it to the table parameter
        if not isinstance(weight, TableParameter):
            settle_beneath(weight)
            sparse = bool(sparse)
        return nn.functional.embedding_bag(
            ids, weight, offsets, self.max_norm, self.norm_type, self.scale_grad_by_freq, self.mode, sparse, factors,
            self.include_last_offset, self.padding_idx,
        )  # fmt: skip

    def _pooled_with_zeros(self, ids: Tensor, offsets: Tensor | None, factors: Tensor | None) -> Tensor:
        """The pooled vectors where ids out of range have a zero vector."""
        bad = self._outside(ids)
        if not self._counts_names():
            return self._pooled_rows(ids, bad, offsets, factors)
        # These ids are left out, and then made up for.
        starts = self._bounds(ids, offsets) if bool(bad.any()) else None
        if starts is None or (factors is not None and factors.shape != ids.shape):
            return self._pooled(ids.masked_fill(bad, 0), offsets, factors)  # there are none, or torch refuses the arguments
        kept = ~bad.reshape(-1)
        begins = before(kept)[starts].to(ids.dtype if offsets is None else offsets.dtype)
        found = self._pooled(
            ids.reshape(-1)[kept], begins if self.include_last_offset else begins[:-1],
            None if factors is None else factors.reshape(-1)[kept],
        )  # fmt: skip
        if self.mode == "sum":
            return found
        missing = before(~kept)[starts].diff().unsqueeze(1)
        if self.mode == "max":
            return torch.where(missing > 0, found.clamp(min=0), found)
        counts = kept if self.padding_idx is None else kept & (ids.reshape(-1) != self.padding_idx)
        left = before(counts)[starts].diff().unsqueeze(1)
        return found * (left / (left + missing).clamp(min=1)).to(found.dtype)

    def _pooled_rows(self, ids: Tensor, bad: Tensor, offsets: Tensor | None, factors: Tensor | None) -> Tensor:
        """The same by a vector for each id, without a look at the ids, so that it can be traced."""
        rows = self._looked_up(ids.masked_fill(bad, 0)).masked_fill(bad.unsqueeze(-1), 0)
        rows = rows.reshape(-1, rows.size(-1))
        places = torch.arange(ids.numel(), device=ids.device).reshape(ids.shape)
        padding_idx = None
        if self.padding_idx is not None:  # one more row stands for it
            padding_idx = len(rows)
            rows = torch.cat([rows, rows.new_zeros((1, rows.size(1)))])
            places = places.masked_fill(ids == self.padding_idx, padding_idx)
        return nn.functional.embedding_bag(
            places, rows, offsets, mode=self.mode, per_sample_weights=factors, include_last_offset=self.include_last_offset,
            padding_idx=padding_idx,
        )  # fmt: skip

    def _bounds(self, ids: Tensor, offsets: Tensor | None) -> Tensor | None:
        """Where each bag begins among the flat ids, and where the last one ends; None for what torch refuses."""
        if offsets is None:
            return torch.arange(ids.size(0) + 1, device=ids.device) * ids.size(1) if ids.dim() == 2 else None
        if ids.dim() != 1 or offsets.dim() != 1 or not offsets.numel():
            return None
        starts = offsets.to(torch.int64)
        if not self.include_last_offset:
            starts = torch.cat([starts, starts.new_full((1,), len(ids))])
        elif self.padding_idx is not None:  # torch does not look at the last one then
            starts = torch.cat([starts[:-1], starts.new_full((1,), len(ids))])
        in_order = bool((starts.diff() >= 0).all()) and int(starts[0]) == 0 and int(starts[-1]) <= len(ids)
        return starts if in_order else None

    @classmethod
    def from_pretrained(
        cls,
        embeddings: Tensor,
        freeze: bool = True,
        max_norm: float | None = None,
        norm_type: float = 2.0,
        scale_grad_by_freq: bool = False,
        mode: str = "mean",
        sparse: bool | None = None,
        include_last_offset: bool = False,
        padding_idx: int | None = None,
    ) -> EmbeddingBag:
        """`torch.nn.EmbeddingBag.from_pretrained` with another default for `sparse`.

        Args: those of `torch.nn.EmbeddingBag.from_pretrained`.

        Raises: what `torch.nn.EmbeddingBag.from_pretrained` raises.

        Example:
            >>> import torch, unhot.torch
            >>> layer = unhot.torch.EmbeddingBag.from_pretrained(torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
            >>> layer(torch.tensor([[0, 1]]))
            tensor([[2., 3.]])
        """
        theirs: Any = super().from_pretrained
        made: EmbeddingBag = theirs(
            embeddings, freeze, max_norm, norm_type, scale_grad_by_freq, mode, sparse, include_last_offset, padding_idx
        )
        return made

    @classmethod
    def from_dense(cls, linear: nn.Linear, mode: str = "sum", **options: Any) -> EmbeddingBag:
        """The layer that returns for bags of ids what `linear` returns for multi-hot vectors. Copies its weights and bias.

        Args:
            linear: a layer with one input per row of the table.
            mode: "sum" for that; with another, only what is pooled comes from `linear`.
            options: further arguments of `EmbeddingBag`.

        Raises: what `EmbeddingBag` raises.

        Example:
            >>> import torch, unhot.torch
            >>> linear = torch.nn.Linear(5, 2)
            >>> layer = unhot.torch.EmbeddingBag.from_dense(linear)
            >>> multi_hot = torch.tensor([[1.0, 0, 0, 2, 0]])
            >>> torch.allclose(layer(torch.tensor([[3, 0, 3]])), linear(multi_hot))
            True
        """
        return cls._of_dense(linear, {"mode": mode, **options})

    def to_dense(self) -> nn.Linear:
        """The `nn.Linear` that returns for multi-hot vectors what this layer returns for bags, if its mode is "sum".

        The weights and the bias are copied, and the activation is left out.

        Example:
            >>> import torch, unhot.torch
            >>> unhot.torch.EmbeddingBag(5, 2, mode="sum", bias=True).to_dense()
            Linear(in_features=5, out_features=2, bias=True)
        """
        return self._to_dense()


def before(mask: Tensor) -> Tensor:
    """How many elements of a flat mask are set before each place, and in all of it: one number more than places."""
    return nn.functional.pad(mask.cumsum(0), (1, 0))
