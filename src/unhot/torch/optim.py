"""The optimizers of `torch.optim`, with steps of a table that cost only the rows with gradients."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch

import unhot
from unhot.optimizers import Optimizer
from unhot.optimizers.base import flags
from unhot.torch.rowwise import DenseRowwise
from unhot.torch.stepping import RowOptimizer

__all__ = [
    "SGD", "Adadelta", "Adagrad", "Adam", "AdamW", "Adamax", "LazyAdam", "NAdam", "RAdam", "RMSprop", "RowwiseAdagrad"
]  # fmt: skip


class Described(RowOptimizer):
    """An optimizer of torch whose names for hyperparameters and state stand in the description of ours (`Optimizer.TORCH`)."""

    core: ClassVar[type[Optimizer]]

    _implied: ClassVar[Mapping[str, Any]]
    _keys: ClassVar[list[tuple[str, str, Callable[[Any], Any]]]]
    """Of each hyperparameter our name, torch's key, and what it is converted by."""
    _places: ClassVar[list[tuple[str, tuple[str, int]]]]
    """Of each that is one number of a tuple our name, and torch's key and its place."""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        kind: Any = cls.core  # which mypy takes for one that cannot be hashed, as its instances cannot be
        names = cls.core.TORCH
        assert names is not None, f"{cls.core.__name__} has no names in PyTorch"
        cls.slots, cls.counters, cls._implied = names.slots, tuple(names.numbers.values()), names.implied
        every = names.hyperparameters.items()
        cls._keys = [(n, key, bool if n in flags(kind) else float) for n, key in every if isinstance(key, str)]
        cls._places = [(n, place) for n, place in every if not isinstance(place, str)]

    def hyperparameters(self, group: Mapping[str, Any]) -> dict[str, Any]:
        found = {ours: convert(group[key]) for ours, key, convert in self._keys}
        for ours, (key, place) in self._places:
            found[ours] = float(group[key][place])
        return {**found, **self._implied}


class SGD(Described, torch.optim.SGD):
    """`torch.optim.SGD`, exact for row-sparse gradients, including momentum, Nesterov, dampening and weight decay.

    Args:
        params: parameters, named parameters, or dicts of them with hyperparameters of their own.
        lr: the learning rate. Default: 0.001.
        momentum: the decay of the momentum. Default: 0.
        dampening: the part of a gradient that does not enter the momentum. Default: 0.
        weight_decay: coupled (L2), and exact for tables, too. Default: 0.
        nesterov: whether to use Nesterov's momentum. Default: False.
        maximize: whether to climb. Default: False.
        foreach: how dense parameters are stepped, as in torch. Default: None.
        differentiable: whether steps can be differentiated. Tables are then trained densely. Default: False.
        fused: how dense parameters are stepped, as in torch. Default: None.

    Raises: what `torch.optim.SGD` raises.

    Example:
        >>> import torch, unhot.torch
        >>> layer = unhot.torch.Embedding(1000, 4)
        >>> optimizer = unhot.torch.SGD(layer.parameters(), lr=0.1, momentum=0.9)
        >>> layer(torch.tensor([3, 3])).sum().backward()
        >>> optimizer.step()

    References: torch/optim/sgd.py.
    """

    core = unhot.SGD


class Adagrad(Described, torch.optim.Adagrad):
    """`torch.optim.Adagrad`, exact for row-sparse gradients.

    Args:
        params: parameters, named parameters, or dicts of them with hyperparameters of their own.
        lr: the learning rate. Default: 0.01.
        lr_decay: how fast the rate falls: it is lr / (1 + (step - 1) lr_decay). Default: 0.
        weight_decay: coupled (L2). Above 0, tables are trained densely. Default: 0.
        initial_accumulator_value: what the sums of squares start from. Default: 0.
        eps: what is added to the denominator. Default: 1e-10.
        foreach: how dense parameters are stepped, as in torch. Default: None.
        maximize: whether to climb. Default: False.
        differentiable: whether steps can be differentiated. Tables are then trained densely. Default: False.
        fused: how dense parameters are stepped, as in torch. Default: None.

    Raises: what `torch.optim.Adagrad` raises.

    Example:
        >>> import torch, unhot.torch
        >>> layer = unhot.torch.Embedding(1000, 4)
        >>> optimizer = unhot.torch.Adagrad(layer.parameters(), lr=0.1)
        >>> layer(torch.tensor([3, 3])).sum().backward()
        >>> optimizer.step()

    References: torch/optim/adagrad.py.
    """

    core = unhot.Adagrad


