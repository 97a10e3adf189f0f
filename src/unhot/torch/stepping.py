"""What the optimizers add to torch's: dense gradients go through torch's own code, row-sparse ones of tables through unhot."""

from __future__ import annotations

import copy
import weakref
from collections.abc import Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, cast

import numpy as np
import torch
from torch import Tensor

from unhot.atomic import Lock
from unhot.optimizers import Optimizer
from unhot.torch import clocks
from unhot.torch._private import is_watched, without_torch_functions
from unhot.torch.backend import DTYPES, TorchBackend, hide_from_compiler, why_dense
from unhot.torch.clocks import Ready, Step
from unhot.torch.collection_lookup import CollectionLookup
from unhot.torch.gradient import RowGradient
from unhot.torch.gradient_content import OtherShards
from unhot.torch.held_state import slots_in
from unhot.torch.lookup import ASKED_FOR, BagLookup, RowLookup
from unhot.torch.parameter import TableParameter, become_table, made_plain
from unhot.training import Ownership, warn_of_dense_training

# Not a subclass of torch's, or libraries that list all optimizers would find ours beside torch's of the same names.
Base: Any = torch.optim.Optimizer if TYPE_CHECKING else object

AS_A_WHOLE = (
    "its gradient is dense, since something uses all of its rows (a tied head, a penalty), or a hook made a dense one. If the"
    " cost matters, leave that out"
)


