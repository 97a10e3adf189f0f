"""The optimizers of `torch.optim`: dense gradients go through torch's own code, row-sparse ones of tables through unhot."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch._C import DisableTorchFunctionSubclass
from torch.optim import optimizer as torch_optimizer

import unhot
from unhot.rules import Optimizer
from unhot.torch.lookup import DTYPES
from unhot.torch.parameter import TableParameter
from unhot.torch.training import RowTraining


class RowSparse(torch.optim.Optimizer):
    """What the optimizers here add to torch's: it owns the table parameters it is given, and steps their rows."""

    rule: ClassVar[Callable[..., Optimizer]]
    """The rule of the same name, in PyTorch's convention."""

    slots: ClassVar[Mapping[str, str]]
    """The rule's slots by the names they have in torch's state."""

    counters: ClassVar[tuple[str, ...]] = ("step",)
    """What torch's state holds beside the slots."""

    def hyperparameters(self, group: Mapping[str, Any]) -> dict[str, Any]:
        """Those of the rule, from a parameter group."""
        raise NotImplementedError

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        super().add_param_group(param_group)
        for parameter in self.param_groups[-1]["params"]:
            if isinstance(parameter, TableParameter) and parameter.dtype in DTYPES:
                self._own(parameter)

    def _own(self, parameter: TableParameter) -> None:
        known = parameter.training
        if known is not None and known.owner not in (None, self):
            raise ValueError(
                "this table is trained by another optimizer already, which may have deferred steps of its rows. Train it with"
                f" one, or delete the other first. Received: a second {type(self).__name__}."
            )
        if known is not None:
            known.settle()
        parameter.training = RowTraining(parameter, self)

    def step(self, closure: Any = None) -> Any:
        """One step; as torch's, with `closure` called with gradients enabled."""
        if closure is None and not _observed(self):
            return self._step_with(None)
        return _step_observed(self, closure)

    # Torch wraps every `step` that does not say so into one that runs hooks and informs profilers, which costs as much as
    # a step of few rows even where there are none.
    step.hooked = True  # type: ignore[attr-defined]

    def _step_with(self, closure: Any) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        with DisableTorchFunctionSubclass():  # which would send each look at a table's `grad` through Python
            self._step()
        return loss

    def _step(self) -> None:
        rows, dense = self._gradients()
        for group, parameter, _ in rows:
            training_of(parameter).prepare(group, self.state[parameter])  # an error must leave everything as it was
        for tensor in dense:
            if isinstance(tensor, TableParameter) and tensor.training is not None:
                tensor.training.release()
        if dense:
            for _, parameter, _ in rows:
                parameter.grad = None
            try:
                _torch_step(self)
            finally:
                for _, parameter, gradient in rows:
                    parameter.grad = gradient
        for group, parameter, gradient in rows:
            training_of(parameter).step(gradient, group["maximize"])

    def _gradients(self) -> tuple[list[tuple[Any, TableParameter, Tensor]], list[Tensor]]:
        """The owned tables with a row-sparse gradient, and the parameters with another one."""
        rows: list[tuple[Any, TableParameter, Tensor]] = []
        dense: list[Tensor] = []
        for group in self.param_groups:
            for parameter in group["params"]:
                gradient = parameter.grad
                if gradient is None:
                    continue
                if gradient.is_sparse and isinstance(parameter, TableParameter) and parameter.training is not None:
                    rows.append((group, parameter, gradient))
                else:
                    dense.append(parameter)
        return rows, dense

    def zero_grad(self, set_to_none: bool = True) -> None:
        """As torch's."""
        with DisableTorchFunctionSubclass():
            if not set_to_none:
                super().zero_grad(set_to_none)
                return
            for group in self.param_groups:
                for parameter in group["params"]:
                    parameter.grad = None

    def _settle(self) -> None:
        """Bring weights and state of all tables to what torch's optimizer would hold."""
        with DisableTorchFunctionSubclass():
            for parameter in self._tables():
                training_of(parameter).export(self.state.get(parameter, {}))

    def _tables(self) -> list[TableParameter]:
        found = (parameter for group in self.param_groups for parameter in group["params"])
        return [parameter for parameter in found if isinstance(parameter, TableParameter) and parameter.training is not None]

    def state_dict(self) -> dict[str, Any]:
        """As torch's, with all rows settled: it loads into torch's own optimizer, which goes on as this would."""
        self._settle()
        return super().state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As torch's; also from torch's own optimizer."""
        for table in self._tables():
            training_of(table).release()
        super().load_state_dict(state_dict)

    def __getstate__(self) -> dict[str, Any]:
        self._settle()
        state: dict[str, Any] = super().__getstate__()
        return state


def training_of(parameter: TableParameter) -> RowTraining:
    """What trains the rows of an owned table."""
    assert parameter.training is not None
    return parameter.training


_step_observed = torch.optim.Optimizer.profile_hook_step(RowSparse._step_with)


def _observed(optimizer: RowSparse) -> bool:
    """Whether a hook or a profiler wants to know of steps."""
    everywhere = (torch_optimizer._global_optimizer_pre_hooks, torch_optimizer._global_optimizer_post_hooks)
    own = (optimizer._optimizer_step_pre_hooks, optimizer._optimizer_step_post_hooks)
    profiled: bool = torch._C._autograd._profiler_enabled()
    return profiled or any(own) or any(everywhere)


def _torch_step(optimizer: RowSparse) -> None:
    """Torch's own step, without the hooks, which run around ours."""
    order = type(optimizer).__mro__
    step: Any = order[order.index(RowSparse) + 1].step  # type: ignore[attr-defined]
    while getattr(step, "hooked", False):
        step = step.__wrapped__
    step(optimizer)


