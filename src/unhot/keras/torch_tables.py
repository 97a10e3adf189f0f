"""Tables on Keras's PyTorch backend: the parameter and the engine of `unhot.torch`, on the memory of Keras's variables."""

from __future__ import annotations

import functools
import weakref
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property, partial
from typing import Any, cast

import keras
import numpy as np
import torch
from torch import Tensor

from unhot.atomic import Lock, together
from unhot.clock import Clock, Hyper
from unhot.engine import Engine
from unhot.keras._private import raw, stateless_scope
from unhot.keras.backend import Function, KerasBackend, Owner, Reason, RowGradient
from unhot.keras.combiners import Wanted
from unhot.keras.kinds import Gradient, Layer, Option, Variable
from unhot.keras.kinds import Tensor as Number
from unhot.keras.settled import Settled
from unhot.keras.torch_growth import put
from unhot.kernels.structs import Segment
from unhot.optimizers import Optimizer
from unhot.settling import clock_of
from unhot.store import numbered
from unhot.torch._private import is_fake, is_hooked, is_transformed, without_torch_functions
from unhot.torch.backend import DTYPES, TorchBackend
from unhot.torch.clocks import make_step
from unhot.torch.collection_lookup import Feature, joint_lookup
from unhot.torch.gradient import RowGradient as RowsOfTorch
from unhot.torch.gradient_content import Bagged, coalesced
from unhot.torch.held_state import steps_made
from unhot.torch.lookup import DATA_PARALLEL, hidden_from_compiler, lookup, of_those, owned_lookup, owner_of
from unhot.torch.parameter import TableParameter
from unhot.torch.placement import Host
from unhot.torch.rooms import dtype_of
from unhot.training import Ownership


class TableVariable(keras.Variable):  # type: ignore[misc]
    """The variable of a table, whose value is a `TableParameter`: settled for all who use it."""

    _value: Tensor

    frozen_rows = np.empty(0, np.int64)

    why_dense = ""
    """Why the last lookup was torch's own, where something else than the layer decides that."""

    def _initialize(self, value: Number) -> None:
        super()._initialize(value)
        made = self._value
        if made.dtype in DTYPES and made.device.type != "meta":
            self._value = TableParameter(made.detach(), made.requires_grad)


class SlotVariable(Settled, keras.Variable):  # type: ignore[misc]
    """A slot of a table."""

    training: TorchKerasBackend | None = None


def _owned_lookup(variable: TableVariable, weight: TableParameter, ids: Tensor) -> Tensor | None:
    hidden = hidden_from_compiler(weight, None)
    if hidden is not None:
        return hidden.outside_graph(lookup, ids, weight)
    if weight.ownership is None:
        return None
    weight.notes.reason_for_dense = ""  # which Keras's own lookup overwrites, as that of a layer made with sparse=False
    training = owner_of(weight, None)
    if training is None:
        variable.why_dense = weight.notes.reason_for_dense
        return None
    return owned_lookup(weight, training, ids, -1, None, 2.0, False)


def _looked_up_together(weights: Sequence[TableParameter], wanted: Sequence[Wanted]) -> Tensor | None:
    if any(is_fake(each.ids) or each.ids.device.type != "cpu" for each in wanted):
        return None
    found = joint_lookup(list(map(_feature, weights, wanted)), concatenated=True)
    assert not isinstance(found, tuple)
    return found


def _feature(weight: TableParameter, wanted: Wanted) -> Feature:
    ids, combiner, kept = wanted
    if combiner is None:
        return Feature("", weight, ids, ids.shape)
    flat, starts = ids.reshape(-1), torch.arange(wanted.shape.numel() + 1, device=ids.device) * ids.size(-1)
    if kept is not None:
        flat, starts, _ = of_those(kept.reshape(-1), flat, starts)
    return Feature("", weight, flat, wanted.shape, starts, combiner)


IN_DATA_PARALLEL = (
    "DistributedDataParallel exchanges dense gradients. `unhot.torch` has layers that do without, for PyTorch's own modules"
)


def _tell_why_dense(variable: Variable, backend: KerasBackend) -> None:
    """Note a dense gradient's reason, if its lookups were torch's own for one that the user does not know."""
    table = cast("TableVariable", variable)
    reason, table.why_dense = table.why_dense, ""
    if reason:
        why, _, remedy = (IN_DATA_PARALLEL if reason == DATA_PARALLEL else reason).rpartition(". ")
        backend.note_dense_step(Reason(why, f"{remedy}."))


class _Slots:
    """What `TorchBackend` asks of an optimizer: the state of a parameter, which here lies in Keras's variables."""

    def __init__(self) -> None:
        self.held_state: dict[Any, Any] = {}
        self.tie: Any = None
        self.lock = Lock()


