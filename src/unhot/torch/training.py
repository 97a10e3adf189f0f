"""What an optimizer owns of a table parameter: the engine that works on its memory and on the optimizer's slots."""

from __future__ import annotations

import functools
import weakref
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from unhot.engine import Engine, recurrence
from unhot.rules import Optimizer
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
        self._rule: Optimizer | None = None
        self._given: tuple[Any, ...] = ()

    @property
    def owner(self) -> RowSparse | None:
        """The optimizer, or None once it is gone."""
        return self._owner()

    def _weights(self) -> Tensor:
        parameter = self._parameter()
        assert parameter is not None
        with torch._C.DisableTorchFunctionSubclass():
            return parameter.detach()

    # ------------------------------------------------------------------ reading

    def lookup(
        self, ids: Tensor, padding_idx: int, max_norm: float | None, norm_type: float, scale_grad_by_freq: bool
    ) -> Tensor:
        """The settled rows of `ids`, renormed before if so asked, with a row-sparse gradient."""
        weight = self._parameter()
        if max_norm is not None:
            self.settle_rows(ids)
            with torch.no_grad():
                torch.embedding_renorm_(self._weights(), ids.contiguous(), max_norm, norm_type)
        apply: Any = RowLookup.apply
        found: Tensor = apply(weight, ids, padding_idx, scale_grad_by_freq)
        return found

    def read(self, ids: Tensor) -> Tensor:
        """The settled rows of `ids`: ids.shape + (dim,)."""
        weights = self._weights()
        engine, place = self._current(weights), self._place
        flat = checked(place, ids, len(weights))
        out = torch.empty((ids.numel(), weights.size(1)), dtype=weights.dtype, device=weights.device)
        if engine is None:
            place.kernels.gather(place.view(weights), flat, place.view(out))
        else:
            engine.read(flat, place.view(out))
        return out.view(*ids.shape, weights.size(1))

    # ------------------------------------------------------------------ settling

    def settle(self) -> None:
        """Apply all deferred steps."""
        if self.engine is not None:
            self.engine.settle_all()

    def settle_rows(self, ids: Tensor) -> None:
        """Apply the deferred steps of the rows `ids`."""
        if self.engine is not None:
            flat = checked(self._place, ids, len(self.engine.weights))
            self.engine.settle(self.engine.kernels.group(flat).rows)

    def release(self) -> None:
        """Settle, leave all that was trained in torch's state, and let go of it, for something else to write it."""
        self.settle()
        self.engine = None

    def _current(self, weights: Tensor) -> Engine | None:
        """The engine, if it works on the memory that the parameter has now."""
        if self._pointer != weights.data_ptr():
            self.release()
            self._pointer, self._place = weights.data_ptr(), placement(weights)
        return self.engine

    def _export(self, state: Mapping[str, Any]) -> None:
        """Bring the numbers of `state` that are no slots up to date."""
        if self.engine is None or self.engine.rule is None:
            return
        if "step" in state:
            state["step"].fill_(self.engine.clock)
        if "mu_product" in state:
            state["mu_product"].fill_(self.engine.rule.state()["momentum_product"])

    # ------------------------------------------------------------------ training

    def prepare(self, group: Mapping[str, Any]) -> None:
        """Bring the rule's hyperparameters up to those of the group, or raise the error that they make."""
        owner = self.owner
        assert owner is not None
        given = owner.hyperparameters(group)
        if self._rule is None:
            self._rule = owner.rule(**given)
        elif tuple(given.values()) != self._given:
            for name, value in given.items():
                setattr(self._rule, name, value)
            self._rule.check()
        self._given = tuple(given.values())

    def step(self, group: Mapping[str, Any], state: dict[str, Any], gradient: Tensor) -> None:
        """Make one step whose gradient is row-sparse."""
        weights, owner = self._weights(), self.owner
        assert owner is not None
        assert self._rule is not None
        engine = self._current(weights)
        if engine is None:
            engine = self.engine = self._bound(weights, owner, state)
        ids = checked(self._place, gradient._indices()[0], len(weights))
        values = gradient._values()
        if group["maximize"]:
            values = -values
        engine.step(ids, self._place.view(values.detach().contiguous()), engine.follow(self._rule))
        self._export(state)
        torch.autograd.graph.increment_version(weights)

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
                state[theirs] = torch.full_like(weights, start)
            else:
                state[theirs] = state[theirs].to(weights).contiguous()
            slots.append(self._place.view(state[theirs]))
        for name in owner.counters:
            state.setdefault(name, torch.tensor(1.0 if name == "mu_product" else 0.0))
        engine = Engine(self._place.view(weights), None, self._place.kernels)
        engine.adopt(engine.weights, slots, int(state.get("step", 0)), snapshot, rule)
        return engine


def checked(place: Placement, ids: Tensor, rows: int) -> Any:
    """The ids as the kernels take them; errors as torch's for their dtype, and an IndexError for one out of range."""
    if ids.dtype not in (torch.int64, torch.int32):
        raise RuntimeError(
            "Expected tensor for argument #1 'indices' to have one of the following scalar types: Long, Int; but got"
            f" {ids.dtype} instead."
        )
    return place.flat(ids.detach(), rows)


@functools.cache
def _hide_from_compiler() -> None:
    """Let `torch.compile` break its graph at what reads and settles rows, which it cannot trace.

    Not at import, since `torch.compiler.disable` imports half of the compiler; an optimizer, which comes first, has done so.
    """
    disable: Any = torch.compiler.disable
    for name in ("lookup", "settle", "settle_rows", "release"):
        hidden: Any = disable(getattr(RowTraining, name), reason="unhot reads and settles rows outside graphs")
        setattr(RowTraining, name, hidden)
