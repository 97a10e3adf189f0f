"""Tables on Keras's PyTorch backend: the parameter and the engine of `unhot.torch`, on the memory of Keras's variables."""

from __future__ import annotations

import functools
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, cast

import keras
import torch
from torch import Tensor

from unhot.atomic import Lock
from unhot.clock import Hyper
from unhot.engine import Engine, clock_of
from unhot.keras.backend import Function, KerasBackend, Owner, RowGradient
from unhot.keras.kinds import Gradient, Option, Variable
from unhot.keras.kinds import Tensor as Number
from unhot.keras.settled import Settled
from unhot.kernels.structs import Segment
from unhot.optimizers import Optimizer
from unhot.store import Store
from unhot.torch._private import is_fake, without_torch_functions
from unhot.torch.backend import DTYPES, TorchBackend, dtype_of
from unhot.torch.clocks import make_step
from unhot.torch.gradient import RowGradient as RowsOfTorch
from unhot.torch.gradient_content import coalesced
from unhot.torch.held_state import steps_made
from unhot.torch.lookup import owned_lookup, owner_of
from unhot.torch.parameter import TableParameter
from unhot.training import Ownership


class TableVariable(keras.Variable):  # type: ignore[misc]
    """The variable of a table, whose value is a `TableParameter`: settled for all who use it."""

    _value: Tensor

    def _initialize(self, value: Number) -> None:
        super()._initialize(value)
        made = self._value
        if made.dtype in DTYPES and made.device.type != "meta":
            self._value = TableParameter(made.detach(), made.requires_grad)


class SlotVariable(Settled, keras.Variable):  # type: ignore[misc]
    """A slot of a table."""

    training: TorchKerasBackend | None = None


def _owned_lookup(weight: TableParameter, ids: Tensor) -> Tensor | None:
    training = owner_of(weight, None)
    return None if training is None else owned_lookup(weight, training, ids, -1, None, 2.0, False)


class _Slots:
    """What `TorchBackend` asks of an optimizer: the state of a parameter, which here lies in Keras's variables."""

    def __init__(self) -> None:
        self.held_state: dict[Any, Any] = {}
        self.tie: Any = None


class TorchKerasBackend(TorchBackend, KerasBackend):
    """A table and the optimizer that owns it."""

    FEWEST_ROWS = 0
    EAGER = True

    TABLE_VARIABLE = TableVariable
    SLOT_VARIABLE = SlotVariable

    _hyper: Hyper

    # ------------------------------------------------------------------ tables and lookups

    @staticmethod
    def is_table(variable: Variable) -> bool:
        return isinstance(getattr(variable, "_value", None), TableParameter)

    @staticmethod
    def ownable(variable: Variable) -> TableParameter:
        """What knows whose the table is: on PyTorch, the parameter."""
        parameter: TableParameter = variable._value
        return parameter

    @staticmethod
    def look_up(variable: Variable, ids: Tensor) -> Tensor | None:
        weight = getattr(variable, "_value", None)
        if type(weight) is not TableParameter or ids.device.type == "meta":
            return None
        return without_torch_functions(_owned_lookup, weight, ids)

    @staticmethod
    def concrete(ids: Tensor) -> Number:
        if torch.compiler.is_compiling() or ids.device.type == "meta" or is_fake(ids):
            return None
        return ids.detach().cpu().numpy()

    @staticmethod
    def check_optimizer(optimizer: Optimizer, variable: Variable) -> None:
        clock_of(optimizer, dtype_of(variable._value), variable.shape[0])

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
            table = optimizer.table(variable)
            if isinstance(gradient, RowsOfTorch) and table is not None:
                ids, values = gradient.ids, gradient.values
                gradient = gradient.content.write("a step") if ids is None else RowGradient(ids, values, table)
            found.append(gradient)
        return found

    # ------------------------------------------------------------------ one table and its optimizer

    def __init__(self, variable: Variable, slots: Mapping[str, SlotVariable], optimizer: Owner) -> None:
        self.variable, self._slots = variable, slots
        source: Option = _Slots()
        # Held by the optimizer alone: once it is gone, so is the table's owner.
        optimizer.__dict__.setdefault("_sources", []).append(source)
        super().__init__(source, Lock())

    def tied(self, tie: Ownership[Any]) -> None:
        self.tie = weakref.ref(tie)

    def resume(self) -> None:
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
        without_torch_functions(self._prepare_step, optimizer, variable, rate)

    def _prepare_step(self, optimizer: Owner, variable: Variable, rate: Number) -> None:
        clock = int(optimizer.iterations)
        if clock < 0:
            steps_made(clock, "the optimizer's `iterations`")
        core = optimizer.row_optimizer(variable, float(rate))
        engine = self._current()
        if engine is not None and engine.now != clock:
            self.hand_over()
            engine = None
        if engine is None:
            self.engine = engine = self._on_variables(core, clock, optimizer.row_state())
        self._hyper = engine.begin_step(core)

    def make_step(self, gradient: RowGradient, rate: Number) -> None:
        without_torch_functions(self._step_rows, gradient.ids, gradient.values)

    def _step_rows(self, ids: Tensor, values: Tensor) -> None:
        named, rows = self.in_memory(ids, values)
        make_step(self, [named], [Segment(self.place, rows)], self._hyper)
        self.tell_written()

    def _on_variables(self, core: Optimizer, now: int, state: Mapping[str, Number]) -> Engine:
        """An engine on the memory of Keras's variables."""
        snapshot, clock = clock_of(core, dtype_of(self._weights), len(self._weights), set(self._slots))
        begun: dict[str, Any] = {"momentum_begun": 1.0, "largest_beta": 0.0, "rate": core.learning_rate}
        clock.load_state(begun | {name: float(value) for name, value in state.items()})
        slots = [self.memory.row_view(self._slots[name]._value.detach()) for name in clock.slots]
        store = Store(self.memory.row_view(self._weights), tuple(slots))
        return Engine([store], snapshot, clock, now, self.memory.kernels)