class PooledGradient(RowGradient):
    """The gradient of rows that were pooled. That of each id is made for those who ask for it, which a step does not."""

    def __init__(self, bagged: Bagged, table: TorchKerasBackend) -> None:
        vars(self).update(ids=bagged.ids, bagged=bagged, table=table)

    bagged: Bagged

    @cached_property
    def values(self) -> Tensor:
        return self.bagged.expanded().values

    @property
    def dtype(self) -> torch.dtype:
        return self.bagged.values.dtype


class TorchKerasBackend(TorchBackend, KerasBackend):
    """A table and the optimizer that owns it."""

    FEWEST_ROWS = 0
    EAGER = True

    TABLE_VARIABLE = TableVariable
    SLOT_VARIABLE = SlotVariable

    hyper: Hyper
    """The hyperparameters of the step that was prepared."""

    decays = False
    """Whether the weights decay in that step."""

    # ------------------------------------------------------------------ tables and lookups

    @staticmethod
    def is_table(variable: Variable) -> bool:
        return isinstance(getattr(variable, "_value", None), TableParameter)

    @staticmethod
    def ownable(variable: Variable) -> TableParameter:
        """What knows whose the table is: on PyTorch, the parameter."""
        parameter: TableParameter = raw(variable)
        return parameter

    @staticmethod
    def look_up(variable: Variable, ids: Tensor) -> Tensor | None:
        weight = getattr(variable, "_value", None)
        if type(weight) is not TableParameter or ids.device.type == "meta":
            return None
        scope = stateless_scope()
        if scope is not None and scope.get_current_value(variable) is not None:
            return None  # it is another value that is looked up
        return without_torch_functions(_owned_lookup, variable, weight, ids)

    @staticmethod
    def is_hooked(layer: Layer) -> bool:
        return is_hooked(layer)

    @staticmethod
    def joint_lookup(variables: Sequence[Variable]) -> Callable[[Sequence[Wanted]], Tensor | None] | None:
        weights: list[Any] = [getattr(variable, "_value", None) for variable in variables]
        if torch.compiler.is_compiling() or is_transformed() or stateless_scope() is not None:
            return None
        return partial(_looked_up_together, weights) if all(type(weight) is TableParameter for weight in weights) else None

    @staticmethod
    def concrete(ids: Tensor) -> Number:
        if torch.compiler.is_compiling() or ids.device.type == "meta" or is_fake(ids):
            return None
        return ids.detach().cpu().numpy()

    @staticmethod
    def check_optimizer(optimizer: Optimizer, variable: Variable) -> None:
        clock_of(optimizer, dtype_of(raw(variable)), variable.shape[0])

    put = staticmethod(put)

    reason_for_dense = KerasBackend.reason_for_dense  # type: ignore[assignment]  # that of `TorchBackend` is of its optimizers

    # ------------------------------------------------------------------ an optimizer

    @staticmethod
    def wrap_apply(function: Function) -> Function:
        """The function, at which `torch.compile` breaks its graph: it cannot trace what settles and steps rows."""
        disable: Option = torch.compiler.disable
        hidden = disable(function, reason="unhot settles and steps rows outside graphs")

        def outside(*args: Option, **kwargs: Option) -> None:
            # Where nothing is compiled, the way through `hidden` takes longer.
            (hidden if torch.compiler.is_compiling() else function)(*args, **kwargs)

        return cast("Function", functools.wraps(function)(outside))

    @staticmethod
    def row_gradients(optimizer: Owner, gradients: list[Gradient], variables: list[Variable]) -> list[Gradient]:
        found = []
        for gradient, variable in zip(gradients, variables, strict=True):
            table: Any = optimizer.table(variable)
            if isinstance(gradient, RowsOfTorch) and table is not None:
                source = gradient.content.source
                bagged = None if source is None or not isinstance(table.memory, Host) else source.bagged()
                if bagged is not None:
                    gradient = PooledGradient(bagged, table)
                elif gradient.ids is not None:
                    gradient = RowGradient(gradient.ids, gradient.values, table)
                else:
                    gradient = gradient.content.write("a step")
            elif table is not None and gradient is not None:
                _tell_why_dense(variable, table)
            found.append(gradient)
        return found

    # ------------------------------------------------------------------ one table and its optimizer

    def __init__(self, variable: Variable, slots: Mapping[str, SlotVariable], optimizer: Owner) -> None:
        self.variable, self._slots = variable, slots
        source: Option = _Slots()
        # Held by the optimizer alone: once it is gone, so is the table's owner.
        sources = optimizer.__dict__.setdefault("_sources", [])
        sources.append(source)
        super().__init__(source, sources[0].lock)  # one for all tables, since they may share an engine

    def tied(self, tie: Ownership[Any]) -> None:
        self.tie = weakref.ref(tie)

    def resume(self) -> None:
        self._pointer = -1  # whatever the parameter has become in the meantime
        for slot in self._slots.values():
            slot.training = self

    def restart(self, optimizer: Owner) -> None:
        self.hand_over()

    def summed(self, gradient: RowGradient) -> RowGradient:
        """The same gradient with the sum of an id's in one place."""
        return RowGradient(*coalesced(gradient.ids, gradient.values), self)

    def dense_gradient(self, ids: Tensor, values: Tensor) -> Tensor:
        self.hand_over()
        return torch.zeros(self.variable.shape, dtype=values.dtype, device=values.device).index_add_(0, ids, values)

    @contextmanager
    def dense_step(self, optimizer: Owner, rate: Number) -> Iterator[None]:
        """Around a step that Keras makes, of the whole table or without it; the next step by rows starts from its variables."""
        self.hand_over()
        yield

    def prepare_step(self, optimizer: Owner, variable: Variable, rate: Number) -> None:
        without_torch_functions(_prepare_steps, optimizer, {self: variable}, rate)

    @staticmethod
    def prepare_steps(optimizer: Owner, tables: Mapping[Any, Variable], rate: Number) -> None:
        without_torch_functions(_prepare_steps, optimizer, tables, rate)

    def make_step(self, gradient: RowGradient, rate: Number) -> None:
        without_torch_functions(_make_steps, [gradient])

    @staticmethod
    def make_steps(gradients: Sequence[RowGradient], rate: Number) -> None:
        without_torch_functions(_make_steps, gradients)

    def slots_of(self, clock: Clock) -> tuple[Any, ...]:
        """The memory of Keras's slots, in the order of the clock's."""
        return tuple(self.memory.row_view(raw(self._slots[name]).detach()) for name in clock.slots)

    @property
    def slot_names(self) -> frozenset[str]:
        """The slots that Keras has."""
        return frozenset(self._slots)


