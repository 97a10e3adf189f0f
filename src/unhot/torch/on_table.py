"""What `Embedding` and `EmbeddingBag` have in common: a weight that is a table, and what a Dense layer has besides."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

import torch
from torch import Tensor, nn

from unhot import arrays
from unhot.ids import OutOfRange, check_policy
from unhot.torch._private import is_transformed, without_torch_functions
from unhot.torch.backend import DTYPES
from unhot.torch.growing import Growing
from unhot.torch.lookup import lookup
from unhot.torch.parameter import TableParameter, become_table, settle_beneath

Activation = Callable[[Tensor], Tensor]


class OnTable(Growing):
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

    # ------------------------------------------------------------------ what a Dense layer has besides

    activation: Activation | None = None
    out_of_range: OutOfRange = "raise"

    def _add_dense_parts(self, bias: bool, activation: Activation | None, out_of_range: OutOfRange, frozen: Any) -> None:
        this: Any = self
        this.register_parameter("bias", nn.Parameter(torch.zeros_like(this.weight[0])) if bias else None)
        this.activation = activation
        this.out_of_range = check_policy(out_of_range, this.num_embeddings)
        if frozen is not None:
            self.frozen = frozen

    def _with_dense_parts(self, found: Tensor) -> Tensor:
        """activation(found + bias)."""
        bias = getattr(self, "bias", None)
        found = found if bias is None else found + bias
        return found if self.activation is None else self.activation(found)

    def _outside(self, ids: Tensor) -> Tensor:
        """Which of the ids are not those of rows."""
        this: Any = self
        outside: Tensor = (ids < 0) | (ids >= this.num_embeddings)
        return outside

    def _looked_up(self, ids: Tensor) -> Tensor:
        """The vectors of the ids, of which those of padding get no gradient."""
        this: Any = self
        weight = this.weight  # read once: a parametrization works it out anew each time
        padding_idx = None if isinstance(self, nn.EmbeddingBag) else this.padding_idx  # bags leave theirs out themselves
        if not isinstance(weight, TableParameter):
            settle_beneath(weight)
            return nn.functional.embedding(
                ids, weight, padding_idx, this.max_norm, this.norm_type, this.scale_grad_by_freq, bool(self._given_sparse)
            )
        found: Tensor = without_torch_functions(  # `nn.functional.embedding` would come to the same, by a longer way
            lookup, ids, weight, padding_idx, this.max_norm, this.norm_type, this.scale_grad_by_freq, self._given_sparse
        )
        return found

    def _counts_names(self) -> bool:
        """Whether it makes a difference to a row that it is looked up, also where its vector is not used.

        Such a row is renormed or counted, and `LazyAdam` moves it. A dense gradient has zeros for it.
        """
        this: Any = self
        owned = getattr(this._parameters.get("weight"), "ownership", None) is not None and not is_transformed()
        return bool(owned or self._given_sparse or this.scale_grad_by_freq or this.max_norm is not None)

    @classmethod
    def _of_dense(cls, linear: nn.Linear, options: dict[str, Any]) -> Self:
        """The layer with a copy of the weights and the bias of `linear`."""
        weight = linear.weight.detach().T.clone(memory_format=torch.contiguous_format)
        kind: Any = cls
        layer: Any = kind(len(weight), weight.size(1), _weight=weight, bias=linear.bias is not None, **options)
        if layer.bias is not None:
            with torch.no_grad():
                layer.bias.copy_(linear.bias)
        made: Self = layer
        return made

    def _to_dense(self) -> nn.Linear:
        this: Any = self
        bias = getattr(self, "bias", None)
        linear = nn.Linear(
            this.num_embeddings, this.embedding_dim, bias=bias is not None, device=this.weight.device, dtype=this.weight.dtype
        )
        with torch.no_grad():
            linear.weight.copy_(this.weight.detach().T)
            if bias is not None:
                linear.bias.copy_(bias)
        return linear

    def extra_repr(self) -> str:
        """As torch's, with what torch's layer has not."""
        module: Any = super()
        this: Any = self
        this.__dict__["num_embeddings"] = this.num_embeddings  # where torch's looks for it
        text: str = module.extra_repr()
        if getattr(self, "bias", None) is not None:
            text += ", bias=True"
        if self.activation is not None:
            text += f", activation={getattr(self.activation, '__name__', self.activation)}"
        return text if self.out_of_range == "raise" else text + f", out_of_range={self.out_of_range!r}"


def room_for(rows: Any, dim: Any, device: Any, dtype: Any) -> Tensor | None:
    """Memory in large pages for the weights of a large table on the CPU, where torch's own lies in small ones."""
    like = torch.empty(0, device=device, dtype=dtype)
    sizes = isinstance(rows, int) and isinstance(dim, int) and rows * dim * like.element_size() >= arrays.LARGE
    if not sizes or type(like) is not Tensor or not like.is_cpu or like.dtype not in DTYPES:
        return None
    return torch.from_numpy(arrays.empty((rows, dim), like.numpy().dtype))