class SGD(RowSparse, torch.optim.SGD):
    """`torch.optim.SGD`, with momentum, Nesterov, dampening and weight decay; exact for row-sparse gradients.

    Args: those of `torch.optim.SGD`.

    Errors: those of `torch.optim.SGD`; ValueError for a table that another optimizer owns.

    Example:
        >>> import torch, unhot.torch
        >>> layer = unhot.torch.Embedding(1000, 4)
        >>> optimizer = unhot.torch.SGD(layer.parameters(), lr=0.1, momentum=0.9)
        >>> layer(torch.tensor([3, 3])).sum().backward()
        >>> optimizer.step()

    Source: torch/optim/sgd.py.
    """

    rule = unhot.SGD
    slots = {"momentum": "momentum_buffer"}
    counters = ()

    def hyperparameters(self, group: Mapping[str, Any]) -> dict[str, Any]:
        return {
            "learning_rate": float(group["lr"]), "momentum": group["momentum"], "nesterov": group["nesterov"],
            "dampening": group["dampening"], "weight_decay": float(group["weight_decay"]), "convention": "torch",
        }  # fmt: skip


class Adagrad(RowSparse, torch.optim.Adagrad):
    """`torch.optim.Adagrad`; exact for row-sparse gradients.

    Args: those of `torch.optim.Adagrad`.

    Errors: those of `torch.optim.Adagrad`; ValueError for a table that another optimizer owns, and, before anything is changed,
    for a coupled weight decay when a row-sparse gradient meets it.

    Example:
        >>> import torch, unhot.torch
        >>> layer = unhot.torch.Embedding(1000, 4)
        >>> optimizer = unhot.torch.Adagrad(layer.parameters(), lr=0.1)
        >>> layer(torch.tensor([3, 3])).sum().backward()
        >>> optimizer.step()

    Source: torch/optim/adagrad.py.
    """

    rule = unhot.Adagrad
    slots = {"sum": "sum"}

    def hyperparameters(self, group: Mapping[str, Any]) -> dict[str, Any]:
        return {
            "learning_rate": float(group["lr"]), "lr_decay": group["lr_decay"], "epsilon": group["eps"],
            "weight_decay": float(group["weight_decay"]), "convention": "torch",
        }  # fmt: skip


class RMSprop(RowSparse, torch.optim.RMSprop):
    """`torch.optim.RMSprop`, centered and with momentum too; exact for row-sparse gradients.

    Args: those of `torch.optim.RMSprop`.

    Errors: those of `torch.optim.RMSprop`; ValueError for a table that another optimizer owns, and, before anything is changed,
    for a coupled weight decay when a row-sparse gradient meets it.

    Example:
        >>> import torch, unhot.torch
        >>> layer = unhot.torch.Embedding(1000, 4)
        >>> optimizer = unhot.torch.RMSprop(layer.parameters(), lr=0.1, centered=True)
        >>> layer(torch.tensor([3, 3])).sum().backward()
        >>> optimizer.step()

    Source: torch/optim/rmsprop.py.
    """

    rule = unhot.RMSprop
    slots = {"velocity": "square_avg", "momentum": "momentum_buffer", "average_gradient": "grad_avg"}

    def hyperparameters(self, group: Mapping[str, Any]) -> dict[str, Any]:
        return {
            "learning_rate": float(group["lr"]), "rho": group["alpha"], "epsilon": group["eps"],
            "momentum": group["momentum"], "centered": group["centered"], "weight_decay": float(group["weight_decay"]),
            "convention": "torch",
        }  # fmt: skip


class Adadelta(RowSparse, torch.optim.Adadelta):
    """`torch.optim.Adadelta`; exact for row-sparse gradients.

    Args: those of `torch.optim.Adadelta`.

    Errors: those of `torch.optim.Adadelta`; ValueError for a table that another optimizer owns, and, before anything is
    changed, for a coupled weight decay when a row-sparse gradient meets it.

    Example:
        >>> import torch, unhot.torch
        >>> layer = unhot.torch.Embedding(1000, 4)
        >>> optimizer = unhot.torch.Adadelta(layer.parameters(), lr=0.1)
        >>> layer(torch.tensor([3, 3])).sum().backward()
        >>> optimizer.step()

    Source: torch/optim/adadelta.py.
    """

    rule = unhot.Adadelta
    slots = {"velocity": "square_avg", "delta": "acc_delta"}

    def hyperparameters(self, group: Mapping[str, Any]) -> dict[str, Any]:
        return {
            "learning_rate": float(group["lr"]), "rho": group["rho"], "epsilon": group["eps"],
            "weight_decay": float(group["weight_decay"]), "convention": "torch",
        }  # fmt: skip


