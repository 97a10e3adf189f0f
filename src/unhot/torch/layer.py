"""`torch.nn.Embedding` and `EmbeddingBag` on a table parameter."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn

from unhot import arrays
from unhot.ids import OutOfRange, check_policy
from unhot.optimizers.base import flag
from unhot.torch._private import without_torch_functions
from unhot.torch.backend import DTYPES
from unhot.torch.growing import Growing
from unhot.torch.lookup import lookup
from unhot.torch.parameter import TableParameter, become_table, settle_beneath

Activation = Callable[[Tensor], Tensor]


class _OnTable(Growing):
    """A layer whose weight is a table. Where its `sparse` was not given, the weight's owner decides how that is trained."""

    _given_sparse: bool | None = None

    @property
    def num_embeddings(self) -> int:
        """The number of rows of the weight, also after another layer that shares it has grown."""
        weight = self._parameters.get("weight")
        found: int = self.__dict__["num_embeddings"] if weight is None else len(weight)
        return found

    @num_embeddings.setter
    def num_embeddings(self, given: int) -> None:
        self.__dict__["num_embeddings"] = given

    def extra_repr(self) -> str:
        """As torch's, which looks for the number of rows among the layer's attributes."""
        self.__dict__["num_embeddings"] = self.num_embeddings
        module: Any = super()
        text: str = module.extra_repr()
        return text

    @property
    def sparse(self) -> bool:
        """Whether the layer was made for gradients that are sparse tensors; `DistributedDataParallel` wants to know it."""
        return bool(self._given_sparse)

    @sparse.setter
    def sparse(self, given: bool | None) -> None:
        self._given_sparse = given

    def register_parameter(self, name: str, param: nn.Parameter | None) -> None:
        """As torch's; a plain parameter that is put in the weight's place becomes a table, and stays the object it is."""
        module: Any = super()
        module.register_parameter(name, param)
        if name == "weight":
            become_table(param)

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        """As torch's, which may be told to make plain parameters (`torch.__future__`)."""
        module: Any = super()
        module._load_from_state_dict(*args, **kwargs)
        this: Any = self
        become_table(this._parameters.get("weight"))

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        """As torch's, which makes a plain parameter of one that was on the "meta" device."""
        module: Any = super()
        made: Any = module._apply(fn, recurse)
        become_table(made._parameters.get("weight"))
        return made


