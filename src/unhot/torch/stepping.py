"""What the optimizers add to torch's: dense gradients go through torch's own code, row-sparse ones of tables through unhot."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.optim import optimizer as torch_optimizer

from unhot.atomic import Lock
from unhot.rules import Optimizer
from unhot.torch._private import without_torch_functions
from unhot.torch.gradient import RowGradient
from unhot.torch.lookup import DTYPES, RowLookup
from unhot.torch.parameter import TableParameter
from unhot.torch.training import RowTraining, hide_from_compiler


class RowSparse(torch.optim.Optimizer):
    """What the optimizers here add to torch's: it owns the table parameters it is given, and steps their rows."""

    rule: ClassVar[Callable[..., Optimizer]]
    """The rule of the same name, in PyTorch's convention."""

    slots: ClassVar[Mapping[str, str]]
    """The rule's slots by the names they have in torch's state."""

    counters: ClassVar[tuple[str, ...]] = ("step",)
    """What torch's state holds beside the slots."""

    _unscales = False
    """What torch's constructor has said of the step that it chose."""

    lock: Lock | None = None
    """Held by steps, and by whatever reads or settles a table, if there are tables: other threads may read while one trains."""

    def hyperparameters(self, group: Mapping[str, Any]) -> dict[str, Any]:
        """Those of the rule, from a parameter group."""
        raise NotImplementedError

    @property
    def _step_supports_amp_scaling(self) -> bool:
        """Whether `GradScaler` leaves it to the step to unscale gradients, as torch's fused steps do: not those of tables."""
        return self._unscales and not self._tables()

    @_step_supports_amp_scaling.setter
    def _step_supports_amp_scaling(self, given: bool) -> None:
        self._unscales = given

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        super().add_param_group(param_group)
        tables = tables_of(self.param_groups[-1])
        if any(table.training is not None and table.training.owner not in (None, self) for table in tables):
            del self.param_groups[-1]
            raise ValueError(
                "this table is trained by another optimizer already, which may have deferred steps of its rows. Train it with"
                f" one, or delete the other first. Received: a second {type(self).__name__}."
            )
        for table in tables:
            self._own(table)

    def _own(self, table: TableParameter) -> None:
        if table.dtype not in DTYPES:
            return
        if self.lock is None:
            self.lock = Lock()
            hide_from_compiler(RowSparse, "_step_outside_graph", "_zero_grad_outside_graph")
            hide_from_compiler(RowLookup, "_gradient")
            hide_from_compiler(RowGradient, "_called")
        if table.training is not None:
            table.training.release()
        table.training = RowTraining(table, self)

    def step(self, closure: Any = None) -> Any:
        """One step; as torch's, with `closure` called with gradients enabled."""
        if torch.compiler.is_compiling():
            return self._step_outside_graph(closure)
        if closure is None and not _observed(self):
            return self._step_with()
        return _observed_step(self, closure)

    def _step_outside_graph(self, closure: Any) -> Any:
        return _observed_step(self, closure)

    # Torch wraps every `step` that does not say so into one that runs hooks and informs profilers, which costs as much as
    # a step of few rows even where there are none.
    step.hooked = True  # type: ignore[attr-defined]

    def _step_with(self, closure: Any = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        step = partial(without_torch_functions, self._step)  # or each look at a table's `grad` would go through Python
        if self.lock is None:
            step()
        else:
            self.lock.holding(step)
        return loss

    def _step(self) -> None:
        rows, dense = self._gradients()
        for group, parameter, _ in rows:
            training_of(parameter).prepare(group, self.state[parameter])  # an error must leave everything as it was
        for tensor in dense:
            if isinstance(tensor, TableParameter) and tensor.training is not None:
                tensor.training.release()
        if dense:
            _torch_step(self._of_dense(dense) if rows else self)
        for group, parameter, gradient in rows:
            training_of(parameter).step(gradient, group["maximize"])

    def _of_dense(self, dense: list[Tensor]) -> RowSparse:
        """This optimizer as it would be with these parameters alone: the same state, the same hyperparameters."""
        kept = {id(parameter) for parameter in dense}
        partner = object.__new__(type(self))
        partner.__dict__.update(self.__dict__)
        partner.param_groups = [
            {**group, "params": [parameter for parameter in group["params"] if id(parameter) in kept]}
            for group in self.param_groups
        ]
        return partner

    def _gradients(self) -> tuple[list[tuple[Any, TableParameter, Tensor]], list[Tensor]]:
        """The owned tables with a row-sparse gradient, and the parameters with another one."""
        rows: list[tuple[Any, TableParameter, Tensor]] = []
        dense: list[Tensor] = []
        for group in self.param_groups:
            for parameter in group["params"]:
                gradient = parameter.grad
                if gradient is None:
                    continue
                owned = isinstance(parameter, TableParameter) and parameter.training is not None
                if owned and is_by_rows(gradient):
                    _require_owner(self, parameter)
                    rows.append((group, parameter, gradient))
                    continue
                if isinstance(gradient, RowGradient):
                    parameter.grad = gradient.content.write("a step")  # which torch's code reads without a detour
                dense.append(parameter)
        return rows, dense

    def zero_grad(self, set_to_none: bool = True) -> None:
        """As torch's."""
        if torch.compiler.is_compiling():
            self._zero_grad_outside_graph(set_to_none)
            return
        without_torch_functions(self._zero_grad, set_to_none)

    def _zero_grad(self, set_to_none: bool) -> None:
        if not set_to_none:
            super().zero_grad(set_to_none)
            return
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.grad = None

    def _zero_grad_outside_graph(self, set_to_none: bool) -> None:
        """A graph that looks into an optimizer takes its tables for plain tensors, and their rows for settled."""
        self.zero_grad(set_to_none)

    def _settle(self) -> None:
        """Bring weights and state of all tables to what torch's optimizer would hold."""
        without_torch_functions(self._export)

    def _export(self) -> None:
        for parameter in self._tables():
            training_of(parameter).require_intact()
        for parameter in self._tables():
            training_of(parameter).export(self.state.get(parameter, {}))

    def _tables(self) -> list[TableParameter]:
        return [table for group in self.param_groups for table in tables_of(group) if table.training is not None]

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

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        for group in self.param_groups:  # of a copy, that tables copied with it have yet to know
            for table in tables_of(group):
                if table.training is None:
                    self._own(table)


def tables_of(group: Mapping[str, Any]) -> list[TableParameter]:
    """The table parameters of a group."""
    return [parameter for parameter in group["params"] if isinstance(parameter, TableParameter)]


def training_of(parameter: TableParameter) -> RowTraining:
    """What trains the rows of an owned table."""
    assert parameter.training is not None
    return parameter.training


def is_by_rows(gradient: Tensor) -> bool:
    """Whether a gradient says what the rows are that have one."""
    if isinstance(gradient, RowGradient):
        return gradient.ids is not None
    return gradient.is_sparse and gradient.sparse_dim() == 1


def _require_owner(optimizer: RowSparse, table: TableParameter) -> None:
    """Refuse a row-sparse gradient of a table that became one, and another optimizer's, after this one was made."""
    owner = training_of(table).owner
    if owner is not optimizer:
        raise ValueError(
            "this table is trained by another optimizer, which may have deferred steps of its rows. Make optimizers after"
            f" `unhot.torch.convert`, and one for each table. Received: a step of a {type(optimizer).__name__}; the table is"
            f" a {type(owner).__name__}'s."
        )


_step_observed = torch.optim.Optimizer.profile_hook_step(RowSparse._step_with)


def _observed_step(optimizer: RowSparse, closure: Any) -> Any:
    """A step with what watches it: hooks are told what `step` was given."""
    return _step_observed(optimizer) if closure is None else _step_observed(optimizer, closure)


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
