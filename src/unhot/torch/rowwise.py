"""RowwiseAdagrad's dense steps, which torch has not: of tables whose gradient is dense, and of all other parameters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from unhot.torch.held_state import require_shape
from unhot.torch.kernels import Namespace
from unhot.torch.parameter import TableParameter
from unhot.torch.placement import counter
from unhot.torch.stepping import unhooked

AS_ADAGRAD: Mapping[str, Any] = {
    "lr_decay": 0, "weight_decay": 0, "foreach": None, "differentiable": False, "fused": None
}  # fmt: skip
"""What `torch.optim.Adagrad` has beside what is here; the decay is made before its step."""


class DenseRowwise(torch.optim.Optimizer):
    """Tables have one sum for each row. All other parameters are trained by `torch.optim.Adagrad`, after a decoupled decay."""

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 1e-2,
        eps: float = 1e-8,
        initial_accumulator_value: float = 0.0,
        weight_decay: float = 0.0,
        maximize: bool = False,
    ) -> None:
        if isinstance(lr, Tensor) and lr.numel() != 1:
            raise ValueError("Tensor lr must be 1-element")
        given = {"lr": lr, "eps": eps, "initial_accumulator_value": initial_accumulator_value, "weight_decay": weight_decay}
        for name, value in given.items():
            if not value >= 0.0:
                raise ValueError(f"Invalid {name} value: {value}")
        super().__init__(params, {**given, "maximize": maximize})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """A step of all parameters that have a gradient; `RowOptimizer` has called the closure."""
        others = []
        for group in self.param_groups:
            ready = [parameter for parameter in group["params"] if parameter.grad is not None]
            plain = [parameter for parameter in ready if not self._is_table(parameter)]
            for table in ready:
                if self._is_table(table):
                    self._step_table(table, group)
            if plain:
                others.append({**group, **AS_ADAGRAD, "params": plain})
                for parameter in plain:
                    decay(parameter, group)
        if others:
            self._step_others(others)

    def _is_table(self, parameter: Tensor) -> bool:
        """Whether a parameter is a table, or was one when it was trained before (`convert` makes plain parameters of some)."""
        held = self.state[parameter].get("sum")
        return isinstance(parameter, TableParameter) or (held is not None and held.shape == (len(parameter), 1))

    def _step_table(self, table: Tensor, group: Mapping[str, Any]) -> None:
        state, gradient, shape = self.state[table], table.grad, (len(table), 1)
        assert gradient is not None
        if "sum" not in state:
            state["sum"] = table.new_full(shape, group["initial_accumulator_value"])
        if "step" not in state:
            state["step"] = counter(0.0, table, group)
        require_shape("sum", state["sum"], shape)
        wide = torch.promote_types(table.dtype, torch.float32)  # half of a precision has no such small eps
        gradient = (gradient.to_dense() if gradient.is_sparse else gradient).to(wide)
        decay(table, group)
        state["step"] += 1
        state["sum"] += Namespace.mean_square(gradient)
        rate = group["lr"] if group["maximize"] else -group["lr"]
        table += rate * (gradient / (state["sum"].to(wide).sqrt() + group["eps"]))

    def _step_others(self, groups: list[dict[str, Any]]) -> None:
        for group in groups:
            new = [parameter for parameter in group["params"] if not self.state[parameter]]
            if new:
                start = group["initial_accumulator_value"]
                self.state.update(torch.optim.Adagrad(new, initial_accumulator_value=start).state)
        made = object.__new__(torch.optim.Adagrad)  # with the same state, and without one of its own for the tables
        made.__dict__.update(self.__dict__, param_groups=groups, defaults={**self.defaults, **AS_ADAGRAD})
        unhooked(torch.optim.Adagrad.step)(made)


def decay(parameter: Tensor, group: Mapping[str, Any]) -> None:
    """Decoupled weight decay."""
    if group["weight_decay"]:
        parameter *= 1 - group["lr"] * group["weight_decay"]