class RowOptimizer(Base):  # type: ignore[misc]
    """What the optimizers here add to torch's: it owns the table parameters it is given, and steps their rows."""

    core: ClassVar[type[Optimizer]]
    """The core's optimizer of the same name, in PyTorch's convention."""

    slots: ClassVar[Mapping[str, str]]
    """The optimizer's slots by the names they have in torch's state."""

    counters: ClassVar[tuple[str, ...]] = ("step",)
    """What torch's state holds beside the slots."""

    param_groups: list[dict[str, Any]]

    _unscales = False
    """What torch's constructor has said of the step that it chose."""

    _in_torchs_code = False
    """Whether this is a partner that makes torch's own step."""

    lock: Lock | None = None
    """Held by steps, and by whatever reads or settles a table, if there are tables: other threads may read while one trains."""

    def hyperparameters(self, group: Mapping[str, Any]) -> dict[str, Any]:
        """Those of the core's optimizer, from a parameter group."""
        raise NotImplementedError

    @property
    def _step_supports_amp_scaling(self) -> bool:
        """Whether `GradScaler` leaves it to the step to unscale gradients, as torch's fused steps do: not those of tables."""
        return self._unscales and self.lock is None

    @_step_supports_amp_scaling.setter
    def _step_supports_amp_scaling(self, given: bool) -> None:
        self._unscales = given

    # ------------------------------------------------------------------ ownership

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """As torch's; the tables of the group are trained by this optimizer from now on."""
        super().add_param_group(param_group)
        for table in tables_of(self.param_groups[-1]):
            self.own(table)

    def own(self, table: TableParameter) -> Ownership[TorchBackend] | None:
        """The tie to a table, which is taken over from another owner. None if its rows cannot be trained apart at all."""
        held = table.ownership
        if held is not None and held.owner is self:
            return held
        if table.dtype not in DTYPES:
            return None
        if self.lock is None:
            self.lock = Lock()
            hide_from_compiler(RowOptimizer, "_step_outside_graph", "_zero_grad_outside_graph")
            hide_from_compiler(RowLookup, "_gradient")
            hide_from_compiler(BagLookup, "_gradient")
            hide_from_compiler(CollectionLookup, "_gradients")
            hide_from_compiler(RowGradient, "_called")
        ties: dict[int, Ownership[TorchBackend]] = self.__dict__.setdefault("_ties", {})
        tie = ties.get(id(table))
        if tie is None or tie.table is not table:
            self._forget_old_tables(ties)
            backend = TorchBackend(self, self.lock)
            tie = Ownership(table, self, backend)
            backend.tie = weakref.ref(tie)
            ties[id(table)] = tie
        tie.regain()
        return tie

    def _forget_old_tables(self, ties: dict[int, Ownership[TorchBackend]]) -> None:
        """Let go of tables that are no longer among the parameters, and of which there is no state."""
        kept = {id(parameter) for group in self.param_groups for parameter in group["params"]} | set(map(id, self.held_state))
        for key in [key for key in ties if key not in kept]:
            ties.pop(key).release()

    def _owned(self) -> list[Ownership[TorchBackend]]:
        """The ties to the tables that this optimizer holds now."""
        self._take_back()
        ties: dict[int, Ownership[TorchBackend]] = self.__dict__.get("_ties", {})
        return [tie for tie in ties.values() if tie.holds]

    def _take_back(self) -> None:
        """Own the tables of which torch has exchanged class and attributes (`torch.utils.swap_tensors`).

        Tables of which `convert` has made plain parameters are left to torch.
        """
        ties: dict[int, Ownership[TorchBackend]] = self.__dict__.get("_ties", {})
        for key, tie in list(ties.items()):
            table: object = tie.table
            if type(table) is not torch.nn.Parameter:
                continue
            if id(table) in made_plain:
                del ties[key]
            elif become_table(table):
                tie.regain()

    # ------------------------------------------------------------------ steps

    def step(self, closure: Any = None) -> Any:
        """One step; as torch's, with `closure` called with gradients enabled."""
        if torch.compiler.is_compiling():
            return self._step_outside_graph(closure)
        if closure is None and not is_watched(self):
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
        without_torch_functions(self._take_tables)  # before the lock is taken: another owner takes its own
        step = partial(without_torch_functions, self._step)  # or each look at a table's `grad` would go through Python
        if self.lock is None:
            step()
        else:
            self.lock.holding(step)
        return loss

    def _take_tables(self) -> None:
        """Own the tables that have gradients, also such as became tables, or came into the groups, without our being told."""
        self._take_back()
        for group in self.param_groups:
            for table in tables_of(group):
                if table.grad is not None:
                    self.own(table)

    def _step(self) -> None:
        steps: list[tuple[bool, Step]] = []
        dense: list[Tensor] = []
        for group in self.param_groups:
            ready: list[Ready] = []
            core: Optimizer | str | None = None
            for parameter in group["params"]:
                gradient = parameter.grad
                if gradient is None:
                    continue
                tie = self.own(parameter) if isinstance(parameter, TableParameter) else None
                if tie is None:
                    dense.append(parameter)
                    continue
                if core is None:
                    core = self._core_of(group)
                reason = self._prepared(group, core, tie.backend, parameter, gradient)
                if reason:
                    dense.append(self._densely(core, group, tie.backend, parameter, reason))
                else:
                    ready.append(Ready(parameter, tie.backend, gradient, self.held_state[parameter]))
            if not ready:
                continue
            assert isinstance(core, Optimizer)
            for step in clocks.steps(self, core, group, ready, self._backends()):
                if not step.reason:
                    steps.append((group["maximize"], step))
                for table in step.tables:
                    table.parameter.notes.reason_for_dense = ""
                    if step.reason:
                        dense.append(self._densely(core, group, table.backend, table.parameter, step.reason))
                    elif table.backend.engine is not None:
                        clocks.note_step(cast("Any", self), group, table.backend, table.backend.engine.now)
        if dense:
            frozen = [(held, rows, self._held_in(held, rows)) for held in dense if len(rows := frozen_rows(held))]
            (self if self.lock is None else self._partner_for(dense)).torch_step()
            for held, rows, (weights, slots) in frozen:
                held.detach()[rows] = weights
                for name, slot in slots_in(self.held_state[held], held).items():
                    slot[rows] = slots.get(name, 0.0)  # those that the step has made begin at 0
        for maximize, step in steps:
            step.make(maximize)

    def _held_in(self, table: Tensor, rows: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """What rows of a table and of its slots hold."""
        slots = slots_in(self.held_state.get(table, {}), table)
        return table.detach()[rows], {name: slot[rows] for name, slot in slots.items()}

    def _core_of(self, group: Mapping[str, Any]) -> Optimizer | str:
        """The optimizer of the core with the hyperparameters of a group; or why it has none such."""
        try:
            return self.core(**self.hyperparameters(group))
        except (TypeError, ValueError) as error:
            return why_dense(error, self.core)

    def _backends(self) -> list[TorchBackend]:
        ties: dict[int, Ownership[TorchBackend]] = self.__dict__.get("_ties", {})
        return [tie.backend for tie in ties.values()]

    def _prepared(
        self, group: Any, core: Optimizer | str, backend: TorchBackend, table: TableParameter, gradient: Tensor
    ) -> str:
        """Why the step of a table has to be dense, or nothing if the step of its rows is prepared."""
        if isinstance(gradient, RowGradient):
            if gradient.content.source is None and gradient.ids is None:
                reason = gradient.content.reason or "a function that does not leave 0 at 0"
                return f"{reason} had the memory of its gradient. Work on `gradient.clone()`, or use elementwise functions"
        elif not (gradient.is_sparse and gradient.sparse_dim() == 1):
            return table.notes.reason_for_dense or AS_A_WHOLE
        return core if isinstance(core, str) else backend.prepare(group, core, self.held_state[table])

    def _densely(
        self, core: Optimizer | str, group: Mapping[str, Any], backend: TorchBackend, table: TableParameter, reason: str
    ) -> Tensor:
        """The table, ready for a step that torch's own code makes."""
        gradient = table.grad
        assert gradient is not None
        if not (gradient.is_sparse and gradient.sparse_dim() != 1):  # of single numbers, as torch takes it
            table.grad = as_dense(gradient)
        backend.hand_over()  # an error would leave everything as it was
        clocks.note_dense_step(cast("Any", self), core, group, backend, self.held_state.get(table, {}))
        self._tell(table, backend, reason, gradient)
        return table

    def _tell(self, table: TableParameter, backend: TorchBackend, reason: str, gradient: Tensor) -> None:
        """Warn of a dense step, but not of one whose lookups came before the table was owned."""
        backend.dense_steps += 1
        surprising = isinstance(gradient, RowGradient) or gradient.is_sparse or backend.dense_steps > 1
        if surprising and reason != ASKED_FOR:
            name, (why, _, remedy) = f"A table of shape {tuple(table.shape)}", reason.rpartition(". ")
            warn_of_dense_training(table.notes, name, why, f"{remedy}.", stacklevel=11)
        table.notes.reason_for_dense = reason

    def _partner_for(self, dense: list[Tensor]) -> RowOptimizer:
        """This optimizer as it would be with these parameters alone: the same state, the same hyperparameters."""
        kept = {id(parameter) for parameter in dense}
        groups = [
            {**group, "params": [parameter for parameter in group["params"] if id(parameter) in kept]}
            for group in self.param_groups
        ]
        return self.partner(groups, self.held_state)

    def partner(self, groups: list[dict[str, Any]], state: dict[Any, Any]) -> RowOptimizer:
        """This optimizer as it would be with these parameter groups and this state, for torch's own steps."""
        partner = object.__new__(type(self))
        partner.__dict__.update({**self.__dict__, "_in_torchs_code": True, "param_groups": groups, "state": state})
        return partner

    def torch_step(self) -> None:
        """Torch's own step, without the hooks, which run around ours."""
        order = type(self).__mro__
        unhooked(order[order.index(RowOptimizer) + 1].step)(self)  # type: ignore[attr-defined]

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

    # ------------------------------------------------------------------ state

    @property
    def held_state(self) -> dict[Any, Any]:
        """The state as it is, of which rows may have deferred steps."""
        found: dict[Any, Any] = self.__dict__["state"]
        return found

    @property
    def state(self) -> Any:
        """As torch's, settled. Whoever asks for it may also write it: the next step goes on from what it then holds."""
        if self.lock is not None and not self._in_torchs_code:
            self.hand_over()
        return self.held_state

    @state.setter
    def state(self, given: Any) -> None:
        self.__dict__["state"] = given

    def hand_over(self) -> None:
        """Bring weights and state of all tables to what torch's optimizer would hold."""
        without_torch_functions(self._hand_over)

    def _hand_over(self) -> None:
        owned = self._owned()
        for tie in owned:
            tie.backend.require_intact()
        for tie in owned:
            tie.backend.hand_over()

    def state_dict(self) -> dict[str, Any]:
        """As torch's, with all rows settled: it loads into torch's own optimizer, which goes on as this would."""
        self.hand_over()
        found: dict[str, Any] = super().state_dict()
        for number, table, shards in self._sharded(found):
            held = found["state"].get(number, {})
            rows = slots_in(held, table)
            if rows:
                found["state"][number] = {**held, **{name: shards.as_whole(slot) for name, slot in rows.items()}}
        return found

    def _sharded(self, state_dict: Mapping[str, Any]) -> Iterator[tuple[Any, TableParameter, OtherShards]]:
        """The tables whose rows are spread over processes, with their numbers in a state, and what knows the other shards."""
        for saved, group in zip(state_dict["param_groups"], self.param_groups, strict=False):
            for number, table in zip(saved["params"], group["params"], strict=False):
                shards = table.other_shards if isinstance(table, TableParameter) else None
                if shards is not None:
                    yield number, table, shards

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As torch's, also from torch's own optimizer. It shares no memory with what is given."""
        state = dict(state_dict["state"])
        for number, _, shards in self._sharded(state_dict):
            held = state.get(number, {})
            rows = {name: slot for name, slot in held.items() if isinstance(slot, Tensor) and slot.dim() == 2}
            if rows:
                state[number] = {**held, **{name: shards.own_rows(slot, name) for name, slot in rows.items()}}
        for tie in self._owned():
            tie.backend.forget()
        super().load_state_dict({**state_dict, "state": copy.deepcopy(state)})

    def __getstate__(self) -> dict[str, Any]:
        self.hand_over()
        state: dict[str, Any] = super().__getstate__()
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        for group in self.param_groups:  # of a copy, that tables copied with it have yet to know
            for table in tables_of(group):
                if table.ownership is None:
                    self.own(table)


def tables_of(group: Mapping[str, Any]) -> list[TableParameter]:
    """The table parameters of a group."""
    return [parameter for parameter in group["params"] if isinstance(parameter, TableParameter)]


def frozen_rows(parameter: Tensor) -> Tensor:
    """The numbers of the frozen rows of a table; none of any other parameter."""
    rows = parameter.frozen_rows if isinstance(parameter, TableParameter) else np.empty(0, np.int64)
    return torch.from_numpy(rows).to(parameter.device)


def as_dense(gradient: Tensor) -> Tensor:
    """The gradient as a dense tensor, which has its memory if it is one already."""
    if isinstance(gradient, RowGradient):
        return gradient.content.write("a step")
    return gradient.to_dense() if gradient.is_sparse else gradient


_step_observed: Any = torch.optim.Optimizer.profile_hook_step(RowOptimizer._step_with)


def _observed_step(optimizer: RowOptimizer, closure: Any) -> Any:
    """A step with what watches it: hooks are told what `step` was given."""
    return _step_observed(optimizer) if closure is None else _step_observed(optimizer, closure)


def unhooked(step: Any) -> Any:
    """A class's own `step`, without what torch has wrapped it in."""
    while getattr(step, "hooked", False):
        step = step.__wrapped__
    return step