class RMSprop(Described, torch.optim.RMSprop):
    """`torch.optim.RMSprop`, exact for row-sparse gradients, including `centered` and momentum.

    Args:
        params: parameters, named parameters, or dicts of them with hyperparameters of their own.
        lr: the learning rate. Default: 0.01.
        alpha: the decay of the averages. Default: 0.99.
        eps: what is added to the denominator. Default: 1e-8.
        weight_decay: coupled (L2). Above 0, tables are trained densely. Default: 0.
        momentum: the decay of the momentum. Default: 0.
        centered: whether to divide by the root of the variance instead of the mean square. Default: False.
        capturable: for CUDA graphs, as in torch. Default: False.
        foreach: how dense parameters are stepped, as in torch. Default: None.
        maximize: whether to climb. Default: False.
        differentiable: whether steps can be differentiated. Tables are then trained densely. Default: False.

    Raises: what `torch.optim.RMSprop` raises.

    Example:
        >>> import torch, unhot.torch
        >>> layer = unhot.torch.Embedding(1000, 4)
        >>> optimizer = unhot.torch.RMSprop(layer.parameters(), lr=0.1, centered=True)
        >>> layer(torch.tensor([3, 3])).sum().backward()
        >>> optimizer.step()

    References: torch/optim/rmsprop.py.
    """

    core = unhot.RMSprop


class Adadelta(Described, torch.optim.Adadelta):
    """`torch.optim.Adadelta`, exact for row-sparse gradients.

    Args:
        params: parameters, named parameters, or dicts of them with hyperparameters of their own.
        lr: the learning rate. Default: 1.0.
        rho: the decay of the averages. Default: 0.9.
        eps: what is added to the denominator. Default: 1e-6.
        weight_decay: coupled (L2). Above 0, tables are trained densely. Default: 0.
        foreach: how dense parameters are stepped, as in torch. Default: None.
        capturable: for CUDA graphs, as in torch. Default: False.
        maximize: whether to climb. Default: False.
        differentiable: whether steps can be differentiated. Tables are then trained densely. Default: False.

    Raises: what `torch.optim.Adadelta` raises.

    Example:
        >>> import torch, unhot.torch
        >>> layer = unhot.torch.Embedding(1000, 4)
        >>> optimizer = unhot.torch.Adadelta(layer.parameters(), lr=0.1)
        >>> layer(torch.tensor([3, 3])).sum().backward()
        >>> optimizer.step()

    References: torch/optim/adadelta.py.
    """

    core = unhot.Adadelta


class Adam(Described, torch.optim.Adam):
    """`torch.optim.Adam`, exact for row-sparse gradients, including AMSGrad.

    Args:
        params: parameters, named parameters, or dicts of them with hyperparameters of their own.
        lr: the learning rate. Default: 0.001.
        betas: the decays of the two averages. Default: (0.9, 0.999).
        eps: what is added to the denominator. Default: 1e-8.
        weight_decay: coupled (L2), unless it is decoupled. A coupled one above 0 trains tables densely. Default: 0.
        amsgrad: whether to divide by the root of the largest second moment so far. Default: False.
        foreach: how dense parameters are stepped, as in torch. Default: None.
        maximize: whether to climb. Default: False.
        capturable: for CUDA graphs, as in torch. Default: False.
        differentiable: whether steps can be differentiated. Tables are then trained densely. Default: False.
        fused: how dense parameters are stepped, as in torch. Default: None.
        decoupled_weight_decay: whether the decay is decoupled. Default: False.

    Raises: what `torch.optim.Adam` raises.

    Example:
        >>> import torch, unhot.torch
        >>> layer = unhot.torch.Embedding(1000, 4)
        >>> optimizer = unhot.torch.Adam(layer.parameters(), lr=0.1)
        >>> layer(torch.tensor([3, 3])).sum().backward()
        >>> optimizer.step()

    References: torch/optim/adam.py.
    """

    core = unhot.Adam


