"""What an optimizer owns of a table parameter: the engine that works on its memory and on the optimizer's slots."""

from __future__ import annotations

import functools
import weakref
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch._C import DisableTorchFunctionSubclass

from unhot.engine import Engine, recurrence
from unhot.rules import Hyper, Optimizer
from unhot.torch.lookup import RowLookup
from unhot.torch.placement import Placement, placement

if TYPE_CHECKING:
    from unhot.torch.optim import RowSparse
    from unhot.torch.parameter import TableParameter


class RowTraining:
    """The tie between a table parameter and the one optimizer that owns it.

    The engine exists from the first row-sparse step on, until something else writes weights or slots: a dense step, a
    loaded state, a parameter moved elsewhere.  It is then made anew from what torch holds.
    """

    def __init__(self, parameter: TableParameter, owner: RowSparse) -> None:
        _hide_from_compiler()
        self._parameter = weakref.ref(parameter)
        self._owner = weakref.ref(owner)
        self.engine: Engine | None = None
        self._pointer = -1  # no tensor's, also not that of one without elements
        self._place: Placement
        self._weights: Tensor
        self._rule: Optimizer | None = None
        self._given: dict[str, Any] = {}
        self._hyper: Hyper

    @property
    def owner(self) -> RowSparse | None:
        """The optimizer, or None once it is gone."""
        return self._owner()

    def _current(self) -> Engine | None:
        """The engine, if there is one that works on the memory that the parameter has now.

        To be called where torch functions of subclasses are disabled, or a look at the parameter would settle it.
        """
        parameter = self._parameter()
        assert parameter is not None
        if parameter.data_ptr() != self._pointer:
            self.release()
            self._pointer, self._weights = parameter.data_ptr(), parameter.detach()
            self._place = placement(parameter)
        return self.engine

    # ------------------------------------------------------------------ reading

    def lookup(
        self, ids: Tensor, padding_idx: int, max_norm: float | None, norm_type: float, scale_grad_by_freq: bool
    ) -> Tensor:
        """The settled rows of `ids`, renormed before if so asked, with a row-sparse gradient."""
        if max_norm is not None:
            self.settle_rows(ids)
            with torch.no_grad():
                torch.embedding_renorm_(self._weights, ids.contiguous(), max_norm, norm_type)
        apply: Any = RowLookup.apply
        found: Tensor = apply(self._parameter(), ids, self, padding_idx, scale_grad_by_freq)
        return found

    def lookup_outside_graph(self, *arguments: Any) -> Tensor:
        """`lookup`, where `torch.compile` traces."""
        with DisableTorchFunctionSubclass():
            return self.lookup(*arguments)

    def read(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """The ids as a flat copy, whatever becomes of the given ones, and their settled rows: ids.shape + (dim,)."""
        engine = self._current()
        place, weights = self._place, self._weights
        rows, dim = weights.shape
        require_indices(ids)
        own, flat = place.copied(ids)
        place.require_rows(flat, rows, ids.shape)
        out = weights.new_empty((len(flat), dim))
        if engine is None:
            place.kernels.gather(place.view(weights), flat, place.view(out))
        else:
            engine.read(flat, place.view(out))
        return own, (out if ids.dim() == 1 else out.view(*ids.shape, dim))

    # ------------------------------------------------------------------ settling

    def settle(self) -> None:
        """Apply all deferred steps."""
        if self.engine is not None:
            self.engine.settle_all()

    def settle_rows(self, ids: Tensor) -> None:
        """Apply the deferred steps of the rows `ids`."""
        if self._current() is not None and self.engine is not None:
            require_indices(ids)
            _, flat = self._place.copied(ids)
            self._place.require_rows(flat, len(self.engine.weights), ids.shape)
            self.engine.settle(self.engine.kernels.group(flat).rows)

    def release(self) -> None:
        """Settle, leave all that was trained in torch's state, and let go of it, for something else to write it."""
        parameter, owner = self._parameter(), self.owner
        if parameter is None or owner is None:
            self.settle()
        else:
            with DisableTorchFunctionSubclass():
                self.export(owner.state.get(parameter, {}))
        self.engine = None

    def export(self, state: Mapping[str, Any]) -> None:
        """Settle, and bring the numbers of `state` that are no slots up to date."""
        self.settle()
        if self.engine is None or self.engine.rule is None:
            return
        if "step" in state:
            state["step"].fill_(self.engine.clock)
        if "mu_product" in state:
            state["mu_product"].fill_(self.engine.rule.state()["momentum_product"])

    # ------------------------------------------------------------------ training

    def prepare(self, group: Mapping[str, Any], state: dict[str, Any]) -> None:
        """Get ready for a step with the hyperparameters of the group; what can go wrong goes wrong here."""
        owner = self.owner
        assert owner is not None
        if group.get("differentiable"):
            raise ValueError(
                "a row-sparse step cannot be differentiated. Received: differentiable=True and a row-sparse gradient. Make"
                " the layer with sparse=False, or leave `differentiable` out."
            )
        given = owner.hyperparameters(group)
        if self._rule is None:
            self._rule = owner.rule(**given)
        elif given != self._given:
            for name, value in given.items():
                setattr(self._rule, name, value)
            self._rule.check()
        self._given = given
        if self._current() is None:
            self.engine = self._bound(self._weights, owner, state)
        assert self.engine is not None
        self._hyper = self.engine.follow(self._rule)

    def step(self, gradient: Tensor, maximize: bool) -> None:
        """Make the step that was prepared, whose gradient is row-sparse."""
        engine, place, parameter = self.engine, self._place, self._parameter()
        assert engine is not None
        assert parameter is not None
        indices, values = gradient._indices().view(-1), gradient._values().detach()
        ids = place.view(indices)
        place.require_rows(ids, len(engine.weights), indices.shape)
        engine.step(ids, place.view((-values if maximize else values).contiguous()), self._hyper)
        torch.autograd.graph.increment_version(parameter)

    def _bound(self, weights: Tensor, owner: RowSparse, state: dict[str, Any]) -> Engine:
        """An engine on torch's memory, that goes on from `state`."""
        assert self._rule is not None
        held = {name for name, theirs in owner.slots.items() if isinstance(state.get(theirs), Tensor)}
        snapshot, rule = recurrence(self._rule, np.dtype(str(weights.dtype).removeprefix("torch.")), len(weights), held)
        begun = {"momentum_begun": float("momentum" in held), "largest_beta": 0.0}
        rule.load_state({**begun, "momentum_product": float(state.get("mu_product", 1.0))})
        slots = []
        for name, start in rule.slots.items():
            theirs = owner.slots[name]
            if name not in held:
                state[theirs] = self._place.full(weights, start)
                slots.append(self._place.view(state[theirs]))
            else:
                state[theirs] = state[theirs].to(weights).contiguous()
                slots.append(self._place.take_over(state[theirs]))
        for name in owner.counters:
            state.setdefault(name, torch.tensor(1.0 if name == "mu_product" else 0.0))
        engine = Engine(self._place.take_over(weights), None, self._place.kernels)
        engine.adopt(engine.weights, slots, int(state.get("step", 0)), snapshot, rule)
        return engine


def require_indices(ids: Tensor) -> None:
    """Raise torch's own error for a dtype that is not one of indices."""
    if ids.dtype not in (torch.int64, torch.int32):
        raise RuntimeError(
            "Expected tensor for argument #1 'indices' to have one of the following scalar types: Long, Int; but got"
            f" {ids.dtype} instead."
        )


@functools.cache
def _hide_from_compiler() -> None:
    """Let `torch.compile` break its graph at what reads and settles rows, which it cannot trace.

    Not at import, since `torch.compiler.disable` imports half of the compiler; an optimizer, which comes first, has done so.
    """
    disable: Any = torch.compiler.disable
    for name in ("lookup_outside_graph", "settle", "settle_rows", "release"):
        hidden: Any = disable(getattr(RowTraining, name), reason="unhot reads and settles rows outside graphs")
        setattr(RowTraining, name, hidden)