def _prepare_steps(optimizer: Owner, tables: Mapping[TorchKerasBackend, Variable], rate: Number) -> None:
    """Give the tables the hyperparameters of a step; those that begin it from the same point share an engine."""
    now = int(optimizer.iterations)
    if now < 0:
        steps_made(now, "the optimizer's `iterations`")
    cores: dict[bool, Optimizer] = {}
    members = Counter(id(table._current()) for table in tables)
    new: dict[tuple[Any, ...], list[TorchKerasBackend]] = {}
    for table, variable in tables.items():
        decays = optimizer.decays(variable)
        if decays not in cores:
            cores[decays] = optimizer.row_optimizer(variable, float(rate))
        engine = table.engine
        if engine is not None and (
            engine.now != now or table.decays != decays or members[id(engine)] < sum(store.rows > 0 for store in engine.stores)
        ):
            table.hand_over()
        table.decays = decays
        if table.engine is None:
            alone = () if isinstance(table.memory, Host) else (id(table),)  # its kernels take one table at a time
            new.setdefault((decays, table._weights.dtype, *alone), []).append(table)
    for (decays, *_), begun in new.items():
        _bind(begun, cores[decays], now, optimizer.row_state())
    hypers: dict[int, Hyper] = {}
    for table in tables:
        engine = table.engine
        assert engine is not None
        if id(engine) not in hypers:
            hypers[id(engine)] = engine.begin_step(cores[table.decays])
        table.hyper = hypers[id(engine)]


def _bind(tables: Sequence[TorchKerasBackend], core: Optimizer, now: int, state: Mapping[str, Number]) -> None:
    """Make an engine on the memory of Keras's variables."""
    weights = [table.weights_array() for table in tables]
    first = tables[0]
    snapshot, clock = clock_of(core, dtype_of(first._weights), sum(map(len, weights)), first.slot_names)
    begun: dict[str, Any] = {"momentum_begun": 1.0, "largest_beta": 0.0, "rate": core.learning_rate}
    clock.load_state(begun | {name: float(value) for name, value in state.items()})
    states = [(array, table.slots_of(clock)) for array, table in zip(weights, tables, strict=True)]
    engine = Engine(numbered(states), snapshot, clock, now, first.memory.kernels)
    frozen = [table.variable.frozen_rows + store.first for table, store in zip(tables, engine.stores, strict=True)]
    if any(map(len, frozen)):
        engine.freeze(first.memory.of_host(np.concatenate(frozen)))
    together([partial(table.__dict__.update, engine=engine, place=place) for place, table in enumerate(tables)])


def _make_steps(gradients: Sequence[RowGradient]) -> None:
    """The steps that were prepared, those of tables that share an engine in one call."""
    by_engine: dict[int, list[tuple[TorchKerasBackend, RowGradient]]] = {}
    for gradient in gradients:
        table = cast("TorchKerasBackend", gradient.table)
        by_engine.setdefault(id(table.engine), []).append((table, gradient))
    for members in by_engine.values():
        first = members[0][0]
        ids, segments = [], []
        for table, gradient in members:
            values, *of_bags = gradient.bagged[1:] if isinstance(gradient, PooledGradient) else (gradient.values,)
            named, rows = table.in_memory(gradient.ids, values)
            ids.append(table.numbered(named))
            segments.append(Segment(table.place, rows, *(None if x is None else table.memory.view(x) for x in of_bags)))
        first.lock.holding(partial(make_step, first, ids, segments, first.hyper))
        for table, _ in members:
            table.tell_written()