def _moments(group: Mapping[str, Any]) -> dict[str, Any]:
    beta_1, beta_2 = group["betas"]
    return {
        "learning_rate": float(group["lr"]), "beta_1": float(beta_1), "beta_2": float(beta_2), "epsilon": group["eps"],
        "weight_decay": float(group["weight_decay"]), "convention": "torch",
    }  # fmt: skip


class Adam(RowSparse, torch.optim.Adam):
    """`torch.optim.Adam`, AMSGrad too; exact for row-sparse gradients.

    Args: those of `torch.optim.Adam`.

    Errors: those of `torch.optim.Adam`; ValueError for a table that another optimizer owns, and, before anything is changed,
    for a coupled weight decay when a row-sparse gradient meets it.

    Example:
        >>> import torch, unhot.torch
        >>> layer = unhot.torch.Embedding(1000, 4)
        >>> optimizer = unhot.torch.Adam(layer.parameters(), lr=0.1)
        >>> layer(torch.tensor([3, 3])).sum().backward()
        >>> optimizer.step()

    Source: torch/optim/adam.py.
    """

    rule = unhot.Adam
    slots = {"momentum": "exp_avg", "velocity": "exp_avg_sq", "largest_velocity": "max_exp_avg_sq"}

    def hyperparameters(self, group: Mapping[str, Any]) -> dict[str, Any]:
        decoupled = group.get("decoupled_weight_decay", False)
        return {**_moments(group), "amsgrad": group["amsgrad"], "decoupled_weight_decay": decoupled}


class AdamW(RowSparse, torch.optim.AdamW):
    """`torch.optim.AdamW`, AMSGrad too; exact for row-sparse gradients.

    Args: those of `torch.optim.AdamW`.

    Errors: those of `torch.optim.AdamW`; ValueError for a table that another optimizer owns.

    Example:
        >>> import torch, unhot.torch
        >>> layer = unhot.torch.Embedding(1000, 4)
        >>> optimizer = unhot.torch.AdamW(layer.parameters(), lr=0.1, weight_decay=0.01)
        >>> layer(torch.tensor([3, 3])).sum().backward()
        >>> optimizer.step()

    Source: torch/optim/adamw.py.
    """

    rule = unhot.AdamW
    slots = Adam.slots

    def hyperparameters(self, group: Mapping[str, Any]) -> dict[str, Any]:
        return {**_moments(group), "amsgrad": group["amsgrad"]}


class Adamax(RowSparse, torch.optim.Adamax):
    """`torch.optim.Adamax`; exact for row-sparse gradients.

    Args: those of `torch.optim.Adamax`.

    Errors: those of `torch.optim.Adamax`; ValueError for a table that another optimizer owns, and, before anything is changed,
    for a coupled weight decay when a row-sparse gradient meets it.

    Example:
        >>> import torch, unhot.torch
        >>> layer = unhot.torch.Embedding(1000, 4)
        >>> optimizer = unhot.torch.Adamax(layer.parameters(), lr=0.1)
        >>> layer(torch.tensor([3, 3])).sum().backward()
        >>> optimizer.step()

    Source: torch/optim/adamax.py.
    """

    rule = unhot.Adamax
    slots = {"momentum": "exp_avg", "norm": "exp_inf"}

    def hyperparameters(self, group: Mapping[str, Any]) -> dict[str, Any]:
        return _moments(group)


class NAdam(RowSparse, torch.optim.NAdam):
    """`torch.optim.NAdam`; exact for row-sparse gradients.

    Args: those of `torch.optim.NAdam`.

    Errors: those of `torch.optim.NAdam`; ValueError for a table that another optimizer owns, and, before anything is changed,
    for a coupled weight decay when a row-sparse gradient meets it.

    Example:
        >>> import torch, unhot.torch
        >>> layer = unhot.torch.Embedding(1000, 4)
        >>> optimizer = unhot.torch.NAdam(layer.parameters(), lr=0.1)
        >>> layer(torch.tensor([3, 3])).sum().backward()
        >>> optimizer.step()

    Source: torch/optim/nadam.py.
    """

    rule = unhot.NAdam
    slots = {"momentum": "exp_avg", "velocity": "exp_avg_sq"}
    counters = ("step", "mu_product")

    def hyperparameters(self, group: Mapping[str, Any]) -> dict[str, Any]:
        decoupled = group["decoupled_weight_decay"]
        return {**_moments(group), "momentum_decay": group["momentum_decay"], "decoupled_weight_decay": decoupled}