class Embedding(_OnTable, nn.Embedding):
    """`torch.nn.Embedding`, with a row-sparse gradient once an optimizer of `unhot.torch` owns its weight.

    Args: those of `torch.nn.Embedding`, with its defaults, except
        sparse: None lets the optimizer decide; True and False mean what they mean in torch.
        bias: whether to add a learnable vector, as a Dense layer on one-hot vectors would.
        activation: a function applied to the result.
        out_of_range: what happens to an id outside [0, num_embeddings): "raise" (an IndexError), "zero" (a zero vector without
            a gradient) or the number of the row that stands for all unknown ids.

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
        self.bias = nn.Parameter(torch.zeros_like(self.weight[0])) if bias else None
        self.activation = activation
        self.out_of_range = check_policy(out_of_range, num_embeddings)

    def forward(self, input: Tensor) -> Tensor:
        """The vectors of the ids in `input`: shape input.shape + (embedding_dim,)."""
        if self.out_of_range == "raise":
            found = self._rows(input)
        else:
            bad = (input < 0) | (input >= self.num_embeddings)
            found = (
                self._rows_or_zeros(input, bad)
                if self.out_of_range == "zero"
                else self._rows(input.masked_fill(bad, int(self.out_of_range)))
            )
        if self.bias is not None:
            found = found + self.bias
        return found if self.activation is None else self.activation(found)

    def _rows_or_zeros(self, ids: Tensor, bad: Tensor) -> Tensor:
        """The vectors of the ids, zeros for those that are bad."""
        bad = bad.unsqueeze(-1)
        if self.max_norm is None and not self.scale_grad_by_freq:
            return self._rows(ids.masked_fill(bad.squeeze(-1), 0)).masked_fill(bad, 0)  # no gradient comes to row 0
        rows = self._rows(ids[~bad.squeeze(-1)])  # those that are renormed and counted
        return rows.new_zeros((*ids.shape, rows.size(-1))).masked_scatter(~bad, rows)

    def _rows(self, ids: Tensor) -> Tensor:
        weight = self.weight  # read once: a parametrization works it out anew each time
        if not isinstance(weight, TableParameter):
            settle_beneath(weight)
            return nn.functional.embedding(
                ids, weight, self.padding_idx, self.max_norm, self.norm_type, self.scale_grad_by_freq, bool(self._given_sparse)
            )  # fmt: skip
        return without_torch_functions(  # `nn.functional.embedding` would come to the same, by a longer way
            lookup, ids, weight, self.padding_idx, self.max_norm, self.norm_type, self.scale_grad_by_freq, self._given_sparse
        )  # fmt: skip

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
        weight = linear.weight.detach().T.clone(memory_format=torch.contiguous_format)
        layer = cls(len(weight), weight.size(1), _weight=weight, bias=linear.bias is not None, **options)
        if layer.bias is not None:
            with torch.no_grad():
                layer.bias.copy_(linear.bias)
        return layer

    def to_dense(self) -> nn.Linear:
        """The `nn.Linear` that returns for one-hot vectors what this layer returns for ids, without the activation.

        The weights and the bias are copied.

        Example:
            >>> import torch, unhot.torch
            >>> unhot.torch.Embedding(5, 2, bias=True).to_dense()
            Linear(in_features=5, out_features=2, bias=True)
        """
        linear = nn.Linear(
            self.num_embeddings, self.embedding_dim, bias=self.bias is not None, device=self.weight.device,
            dtype=self.weight.dtype,
        )  # fmt: skip
        with torch.no_grad():
            linear.weight.copy_(self.weight.detach().T)
            if self.bias is not None:
                linear.bias.copy_(self.bias)
        return linear

    def extra_repr(self) -> str:
        text = super().extra_repr()
        if self.bias is not None:
            text += ", bias=True"
        if self.activation is not None:
            text += f", activation={getattr(self.activation, '__name__', self.activation)}"
        return text if self.out_of_range == "raise" else text + f", out_of_range={self.out_of_range!r}"


class EmbeddingBag(_OnTable, nn.EmbeddingBag):
    """`torch.nn.EmbeddingBag`, with a row-sparse gradient once an optimizer of `unhot.torch` owns its weight.

    Args: those of `torch.nn.EmbeddingBag`, with its defaults, except
        sparse: None lets the optimizer decide; True and False mean what they mean in torch.

    Raises: what `torch.nn.EmbeddingBag` raises.

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
    ) -> None:
        room = room_for(num_embeddings, embedding_dim, device, dtype) if _weight is None else None
        super().__init__(
            num_embeddings, embedding_dim, max_norm, norm_type, scale_grad_by_freq, mode, bool(sparse),
            _weight if room is None else room, include_last_offset, padding_idx, device, dtype,
        )  # fmt: skip
        if room is not None:
            self.reset_parameters()
        self._given_sparse = sparse

    def forward(self, input: Tensor, offsets: Tensor | None = None, per_sample_weights: Tensor | None = None) -> Tensor:
        """The pooled vectors of the bags of ids: shape (bags, embedding_dim)."""
        weight, sparse = self.weight, cast(bool, self._given_sparse)  # None leaves it to the table parameter
        if not isinstance(weight, TableParameter):
            settle_beneath(weight)
            sparse = bool(sparse)
        return nn.functional.embedding_bag(
            input, weight, offsets, self.max_norm, self.norm_type, self.scale_grad_by_freq, self.mode, sparse,
            per_sample_weights, self.include_last_offset, self.padding_idx,
        )  # fmt: skip

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


def room_for(rows: Any, dim: Any, device: Any, dtype: Any) -> Tensor | None:
    """Memory in large pages for the weights of a large table on the CPU, where torch's own lies in small ones."""
    like = torch.empty(0, device=device, dtype=dtype)
    sizes = isinstance(rows, int) and isinstance(dim, int) and rows * dim * like.element_size() >= arrays.LARGE
    if not sizes or type(like) is not Tensor or not like.is_cpu or like.dtype not in DTYPES:
        return None
    return torch.from_numpy(arrays.empty((rows, dim), like.numpy().dtype))