class AdamW(Described, torch.optim.AdamW):
    """`torch.optim.AdamW`, exact for row-sparse gradients, including AMSGrad.

    Args:
        params: parameters, named parameters, or dicts of them with hyperparameters of their own.
        lr: the learning rate. Default: 0.001.
        betas: the decays of the two averages. Default: (0.9, 0.999).
        eps: what is added to the denominator. Default: 1e-8.
        weight_decay: decoupled. Default: 0.01.
        amsgrad: whether to divide by the root of the largest second moment so far. Default: False.
        maximize: whether to climb. Default: False.
        foreach: how dense parameters are stepped, as in torch. Default: None.
        capturable: for CUDA graphs, as in torch. Default: False.
        differentiable: whether steps can be differentiated. Tables are then trained densely. Default: False.
        fused: how dense parameters are stepped, as in torch. Default: None.

    Raises: what `torch.optim.AdamW` raises.

    Example:
        >>> import torch, unhot.torch
        >>> layer = unhot.torch.Embedding(1000, 4)
        >>> optimizer = unhot.torch.AdamW(layer.parameters(), lr=0.1, weight_decay=0.01)
        >>> layer(torch.tensor([3, 3])).sum().backward()
        >>> optimizer.step()

    References: torch/optim/adamw.py.
    """

    core = unhot.AdamW


class Adamax(Described, torch.optim.Adamax):
    """`torch.optim.Adamax`, exact for row-sparse gradients.

    Args:
        params: parameters, named parameters, or dicts of them with hyperparameters of their own.
        lr: the learning rate. Default: 0.002.
        betas: the decays of the momentum and of the norm. Above 0.99 times the second, the first trains tables densely.
            Default: (0.9, 0.999).
        eps: what is added to the denominator. Default: 1e-8.
        weight_decay: coupled (L2). Above 0, tables are trained densely. Default: 0.
        foreach: how dense parameters are stepped, as in torch. Default: None.
        maximize: whether to climb. Default: False.
        differentiable: whether steps can be differentiated. Tables are then trained densely. Default: False.
        capturable: for CUDA graphs, as in torch. Default: False.

    Raises: what `torch.optim.Adamax` raises.

    Example:
        >>> import torch, unhot.torch
        >>> layer = unhot.torch.Embedding(1000, 4)
        >>> optimizer = unhot.torch.Adamax(layer.parameters(), lr=0.1)
        >>> layer(torch.tensor([3, 3])).sum().backward()
        >>> optimizer.step()

    References: torch/optim/adamax.py.
    """

    core = unhot.Adamax


class NAdam(Described, torch.optim.NAdam):
    """`torch.optim.NAdam`, exact for row-sparse gradients.

    Args:
        params: parameters, named parameters, or dicts of them with hyperparameters of their own.
        lr: the learning rate. Default: 0.002.
        betas: the decays of the two averages. Default: (0.9, 0.999).
        eps: what is added to the denominator. Default: 1e-8.
        weight_decay: coupled (L2), unless it is decoupled. A coupled one above 0 trains tables densely. Default: 0.
        momentum_decay: how fast the momentum rises to its final value. Default: 0.004.
        decoupled_weight_decay: whether the decay is decoupled. Default: False.
        foreach: how dense parameters are stepped, as in torch. Default: None.
        maximize: whether to climb. Default: False.
        capturable: for CUDA graphs, as in torch. Default: False.
        differentiable: whether steps can be differentiated. Tables are then trained densely. Default: False.

    Raises: what `torch.optim.NAdam` raises.

    Example:
        >>> import torch, unhot.torch
        >>> layer = unhot.torch.Embedding(1000, 4)
        >>> optimizer = unhot.torch.NAdam(layer.parameters(), lr=0.1)
        >>> layer(torch.tensor([3, 3])).sum().backward()
        >>> optimizer.step()

    References: torch/optim/nadam.py.
    """

    core = unhot.NAdam


class RAdam(Described, torch.optim.RAdam):
    """`torch.optim.RAdam`, exact for row-sparse gradients.

    Args:
        params: parameters, named parameters, or dicts of them with hyperparameters of their own.
        lr: the learning rate. Default: 0.001.
        betas: the decays of the two averages. A second one of 2/3 or less trains tables densely. Default: (0.9, 0.999).
        eps: what is added to the denominator. Default: 1e-8.
        weight_decay: coupled (L2), unless it is decoupled. A coupled one above 0 trains tables densely. Default: 0.
        decoupled_weight_decay: whether the decay is decoupled. Default: False.
        foreach: how dense parameters are stepped, as in torch. Default: None.
        maximize: whether to climb. Default: False.
        capturable: for CUDA graphs, as in torch. Default: False.
        differentiable: whether steps can be differentiated. Tables are then trained densely. Default: False.

    Raises: what `torch.optim.RAdam` raises.

    Example:
        >>> import torch, unhot.torch
        >>> layer = unhot.torch.Embedding(1000, 4)
        >>> optimizer = unhot.torch.RAdam(layer.parameters(), lr=0.1)
        >>> layer(torch.tensor([3, 3])).sum().backward()
        >>> optimizer.step()

    References: torch/optim/radam.py.
    """

    core = unhot.RAdam


class LazyAdam(Described, torch.optim.Adam):
    """Not dense training: Adam that leaves rows of tables without a gradient as they are, as `torch.optim.SparseAdam` does.

    All other parameters are trained by `torch.optim.Adam`, so that one optimizer trains a whole model. So is a table whose
    gradient is dense (a tied head, a penalty), in such a step. `unhot.torch.Adam` trains tables as dense training does, also at
    a cost proportional to the rows touched.

    Args:
        params: parameters, named parameters, or dicts of them with hyperparameters of their own.
        lr: the learning rate. Default: 0.001.
        betas: the decays of the two averages. Default: (0.9, 0.999).
        eps: what is added to the root: of tables before the bias correction, as in SparseAdam, of other parameters after it, as
            in Adam. Default: 1e-8.
        maximize: whether to climb. Default: False.

    Raises: what `torch.optim.Adam` raises.

    Example:
        >>> import torch, unhot.torch
        >>> layer = unhot.torch.Embedding(1000, 4)
        >>> optimizer = unhot.torch.LazyAdam(layer.parameters(), lr=0.1)
        >>> layer(torch.tensor([3, 3])).sum().backward()
        >>> optimizer.step()

    References: torch/optim/sparse_adam.py.
    """

    core = unhot.LazyAdam

    def __init__(
        self,
        params: Any,
        lr: float | torch.Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        maximize: bool = False,
    ) -> None:
        super().__init__(params, lr, betas, eps, maximize=maximize)

    def __setstate__(self, state: dict[str, Any]) -> None:
        """As Adam's; also from `torch.optim.SparseAdam`, whose groups have no weight decay."""
        for group in state["param_groups"]:
            group.setdefault("weight_decay", 0.0)
        super().__setstate__(state)


class RowwiseAdagrad(Described, DenseRowwise):
    """Adagrad with one sum for each row of a table, as FBGEMM's EXACT_ROWWISE_ADAGRAD, and exact: rows at rest decay, too.

    A step adds the mean of the squares of a row's gradient to its sum, and divides the gradient by the sum's root plus eps. The
    state of a table is (rows, 1), and takes next to no memory. A table whose gradient is dense is trained in the same way. All
    other parameters are trained by `torch.optim.Adagrad`.

    Args:
        params: parameters, named parameters, or dicts of them with hyperparameters of their own.
        lr: the learning rate. Default: 0.01.
        eps: what is added to the root. Default: 1e-8.
        initial_accumulator_value: what the sums start from. Default: 0.
        weight_decay: decoupled, of all parameters. Default: 0.
        maximize: whether to climb. Default: False.

    Raises: ValueError for a hyperparameter below 0.

    Example:
        >>> import torch, unhot.torch
        >>> layer = unhot.torch.Embedding(1000, 4)
        >>> optimizer = unhot.torch.RowwiseAdagrad(layer.parameters(), lr=0.1)
        >>> layer(torch.tensor([3, 3])).sum().backward()
        >>> optimizer.step()
        >>> optimizer.state_dict()["state"][0]["sum"].shape
        torch.Size([1000, 1])

    References: fbgemm_gpu/split_table_batched_embeddings_ops_training.py; torch/optim/adagrad.py.
    """

    core = unhot.RowwiseAdagrad
